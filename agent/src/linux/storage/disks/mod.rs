//! The machine's disks: which there are, what they carry, what stands on them, and who uses them.
//!
//! Called by the glue of the real machine and by `storage`. Reads only; a disk that cannot be read counts as held
//! and as carrying something.

mod dm;
mod held;
mod layers;
mod list;
mod md;
mod path;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use muster_protocol::DiskId;
use muster_protocol::desired::TreeMount;
use muster_protocol::inventory;
use muster_protocol::observed::{Contents, Disk, GroupName, Layers, Partition};
use rustix::fs::{Advice, Mode, OFlags};

pub use held::{DeviceNumber, Mount, Node, OWN_TMPFS, Record, TMPFS_SOURCE, Usage};
pub use list::list;
pub use md::list as arrays;

use self::layers::Found;
use super::signatures::{self, Ends, HEAD, Place, TAIL, is_zeros, lvm, sums};
use crate::linux::sysfs;
use crate::machine::MachineError;

/// Between the ends, a disk is looked at in this many places before it is called blank:
/// someone may have cleared both ends and nothing else.
const SAMPLES: u64 = 64;
const SAMPLE: usize = 4096;
/// Labels of LVM2 lie in the first 2 KiB.
const LABELS: u64 = 2048;

/// The stretches between the ends that are looked at: first byte, bytes.
pub fn samples(size: u64) -> impl Iterator<Item = (u64, u64)> {
    let sample = SAMPLE as u64;
    (1..=SAMPLES).map(move |i| {
        let at = (size / (SAMPLES + 1)).saturating_mul(i) / sample * sample;
        (at, (size - at).min(sample))
    })
}

/// What all disks of this machine carry now, and what stands on them.
pub fn observe() -> Result<(Vec<Disk>, Layers), MachineError> {
    Disks::of_this_machine().observe_all()
}

/// What the agent mounted on this machine that is on no disk of its own.
pub fn mounts() -> Result<Vec<TreeMount>, MachineError> {
    Ok(Disks::of_this_machine().usage()?.trees())
}

/// Where disks are found.
#[derive(Debug, Clone)]
pub struct Disks {
    source: Source,
    root: PathBuf,
    record: Record,
}

/// Who says which disks there are.
#[derive(Debug, Clone)]
enum Source {
    /// /sys/block.
    Kernel,
    /// The caller: loop devices have neither serial nor WWN.
    Given(Vec<inventory::Disk>),
}

impl Disks {
    /// The disks of this machine.
    pub fn of_this_machine() -> Self {
        let root = PathBuf::from("/");
        Self { source: Source::Kernel, record: Record::new(Path::new("/run/muster"), &root), root }
    }

    /// These block devices of this machine and no others; own mounts are written down in `run`. For tests on loop devices.
    pub fn given(disks: Vec<inventory::Disk>, run: &Path) -> Self {
        let root = PathBuf::from("/");
        Self { source: Source::Given(disks), record: Record::new(run, &root), root }
    }

    /// Those alone that answer to these ids, and what stands on them.
    pub fn only(&self, ids: &[DiskId]) -> Self {
        let is_meant =
            |disk: &inventory::Disk| ids.iter().any(|id| id.names(disk.wwn.as_deref(), disk.serial.as_deref()));
        let disks = self.list().into_iter().filter(is_meant).collect();
        Self { source: Source::Given(disks), ..self.clone() }
    }

    /// Whole disks, and no others.
    pub fn list(&self) -> Vec<inventory::Disk> {
        match &self.source {
            Source::Kernel => list(&self.root),
            Source::Given(disks) => disks.clone(),
        }
    }

    /// What all of them carry now.
    ///
    /// Errors: /proc cannot be read. A disk that cannot be read is no error: it is told as held.
    pub fn observe(&self) -> Result<Vec<Disk>, MachineError> {
        Ok(self.observe_all()?.0)
    }

    /// The same, and what stands on them.
    pub fn observe_all(&self) -> Result<(Vec<Disk>, Layers), MachineError> {
        let usage = self.usage()?;
        let mut found = Found::default();
        let disks: Vec<Disk> = self.list().iter().map(|disk| self.observe_disk(disk, &usage, &mut found)).collect();
        let layers = self.layers(&disks, &mut found, &usage);
        Ok((disks, layers))
    }

    /// What the one disk that answers to `id` carries now.
    ///
    /// Errors: there is none, or more than one.
    pub fn observe_one(&self, id: &DiskId) -> Result<Disk, MachineError> {
        Ok(self.observe_disk(&self.find(id)?, &self.usage()?, &mut Found::default()))
    }

    /// The one disk that answers to `id`.
    ///
    /// Errors: there is none, or more than one.
    pub fn find(&self, id: &DiskId) -> Result<inventory::Disk, MachineError> {
        let mut named = self.list().into_iter().filter(|d| id.names(d.wwn.as_deref(), d.serial.as_deref()));
        match (named.next(), named.next()) {
            (None, _) => Err(MachineError::Missing(id.to_string())),
            (Some(disk), None) => Ok(disk),
            (Some(one), Some(other)) => Err(MachineError::Changed {
                what: id.to_string(),
                now: format!("the name of {} and {}", one.name, other.name),
            }),
        }
    }

    /// Who uses what, now.
    pub fn usage(&self) -> Result<Usage, MachineError> {
        Usage::read(&self.root, &self.record).map_err(|source| MachineError::os("read what is mounted", source))
    }

    /// What the agent mounted.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// A disk as the kernel has it now.
    pub fn node(&self, name: &str) -> Option<Node> {
        Node::at(self.root.join("sys/block").join(name))
    }

    /// A disk, partition or device on them as the kernel has it now.
    pub fn any_node(&self, name: &str) -> Option<Node> {
        self.node(name).or_else(|| Node::at(sysfs::resolved(self.root.join("sys/class/block").join(name))?))
    }

    /// A disk's partitions as the kernel has them now, with the numbers that the table gives them.
    pub fn partition_nodes(&self, disk: &Node) -> Vec<(u32, Node)> {
        let partition = |name: &String| {
            let path = disk.path.join(name);
            Some((sysfs::number(path.join("partition"))?, Node::at(path)?))
        };
        sysfs::names(&disk.path).iter().filter_map(partition).collect()
    }

    /// The kernel's device for a partition, if it lies where the table says.
    pub fn partition_node(&self, disk: &Node, number: u32, start: u64, size: u64) -> Option<Node> {
        let (_, node) = self.partition_nodes(disk).into_iter().find(|(n, _)| *n == number)?;
        // Sysfs counts in 512 bytes whatever the disk's sectors are.
        let bytes = |name: &str| sysfs::number::<u64>(node.path.join(name)).map(|sectors| sectors.saturating_mul(512));
        (bytes("start") == Some(start) && bytes("size") == Some(size)).then_some(node)
    }

    /// A device's node in /dev.
    pub fn device_path(&self, node: &Node) -> PathBuf {
        self.root.join("dev").join(&node.name)
    }

    /// Opens a device's node in /dev, and makes sure that it is this device's and no other's.
    pub fn open(&self, node: &Node, flags: OFlags) -> io::Result<File> {
        let file = File::from(rustix::fs::open(self.device_path(node), flags | OFlags::CLOEXEC, Mode::empty())?);
        let stat = rustix::fs::fstat(&file)?;
        if (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)) != node.number {
            return Err(io::Error::other(format!("/dev/{} is not the device that /sys tells of", node.name)));
        }
        Ok(file)
    }

    fn observe_disk(&self, disk: &inventory::Disk, usage: &Usage, found: &mut Found) -> Disk {
        let (contents, partitions, held) = self.look(disk, usage, found).unwrap_or_else(|source| {
            let held = format!("{} cannot be read: {source}", disk.name);
            (Contents::Unknown, Vec::new(), held)
        });
        Disk {
            name: disk.name.clone(),
            wwn: disk.wwn.clone(),
            serial: disk.serial.clone(),
            size_bytes: disk.size_bytes,
            logical_sector: disk.logical_sector,
            medium: disk.medium,
            attachment: disk.attachment,
            transport: disk.transport,
            model: disk.model.clone(),
            by_path: path::by_path(&self.root.join("sys/block").join(&disk.name)),
            contents,
            partitions,
            held,
        }
    }

    fn look(
        &self,
        disk: &inventory::Disk,
        usage: &Usage,
        found: &mut Found,
    ) -> io::Result<(Contents, Vec<Partition>, String)> {
        let node = self.node(&disk.name).ok_or_else(|| io::Error::other("it is not there any more"))?;
        let file = self.open(&node, OFlags::RDONLY)?;
        // A partition's own cache is not the disk's: what was read before may be older than what lies there.
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
        let region = Region { file: &file, start: 0, size: disk.size_bytes };
        let ((contents, places), is_boot_medium) = {
            let ends = region.ends(&mut found.room)?;
            (signatures::of_disk(ends, disk.logical_sector), signatures::is_boot_medium(ends))
        };
        let contents = region.named(region.doubt(contents)?, found);

        let mut holders: Vec<String> = usage.holder(&node).into_iter().collect();
        holders.extend(self.partition_nodes(&node).iter().filter_map(|(_, partition)| usage.holder(partition)));
        if is_boot_medium {
            holders.push(format!("{} is a Muster boot medium", disk.name));
        }
        if !disk.attachment.may_be_written() {
            holders.push(format!("{} is a removable medium", disk.name));
        }
        if sysfs::number::<u8>(node.path.join("ro")) == Some(1) {
            holders.push(format!("{} is write-protected", disk.name));
        }
        let partitions = places.into_iter().map(|place| self.look_at_partition(&node, &file, place, usage, found));
        let partitions = partitions.collect::<io::Result<_>>()?;
        Ok((mounted(contents, &node, usage), partitions, holders.join(", ")))
    }

    fn look_at_partition(
        &self,
        disk: &Node,
        file: &File,
        place: Place,
        usage: &Usage,
        found: &mut Found,
    ) -> io::Result<Partition> {
        let node = self.partition_node(disk, place.number, place.start, place.size);
        // Through the partition's own device where there is one: a mounted filesystem writes there.
        let contents = match &node {
            Some(node) => self.look_at_device(node, place.size, usage, found)?,
            None => {
                let region = Region { file, start: place.start, size: place.size };
                region.torn(region.looked_into(found)?)?
            }
        };
        Ok(Partition {
            number: place.number,
            start_bytes: place.start,
            size_bytes: place.size,
            label: place.label,
            type_guid: place.type_guid,
            guid: place.guid,
            contents,
        })
    }

    /// What a partition, or what stands on some, carries; read through its own device.
    fn look_at_device(&self, node: &Node, size: u64, usage: &Usage, found: &mut Found) -> io::Result<Contents> {
        let file = self.open(node, OFlags::RDONLY)?;
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
        let region = Region { file: &file, start: 0, size };
        let mut contents = region.torn(mounted(region.looked_into(found)?, node, usage))?;
        if let Contents::Filesystem(xfs) = &mut contents
            && xfs.kind == "xfs"
            && xfs.mounted_at.starts_with('/')
        {
            xfs.size_bytes = xfs.size_bytes.max(region.mounted_xfs_bytes(&xfs.mounted_at));
        }
        Ok(contents)
    }
}

fn mounted(mut contents: Contents, node: &Node, usage: &Usage) -> Contents {
    if let Contents::Filesystem(filesystem) = &mut contents {
        filesystem.mounted_at = usage.mount(node.number).unwrap_or_default().to_owned();
        filesystem.mount_options = usage.options(node.number, &filesystem.mounted_at);
    }
    contents
}

/// Where the ends of what is looked at are read to: three MiB, one after the other for all of it. Found, cleared and taken back
/// by the kernel each time, they would cost as much as reading them.
#[derive(Debug, Default)]
pub struct Room {
    head: Vec<u8>,
    tail: Vec<u8>,
}

/// A stretch of a device.
#[derive(Debug, Clone, Copy)]
pub struct Region<'a> {
    /// Open for reading.
    pub file: &'a File,
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub size: u64,
}

impl Region<'_> {
    /// What lies there, looked at as a partition.
    pub fn contents(&self, room: &mut Room) -> io::Result<Contents> {
        let contents = signatures::of_partition(self.ends(room)?);
        self.doubt(contents)
    }

    /// The same, with what a physical volume tells of its group.
    fn looked_into(&self, found: &mut Found) -> io::Result<Contents> {
        Ok(self.named(self.contents(&mut found.room)?, found))
    }

    /// A filesystem that is not mounted is damaged where its superblock is not what was written.
    fn torn(&self, contents: Contents) -> io::Result<Contents> {
        let Contents::Filesystem(found) = &contents else { return Ok(contents) };
        let Some((at, len)) = sums::superblock(&found.kind).filter(|_| found.mounted_at.is_empty()) else {
            return Ok(contents);
        };
        let is_right = sums::is_right(&found.kind, &self.read(at, len)?);
        Ok(if is_right { contents } else { Contents::Signature(format!("damaged {}", found.kind)) })
    }

    /// Says which group a physical volume is of, and keeps what it tells of that.
    fn named(&self, contents: Contents, found: &mut Found) -> Contents {
        let Contents::Lvm(mut volume) = contents else { return contents };
        let bytes = |at: u64, len: usize| {
            let end = at.checked_add(len as u64)?;
            (end <= self.size).then(|| self.read(at, len).ok()).flatten()
        };
        let head = self.read(0, self.size.min(LABELS) as usize).unwrap_or_default();
        let label = lvm::label(Ends { head: &head, tail: &[], size: self.size });
        match label.map_or(Err(lvm::Damaged), |label| lvm::group(&label, &mut { bytes })) {
            Ok(Some(group)) => {
                volume.group = Some(GroupName { name: group.name.clone(), uuid: group.uuid });
                found.keep(group);
            }
            Ok(None) => {}
            Err(lvm::Damaged) => volume.is_damaged = true,
        }
        Contents::Lvm(volume)
    }

    /// The bytes at both ends, for `signatures`.
    pub fn ends<'a>(&self, room: &'a mut Room) -> io::Result<Ends<'a>> {
        if room.head.is_empty() {
            *room = Room { head: vec![0; HEAD], tail: vec![0; TAIL] };
        }
        let (head, tail) = (self.size.min(HEAD as u64), self.size.min(TAIL as u64));
        let ends = (&mut room.head[..head as usize], &mut room.tail[..tail as usize]);
        self.file.read_exact_at(ends.0, self.start)?;
        self.file.read_exact_at(ends.1, self.start + self.size - tail)?;
        Ok(Ends { head: ends.0, tail: ends.1, size: self.size })
    }

    /// Bytes that a mounted XFS takes. One that has grown says so in its superblock only when it leaves its log, and at
    /// once to who asks the kernel, without the log itself (fs/xfs/libxfs/xfs_format.h: sb_logblocks, sb_blocksize).
    fn mounted_xfs_bytes(&self, path: &str) -> u64 {
        let superblock = self.read(0, 512).unwrap_or_default();
        let number =
            |at: usize| superblock.get(at..at + 4).map(|bytes| bytes.iter().fold(0, |n, &b| n << 8 | u64::from(b)));
        let log = number(96).zip(number(4)).map(|(blocks, size)| blocks * size);
        let asked = rustix::fs::statvfs(path).ok();
        let bytes = asked.zip(log).map(|(fs, log)| fs.f_blocks.saturating_mul(fs.f_frsize).saturating_add(log));
        bytes.filter(|bytes| *bytes <= self.size).unwrap_or_default()
    }

    /// Blank ends are not yet a blank disk.
    fn doubt(&self, contents: Contents) -> io::Result<Contents> {
        if contents == Contents::Blank {
            for (at, len) in samples(self.size) {
                if !is_zeros(&self.read(at, len as usize)?) {
                    return Ok(Contents::Unknown);
                }
            }
        }
        Ok(contents)
    }

    fn read(&self, at: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, self.start + at)?;
        Ok(bytes)
    }
}
