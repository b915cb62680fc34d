//! How fast programs may read and write disks: `io.max` of cgroups (Linux kernel, Documentation/admin-guide/cgroup-v2.rst).
//!
//! Called by the glue of the real machine with steps that `plan::storage` made. Which limits are the agent's own is written
//! down in /run: those of others are neither told nor taken away.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use muster_protocol::DiskId;
use muster_protocol::desired::Rates;
use muster_protocol::observed::Limit;

use crate::linux::storage::disks::Disks;
use crate::machine::MachineError;

const ROOT: &str = "/sys/fs/cgroup";

/// The agent's own limits that are in force.
pub fn observe(disks: &Disks) -> Vec<Limit> {
    let in_force = |limit: Limit| {
        let rates = read(&limit.cgroup, &number(disks, &limit.disk).ok()?);
        (rates != Rates::default()).then_some(Limit { rates, ..limit })
    };
    known(disks).into_iter().filter_map(in_force).collect()
}

/// The agent's own limits that somebody has changed or taken away, as they were set. Of a disk that is gone there is none.
pub fn lost(disks: &Disks) -> Vec<Limit> {
    let is_lost =
        |limit: &Limit| number(disks, &limit.disk).is_ok_and(|device| read(&limit.cgroup, &device) != limit.rates);
    known(disks).into_iter().filter(is_lost).collect()
}

/// Sets a limit, makes its cgroup where it is not there, and reads it back. Repeating it changes nothing.
pub fn set(disks: &Disks, limit: &Limit) -> Result<(), MachineError> {
    let Limit { disk, cgroup, rates } = limit;
    let device = number(disks, disk)?;
    let failed = |source| MachineError::os(format!("limit what {cgroup} reads and writes of {disk}"), source);
    let folder = Path::new(ROOT).join(cgroup);
    fs::create_dir_all(&folder).map_err(failed)?;
    // Each group above hands the controller down.
    let mut above: Vec<&Path> = folder.ancestors().skip(1).take_while(|at| at.starts_with(ROOT)).collect();
    above.reverse();
    for at in above {
        hand_down(at).map_err(failed)?;
    }
    // Written down before it is set: a limit of ours is never taken for somebody else's.
    let mut all = known(disks);
    all.retain(|known| !is_of(known, limit));
    all.push(limit.clone());
    keep(disks, &all).map_err(failed)?;
    fs::write(folder.join("io.max"), line(&device, rates)).map_err(failed)?;
    match read(cgroup, &device) {
        found if found == *rates => Ok(()),
        found => {
            let what = format!("the limits of {cgroup} at {disk}");
            Err(MachineError::ReadBack { what, found: found.in_words() })
        }
    }
}

/// Takes a limit away. The cgroup stays: others may have come to use it.
pub fn unset(disks: &Disks, limit: &Limit) -> Result<(), MachineError> {
    let Limit { disk, cgroup, .. } = limit;
    let failed = |source| MachineError::os(format!("take the limits of {cgroup} at {disk} away"), source);
    if let Ok(device) = number(disks, disk) {
        match fs::write(Path::new(ROOT).join(cgroup).join("io.max"), line(&device, &Rates::default())) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other.map_err(failed)?,
        }
    }
    let mut all = known(disks);
    all.retain(|known| !is_of(known, limit));
    keep(disks, &all).map_err(failed)
}

fn is_of(one: &Limit, other: &Limit) -> bool {
    one.disk == other.disk && one.cgroup == other.cgroup
}

fn hand_down(at: &Path) -> io::Result<()> {
    let control = at.join("cgroup.subtree_control");
    let has = fs::read_to_string(&control)?.split_ascii_whitespace().any(|name| name == "io");
    if has { Ok(()) } else { fs::write(control, "+io") }
}

fn number(disks: &Disks, disk: &DiskId) -> Result<String, MachineError> {
    let missing = || MachineError::Missing(disk.to_string());
    let (major, minor) = disks.node(&disks.find(disk)?.name).ok_or_else(missing)?.number;
    Ok(format!("{major}:{minor}"))
}

fn read(cgroup: &str, device: &str) -> Rates {
    let text = fs::read_to_string(Path::new(ROOT).join(cgroup).join("io.max")).unwrap_or_default();
    rates(&text, device)
}

/// What `io.max` says of a device: `8:0 rbps=1048576 wbps=max riops=max wiops=max`.
fn rates(text: &str, device: &str) -> Rates {
    let line = text.lines().find_map(|line| line.strip_prefix(device)?.strip_prefix(' ')).unwrap_or_default();
    let of = |key: &str| line.split_ascii_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    let (bytes, requests) = (|key| of(key)?.parse().ok(), |key| of(key)?.parse().ok());
    Rates {
        read_bytes: bytes("rbps"),
        write_bytes: bytes("wbps"),
        read_iops: requests("riops"),
        write_iops: requests("wiops"),
    }
}

/// One that is written to `io.max`, with a device's number in front.
fn line(device: &str, rates: &Rates) -> String {
    fn word(rate: Option<u64>) -> String {
        rate.map_or_else(|| "max".to_owned(), |rate| rate.to_string())
    }
    let Rates { read_bytes, write_bytes, read_iops, write_iops } = *rates;
    let (riops, wiops) = (word(read_iops.map(u64::from)), word(write_iops.map(u64::from)));
    format!("{device} rbps={} wbps={} riops={riops} wiops={wiops}", word(read_bytes), word(write_bytes))
}

fn file(disks: &Disks) -> PathBuf {
    disks.record().beside("io-limits")
}

/// A limit a line: the cgroup, and behind a tab the disk and its rates as in `io.max`.
fn known(disks: &Disks) -> Vec<Limit> {
    let text = fs::read_to_string(file(disks)).unwrap_or_default();
    text.lines().filter_map(limit).collect()
}

fn limit(text: &str) -> Option<Limit> {
    let (cgroup, line) = text.split_once('\t')?;
    let (disk, _) = line.split_once(" rbps=")?;
    Some(Limit { disk: disk.parse().ok()?, cgroup: cgroup.to_owned(), rates: rates(line, disk) })
}

fn keep(disks: &Disks, all: &[Limit]) -> io::Result<()> {
    let file = file(disks);
    file.parent().map_or(Ok(()), fs::create_dir_all)?;
    let text = all.iter().map(|limit| format!("{}\t{}\n", limit.cgroup, line(&limit.disk.to_string(), &limit.rates)));
    // Whole or not at all.
    let new = file.with_extension("new");
    fs::write(&new, text.collect::<String>())?;
    fs::rename(new, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_reads_back_as_what_was_written() {
        let all = Rates { read_bytes: Some(1 << 20), write_bytes: None, read_iops: Some(100), write_iops: Some(7) };
        assert_eq!(line("8:0", &all), "8:0 rbps=1048576 wbps=max riops=100 wiops=7");
        let text = format!("8:16 rbps=5 wbps=max riops=max wiops=max\n{}\n", line("8:0", &all));
        assert_eq!(rates(&text, "8:0"), all);
        assert_eq!(rates(&text, "8:1"), Rates::default(), "8:1 is not the beginning of 8:16");
        let kept = Limit { disk: "serial:A B".parse().expect("an id"), cgroup: "a/b c".into(), rates: all };
        assert_eq!(limit(&format!("a/b c\t{}", line("serial:A B", &all))), Some(kept));
        for wrong in ["", "8:0", "8:0 rbps", "8:0 rbps=x wbps=-1", "8:0rbps=5"] {
            assert_eq!(rates(wrong, "8:0"), Rates::default(), "{wrong:?}");
        }
    }
}
