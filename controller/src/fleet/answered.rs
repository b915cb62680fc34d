//! Requests that named themselves with an Idempotency-Key, so that a repeated one repeats nothing.
//!
//! Called by the operator API around a change, in the same draft: the change and the note of it become durable together.
//! What is noted is which thing came of the request, not the answer: a repetition is shown that thing as it is now, and
//! no secret is kept for the sake of repeating it.

use muster_protocol::Digest;

use super::record::Answered;
use super::{Draft, Refusal, State};

/// How long a repetition is recognized.
pub const KEPT_MS: u64 = 24 * 3600 * 1000;

/// The most notes that are kept; the oldest go first.
const KEPT: usize = 10_000;

/// What an asker gave to recognize its request by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestKey {
    /// Of the asker and its key.
    pub key: Digest,
    /// Of what was asked.
    pub request: Digest,
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome<T> {
    /// It was carried out.
    Done(T),
    /// It had been carried out before, with this subject.
    Repeated {
        /// As `decide` named it then.
        subject: String,
    },
}

/// Runs `decide` unless the same request was answered before. It answers its value and the thing it was about.
///
/// Errors: what `decide` refuses; [`Refusal::Conflict`] where the key was used for another request.
pub fn once<T>(
    draft: &mut Draft,
    key: Option<RequestKey>,
    decide: impl FnOnce(&mut Draft) -> Result<(T, String), Refusal>,
) -> Result<Outcome<T>, Refusal> {
    let Some(key) = key else { return decide(draft).map(|(value, _)| Outcome::Done(value)) };
    let now = draft.now_unix_ms();
    if let Some(subject) = repeated(draft.state(), Some(key), now)? {
        return Ok(Outcome::Repeated { subject });
    }
    let (value, subject) = decide(draft)?;
    forget_old(draft);
    draft.put(Answered { key: key.key, request: key.request, subject, at_unix_ms: now });
    Ok(Outcome::Done(value))
}

/// What came of the same request before, if it was made; for whoever would have to do much before [`once`].
///
/// Errors: [`Refusal::Invalid`] where the key was used for another request.
pub fn repeated(state: &State, key: Option<RequestKey>, now_unix_ms: u64) -> Result<Option<String>, Refusal> {
    let Some(key) = key else { return Ok(None) };
    match state.answered.get(&key.key).filter(|before| before.at_unix_ms + KEPT_MS > now_unix_ms) {
        Some(before) if before.request != key.request => {
            Err(Refusal::invalid("Idempotency-Key", "was used for another request; take a new one"))
        }
        before => Ok(before.map(|before| before.subject.clone())),
    }
}

/// Drops a few that are too old, and the oldest where there are too many.
fn forget_old(draft: &mut Draft) {
    let now = draft.now_unix_ms();
    let answered = &draft.state().answered;
    let mut gone: Vec<Digest> =
        answered.iter().filter(|a| a.at_unix_ms + KEPT_MS <= now).map(|a| a.key).take(32).collect();
    if gone.is_empty()
        && answered.len() >= KEPT
        && let Some(oldest) = answered.iter().min_by_key(|a| a.at_unix_ms)
    {
        gone.push(oldest.key);
    }
    for key in gone {
        draft.delete::<Answered>(&key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::draft::tests::draft;

    fn key(key: &str, request: &str) -> Option<RequestKey> {
        Some(RequestKey { key: Digest::of(key.as_bytes()), request: Digest::of(request.as_bytes()) })
    }

    fn ask(draft: &mut Draft, key: Option<RequestKey>, value: u32) -> Result<Outcome<u32>, Refusal> {
        once(draft, key, |_| Ok((value, format!("thing {value}"))))
    }

    #[test]
    fn a_repeated_request_is_carried_out_once() {
        let mut draft = draft();
        assert_eq!(ask(&mut draft, key("a", "x"), 1), Ok(Outcome::Done(1)));
        assert_eq!(ask(&mut draft, key("a", "x"), 2), Ok(Outcome::Repeated { subject: "thing 1".into() }));
        assert_eq!(ask(&mut draft, key("b", "x"), 3), Ok(Outcome::Done(3)));
        assert_eq!(ask(&mut draft, None, 4), Ok(Outcome::Done(4)));
    }

    #[test]
    fn a_key_used_for_something_else_is_refused() {
        let mut draft = draft();
        ask(&mut draft, key("a", "x"), 1).expect("done");
        assert!(matches!(ask(&mut draft, key("a", "y"), 2), Err(Refusal::Invalid { .. })));
    }

    #[test]
    fn a_refused_request_may_be_asked_again() {
        let mut draft = draft();
        let refused: Result<Outcome<u32>, _> = once(&mut draft, key("a", "x"), |_| Err(Refusal::Internal));
        assert!(refused.is_err());
        assert_eq!(ask(&mut draft, key("a", "x"), 1), Ok(Outcome::Done(1)));
    }

    #[test]
    fn notes_are_forgotten_in_time_and_never_grow_without_end() {
        let mut draft = draft();
        ask(&mut draft, key("a", "x"), 1).expect("done");
        draft.advance_ms(KEPT_MS);
        assert_eq!(ask(&mut draft, key("a", "x"), 2), Ok(Outcome::Done(2)));
        for i in 0..KEPT as u32 + 10 {
            ask(&mut draft, key(&i.to_string(), "x"), i).expect("done");
        }
        assert_eq!(draft.state().answered.len(), KEPT);
    }
}
