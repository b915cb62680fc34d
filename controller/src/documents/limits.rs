//! `storage.io_limits:` into [`IoLimit`]s: how fast programs may read and write a disk.
//!
//! Called by [`super::storage`]. Butane has no word for these; what they mean is cgroup v2's `io.max`.

use muster_protocol::desired::{IoLimit, Rates};

use super::device::{self, Device};
use super::reader::{Fields, Findings, Keys};

const LIMIT: Keys = Keys {
    supported: &["device", "cgroup", "read_bytes_per_second", "write_bytes_per_second", "read_iops", "write_iops"],
    known: &[],
};

/// Where systemd puts services, on whatever system the agent is one of them.
pub(super) const SERVICES: &str = "system.slice";

/// Reads the list. What cannot be read is left out.
pub(super) fn read(storage: &Fields<'_>, findings: &mut Findings) -> Vec<IoLimit> {
    let items = findings.items(storage, "io_limits");
    items.into_iter().filter_map(|(at, node)| limit(&findings.fields(node, &at, &LIMIT)?, findings)).collect()
}

fn limit(fields: &Fields<'_>, findings: &mut Findings) -> Option<IoLimit> {
    findings.require(fields, "device", "the disk's WWN or serial, such as wwn:0x5000c500a1b2c3d4");
    let rate = "a whole number, at least 1";
    let rates = Rates {
        read_bytes: findings.number(fields, "read_bytes_per_second", rate),
        write_bytes: findings.number(fields, "write_bytes_per_second", rate),
        read_iops: findings.number(fields, "read_iops", rate),
        write_iops: findings.number(fields, "write_iops", rate),
    };
    let cgroup = match fields.get("cgroup") {
        Some(_) => findings.text(fields, "cgroup")?,
        None => SERVICES,
    };
    let node = fields.get("device")?;
    let problem = match device::read(findings.text(fields, "device")?) {
        Ok(Device::Disk(disk)) => return Some(IoLimit { disk, cgroup: cgroup.to_owned(), rates }),
        Ok(Device::Partition(..) | Device::Label(_)) => {
            "the kernel limits whole disks; name the disk, not a partition of it".to_owned()
        }
        Ok(Device::Array(_) | Device::Mapped(_) | Device::Volume(..)) => {
            "limits are for disks; name those beneath, each by its WWN or serial".to_owned()
        }
        Err(problem) => problem,
    };
    findings.add(node.place, fields.path("device"), problem);
    None
}
