//! Peers that are in, and then say too much, too little, too slowly, or nothing that has a meaning.

use std::time::Duration;

use anyhow::{Result, ensure};
use muster_protocol::frame::{self, HEADER, Message};
use muster_protocol::inventory::{Attachment, Disk, Inventory, Medium, Transport};
use muster_protocol::to_controller::{Answer, Call};
use muster_protocol::{ALPN_ENROLL, bounded, close};
use muster_tests::peer::{self, Peer};

use super::Siege;

/// How many hostile machines.
const HOSTILE: u16 = 40;

/// Enrollments of garbage: more than are in the log.
const STRANGERS: u64 = 120;

/// A request has 20 s from its first byte to its last.
const PATIENCE: Duration = Duration::from_secs(40);

/// The largest frame's header, and as much of its value.
fn begun(bytes: usize) -> Vec<u8> {
    let mut frame = (Call::LIMIT as u32).to_be_bytes().to_vec();
    frame.resize(HEADER + bytes, 0x55);
    frame
}

#[test]
fn streams_that_never_end_hold_little_memory_and_end_with_their_sessions() -> Result<()> {
    let siege = Siege::open("hostile-streams")?;
    let mut peers = Vec::new();
    for number in 0..HOSTILE {
        let session = siege.session(&siege.enroll(number)?)?;
        // More streams than are allowed, each with half a header, a header, or as much as goes through.
        for stream in 0..8 {
            session.begin(match (number % 4, stream) {
                (0, _) => vec![0],
                (1, _) => begun(0),
                (2, 0) => begun(Call::LIMIT - 1),
                _ => begun(1 << 20),
            });
        }
        peers.push(session);
    }
    siege.stands()?;
    for (number, session) in peers.iter().enumerate() {
        let (code, why) = session.closed_within(PATIENCE)?;
        ensure!(code == u64::from(close::PROTOCOL), "{number}: {code} {why}");
    }
    siege.stands()?;
    siege.held_little(u64::from(HOSTILE))?;
    // A quarter of them said too much on one stream; the others were waited for.
    let (late, long) = (siege.controller.refusals("agents", "timeout")?, u64::from(HOSTILE));
    let counted =
        late + siege.controller.refusals("agents", "leftover")? + siege.controller.refusals("agents", "malformed")?;
    ensure!(late >= long * 3 / 4 - 1 && counted == long, "{late} late, {counted} counted of {long}");
    Ok(())
}

/// An inventory that fills its frame, and that a machine could have.
fn largest() -> Inventory {
    let text = || "x".repeat(44);
    let disk = |n: usize| Disk {
        name: format!("sd{n}"),
        size_bytes: u64::MAX,
        logical_sector: 512,
        physical_sector: 4096,
        medium: Medium::Rotational,
        attachment: Attachment::Fixed,
        transport: Transport::Scsi,
        model: text(),
        serial: Some(format!("{n:044}")),
        wwn: Some(text()),
    };
    Inventory { disks: (0..bounded::DISKS).map(disk).collect(), ..Inventory::default() }
}

#[test]
fn the_largest_frames_hold_little_memory_whether_they_are_announced_begun_or_sent() -> Result<()> {
    let siege = Siege::open("hostile-frames")?;
    let inventory = frame::encode(&Call::Inventory(Box::new(largest())))?;
    ensure!(inventory.len() > Call::LIMIT / 2, "{} bytes are not large", inventory.len());
    let mut peers = Vec::new();
    for number in 0..HOSTILE {
        let session = siege.session(&siege.enroll(number)?)?;
        let answer: Answer = frame::decode(&session.say(&inventory)?[HEADER..])?;
        ensure!(answer == Answer::Accepted, "it is legal: {answer:?}");
        peers.push(session);
    }
    siege.stands()?;
    for session in &peers {
        ensure!(session.say(&[0xff; 64]).is_err(), "no message is that large");
        let (code, why) = session.closed()?;
        ensure!(code == u64::from(close::PROTOCOL) && why.contains("over this message kind's limit"), "{code} {why}");
    }
    siege.refused("agents", "too_large", u64::from(HOSTILE))?;
    for _ in 0..HOSTILE / 4 {
        let stranger = Peer::connect(siege.address(), &siege.ca_pem, ALPN_ENROLL)?;
        ensure!(stranger.say(&[0xff; 64]).is_err(), "no request is that large");
        stranger.closed()?;
    }
    siege.refused("enroll", "too_large", u64::from(HOSTILE / 4))?;
    siege.stands()?;
    siege.held_little(u64::from(HOSTILE))
}

#[test]
fn garbage_is_counted_fills_no_log_and_harms_nobody() -> Result<()> {
    let siege = Siege::open("hostile-garbage")?;
    // Bytes that look random and are the same in every run (xorshift, by Marsaglia).
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut garbage = |length: usize| -> Vec<u8> {
        let byte = |_| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed >> 32) as u8
        };
        (0..length).map(byte).collect()
    };
    for first in [0x00, 0x40, 0x80, 0xc0, 0xd0, 0xe0, 0xf0, 0xff] {
        let datagrams = (1..400).map(|n| {
            let mut datagram = garbage(n * 3);
            datagram[0] |= first;
            datagram
        });
        peer::throw(siege.address(), datagrams.collect::<Vec<_>>())?;
    }
    siege.stands()?;

    let own = siege.enroll(1)?;
    for round in 0..20 {
        let session = siege.session(&own)?;
        let mut bytes = garbage(200);
        // A length that is allowed, so that what is in the frame is looked at.
        bytes[..HEADER].copy_from_slice(&196_u32.to_be_bytes());
        // No call has this number.
        bytes[HEADER] = 0x7f;
        ensure!(session.say(&bytes).is_err(), "{round}: garbage has no answer");
        ensure!(session.closed()?.0 == u64::from(close::PROTOCOL), "{round}");
    }
    siege.refused("agents", "malformed", 20)?;
    for round in 0..STRANGERS {
        let stranger = Peer::connect(siege.address(), &siege.ca_pem, ALPN_ENROLL)?;
        ensure!(
            stranger.say(&[b"\0\0\0\x02".to_vec(), garbage(2)].concat()).is_err(),
            "{round}: garbage has no answer"
        );
        ensure!(stranger.closed()?.0 == u64::from(close::PROTOCOL), "{round}");
    }
    siege.refused("enroll", "malformed", STRANGERS)?;
    let lines = siege.controller.log()?.matches("enrollment refused").count();
    ensure!((20..STRANGERS as usize / 2).contains(&lines), "{lines} lines of {STRANGERS}: 20, and one more every 3 s");
    siege.stands()?;
    siege.held_little(30)
}
