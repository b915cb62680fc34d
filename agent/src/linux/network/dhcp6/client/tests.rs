//! The client against a scripted server, in jumps of time.

use muster_protocol::Mac;
use proptest::prelude::*;

use super::*;
use crate::linux::network::dhcp6::message::Association;

const FROM: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const ADDRESS: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x123);
const OTHER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x124);

const SOLICIT: u8 = 1;
const REQUEST: u8 = 3;
const CONFIRM: u8 = 4;
const RENEW: u8 = 5;
const REBIND: u8 = 6;
const INFORM: u8 = 11;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn identity() -> Identity {
    Identity::new(Mac::from_bytes([2, 0, 0, 0, 0, 5]), 0)
}

/// A client, its clock, and a server to answer it.
struct Scene {
    now: Instant,
    client: Client,
}

impl Scene {
    fn new() -> Self {
        let now = Instant::now();
        Self { now, client: Client::new(identity(), 42, now) }
    }

    /// A client that got an address just now, preferred for 1,000 s and good for 2,000 s.
    fn bound() -> Self {
        let mut scene = Self::new();
        scene.poll();
        scene.hear(scene.offer(1, 0));
        scene.next();
        let actions = scene.hear(scene.reply());
        assert!(matches!(&actions[..], [Action::Install(_)]), "{actions:?}");
        scene
    }

    /// A client that learned resolvers and the like only.
    fn informed() -> Self {
        let mut scene = Self::new();
        scene.poll();
        scene.hear(scene.without_address(ReplyKind::Advertise, Status::NoAddress));
        assert_eq!(sent(&scene.next()), INFORM);
        let actions =
            scene.hear(Reply { refresh: Some(900), ..scene.without_address(ReplyKind::Reply, Status::Success) });
        assert!(matches!(&actions[..], [Action::Install(Lease { address: None, .. })]), "{actions:?}");
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

    fn hear(&mut self, reply: Reply) -> Vec<Action> {
        self.client.handle(&reply, FROM, self.now)
    }

    /// What a server says that has no address.
    fn without_address(&self, kind: ReplyKind, status: Status) -> Reply {
        Reply {
            kind,
            transaction: self.client.transaction,
            client: identity().duid(),
            server: vec![0, 3, 0, 1, 1],
            preference: 0,
            rapid: false,
            status,
            associations: vec![],
            nameservers: vec![OTHER],
            search: vec!["lan.example".to_owned()],
            ntp: vec![OTHER],
            refresh: None,
            longest: None,
        }
    }

    /// What server `number` says that gives the address.
    fn giving(&self, kind: ReplyKind, number: u8, address: Ipv6Addr) -> Reply {
        let given = Some(Given { address, preferred: 1_000, valid: 2_000 });
        let association = Association { number: identity().association, t1: 0, t2: 0, status: Status::Success, given };
        Reply {
            server: vec![0, 3, 0, 1, number],
            associations: vec![association],
            ..self.without_address(kind, Status::Success)
        }
    }

    fn offer(&self, number: u8, preference: u8) -> Reply {
        Reply { preference, ..self.giving(ReplyKind::Advertise, number, ADDRESS) }
    }

    fn reply(&self) -> Reply {
        self.giving(ReplyKind::Reply, 1, ADDRESS)
    }

    /// What a server says of the address that is held.
    fn about(&self, status: Status) -> Reply {
        let mut reply = self.reply();
        reply.associations[0].status = status;
        reply.associations[0].given = None;
        reply
    }
}

/// The kind of the one message that is sent.
fn sent(actions: &[Action]) -> u8 {
    let [Action::Send(bytes)] = actions else { panic!("not one message: {actions:?}") };
    bytes[0]
}

/// The server that the one message names.
fn server_of(actions: &[Action]) -> Option<u8> {
    let [Action::Send(bytes)] = actions else { panic!("not one message: {actions:?}") };
    // Behind the client's DUID.
    bytes[18..].strip_prefix(&[0, 2, 0, 5, 0, 3, 0, 1]).map(|rest| rest[0])
}

#[test]
fn gets_an_address_in_four_messages() {
    let mut scene = Scene::new();
    assert_eq!(sent(&scene.poll()), SOLICIT);
    assert!(scene.client.awaits_answer());
    assert_eq!(scene.hear(scene.offer(1, 0)), [], "a better one may come in the first second");
    let began = scene.now;
    assert_eq!(sent(&scene.next()), REQUEST);
    assert!((seconds(1)..seconds(2)).contains(&(scene.now - began)));
    let actions = scene.hear(scene.reply());
    let [Action::Install(lease)] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!(lease.net(), Some("2001:db8::123/128".parse().expect("a prefix")));
    assert_eq!((lease.preferred_until - scene.now, lease.ends_at - scene.now), (seconds(1_000), seconds(2_000)));
    let observed = lease.observed();
    assert_eq!((observed.server, observed.ntp), (FROM.into(), vec![OTHER.into()]));
    assert!(!scene.client.awaits_answer());
    assert_eq!(scene.client.deadline() - scene.now, seconds(500), "T1 is half of what it is preferred for");
}

#[test]
fn takes_an_address_that_is_given_at_once() {
    let mut scene = Scene::new();
    scene.poll();
    assert_eq!(scene.hear(scene.reply()), [], "nobody said that it commits at once");
    let actions = scene.hear(Reply { rapid: true, ..scene.reply() });
    assert!(matches!(&actions[..], [Action::Install(_)]), "{actions:?}");
}

#[test]
fn takes_the_server_of_the_highest_preference() {
    let mut scene = Scene::new();
    scene.poll();
    for (number, preference) in [(1, 5), (2, 9), (3, 9), (4, 0)] {
        assert_eq!(scene.hear(scene.offer(number, preference)), []);
    }
    let actions = scene.next();
    assert_eq!((sent(&actions), server_of(&actions)), (REQUEST, Some(2)));
    assert_eq!(scene.hear(scene.giving(ReplyKind::Reply, 1, ADDRESS)), [], "another server was chosen");

    let mut scene = Scene::new();
    scene.poll();
    let actions = scene.hear(scene.offer(7, 255));
    assert_eq!((sent(&actions), server_of(&actions)), (REQUEST, Some(7)), "it wants to be taken at once");
}

#[test]
fn a_late_offer_is_taken_at_once() {
    let mut scene = Scene::new();
    scene.poll();
    scene.next();
    let actions = scene.hear(scene.offer(1, 0));
    assert_eq!(sent(&actions), REQUEST);
}

#[test]
fn answers_to_others_are_not_taken() {
    let mut scene = Scene::new();
    scene.poll();
    let good = Reply { preference: 255, ..scene.offer(1, 255) };
    assert_eq!(scene.hear(Reply { transaction: good.transaction ^ 1, ..good.clone() }), []);
    assert_eq!(scene.hear(Reply { client: vec![0, 3, 0, 1, 2], ..good.clone() }), []);
    let mut others = good.clone();
    others.associations[0].number ^= 1;
    assert_eq!(scene.hear(others), [], "the address of another link");
    assert_eq!(sent(&scene.hear(Reply { transaction: scene.client.transaction, ..good })), REQUEST);
}

#[test]
fn asks_on_with_growing_pauses_for_an_address_and_then_for_the_rest_as_well() {
    let mut scene = Scene::new();
    let mut kinds = vec![sent(&scene.poll())];
    let mut last = scene.now;
    for pause in [1, 2, 4, 8, 16, 32, 64, 120, 120, 120] {
        kinds.push(sent(&scene.next()));
        let waited = scene.now - last;
        let (least, most) = (seconds(pause) * 9 / 10, seconds(pause) * 11 / 10);
        assert!((least..=most).contains(&waited), "{waited:?} instead of about {pause} s");
        last = scene.now;
    }
    assert_eq!(kinds[..4], [SOLICIT; 4]);
    assert_eq!(kinds[4..], [INFORM, SOLICIT, INFORM, SOLICIT, INFORM, SOLICIT, INFORM]);
}

#[test]
fn a_server_may_say_how_often_it_is_asked() {
    let mut scene = Scene::new();
    scene.poll();
    scene.hear(Reply { longest: Some(60), ..scene.without_address(ReplyKind::Advertise, Status::NoAddress) });
    for _ in 0..10 {
        let before = scene.now;
        scene.next();
        assert!(scene.now - before <= seconds(66));
    }
}

#[test]
fn a_server_without_addresses_tells_the_rest_and_is_asked_again_later() {
    let mut scene = Scene::informed();
    let lease = scene.client.lease().expect("a lease").clone();
    assert_eq!((lease.net(), lease.nameservers.clone()), (None, vec![OTHER]));
    assert!(lease.observed().address.addr().is_unspecified());
    let began = scene.now;
    assert_eq!(sent(&scene.next()), SOLICIT, "there may be addresses by now");
    assert_eq!(scene.now - began, seconds(900));
    assert_eq!(scene.client.lease(), Some(&lease), "what is known stays meanwhile");
    let actions = scene.hear(Reply { preference: 255, ..scene.offer(1, 255) });
    assert_eq!(sent(&actions), REQUEST);
    scene.hear(scene.reply());
    assert_eq!(scene.client.lease().and_then(|lease| lease.address), Some(ADDRESS));
}

#[test]
fn that_there_are_no_addresses_may_be_said_by_a_hasty_reply() {
    let mut scene = Scene::new();
    scene.poll();
    scene.hear(Reply { rapid: true, ..scene.without_address(ReplyKind::Reply, Status::NoAddress) });
    assert_eq!(sent(&scene.next()), INFORM);
}

#[test]
fn a_server_with_an_address_is_preferred_to_one_without() {
    let mut scene = Scene::new();
    scene.poll();
    scene.hear(scene.without_address(ReplyKind::Advertise, Status::NoAddress));
    scene.hear(scene.offer(1, 0));
    assert_eq!(sent(&scene.next()), REQUEST);
}

#[test]
fn renews_with_its_server_at_half_time() {
    let mut scene = Scene::bound();
    let began = scene.now;
    let actions = scene.next();
    assert_eq!((sent(&actions), server_of(&actions)), (RENEW, Some(1)));
    assert_eq!(scene.now - began, seconds(500));
    assert_eq!(scene.hear(scene.giving(ReplyKind::Reply, 9, ADDRESS)), [], "another server was not asked");
    let actions = scene.hear(scene.reply());
    let [Action::Install(lease)] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!(lease.ends_at - scene.now, seconds(2_000));
}

#[test]
fn asks_any_server_before_the_lease_ends_and_gives_up_the_address_when_it_does() {
    let mut scene = Scene::bound();
    let began = scene.now;
    let (mut renewed, mut rebound) = (Vec::new(), Vec::new());
    let withdrawn = loop {
        match &scene.next()[..] {
            actions @ [Action::Send(_)] if sent(actions) == RENEW => renewed.push((scene.now - began).as_secs()),
            actions @ [Action::Send(_)] => {
                assert_eq!((sent(actions), server_of(actions)), (REBIND, None));
                rebound.push((scene.now - began).as_secs());
            }
            actions => break actions.to_vec(),
        }
    };
    assert_eq!((renewed[0], rebound[0]), (500, 800));
    assert!((4..=6).contains(&renewed.len()) && (5..=9).contains(&rebound.len()), "{renewed:?} {rebound:?}");
    assert_eq!((scene.now - began).as_secs(), 2_000);
    assert_eq!(withdrawn[0], Action::Withdraw);
    assert_eq!(sent(&withdrawn[1..]), SOLICIT, "and looks for another at once");
    assert_eq!(scene.client.lease(), None);
}

#[test]
fn any_server_may_extend_a_lease_that_its_own_did_not() {
    let mut scene = Scene::bound();
    while sent(&scene.next()) != REBIND {}
    let actions = scene.hear(scene.giving(ReplyKind::Reply, 9, ADDRESS));
    assert!(matches!(&actions[..], [Action::Install(lease)] if lease.server[4] == 9), "{actions:?}");
}

#[test]
fn a_server_that_forgot_the_lease_is_asked_for_it_anew_while_it_is_kept() {
    let mut scene = Scene::bound();
    scene.next();
    let actions = scene.hear(scene.about(Status::NoBinding));
    assert_eq!((sent(&actions), server_of(&actions)), (REQUEST, Some(1)));
    assert!(scene.client.lease().is_some());
    let actions = scene.hear(scene.giving(ReplyKind::Reply, 1, OTHER));
    assert!(matches!(&actions[..], [Action::Install(lease)] if lease.address == Some(OTHER)), "{actions:?}");
}

#[test]
fn an_address_that_is_given_no_more_time_goes_at_once() {
    for status in [Status::Success, Status::NotOnLink] {
        let mut scene = Scene::bound();
        scene.next();
        assert_eq!(scene.hear(scene.about(status)), [Action::Withdraw], "{status:?}");
        assert_eq!(sent(&scene.poll()), SOLICIT);
    }
    let mut scene = Scene::bound();
    scene.next();
    assert_eq!(scene.hear(scene.about(Status::Failed)), [], "that is no answer");
    assert_eq!(scene.hear(scene.without_address(ReplyKind::Reply, Status::Success)), [], "it says nothing of it");
    assert!(scene.client.lease().is_some());
}

#[test]
fn a_returned_carrier_has_the_address_confirmed() {
    let mut scene = Scene::bound();
    let renewal = scene.client.deadline();
    scene.now += seconds(10);
    scene.client.carrier_returned(scene.now);
    assert_eq!(sent(&scene.poll()), CONFIRM);
    assert_eq!(scene.hear(scene.without_address(ReplyKind::Reply, Status::Success)), []);
    assert_eq!(scene.client.deadline(), renewal, "its times are what they were");

    scene.client.carrier_returned(scene.now);
    scene.poll();
    assert_eq!(scene.hear(scene.without_address(ReplyKind::Reply, Status::NotOnLink)), [Action::Withdraw]);
    assert_eq!(sent(&scene.poll()), SOLICIT);
}

#[test]
fn an_address_that_nobody_denies_is_used_on() {
    let mut scene = Scene::bound();
    let renewal = scene.client.deadline();
    scene.client.carrier_returned(scene.now);
    let began = scene.now;
    let mut asked = 0;
    while scene.client.awaits_answer() {
        let actions = scene.next();
        asked += actions.iter().filter(|action| matches!(action, Action::Send(_))).count();
    }
    assert!((3..=5).contains(&asked), "{asked}");
    assert_eq!(scene.now - began, CONFIRM_WITHIN);
    assert_eq!(scene.client.deadline(), renewal);
    assert!(scene.client.lease().is_some());
}

#[test]
fn a_lease_that_comes_back_is_confirmed() {
    let lease = Scene::bound().client.lease().expect("a lease").clone();
    let now = Instant::now();
    let mut scene = Scene { now, client: Client::with_lease(identity(), 7, lease.clone(), now) };
    assert_eq!(scene.client.lease(), Some(&lease));
    assert_eq!(sent(&scene.poll()), CONFIRM);
}

#[test]
fn an_offer_that_comes_to_nothing_is_dropped() {
    let mut scene = Scene::new();
    scene.poll();
    scene.hear(scene.offer(1, 255));
    for _ in 1..TAKE_TRIES {
        assert_eq!(sent(&scene.next()), REQUEST);
    }
    assert_eq!(sent(&scene.next()), SOLICIT);

    scene.hear(scene.offer(1, 255));
    assert_eq!(scene.hear(scene.about(Status::NoAddress)), []);
    assert_eq!(scene.poll(), [], "not at once: it would offer again and refuse again");
    assert_eq!(sent(&scene.next()), SOLICIT);
}

#[test]
fn times_that_a_server_leaves_open_are_made_up_and_wrong_ones_are_not_taken() {
    assert_eq!(times(0, 0, 1_000), Some((500, 800)));
    assert_eq!(times(0, 300, 1_000), Some((300, 300)));
    assert_eq!(times(900, 0, 1_000), Some((900, 900)));
    assert_eq!(times(100, 200, 1_000), Some((100, 200)));
    assert_eq!(times(0, 0, u32::MAX), Some((u32::MAX, u32::MAX)));
    assert_eq!(times(2, 1, 1_000), None);
    let mut scene = Scene::new();
    scene.poll();
    let mut reply = Reply { rapid: true, ..scene.reply() };
    (reply.associations[0].t1, reply.associations[0].t2) = (2, 1);
    assert_eq!(scene.hear(reply.clone()), []);
    // One second each would have it renew without a pause; an address without an end is kept for ever.
    (reply.associations[0].t1, reply.associations[0].t2) = (0, 0);
    reply.associations[0].given = Some(Given { address: ADDRESS, preferred: 0, valid: 1 });
    scene.hear(reply);
    assert_eq!(scene.client.deadline() - scene.now, seconds(1));
}

proptest! {
    /// Whatever servers say and whenever, the client's deadlines go on, and it holds what it had installed.
    #[test]
    fn any_conversation_goes_on(
        steps in proptest::collection::vec((0..8_u8, any::<bool>(), 0..3_000_u32, 0..3_000_u32, 0..5_u8), 1..80),
    ) {
        let mut scene = Scene::new();
        let mut installed: Option<Lease> = None;
        for (step, is_reply, preferred, valid, status) in steps {
            let status = [Status::Success, Status::NoAddress, Status::NoBinding, Status::NotOnLink, Status::Failed]
                [usize::from(status)];
            let actions = match step {
                0..=2 => scene.next(),
                3 => {
                    scene.client.carrier_returned(scene.now);
                    Vec::new()
                }
                _ => {
                    let kind = if is_reply { ReplyKind::Reply } else { ReplyKind::Advertise };
                    let mut reply = scene.giving(kind, step % 2 + 1, ADDRESS);
                    reply.rapid = step == 4;
                    reply.associations[0].status = status;
                    let given = Given { address: ADDRESS, preferred: preferred.min(valid), valid };
                    reply.associations[0].given = Some(given).filter(|given| given.valid > 0);
                    if step == 7 {
                        reply.associations.clear();
                        reply.status = status;
                    }
                    scene.hear(reply)
                }
            };
            for action in actions {
                match action {
                    Action::Send(bytes) => prop_assert!(bytes.len() < 300),
                    Action::Install(lease) => installed = Some(lease),
                    Action::Withdraw => {
                        prop_assert!(installed.is_some(), "withdrawn what was not there");
                        installed = None;
                    }
                }
            }
            prop_assert_eq!(scene.client.lease(), installed.as_ref());
            prop_assert!(scene.client.deadline() <= scene.now + seconds(86_400));
        }
    }
}
