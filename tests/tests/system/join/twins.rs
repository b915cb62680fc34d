//! Leave to destroy, and a twin: a machine with the same UUID and serials, whose disk has the same serial, the same size and
//! the same bytes. What is permitted for one is void for the other, however it comes there.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Result, ensure};
use muster_protocol::Digest;
use muster_tests::disks;
use muster_tests::lab::{Lab, text};
use muster_tests::qemu::{Disk, DiskKind};
use serde_json::{Value, json};

use crate::disks::dangers::{Target, why};

const DOCUMENT: &str = "storage: {disks: [{device: 'serial:SAME', wipe_table: true, partitions: [{label: new}]}]}\n";

/// The disk that each of them has.
pub(super) fn disk() -> Disk {
    Disk::new(DiskKind::Virtio, "SAME", 64)
}

/// Writes what is on it.
pub(super) fn fill(image: &Path) -> Result<()> {
    File::create(image)?.set_len(disk().size_mib << 20)?;
    disks::scribble(image)
}

/// Both are online, and their disks are in these images.
pub(super) fn share_no_permit(lab: &Lab, machines: [&Value; 2], images: [&Path; 2]) -> Result<()> {
    let target = |machine| anyhow::Ok(Target { lab, name: text(machine, "/name")?, id: text(machine, "/id")? });
    let [one, other] = [target(machines[0])?, target(machines[1])?];
    let fingerprint = |image: &Path| anyhow::Ok(Digest::of(&fs::read(image)?));
    let before = fingerprint(images[1])?;
    ensure!(fingerprint(images[0])? == before, "the same to the bit");

    // Word for word the same would be lost, on two machines.
    let [seen, same] = [one.plan(DOCUMENT)?, other.plan(DOCUMENT)?];
    ensure!(seen["steps"] == same["steps"] && seen["destroys"] == json!(["serial:SAME"]), "{seen} and {same}");
    ensure!(seen["digest"] != same["digest"], "{seen}");
    let permit = json!({ "plan": seen["digest"], "disks": seen["destroys"] });
    let is_void = |ended: &Value| {
        ensure!(ended["state"] == "failed", "{ended}");
        for words in ["given for another machine", "muster plan", "--permit-destroy=serial:SAME"] {
            ensure!(why(ended).contains(words), "{words}: {ended}");
        }
        ensure!(fingerprint(images[1])? == before, "nothing was written");
        anyhow::Ok(())
    };
    // The controller believes no permit and judges none: it pushes whatever it is given, as one would that is not ours.
    is_void(&other.apply(DOCUMENT, Some(&permit))?)?;
    // Somebody permits what was shown of a name, and by then it is the other's.
    let rename = |id: &str, name: &str| lab.controller.muster(&["machine", "rename", id, name]);
    rename(one.id, "kitchen")?;
    let by_name = |id| Target { id, ..one };
    let shown = by_name("kitchen").plan(DOCUMENT)?;
    ensure!(shown["digest"] == seen["digest"], "{shown}");
    rename(one.id, "cellar")?;
    rename(other.id, "kitchen")?;
    is_void(&by_name("kitchen").apply(DOCUMENT, Some(&permit))?)?;

    // It was a good one, where it was given, and its use makes it no better for the other.
    let ended = one.apply(DOCUMENT, Some(&permit))?;
    ensure!(ended["state"] == "succeeded" && disks::partitions(images[0])?.len() == 1, "{ended}");
    is_void(&other.apply(DOCUMENT, Some(&permit))?)?;
    // Nothing but the permit was wrong.
    let permit = json!({ "plan": same["digest"], "disks": same["destroys"] });
    let ended = other.apply(DOCUMENT, Some(&permit))?;
    ensure!(ended["state"] == "succeeded" && disks::partitions(images[1])?.len() == 1, "{ended}");
    Ok(())
}
