//! Mounts of what is on no disk of its own.

use super::*;

fn tree(what: Tree, path: &str, options: &[&str]) -> TreeMount {
    let options = options.iter().map(|option| (*option).to_owned()).collect();
    TreeMount { what, mount: Mount { path: path.into(), options } }
}

fn tmpfs(path: &str, options: &[&str]) -> TreeMount {
    tree(Tree::Tmpfs, path, options)
}

fn bind(from: &str, path: &str, options: &[&str]) -> TreeMount {
    tree(Tree::Bind(from.into()), path, options)
}

fn with(mounts: &[TreeMount]) -> Storage {
    Storage { mounts: mounts.to_vec(), ..usual() }
}

fn observed(disk: Disk, mounts: &[TreeMount]) -> Observed {
    Observed { disks: vec![disk], mounts: mounts.to_vec(), ..Observed::default() }
}

fn all_words(storage: &Storage, observed: &Observed) -> Vec<String> {
    let steps = plan_all(storage, observed).unwrap_or_else(|no| panic!("{no}"));
    let (mut disks, mut mounts) = (observed.disks.clone(), observed.mounts.clone());
    for step in &steps {
        apply_to_model(step, &mut disks, [1; 16]);
        apply_to_trees(step, &mut mounts);
    }
    let after = Observed { disks, mounts, ..Observed::default() };
    assert_eq!(differences(storage, &after), [""; 0], "what is planned and done leaves nothing to do");
    steps.iter().map(|step| step.describe().action).collect()
}

fn no(storage: &Storage, observed: &Observed) -> String {
    plan_all(storage, observed).expect_err("refused").to_string()
}

#[test]
fn each_mount_comes_after_what_it_stands_on() {
    let storage = with(&[
        bind("/srv/data/www", "/srv/a", &["ro"]),
        bind("/srv/z", "/srv/data/z", &[]),
        tmpfs("/srv/z", &["nosuid", "size=64M"]),
    ]);
    let steps = all_words(&storage, &observed(disk("S1", Contents::Blank, vec![]), &[]));
    assert_eq!(
        steps[3..],
        [
            "mount partition 1 of serial:S1 at /srv/boot",
            "mount partition 2 of serial:S1 at /srv/data",
            "show /srv/data/www at /srv/a too (ro)",
            "mount a tmpfs at /srv/z (nosuid,size=64M)",
            "show /srv/z at /srv/data/z too",
        ]
    );
}

#[test]
fn what_is_there_is_left_and_what_is_not_described_as_well() {
    let mounts = [bind("/srv/data/www", "/srv/a", &["ro"]), tmpfs("/srv/z", &["size=64M"])];
    assert_eq!(all_words(&with(&mounts), &observed(usual_disk(), &mounts)), [""; 0]);
    assert_eq!(all_words(&usual(), &observed(usual_disk(), &mounts)), [""; 0]);
}

#[test]
fn options_change_where_a_mount_is_and_what_a_tmpfs_holds_is_never_lost() {
    let have = observed(
        usual_disk(),
        &[bind("/srv/data/www", "/srv/a", &["ro"]), tmpfs("/srv/z", &["size=64M", "mode=1777"])],
    );
    let storage =
        with(&[bind("/srv/data/www", "/srv/a", &["nosuid"]), tmpfs("/srv/z", &["ro", "size=1G", "mode=1777"])]);
    assert_eq!(
        all_words(&storage, &have),
        ["mount /srv/a with other options: nosuid", "mount /srv/z with other options: ro,size=1G,mode=1777"]
    );
    for other in [tmpfs("/srv/z", &["size=64M"]), bind("/srv/data", "/srv/z", &[])] {
        let text = no(&with(&[other]), &have);
        assert!(text.contains("storage.mounts[0].where: what is in the tmpfs at /srv/z would be lost"), "{text}");
    }
    let other = with(&[bind("/srv/data/other", "/srv/a", &["ro"])]);
    assert_eq!(all_words(&other, &have), ["unmount /srv/a", "show /srv/data/other at /srv/a too (ro)"]);
}

#[test]
fn what_is_shown_of_a_disk_is_taken_out_before_the_disk_and_put_back_behind_it() {
    let shown = bind("/srv/data/www", "/srv/a", &[]);
    let again = bind("/srv/a/x", "/srv/b", &[]);
    let have = observed(usual_disk(), &[shown.clone(), again.clone()]);
    let mut storage = with(&[shown.clone(), again]);
    storage.filesystems[1].used = Use::Mount(Mount { path: "/srv/data".into(), options: vec!["commit=5".into()] });
    assert_eq!(
        all_words(&storage, &have),
        [
            "unmount /srv/b",
            "unmount /srv/a",
            "unmount /srv/data, partition 2 of serial:S1",
            "mount partition 2 of serial:S1 at /srv/data (commit=5)",
            "show /srv/data/www at /srv/a too",
            "show /srv/a/x at /srv/b too",
        ]
    );
    storage.mounts.clear();
    let left = all_words(&storage, &observed(usual_disk(), &[shown]));
    assert_eq!(left[0], "unmount /srv/a", "it is in the way, and is not put back");
    let held = no(&storage, &observed(usual_disk(), &[tmpfs("/srv/data/tmp", &[])]));
    assert!(held.contains("tmpfs at /srv/data/tmp would be lost"), "{held}");
}

#[test]
fn nothing_that_is_mounted_is_hidden_and_nothing_is_mounted_in_a_circle() {
    let text = no(&with(&[tmpfs("/srv", &[])]), &observed(usual_disk(), &[]));
    assert!(text.contains("storage.mounts[0].where: /srv would hide"), "{text}");
    let circle = with(&[bind("/srv/b/x", "/srv/a", &[]), bind("/srv/a/y", "/srv/b", &[])]);
    let text = no(&circle, &observed(usual_disk(), &[]));
    assert!(text.contains("none can be the first: /srv/a, /srv/b"), "{text}");
}
