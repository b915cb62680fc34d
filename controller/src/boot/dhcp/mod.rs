//! The controller's own DHCP server: tells NICs the addresses that their machines have, and says nothing to any other.
//!
//! Off unless `[dhcp] interfaces` names where. It has no range to hand out from, so that it can live beside a server that
//! has one: that one should leave the machines to it that are leased (see the operators' guide).
//! What is told is decided here, without I/O; [`serve`] moves the datagrams.

pub mod packet;
mod serve;

use std::net::{Ipv4Addr, SocketAddrV4};

pub use serve::{Open, open, serve};

use crate::config;
use crate::fleet::State;
use crate::fleet::location::reservation::{self, Reservation};
use packet::{Kind, Reply, Request};

/// RFC 2131, section 3.3, knows no shorter one; who renews more often than every half of it is a load.
const LEAST_S: u32 = 120;

/// For how long a NIC is told that it has an address: no longer than the address is nobody's once it was given back, so
/// that nobody else gets what somebody still uses.
pub fn lease_s(reserved: &Reservation, config: &config::Dhcp) -> u32 {
    let most = u32::try_from(config.lease_time.as_secs()).unwrap_or(u32::MAX);
    most.min(reserved.quarantine_s).max(LEAST_S)
}

/// What is said to a request that came in where `server` is our address, and where to; `None` for what is not ours to
/// answer. Sections are RFC 2131's.
pub fn answer(
    state: &State,
    config: &config::Dhcp,
    request: &Request,
    server: Ipv4Addr,
) -> Option<(Reply, SocketAddrV4)> {
    let own = own(state, request, server);
    let says = |kind, reserved: &Reservation| Some(reply(kind, reserved, server, config));
    let nak = || Some(Reply { kind: Kind::Nak, server, address: Ipv4Addr::UNSPECIFIED, options: Vec::new() });
    let reply = match (request.kind, request.server) {
        // 4.3.1
        (Kind::Discover, _) => says(Kind::Offer, own.as_ref()?),
        // 4.3.2: it has chosen another server's offer.
        (Kind::Request, Some(chosen)) if chosen != server => None,
        (Kind::Request, _) => {
            let asks = request.requested.or(Some(request.client).filter(|client| !client.is_unspecified()))?;
            // Of whom nothing is known nothing is said: another server may know it, on this very host and by this address.
            let reserved = own?;
            // What it holds by another server, or had before, is no more its own: it is to ask anew.
            if reserved.address == asks { says(Kind::Ack, &reserved) } else { nak() }
        }
        // 4.3.5: it has an address, and asks for the rest.
        (Kind::Inform, _) => {
            let mut reply = reply(Kind::Ack, &own?, server, config);
            reply.address = Ipv4Addr::UNSPECIFIED;
            reply.options.retain(|(code, _)| *code != 51);
            Some(reply)
        }
        // 4.3.3: somebody else uses it; whoever serves writes that down. 4.3.4: what is reserved stays so.
        (Kind::Decline | Kind::Release | Kind::Offer | Kind::Ack | Kind::Nak, _) => None,
    }?;
    // 4.1: by the relay; to the client where it has its address; else to everybody on the wire, since nobody answers ARP
    // for an address that is yet to be told.
    let to = if !request.relay.is_unspecified() {
        SocketAddrV4::new(request.relay, config.port)
    } else if !request.client.is_unspecified() && reply.kind != Kind::Nak {
        SocketAddrV4::new(request.client, config.client_port)
    } else {
        SocketAddrV4::new(Ipv4Addr::BROADCAST, config.client_port)
    };
    Some((reply, to))
}

/// What this NIC has: of several addresses the one of the subnet that the request came from.
fn own(state: &State, request: &Request, server: Ipv4Addr) -> Option<Reservation> {
    let from = if request.relay.is_unspecified() { server } else { request.relay };
    let mut all = reservation::of_mac(state, request.mac).collect::<Vec<_>>();
    all.sort_by_key(|reserved| !reserved.net.contains(&from));
    all.into_iter().next()
}

fn reply(kind: Kind, reserved: &Reservation, server: Ipv4Addr, config: &config::Dhcp) -> Reply {
    let bytes = |addresses: &[Ipv4Addr]| addresses.iter().flat_map(Ipv4Addr::octets).collect::<Vec<u8>>();
    // RFC 2132: lease time (51), mask (1), router (3), resolvers (6), host name (12).
    let mut options =
        vec![(51, lease_s(reserved, config).to_be_bytes().to_vec()), (1, bytes(&[reserved.net.netmask()]))];
    options.extend(reserved.gateway.map(|gateway| (3, bytes(&[gateway]))));
    options.extend((!reserved.nameservers.is_empty()).then(|| (6, bytes(&reserved.nameservers))));
    options.extend(reserved.hostname.as_ref().map(|name| (12, name.clone().into_bytes())));
    Reply { kind, server, address: reserved.address, options }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use muster_protocol::Mac;

    use super::*;
    use crate::fleet::Draft;
    use crate::fleet::draft::tests::draft;
    use crate::fleet::location::reservation::tests::with_lease;

    const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 14);
    const OURS: Mac = Mac::from_bytes([2, 0, 0, 0, 0, 1]);
    const OTHERS: Mac = Mac::from_bytes([2, 0, 0, 0, 0, 9]);
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);

    fn dhcp() -> config::Dhcp {
        config::Dhcp {
            interfaces: vec!["lan".into()],
            port: 67,
            client_port: 68,
            lease_time: Duration::from_secs(3600),
        }
    }

    /// One NIC has 203.0.113.2/28, quarantine 600 s.
    fn world() -> Draft {
        let mut draft = draft();
        with_lease(&mut draft);
        draft
    }

    fn request(kind: Kind, mac: Mac) -> Request {
        Request {
            kind,
            xid: [1, 2, 3, 4],
            flags: [0x80, 0],
            client: Ipv4Addr::UNSPECIFIED,
            relay: Ipv4Addr::UNSPECIFIED,
            mac,
            requested: None,
            server: None,
            echoed: vec![(82, vec![1]), (61, vec![1, 2])],
        }
    }

    fn said(request: &Request) -> Option<(Kind, Ipv4Addr, String)> {
        let world = world();
        let (reply, to) = answer(world.state(), &dhcp(), request, SERVER)?;
        Some((reply.kind, reply.address, to.to_string()))
    }

    #[test]
    fn a_nic_is_told_what_its_machine_has_and_no_other_hears_a_word() {
        let everybody = "255.255.255.255:68".to_owned();
        assert_eq!(said(&request(Kind::Discover, OURS)), Some((Kind::Offer, ADDRESS, everybody.clone())));
        assert_eq!(said(&request(Kind::Discover, OTHERS)), None);
        let asks = |mac, address, server| Request { requested: Some(address), server, ..request(Kind::Request, mac) };
        let ack = Some((Kind::Ack, ADDRESS, everybody.clone()));
        let nak = Some((Kind::Nak, Ipv4Addr::UNSPECIFIED, everybody.clone()));
        let another = Ipv4Addr::new(203, 0, 113, 3);
        assert_eq!(said(&asks(OURS, ADDRESS, Some(SERVER))), ack);
        assert_eq!(said(&asks(OURS, ADDRESS, None)), ack, "it starts anew, and had it before");
        assert_eq!(said(&asks(OURS, another, None)), nak, "it holds what it had before it was leased");
        assert_eq!(said(&asks(OURS, ADDRESS, Some(another))), None, "it has chosen another server");
        assert_eq!(
            said(&asks(OTHERS, another, Some(SERVER))),
            None,
            "another server has our address, on the same host"
        );
        assert_eq!(said(&asks(OTHERS, another, None)), None, "it may be another server's");
        assert_eq!(said(&request(Kind::Request, OURS)), None, "it asks for nothing");
        for kind in [Kind::Decline, Kind::Release] {
            assert_eq!(said(&request(kind, OURS)), None);
        }
    }

    #[test]
    fn answers_go_to_the_relay_or_to_the_client_where_it_has_its_address() {
        let renews = Request { client: ADDRESS, ..request(Kind::Request, OURS) };
        assert_eq!(said(&renews), Some((Kind::Ack, ADDRESS, "203.0.113.2:68".into())));
        let relay = Ipv4Addr::new(203, 0, 113, 13);
        let relayed = Request { relay, ..request(Kind::Discover, OURS) };
        assert_eq!(said(&relayed), Some((Kind::Offer, ADDRESS, "203.0.113.13:67".into())));
        let informs = Request { client: ADDRESS, ..request(Kind::Inform, OURS) };
        assert_eq!(said(&informs), Some((Kind::Ack, Ipv4Addr::UNSPECIFIED, "203.0.113.2:68".into())));
    }

    #[test]
    fn what_is_said_has_the_options_of_the_subnet_and_what_came_to_go_back() {
        let world = world();
        let request = request(Kind::Discover, OURS);
        let (reply, _) = answer(world.state(), &dhcp(), &request, SERVER).expect("an offer");
        let bytes = reply.encode(&request);
        assert!(bytes.len() >= 300 && bytes[4..8] == [1, 2, 3, 4]);
        let options: Vec<(u8, &[u8])> = options(&bytes).collect();
        let mask = [255, 255, 255, 240];
        assert_eq!(
            options,
            [
                (53, &[2][..]),
                (54, &[203, 0, 113, 14]),
                // The quarantine and not the hour that is configured.
                (51, &[0, 0, 2, 88]),
                (1, &mask),
                (3, &[203, 0, 113, 1]),
                (6, &[192, 0, 2, 53]),
                (12, b"srv-1.example.net"),
                (61, &[1, 2]),
                (82, &[1]),
            ]
        );
    }

    fn options(bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
        let mut rest = &bytes[240..];
        std::iter::from_fn(move || {
            let (&[code, length], after) = rest.split_first_chunk().filter(|([code, _], _)| *code != 255)?;
            let (value, after) = after.split_at(usize::from(length));
            rest = after;
            Some((code, value))
        })
    }

    #[test]
    fn a_request_is_read_and_what_is_none_is_dropped() {
        let mut bytes = vec![0; 240];
        bytes[..3].copy_from_slice(&[1, 1, 6]);
        bytes[4..8].copy_from_slice(&[1, 2, 3, 4]);
        bytes[10] = 0x80;
        bytes[28..34].copy_from_slice(OURS.as_bytes());
        bytes[236..].copy_from_slice(&[99, 130, 83, 99]);
        let head = bytes.clone();
        bytes.extend([53, 1, 3, 0, 0, 54, 4, 203, 0, 113, 14, 50, 4, 203, 0, 113, 2, 12, 2, b'h', b'i', 255, 7]);
        let read = Request::decode(&bytes).expect("a request");
        let expected = Request {
            server: Some(SERVER),
            requested: Some(ADDRESS),
            echoed: Vec::new(),
            ..request(Kind::Request, OURS)
        };
        assert_eq!(read, expected);
        let with = |options: &[u8]| Request::decode(&[&head, options].concat());
        assert!(with(&[53, 1, 1]).is_some(), "without an end");
        for options in [&[][..], &[53, 1], &[53, 2, 1, 1], &[53, 1, 2], &[53, 1, 1, 50, 3, 1, 2, 3], &[53, 1, 1, 12]] {
            assert_eq!(with(options), None, "{options:?}");
        }
        for (at, byte) in [(0, 2), (1, 6), (2, 8), (28, 1), (236, 0)] {
            let mut wrong = bytes.clone();
            wrong[at] = byte;
            assert_eq!(Request::decode(&wrong), None, "byte {at}");
        }
        for length in 0..bytes.len() {
            let _ = Request::decode(&bytes[..length]);
        }
    }
}
