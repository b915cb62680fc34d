//! Arbitrary bytes decode to an error or to a value that encodes to the same bytes again, and never panic.

use muster_protocol::frame::{self, FrameError, HEADER, Message};
use muster_protocol::handed::Handed;
use muster_protocol::{enroll, to_agent, to_controller};
use proptest::prelude::*;

fn survives<M: Message>(bytes: &[u8]) {
    if let Ok(message) = frame::decode::<M>(bytes) {
        // Postcard accepts longer forms of small numbers, so the bytes may differ; the value may not.
        let frame = frame::encode(&message).expect("what was decoded within the limit encodes within it");
        assert!(frame.len() - HEADER <= bytes.len());
        assert!(frame::decode::<M>(&frame[HEADER..]).is_ok());
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        survives::<enroll::Request>(&bytes);
        survives::<Handed>(&bytes);
        survives::<enroll::Answer>(&bytes);
        survives::<to_agent::Call>(&bytes);
        survives::<to_agent::Answer>(&bytes);
        survives::<to_controller::Call>(&bytes);
        survives::<to_controller::Answer>(&bytes);
    }

    #[test]
    fn a_header_is_a_length_within_the_limit_or_refused(header in any::<[u8; HEADER]>()) {
        match frame::length::<enroll::Request>(header) {
            Ok(length) => prop_assert!(length <= enroll::Request::LIMIT),
            Err(e) => prop_assert!(matches!(e, FrameError::TooLong { .. }), "{e:?}"),
        }
    }
}
