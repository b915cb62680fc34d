//! Making a filesystem so that a power cut can leave no plausible half of one.
//!
//! Called by `apply`. A program writes in any order, and the kernel writes back in another: a superblock may be on the
//! medium before what it speaks of. So a filesystem gets its label last: what was there is cleared, then it is made
//! with the label [`UNFINISHED`], and only when all of that is on the medium it is called what it is to be called.
//! What a power cut leaves is a partition with cleared ends or an unfinished filesystem, and neither is ever kept.
//! A swap area is one page and is written here, and so is the label of a FAT, in `fat`.

mod fat;

use std::ffi::OsStr;

use muster_protocol::desired::{Format, UNFINISHED, VolumeId};
use muster_protocol::observed::Contents;

use super::device::{Device, Share};
use super::find::{Found, carries_as_planned, differs, find};
use crate::linux::storage::disks::{Disks, Node};
use crate::linux::storage::signatures::{HEAD, TAIL};
use crate::linux::tools::run_alone;
use crate::machine::MachineError;
use crate::plan::storage::{Make, Over, Target, in_words};
use crate::random;

/// [`UNFINISHED`] as a FAT has it.
const UNFINISHED_FAT: &str = "MUSTER-MKFS";

/// Makes one on a device that is as the plan saw it.
pub(super) fn make(disks: &Disks, Over { on, carries }: &Over, make: &Make) -> Result<(), MachineError> {
    let failed = |source| MachineError::os(format!("make {} on {}", make.format.name(), on.in_words()), source);
    let Found { node, size_bytes: size, .. } = find(disks, on)?;
    let device = Device::open(disks, &node, size, Share::Exclusive)
        .map_err(|source| MachineError::os(format!("open {} for itself", on.in_words()), source))?;
    // Only now that nobody else can take it.
    let found = find(disks, on)?;
    if found.node != node || !carries_as_planned(&found.contents, carries) {
        return Err(differs(on, &found.contents));
    }
    let tail = size.min(TAIL as u64);
    device
        .zero(0, HEAD as u64)
        .and_then(|()| device.zero(size - tail, tail))
        .and_then(|()| device.drop_cache())
        .map_err(failed)?;
    match making(make) {
        None => write_swap(&device, make).map_err(failed)?,
        Some(command) => {
            // The programs want the device for themselves, and open it by its name.
            drop(device);
            let path = disks.device_path(&node);
            run_all(&command, path.as_os_str())?;
            on_the_medium(disks, &node, size).map_err(failed)?;
            match make.format {
                Format::Vfat => {
                    let device = Device::open(disks, &node, size, Share::Exclusive).map_err(failed)?;
                    fat::rename(&device, UNFINISHED_FAT, &make.label).map_err(failed)?;
                }
                format => name(format, &make.label, path.as_os_str())?,
            }
            on_the_medium(disks, &node, size).map_err(failed)?;
        }
    }
    is_made(&find(disks, on)?.contents, on, make)
}

fn is_made(contents: &Contents, on: &Target, make: &Make) -> Result<(), MachineError> {
    let is_uuid = |uuid: &str| make.uuid.is_none_or(|wanted| wanted.to_string() == uuid);
    match contents {
        Contents::Filesystem(fs) if fs.kind == make.format.name() && fs.label == make.label && is_uuid(&fs.uuid) => {
            Ok(())
        }
        other => Err(MachineError::ReadBack {
            what: format!("{} on {}", make.format.name(), on.in_words()),
            found: in_words(other, &[]),
        }),
    }
}

fn on_the_medium(disks: &Disks, node: &Node, size: u64) -> std::io::Result<()> {
    Device::open(disks, node, size, Share::WithOwnMounts)?.drop_cache()
}

/// A program and its arguments but for the device, which comes last; `None` for what is written here.
fn making(make: &Make) -> Option<(&'static str, Vec<String>)> {
    let uuid = make.uuid.as_ref().map(VolumeId::to_string);
    let (program, fixed, with_uuid): (_, &[&str], _) = match make.format {
        // -F and -f: they would ask, or refuse, where they see something on the device. We have looked.
        Format::Ext4 => ("mke2fs", &["-q", "-F", "-t", "ext4", "-L", UNFINISHED], uuid.map(|uuid| ["-U".into(), uuid])),
        Format::Xfs => {
            ("mkfs.xfs", &["-q", "-f", "-L", UNFINISHED], uuid.map(|uuid| ["-m".into(), format!("uuid={uuid}")]))
        }
        Format::Btrfs => ("mkfs.btrfs", &["-q", "-f", "-L", UNFINISHED], uuid.map(|uuid| ["-U".into(), uuid])),
        Format::Vfat => ("mkfs.vfat", &["-n", UNFINISHED_FAT], uuid.map(|uuid| ["-i".into(), uuid.replace('-', "")])),
        Format::Swap => return None,
    };
    let fixed = fixed.iter().map(|word| (*word).to_owned());
    Some((program, fixed.chain(with_uuid.into_iter().flatten()).chain(make.options.iter().cloned()).collect()))
}

fn run_all((program, args): &(&'static str, Vec<String>), device: &OsStr) -> Result<(), MachineError> {
    let args: Vec<&OsStr> = args.iter().map(OsStr::new).chain([device]).collect();
    run_alone(program, &args)
}

/// Gives an unmounted filesystem its label.
fn name(format: Format, label: &str, device: &OsStr) -> Result<(), MachineError> {
    let word = OsStr::new;
    match format {
        // Theirs is written by us.
        Format::Vfat | Format::Swap => Ok(()),
        Format::Ext4 => run_alone("tune2fs", &[word("-L"), word(label), device]),
        Format::Xfs => {
            let command = format!("label {}", if label.is_empty() { "--" } else { label });
            run_alone("xfs_db", &[word("-x"), word("-c"), word(&command), device])
        }
        Format::Btrfs => run_alone("btrfs", &[word("filesystem"), word("label"), device, word(label)]),
    }
}

/// Bytes of a page on the machines that there are drivers for.
const PAGE: usize = 4096;

/// Linux kernel, include/linux/swap.h: `union swap_header`, with its signature at the end of the page.
fn write_swap(device: &Device, make: &Make) -> std::io::Result<()> {
    let uuid = match make.uuid {
        Some(VolumeId::Uuid(uuid)) => uuid,
        Some(VolumeId::Serial(_)) | None => random::uuid(),
    };
    device.write(0, &swap_header(device.size, uuid, &make.label, *b"\0\0\0\0\0\0\0\0\0\0"))?;
    device.sync()?;
    device.write(0, &swap_header(device.size, uuid, &make.label, *b"SWAPSPACE2"))?;
    device.drop_cache()
}

fn swap_header(size: u64, uuid: [u8; 16], label: &str, signature: [u8; 10]) -> Vec<u8> {
    let last = u32::try_from(size / PAGE as u64 - 1).unwrap_or(u32::MAX);
    let mut page = vec![0; PAGE];
    let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
    put(1024, &1_u32.to_ne_bytes());
    put(1028, &last.to_ne_bytes());
    put(1036, &uuid);
    // One zero behind it.
    put(1052, &label.as_bytes()[..label.len().min(15)]);
    put(PAGE - signature.len(), &signature);
    page
}
