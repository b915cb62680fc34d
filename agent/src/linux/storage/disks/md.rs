//! Arrays of Linux md that run, out of sysfs (Linux kernel, Documentation/admin-guide/md.rst).
//!
//! Called by `inventory`, every few seconds, and by `layers`. Opens no disk: a handful of small files for each array.

use std::path::{Path, PathBuf};

use muster_protocol::bounded::{ARRAY_MEMBERS, ARRAYS};
use muster_protocol::inventory::{Array, ArrayState};
use muster_protocol::observed::{ArrayMember, MemberState, Sync};

use crate::linux::sysfs;
use crate::linux::text::clean;
use crate::sort;

/// Those that the kernel knows, by kernel name; of more than are told, those that somebody should look at first. `root` is `/`, or a test's.
pub fn list(root: &Path) -> Vec<Array> {
    with_members(root).into_iter().map(|(array, _)| array).collect()
}

/// The same, with their members.
pub(super) fn with_members(root: &Path) -> Vec<(Array, Vec<ArrayMember>)> {
    let block = root.join("sys/block");
    let names = sysfs::names(&block);
    let mut all: Vec<_> = names.iter().filter_map(|name| array(name, &block.join(name).join("md"))).collect();
    if all.len() > ARRAYS {
        // The sort is stable.
        sort::short(&mut all, |(a, _), (b, _)| b.is_troubled().cmp(&a.is_troubled()));
        all.truncate(ARRAYS);
    }
    all
}

/// What md does with an array in the background.
pub fn sync(device: &Path) -> Option<Sync> {
    let folder = device.join("md");
    let action = sysfs::text(folder.join("sync_action")).filter(|action| !matches!(&**action, "idle" | "frozen"))?;
    let done = sysfs::text(folder.join("sync_completed"));
    let done = done.and_then(|text| {
        let (done, all) = text.split_once('/')?;
        let (done, all) = (done.trim().parse::<u64>().ok()?, all.trim().parse::<u64>().ok()?);
        Some((u128::from(done) * 100 / u128::from(all.max(1))).min(100) as u8)
    });
    Some(Sync { action, percent: done.unwrap_or(0) })
}

fn array(name: &str, folder: &Path) -> Option<(Array, Vec<ArrayMember>)> {
    // A device without level, size and members is no array: the kernel makes one whenever its node is opened.
    let state = sysfs::text(folder.join("array_state")).filter(|state| state != "clear")?;
    let level = sysfs::text(folder.join("level")).unwrap_or_default();
    // While its shape is changed, the number that was is told behind the new one.
    let devices = sysfs::text(folder.join("raid_disks")).unwrap_or_default();
    let devices = devices.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0);
    let members: Vec<ArrayMember> = sysfs::names(folder).iter().filter_map(|entry| member(entry, folder)).collect();
    let lacks = sysfs::number(folder.join("degraded")).unwrap_or(0);
    let is_filling = members.iter().any(|member| member.state == MemberState::Rebuilding);
    let state = match &*state {
        "inactive" => ArrayState::Inactive,
        "broken" => ArrayState::Failed,
        _ if lacks == 0 => ArrayState::Whole,
        _ if lacks > spares_of(&level, devices) => ArrayState::Failed,
        _ if is_filling => ArrayState::Rebuilding,
        _ => ArrayState::Degraded,
    };
    Some(told(name, level, devices, state, members))
}

/// An array of these members, as many as are told.
pub(super) fn told(
    name: &str,
    level: String,
    devices: u16,
    state: ArrayState,
    mut members: Vec<ArrayMember>,
) -> (Array, Vec<ArrayMember>) {
    let has = |slot: &u16| members.iter().any(|member| member.slot == Some(*slot));
    let missing = (0..devices).filter(|slot| !has(slot)).collect();
    let faulty = members.iter().filter(|member| member.state == MemberState::Faulty);
    let faulty = clean(&faulty.map(|member| &*member.name).collect::<Vec<_>>().join(" "));
    members.truncate(ARRAY_MEMBERS);
    (Array { name: name.into(), level, devices, state, missing, faulty }, members)
}

/// So many members may fail. Which ones matters for some levels: the kernel says itself that those are broken.
fn spares_of(level: &str, devices: u16) -> u16 {
    match level {
        "raid4" | "raid5" => 1,
        "raid6" => 2,
        _ => devices.saturating_sub(1),
    }
}

fn member(entry: &str, folder: &Path) -> Option<ArrayMember> {
    let name = entry.strip_prefix("dev-")?;
    let path: PathBuf = folder.join(entry);
    let state = sysfs::text(path.join("state")).unwrap_or_default();
    let is = |word: &str| state.split(',').any(|other| other == word);
    let slot: Option<u16> = sysfs::number(path.join("slot"));
    let state = match slot {
        _ if is("faulty") => MemberState::Faulty,
        _ if is("journal") => MemberState::Journal,
        _ if is("in_sync") => MemberState::InSync,
        Some(_) => MemberState::Rebuilding,
        None => MemberState::Spare,
    };
    let slot = slot.filter(|_| matches!(state, MemberState::InSync | MemberState::Rebuilding));
    Some(ArrayMember { name: name.into(), slot, state })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A machine with one array, as the kernel shows it.
    fn machine(level: &str, state: &str, degraded: &str, members: &[(&str, &str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a folder");
        let folder = root.path().join("sys/block/md127/md");
        let put = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, format!("{text}\n")).expect("written");
        };
        put("level", level);
        put("array_state", state);
        put("raid_disks", "2");
        if !degraded.is_empty() {
            put("degraded", degraded);
        }
        put("sync_action", "recover");
        put("sync_completed", "1024 / 4096");
        for (name, state, slot) in members {
            put(&format!("dev-{name}/state"), state);
            put(&format!("dev-{name}/slot"), slot);
        }
        fs::create_dir_all(root.path().join("sys/block/vda")).expect("made");
        root
    }

    fn only(root: &tempfile::TempDir) -> Array {
        let mut all = list(root.path());
        assert_eq!(all.len(), 1);
        all.remove(0)
    }

    #[test]
    fn an_array_tells_how_it_is_and_what_it_lacks() {
        let pair = [("sda1", "in_sync", "0"), ("sdb1", "in_sync,write_error", "1")];
        let whole = only(&machine("raid1", "clean", "0", &pair));
        assert_eq!((whole.state, whole.in_words().as_str()), (ArrayState::Whole, "md127 (raid1): whole"));
        let failed = only(&machine("raid1", "active", "1", &[pair[0], ("sdb1", "faulty", "none")]));
        assert_eq!(failed.state, ArrayState::Degraded);
        assert_eq!(failed.in_words(), "md127 (raid1): degraded, lacks member 1 of 2; faulty: sdb1");
        let pulled = only(&machine("raid1", "active", "1", &pair[..1]));
        assert_eq!(pulled.in_words(), "md127 (raid1): degraded, lacks member 1 of 2");
        let filled = only(&machine("raid1", "active", "1", &[pair[0], ("sdc1", "spare", "1")]));
        assert_eq!((filled.state, filled.missing.iter().count()), (ArrayState::Rebuilding, 0));
        let spared = machine("raid1", "clean", "0", &[pair[0], pair[1], ("sdc1", "spare", "none")]);
        let (array, members) = with_members(spared.path()).remove(0);
        assert_eq!((array.state, members[2].state), (ArrayState::Whole, MemberState::Spare));
    }

    #[test]
    fn an_array_that_lacks_more_than_it_can_has_failed() {
        for (level, state, degraded, is) in [
            ("raid5", "active", "1", ArrayState::Degraded),
            ("raid5", "active", "2", ArrayState::Failed),
            ("raid6", "active", "2", ArrayState::Degraded),
            ("raid6", "active", "3", ArrayState::Failed),
            ("raid1", "active", "2", ArrayState::Failed),
            ("raid0", "broken", "", ArrayState::Failed),
            ("raid0", "clean", "", ArrayState::Whole),
            ("raid1", "inactive", "", ArrayState::Inactive),
        ] {
            assert_eq!(only(&machine(level, state, degraded, &[])).state, is, "{level} {state} {degraded}");
        }
    }

    #[test]
    fn a_device_of_md_that_nothing_was_put_into_is_no_array() {
        assert_eq!(list(machine("", "clear", "", &[]).path()), []);
    }

    #[test]
    fn how_far_md_is_is_told_apart() {
        let root = machine("raid1", "active", "1", &[]);
        let device = root.path().join("sys/block/md127");
        assert_eq!(sync(&device), Some(Sync { action: "recover".into(), percent: 25 }));
        for (done, percent) in [("none", 0), ("delayed", 0), ("9 / 0", 100), ("18446744073709551615 / 1", 100)] {
            fs::write(device.join("md/sync_completed"), done).expect("written");
            assert_eq!(sync(&device).map(|sync| sync.percent), Some(percent), "{done}");
        }
        fs::write(device.join("md/sync_action"), "idle\n").expect("written");
        assert_eq!(sync(&device), None);
    }

    #[test]
    fn of_a_large_array_the_failures_are_told_all_the_same() {
        let member = |i: u16| ArrayMember {
            name: format!("sd{i}"),
            slot: Some(i).filter(|i| i % 40 != 39),
            state: if i % 40 == 39 { MemberState::Faulty } else { MemberState::InSync },
        };
        let (array, members) = told("md0", "raid6".into(), 200, ArrayState::Failed, (0..200).map(member).collect());
        assert_eq!((members.len(), array.faulty.as_str()), (ARRAY_MEMBERS, "sd39 sd79 sd119 sd159 sd199"));
        assert_eq!(array.missing.iter().collect::<Vec<_>>(), [39], "the first 64 places are told");
        let (none, _) = told("md0", "raid6".into(), u16::MAX, ArrayState::Failed, vec![]);
        assert_eq!(none.missing.iter().count(), 64);
    }
}
