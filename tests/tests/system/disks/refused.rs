//! Documents that would cost somebody his data, refused on a machine whatever is permitted. The test is `dangers`, whose
//! machine it is, and which looks at all images afterwards.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use muster_tests::artifacts::output;
use muster_tests::qemu::{Disk, DiskKind};
use muster_tests::scratch;

const MIB: u64 = 1 << 20;

/// What is on [`disks`], as blkid calls it.
const CARRIED: [(&str, u64, &str); 6] = [
    ("ZFS", 0, "zfs_member"),
    ("NTFS", 0, "ntfs"),
    ("THEIRS", MIB, "ext4"),
    ("THEIRS", 32 * MIB, "crypto_LUKS"),
    ("THEIRS", 80 * MIB, "LVM2_member"),
    ("THEIRS", 100 * MIB, "ntfs"),
];

/// The disks that documents are about, beside those of `dangers`.
pub(super) fn disks() -> [Disk; 3] {
    [
        Disk::new(DiskKind::Virtio, "ZFS", 64),
        Disk::new(DiskKind::Virtio, "NTFS", 16),
        Disk::new(DiskKind::Scsi { wwn: 0x5000_c500_0000_0015 }, "THEIRS", 160),
    ]
}

/// Writes what somebody has on them, in images that are there.
pub(super) fn fill(image: impl Fn(&str) -> std::path::PathBuf) -> Result<()> {
    let script = "label: gpt\\nstart=2048,size=49152,name=mail\\nstart=65536,size=81920,name=secret\\n\
                  start=163840,size=32768,name=pv\\nstart=204800,size=81920,name=windows\\n";
    output(
        Command::new("sh").args(["-c", &format!("printf '{script}' | sfdisk --quiet {}", image("THEIRS").display())]),
    )?;
    let options = format!("-q -E offset={MIB} -L mail {} 24M", image("THEIRS").display());
    output(Command::new("mkfs.ext4").args(options.split(' ')))?;
    put(&image("NTFS"), 0, "ntfs")?;
    for (sample, at) in [("luks2", 32 * MIB), ("lvm2", 80 * MIB), ("ntfs", 100 * MIB)] {
        put(&image("THEIRS"), at, sample)?;
    }
    // Four labels of 256 KiB, each with a ring of uberblocks in its second half (ZFS on-disk specification, chapter 1).
    let (zfs, size) = (File::options().write(true).open(image("ZFS"))?, 64 * MIB);
    for label in [0, 256 << 10, size - (512 << 10), size - (256 << 10)] {
        for block in 0..8 {
            zfs.write_all_at(&0x00ba_b10c_u64.to_le_bytes(), label + (128 << 10) + block * 1024)?;
        }
    }
    for (serial, at, kind) in CARRIED {
        let place = ["--probe", "--offset", &at.to_string()].map(str::to_owned);
        let said = output(Command::new("blkid").args(place).args(["-o", "value", "-s", "TYPE"]).arg(image(serial)))?;
        ensure!(said.trim() == kind, "{serial} at {at}: {said}");
    }
    Ok(())
}

/// Writes a sample that a format's own program made: lines of an offset and bytes.
fn put(image: &Path, at: u64, sample: &str) -> Result<()> {
    let path = scratch::repository().join(format!("agent/tests/signatures/{sample}.hex"));
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let file = File::options().write(true).open(image)?;
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.starts_with("size")) {
        let mut words = line.split(' ');
        let offset: u64 = words.next().unwrap_or_default().parse().with_context(|| line.to_owned())?;
        let bytes = words.map(|word| Ok(u8::from_str_radix(word, 16)?)).collect::<Result<Vec<_>>>()?;
        file.write_all_at(&bytes, at + offset)?;
    }
    Ok(())
}

/// Has each applied with leave for everything, and holds what the operator reads against the table. Answers how many
/// there are.
pub(super) fn check(refusal: impl Fn(&str) -> Result<String>) -> Result<usize> {
    let mut dangers = BTreeSet::new();
    for line in include_str!("refused.txt").lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let [danger, said, document] = line.splitn(3, " | ").collect::<Vec<_>>()[..] else {
            anyhow::bail!("{line:?} has no three parts")
        };
        let read = refusal(&format!("storage: {{{document}}}\n")).with_context(|| danger.to_owned())?;
        ensure!(read.contains(said), "{danger}: {read}");
        ensure!(dangers.insert(danger), "{danger} is there twice");
    }
    Ok(dangers.len())
}
