//! Which disks get an image.
//!
//! Called by `plan_all`; pure. An image that is there is known by the GUID of its disk, which is made of the image's digest
//! and its seed: what its operating system has made of it since is its own affair, and nothing is written again.

pub(super) mod start;

use muster_protocol::desired::{DiskSelect, Image, Seed, Storage, Table, unfinished};
use muster_protocol::observed::{Contents, Disk};
use muster_protocol::{Digest, DiskId};
use serde::Serialize;

use super::choose::{choose, selected};
use super::{Before, Step, in_words, line, size};
use crate::plan::Impossible;

/// What is a part of something larger, by the names of what cannot be read any further.
const MEMBERS: [&str; 3] = ["linux_raid_member", "LVM2_member", "crypto_LUKS"];

/// An image that is to be written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Written {
    /// SHA-256 of the file that the controller made it from.
    pub digest: Digest,
    /// The disk's GUID afterwards.
    pub guid: [u8; 16],
    /// What is told to its operating system.
    pub seed: Option<Seed>,
}

impl Written {
    /// Whether something is lost that is not this very image, cut off.
    pub(super) fn destroys(&self, before: &Before) -> bool {
        before.contents != Contents::Blank && before.contents != Contents::Signature(unfinished(self.guid))
    }

    /// For people and permits.
    pub(super) fn action(&self, disk: &DiskId, before: &Before) -> String {
        let seed = if self.seed.is_some() { ", place a NoCloud seed" } else { "" };
        format!(
            "write disk image {} to {disk} ({}, {}), grow its last partition{seed}",
            &self.digest.to_string()[..16],
            size(before.size_bytes),
            in_words(&before.contents, &before.partitions)
        )
    }
}

/// What is to be written, in the order of the document.
pub(super) fn plan(desired: &Storage, observed: &[Disk]) -> Result<Vec<Step>, Impossible> {
    let mut steps = Vec::new();
    if desired.images.is_empty() {
        return Ok(steps);
    }
    let mut taken: Vec<&Disk> = choose(desired, observed)?.0.iter().map(|chosen| chosen.have).collect();
    for (i, image) in desired.images.iter().enumerate() {
        let field = match &image.select {
            DiskSelect::Rule(_) => format!("{}.match", desired.image_field(i)),
            _ => desired.image_field(i),
        };
        let impossible = |problem| Impossible { field: field.clone(), problem };
        for (id, have) in selected(&image.select, observed).map_err(impossible)? {
            if taken.iter().any(|other| std::ptr::eq(*other, have)) {
                return Err(impossible(format!("{} is described twice; describe it once", line(have))));
            }
            taken.push(have);
            steps.extend(plan_one(image, id, have).map_err(impossible)?);
        }
    }
    Ok(steps)
}

fn plan_one(image: &Image, id: DiskId, have: &Disk) -> Result<Option<Step>, String> {
    let guid = image.guid();
    if have.contents == (Contents::Gpt { guid }) {
        return Ok(None);
    }
    if !have.held.is_empty() {
        return Err(format!("{} may not be written to: {}", line(have), have.held));
    }
    let mounted = have.partitions.iter().map(|p| &p.contents).chain([&have.contents]);
    if let Some(path) = mounted.filter_map(Contents::mounted_at).next() {
        return Err(format!("{} is in use at {path}; apply a document without that first", line(have)));
    }
    let stacked = |found: &&Contents| match found {
        Contents::Raid(_) | Contents::Lvm(_) | Contents::Luks(_) => true,
        // No more of it can be read.
        Contents::Signature(name) => MEMBERS.contains(&name.as_str()),
        _ => false,
    };
    if let Some(found) = have.partitions.iter().map(|p| &p.contents).chain([&have.contents]).find(stacked) {
        let found = in_words(found, &[]);
        return Err(format!(
            "{} carries {found}, which may be in use or have parts on other disks; wipe the disk first, with muster \
             machine wipe",
            line(have)
        ));
    }
    let image_there = Written { digest: image.digest, guid, seed: image.seed.clone() };
    let before = Before::of(have);
    if image_there.destroys(&before) && image.table == Table::Keep {
        let there = in_words(&have.contents, &have.partitions);
        return Err(format!(
            "{} carries {there}; to lose it and have this image, or the same one with another seed, say wipe_table: true",
            line(have)
        ));
    }
    Ok(Some(Step::Image { disk: id, before, image: image_there }))
}
