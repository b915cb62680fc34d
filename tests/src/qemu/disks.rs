//! Disk images looked at from outside, with the host's own tools: what a machine says of its disks is not taken for it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::artifacts::output;

/// Bytes looked at in one go.
const CHUNK: usize = 1 << 20;

/// One partition as sfdisk sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// GPT type GUID, upper case.
    pub kind: String,
    /// GPT name.
    pub name: String,
}

/// The partitions of a disk with a GPT.
///
/// Errors: there is no table, it is no GPT, or sfdisk finds fault with it.
pub fn partitions(image: &Path) -> Result<Vec<Partition>> {
    // It warns of what it finds wrong, and goes on.
    let verdict = output(Command::new("sfdisk").arg("--verify").arg(image))?;
    if !verdict.contains("No errors detected") {
        bail!("sfdisk about {}: {}", image.display(), verdict.trim());
    }
    let said: Value = serde_json::from_str(&output(Command::new("sfdisk").arg("--json").arg(image))?)?;
    let table = &said["partitiontable"];
    if table["label"] != "gpt" {
        bail!("{} carries no GPT: {table}", image.display());
    }
    let sector = table["sectorsize"].as_u64().unwrap_or(512);
    let number = |p: &Value, key: &str| p[key].as_u64().map(|n| n * sector).with_context(|| format!("{key} in {p}"));
    let text = |p: &Value, key: &str| p[key].as_str().unwrap_or_default().to_owned();
    let all = table["partitions"].as_array().cloned().unwrap_or_default();
    all.iter()
        .map(|p| {
            Ok(Partition {
                start: number(p, "start")?,
                size: number(p, "size")?,
                kind: text(p, "type"),
                name: text(p, "name"),
            })
        })
        .collect()
}

/// The superblock of the ext4 filesystem in a partition, as dumpe2fs names its fields, once e2fsck has found it clean.
///
/// Errors: it is none, or not clean.
pub fn ext4(image: &Path, partition: &Partition) -> Result<BTreeMap<String, String>> {
    let copy = image.with_extension("partition");
    copy_out(image, partition, &copy)?;
    output(Command::new("e2fsck").args(["-f", "-n"]).arg(&copy))?;
    let fields = output(Command::new("dumpe2fs").arg("-h").arg(&copy))?;
    std::fs::remove_file(&copy)?;
    let pairs = fields.lines().filter_map(|line| line.split_once(':'));
    Ok(pairs.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())).collect())
}

/// Where the first byte is that is not zero; `None` where there is none.
pub fn first_data(image: &Path) -> Result<Option<u64>> {
    let mut file = File::open(image)?;
    let (mut chunk, zeros) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut at = 0;
    loop {
        let count = file.read(&mut chunk)?;
        if count == 0 {
            return Ok(None);
        }
        // One comparison for all, byte by byte only where it fails.
        if chunk[..count] != zeros[..count] {
            let offset = chunk.iter().position(|byte| *byte != 0).unwrap_or_default();
            return Ok(Some(at + offset as u64));
        }
        at += count as u64;
    }
}

/// Fills an image with what somebody might have left on a disk, from its first to its last MiB.
pub fn scribble(image: &Path) -> Result<()> {
    let mut file = File::options().write(true).open(image)?;
    let size = file.metadata()?.len();
    let data = b"somebody's data ".repeat(CHUNK / 16);
    for at in (0..size).step_by(16 * CHUNK).chain([size - CHUNK as u64]) {
        file.seek(SeekFrom::Start(at))?;
        file.write_all(&data)?;
    }
    Ok(())
}

fn copy_out(image: &Path, partition: &Partition, to: &Path) -> Result<()> {
    let mut from = File::open(image)?;
    from.seek(SeekFrom::Start(partition.start))?;
    let mut to = BufWriter::new(File::create(to)?);
    let copied = std::io::copy(&mut from.take(partition.size), &mut to)?;
    if copied != partition.size {
        bail!("{} ends before its partition does", image.display());
    }
    Ok(to.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_byte_of_an_image_is_looked_at_too() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let image = folder.path().join("disk.img");
        let mut file = File::create(&image)?;
        file.set_len(3 * CHUNK as u64 + 5)?;
        assert_eq!(first_data(&image)?, None);
        file.seek(SeekFrom::End(-1))?;
        file.write_all(b"x")?;
        assert_eq!(first_data(&image)?, Some(3 * CHUNK as u64 + 4));
        Ok(())
    }

    #[test]
    fn a_table_and_a_filesystem_made_by_the_host_are_recognized() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let image = folder.path().join("disk.img");
        File::create(&image)?.set_len(64 << 20)?;
        assert!(partitions(&image).is_err());
        let script = "label: gpt\nstart=2048, name=data\n";
        output(Command::new("sh").arg("-c").arg(format!("printf '{script}' | sfdisk -q {}", image.display())))?;
        let found = partitions(&image)?;
        assert_eq!((found.len(), found[0].start, found[0].name.as_str()), (1, 1 << 20, "data"));
        assert!(ext4(&image, &found[0]).is_err());
        let (offset, blocks) = (found[0].start, found[0].size / 4096);
        let options = format!("-q -b 4096 -E offset={offset} -L here {} {blocks}", image.display());
        output(Command::new("mkfs.ext4").args(options.split(' ')))?;
        assert_eq!(ext4(&image, &found[0])?.get("Filesystem volume name").map(String::as_str), Some("here"));
        Ok(())
    }
}
