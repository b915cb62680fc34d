//! The client against a scripted server, in jumps of time.

use proptest::prelude::*;

use super::*;

const MAC: Mac = Mac::from_bytes([2, 0, 0, 0, 0, 1]);
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A client, its clock, and what it has done.
struct Scene {
    now: Instant,
    client: Client,
}

impl Scene {
    fn new() -> Self {
        let now = Instant::now();
        Self { now, client: Client::new(MAC, 42, now) }
    }

    fn with_lease() -> Self {
        let now = Instant::now();
        let lease = Lease::handed_over(net(ADDRESS), Some(SERVER), None, Some(SERVER), now);
        Self { now, client: Client::with_lease(MAC, 42, lease, now) }
    }

    /// A client that got `lease_seconds` just now.
    fn bound(lease_seconds: u32) -> Self {
        let mut scene = Self::new();
        scene.poll();
        scene.answer(ReplyKind::Offer, ADDRESS, lease_seconds);
        let actions = scene.answer(ReplyKind::Ack, ADDRESS, lease_seconds);
        assert!(matches!(&actions[..], [Action::Install(_)]), "{actions:?}");
        scene
    }

    fn poll(&mut self) -> Vec<Action> {
        self.client.poll(self.now)
    }

    /// Jumps to the next deadline.
    fn next(&mut self) -> Vec<Action> {
        assert!(self.client.deadline() >= self.now, "a deadline in the past would make the caller spin");
        self.now = self.client.deadline();
        self.poll()
    }

    fn answer(&mut self, kind: ReplyKind, address: Ipv4Addr, lease_seconds: u32) -> Vec<Action> {
        let reply = Reply {
            kind,
            transaction: self.client.transaction,
            mac: MAC,
            address: (kind != ReplyKind::Nak).then(|| net(address)),
            server: Some(SERVER),
            lease_seconds: Some(lease_seconds),
            t1: None,
            t2: None,
            routes: vec![(Ipv4Net::default(), Some(SERVER))],
            nameservers: vec![],
            domain: None,
            ntp: vec![],
        };
        self.client.handle(&reply, self.now)
    }
}

fn net(address: Ipv4Addr) -> Ipv4Net {
    Ipv4Net::new(address, 24).expect("a prefix")
}

/// Message type, requested address and server of a message that goes to everyone.
fn broadcast(actions: &[Action]) -> (u8, Option<[u8; 4]>, Option<[u8; 4]>) {
    let [Action::Broadcast(bytes)] = actions else { panic!("not one broadcast: {actions:?}") };
    let mut options = &bytes[240..];
    let mut found = (0, None, None);
    while let [code, len, rest @ ..] = options {
        let (value, rest) = rest.split_at(usize::from(*len).min(rest.len()));
        match code {
            53 => found.0 = value[0],
            50 => found.1 = value.try_into().ok(),
            54 => found.2 = value.try_into().ok(),
            255 => break,
            _ => {}
        }
        options = rest;
    }
    found
}

#[test]
fn gets_a_lease_in_four_messages() {
    let mut scene = Scene::new();
    assert_eq!(broadcast(&scene.poll()), (1, None, None));
    assert_eq!(scene.client.listening(), Listening::Raw);
    let request = scene.answer(ReplyKind::Offer, ADDRESS, 3600);
    assert_eq!(broadcast(&request), (3, Some(ADDRESS.octets()), Some(SERVER.octets())));
    let actions = scene.answer(ReplyKind::Ack, ADDRESS, 3600);
    let [Action::Install(lease)] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!(lease.address, net(ADDRESS));
    assert_eq!(lease.ends_at - scene.now, seconds(3600));
    assert_eq!(scene.client.listening(), Listening::Nowhere);
    assert_eq!(scene.client.deadline() - scene.now, seconds(1800));
}

#[test]
fn asks_on_with_growing_pauses() {
    let mut scene = Scene::new();
    scene.poll();
    let mut last = scene.now;
    for pause in [2, 4, 8, 16, 32, 64, 64, 64] {
        assert_eq!(broadcast(&scene.next()).0, 1);
        let waited = scene.now - last;
        let (least, most) = (seconds(pause) * 3 / 4, seconds(pause) * 5 / 4);
        assert!((least..=most).contains(&waited), "{waited:?} instead of about {pause} s");
        last = scene.now;
    }
}

#[test]
fn answers_to_others_are_not_taken() {
    let mut scene = Scene::new();
    scene.poll();
    scene.client.transaction ^= 1;
    let other = scene.client.transaction;
    scene.client.transaction ^= 1;
    let mut reply = Reply {
        kind: ReplyKind::Offer,
        transaction: other,
        mac: MAC,
        address: Some(net(ADDRESS)),
        server: Some(SERVER),
        lease_seconds: Some(60),
        t1: None,
        t2: None,
        routes: vec![],
        nameservers: vec![],
        domain: None,
        ntp: vec![],
    };
    assert_eq!(scene.client.handle(&reply, scene.now), []);
    reply.transaction = scene.client.transaction;
    reply.mac = Mac::from_bytes([2, 0, 0, 0, 0, 2]);
    assert_eq!(scene.client.handle(&reply, scene.now), []);
    reply.mac = MAC;
    reply.kind = ReplyKind::Ack;
    assert_eq!(scene.client.handle(&reply, scene.now), [], "nothing was requested yet");
    reply.kind = ReplyKind::Offer;
    assert_eq!(scene.client.handle(&reply, scene.now).len(), 1);
    reply.server = Some(Ipv4Addr::new(192, 0, 2, 9));
    reply.kind = ReplyKind::Ack;
    assert_eq!(scene.client.handle(&reply, scene.now), [], "another server was chosen");
}

#[test]
fn renews_with_its_server_at_half_time() {
    let mut scene = Scene::bound(3600);
    let began = scene.now;
    let actions = scene.next();
    assert_eq!(scene.now - began, seconds(1800));
    assert!(matches!(&actions[..], [Action::Unicast { from: ADDRESS, to: SERVER, .. }]), "{actions:?}");
    assert_eq!(scene.client.listening(), Listening::At(ADDRESS));
    let actions = scene.answer(ReplyKind::Ack, ADDRESS, 3600);
    let [Action::Install(lease)] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!(lease.ends_at - scene.now, seconds(3600));
}

#[test]
fn asks_any_server_before_the_lease_ends_and_gives_up_the_address_when_it_does() {
    let mut scene = Scene::bound(3600);
    let began = scene.now;
    let mut unicast = Vec::new();
    let mut rebound = Vec::new();
    let withdrawn = loop {
        match &scene.next()[..] {
            [Action::Unicast { .. }] => unicast.push((scene.now - began).as_secs()),
            [Action::Broadcast(_)] => rebound.push((scene.now - began).as_secs()),
            actions => break actions.to_vec(),
        }
    };
    assert_eq!(unicast, [1800, 2475, 2812, 2981, 3065, 3125], "half of what is left, a minute at least");
    assert_eq!(rebound, [3150, 3375, 3487, 3547]);
    assert_eq!((scene.now - began).as_secs(), 3600);
    assert_eq!(withdrawn[0], Action::Withdraw);
    assert_eq!(broadcast(&withdrawn[1..]), (1, None, None), "and looks for another at once");
    assert_eq!(scene.client.lease(), None);
}

#[test]
fn a_refused_renewal_ends_the_lease_at_once() {
    let mut scene = Scene::bound(3600);
    scene.next();
    assert_eq!(scene.answer(ReplyKind::Nak, ADDRESS, 0), [Action::Withdraw]);
    assert_eq!(broadcast(&scene.poll()), (1, None, None));
}

#[test]
fn a_lease_that_was_handed_over_is_confirmed_and_gets_its_times() {
    let mut scene = Scene::with_lease();
    assert_eq!(broadcast(&scene.poll()), (3, Some(ADDRESS.octets()), None), "INIT-REBOOT names no server");
    let actions = scene.answer(ReplyKind::Ack, ADDRESS, 7200);
    let [Action::Install(lease)] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!(lease.ends_at - scene.now, seconds(7200));
}

#[test]
fn a_lease_that_was_handed_over_is_dropped_where_the_server_says_no() {
    let mut scene = Scene::with_lease();
    scene.poll();
    assert_eq!(scene.answer(ReplyKind::Nak, ADDRESS, 0), [Action::Withdraw]);
    assert_eq!(broadcast(&scene.poll()), (1, None, None));
}

#[test]
fn a_server_that_forgot_the_lease_is_asked_for_it_anew_while_it_is_kept() {
    let mut scene = Scene::with_lease();
    scene.poll();
    for _ in 1..TRIES {
        assert_eq!(broadcast(&scene.next()).0, 3);
    }
    assert_eq!(broadcast(&scene.next()), (1, Some(ADDRESS.octets()), None));
    assert!(scene.client.lease().is_some());
    let other = Ipv4Addr::new(192, 0, 2, 101);
    scene.answer(ReplyKind::Offer, other, 3600);
    let actions = scene.answer(ReplyKind::Ack, other, 3600);
    assert!(matches!(&actions[..], [Action::Install(lease)] if lease.address == net(other)), "{actions:?}");
}

#[test]
fn an_offer_that_comes_to_nothing_is_dropped() {
    let mut scene = Scene::new();
    scene.poll();
    scene.answer(ReplyKind::Offer, ADDRESS, 3600);
    for _ in 1..TRIES {
        assert_eq!(broadcast(&scene.next()).0, 3);
    }
    assert_eq!(broadcast(&scene.next()).0, 1);

    scene.answer(ReplyKind::Offer, ADDRESS, 3600);
    assert_eq!(scene.answer(ReplyKind::Nak, ADDRESS, 0), []);
    assert_eq!(scene.poll(), [], "not at once: it would offer again and refuse again");
    assert_eq!(broadcast(&scene.next()).0, 1);
}

#[test]
fn a_cable_plugged_in_again_asks_whether_the_lease_still_holds() {
    let mut scene = Scene::bound(3600);
    scene.now += seconds(10);
    scene.client.carrier_returned(scene.now);
    assert_eq!(broadcast(&scene.poll()), (3, Some(ADDRESS.octets()), None));
    assert!(scene.client.lease().is_some(), "it is kept until a server says no");

    let mut scene = Scene::new();
    scene.poll();
    scene.now += Duration::from_millis(1);
    scene.client.carrier_returned(scene.now);
    assert_eq!(broadcast(&scene.poll()).0, 1, "no pause: the first message went nowhere");
}

#[test]
fn times_that_make_no_sense_are_replaced() {
    let now = Instant::now();
    let times = |lease_seconds, t1, t2| {
        let reply = Reply {
            kind: ReplyKind::Ack,
            transaction: 0,
            mac: MAC,
            address: Some(net(ADDRESS)),
            server: None,
            lease_seconds: Some(lease_seconds),
            t1,
            t2,
            routes: vec![],
            nameservers: vec![],
            domain: None,
            ntp: vec![],
        };
        let lease = Lease::of_reply(&reply, now).expect("a lease");
        [lease.renew_at, lease.rebind_at, lease.ends_at].map(|at| (at - now).as_secs())
    };
    assert_eq!(times(800, None, None), [400, 700, 800]);
    assert_eq!(times(800, Some(10), Some(20)), [10, 20, 800]);
    assert_eq!(times(800, Some(900), Some(20)), [20, 20, 800]);
    assert_eq!(times(800, Some(10), Some(900)), [10, 700, 800]);
    assert_eq!(times(800, Some(0), Some(0)), [1, 1, 800]);
    assert_eq!(times(0, None, None), [10, 17, 20]);
    assert_eq!(times(u32::MAX, None, None)[2], u64::from(u32::MAX), "for ever is 136 years");
}

#[derive(Debug, Clone)]
enum Event {
    /// Time passes up to the client's deadline.
    Deadline,
    /// Milliseconds pass, short of the deadline or far beyond it.
    Pass(u64),
    Carrier,
    Reply {
        kind: ReplyKind,
        ours: bool,
        last: u8,
        lease: Option<u32>,
        t1: Option<u32>,
        t2: Option<u32>,
    },
}

fn event() -> impl Strategy<Value = Event> {
    let kind =
        prop::sample::select(vec![ReplyKind::Offer, ReplyKind::Offer, ReplyKind::Ack, ReplyKind::Ack, ReplyKind::Nak]);
    let seconds = || prop::option::of(prop_oneof![0..100_u32, any::<u32>()]);
    let reply = (kind, prop::bool::weighted(0.9), 100..103_u8, seconds(), seconds(), seconds());
    prop_oneof![
        3 => Just(Event::Deadline),
        1 => (0..10_000_000_u64).prop_map(Event::Pass),
        1 => Just(Event::Carrier),
        5 => reply.prop_map(|(kind, ours, last, lease, t1, t2)| Event::Reply { kind, ours, last, lease, t1, t2 }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a server says and whenever: what is installed is the lease that is held, an ended one is never kept, and
    /// nobody has to ask the client twice at one moment.
    #[test]
    fn whatever_happens_the_client_keeps_its_promises(events in prop::collection::vec(event(), 0..60), start in any::<bool>()) {
        let mut scene = if start { Scene::with_lease() } else { Scene::new() };
        let mut installed = scene.client.lease().cloned();
        for event in events {
            let mut actions = Vec::new();
            match event {
                Event::Deadline => scene.now = scene.now.max(scene.client.deadline()),
                Event::Pass(milliseconds) => scene.now += Duration::from_millis(milliseconds),
                Event::Carrier => scene.client.carrier_returned(scene.now),
                Event::Reply { kind, ours, last, lease, t1, t2 } => {
                    let reply = Reply {
                        kind,
                        transaction: scene.client.transaction ^ u32::from(!ours),
                        mac: MAC,
                        address: (last > 100).then(|| net(Ipv4Addr::new(192, 0, 2, last))),
                        server: Some(SERVER),
                        lease_seconds: lease,
                        t1,
                        t2,
                        routes: vec![],
                        nameservers: vec![],
                        domain: None,
            ntp: vec![],
                    };
                    actions = scene.client.handle(&reply, scene.now);
                }
            }
            actions.extend(scene.poll());
            for action in actions {
                match action {
                    Action::Install(lease) => installed = Some(lease),
                    Action::Withdraw => {
                        prop_assert!(installed.is_some(), "there is nothing to withdraw");
                        installed = None;
                    }
                    Action::Broadcast(_) => prop_assert_eq!(scene.client.listening(), Listening::Raw),
                    Action::Unicast { from, .. } => prop_assert_eq!(scene.client.listening(), Listening::At(from)),
                }
            }
            prop_assert_eq!(scene.client.lease(), installed.as_ref());
            prop_assert!(installed.is_none_or(|lease| lease.ends_at > scene.now));
            prop_assert!(scene.client.deadline() > scene.now);
            prop_assert_eq!(scene.poll(), []);
            installed = scene.client.lease().cloned();
        }
    }
}
