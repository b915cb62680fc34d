//! Processors: /proc/cpuinfo for model and flags, /sys/devices/system/cpu for how they hang together.
//!
//! Called by `inventory`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use muster_protocol::inventory::Cpu;

use crate::linux::sysfs;
use crate::linux::text::clean;

/// Flags that someone chooses machines by, sorted.
const FLAGS: [&str; 26] = [
    "aes",
    "amx_tile",
    "avx",
    "avx2",
    "avx512_vnni",
    "avx512bw",
    "avx512f",
    "avx512vl",
    "avx_vnni",
    "hypervisor",
    "lm",
    "nx",
    "pclmulqdq",
    "pdpe1gb",
    "rdrand",
    "rdseed",
    "sev",
    "sev_es",
    "sev_snp",
    "sgx",
    "sha_ni",
    "sse4_2",
    "svm",
    "vaes",
    "vmx",
    "x2apic",
];

/// Processors that are running.
pub(super) fn cpu(root: &Path) -> Cpu {
    let cpuinfo = fs::read_to_string(root.join("proc/cpuinfo")).unwrap_or_default();
    let values = |key: &str| -> Vec<&str> {
        let pairs = cpuinfo.lines().filter_map(|line| line.split_once(':'));
        pairs.filter(|(k, _)| k.trim() == key).map(|(_, value)| value.trim()).collect()
    };
    let has: Vec<&str> = values("flags").first().map(|flags| flags.split_whitespace().collect()).unwrap_or_default();

    let folder = root.join("sys/devices/system/cpu");
    let (mut packages, mut cores, mut threads) = (BTreeSet::new(), BTreeSet::new(), 0_usize);
    for name in sysfs::names(&folder).iter().filter(|name| is_cpu(name)) {
        let topology = folder.join(name).join("topology");
        // A processor that is switched off has no topology.
        let number = |name: &str| sysfs::number::<i64>(topology.join(name));
        let Some(core) = number("core_id") else { continue };
        let package = number("physical_package_id").unwrap_or(0);
        packages.insert(package);
        cores.insert((package, number("die_id").unwrap_or(0), core));
        threads += 1;
    }
    if threads == 0 {
        threads = values("processor").len();
        cores.extend((0..threads).map(|n| (0, 0, n as i64)));
        packages.extend((threads > 0).then_some(0));
    }
    let count = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
    Cpu {
        model: values("model name").first().map(|model| clean(model)).unwrap_or_default(),
        sockets: count(packages.len()),
        cores: count(cores.len()),
        threads: count(threads),
        flags: FLAGS.iter().filter(|flag| has.contains(flag)).map(|&flag| flag.to_owned()).collect(),
    }
}

fn is_cpu(name: &str) -> bool {
    name.strip_prefix("cpu").is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}
