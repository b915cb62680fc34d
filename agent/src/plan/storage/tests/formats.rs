//! Kinds of filesystems, their options, and how they grow.

use muster_protocol::desired::VolumeId;

use super::*;

const UUID: &str = "9d3c2c5e-6a4b-4f4e-8d9c-0a1b2c3d4e5f";

fn made(format: Format, change: impl Fn(&mut desired::Filesystem)) -> Storage {
    let mut filesystem = desired::Filesystem { format, ..fs(1, "data", "/srv/data") };
    if format == Format::Swap {
        filesystem.used = Use::Swap;
    }
    change(&mut filesystem);
    want(vec![part(1, "p", None)], vec![filesystem])
}

/// A 10 GiB disk with one partition that carries this.
fn carrying(format: Format, change: impl Fn(&mut Filesystem)) -> Disk {
    let at = if format == Format::Swap { SWAP } else { "/srv/data" };
    let (kind, label, uuid) = (format.name().into(), "data".into(), UUID.into());
    let mut found = Filesystem { kind, label, uuid, mounted_at: at.into(), ..Filesystem::default() };
    change(&mut found);
    disk("S1", gpt(), vec![there(1, "p", 1, 9 * 1024, Contents::Filesystem(found.into()))])
}

fn options(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn mounted(with: &[&str]) -> impl Fn(&mut desired::Filesystem) {
    move |f| f.used = Use::Mount(Mount { path: "/srv/data".into(), options: options(with) })
}

#[test]
fn every_format_is_made_as_it_is_called_and_put_to_its_use() {
    let blank = disk("S1", Contents::Blank, vec![]);
    let storage = made(Format::Xfs, |f| {
        f.uuid = Format::Xfs.volume_id(UUID);
        f.options = options(&["-m", "reflink=0"]);
        mounted(&["ro", "noatime"])(f);
    });
    let steps = words(&storage, std::slice::from_ref(&blank));
    assert_eq!(
        steps[1..],
        [
            format!(
                "make xfs on partition 1 of serial:S1 (9.9 GiB, blank), labeled \"data\", UUID {UUID}, with -m reflink=0"
            ),
            "mount partition 1 of serial:S1 at /srv/data (ro,noatime)".to_owned(),
        ]
    );
    assert_eq!(
        words(&made(Format::Swap, |_| {}), &[blank])[1..],
        [
            "make swap on partition 1 of serial:S1 (9.9 GiB, blank), labeled \"data\"",
            "swap to partition 1 of serial:S1"
        ]
    );
}

#[test]
fn one_of_the_same_kind_label_and_uuid_is_kept() {
    for format in Format::ALL {
        assert_eq!(words(&made(format, |_| {}), &[carrying(format, |_| {})]), [""; 0], "{format:?}");
    }
    let with = |uuid: &str| {
        let uuid = Format::Ext4.volume_id(uuid);
        made(Format::Ext4, move |f| f.uuid = uuid)
    };
    assert_eq!(words(&with(&UUID.to_uppercase()), &[carrying(Format::Ext4, |_| {})]), [""; 0]);
    let other = with("11111111-2222-4333-8444-555555555555");
    let text = refusal(&other, &[carrying(Format::Ext4, |_| {})]);
    assert!(
        text.contains(&format!("ext4 labeled \"data\" with the UUID {UUID}")) && text.contains("wipe_filesystem"),
        "{text}"
    );
    assert!(words(&reformatting(other), &[carrying(Format::Ext4, |_| {})])[1].starts_with("DESTROYS make ext4"));
    let fat = made(Format::Vfat, |f| f.uuid = Some(VolumeId::Serial(0x1a2b_3c4d)));
    assert_eq!(words(&fat, &[carrying(Format::Vfat, |f| f.uuid = "1A2B-3C4D".into())]), [""; 0]);
}

#[test]
fn another_kind_is_replaced_only_with_leave() {
    for (wanted, there) in [(Format::Xfs, Format::Ext4), (Format::Swap, Format::Btrfs), (Format::Ext4, Format::Swap)] {
        let have = carrying(there, |f| f.mounted_at = String::new());
        let text = refusal(&made(wanted, |_| {}), std::slice::from_ref(&have));
        assert!(text.contains(there.name()) && text.contains("wipe_filesystem: true"), "{text}");
        assert!(words(&reformatting(made(wanted, |_| {})), &[have])[0].starts_with("DESTROYS make"));
    }
}

#[test]
fn what_was_not_finished_is_never_kept() {
    for (format, label) in [(Format::Ext4, "muster-mkfs"), (Format::Vfat, "MUSTER-MKFS")] {
        let have = carrying(format, |f| (f.label, f.mounted_at) = (label.into(), String::new()));
        let text = refusal(&made(format, |_| {}), &[have]);
        assert!(text.contains("an unfinished"), "{text}");
    }
}

#[test]
fn a_partition_that_is_too_small_for_its_format_is_refused() {
    let small = Disk { size_bytes: 200 * MIB, ..disk("S1", Contents::Blank, vec![]) };
    let text = refusal(&made(Format::Xfs, |_| {}), &[small]);
    assert!(text.starts_with("storage.filesystems.serial:S1/1.format: xfs needs at least 300 MiB"), "{text}");
}

#[test]
fn options_of_every_filesystem_change_where_it_stands_and_its_own_with_a_mount() {
    let have = |with: &'static [&'static str]| carrying(Format::Ext4, |f| f.mount_options = options(with));
    let want = |with: &[&str]| made(Format::Ext4, mounted(with));
    assert_eq!(words(&want(&["ro", "commit=5"]), &[have(&["ro", "commit=5"])]), [""; 0]);
    assert_eq!(
        words(&want(&["noatime", "commit=5"]), &[have(&["ro", "commit=5"])]),
        ["mount /srv/data, partition 1 of serial:S1, with other options: noatime,commit=5"]
    );
    assert_eq!(
        words(&want(&[]), &[have(&["ro"])]),
        ["mount /srv/data, partition 1 of serial:S1, with other options: defaults"]
    );
    assert_eq!(
        words(&want(&["ro"]), &[have(&["ro", "commit=5"])]),
        ["unmount /srv/data, partition 1 of serial:S1", "mount partition 1 of serial:S1 at /srv/data (ro)"]
    );
}

#[test]
fn what_comes_back_on_top_of_another_comes_with_its_options() {
    let inner = |with: &[&str]| Filesystem {
        kind: "xfs".into(),
        mounted_at: "/srv/data".into(),
        mount_options: options(with),
        ..Filesystem::default()
    };
    let have = |with: &[&str]| {
        let inner = Contents::Filesystem(inner(with).into());
        disk("S1", gpt(), vec![there(1, "a", 1, 400, inner), there(2, "b", 401, 10, ext4("", ""))])
    };
    let first = desired::Filesystem { format: Format::Xfs, ..fs(1, "", "/srv/data") };
    let mut storage = want(vec![part(1, "a", 400), part(2, "b", 10)], vec![first, fs(2, "", "/srv")]);
    mounted(&["ro"])(&mut storage.filesystems[0]);
    for before in [&["ro"][..], &["noatime"]] {
        assert_eq!(
            words(&storage, &[have(before)]),
            [
                "unmount /srv/data, partition 1 of serial:S1",
                "mount partition 2 of serial:S1 at /srv",
                "mount partition 1 of serial:S1 at /srv/data (ro)",
            ]
        );
    }
}

#[test]
fn swap_is_taken_out_of_use_before_anything_else_is_made_of_it() {
    let have = carrying(Format::Swap, |_| {});
    let later = made(Format::Swap, |f| f.used = Use::Later);
    assert_eq!(words(&later, std::slice::from_ref(&have)), ["stop swapping to partition 1 of serial:S1"]);
    let steps = words(&reformatting(made(Format::Ext4, |_| {})), std::slice::from_ref(&have));
    assert_eq!(steps[0], "stop swapping to partition 1 of serial:S1");
    assert!(steps[1].starts_with("DESTROYS make ext4"), "{steps:?}");
    let mut other = replacing(made(Format::Swap, |_| {}));
    other.disks[0].partitions[0].label = "another".into();
    let steps = words(&other, &[have]);
    assert_eq!(steps[0], "stop swapping to partition 1 of serial:S1");
    assert_eq!(steps.last().map(String::as_str), Some("swap to partition 1 of serial:S1"));
}

#[test]
fn a_filesystem_that_is_smaller_than_its_partition_grows_where_it_can() {
    let small = |bytes: u64| move |f: &mut Filesystem| f.size_bytes = bytes;
    for format in [Format::Ext4, Format::Xfs, Format::Btrfs] {
        assert_eq!(
            words(&made(format, |_| {}), &[carrying(format, small(GIB))]),
            [format!("grow {} at /srv/data, partition 1 of serial:S1, from 1.0 GiB to 9.0 GiB", format.name())]
        );
        let rest = 9 * GIB - 8 * MIB;
        assert_eq!(words(&made(format, |_| {}), &[carrying(format, small(rest))]), [""; 0], "a part of a group");
        let unknown = 0;
        assert_eq!(words(&made(format, |_| {}), &[carrying(format, small(unknown))]), [""; 0]);
        let unmounted = carrying(format, |f| (f.size_bytes, f.mounted_at) = (GIB, String::new()));
        let steps = words(&made(format, |_| {}), &[unmounted]);
        assert!(steps[0].starts_with("mount ") && steps[1].starts_with("grow "), "{steps:?}");
        let later = carrying(format, |f| (f.size_bytes, f.mounted_at) = (GIB, String::new()));
        assert_eq!(words(&made(format, |f| f.used = Use::Later), &[later]), [""; 0], "it grows when it is mounted");
        let read_only = carrying(format, |f| (f.size_bytes, f.mount_options) = (GIB, options(&["ro"])));
        assert_eq!(words(&made(format, mounted(&["ro"])), &[read_only]), [""; 0], "it is not written to");
    }
    assert_eq!(words(&made(Format::Vfat, |_| {}), &[carrying(Format::Vfat, small(GIB))]), [""; 0]);
}

#[test]
fn a_filesystem_that_is_larger_than_its_partition_is_refused() {
    let cut = carrying(Format::Ext4, |f| (f.size_bytes, f.mounted_at) = (9 * GIB + MIB, String::new()));
    let text = refusal(&made(Format::Ext4, |_| {}), std::slice::from_ref(&cut));
    assert!(text.contains("takes 9.0 GiB and has 9.0 GiB: its end is missing"), "{text}");
    assert!(words(&reformatting(made(Format::Ext4, |_| {})), &[cut])[0].starts_with("DESTROYS make ext4"));
}
