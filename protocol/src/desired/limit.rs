//! How fast programs may read and write a disk: cgroup v2's `io.max`.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{DiskSelect, Problems, Storage};

/// The most limits of one document.
const LIMITS: usize = 64;
/// Bytes of a path below the cgroup filesystem, and names in it.
const GROUP_BYTES: usize = 255;
const GROUP_DEPTH: usize = 8;

/// How fast the programs of one cgroup may read and write one disk, its partitions included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoLimit {
    /// Which disk, by its name or its slot.
    pub disk: DiskSelect,
    /// Path of the cgroup below the cgroup filesystem, such as `system.slice`.
    pub cgroup: String,
    /// How fast.
    pub rates: Rates,
}

/// What is limited, and to what; `None` for no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rates {
    /// Bytes a second.
    pub read_bytes: Option<u64>,
    /// Bytes a second.
    pub write_bytes: Option<u64>,
    /// Requests a second.
    pub read_iops: Option<u32>,
    /// Requests a second.
    pub write_iops: Option<u32>,
}

impl Rates {
    /// In words: `read 10485760 bytes/s, write 100 requests/s`.
    pub fn in_words(&self) -> String {
        let bytes = |what: &str, rate: Option<u64>| rate.map(|rate| format!("{what} {rate} bytes/s"));
        let requests = |what: &str, rate: Option<u32>| rate.map(|rate| format!("{what} {rate} requests/s"));
        let all = [
            bytes("read", self.read_bytes),
            bytes("write", self.write_bytes),
            requests("read", self.read_iops),
            requests("write", self.write_iops),
        ];
        all.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

pub(super) fn check(storage: &Storage, problems: &mut Problems) {
    problems.at_most("storage.io_limits", storage.io_limits.len(), LIMITS);
    let mut known = BTreeSet::new();
    for (i, limit) in storage.io_limits.iter().enumerate() {
        let field = format!("storage.io_limits[{i}]");
        let name = match &limit.disk {
            DiskSelect::Id(id) => id.to_string(),
            DiskSelect::Path(path) => path.clone(),
            DiskSelect::Rule(_) => {
                problems.add(format!("{field}.device"), "name the disk by its WWN, its serial or its slot");
                continue;
            }
        };
        if !is_group(&limit.cgroup) {
            let problem = format!(
                "{:?} is no path of a cgroup: up to {GROUP_DEPTH} names with '/' between them, such as system.slice",
                limit.cgroup
            );
            problems.add(format!("{field}.cgroup"), problem);
        }
        if !known.insert((name, &limit.cgroup)) {
            problems.add(&field, "this cgroup's limits of this disk are described twice");
        }
        let Rates { read_bytes, write_bytes, read_iops, write_iops } = limit.rates;
        let bytes = [("read_bytes_per_second", read_bytes), ("write_bytes_per_second", write_bytes)];
        let requests = [("read_iops", read_iops.map(u64::from)), ("write_iops", write_iops.map(u64::from))];
        for (key, rate) in bytes.into_iter().chain(requests) {
            // The kernel takes its largest number for none.
            if rate == Some(0) || rate == Some(u64::MAX) || key.ends_with("iops") && rate == Some(u32::MAX.into()) {
                problems.add(format!("{field}.{key}"), "a limit is at least 1; leave the key out for none");
            }
        }
        if limit.rates == Rates::default() {
            problems.add(&field, "nothing is limited; give read_bytes_per_second, write_iops or the like");
        }
    }
}

/// Names as systemd's and as people's, and none of the kernel's own files.
fn is_group(path: &str) -> bool {
    let is_name = |name: &str| {
        let legal = |c: char| c.is_ascii_alphanumeric() || "-_.@:\\".contains(c);
        !name.is_empty()
            && name.chars().all(legal)
            && !name.starts_with('.')
            && !KERNELS.iter().any(|k| name.starts_with(k))
    };
    path.len() <= GROUP_BYTES && path.split('/').count() <= GROUP_DEPTH && path.split('/').all(is_name)
}

/// Beginnings of the names of files in every cgroup.
const KERNELS: [&str; 11] =
    ["cgroup.", "cpu.", "cpuset.", "io.", "memory.", "pids.", "rdma.", "hugetlb.", "misc.", "irq.", "dmem."];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::{Desired, check};

    fn problems(io_limits: Vec<IoLimit>) -> Vec<String> {
        let storage = Storage { io_limits, ..Storage::default() };
        let checked = check(Desired { network: None, storage: Some(storage) });
        checked.err().unwrap_or_default().iter().map(ToString::to_string).collect()
    }

    fn limit(cgroup: &str, rates: Rates) -> IoLimit {
        IoLimit { disk: DiskSelect::Id("serial:D".parse().expect("an id")), cgroup: cgroup.into(), rates }
    }

    #[test]
    fn limits_say_a_cgroup_and_a_rate_and_nothing_twice() {
        let rates = Rates { read_bytes: Some(1), write_iops: Some(1), ..Rates::default() };
        assert_eq!(rates.in_words(), "read 1 bytes/s, write 1 requests/s");
        for good in ["system.slice", "machine.slice/a@b:c-1\\x2d", "a/b/c/d/e/f/g/h"] {
            assert_eq!(problems(vec![limit(good, rates)]), [""; 0], "{good}");
        }
        for bad in ["", "/", "/a", "a/", "a//b", "..", "a/../b", "a b", "io.max", "a/cgroup.procs", "a/b/c/d/e/f/g/h/i"]
        {
            let said = problems(vec![limit(bad, rates)]);
            assert!(said.len() == 1 && said[0].starts_with("storage.io_limits[0].cgroup: "), "{bad}: {said:?}");
        }
        let twice = problems(vec![limit("a", rates), limit("b", rates), limit("a", rates)]);
        assert_eq!(twice, ["storage.io_limits[2]: this cgroup's limits of this disk are described twice"]);
        let none = problems(vec![limit("a", Rates::default())]);
        assert!(none[0].starts_with("storage.io_limits[0]: nothing is limited"), "{none:?}");
        for zero in [
            Rates { read_bytes: Some(0), ..Rates::default() },
            Rates { write_bytes: Some(u64::MAX), ..Rates::default() },
            Rates { write_iops: Some(u32::MAX), ..Rates::default() },
        ] {
            assert_eq!(problems(vec![limit("a", zero)]).len(), 1, "{zero:?}");
        }
    }
}
