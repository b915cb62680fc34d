//! Messages as RFC 8415 draws them, byte by byte.

use proptest::prelude::*;

use super::*;

const MAC: Mac = Mac::from_bytes([2, 0, 0, 0, 0, 5]);
const DUID: [u8; 10] = [0, 3, 0, 1, 2, 0, 0, 0, 0, 5];
const SERVER: [u8; 10] = [0, 3, 0, 1, 2, 0, 0, 0, 0, 1];
/// 2001:db8::123.
const ADDRESS: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x23];

fn identity() -> Identity {
    Identity::new(MAC, 0)
}

fn ask(question: Question) -> Vec<u8> {
    Request { question, transaction: 0x000a_0b0c, identity: identity(), elapsed: 0x0102 }.encode()
}

fn option(code: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    put(&mut bytes, code, value);
    bytes
}

/// A reply of this kind with these options behind both DUIDs.
fn answer(kind: u8, options: &[Vec<u8>]) -> Vec<u8> {
    [&[kind, 0x0a, 0x0b, 0x0c][..], &option(1, &DUID), &option(2, &SERVER), &options.concat()].concat()
}

fn ia_na(t1: u32, t2: u32, options: &[Vec<u8>]) -> Vec<u8> {
    option(3, &[&[0, 0, 0, 5][..], &t1.to_be_bytes(), &t2.to_be_bytes(), &options.concat()].concat())
}

fn ia_address(address: [u8; 16], preferred: u32, valid: u32) -> Vec<u8> {
    option(5, &[&address[..], &preferred.to_be_bytes(), &valid.to_be_bytes()].concat())
}

#[test]
fn solicit_is_as_the_rfc_draws_it() {
    let wanted = [
        &[1, 0x0a, 0x0b, 0x0c][..],
        &[0, 1, 0, 10, 0, 3, 0, 1, 2, 0, 0, 0, 0, 5],
        &[0, 8, 0, 2, 1, 2],
        &[0, 3, 0, 12, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0],
        &[0, 14, 0, 0],
        &[0, 6, 0, 10, 0, 23, 0, 24, 0, 31, 0, 56, 0, 82],
    ];
    assert_eq!(ask(Question::Solicit(None)), wanted.concat());
}

#[test]
fn renew_names_the_server_and_the_address() {
    let wanted = [
        &[5, 0x0a, 0x0b, 0x0c][..],
        &[0, 1, 0, 10, 0, 3, 0, 1, 2, 0, 0, 0, 0, 5],
        &[0, 2, 0, 10, 0, 3, 0, 1, 2, 0, 0, 0, 0, 1],
        &[0, 8, 0, 2, 1, 2],
        &[0, 3, 0, 40, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0],
        &[0, 5, 0, 24, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x23, 0, 0, 0, 0, 0, 0, 0, 0],
        &[0, 6, 0, 10, 0, 23, 0, 24, 0, 31, 0, 56, 0, 82],
    ];
    assert_eq!(ask(Question::Renew { server: SERVER.to_vec(), address: ADDRESS.into() }), wanted.concat());
}

#[test]
fn confirm_asks_for_no_options_and_inform_for_no_address() {
    let confirm = ask(Question::Confirm(ADDRESS.into()));
    let codes = |bytes: &[u8]| options(&bytes[4..]).map(|(code, _)| code).collect::<Vec<_>>();
    assert_eq!((confirm[0], codes(&confirm)), (4, vec![1, 8, 3]));
    let inform = ask(Question::Inform);
    assert_eq!((inform[0], codes(&inform)), (11, vec![1, 8, 6]));
    let rebind = ask(Question::Rebind(ADDRESS.into()));
    assert_eq!((rebind[0], codes(&rebind)), (6, vec![1, 8, 3, 6]), "it names no server");
    let take = ask(Question::Take { server: SERVER.to_vec(), address: ADDRESS.into() });
    assert_eq!((take[0], codes(&take)), (3, vec![1, 2, 8, 3, 6]));
}

#[test]
fn links_of_one_mac_are_told_apart_by_their_tag() {
    assert_eq!(Identity::new(MAC, 0).association, 5);
    assert_eq!(Identity::new(MAC, 7).association, 5 ^ 7 << 16);
    assert_eq!(Identity::new(MAC, 7).duid(), DUID);
}

#[test]
fn a_reply_is_read() {
    let bytes = answer(
        7,
        &[
            ia_na(100, 160, &[ia_address(ADDRESS, 200, 300)]),
            option(7, &[255]),
            option(14, &[]),
            option(23, &[&ADDRESS[..], &[0xff; 16]].concat()),
            option(24, b"\x03lan\x07example\0\x01a\x03b c\0\x07example\0"),
            option(31, &ADDRESS),
            option(56, &[option(3, b"\x03ntp\0"), option(1, &{ ADDRESS.map(|byte| byte | 1) })].concat()),
            option(32, &[0, 0, 2, 88]),
            option(82, &[0, 0, 0, 60]),
            option(999, b"unknown"),
        ],
    );
    let reply = Reply::decode(&bytes).expect("a reply");
    let address = Ipv6Addr::from(ADDRESS);
    let given = Some(Given { address, preferred: 200, valid: 300 });
    let wanted = Reply {
        kind: ReplyKind::Reply,
        transaction: 0x000a_0b0c,
        client: DUID.to_vec(),
        server: SERVER.to_vec(),
        preference: 255,
        rapid: true,
        status: Status::Success,
        associations: vec![Association { number: 5, t1: 100, t2: 160, status: Status::Success, given }],
        // A group is no resolver.
        nameservers: vec![address],
        search: vec!["lan.example".to_owned(), "example".to_owned()],
        ntp: vec![ADDRESS.map(|byte| byte | 1).into()],
        refresh: Some(600),
        longest: Some(60),
    };
    assert_eq!(reply, wanted);
}

#[test]
fn what_a_server_refuses_is_told_where_it_says_so() {
    let refused = option(13, b"\0\x02no addresses");
    let reply = Reply::decode(&answer(2, &[ia_na(0, 0, std::slice::from_ref(&refused))])).expect("an advertisement");
    assert_eq!((reply.status, reply.associations[0].status), (Status::Success, Status::NoAddress));
    let reply = Reply::decode(&answer(2, &[refused])).expect("an advertisement");
    assert_eq!((reply.kind, reply.status), (ReplyKind::Advertise, Status::NoAddress));
    for (number, status) in [(0, Status::Success), (1, Status::Failed), (3, Status::NoBinding), (4, Status::NotOnLink)]
    {
        let reply = Reply::decode(&answer(7, &[option(13, &[0, number])])).expect("a reply");
        assert_eq!(reply.status, status);
    }
}

#[test]
fn addresses_that_no_machine_can_have_are_not_taken() {
    let link_local = "fe80::1".parse::<Ipv6Addr>().expect("an address").octets();
    let bad = [
        ia_address([0; 16], 1, 2),
        ia_address([0xff; 16], 1, 2),
        ia_address(link_local, 1, 2),
        ia_address("::ffff:192.0.2.1".parse::<Ipv6Addr>().expect("an address").octets(), 1, 2),
        // Over, and preferred for longer than it is good.
        ia_address(ADDRESS, 0, 0),
        ia_address(ADDRESS, 3, 2),
        // With a refusal of its own.
        option(5, &[&ADDRESS[..], &[0, 0, 0, 1, 0, 0, 0, 2], &option(13, &[0, 4])].concat()),
    ];
    for bad in &bad {
        let reply = Reply::decode(&answer(7, &[ia_na(0, 0, std::slice::from_ref(bad))])).expect("a reply");
        assert_eq!(reply.associations[0].given, None, "{bad:?}");
    }
    let all = [&bad[..], &[ia_address(ADDRESS, 1, 2)]].concat();
    let reply = Reply::decode(&answer(7, &[ia_na(0, 0, &all)])).expect("a reply");
    assert_eq!(reply.associations[0].given.map(|given| given.address), Some(ADDRESS.into()), "the first good one");
}

#[test]
fn what_is_no_answer_of_a_server_to_somebody_is_none() {
    let whole = answer(7, &[]);
    assert!(Reply::decode(&whole).is_some());
    for kind in (0..=255).filter(|kind| ![2, 7].contains(kind)) {
        assert_eq!(Reply::decode(&answer(kind, &[])), None, "kind {kind}");
    }
    assert_eq!(Reply::decode(&whole[..18]), None, "no server");
    assert_eq!(Reply::decode(&[&whole[..4], &whole[18..]].concat()), None, "no client");
    assert_eq!(Reply::decode(&answer(7, &[option(3, &[0; 11])])), None, "an association cut short");
    assert_eq!(Reply::decode(&answer(7, &[option(13, &[0])])), None, "a status cut short");
}

#[test]
fn a_list_is_taken_as_far_as_a_report_has_room() {
    let many = option(23, &ADDRESS.repeat(60));
    let names = option(24, &b"\x01a\0".repeat(600));
    let reply = Reply::decode(&answer(7, &[many.clone(), many, names])).expect("a reply");
    assert_eq!((reply.nameservers.len(), reply.search.len()), (MOST, MOST));
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        Reply::decode(&bytes);
    }

    #[test]
    fn any_options_are_read_without_harm(
        codes in proptest::collection::vec((0..60_u16, proptest::collection::vec(any::<u8>(), 0..60)), 0..12),
        inner in proptest::collection::vec(any::<u8>(), 0..60),
    ) {
        let mut options: Vec<_> = codes.iter().map(|(code, value)| option(*code, value)).collect();
        options.push(ia_na(1, 2, &[inner]));
        if let Some(reply) = Reply::decode(&answer(7, &options)) {
            prop_assert!(reply.associations.iter().filter_map(|it| it.given).all(|given| given.valid > 0));
            prop_assert!(reply.search.iter().all(|name| !name.is_empty() && !name.contains(char::is_whitespace)));
        }
    }
}
