//! Undoing that hangs, and undoing that does not hold. The dead man's time is not the paused one.

use super::*;
use muster_protocol::desired::{LeaseUse, Rule};
use muster_protocol::drift::OnDrift;
use muster_protocol::observed::{self, Dhcp, Origin};

const AN_HOUR: Duration = Duration::from_secs(3600);

/// The last step of the switch to [`network`] but one.
const SWITCHES: &str = "remove route 0.0.0.0/0 via 10.77.0.1";
const UNDOES: &str = "remove address 10.0.5.7/24";

/// A step hangs, and so does the one thread that all loops of the agent share. Answers how it ended after the dead man had
/// undone everything, and the step came back in a kernel with these faults.
fn hangs(action: &'static str, waits: super::super::undo::Waits, proven: bool, then: Faults) -> Progress {
    let machine = Arc::new(SimMachine::new(1));
    let before = machine.observe_network().expect("observes");
    machine.set_faults(Faults { hang: vec![action.into()], ..Faults::default() });
    let (stuck, is_stuck) = std::sync::mpsc::channel();
    let (free, is_free) = std::sync::mpsc::channel::<()>();
    let agents = machine.clone();
    let agent = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        runtime.expect("a runtime").block_on(async {
            let lab = Lab::with_dead_man(agents, Keep::memory(), waits);
            if proven {
                lab.answer_confirmations();
            }
            assert_eq!(lab.apply(1, &network(GATEWAY)).await, Answer::Accepted);
            let at_it = |out: &Outbox| match &out.progress {
                Progress::Applying { step, .. } if proven => step.contains(action),
                Progress::Applying { step, .. } => step.contains("undoing"),
                _ => false,
            };
            lab.outbox.subscribe().wait_for(at_it).await.expect("the outbox lives");
            stuck.send(()).expect("the test waits");
            let _ = is_free.recv();
            lab.settled().await
        })
    });
    is_stuck.recv().expect("the step begins");
    let is_undone = machine.wait_for_network(Duration::from_secs(60), |now| *now == before);
    machine.set_faults(then);
    drop(free);
    let outcome = agent.join().expect("the agent goes on");
    assert!(is_undone);
    assert_eq!(machine.observe_network().expect("observes"), before);
    outcome
}

#[test]
fn the_dead_man_undoes_a_switch_that_hangs_and_who_comes_back_to_it_goes_on_with_nothing() {
    let waits = |_, steps: &[Step]| match steps {
        [step] if step.change.action().contains(SWITCHES) => Duration::ZERO,
        _ => AN_HOUR,
    };
    // The step that would be next fails, if it is taken.
    let then = Faults { refuse: vec!["remove address 10.77.0.2/16".into()], ..Faults::default() };
    let outcome = hangs(SWITCHES, waits, true, then);
    assert!(matches!(outcome, Progress::Reverted { reason: Reason::Interrupted, .. }), "{outcome:?}");
    assert!(why(&outcome).contains("took too long"), "{outcome:?}");
}

#[test]
fn the_dead_man_finishes_an_undoing_that_hangs() {
    let waits = |_, steps: &[Step]| match steps {
        [step] if step.change.action().contains(UNDOES) => Duration::ZERO,
        _ => AN_HOUR,
    };
    let outcome = hangs(UNDOES, waits, false, Faults::default());
    assert!(matches!(outcome, Progress::Reverted { .. }), "{outcome:?}");
    assert!(why(&outcome).contains("did not answer"), "{outcome:?}");
}

fn is_bare(network: &observed::Network) -> bool {
    network.rules.is_empty()
        && network.routes.iter().all(|route| route.origin != Origin::Static)
        && network.links.iter().all(|link| {
            link.dhcp4 == Dhcp::Searching(LeaseUse::default())
                && link.addresses.iter().all(|address| address.origin != Origin::Static)
        })
}

/// One that is cut off, and does not get back to the network that it had: that one, too.
async fn stranded() -> (Lab, observed::Network) {
    let lab = Lab::new();
    let route = |table, to: &str, via: &str| {
        let (to, via) = (to.parse().expect("a prefix"), Some(via.parse().expect("an address")));
        let (link, metric, origin, reach) = ("eth0".to_owned(), 0, Origin::Static, Reach::Prefix);
        Change::AddRoute(plan::network::Route { link, to, via, metric, table, origin, reach })
    };
    // What swallows the controller, whatever routes a lease brings.
    lab.machine.by_hand(&route(MAIN_TABLE, "203.0.113.0/24", "10.77.0.99"));
    lab.machine.by_hand(&route(100, "0.0.0.0/0", "10.77.0.99"));
    let rule = Rule {
        from: None,
        to: Some("203.0.113.1/32".parse().expect("a prefix")),
        table: 100,
        priority: Some(100),
        mark: None,
        tos: None,
    };
    lab.machine.by_hand(&Change::AddRule(rule));
    let before = lab.network();
    lab.machine.set_wire(Wire::Cut);
    lab.machine.set_faults(Faults { refuse: vec![UNDOES.into()], ..Faults::default() });
    lab.apply(1, &network(GATEWAY)).await;
    let outcome = lab.settled().await;
    assert!(matches!(outcome, Progress::RevertFailed { .. }), "{outcome:?}");
    lab.machine.set_faults(Faults::default());
    (lab, before)
}

impl Lab {
    async fn changed(&self) {
        let mut outbox = self.outbox.subscribe();
        let changes = outbox.borrow().changes;
        let changed = outbox.wait_for(|out| out.changes > changes);
        tokio::time::timeout(AN_HOUR, changed).await.expect("within an hour").expect("the outbox lives");
    }
}

#[tokio::test(start_paused = true)]
async fn where_undoing_does_not_hold_nothing_that_is_static_stays_in_the_way() {
    let (lab, _) = stranded().await;
    let left = lab.network();
    assert_eq!((&left.routes, &left.rules), (&Vec::new(), &Vec::new()));
    assert!(left.links.iter().all(|link| link.dhcp4 == Dhcp::Searching(LeaseUse::default())), "{left:?}");
}

#[tokio::test(start_paused = true)]
async fn a_stranded_machine_tries_what_it_had_and_asking_for_addresses_in_turns_until_the_controller_answers() {
    let (lab, before) = stranded().await;
    let mut took = Vec::new();
    for turn in 0..6 {
        let began = tokio::time::Instant::now();
        lab.changed().await;
        took.push(began.elapsed());
        match turn % 2 {
            0 => assert_eq!(lab.network(), before, "turn {turn}"),
            _ => assert!(is_bare(&lab.network()), "turn {turn}: {:?}", lab.network()),
        }
    }
    let (asking, as_before): (Vec<_>, Vec<_>) = took.chunks(2).map(|turns| (turns[0], turns[1])).unzip();
    assert!(asking.iter().all(|took| took.as_secs() == 60), "{took:?}");
    assert!(as_before.is_sorted() && as_before[0] < as_before[1], "{took:?}");
    lab.hear_of_a_session();
    let (left, changes) = (lab.network(), lab.outbox.borrow().changes);
    tokio::time::sleep(24 * AN_HOUR).await;
    assert_eq!((lab.network(), lab.outbox.borrow().changes), (left, changes), "what leads home stays");
    assert!(matches!(lab.settled().await, Progress::RevertFailed { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_stranded_machine_takes_a_new_generation_on_and_looks_no_further() {
    let (lab, _) = stranded().await;
    lab.changed().await;
    lab.machine.set_wire(Wire::Gateway(GATEWAY.parse().expect("an address")));
    lab.answer_confirmations();
    assert_eq!(lab.apply(2, &network(GATEWAY)).await, Answer::Accepted);
    assert_eq!(lab.settled().await, Progress::Confirmed { generation: Generation(2) });
    let left = lab.network();
    tokio::time::sleep(24 * AN_HOUR).await;
    assert_eq!(lab.network(), left);
}

#[tokio::test(start_paused = true)]
async fn a_stranded_machine_goes_on_to_look_for_the_way_when_its_agent_starts_anew() {
    let (lab, before) = stranded().await;
    let lab = lab.restarted().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(is_bare(&lab.network()), "each has its time: {:?}", lab.network());
    lab.changed().await;
    assert_eq!(lab.network(), before);
}

#[tokio::test(start_paused = true)]
async fn an_undoing_that_holds_with_the_last_of_its_time_is_one() {
    let lab = Lab::new();
    let before = lab.network();
    lab.machine.set_wire(Wire::Cut);
    lab.machine.set_faults(Faults { refuse: vec![UNDOES.into()], ..Faults::default() });
    lab.apply(1, &network(GATEWAY)).await;
    let undoes = |out: &Outbox| matches!(&out.progress, Progress::Applying { step, .. } if step.contains("undoing"));
    lab.outbox.subscribe().wait_for(undoes).await.expect("the outbox lives");
    tokio::time::sleep(super::super::undo::REVERT_WITHIN - Duration::from_millis(250)).await;
    assert_ne!(lab.network(), before);
    lab.machine.set_faults(Faults::default());
    let outcome = lab.settled().await;
    assert!(matches!(outcome, Progress::Reverted { .. }), "{outcome:?}");
    assert_eq!(lab.network(), before);
}

#[tokio::test(start_paused = true)]
async fn one_answer_does_not_bring_a_stranded_machine_home() {
    let lab = Lab::new();
    lab.machine.set_wire(Wire::Cut);
    lab.machine.set_faults(Faults { refuse: vec![UNDOES.into()], ..Faults::default() });
    lab.apply(1, &network(GATEWAY)).await;
    let reaches = |out: &Outbox| out.proof.as_ref().is_some_and(|proof| proof.asked == Asked::Reach);
    lab.outbox.subscribe().wait_for(reaches).await.expect("the outbox lives");
    lab.outbox.send_modify(|out| {
        let proof = out.proof.as_mut().expect("it is asked for");
        assert!(proof.soak > Duration::ZERO, "it has to go on to answer");
        proof.answer = Proven::Yes;
    });
    let outcome = lab.settled().await;
    assert!(why(&outcome).contains("answers all the same"), "{outcome:?}");
    lab.changed().await;
    // A session that comes about is over a second later.
    lab.hear_of_a_session();
    tokio::time::sleep(Duration::from_secs(1)).await;
    lab.outbox.send_modify(|out| out.changes += 1);
    lab.changed().await;
    lab.hear_of_a_session();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (left, changes) = (lab.network(), lab.outbox.borrow().changes);
    tokio::time::sleep(24 * AN_HOUR).await;
    assert_eq!((lab.network(), lab.outbox.borrow().changes), (left, changes), "it is home");
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_came_home_after_an_undoing_that_did_not_hold_goes_back_there_when_its_agent_starts_anew() {
    let (lab, before) = stranded().await;
    lab.changed().await;
    assert_eq!(lab.network(), before);
    lab.hear_of_a_session();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let lab = lab.restarted().await;
    // Something takes it away, and nobody is heard of.
    lab.changed().await;
    lab.machine.by_hand(&Change::SetHostname { name: "another".to_owned() });
    lab.changed().await;
    assert_eq!(lab.network(), before);
    lab.changed().await;
    assert!(is_bare(&lab.network()), "{:?}", lab.network());
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_starts_anew_goes_on_by_what_led_home_and_not_by_what_was_confirmed_and_did_not() {
    let lab = Lab::new();
    lab.answer_confirmations();
    assert_eq!(lab.apply(1, &network(GATEWAY)).await, Answer::Accepted);
    assert_eq!(lab.settled().await, Progress::Confirmed { generation: Generation(1) });
    lab.stop_answering();
    let mut desired = network(GATEWAY);
    desired.network.as_mut().expect("a network").links[0].settings.addresses =
        vec!["10.0.5.8/24".parse().expect("an address")];
    lab.machine.set_faults(Faults { refuse: vec!["remove address 10.0.5.8/24".into()], ..Faults::default() });
    // The work is over a moment after it is settled.
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(lab.apply(2, &desired).await, Answer::Accepted);
    assert!(matches!(lab.settled().await, Progress::RevertFailed { .. }));
    lab.machine.set_faults(Faults::default());
    // One that asks at every NIC comes home, or one that has taken one more turn, with what was confirmed.
    let as_before = lab.network();
    lab.changed().await;
    lab.changed().await;
    assert!(is_bare(&lab.network()), "{as_before:?}");
    lab.hear_of_a_session();
    tokio::time::sleep(Duration::from_secs(3)).await;
    lab.running.abort();
    // It ends with the process.
    lab.machine.by_hand(&Change::StopDhcp { link: "eth0".into(), family: plan::network::Family::V4 });
    let lab = lab.restarted().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(is_bare(&lab.network()), "it asks again: {:?}", lab.network());
    lab.hear_of_a_session();
    let changes = lab.outbox.borrow().changes;
    tokio::time::sleep(24 * AN_HOUR).await;
    assert!(is_bare(&lab.network()) && lab.outbox.borrow().changes == changes, "it is home");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_died_in_a_generation_without_network_steps_asks_for_leases_again() {
    let lab = Lab::new();
    lab.answer_confirmations();
    let mut desired = network(GATEWAY);
    if let Some(Network { links, .. }) = &mut desired.network {
        links[0].settings.dhcp4 = desired::Dhcp::On(LeaseUse::default());
    }
    assert_eq!(lab.apply(1, &desired).await, Answer::Accepted);
    assert_eq!(lab.settled().await, Progress::Confirmed { generation: Generation(1) });
    lab.stop_answering();
    // The work is over a moment after it is settled.
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(lab.apply(2, &storage()).await, Answer::Accepted);
    let mut outbox = lab.outbox.subscribe();
    outbox.wait_for(|out| out.proof.is_some()).await.expect("the outbox lives");
    lab.reconciler.on_drift(OnDrift::Report);
    lab.running.abort();
    // It ends with the process.
    lab.machine.by_hand(&Change::StopDhcp { link: "eth0".into(), family: plan::network::Family::V4 });
    let lab = lab.restarted().await;
    assert!(why(&lab.settled().await).contains("restarted in the middle"));
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(lab.network().links[0].dhcp4.lease_use(), Some(LeaseUse::default()));
    assert_eq!(lab.outbox.borrow().drift, Default::default(), "nobody changed anything");
}

#[tokio::test(start_paused = true)]
async fn a_step_of_restoring_that_fails_does_not_keep_the_others_from_being_taken() {
    let lab = Lab::new();
    lab.answer_confirmations();
    let mut desired = network(GATEWAY);
    let links = &mut desired.network.as_mut().expect("a network").links;
    let select = Select { name: Some("eth1".into()), ..Select::default() };
    let kind = LinkKind::Ethernet(Ethernet { select, ..Ethernet::default() });
    links.push(Link { id: "other".into(), kind, settings: Settings::default() });
    links.iter_mut().for_each(|link| link.settings.dhcp4 = desired::Dhcp::On(LeaseUse::default()));
    assert_eq!(lab.apply(1, &desired).await, Answer::Accepted);
    assert_eq!(lab.settled().await, Progress::Confirmed { generation: Generation(1) });
    // So that nobody but the restart starts anything.
    lab.reconciler.on_drift(OnDrift::Report);
    lab.running.abort();
    for link in ["eth0", "eth1"] {
        lab.machine.by_hand(&Change::StopDhcp { link: link.into(), family: plan::network::Family::V4 });
    }
    lab.machine.set_faults(Faults { refuse: vec!["start DHCP on eth0".into()], ..Faults::default() });
    let lab = lab.restarted().await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let asks: Vec<bool> = lab.network().links.iter().map(|link| link.dhcp4.lease_use().is_some()).collect();
    assert_eq!(asks, [false, true]);
}

impl Lab {
    /// The controller is away, and while the machine waits for its answer a NIC is pulled out. Answers how that ended.
    async fn loses(&self, nic: &str) -> (observed::Link, Progress) {
        self.machine.set_wire(Wire::Cut);
        self.apply(1, &network(GATEWAY)).await;
        self.outbox.subscribe().wait_for(|out| out.proof.is_some()).await.expect("the outbox lives");
        let pulled = self.machine.pull_out(nic);
        (pulled, self.settled().await)
    }
}

#[tokio::test(start_paused = true)]
async fn where_the_nic_that_led_home_is_gone_the_others_ask_for_an_address_until_it_is_there_again() {
    let lab = Lab::new();
    let before = lab.network();
    let (pulled, outcome) = lab.loses("eth0").await;
    assert!(matches!(outcome, Progress::RevertFailed { .. }), "{outcome:?}");
    let said = format!("undoing it did not hold: eth0 ({}) is gone; at last: start DHCP on eth1", pulled.permanent_mac);
    assert!(why(&outcome).contains(&said), "{outcome:?}");
    assert!(is_bare(&lab.network()), "{:?}", lab.network());
    lab.machine.put_in(&pulled);
    lab.changed().await;
    let had = |network: &observed::Network| {
        let mut links = network.links.clone();
        links.iter_mut().for_each(|link| link.index = 0);
        links.sort_by(|a, b| a.name.cmp(&b.name));
        (links, network.routes.iter().map(|route| (route.to, route.via)).collect::<Vec<_>>())
    };
    assert_eq!(had(&lab.network()), had(&before), "it is known again");
}

#[tokio::test(start_paused = true)]
async fn a_nic_that_is_gone_and_did_not_lead_home_is_named_and_costs_nothing_that_is_there() {
    let lab = Lab::new();
    let net = "192.168.7.1/24".parse().expect("an address");
    let address = Address { net, origin: Origin::Static };
    lab.machine.by_hand(&Change::AddAddress { link: "eth1".into(), address });
    let before = lab.network();
    let (pulled, outcome) = lab.loses("eth1").await;
    assert!(matches!(outcome, Progress::Reverted { .. }), "{outcome:?}");
    assert!(why(&outcome).ends_with(&format!("; eth1 ({}) is gone", pulled.permanent_mac)), "{outcome:?}");
    assert_eq!((&lab.network().links[..], &lab.network().routes), (&before.links[..1], &before.routes));
}
