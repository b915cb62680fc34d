//! Disk images: which disk gets which, and what its operating system is told at its first boot.
//!
//! The words of the seed are cloud-init's, whose NoCloud source reads it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::Problems;
use super::disks::{self, DiskSelect, Table};
use super::storage::Storage;
use crate::ids::{Digest, MachineId};

/// Images of one document.
const IMAGES: usize = 8;
/// Bytes of all texts of all seeds together: a document travels in one message.
const SEEDS: usize = 32 * 1024;

/// What a disk is to hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Which disk; one, and not among those that the document partitions.
    pub select: DiskSelect,
    /// SHA-256 of the file that the controller made the image from.
    pub digest: Digest,
    /// What happens to what is there: nothing, and a disk that is not blank is refused; or it is replaced.
    pub table: Table,
    /// What is told to its operating system.
    pub seed: Option<Seed>,
    /// What the machine starts from once the image is there.
    pub boot: Boot,
}

/// What a machine starts from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Boot {
    /// The agent, as before.
    #[default]
    Agent,
    /// This disk, from the next boot on; the agent again where the machine is in maintenance, or has another document.
    Disk,
}

/// The texts of cloud-init's NoCloud source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seed {
    /// `meta-data`: the instance's id, host name, keys.
    pub meta_data: String,
    /// `user-data`: what is to be done at the first boot.
    pub user_data: String,
    /// `network-config`; empty where the system is left to its own way.
    pub network_config: String,
}

impl Image {
    /// The GUID of the disk that holds this image with this seed: what tells that it is there already.
    pub fn guid(&self) -> [u8; 16] {
        let mut guid = [0; 16];
        let digest = Digest::of_value(&("disk image", self.digest, &self.seed));
        guid.copy_from_slice(&digest.as_bytes()[..16]);
        // Version 8 (RFC 9562): of one's own making.
        guid[6] = guid[6] & 0x0f | 0x80;
        guid[8] = guid[8] & 0x3f | 0x80;
        guid
    }
}

/// How a disk begins that an image is being written to; the GUID of the whole follows.
pub const MARK: &[u8; 16] = b"muster-unwritten";

/// What such a disk is said to carry.
pub fn unfinished(guid: [u8; 16]) -> String {
    format!("unfinished disk image {}", MachineId::from_bytes(guid))
}

impl Storage {
    /// The path of keys of an image in the normalized document.
    pub fn image_field(&self, image: usize) -> String {
        match self.images.get(image).map(|image| &image.select) {
            Some(DiskSelect::Id(id)) => format!("storage.images.{id}"),
            Some(DiskSelect::Path(path)) => format!("storage.images.path:{path}"),
            Some(DiskSelect::Rule(_)) | None => format!("storage.images[{image}]"),
        }
    }
}

pub(super) fn check(storage: &Storage, problems: &mut Problems) {
    problems.at_most("storage.images", storage.images.len(), IMAGES);
    let mut names = BTreeSet::new();
    let mut room = SEEDS;
    for (i, image) in storage.images.iter().enumerate() {
        let field = storage.image_field(i);
        disks::check_select(&field, &image.select, problems);
        match &image.select {
            DiskSelect::Rule(rule) if rule.count != 1 => {
                problems.add(format!("{field}.match.count"), "an image is written to one disk; match one");
            }
            DiskSelect::Rule(_) => {}
            select if !names.insert(format!("{select:?}")) => problems.add(&field, "two images are for this disk"),
            select if storage.disks.iter().any(|disk| disk.select == *select) => {
                problems.add(&field, "this disk is partitioned by the same document; an image brings its own table");
            }
            _ => {}
        }
        let Some(Seed { meta_data, user_data, network_config }) = &image.seed else { continue };
        let texts = [("meta_data", meta_data), ("user_data", user_data), ("network_config", network_config)];
        for (key, text) in texts {
            match room.checked_sub(text.len()) {
                Some(left) => room = left,
                None => {
                    let problem = format!(
                        "all seeds together have at most {} KiB; have the machine fetch the rest: #include in user_data",
                        SEEDS >> 10
                    );
                    problems.add(format!("{field}.seed.{key}"), problem);
                    return;
                }
            }
        }
    }
}
