//! The frame decoder, for every kind of message: the first byte says which, the rest is a frame's value.
//!
//! Nothing panics, and what is read is written again as what reads to the same.
#![no_main]

use std::fmt::Debug;

use libfuzzer_sys::fuzz_target;
use muster_protocol::frame::{self, HEADER, Message};
use muster_protocol::handed::Handed;
use muster_protocol::{desired, enroll, to_agent, to_controller};

fuzz_target!(init: muster_fuzz::plant("frames", muster_fuzz::frames()), |data: &[u8]| {
    let Some((kind, value)) = data.split_first() else { return };
    match kind % 7 {
        0 => drop(reads::<enroll::Request>(value)),
        1 => drop(reads::<enroll::Answer>(value)),
        2 => match reads::<to_agent::Call>(value) {
            Some(to_agent::Call::Plan(desired)) => drop(desired::check(desired)),
            Some(to_agent::Call::Apply(apply)) => drop(desired::check(apply.desired)),
            _ => {}
        },
        3 => drop(reads::<to_agent::Answer>(value)),
        4 => {
            if let Some(to_controller::Call::Inventory(inventory)) = reads::<to_controller::Call>(value) {
                let _ = inventory.check();
                inventory.disks.iter().for_each(|disk| drop(disk.id()));
            }
        }
        5 => drop(reads::<to_controller::Answer>(value)),
        _ => {
            let _ = Handed::from_bytes(value);
            reads::<Handed>(value);
        }
    }
});

fn reads<M: Message + PartialEq + Debug>(value: &[u8]) -> Option<M> {
    if let Some(header) = value.first_chunk::<HEADER>() {
        assert!(
            frame::length::<M>(*header).is_ok_and(|length| length <= M::LIMIT) || frame::length::<M>(*header).is_err()
        );
    }
    let message = frame::decode::<M>(value).ok()?;
    let frame = frame::encode(&message).expect("what was read within the limit is written within it");
    // Numbers may be written longer than they need to be, so the bytes may be fewer now.
    assert!(frame.len() - HEADER <= value.len());
    let header = *frame.first_chunk().expect("a frame has a header");
    assert_eq!(frame::length::<M>(header), Ok(frame.len() - HEADER));
    assert_eq!(frame::decode::<M>(&frame[HEADER..]).as_ref(), Ok(&message), "it reads as another");
    Some(message)
}
