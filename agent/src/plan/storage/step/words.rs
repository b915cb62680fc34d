//! Steps and what they are about, in words.

use muster_protocol::desired::{ARRAYS, Key, OPENED, Tree, TreeMount, VolumeKind, VolumeSize};
use muster_protocol::observed;
use muster_protocol::{Digest, DiskId, MachineId};

use super::super::{in_list, in_words, list, size};
use super::{Carries, Device, Over, StartBy, Step, Target};

impl Target {
    /// For people: `partition 1 of serial:S1`, `/dev/md/data`.
    pub fn in_words(&self) -> String {
        match &self.device {
            Device::Partition { disk, slot } => format!("partition {} of {disk}", slot.number),
            Device::Array { name, uuid: Some(uuid) } if name.is_empty() => {
                format!("the array {}", observed::md_uuid(uuid))
            }
            Device::Array { name, .. } => format!("{ARRAYS}{name}"),
            Device::Luks { name } => format!("{OPENED}{name}"),
            Device::Volume { group, name } => format!("/dev/{group}/{name}"),
        }
    }

    /// As a document's fields name it: `serial:S1/1`, `/dev/md/data`.
    pub(in super::super) fn field(&self) -> String {
        match &self.device {
            Device::Partition { disk, slot } => format!("{disk}/{}", slot.number),
            Device::Array { .. } | Device::Luks { .. } | Device::Volume { .. } => self.in_words(),
        }
    }
}

impl Over {
    fn in_words(&self) -> String {
        let carries = match &self.carries {
            Carries::Nothing => "blank".to_owned(),
            Carries::Ours(_) => "an unfinished piece of an earlier try".to_owned(),
            Carries::This(found) => format!("carries {}", in_words(found, &[])),
            Carries::Remains => "remains of the replaced table".to_owned(),
        };
        match self.on.size_bytes {
            0 => format!("{} ({carries})", self.on.in_words()),
            bytes => format!("{} ({}, {carries})", self.on.in_words(), size(bytes)),
        }
    }
}

impl Step {
    /// One line, imperative.
    pub(in super::super) fn action(&self) -> String {
        match self {
            Self::Unmount { on, path } => format!("unmount {path}, {}", on.in_words()),
            Self::Partition { disk, before, slots, .. } => format!(
                "write a GPT to {disk} ({}, {}): {}",
                size(before.size_bytes),
                in_words(&before.contents, &before.partitions),
                list(slots)
            ),
            Self::Image { disk, before, image } => image.action(disk, before),
            Self::Edit { disk, before, deleted, grown, added, .. } => {
                let lost = before.partitions.iter().filter(|p| deleted.contains(&p.number));
                let lost = lost.map(|p| format!("{} ({})", p.number, in_words(&p.contents, &[])));
                let parts = [
                    ("delete from", lost.collect::<Vec<_>>().join(", ")),
                    ("grow in", grown.iter().map(in_list).collect::<Vec<_>>().join(", ")),
                    ("add to", added.iter().map(in_list).collect::<Vec<_>>().join(", ")),
                ];
                let parts = parts.iter().filter(|(_, what)| !what.is_empty());
                parts.map(|(how, what)| format!("{how} the GPT of {disk}: {what}")).collect::<Vec<_>>().join("; ")
            }
            Self::Format { on, make, .. } => {
                let uuid = make.uuid.map(|uuid| format!(", UUID {uuid}")).unwrap_or_default();
                let (name, label, options) = (make.format.name(), labeled(&make.label), with(&make.options));
                format!("make {name} on {}{label}{uuid}{options}", on.in_words())
            }
            Self::Mount { on, mount, .. } => {
                format!("mount {} at {}{}", on.in_words(), mount.path, bracketed(&mount.options))
            }
            Self::Remount { on, mount } => {
                let options = if mount.options.is_empty() { "defaults".to_owned() } else { mount.options.join(",") };
                format!("mount {}, {}, with other options: {options}", mount.path, on.in_words())
            }
            Self::Grow { on, format, path, from_bytes } => format!(
                "grow {} at {path}, {}, from {} to {}",
                format.name(),
                on.in_words(),
                size(*from_bytes),
                size(on.size_bytes)
            ),
            Self::SwapOn { on } => format!("swap to {}", on.in_words()),
            Self::SwapOff { on } => format!("stop swapping to {}", on.in_words()),
            Self::MakeArray { array, level, members, spares, options, .. } => {
                let spare = match spares {
                    0 => String::new(),
                    1 => ", the last one a spare".to_owned(),
                    spares => format!(", the last {spares} spares"),
                };
                let (name, level, with) = (array.in_words(), level.name(), with(options));
                format!("make the {level} array {name} of {}{spare}{with}", overs(members))
            }
            Self::Assemble { array, members } => {
                let members: Vec<String> = members.iter().map(Target::in_words).collect();
                format!("run the array {}: {}", array.in_words(), members.join(", "))
            }
            Self::AddMember { array, member, .. } => {
                format!("add {} to the array {}, which lacks a member", member.in_words(), array.in_words())
            }
            Self::Stop { array } => format!("stop the array {}", array.in_words()),
            Self::MakeLuks { on, luks, .. } => {
                let uuid = luks.uuid.map(|uuid| format!(", UUID {}", MachineId::from_bytes(uuid))).unwrap_or_default();
                let key = match luks.key {
                    Key::Controller => "a key that the controller keeps",
                    Key::Tpm => "a key of this machine's TPM",
                };
                let (label, options) = (labeled(&luks.label), with(&luks.options));
                format!("encrypt {} with LUKS2 and {key}{label}{uuid}{options}", on.in_words())
            }
            Self::Open { luks, on, .. } => format!("open {} as {}", on.in_words(), luks.in_words()),
            Self::Close { luks } => format!("close {}", luks.in_words()),
            Self::GrowLuks { luks, on } => format!("let {} have all of {}", luks.in_words(), on.in_words()),
            Self::MakeGroup { group, members, .. } => {
                format!("make the volume group {} of {}", group.name, overs(members))
            }
            Self::ExtendGroup { group, members, .. } => {
                format!("extend the volume group {} by {}", group.name, overs(members))
            }
            Self::GrowMember { group, member } => {
                format!("let the volume group {} have all of {}", group.name, member.in_words())
            }
            Self::Activate { group, volumes } => {
                format!("activate {} of the volume group {}", volumes.join(", "), group.name)
            }
            Self::Deactivate { group, volumes } => {
                format!("deactivate {} of the volume group {}", volumes.join(", "), group.name)
            }
            Self::MakeVolume { volume, kind, size, .. } => {
                let (name, size) = (volume.in_words(), sized(*size));
                match kind {
                    VolumeKind::Linear => format!("make the logical volume {name}, {size}"),
                    VolumeKind::Pool => format!("make the thin pool {name}, {size}"),
                    VolumeKind::Thin { pool } => format!("make the thin volume {name} in {pool}, {size}"),
                }
            }
            Self::GrowVolume { volume, from_bytes, .. } => {
                format!("grow {} from {} to {}", volume.in_words(), size(*from_bytes), size(volume.size_bytes))
            }
            Self::Attach { tree: TreeMount { what: Tree::Tmpfs, mount } } => {
                format!("mount a tmpfs at {}{}", mount.path, bracketed(&mount.options))
            }
            Self::Attach { tree: TreeMount { what: Tree::Bind(from), mount } } => {
                format!("show {from} at {} too{}", mount.path, bracketed(&mount.options))
            }
            Self::Reattach { tree: TreeMount { mount, .. } } => {
                let options = if mount.options.is_empty() { "defaults".to_owned() } else { mount.options.join(",") };
                format!("mount {} with other options: {options}", mount.path)
            }
            Self::Detach { tree } => format!("unmount {}", tree.mount.path),
            Self::Limit { limit } => {
                format!("let {} {} of {} and no more", limit.cgroup, limit.rates.in_words(), limit.disk)
            }
            Self::Unlimit { limit } => format!("take the limits of {} at {} away", limit.cgroup, limit.disk),
            Self::Start { from, how } => started(from, how),
        }
    }
}

fn started(from: &[(DiskId, Digest)], how: &StartBy) -> String {
    let disk = |(disk, image): &(DiskId, Digest)| format!("{disk} (disk image {})", &image.to_string()[..16]);
    let disks = from.iter().map(disk).collect::<Vec<_>>().join(" and ");
    match how {
        StartBy::Entry if from.is_empty() => {
            "take what an earlier document had the firmware start out of its boot order".to_owned()
        }
        StartBy::Entry => format!("have the firmware start {disks} where what starts this machine now gives up"),
        StartBy::FirstDisk => format!(
            "enter nothing into the firmware, a BIOS has no entries: iPXE starts the first disk, which has to be {disks}"
        ),
        StartBy::Itself { why } => format!(
            "enter nothing into the firmware, which takes no entries ({why}): where it does not try {disks} by itself, enter \
             it in its setup"
        ),
    }
}

fn bracketed(options: &[String]) -> String {
    if options.is_empty() { String::new() } else { format!(" ({})", options.join(",")) }
}

fn labeled(label: &str) -> String {
    if label.is_empty() { String::new() } else { format!(", labeled {label:?}") }
}

fn with(options: &[String]) -> String {
    if options.is_empty() { String::new() } else { format!(", with {}", options.join(" ")) }
}

fn overs(members: &[Over]) -> String {
    members.iter().map(Over::in_words).collect::<Vec<_>>().join(", ")
}

fn sized(wanted: VolumeSize) -> String {
    match wanted {
        VolumeSize::Mib(mib) => size(mib.saturating_mul(1 << 20)),
        VolumeSize::Percent(percent) => format!("{percent} % of the group"),
        VolumeSize::Rest => "all that is left".to_owned(),
    }
}
