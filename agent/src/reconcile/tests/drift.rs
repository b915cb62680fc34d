//! Changes that nobody asked the agent for. Time is paused.

use super::*;
use crate::plan::network::{Change, NewWay};
use muster_protocol::drift::{DIFFERENCES, Drift, DriftEnd, OnDrift};
use muster_protocol::observed::{Address, Admin, Origin};

/// Longer than any look, its second and what is done about it, in calm.
const SOON: Duration = Duration::from_secs(2);

fn address(net: &str) -> Address {
    Address { net: net.parse().expect("an address"), origin: Origin::Static }
}

fn remove(net: &str) -> Change {
    Change::RemoveAddress { link: "eth0".into(), address: address(net) }
}

fn add(link: &str, net: &str) -> Change {
    Change::AddAddress { link: link.into(), address: address(net) }
}

impl Lab {
    /// One whose network is confirmed: 10.0.5.7/24 and a default route.
    async fn confirmed() -> Self {
        let lab = Self::new();
        lab.machine.set_wire(Wire::Gateway(GATEWAY.parse().expect("an address")));
        lab.answer_confirmations();
        lab.apply(1, &network(GATEWAY)).await;
        assert_eq!(lab.settled().await, Progress::Confirmed { generation: Generation(1) });
        tokio::time::sleep(SOON).await;
        lab
    }

    fn drift(&self) -> Drift {
        self.outbox.borrow().drift.clone()
    }

    async fn told(&self, number: u32) -> Drift {
        let mut outbox = self.outbox.subscribe();
        let told = outbox.wait_for(|out| out.drift.number >= number);
        let told = tokio::time::timeout(Duration::from_secs(3600), told).await.expect("within an hour");
        told.expect("the outbox lives").drift.clone()
    }
}

#[tokio::test(start_paused = true)]
async fn what_somebody_changed_is_seen_at_once_and_repaired() {
    let lab = Lab::confirmed().await;
    let before = lab.network();
    lab.machine.by_hand(&remove("10.0.5.7/24"));
    lab.machine.by_hand(&add("eth0", "10.0.5.99/24"));
    tokio::time::sleep(SOON).await;
    assert_eq!(lab.network(), before);
    let Drift { number, differences, end } = lab.drift();
    assert_eq!(number, 1, "{differences:?}");
    assert!(differences.contains(&"add address 10.0.5.7/24 to eth0".into()), "{differences:?}");
    assert!(differences.contains(&"remove address 10.0.5.99/24 from eth0".into()), "{differences:?}");
    assert!(matches!(end, DriftEnd::Repaired { .. }), "{end:?}");
    lab.machine.by_hand(&Change::SetAdmin { link: "eth0".into(), admin: Admin::Down });
    tokio::time::sleep(SOON).await;
    assert_eq!(lab.network(), before);
    assert!(lab.drift().differences.contains(&"bring eth0 up".into()), "{:?}", lab.drift());
}

#[tokio::test(start_paused = true)]
async fn what_somebody_changed_is_reported_and_left_alone_where_that_is_the_policy() {
    let lab = Lab::confirmed().await;
    let before = lab.network();
    lab.reconciler.on_drift(OnDrift::Report);
    lab.machine.by_hand(&add("eth0", "10.0.5.99/24"));
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let left = lab.network();
    assert!(left.links[0].addresses.contains(&address("10.0.5.99/24")));
    let differences = vec!["remove address 10.0.5.99/24 from eth0".to_owned()];
    assert_eq!(lab.drift(), Drift { number: 1, differences: differences.clone(), end: DriftEnd::Reported });

    // It is gone when whoever made the change takes it back.
    lab.machine.by_hand(&remove("10.0.5.99/24"));
    tokio::time::sleep(SOON).await;
    assert_eq!(lab.drift(), Drift { number: 2, differences: Vec::new(), end: DriftEnd::Gone });

    // It is repaired when that becomes the policy.
    lab.machine.by_hand(&add("eth0", "10.0.5.99/24"));
    assert_eq!(lab.told(3).await.end, DriftEnd::Reported);
    lab.reconciler.on_drift(OnDrift::Repair);
    assert!(matches!(lab.told(4).await.end, DriftEnd::Repaired { .. }));
    assert_eq!(lab.network(), before);
}

#[tokio::test(start_paused = true)]
async fn what_is_reported_ends_with_a_new_configuration() {
    let lab = Lab::confirmed().await;
    lab.reconciler.on_drift(OnDrift::Report);
    lab.machine.by_hand(&add("eth0", "10.0.5.99/24"));
    assert_eq!(lab.told(1).await.end, DriftEnd::Reported);
    lab.apply(2, &network(GATEWAY)).await;
    assert_eq!(lab.told(2).await.end, DriftEnd::Gone);
}

#[tokio::test(start_paused = true)]
async fn our_own_changes_are_no_drift_nor_are_those_on_links_that_nobody_described() {
    let lab = Lab::confirmed().await;
    lab.machine.set_wire(Wire::Magic);
    lab.apply(2, &network("10.0.5.2")).await;
    assert_eq!(lab.settled().await, Progress::Confirmed { generation: Generation(2) });
    lab.machine.set_wire(Wire::Cut);
    let mut outbox = lab.outbox.subscribe();
    lab.apply(3, &network("10.0.5.3")).await;
    let reverted = |out: &Outbox| matches!(out.progress, Progress::Reverted { generation: Generation(3), .. });
    outbox.wait_for(reverted).await.expect("the outbox lives");
    lab.machine.by_hand(&add("eth1", "192.0.2.1/24"));
    tokio::time::sleep(SOON).await;
    assert_eq!(lab.drift(), Drift::default());
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_changes_neither_keeps_the_machine_busy_nor_puts_the_repair_off() {
    let lab = Lab::confirmed().await;
    let before = lab.network();
    let looks = lab.machine.looks();
    for n in 0..1_000 {
        if n == 500 {
            lab.machine.by_hand(&remove("10.0.5.7/24"));
        }
        lab.machine.by_hand(&add("eth1", "192.0.2.1/24"));
        lab.machine.by_hand(&Change::RemoveAddress { link: "eth1".into(), address: address("192.0.2.1/24") });
        tokio::time::sleep(Duration::from_millis(10)).await;
        if n == 700 {
            assert_eq!(lab.network().links[0], before.links[0], "it is repaired in the middle of the storm");
        }
    }
    let looks = lab.machine.looks() - looks;
    assert!(looks <= 16, "{looks} looks in ten seconds");
}

#[tokio::test(start_paused = true)]
async fn a_fight_over_a_setting_is_fought_with_growing_pauses_and_told() {
    let lab = Lab::confirmed().await;
    let machine = lab.machine.clone();
    let rival = tokio::spawn(async move {
        let mut won = 0_u32;
        loop {
            let there =
                machine.observe().expect("observes").network.links[0].addresses.contains(&address("10.0.5.7/24"));
            if there {
                machine.by_hand(&remove("10.0.5.7/24"));
                won += 1;
            }
            // Odd, so that it does not always meet the same moment.
            tokio::time::sleep(Duration::from_millis(37)).await;
            if won > 40 {
                panic!("it is repaired without end");
            }
        }
    });
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(!rival.is_finished());
    let told = lab.drift();
    assert_eq!(told.differences[0], "add address 10.0.5.7/24 to eth0");
    rival.abort();
    // The longest pause later all is well, and that is told as well.
    tokio::time::sleep(Duration::from_secs(310)).await;
    assert!(lab.drift().number <= 24, "{:?}", lab.drift());
    tokio::time::sleep(Duration::from_secs(310)).await;
    assert_eq!(lab.drift().end, DriftEnd::Gone);
    assert!(lab.network().links[0].addresses.contains(&address("10.0.5.7/24")));
    assert!(matches!(told.end, DriftEnd::Contested { .. } | DriftEnd::Failed { .. }), "{told:?}");

    // After a calm nobody is held responsible for it.
    tokio::time::sleep(Duration::from_secs(1_200)).await;
    lab.machine.by_hand(&remove("10.0.5.7/24"));
    tokio::time::sleep(SOON).await;
    assert!(matches!(lab.drift().end, DriftEnd::Repaired { .. }), "{:?}", lab.drift());
}

#[tokio::test(start_paused = true)]
async fn drift_that_cut_the_way_to_the_controller_is_repaired_without_it() {
    let lab = Lab::confirmed().await;
    let reaches = || lab.machine.socket([192, 0, 2, 1].into(), None::<&NewWay>).is_ok();
    let changes = lab.outbox.borrow().changes;
    lab.machine.by_hand(&remove("10.0.5.7/24"));
    assert!(!reaches());
    tokio::time::sleep(SOON).await;
    assert!(reaches());
    assert_eq!(lab.outbox.borrow().changes, changes + 1, "whoever has a session asks whether it has outlived it");
}

#[tokio::test(start_paused = true)]
async fn a_repair_that_fails_is_told_takes_nothing_away_and_is_tried_again() {
    let lab = Lab::confirmed().await;
    let before = lab.network();
    lab.machine.set_faults(Faults { refuse: vec!["add address".into()], ..Faults::default() });
    lab.machine.by_hand(&add("eth0", "10.0.5.99/24"));
    lab.machine.by_hand(&remove("10.0.5.7/24"));
    let told = lab.told(1).await;
    let DriftEnd::Failed { why } = &told.end else { panic!("{told:?}") };
    assert!(why.contains("add address 10.0.5.7/24 to eth0"), "{why}");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(lab.network().links[0].addresses, [address("10.0.5.99/24")], "what is left may be the way home");
    assert_eq!(lab.drift(), told, "the same again is no news");
    lab.machine.set_faults(Faults::default());
    assert!(!lab.told(2).await.differences.is_empty());
    assert_eq!(lab.network(), before);
}

#[tokio::test(start_paused = true)]
async fn a_configuration_that_comes_during_a_repair_is_taken_when_it_is_over() {
    let lab = Lab::confirmed().await;
    // The repair reads back for seconds what it will not find.
    lab.machine.set_faults(Faults { ignore: vec!["add address 10.0.5.7".into()], ..Faults::default() });
    lab.machine.by_hand(&add("eth0", "10.0.5.99/24"));
    lab.machine.by_hand(&remove("10.0.5.7/24"));
    let removed = || !lab.network().links[0].addresses.contains(&address("10.0.5.99/24"));
    while !removed() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(lab.drift().number, 0, "it is at it");
    let again = network(GATEWAY);
    let (accepted, ()) = tokio::join!(lab.apply(2, &again), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        lab.machine.set_faults(Faults::default());
    });
    assert_eq!(accepted, Answer::Accepted);
    let mut outbox = lab.outbox.subscribe();
    let confirmed = |out: &Outbox| out.progress == Progress::Confirmed { generation: Generation(2) };
    outbox.wait_for(confirmed).await.expect("the outbox lives");
}

#[tokio::test(start_paused = true)]
async fn the_policy_and_what_was_found_outlive_the_agents_process() {
    let lab = Lab::confirmed().await;
    lab.reconciler.on_drift(OnDrift::Report);
    lab.machine.by_hand(&add("eth0", "10.0.5.99/24"));
    let told = lab.told(1).await;
    let lab = lab.restarted().await;
    tokio::time::sleep(SOON).await;
    assert_eq!(lab.drift(), told);
    assert!(lab.network().links[0].addresses.contains(&address("10.0.5.99/24")), "a restart repairs nothing either");
}

#[tokio::test(start_paused = true)]
async fn what_was_changed_while_no_agent_ran_is_seen_when_one_does() {
    let lab = Lab::confirmed().await;
    lab.reconciler.on_drift(OnDrift::Report);
    lab.running.abort();
    lab.machine.by_hand(&add("eth0", "10.0.5.99/24"));
    let lab = lab.restarted().await;
    assert_eq!(lab.told(1).await.end, DriftEnd::Reported);
}

#[tokio::test(start_paused = true)]
async fn a_network_that_could_not_be_set_back_is_left_to_the_operator() {
    let lab = Lab::confirmed().await;
    lab.machine.set_wire(Wire::Cut);
    lab.machine.set_faults(Faults { refuse: vec!["remove address 10.0.6.7/24".into()], ..Faults::default() });
    let mut elsewhere = network("10.0.6.1");
    if let Some(Network { links, .. }) = &mut elsewhere.network {
        links[0].settings.addresses = vec!["10.0.6.7/24".parse().expect("an address")];
    }
    let mut outbox = lab.outbox.subscribe();
    lab.apply(2, &elsewhere).await;
    let failed = |out: &Outbox| matches!(out.progress, Progress::RevertFailed { .. });
    outbox.wait_for(failed).await.expect("the outbox lives");
    lab.hear_of_a_session();
    lab.machine.set_faults(Faults::default());
    lab.machine.by_hand(&add("eth0", "10.0.5.99/24"));
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(lab.network().links[0].addresses.contains(&address("10.0.5.99/24")));
    assert_eq!(lab.drift(), Drift::default());
}

#[tokio::test(start_paused = true)]
async fn what_is_told_is_bounded() {
    let lab = Lab::confirmed().await;
    for n in 10..60 {
        lab.machine.by_hand(&add("eth0", &format!("10.0.5.{n}/24")));
    }
    let told = lab.told(1).await;
    assert_eq!(told.differences.len(), DIFFERENCES);
    assert_eq!(told.differences[DIFFERENCES - 1], "and 35 more");
    assert!(matches!(told.end, DriftEnd::Repaired { .. }), "{told:?}");
}

/// The clock of a paused runtime does not go on by itself while a disk is written.
async fn told_while_a_disk_is_written(lab: &Lab) -> Drift {
    let began = std::time::Instant::now();
    while lab.drift().number == 0 {
        assert!(began.elapsed() < Duration::from_secs(60), "nobody looks");
        tokio::time::advance(Duration::from_millis(50)).await;
        tokio::task::yield_now().await;
    }
    lab.drift()
}

#[tokio::test(start_paused = true)]
async fn drift_is_repaired_while_a_disk_is_wiped() {
    let lab = Lab::confirmed().await;
    let before = lab.network();
    lab.machine.set_faults(Faults { hang: vec!["wipe".into()], ..Faults::default() });
    let wipe = Wipe { operation: OperationId::from_bytes([1; 16]), disks: vec![disk()], level: WipeLevel::Full };
    assert_eq!(lab.reconciler.wipe(wipe.clone()).await, Answer::Accepted);
    lab.machine.by_hand(&remove("10.0.5.7/24"));
    let told = told_while_a_disk_is_written(&lab).await;
    assert!(matches!(told.end, DriftEnd::Repaired { .. }), "{told:?}");
    assert_eq!(lab.network(), before);
    assert!(matches!(lab.outbox.borrow().work(&wipe.operation), Some(Work::Running { .. })));
    lab.machine.set_faults(Faults::default());
    let mut outbox = lab.outbox.subscribe();
    let done = |out: &Outbox| matches!(out.work(&wipe.operation), Some(Work::Done { .. }));
    outbox.wait_for(done).await.expect("the outbox lives");
}

#[tokio::test(start_paused = true)]
async fn drift_is_repaired_while_a_change_of_the_disks_waits_for_a_controller_that_is_away() {
    let lab = Lab::confirmed().await;
    lab.stop_answering();
    let before = lab.network();
    let both = Desired { network: network(GATEWAY).network, storage: storage().storage };
    assert_eq!(lab.apply(2, &both).await, Answer::Accepted);
    let mut outbox = lab.outbox.subscribe();
    outbox.wait_for(|out| out.proof.is_some()).await.expect("the outbox lives");
    for number in [1, 2] {
        lab.machine.by_hand(&remove("10.0.5.7/24"));
        let told = lab.told(number).await;
        assert!(matches!(told.end, DriftEnd::Repaired { .. }), "{told:?}");
        assert_eq!(lab.network(), before);
        tokio::time::sleep(Duration::from_secs(3600)).await;
    }
    lab.answer_confirmations();
    let mut outbox = lab.outbox.subscribe();
    let confirmed = |out: &Outbox| out.progress == Progress::Confirmed { generation: Generation(2) };
    outbox.wait_for(confirmed).await.expect("the outbox lives");
}

#[tokio::test(start_paused = true)]
async fn what_is_there_already_and_waits_for_its_confirmation_is_what_drift_is_measured_by() {
    let lab = Lab::confirmed().await;
    lab.reconciler.on_drift(OnDrift::Report);
    lab.machine.by_hand(&add("eth0", "10.0.5.99/24"));
    assert_eq!(lab.told(1).await.end, DriftEnd::Reported);
    lab.stop_answering();
    let mut with_both = network(GATEWAY);
    if let Some(Network { links, .. }) = &mut with_both.network {
        links[0].settings.addresses.push("10.0.5.99/24".parse().expect("an address"));
    }
    assert_eq!(lab.apply(2, &with_both).await, Answer::Accepted);
    assert_eq!(lab.told(2).await.end, DriftEnd::Gone, "it is what is desired");
    lab.reconciler.on_drift(OnDrift::Repair);
    lab.machine.by_hand(&remove("10.0.5.99/24"));
    assert_eq!(lab.told(3).await.differences, ["add address 10.0.5.99/24 to eth0"]);
    assert!(lab.network().links[0].addresses.contains(&address("10.0.5.99/24")));
}

#[tokio::test(start_paused = true)]
async fn nobody_looks_for_drift_while_a_change_of_the_network_waits_for_its_proof() {
    let lab = Lab::confirmed().await;
    lab.stop_answering();
    let mut outbox = lab.outbox.subscribe();
    lab.apply(2, &network("10.0.5.2")).await;
    outbox.wait_for(|out| out.proof.is_some()).await.expect("the outbox lives");
    lab.machine.by_hand(&add("eth0", "10.0.5.99/24"));
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(lab.network().links[0].addresses.contains(&address("10.0.5.99/24")));
    assert_eq!(lab.drift(), Drift::default());
}

#[tokio::test(start_paused = true)]
async fn limits_of_disks_that_somebody_takes_away_are_drift() {
    let lab = Lab::confirmed().await;
    let rates = desired::Rates { read_bytes: Some(1 << 20), ..desired::Rates::default() };
    let limit = desired::IoLimit { disk: desired::DiskSelect::Id(disk()), cgroup: "system.slice".into(), rates };
    let storage = Some(Storage { io_limits: vec![limit], ..Storage::default() });
    let both = Desired { network: network(GATEWAY).network, storage };
    assert_eq!(lab.apply(2, &both).await, Answer::Accepted);
    let mut outbox = lab.outbox.subscribe();
    let confirmed = |out: &Outbox| out.progress == Progress::Confirmed { generation: Generation(2) };
    outbox.wait_for(confirmed).await.expect("the outbox lives");
    tokio::time::sleep(SOON).await;
    let before = lab.machine.observe().expect("observes").limits;
    assert_eq!((before.len(), lab.drift()), (1, Drift::default()));

    lab.machine.unlimit();
    lab.reconciler.look_at_limits().await;
    let told = lab.told(1).await;
    assert_eq!(told.differences, ["let system.slice read 1048576 bytes/s of serial:SIM00001A and no more"]);
    assert!(matches!(told.end, DriftEnd::Repaired { .. }), "{told:?}");
    assert_eq!(lab.machine.observe().expect("observes").limits, before);

    lab.reconciler.on_drift(OnDrift::Report);
    tokio::time::sleep(SOON).await;
    lab.machine.unlimit();
    lab.reconciler.look_at_limits().await;
    assert_eq!(lab.told(2).await.end, DriftEnd::Reported);
    assert_eq!(lab.machine.observe().expect("observes").limits, []);
}
