//! The bytes of what an operation leaves in the store, with how its machine came out of it, and of what was proven and confirmed.
//!
//! A released controller's database is read for ever: if a test here fails, do not change the test. Growth is a new
//! variant of `Stored`, or of one of the enums inside, at its end.

use muster_protocol::desired::Desired;
use muster_protocol::hello::{Progress, Reason, Times};
use muster_protocol::{BootId, Digest, Generation, MachineId, OperationId};

use super::confirmed::{Again, Confirmed};
use super::outcome::{Ending, Outcome};
use super::proven::Proven;
use crate::fleet::record::{Operation, OperationKind, OperationState, OperationStep};
use crate::fleet::state::{read_value, stored_value};

#[test]
fn an_operation_with_each_outcome() {
    let times = Times { make_ms: 1, prove_beside_ms: 2, switch_ms: 3, verify_ms: 4, prove_ms: 5, revert_ms: 300 };
    let reason = Reason::NoGateway;
    let outcomes = [
        (None, "00"),
        (Some(Outcome { ending: Ending::Confirmed, times }), "0100 0102030405ac02"),
        (Some(Outcome { ending: Ending::Reverted { reason }, times }), "010104 0102030405ac02"),
        (Some(Outcome { ending: Ending::RevertFailed { reason }, times }), "010204 0102030405ac02"),
        (Some(Outcome { ending: Ending::Superseded, times: Times::default() }), "0103 000000000000"),
    ];
    for (outcome, bytes) in outcomes {
        let operation = Operation {
            id: OperationId::from_bytes([1; 16]),
            machine: MachineId::from_bytes([2; 16]),
            kind: OperationKind::Apply { generation: Generation(7) },
            state: OperationState::Failed { why: "w".into() },
            percent: 9,
            steps: vec![OperationStep { at_unix_ms: 300, text: "s".into() }],
            receipt: "r".into(),
            outcome,
            who: "o".into(),
            created_unix_ms: 100,
            ended_unix_ms: Some(400),
            begin_by_unix_ms: None,
        };
        let head =
            "00 01010101010101010101010101010101 02020202020202020202020202020202 0007 030177 09 01ac020173 0172";
        let expected = format!("{head} {bytes} 016f 64 019003 00").replace(' ', "");
        let value = stored_value(&operation);
        assert_eq!(value.iter().map(|byte| format!("{byte:02x}")).collect::<String>(), expected);
        assert_eq!(read_value::<Operation>(&value), Some(operation));
    }
}

#[test]
fn what_was_confirmed_last() {
    let again = Again { boot: BootId::from_bytes([3; 16]), how: Progress::Confirmed { generation: Generation(7) } };
    for (again, bytes) in [(None, "00"), (Some(again), "01 03030303030303030303030303030303 0207")] {
        let confirmed = Confirmed {
            machine: MachineId::from_bytes([2; 16]),
            generation: Generation(7),
            desired: Desired::default(),
            digest: Digest::from_bytes([0xd1; 32]),
            again,
        };
        let expected = format!("00 {} 07 0000 {} {bytes}", "02".repeat(16), "d1".repeat(32)).replace(' ', "");
        let value = stored_value(&confirmed);
        assert_eq!(value.iter().map(|byte| format!("{byte:02x}")).collect::<String>(), expected);
        assert_eq!(read_value::<Confirmed>(&value), Some(confirmed));
    }
}

#[test]
fn what_was_proven_last() {
    let times = Times { make_ms: 1, prove_beside_ms: 2, switch_ms: 3, verify_ms: 4, prove_ms: 5, revert_ms: 300 };
    let proven = Proven {
        machine: MachineId::from_bytes([2; 16]),
        generation: Generation(7),
        desired: Desired::default(),
        digest: Digest::from_bytes([0xd1; 32]),
        times,
    };
    let expected = format!("00 {} 07 0000 {} 0102030405ac02", "02".repeat(16), "d1".repeat(32)).replace(' ', "");
    let value = stored_value(&proven);
    assert_eq!(value.iter().map(|byte| format!("{byte:02x}")).collect::<String>(), expected);
    assert_eq!(read_value::<Proven>(&value), Some(proven));
}
