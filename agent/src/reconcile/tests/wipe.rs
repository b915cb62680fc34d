//! Wiping disks on which something runs.

use muster_protocol::desired::{Existing, Format, Mount, Place, Raid, RaidLevel, Tree, TreeMount, Use};
use muster_protocol::observed::Layers;

use super::*;

fn other_disk() -> DiskId {
    "serial:SIM00001B".parse().expect("a disk id")
}

/// An array of both disks, mounted, with a tmpfs in it.
fn mirrored() -> Desired {
    let mut desired = storage();
    let storage = desired.storage.as_mut().expect("it has one");
    let second = desired::Disk { select: desired::DiskSelect::Id(other_disk()), ..storage.disks[0].clone() };
    storage.disks.push(second);
    let members = vec![Place::Partition { disk: 0, partition: 0 }, Place::Partition { disk: 1, partition: 0 }];
    let (level, existing) = (RaidLevel::Raid1, Existing::Keep);
    storage.raid.push(Raid { name: "pair".into(), level, members, spares: 0, options: vec![], existing });
    let mount = |path: &str| Mount { path: path.into(), options: vec![] };
    storage.filesystems[0].place = Place::Raid(0);
    storage.filesystems[0].format = Format::Ext4;
    storage.filesystems[0].used = Use::Mount(mount("/srv"));
    storage.mounts.push(TreeMount { what: Tree::Tmpfs, mount: mount("/srv/tmp") });
    desired
}

async fn wiped(lab: &Lab, number: u8, disks: Vec<DiskId>) -> Result<Vec<DiskId>, String> {
    let wipe = Wipe { operation: OperationId::from_bytes([number; 16]), disks, level: WipeLevel::Full };
    match lab.reconciler.wipe(wipe.clone()).await {
        Answer::Accepted => {}
        Answer::Refused(Refusal::Impossible(why)) => return Err(why),
        other => panic!("{other:?}"),
    }
    let mut outbox = lab.outbox.subscribe();
    let is_over = |out: &Outbox| !matches!(out.work(&wipe.operation), None | Some(Work::Running { .. }));
    let out = outbox.wait_for(is_over).await.expect("the outbox lives").clone();
    match out.work(&wipe.operation) {
        Some(Work::Done { receipts }) => Ok(receipts.iter().map(|receipt| receipt.disk.clone()).collect()),
        Some(Work::Failed { why }) => Err(why.clone()),
        other => panic!("{other:?}"),
    }
}

async fn mirrored_lab() -> Lab {
    let lab = Lab::new();
    lab.answer_confirmations();
    assert_eq!(lab.apply(1, &mirrored()).await, Answer::Accepted);
    assert_eq!(lab.settled().await, Progress::Confirmed { generation: Generation(1) });
    // The work is over a moment after it is settled.
    tokio::time::sleep(Duration::from_millis(1)).await;
    lab
}

#[tokio::test(start_paused = true)]
async fn what_runs_on_disks_that_are_all_wiped_is_taken_down_first() {
    let lab = mirrored_lab().await;
    let both = vec![disk(), other_disk()];
    assert_eq!(wiped(&lab, 1, both.clone()).await, Ok(both));
    let observed = lab.machine.observe().expect("observes");
    assert!(observed.disks.iter().all(|disk| disk.contents == Contents::Blank && disk.partitions.is_empty()));
    assert_eq!((observed.layers, observed.mounts), (Layers::default(), vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_disk_is_not_wiped_beneath_what_stands_on_another_disk_too() {
    let lab = mirrored_lab().await;
    let before = lab.machine.observe().expect("observes");
    let why = wiped(&lab, 1, vec![disk()]).await.expect_err("refused");
    let says = "storage.disks.serial:SIM00001A: to stop the array /dev/md/pair would touch serial:SIM00001B (sdb, 8.0 GiB) \
                too; wipe both together, or reboot the machine, after which nothing runs";
    assert_eq!(why, says);
    assert_eq!(lab.machine.observe().expect("observes"), before);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_taken_down_is_not_wiped() {
    let lab = mirrored_lab().await;
    lab.machine.set_faults(Faults { refuse: vec!["stop the array".into()], ..Faults::default() });
    let why = wiped(&lab, 1, vec![disk(), other_disk()]).await.expect_err("it does not stop");
    assert!(why.starts_with("stop the array /dev/md/pair: ") && why.ends_with("; nothing was wiped"), "{why}");
    assert_eq!(lab.machine.observe().expect("observes").layers.arrays.len(), 1);
    lab.machine.set_faults(Faults::default());
    let both = vec![disk(), other_disk()];
    assert_eq!(wiped(&lab, 2, both.clone()).await, Ok(both), "the next one goes on");
}
