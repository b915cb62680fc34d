//! What a device of the device mapper is, by the name and UUID that its maker gave it.
//!
//! Called by `held` and `layers`. Reads sysfs only: LVM2 (lib/activate/dev_manager.c) and cryptsetup (lib/libdevmapper.c)
//! write their own UUIDs into those of their devices.

use std::path::Path;

use muster_protocol::observed::LvmId;

use crate::linux::sysfs;

/// A device of the device mapper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mapped {
    /// A logical volume that LVM may show.
    Volume {
        /// `GROUP/NAME`.
        path: String,
        /// Of the group, and of the volume.
        uuids: (LvmId, LvmId),
    },
    /// A part that LVM makes of a volume for itself.
    Part {
        /// `GROUP/NAME`.
        path: String,
    },
    /// An open LUKS device.
    Luks {
        /// The name that it was opened under.
        name: String,
        /// In its header, as cryptsetup prints it.
        uuid: String,
    },
    /// Anything else.
    Unknown {
        /// Its name.
        name: String,
    },
}

impl Mapped {
    /// What the device of this folder in sysfs is; `None` for one that is no device mapper's.
    pub fn at(device: &Path) -> Option<Self> {
        let name = sysfs::text(device.join("dm/name"))?;
        let uuid = sysfs::text(device.join("dm/uuid")).unwrap_or_default();
        Some(Self::called(name, &uuid))
    }

    fn called(name: String, uuid: &str) -> Self {
        if let Some(rest) = uuid.strip_prefix("LVM-") {
            let path = volume_path(&name);
            let ids = || Some((rest.get(..32)?.parse().ok()?, rest.get(32..64)?.parse().ok()?));
            // A thin pool is known by what its thin volumes use: its own device is there only where somebody asked for it.
            return match ids() {
                Some(uuids) if matches!(&rest[64..], "" | "-tpool") => Self::Volume { path, uuids },
                _ => Self::Part { path },
            };
        }
        let luks = uuid.strip_prefix("CRYPT-LUKS").and_then(|rest| rest.split_once('-'));
        match luks.and_then(|(_, rest)| rest.get(..32)) {
            Some(hex) if hex.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
                let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
                Self::Luks { name, uuid: parts.join("-") }
            }
            _ => Self::Unknown { name },
        }
    }

    /// Who holds what is below, for people.
    pub fn in_words(&self) -> String {
        match self {
            Self::Volume { path, .. } | Self::Part { path } => format!("the volume {path}"),
            Self::Luks { name, .. } => format!("the LUKS device that is open as {name}"),
            Self::Unknown { name } => format!("the mapped device {name}"),
        }
    }
}

/// `group-volume`, in which a dash that is part of either is written twice.
fn volume_path(name: &str) -> String {
    let mut path = String::with_capacity(name.len());
    let mut chars = name.chars().peekable();
    let mut is_volume = false;
    while let Some(char) = chars.next() {
        match char {
            '-' if chars.next_if_eq(&'-').is_some() => path.push('-'),
            '-' if !is_volume => {
                is_volume = true;
                path.push('/');
            }
            other => path.push(other),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_known_by_what_made_them() {
        let (group, volume) = ("g".repeat(32), "v".repeat(32));
        let called = |name: &str, uuid: &str| Mapped::called(name.into(), uuid);
        let data = called("my--group-my--data", &format!("LVM-{group}{volume}"));
        let uuids = (group.parse().expect("an id"), volume.parse().expect("an id"));
        assert_eq!(data, Mapped::Volume { path: "my-group/my-data".into(), uuids });
        assert_eq!(data.in_words(), "the volume my-group/my-data");
        let part = called("vg-pool_tdata", &format!("LVM-{group}{volume}-tdata"));
        assert_eq!(part, Mapped::Part { path: "vg/pool_tdata".into() });
        let luks = called("vault", "CRYPT-LUKS2-6ba7b8109dad41d180b400c04fd430c8-vault");
        assert_eq!(luks.in_words(), "the LUKS device that is open as vault");
        let Mapped::Luks { uuid, .. } = luks else { panic!("{luks:?}") };
        assert_eq!(uuid, "6ba7b810-9dad-41d1-80b4-00c04fd430c8");
        for strange in ["", "CRYPT-LUKS2-", "CRYPT-LUKS2-6ba7-vault", "CRYPT-PLAIN-vault", "mpath-1"] {
            assert_eq!(called("x", strange), Mapped::Unknown { name: "x".into() }, "{strange}");
        }
        for strange in ["LVM-", "LVM-ä", &format!("LVM-{}", "ä".repeat(32))] {
            assert_eq!(called("x", strange), Mapped::Part { path: "x".into() }, "{strange}");
        }
    }
}
