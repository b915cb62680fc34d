//! What DHCP and NTP servers answer, and what DHCP clients ask: the first byte says which, the rest is their datagram.
#![no_main]

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use muster_agent::linux::network::dhcp6::{Client, Identity};
use muster_agent::linux::network::ntp::packet;
use muster_agent::linux::network::{dhcp, dhcp6};
use muster_controller::boot::dhcp::packet::{Kind, Reply, Request};
use muster_fuzz::plant;
use muster_protocol::Mac;

const MAC: Mac = Mac::from_bytes([2, 0, 0, 0, 0, 5]);
const NONCE: u64 = 7;

fuzz_target!(
    init: {
        let seeds = [offer(), reply(), time(), request()];
        assert!(dhcp::message::Reply::decode(&seeds[0][1..]).is_some(), "a seed that is no offer leads nowhere");
        assert!(dhcp6::message::Reply::decode(&seeds[1][1..]).is_some(), "a seed that is no reply leads nowhere");
        assert!(packet::read(&seeds[2][1..], NONCE, 0, Duration::ZERO).is_ok(), "a seed without a time leads nowhere");
        assert!(Request::decode(&seeds[3][1..]).is_some(), "a seed that is no request leads nowhere");
        plant("leases", seeds)
    },
    |data: &[u8]| {
        let Some((which, bytes)) = data.split_first() else { return };
        match which % 4 {
            0 => {
                dhcp::message::Reply::decode(bytes);
            }
            1 => {
                let Some(mut reply) = dhcp6::message::Reply::decode(bytes) else { return };
                // A client in search, and one that holds a lease, take whatever comes for an answer to them.
                let now = Instant::now();
                let mut client = Client::new(Identity::new(MAC, 0), 1, now);
                for seconds in [0, 1, 100_000] {
                    let now = now + Duration::from_secs(seconds);
                    let actions = client.poll(now);
                    if let Some(dhcp6::Action::Send(sent)) = actions.last() {
                        reply.transaction = u32::from_be_bytes([0, sent[1], sent[2], sent[3]]);
                        reply.client = Identity::new(MAC, 0).duid();
                    }
                    client.handle(&reply, Ipv6Addr::LOCALHOST, now);
                    client.deadline();
                }
            }
            3 => {
                let Some(request) = Request::decode(bytes) else { return };
                let reply = Reply { kind: Kind::Ack, server: request.client, address: request.relay, options: Vec::new() };
                assert!(reply.encode(&request).len() <= 1024, "what goes back is bounded");
            }
            _ => {
                let _ = packet::read(bytes, NONCE, 0, Duration::from_millis(9));
            }
        }
    }
);

/// A DHCPv4 offer with every option that is read.
fn offer() -> Vec<u8> {
    let mut bytes = vec![0; 240];
    bytes[..3].copy_from_slice(&[2, 1, 6]);
    bytes[16..20].copy_from_slice(&[192, 0, 2, 100]);
    bytes[28..34].copy_from_slice(MAC.as_bytes());
    bytes[236..].copy_from_slice(&[99, 130, 83, 99]);
    let options: [&[u8]; 10] = [
        &[53, 1, 2],
        &[54, 4, 192, 0, 2, 1],
        &[51, 4, 0, 0, 14, 16],
        &[1, 4, 255, 255, 255, 0],
        &[3, 4, 192, 0, 2, 1],
        &[6, 4, 192, 0, 2, 53],
        &[15, 3, b'l', b'a', b'n'],
        &[42, 4, 192, 0, 2, 123],
        &[121, 8, 24, 198, 51, 100, 192, 0, 2, 9],
        &[255],
    ];
    [&[0], &bytes[..], &options.concat()].concat()
}

/// A DHCPv6 reply with every option that is read.
fn reply() -> Vec<u8> {
    let address = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x77];
    let options: [&[u8]; 13] = [
        &[0, 1, 0, 10, 0, 3, 0, 1, 2, 0, 0, 0, 0, 5],
        &[0, 2, 0, 10, 0, 3, 0, 1, 2, 0, 0, 0, 0, 1],
        &[0, 3, 0, 40, 0, 0, 0, 5, 0, 0, 0, 9, 0, 0, 0, 15, 0, 5, 0, 24],
        &address,
        &[0, 0, 0, 20, 0, 0, 0, 30],
        &[0, 14, 0, 0, 0, 13, 0, 2, 0, 0, 0, 7, 0, 1, 255],
        &[0, 23, 0, 16],
        &address,
        &[0, 24, 0, 5, 3, b'l', b'a', b'n', 0, 0, 31, 0, 16],
        &address,
        &[0, 56, 0, 20, 0, 1, 0, 16],
        &address,
        &[0, 32, 0, 4, 0, 0, 3, 0, 0, 82, 0, 4, 0, 0, 1, 0],
    ];
    [&[1, 7, 0, 0, 0], &options.concat()[..]].concat()
}

/// An NTP server's answer in the year 2000.
fn time() -> Vec<u8> {
    let mut bytes = vec![0; 49];
    bytes[..3].copy_from_slice(&[2, 0x24, 2]);
    bytes[25..33].copy_from_slice(&NONCE.to_be_bytes());
    for at in [33, 41] {
        bytes[at..at + 4].copy_from_slice(&3_155_673_600_u32.to_be_bytes());
    }
    bytes
}

/// A DHCPv4 request with every option that is read.
fn request() -> Vec<u8> {
    let mut bytes = vec![0; 240];
    bytes[..3].copy_from_slice(&[1, 1, 6]);
    bytes[28..34].copy_from_slice(MAC.as_bytes());
    bytes[236..].copy_from_slice(&[99, 130, 83, 99]);
    let options: [&[u8]; 6] = [
        &[53, 1, 3],
        &[54, 4, 192, 0, 2, 1],
        &[50, 4, 192, 0, 2, 100],
        &[61, 3, 1, 2, 5],
        &[82, 2, 1, 0],
        &[255],
    ];
    [&[3], &bytes[..], &options.concat()].concat()
}
