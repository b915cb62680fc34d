//! What a TPM answers: one answer after the other, each behind two bytes of length.
#![no_main]

use libfuzzer_sys::fuzz_target;
use muster_agent::linux::tpm::{TpmError, learn};
use muster_fuzz::{plant, tpm_that_keeps_a_key, tpm_that_makes_a_key};
use muster_protocol::Digest;

/// No TPM is asked for more.
const ASKED: usize = 6;

fuzz_target!(
    init: {
        let seeds = [tpm_that_makes_a_key(), tpm_that_keeps_a_key()];
        assert!(seeds.iter().all(|seed| told_by(seed).is_ok()), "seeds that tell no key lead nowhere");
        plant("tpm", seeds)
    },
    |data: &[u8]| {
        let _ = told_by(data);
    }
);

fn told_by(mut answers: &[u8]) -> Result<Digest, TpmError> {
    let mut asked = 0;
    learn(&mut |command| {
        asked += 1;
        assert!(asked <= ASKED && command.len() < 4096);
        let Some((length, rest)) = answers.split_first_chunk() else { return Ok(Vec::new()) };
        let (answer, rest) = rest.split_at(usize::from(u16::from_be_bytes(*length)).min(rest.len()));
        answers = rest;
        Ok(answer.to_vec())
    })
}
