//! Arrays of Linux md, by mdadm.
//!
//! An array is made under the name [`UNFINISHED`], and gets its own when all its superblocks are on the medium. mdadm writes
//! a name one member after the other: an array is whole when no member bears the mark any more.
//! Nothing is on it before that, so one that is half made may be made anew.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use muster_protocol::observed::md_uuid;

use super::{UNFINISHED, clear, named, settle};
use crate::linux::modules;
use crate::linux::storage::disks::{Disks, Node};
use crate::linux::tools::run_alone;
use crate::machine::MachineError;

/// An array that is to be made.
#[derive(Debug, Clone, Copy)]
pub struct New<'a> {
    /// What it is called, also below /dev/md.
    pub name: &'a str,
    /// In the byte order in which mdadm prints it.
    pub uuid: [u8; 16],
    /// As mdadm spells it: `raid0`, `raid1`, `raid5`, `raid6`, `raid10`.
    pub level: &'a str,
    /// The last so many members are spares.
    pub spares: usize,
    /// More words for mdadm.
    pub options: &'a [String],
}

/// Makes an array of these devices, and runs it. All that they carry is lost.
pub fn create(disks: &Disks, new: &New<'_>, members: &[Node]) -> Result<(), MachineError> {
    make(disks, new, members)?;
    finish(disks, new, members)
}

/// Makes it as far as it is whole and bears the mark. It runs.
pub fn make(disks: &Disks, new: &New<'_>, members: &[Node]) -> Result<(), MachineError> {
    load(new.level)?;
    members.iter().try_for_each(|member| clear(disks, member))?;
    let mut words = vec![
        "--create".to_owned(),
        device(new.name),
        // No question is asked, and all members are members at once: mdadm would have a RAID 5 begin as one that lacks its
        // last member, and fill that.
        "--run".to_owned(),
        "--force".to_owned(),
        format!("--level={}", new.level),
        format!("--raid-devices={}", members.len().saturating_sub(new.spares)),
        format!("--uuid={}", md_uuid(&new.uuid)),
        format!("--name={UNFINISHED}"),
    ];
    if new.spares > 0 {
        words.push(format!("--spare-devices={}", new.spares));
    }
    let says = |names: &[&str]| new.options.iter().any(|word| names.iter().any(|name| word.starts_with(name)));
    words.extend((!says(&["--metadata", "-e"])).then(|| "--metadata=1.2".to_owned()));
    if new.level != "raid0" && !says(&["--bitmap", "-b"]) {
        // After a power cut, what was being written is put right and not all of the array.
        words.push("--bitmap=internal".to_owned());
    }
    words.extend(new.options.iter().cloned());
    mdadm(disks, &words, members)?;
    members.iter().try_for_each(|member| settle(disks, member))
}

/// Clears it, gives it its name, and runs it under that.
pub fn finish(disks: &Disks, new: &New<'_>, members: &[Node]) -> Result<(), MachineError> {
    let array = named(Path::new(&device(new.name)))?;
    clear(disks, &array)?;
    // What the members say of themselves can be changed only while nobody writes there.
    stop(disks, &array)?;
    let rename = ["--update=name".to_owned(), format!("--name={}", new.name)];
    assemble_with(disks, new.name, &new.uuid, &rename, members)?;
    members.iter().try_for_each(|member| settle(disks, member))
}

/// Runs an array that is there, also where a member lacks, if the level can do without.
pub fn assemble(disks: &Disks, name: &str, uuid: &[u8; 16], level: &str, members: &[Node]) -> Result<(), MachineError> {
    load(level)?;
    assemble_with(disks, name, uuid, &[], members)
}

fn assemble_with(
    disks: &Disks,
    name: &str,
    uuid: &[u8; 16],
    more: &[String],
    members: &[Node],
) -> Result<(), MachineError> {
    let words = ["--assemble".to_owned(), device(name), "--run".to_owned(), format!("--uuid={}", md_uuid(uuid))];
    mdadm(disks, &[&words, more].concat(), members)
}

/// Stops an array that nobody uses.
pub fn stop(disks: &Disks, array: &Node) -> Result<(), MachineError> {
    program(&["--stop".into(), "--quiet".into()], disks, std::slice::from_ref(array))
}

/// Gives a running array another member: it takes the place of one that lacks, or waits for one to fail. All that it carries
/// is lost.
pub fn add(disks: &Disks, array: &Node, member: &Node) -> Result<(), MachineError> {
    clear(disks, member)?;
    let words = ["--manage".into(), disks.device_path(array).into_os_string(), "--quiet".into(), "--add".into()];
    program(&words, disks, std::slice::from_ref(member))
}

/// Takes a failed member or a spare out of a running array, by its kernel name; its disk may be gone.
pub fn remove(array: &Node, member: &str) -> Result<(), MachineError> {
    let state = array.path.join("md").join(format!("dev-{member}")).join("state");
    let mut removed = fs::write(&state, "remove");
    // The kernel lets go of one that has just failed in a thread of its own.
    for _ in 0..40 {
        match &removed {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => sleep(Duration::from_millis(50)),
            _ => break,
        }
        removed = fs::write(&state, "remove");
    }
    removed.map_err(|source| MachineError::os(format!("take {member} out of the array {}", array.name), source))
}

/// The device of an array of this name.
pub fn device(name: &str) -> String {
    format!("/dev/md/{name}")
}

fn load(level: &str) -> Result<(), MachineError> {
    modules::load(match level {
        "raid4" | "raid5" | "raid6" => "raid456",
        other => other,
    })
}

fn mdadm(disks: &Disks, words: &[String], devices: &[Node]) -> Result<(), MachineError> {
    // Neither a configuration file nor the host's name decides what an array is called.
    let common = ["--quiet", "--config=none", "--homehost=<none>"].map(OsString::from);
    program(&words.iter().map(OsString::from).chain(common).collect::<Vec<_>>(), disks, devices)
}

fn program(words: &[OsString], disks: &Disks, devices: &[Node]) -> Result<(), MachineError> {
    let paths: Vec<_> = devices.iter().map(|node| disks.device_path(node)).collect();
    let args: Vec<_> = words.iter().map(|word| &**word).chain(paths.iter().map(|path| path.as_os_str())).collect();
    run_alone("mdadm", &args)
}
