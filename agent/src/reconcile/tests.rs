//! The loop against the simulated machine and a controller that answers, or does not. Time is paused.

mod drift;
mod keys;
mod past;
mod permits;
mod times;
mod tools;
mod undo;
mod wipe;

use super::*;
use crate::outbox::{Asked, Proven};
use crate::plan::network::{Change, Step};
use crate::sim::{Faults, SimMachine, Wire};
use muster_protocol::desired::{
    AcceptRa, Ethernet, Link, LinkKind, MAIN_TABLE, Network, Permit, Reach, Route, Select, Settings, Storage, Table,
};
use muster_protocol::hello::Reason;
use muster_protocol::observed::{Address, Contents, Origin};
use muster_protocol::to_agent::WipeLevel;
use muster_protocol::{DiskId, Generation, desired};
use tokio::task::JoinHandle;

const BOOT: BootId = BootId::from_bytes([1; 16]);
const GATEWAY: &str = "10.0.5.1";

/// An agent's reconcile loop, and the controller's side of its outbox.
struct Lab {
    machine: Arc<SimMachine>,
    keep: Keep,
    outbox: watch::Sender<Outbox>,
    reconciler: Arc<Reconciler>,
    running: JoinHandle<()>,
    /// What was asked of the controller and answered, in words.
    proofs: Arc<Mutex<Vec<String>>>,
    answering: Mutex<Option<JoinHandle<()>>>,
}

impl Lab {
    fn new() -> Self {
        Self::with(Arc::new(SimMachine::new(1)), Keep::memory())
    }

    fn with(machine: Arc<SimMachine>, keep: Keep) -> Self {
        Self::with_dead_man(machine, keep, super::undo::dead_man_waits)
    }

    /// Another boot of this machine: nothing is kept of the one before.
    fn booted(machine: Arc<SimMachine>, boot: BootId) -> Self {
        Self::with_all(machine, Keep::memory(), boot, super::undo::dead_man_waits)
    }

    /// With a dead man of another patience. His time is not the paused one.
    fn with_dead_man(machine: Arc<SimMachine>, keep: Keep, waits: super::undo::Waits) -> Self {
        Self::with_all(machine, keep, BOOT, waits)
    }

    fn with_all(machine: Arc<SimMachine>, keep: Keep, boot: BootId, waits: super::undo::Waits) -> Self {
        let (outbox, _) = watch::channel(Outbox::default());
        let known = ["203.0.113.1:8443", "[2001:db8:ffff::1]:8443"];
        let (_, controller) = watch::channel(known.map(|at| at.parse().expect("an address")).into());
        let (mut reconciler, jobs) =
            Reconciler::new(machine.clone(), keep.clone(), boot, Manage::ALL, outbox.clone(), controller);
        Arc::get_mut(&mut reconciler).expect("nobody else has it yet").dead_man_waits = waits;
        let running = reconciler.clone();
        let running = tokio::spawn(async move {
            running.recover().await;
            running.run(jobs).await;
        });
        Self { machine, keep, outbox, reconciler, running, proofs: Arc::default(), answering: Mutex::default() }
    }

    /// A new process on the same machine in the same boot.
    async fn restarted(self) -> Self {
        self.running.abort();
        let _ = self.running.await;
        Self::with(self.machine, self.keep)
    }

    /// A controller that answers confirmations from now on, wherever the machine's packets arrive.
    fn answer_confirmations(&self) {
        let (outbox, machine, proofs) = (self.outbox.clone(), self.machine.clone(), self.proofs.clone());
        let answering = tokio::spawn(async move {
            let mut asked = outbox.subscribe();
            let waiting = |out: &Outbox| out.proof.as_ref().is_some_and(|p| p.answer == Proven::Waiting);
            while asked.wait_for(waiting).await.is_ok() {
                let way = outbox.borrow().waiting_proof().and_then(|proof| match &proof.asked {
                    Asked::Beside(way) => Some(way.clone()),
                    Asked::Reach | Asked::Confirm { .. } => None,
                });
                let arrives = machine.socket([192, 0, 2, 1].into(), way.as_ref()).is_ok();
                outbox.send_modify(|out| {
                    if let Some(proof) = out.proof.as_mut().filter(|_| arrives) {
                        proof.answer = Proven::Yes;
                        let asked = way.as_ref().map_or("as it is".to_owned(), |way| format!("by {way}"));
                        proofs.lock().expect("no test panics with it").push(asked);
                    }
                });
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        *self.answering.lock().expect("no test panics with it") = Some(answering);
    }

    /// The controller is away from now on.
    fn stop_answering(&self) {
        self.answering.lock().expect("no test panics with it").take().expect("it answers").abort();
    }

    /// A session is there, by the network as it is now.
    fn hear_of_a_session(&self) {
        self.outbox.send_modify(|out| out.heard = out.changes);
    }

    async fn apply(&self, generation: u64, desired: &Desired) -> Answer {
        self.apply_with(generation, desired, None).await
    }

    async fn apply_with(&self, generation: u64, desired: &Desired, permit: Option<Permit>) -> Answer {
        let (generation, desired) = (Generation(generation), desired.clone());
        self.reconciler.apply(Apply { generation, desired, permit, confirm_within_s: 20 }).await.0
    }

    async fn settled(&self) -> Progress {
        let mut outbox = self.outbox.subscribe();
        outbox.wait_for(|out| out.progress.is_settled()).await.expect("the outbox lives").progress.clone()
    }

    fn network(&self) -> observed::Network {
        self.machine.observe().expect("observes").network
    }
}

/// A static address, and a default route by `gateway`.
fn network(gateway: &str) -> Desired {
    let settings = Settings {
        addresses: vec!["10.0.5.7/24".parse().expect("an address")],
        routes: vec![Route {
            to: "0.0.0.0/0".parse().expect("a prefix"),
            via: Some(gateway.parse().expect("an address")),
            metric: None,
            table: MAIN_TABLE,
            reach: Reach::Prefix,
        }],
        ..Settings::default()
    };
    let select = Select { name: Some("eth0".into()), ..Select::default() };
    let kind = LinkKind::Ethernet(Ethernet { select, ..Ethernet::default() });
    let links = vec![Link { id: "lan".into(), kind, settings }];
    Desired { network: Some(Network { links, ..Network::default() }), storage: None }
}

fn disk() -> DiskId {
    "serial:SIM00001A".parse().expect("a disk id")
}

fn storage() -> Desired {
    let partition = desired::Partition::new(1, "data", None);
    let disks = vec![desired::Disk {
        select: desired::DiskSelect::Id(disk()),
        table: Table::Replace,
        partitions: vec![partition],
    }];
    let filesystem = desired::Filesystem {
        place: desired::Place::Partition { disk: 0, partition: 0 },
        format: desired::Format::Ext4,
        label: "data".into(),
        uuid: None,
        options: vec![],
        used: desired::Use::Mount(desired::Mount { path: "/srv/data".into(), options: vec![] }),
        existing: desired::Existing::Keep,
    };
    Desired { network: None, storage: Some(Storage { disks, filesystems: vec![filesystem], ..Storage::default() }) }
}

fn why(progress: &Progress) -> &str {
    match progress {
        Progress::Reverted { why, .. } | Progress::RevertFailed { why, .. } => why,
        _ => panic!("neither reverted nor failed to: {progress:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_that_the_controller_answers_over_is_confirmed() {
    let lab = Lab::new();
    lab.machine.set_wire(Wire::Gateway(GATEWAY.parse().expect("an address")));
    lab.answer_confirmations();
    assert_eq!(lab.apply(1, &network(GATEWAY)).await, Answer::Accepted);
    assert_eq!(lab.settled().await, Progress::Confirmed { generation: Generation(1) });
    assert_eq!(lab.network().links[0].addresses[0].net.to_string(), "10.0.5.7/24");
    assert_eq!(lab.outbox.borrow().proof, None);
}

#[tokio::test(start_paused = true)]
async fn a_new_way_is_proven_before_the_present_one_is_given_up() {
    let lab = Lab::new();
    lab.machine.set_wire(Wire::Gateway(GATEWAY.parse().expect("an address")));
    lab.answer_confirmations();
    assert_eq!(lab.apply(1, &network(GATEWAY)).await, Answer::Accepted);
    assert_eq!(lab.settled().await, Progress::Confirmed { generation: Generation(1) });
    assert_eq!(*lab.proofs.lock().expect("no test panics with it"), ["by eth0", "as it is"]);
}

#[tokio::test(start_paused = true)]
async fn the_present_way_is_given_up_only_when_the_session_is_begun_where_the_new_one_leads() {
    let mut desired = network(GATEWAY);
    let links = &mut desired.network.as_mut().expect("it has one").links;
    let settings = &mut links.iter_mut().next().expect("it has one").settings;
    settings.addresses = vec!["2001:db8:5::7/64".parse().expect("an address")];
    settings.routes[0].to = "::/0".parse().expect("a prefix");
    settings.routes[0].via = Some("2001:db8:5::1".parse().expect("an address"));
    let lab = Lab::new();
    let before = lab.network().links[0].addresses[0];
    lab.answer_confirmations();
    assert_eq!(lab.apply(1, &desired).await, Answer::Accepted);
    let (mut outbox, to) = (lab.outbox.subscribe(), "2001:db8:ffff::1".parse().expect("an address"));
    outbox.wait_for(|out| out.moves_to == Some(to)).await.expect("the outbox lives");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(lab.network().links[0].addresses.contains(&before), "the session is not there yet");
    lab.outbox.send_modify(|out| out.moves_to = None);
    assert_eq!(lab.settled().await, Progress::Confirmed { generation: Generation(1) });
    assert!(!lab.network().links[0].addresses.contains(&before));

    // Nobody begins it: the way is proven, and that has to do.
    assert_eq!(lab.apply(2, &network(GATEWAY)).await, Answer::Accepted);
    lab.settled().await;
    assert_eq!(lab.apply(3, &desired).await, Answer::Accepted);
    assert_eq!(lab.settled().await, Progress::Confirmed { generation: Generation(3) });
}

#[tokio::test(start_paused = true)]
async fn a_new_way_that_does_not_answer_never_costs_the_present_one() {
    let lab = Lab::new();
    let before = lab.network();
    lab.machine.set_wire(Wire::Gateway("10.77.0.1".parse().expect("an address")));
    let mut outbox = lab.outbox.subscribe();
    lab.apply(1, &network("10.0.5.99")).await;
    outbox.wait_for(|out| out.proof.is_some()).await.expect("the outbox lives");
    let present = |network: &observed::Network| network.routes[0].clone();
    assert_eq!(present(&lab.network()), present(&before), "it is in use meanwhile");
    let outcome = lab.settled().await;
    assert!(why(&outcome).contains("did not answer by eth0 within 20 s"), "{outcome:?}");
    assert_eq!(lab.network(), before);
    assert_eq!(lab.outbox.borrow().changes, 1, "nothing but the undoing");
}

#[tokio::test(start_paused = true)]
async fn a_router_that_never_announces_itself_never_costs_the_present_way() {
    let lab = Lab::new();
    let (link, net) = ("eth0".to_owned(), "2001:db8:5::7/64".parse().expect("an address"));
    lab.machine.by_hand(&Change::AddAddress { link, address: Address { net, origin: Origin::Static } });
    let mut desired = network(GATEWAY);
    let settings = &mut desired.network.as_mut().expect("it has one").links[0].settings;
    *settings = Settings { accept_ra: AcceptRa::On, ..Settings::default() };
    lab.machine.by_hand(&Change::AddRoute(plan::network::Route {
        link: "eth0".into(),
        to: "::/0".parse().expect("a prefix"),
        via: Some("2001:db8:5::1".parse().expect("an address")),
        metric: 1024,
        table: MAIN_TABLE,
        origin: Origin::Static,
        reach: Reach::Prefix,
    }));
    let before = lab.network();
    lab.machine
        .set_faults(Faults { refuse: vec!["over the router that announces itself".into()], ..Faults::default() });
    lab.answer_confirmations();
    lab.apply(1, &desired).await;
    let outcome = lab.settled().await;
    assert!(matches!(outcome, Progress::Reverted { reason: Reason::NoRoute, .. }), "{outcome:?}");
    assert_eq!(lab.network(), before);
    assert_eq!(lab.outbox.borrow().changes, 1, "nothing but the undoing");
}

#[tokio::test(start_paused = true)]
async fn reverts_when_the_gateway_is_wrong() {
    let lab = Lab::new();
    let before = lab.network();
    lab.machine.set_wire(Wire::Gateway(GATEWAY.parse().expect("an address")));
    lab.answer_confirmations();
    let begun = tokio::time::Instant::now();
    assert_eq!(lab.apply(1, &network("10.0.5.99")).await, Answer::Accepted);
    let outcome = lab.settled().await;
    assert!(matches!(outcome, Progress::Reverted { generation: Generation(1), .. }), "{outcome:?}");
    assert!(why(&outcome).contains("did not answer by eth0 within 20 s"), "{outcome:?}");
    assert!(why(&outcome).contains("the gateway 10.0.5.99 does not answer"), "{outcome:?}");
    assert!(matches!(outcome, Progress::Reverted { reason: Reason::NoGateway, .. }), "{outcome:?}");
    assert_eq!(lab.network(), before);
    assert!(begun.elapsed() <= Duration::from_secs(30), "back in contact within the budget");
}

#[tokio::test(start_paused = true)]
async fn reverts_when_a_step_fails() {
    let lab = Lab::new();
    let before = lab.network();
    lab.answer_confirmations();
    lab.machine.set_faults(Faults { refuse: vec!["add route 0.0.0.0/0".into()], ..Faults::default() });
    lab.apply(1, &network(GATEWAY)).await;
    // Putting the old route back is refused at first, too.
    tokio::time::sleep(Duration::from_secs(2)).await;
    lab.machine.set_faults(Faults::default());
    let outcome = lab.settled().await;
    assert!(why(&outcome).starts_with("could not add route 0.0.0.0/0 via 10.0.5.1"), "{outcome:?}");
    assert_eq!(why(&outcome).matches("add route").count(), 1, "it is said once: {outcome:?}");
    assert_eq!(lab.network(), before);
}

#[tokio::test(start_paused = true)]
async fn reverts_when_what_is_read_back_differs() {
    let lab = Lab::new();
    let before = lab.network();
    lab.answer_confirmations();
    lab.machine.set_faults(Faults { ignore: vec!["add route 0.0.0.0/0 via 10.0.5.1".into()], ..Faults::default() });
    lab.apply(1, &network(GATEWAY)).await;
    let outcome = lab.settled().await;
    assert!(why(&outcome).contains("verify differs: still to do: add route"), "{outcome:?}");
    assert_eq!(lab.network(), before);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_comes_when_its_client_is_about_to_be_stopped_does_not_fail_the_change() {
    use muster_protocol::observed::{Address, Origin};
    use muster_protocol::to_agent::Impact;
    let lab = Lab::new();
    lab.answer_confirmations();
    let desired = network(GATEWAY);
    let offer = Apply { generation: Generation(1), desired, permit: None, confirm_within_s: 20 };
    let (answer, begin) = lab.reconciler.apply(offer).await;
    assert_eq!(answer, Answer::Accepted);
    // The plan was made before.
    let address = Address { net: "10.77.9.9/16".parse().expect("an address"), origin: Origin::Dhcp };
    let change = Change::AddAddress { link: "eth0".into(), address };
    lab.machine.apply_network(&Step { change, impact: Impact::None }).expect("a lease comes");
    drop(begin);
    assert_eq!(lab.settled().await, Progress::Confirmed { generation: Generation(1) });
    assert_eq!(lab.network().links[0].addresses.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_change_of_the_way_that_is_proven_afterwards_has_to_hold_before_it_is_kept() {
    let lab = Lab::new();
    let mut desired = network("10.77.0.1");
    if let Some(Network { links, .. }) = &mut desired.network {
        let there = lab.network().links[0].addresses[0].net;
        (links[0].settings.addresses, links[0].settings.mtu) = (vec![there], Some(1400));
    }
    let mut outbox = lab.outbox.subscribe();
    lab.apply(1, &desired).await;
    let proof = outbox.wait_for(|out| out.proof.is_some()).await.expect("the outbox lives").proof.clone();
    let proof = proof.expect("there is one");
    assert!(matches!(proof.asked, Asked::Confirm { .. }), "{proof:?}");
    assert_eq!(proof.soak, Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn a_network_that_another_generation_overtook_before_it_was_proven_is_not_kept() {
    let lab = Lab::new();
    let before = lab.network();
    let (outbox, mut asked) = (lab.outbox.clone(), lab.outbox.subscribe());
    let answering = tokio::spawn(async move {
        while asked.wait_for(|out| out.waiting_proof().is_some()).await.is_ok() {
            outbox.send_modify(|out| {
                let proof = out.proof.as_mut().expect("it is asked for");
                let is_last = matches!(proof.asked, Asked::Confirm { .. });
                proof.answer = if is_last { Proven::Overtaken } else { Proven::Yes };
            });
            tokio::task::yield_now().await;
        }
    });
    assert_eq!(lab.apply(1, &network("10.0.5.1")).await, Answer::Accepted);
    let outcome = lab.settled().await;
    assert!(matches!(outcome, Progress::Reverted { reason: Reason::Interrupted, .. }), "{outcome:?}");
    assert!(why(&outcome).contains("another generation"), "{outcome:?}");
    assert_eq!(lab.network(), before, "the controller would not hand it over at the next boot");
    answering.abort();
}

#[tokio::test(start_paused = true)]
async fn a_generation_that_is_overtaken_while_it_is_proven_is_undone_at_once_and_the_newer_one_taken_on() {
    // Proven beside the present way, after the switch, and not begun yet when the newer one comes.
    for (wanted, is_begun) in [(network(GATEWAY), true), (with_mtu(), true), (network(GATEWAY), false)] {
        let lab = Lab::new();
        let before = lab.network();
        let offered = |generation, desired: &Desired| {
            let (generation, desired) = (Generation(generation), desired.clone());
            lab.reconciler.apply(Apply { generation, desired, permit: None, confirm_within_s: 20 })
        };
        let (answer, mut begin) = offered(1, &wanted).await;
        assert_eq!(answer, Answer::Accepted);
        if is_begun {
            begin = None;
            lab.outbox.subscribe().wait_for(|out| out.waiting_proof().is_some()).await.expect("the outbox lives");
        }
        let newer = network("10.0.5.2");
        let since = tokio::time::Instant::now();
        let busy = Answer::Refused(Refusal::Busy("applying generation 1".into()));
        assert_eq!(offered(2, &newer).await.0, busy);
        drop(begin);
        let outcome = lab.settled().await;
        assert!(matches!(outcome, Progress::Reverted { reason: Reason::Interrupted, .. }), "{outcome:?}");
        assert!(why(&outcome).contains("another generation"), "{outcome:?}");
        assert!(since.elapsed() < Duration::from_secs(5), "the deadline is not waited for: {:?}", since.elapsed());
        assert_eq!(lab.network(), before);

        lab.answer_confirmations();
        lab.machine.set_wire(Wire::Gateway("10.0.5.2".parse().expect("an address")));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(lab.apply(2, &newer).await, Answer::Accepted);
        assert_eq!(lab.settled().await, Progress::Confirmed { generation: Generation(2) });
    }
}

/// What there is at the start, by an address of its own and with another MTU: that is proven after the switch.
fn with_mtu() -> Desired {
    let mut desired = network("10.77.0.1");
    if let Some(Network { links, .. }) = &mut desired.network {
        let there = SimMachine::new(1).observe().expect("observes").network.links[0].addresses[0].net;
        (links[0].settings.addresses, links[0].settings.mtu) = (vec![there], Some(1400));
    }
    desired
}

#[tokio::test(start_paused = true)]
async fn says_so_when_the_revert_fails() {
    let lab = Lab::new();
    lab.machine.set_wire(Wire::Cut);
    lab.machine.set_faults(Faults { refuse: vec!["remove address 10.0.5.7/24".into()], ..Faults::default() });
    lab.apply(1, &network(GATEWAY)).await;
    let outcome = lab.settled().await;
    assert!(matches!(outcome, Progress::RevertFailed { .. }), "{outcome:?}");
    assert!(why(&outcome).contains("did not answer by eth0 within 20 s"), "{outcome:?}");
    assert!(why(&outcome).contains("remove address 10.0.5.7/24"), "{outcome:?}");
    assert!(why(&outcome).contains("at last: "), "{outcome:?}");
    assert_eq!(lab.network().links[0].dhcp4.lease_use(), Some(Default::default()), "whatever may lead home is tried");
}

#[tokio::test(start_paused = true)]
async fn a_change_without_network_steps_is_confirmed_over_the_session_that_is_up() {
    let lab = Lab::new();
    lab.apply(1, &storage()).await;
    // Nothing would be undone, so nothing is given up: the controller may be away for an hour.
    tokio::time::sleep(Duration::from_secs(3600)).await;
    lab.answer_confirmations();
    assert_eq!(lab.settled().await, Progress::Confirmed { generation: Generation(1) });
}

#[tokio::test(start_paused = true)]
async fn a_failed_network_says_that_storage_stays() {
    let lab = Lab::new();
    lab.machine.set_wire(Wire::Cut);
    let both = Desired { network: network(GATEWAY).network, storage: storage().storage };
    lab.apply(1, &both).await;
    let outcome = lab.settled().await;
    assert!(why(&outcome).contains("3 storage steps were done before and stay"), "{outcome:?}");
    assert_eq!(lab.machine.observe().expect("observes").disks[0].partitions.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_failed_storage_step_leaves_the_network_alone() {
    let lab = Lab::new();
    let before = lab.network();
    lab.machine.set_faults(Faults { refuse: vec!["make ext4".into()], ..Faults::default() });
    let both = Desired { network: network(GATEWAY).network, storage: storage().storage };
    lab.apply(1, &both).await;
    let outcome = lab.settled().await;
    assert!(why(&outcome).contains("make ext4"), "{outcome:?}");
    assert!(why(&outcome).contains("1 storage steps were done before and stay"), "{outcome:?}");
    assert_eq!(lab.network(), before);
}

#[tokio::test(start_paused = true)]
async fn the_rule_holds_across_a_restart_of_the_agent() {
    let lab = Lab::new();
    lab.answer_confirmations();
    lab.apply(5, &network(GATEWAY)).await;
    lab.settled().await;
    let lab = lab.restarted().await;
    assert_eq!(lab.settled().await, Progress::Confirmed { generation: Generation(5) });
    assert_eq!(lab.apply(5, &network(GATEWAY)).await, Answer::Accepted, "the same again is fine");
    let conflict = Refusal::Conflict { generation: Generation(5) };
    assert_eq!(lab.apply(5, &network("10.0.5.2")).await, Answer::Refused(conflict));
    let outdated = Refusal::Outdated { offered: Generation(4), current: Generation(5) };
    assert_eq!(lab.apply(4, &network(GATEWAY)).await, Answer::Refused(outdated));
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_died_in_the_middle_of_a_change_undoes_it() {
    let lab = Lab::new();
    let before = lab.network();
    lab.machine.set_wire(Wire::Cut);
    lab.apply(1, &network(GATEWAY)).await;
    let mut outbox = lab.outbox.subscribe();
    outbox.wait_for(|out| out.proof.is_some()).await.expect("the outbox lives");
    assert_eq!(lab.network().rules.len(), 1, "that of the proof");
    let lab = lab.restarted().await;
    let outcome = lab.settled().await;
    assert!(why(&outcome).contains("restarted in the middle"), "{outcome:?}");
    assert_eq!(lab.network(), before);
}

#[tokio::test(start_paused = true)]
async fn one_piece_of_work_at_a_time() {
    let lab = Lab::new();
    lab.machine.set_wire(Wire::Cut);
    lab.apply(1, &network(GATEWAY)).await;
    let busy = Answer::Refused(Refusal::Busy("applying generation 1".into()));
    assert_eq!(lab.apply(2, &network(GATEWAY)).await, busy);
    let wipe = Wipe { operation: OperationId::from_bytes([1; 16]), disks: vec![disk()], level: WipeLevel::Full };
    assert_eq!(lab.reconciler.wipe(wipe).await, busy);
    assert!(lab.reconciler.must_not_be_cut().is_err());
    lab.settled().await;
    lab.machine.set_wire(Wire::Magic);
    lab.answer_confirmations();
    // The work is over a moment after it is settled.
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(lab.apply(2, &network(GATEWAY)).await, Answer::Accepted);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_is_refused_and_changes_nothing() {
    let lab = Lab::new();
    let before = lab.network();
    let mut elsewhere = network(GATEWAY);
    if let Some(Network { links, .. }) = &mut elsewhere.network
        && let LinkKind::Ethernet(ethernet) = &mut links[0].kind
    {
        ethernet.select.name = Some("eth9".into());
    }
    let Answer::Refused(Refusal::Impossible(why)) = lab.apply(1, &elsewhere).await else { panic!("is refused") };
    assert!(why.contains("network.ethernets.lan"), "{why}");
    let Answer::Refused(Refusal::Invalid(problems)) = lab.apply(1, &network("0.0.0.0")).await else {
        panic!("is refused")
    };
    assert_eq!(problems.len(), 1);
    assert_eq!((lab.network(), lab.outbox.borrow().progress.clone()), (before, Progress::Idle));
    lab.answer_confirmations();
    assert_eq!(lab.apply(1, &network(GATEWAY)).await, Answer::Accepted, "a refused generation was never accepted");
}

#[tokio::test(start_paused = true)]
async fn a_repeated_wipe_starts_nothing_and_tells_its_receipts_again() {
    let lab = Lab::new();
    lab.machine.put_filesystem(&disk(), "ntfs");
    let wipe = Wipe { operation: OperationId::from_bytes([1; 16]), disks: vec![disk()], level: WipeLevel::Full };
    assert_eq!(lab.reconciler.wipe(wipe.clone()).await, Answer::Accepted);
    let mut outbox = lab.outbox.subscribe();
    let done = |out: &Outbox| matches!(out.work(&wipe.operation), Some(Work::Done { receipts }) if receipts.len() == 1);
    outbox.wait_for(done).await.expect("the outbox lives");
    assert_eq!(lab.machine.observe().expect("observes").disks[0].contents, Contents::Blank);
    lab.machine.put_filesystem(&disk(), "ext4");
    assert_eq!(lab.reconciler.wipe(wipe.clone()).await, Answer::Accepted);
    assert!(done(&lab.outbox.borrow()));
    assert_ne!(lab.machine.observe().expect("observes").disks[0].contents, Contents::Blank);

    let unknown = Wipe {
        operation: OperationId::from_bytes([2; 16]),
        disks: vec!["serial:NONE".parse().expect("a disk id")],
        level: WipeLevel::Full,
    };
    assert!(matches!(lab.reconciler.wipe(unknown).await, Answer::Refused(Refusal::Impossible(_))));
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_right_after_the_boot_waits_for_the_disks() {
    for ask in 0..4 {
        let machine = Arc::new(SimMachine::new(1));
        machine.hide_disks_until_settled();
        let lab = Lab::with(machine, Keep::memory());
        let wipe = Wipe { operation: OperationId::from_bytes([1; 16]), disks: vec![disk()], level: WipeLevel::Full };
        match ask {
            0 => assert!(matches!(lab.reconciler.plan(storage()).await, Answer::Planned(_))),
            1 => assert_eq!(lab.apply(1, &storage()).await, Answer::Accepted),
            2 => assert_eq!(lab.reconciler.wipe(wipe).await, Answer::Accepted),
            _ => assert_eq!(lab.reconciler.observe().await.expect("observes").disks.len(), 2),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_only_observes_changes_nothing() {
    let (outbox, _) = watch::channel(Outbox::default());
    let machine = Arc::new(SimMachine::new(1));
    let (_, controller) = watch::channel(Vec::new());
    let (reconciler, _jobs) = Reconciler::new(machine, Keep::memory(), BOOT, Manage::default(), outbox, controller);
    for desired in [network(GATEWAY), storage()] {
        assert!(
            matches!(reconciler.plan(desired.clone()).await, Answer::Planned(_)),
            "it may be asked what it would do"
        );
        let offer = Apply { generation: Generation(1), desired, permit: None, confirm_within_s: 20 };
        assert_eq!(reconciler.apply(offer).await.0, Answer::Refused(Refusal::ObserveOnly));
    }
}
