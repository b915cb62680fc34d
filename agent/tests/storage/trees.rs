//! Memory and bind mounts in the real tree.

use muster_protocol::desired::{Tree, TreeMount};

use super::*;

fn tree(what: Tree, path: &str, options: &[&str]) -> TreeMount {
    let options = options.iter().map(|option| (*option).to_owned()).collect();
    TreeMount { what, mount: Mount { path: path.into(), options } }
}

fn mountinfo(path: &str) -> String {
    let all = fs::read_to_string("/proc/self/mountinfo").expect("read");
    all.lines().find(|line| line.split(' ').nth(4) == Some(path)).unwrap_or_default().to_owned()
}

#[test]
fn memory_and_directories_of_disks_are_mounted_change_and_leave_with_their_disk() {
    let lab = Lab::new(128 * MIB);
    let [data, shown, memory, inner] = ["data", "shown", "memory", "data/inner"].map(|name| lab.mount_point(name));
    let mut desired = want(&[("a", None)], &[(1, "a", Some(data.clone()))]);
    let from = format!("{data}/www");
    desired.mounts = vec![
        tree(Tree::Bind(from.clone()), &shown, &["ro", "nosuid"]),
        tree(Tree::Tmpfs, &memory, &["noexec", "size=8M", "mode=0750"]),
        tree(Tree::Tmpfs, &inner, &[]),
    ];
    lab.converge(&desired);
    assert!(mountinfo(&shown).contains(" /www ") && mountinfo(&shown).contains(" ro,nosuid,relatime "));
    let info = mountinfo(&memory);
    assert!(info.contains(" - tmpfs muster ") && info.contains("size=8192k") && info.contains("mode=750"), "{info}");
    assert!(mountinfo(&data).contains(" rw,relatime "), "what is shown read-only is written to where it is");
    fs::write(format!("{from}/hello"), "world").expect("writable");
    assert_eq!(fs::read_to_string(format!("{shown}/hello")).expect("shown"), "world");
    assert!(fs::write(format!("{shown}/no"), "").is_err());
    assert_eq!(lab.observe().held, "", "what the agent shows of a disk holds nothing");

    fs::write(format!("{memory}/kept"), "yes").expect("writable");
    desired.mounts[0].mount.options = vec!["nodev".into()];
    desired.mounts[1].mount.options = vec!["nosuid".into(), "size=16M".into(), "mode=0750".into()];
    assert_eq!(lab.plan(&desired).len(), 2);
    lab.converge(&desired);
    assert!(mountinfo(&shown).contains(" rw,nodev,relatime "), "{}", mountinfo(&shown));
    assert!(mountinfo(&memory).contains(" rw,nosuid,relatime ") && mountinfo(&memory).contains("size=16384k"));
    assert_eq!(fs::read_to_string(format!("{memory}/kept")).expect("never unmounted"), "yes");

    wipe_on(&lab.disks, &id(), WipeLevel::Full, &mut |_| {}).expect("wiped, with all that stood on it");
    assert_eq!([mountinfo(&data), mountinfo(&shown), mountinfo(&inner)], ["", "", ""]);
    assert!(!mountinfo(&memory).is_empty(), "it stands on no disk");
    run("umount", &[&memory]);
}

#[test]
fn what_others_mounted_is_in_the_way_and_stays() {
    let lab = Lab::new(64 * MIB);
    let at = lab.mount_point("taken");
    fs::create_dir_all(&at).expect("made");
    run("mount", &["-t", "tmpfs", "theirs", &at]);
    let mut desired = Storage { mounts: vec![tree(Tree::Tmpfs, &at, &[])], ..Storage::default() };
    let error = lab.apply(&lab.plan(&desired)).expect_err("taken");
    assert!(muster_agent::machine::chain(&error).contains("something else is mounted"), "{error}");
    let link = lab.folder.path().join("link");
    std::os::unix::fs::symlink(&at, &link).expect("linked");
    desired.mounts = vec![tree(Tree::Bind(format!("{}/x", text(&link))), &lab.mount_point("other"), &[])];
    let error = lab.apply(&lab.plan(&desired)).expect_err("a link");
    assert!(muster_agent::machine::chain(&error).contains("symbolic link"), "{error}");
    run("umount", &[&at]);
}
