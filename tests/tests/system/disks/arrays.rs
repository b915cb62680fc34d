//! Arrays that share out what they carry: one of each such level, across disks of four kinds and both sizes of sectors, with a
//! filesystem of another format on each.
//!
//! Nothing of Linux md is asked from outside. What mdadm reads from the members says who has which part; by that an array
//! is put together from the images here, and taken apart again, with parities that were not computed by the machine.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use muster_tests::artifacts::output;
use muster_tests::attached::{self, Attached};
use muster_tests::qemu::{Disk, DiskKind};
use serde_json::Value;

/// An array, and the filesystem on it.
struct Array {
    name: &'static str,
    level: &'static str,
    /// As mdadm tells it; nothing of a level that has but one.
    layout: &'static str,
    /// On the first so many disks.
    members: usize,
    /// The last ones of them.
    spares: usize,
    member_mib: u64,
    format: &'static str,
    label: &'static str,
    uuid: &'static str,
}

const ARRAYS: [Array; 4] = [
    Array {
        name: "stripes",
        level: "raid0",
        layout: "",
        members: 2,
        spares: 0,
        // No XFS is smaller than 300 MiB.
        member_mib: 160,
        format: "xfs",
        label: "stripes",
        uuid: "0a1b2c3d-0000-4000-8000-000000000010",
    },
    Array {
        name: "parity",
        level: "raid5",
        layout: "left-symmetric",
        members: 4,
        spares: 1,
        member_mib: 64,
        format: "btrfs",
        label: "parity",
        uuid: "0a1b2c3d-0000-4000-8000-000000000011",
    },
    Array {
        name: "parities",
        level: "raid6",
        layout: "left-symmetric",
        members: 4,
        spares: 0,
        member_mib: 24,
        format: "ext4",
        label: "parities",
        uuid: "0a1b2c3d-0000-4000-8000-000000000012",
    },
    Array {
        name: "copies",
        level: "raid10",
        layout: "near=2",
        members: 4,
        spares: 0,
        member_mib: 24,
        format: "vfat",
        label: "COPIES",
        uuid: "9C0D-1E2F",
    },
];

/// In the order of the members: of the first two one has partition 1 of the stripes.
pub fn disks() -> [Disk; 4] {
    // Larger than those that are chosen by rules for being small, or the smallest of their kind.
    let disk = |kind, serial: &str| Disk::new(kind, serial, 1100);
    [
        disk(DiskKind::Virtio, "ARRAYS-VIRTIO"),
        disk(DiskKind::Usb, "ARRAYS-USB"),
        disk(DiskKind::Nvme, "ARRAYS-NVME").with_large_sectors(),
        disk(DiskKind::Scsi { wwn: 0x5000_c500_0000_0032 }, "ARRAYS-SCSI").with_large_sectors(),
    ]
}

/// What a document says of the disks, the arrays, and what they carry: items of the three lists.
pub fn document() -> [String; 3] {
    let mut words = [const { String::new() }; 3];
    for (at, disk) in disks().iter().enumerate() {
        let partitions: Vec<_> =
            on(at).map(|array| format!("{{label: {}-{at}, size_mib: {}}}", array.name, array.member_mib)).collect();
        words[0] += &format!("    - {{device: 'serial:{}', partitions: [{}]}}\n", disk.serial, partitions.join(", "));
    }
    for Array { name, level, members, spares, format, label, uuid, .. } in &ARRAYS {
        let devices: Vec<_> = (0..*members).map(|at| format!("/dev/disk/by-partlabel/{name}-{at}")).collect();
        let devices = devices.join(", ");
        words[1] += &format!("    - {{name: {name}, level: {level}, spares: {spares}, devices: [{devices}]}}\n");
        words[2] += &format!(
            "    - {{device: /dev/md/{name}, format: {format}, label: {label}, uuid: {uuid}, path: /srv/{name}}}\n"
        );
    }
    words
}

/// What they are called, also below /srv.
pub fn names() -> impl Iterator<Item = &'static str> {
    ARRAYS.iter().map(|array| array.name)
}

/// The machine tells that all of them run with all of their members, and have nothing left to do.
pub fn are_whole(observed: &Value) -> Result<()> {
    let told = observed["arrays"].as_array().with_context(|| observed.to_string())?;
    ensure!(told.len() == ARRAYS.len(), "{told:?}");
    for array in &ARRAYS {
        let one = told.iter().find(|one| one["label"] == array.name).with_context(|| array.name)?;
        ensure!(one["level"] == array.level && one["state"] == "whole" && one["sync"] == "", "{one}");
        let members = one["members"].as_array().map(Vec::as_slice).unwrap_or_default();
        let spares = members.iter().filter(|member| member["state"] == "spare").count();
        ensure!((members.len(), spares) == (array.members, array.spares), "{one}");
    }
    Ok(())
}

/// Finds them sound in the images, gives each a file, and answers how they are known to mdadm.
pub fn fill(folder: &Path) -> Result<Vec<String>> {
    let attached = attach(folder)?;
    let fill = |array: &Array| {
        let parts = Parts::read(array, &attached)?;
        let image = parts.look(folder)?;
        put(array, &image, folder)?;
        parts.write(&fs::read(&image)?)?;
        Ok(parts.uuid)
    };
    ARRAYS.iter().map(fill).collect()
}

/// Finds them sound, the same ones as before, with their files, and with what the machine has written since.
pub fn check(folder: &Path, before: &[String]) -> Result<()> {
    let attached = attach(folder)?;
    for (array, before) in ARRAYS.iter().zip(before) {
        let parts = Parts::read(array, &attached)?;
        ensure!(parts.uuid == *before, "{}: the same array", array.name);
        let (kept, has_new) = get(array, &parts.look(folder)?, folder)?;
        ensure!(kept == data(array), "{}: its data is there", array.name);
        ensure!(has_new, "{}: the machine has mounted it, data and all", array.name);
    }
    Ok(())
}

/// Of no two chunks of any array the same.
fn data(array: &Array) -> Vec<u8> {
    (0..400_000_u32).flat_map(|word| (word * 7 + array.member_mib as u32).to_le_bytes()).collect()
}

/// Not every kernel mounts vfat.
fn mtools(program: &str, image: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg("-i").arg(image);
    command
}

/// Gives the filesystem in this image its file.
fn put(array: &Array, image: &Path, folder: &Path) -> Result<()> {
    if array.format != "vfat" {
        return in_filesystem(image, |at| Ok(fs::write(at.join("kept"), data(array))?));
    }
    let file = folder.join("kept");
    fs::write(&file, data(array))?;
    output(mtools("mcopy", image).arg(file).arg("::kept")).map(drop)
}

/// What the file is in the filesystem in this image, and whether the machine's folder is beside it.
fn get(array: &Array, image: &Path, folder: &Path) -> Result<(Vec<u8>, bool)> {
    if array.format != "vfat" {
        let mut got = (Vec::new(), false);
        in_filesystem(image, |at| {
            got = (fs::read(at.join("kept"))?, at.join("new").is_dir());
            Ok(())
        })?;
        return Ok(got);
    }
    let file = folder.join("found");
    output(mtools("mcopy", image).arg("::kept").arg(&file))?;
    Ok((fs::read(file)?, output(mtools("mdir", image).arg("-b").arg("::"))?.contains("::/new/")))
}

fn attach(folder: &Path) -> Result<Vec<Attached>> {
    let attach = |disk: &Disk| {
        let sector = if matches!(disk.kind, DiskKind::Sata { .. }) { 512 } else { disk.sector };
        let attached = Attached::new(&disk.path(folder), sector)?;
        attached.table()?;
        Ok(attached)
    };
    disks().iter().map(attach).collect()
}

/// The arrays that have a member on this disk, in the order of their partitions.
fn on(disk: usize) -> impl Iterator<Item = &'static Array> {
    ARRAYS.iter().filter(move |array| disk < array.members)
}

/// What the members of one array have of it.
struct Parts<'a> {
    array: &'a Array,
    uuid: String,
    chunk: usize,
    /// By place in the array: the partition, and where in it the array begins.
    places: Vec<(String, u64)>,
    bytes: Vec<Vec<u8>>,
}

impl<'a> Parts<'a> {
    fn read(array: &'a Array, attached: &[Attached]) -> Result<Self> {
        let mut all = Vec::new();
        for (at, disk) in attached.iter().enumerate().take(array.members) {
            let number = on(at).position(|one| one.name == array.name).context("it is on this disk")? + 1;
            let member = Member::of(disk, u32::try_from(number)?)?;
            ensure!(
                (&*member.name, &*member.level, &*member.layout) == (array.name, array.level, array.layout),
                "{member:?}"
            );
            ensure!(member.state == "A".repeat(array.members - array.spares), "{member:?}");
            let slot = (at < array.members - array.spares).then_some(at);
            ensure!(member.slot == slot, "disk {at}: {member:?}");
            all.push((disk.partition(u32::try_from(number)?), member));
        }
        let uuid = all[0].1.uuid.clone();
        ensure!(all.iter().all(|(_, member)| member.uuid == uuid), "{all:?}");
        let chunk = all[0].1.chunk;
        let (mut places, mut bytes) = (Vec::new(), Vec::new());
        for (partition, Member { data: (start, size), .. }) in all.into_iter().take(array.members - array.spares) {
            // What is left behind the last whole chunk is nobody's.
            let mut part = vec![0; usize::try_from(size)? / chunk * chunk];
            File::open(&partition)?.read_exact_at(&mut part, start)?;
            places.push((partition, start));
            bytes.push(part);
        }
        Ok(Self { array, uuid, chunk, places, bytes })
    }

    /// What the array carries, in a file, once others have found no fault with it.
    fn look(&self, folder: &Path) -> Result<PathBuf> {
        let whole = self.whole();
        for (place, (ours, theirs)) in self.apart(&whole).iter().zip(&self.bytes).enumerate() {
            let wrong = ours.chunks(self.chunk).zip(theirs.chunks(self.chunk)).position(|(a, b)| a != b);
            ensure!(wrong.is_none(), "{}: member {place} is not what the others say in row {wrong:?}", self.array.name);
        }
        let image = folder.join(format!("{}.inside", self.array.name));
        let file = File::create(&image)?;
        file.set_len(whole.len() as u64)?;
        let zeros = vec![0; self.chunk];
        for (at, chunk) in whole.chunks(self.chunk).enumerate().filter(|(_, chunk)| *chunk != zeros) {
            file.write_all_at(chunk, (at * self.chunk) as u64)?;
        }
        let path = image.to_str().context("UTF-8")?;
        let said = output(Command::new("blkid").args(["--probe", "--output", "export", path]))?;
        let Array { format, label, uuid, .. } = self.array;
        for (tag, value) in [("TYPE", format), ("LABEL", label), ("UUID", uuid)] {
            ensure!(said.lines().any(|line| line == format!("{tag}={value}")), "{tag} {value}: {said}");
        }
        attached::is_sound(path, format).with_context(|| said)?;
        Ok(image)
    }

    /// Puts this in place of what the array carries.
    fn write(&self, whole: &[u8]) -> Result<()> {
        for ((partition, start), (new, old)) in self.places.iter().zip(self.apart(whole).iter().zip(&self.bytes)) {
            let file = File::options().write(true).open(partition)?;
            let pairs = new.chunks(self.chunk).zip(old.chunks(self.chunk)).enumerate();
            for (at, (new, _)) in pairs.filter(|(_, (new, old))| new != old) {
                file.write_all_at(new, start + (at * self.chunk) as u64)?;
            }
        }
        Ok(())
    }

    /// Which members have the data of a row of chunks, in its order.
    fn holders(&self, row: usize) -> Vec<usize> {
        let all = self.bytes.len();
        match self.array.level {
            "raid0" => (0..all).collect(),
            "raid10" => (0..all).step_by(2).collect(),
            // Behind the parities, which begin with the last member and come one forward with each row.
            _ => (0..all - self.parities()).map(|i| (self.parity(row) + self.parities() + i) % all).collect(),
        }
    }

    fn parities(&self) -> usize {
        if self.array.level == "raid6" { 2 } else { 1 }
    }

    fn parity(&self, row: usize) -> usize {
        self.bytes.len() - 1 - row % self.bytes.len()
    }

    fn whole(&self) -> Vec<u8> {
        let mut whole = Vec::new();
        for (row, start) in (0..self.bytes[0].len()).step_by(self.chunk).enumerate() {
            for member in self.holders(row) {
                whole.extend_from_slice(&self.bytes[member][start..start + self.chunk]);
            }
        }
        whole
    }

    /// What each member has of an array that carries this.
    fn apart(&self, whole: &[u8]) -> Vec<Vec<u8>> {
        let mut members = vec![Vec::with_capacity(self.bytes[0].len()); self.bytes.len()];
        let width = self.holders(0).len() * self.chunk;
        for (row, data) in whole.chunks(width).enumerate() {
            let chunks: Vec<&[u8]> = data.chunks(self.chunk).collect();
            for (member, chunk) in self.holders(row).into_iter().zip(&chunks) {
                members[member].extend_from_slice(chunk);
                if self.array.level == "raid10" {
                    members[member + 1].extend_from_slice(chunk);
                }
            }
            if matches!(self.array.level, "raid5" | "raid6") {
                let parities = parities(&chunks);
                for (i, parity) in parities.iter().enumerate().take(self.parities()) {
                    members[(self.parity(row) + i) % self.bytes.len()].extend_from_slice(parity);
                }
            }
        }
        members
    }
}

/// The sum of what stands in a row, and the one in which each is doubled once more than the one before: over GF(2^8), with
/// x^8 + x^4 + x^3 + x^2 + 1. Eight bytes at a time.
fn parities(chunks: &[&[u8]]) -> [Vec<u8>; 2] {
    let zeros = vec![0; chunks[0].len()];
    if chunks.iter().all(|chunk| *chunk == zeros) {
        return [zeros.clone(), zeros];
    }
    let words = |chunk: &[u8]| chunk.as_chunks().0.iter().map(|word| u64::from_ne_bytes(*word)).collect::<Vec<_>>();
    let (mut sum, mut doubled) = (words(&zeros), words(&zeros));
    for chunk in chunks.iter().rev() {
        for (at, word) in words(chunk).into_iter().enumerate() {
            sum[at] ^= word;
            let carried = (doubled[at] >> 7 & 0x0101_0101_0101_0101) * 0x1d;
            doubled[at] = ((doubled[at] & 0x7f7f_7f7f_7f7f_7f7f) << 1) ^ carried ^ word;
        }
    }
    [sum, doubled].map(|words| words.into_iter().flat_map(u64::to_ne_bytes).collect())
}

/// A partition as mdadm tells it.
#[derive(Debug)]
pub struct Member {
    pub name: String,
    pub level: String,
    pub uuid: String,
    /// Which members there are: `AA`, `A.`.
    pub state: String,
    /// Its place; none of a spare.
    pub slot: Option<usize>,
    pub layout: String,
    /// Bytes; 0 where nothing is shared out.
    pub chunk: usize,
    /// First byte of the array's data in it, and how many there are.
    pub data: (u64, u64),
}

impl Member {
    pub fn of(attached: &Attached, number: u32) -> Result<Self> {
        let probed = attached.probe(number)?;
        let kind = probed.get("TYPE").map(String::as_str);
        ensure!(kind == Some("linux_raid_member"), "{probed:?}");
        let said = output(Command::new("mdadm").arg("--examine").arg(attached.partition(number)))?;
        let told = |name: &str| {
            let found = said.lines().filter_map(|line| line.split_once(" : ")).find(|(key, _)| key.trim() == name);
            found.map(|(_, value)| value.trim())
        };
        let field = |name: &str| told(name).with_context(|| format!("{name} in {said}"));
        let sectors = |value: &str| -> Result<u64> { Ok(word(value).parse::<u64>()? * 512) };
        let used = told("Used Dev Size").map_or_else(|| field("Avail Dev Size"), Ok)?;
        let slot = field("Device Role")?.strip_prefix("Active device ").map(str::parse).transpose()?;
        let chunk = told("Chunk Size").map_or(Ok(0), |size| size.trim_end_matches('K').parse::<usize>())?;
        Ok(Self {
            name: word(field("Name")?).rsplit(':').next().unwrap_or_default().to_owned(),
            level: field("Raid Level")?.to_owned(),
            uuid: field("Array UUID")?.to_owned(),
            state: word(field("Array State")?).to_owned(),
            slot,
            layout: told("Layout").unwrap_or_default().to_owned(),
            chunk: chunk << 10,
            data: (sectors(field("Data Offset")?)?, sectors(used)?),
        })
    }
}

fn word(value: &str) -> &str {
    value.split(' ').next().unwrap_or_default()
}

/// Has somebody work in the filesystem of an image.
pub fn in_filesystem(image: &Path, work: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let folder = tempfile::tempdir()?;
    output(Command::new("mount").args(["-o", "loop"]).arg(image).arg(folder.path()))?;
    let done = work(folder.path());
    output(Command::new("umount").arg(folder.path()))?;
    done
}
