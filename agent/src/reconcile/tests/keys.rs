//! Encrypted volumes whose keys the controller keeps: which keys are asked for, and when.

use muster_protocol::DiskKey;
use muster_protocol::desired::{Existing, Filesystem, Format, Key, Luks, Mount, Place, Raid, RaidLevel, Use};
use muster_protocol::to_controller::KeyUse;

use super::*;
use crate::outbox::Came;

/// What was asked for, in turn.
type Asked = Arc<Mutex<Vec<(String, [u8; 16], KeyUse)>>>;

impl Lab {
    /// A controller that keeps keys, from now on: it makes one where one is asked for, and has none of what it never made.
    fn answer_keys(&self, asked: &Asked) {
        let (outbox, machine, asked) = (self.outbox.clone(), self.machine.clone(), asked.clone());
        tokio::spawn(async move {
            let mut wishes = outbox.subscribe();
            let waits = |out: &Outbox| out.key.as_ref().is_some_and(|wish| wish.came == Came::Waiting);
            while let Ok(out) = wishes.wait_for(waits).await.map(|out| out.clone()) {
                let Some(wish) = out.key else { continue };
                let mut asked = asked.lock().expect("no test panics with it");
                let is_known = asked.iter().any(|(_, uuid, use_for)| *uuid == wish.uuid && *use_for == KeyUse::Make);
                let came = if wish.use_for == KeyUse::Make || is_known {
                    machine.keep_key(&wish.name, wish.uuid, DiskKey::new([1; 32]));
                    Came::All
                } else {
                    Came::Never("the controller has no key of it".into())
                };
                asked.push((wish.name, wish.uuid, wish.use_for));
                outbox.send_modify(|out| out.key.as_mut().into_iter().for_each(|wish| wish.came = came.clone()));
            }
        });
    }
}

/// An encrypted filesystem on a mirror of both disks.
fn vault(label: &str) -> Desired {
    let disk = |serial: &str| desired::Disk {
        select: desired::DiskSelect::Id(serial.parse().expect("a disk id")),
        table: Table::Keep,
        partitions: vec![desired::Partition::new(1, "half", None)],
    };
    let raid = Raid {
        name: "pair".into(),
        level: RaidLevel::Raid1,
        members: (0..2).map(|disk| Place::Partition { disk, partition: 0 }).collect(),
        spares: 0,
        options: vec![],
        existing: Existing::Keep,
    };
    let luks = Luks {
        name: "vault".into(),
        place: Place::Raid(0),
        label: label.into(),
        uuid: None,
        key: Key::Controller,
        discard: false,
        options: vec![],
        existing: Existing::Keep,
    };
    let filesystem = Filesystem {
        place: Place::Luks(0),
        format: Format::Ext4,
        label: "data".into(),
        uuid: None,
        options: vec![],
        used: Use::Mount(Mount { path: "/srv/vault".into(), options: vec![] }),
        existing: Existing::Keep,
    };
    let storage = Storage {
        disks: vec![disk("serial:SIM00001A"), disk("serial:SIM00001B")],
        raid: vec![raid],
        luks: vec![luks],
        filesystems: vec![filesystem],
        ..Storage::default()
    };
    Desired { network: None, storage: Some(storage) }
}

/// The same machine after a reboot, with the controller that it had.
fn rebooted(machine: Arc<SimMachine>, asked: &Asked) -> Lab {
    machine.reboot();
    let lab = Lab::booted(machine, BootId::from_bytes([2; 16]));
    lab.answer_confirmations();
    lab.answer_keys(asked);
    lab
}

/// A machine that has the vault, and what was asked for meanwhile.
async fn made() -> (Lab, Asked) {
    let (lab, asked) = (Lab::new(), Asked::default());
    lab.answer_confirmations();
    lab.answer_keys(&asked);
    assert_eq!(lab.apply(1, &vault("safe")).await, Answer::Accepted);
    assert_eq!(lab.settled().await, Progress::Confirmed { generation: Generation(1) });
    (lab, asked)
}

#[tokio::test(start_paused = true)]
async fn a_volume_in_an_array_that_does_not_run_yet_is_opened_with_the_key_of_the_header_that_is_found_in_it() {
    let (lab, asked) = made().await;
    let made = asked.lock().expect("no test panics with it").clone();
    let [(name, uuid, KeyUse::Make)] = &made[..] else { panic!("{made:?}") };

    let lab = rebooted(lab.machine, &asked);
    assert_eq!(lab.apply(1, &vault("safe")).await, Answer::Accepted);
    assert_eq!(lab.settled().await, Progress::Confirmed { generation: Generation(1) });
    let opened = asked.lock().expect("no test panics with it").split_off(1);
    assert_eq!(opened, [(name.clone(), *uuid, KeyUse::Open)], "no key is made that nobody needs");
}

#[tokio::test(start_paused = true)]
async fn no_key_is_asked_for_where_what_is_found_in_an_array_is_not_the_volume_that_is_described() {
    let (lab, asked) = made().await;
    let lab = rebooted(lab.machine, &asked);
    let before = lab.machine.observe().expect("observes").disks;
    assert_eq!(lab.apply(1, &vault("other")).await, Answer::Accepted);
    let outcome = lab.settled().await;
    let why = why(&outcome);
    let begins =
        "open /dev/md/pair as /dev/mapper/vault: /dev/md/pair is not what the plan saw: LUKS2 labeled \"safe\"";
    let ends = ": its label is not \"other\"; this could not be seen before it ran, so apply again";
    assert!(why.starts_with(begins) && why.contains(ends), "{why}");
    assert_eq!(asked.lock().expect("no test panics with it").len(), 1, "only what made it");
    assert_eq!(lab.machine.observe().expect("observes").disks, before);
}
