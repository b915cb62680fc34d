//! Reading the small files of /sys and /proc.
//!
//! Called by `disks`, `inventory` and `tools`, always below a root that tests choose. What cannot be read is absent: a driver
//! may answer an attribute with an error, and a disk may be pulled between two looks.

use std::fs;
use std::path::{Path, PathBuf};

use super::text::{clean, clean_bytes};
use crate::sort;

/// A text attribute, trimmed; `None` where it cannot be read or says nothing.
pub fn text(path: impl AsRef<Path>) -> Option<String> {
    fs::read(path).ok().map(|bytes| clean_bytes(&bytes)).filter(|text| !text.is_empty())
}

/// A number in decimal.
pub fn number<T: std::str::FromStr>(path: impl AsRef<Path>) -> Option<T> {
    text(path)?.parse().ok()
}

/// A number in hex, with or without `0x`.
pub fn hex(path: impl AsRef<Path>) -> Option<u16> {
    let text = text(path)?;
    u16::from_str_radix(text.strip_prefix("0x").unwrap_or(&text), 16).ok()
}

/// A line of `/proc/meminfo` in bytes, by its name with the colon; 0 where it does not say.
pub fn memory(root: &Path, name: &str) -> u64 {
    let table = fs::read_to_string(root.join("proc/meminfo")).unwrap_or_default();
    let line = table.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
    kib.map_or(0, |kib| kib.saturating_mul(1024))
}

/// The last component of what a symbolic link points to: `driver` links name the driver so.
pub fn link_name(path: impl AsRef<Path>) -> Option<String> {
    Some(clean(&fs::read_link(path).ok()?.file_name()?.to_string_lossy()))
}

/// The names in a folder, sorted, so that a report is the same every time.
pub fn names(folder: impl AsRef<Path>) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    sort::short(&mut names, |a, b| natural(a).cmp(&natural(b)).then_with(|| a.cmp(b)));
    names
}

/// Where a path leads once all links are followed.
pub fn resolved(path: impl AsRef<Path>) -> Option<PathBuf> {
    fs::canonicalize(path).ok()
}

/// Sorts `eth10` after `eth9` and `sdaa` after `sdz`: short before long in the letters before the first digit, then by
/// its number.
fn natural(name: &str) -> (usize, &str, u64) {
    let digits = name.find(|c: char| c.is_ascii_digit()).unwrap_or(name.len());
    let number = name[digits..].split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
    (digits, &name[..digits], number.parse().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_as_people_count() {
        for (given, sorted) in [
            (["eth10", "eth9", "eth0"], ["eth0", "eth9", "eth10"]),
            (["sdaa", "sdz", "sdb"], ["sdb", "sdz", "sdaa"]),
            (["nvme10n1", "nvme2n1", "nvme2n2"], ["nvme2n1", "nvme2n2", "nvme10n1"]),
        ] {
            let folder = tempfile::tempdir().expect("a folder");
            given.iter().for_each(|name| fs::write(folder.path().join(name), "").expect("written"));
            assert_eq!(names(folder.path()), sorted);
        }
        assert_eq!(names("/nonexistent"), [""; 0]);
    }

    #[test]
    fn memory_is_read_from_the_kernels_table() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("proc")).expect("made");
        let is = |table: &str, bytes: u64| {
            fs::write(folder.path().join("proc/meminfo"), table).expect("written");
            assert_eq!(memory(folder.path(), "MemAvailable:"), bytes, "{table}");
        };
        is("MemTotal:         175832 kB\nMemFree:   1 kB\nMemAvailable:     102400 kB\n", 100 << 20);
        is(&format!("MemAvailable: {} kB\n", u64::MAX), u64::MAX);
        is("nonsense", 0);
        assert_eq!(memory(Path::new("/nonexistent"), "MemTotal:"), 0);
    }
}
