//! The generation rule, in one place.

use muster_protocol::{Digest, Generation};

/// What the rule says of an offered desired state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Newer than anything before: apply it.
    Newer,
    /// Accepted before: nothing happens, and that is fine.
    Same,
    /// Older than this one, which was accepted before: refused.
    Outdated(Generation),
    /// The same generation with other contents: refused, for one of the two was never meant.
    Conflict,
}

/// Judges an offer by what was accepted last, by generation and digest of its contents.
pub fn judge(accepted: Option<(Generation, Digest)>, offered: Generation, contents: Digest) -> Verdict {
    match accepted {
        None => Verdict::Newer,
        Some((current, _)) if offered > current => Verdict::Newer,
        Some((current, _)) if offered < current => Verdict::Outdated(current),
        Some((_, before)) if before == contents => Verdict::Same,
        Some(_) => Verdict::Conflict,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_is_outdated_equal_is_the_same_or_a_conflict_and_newer_is_applied() {
        let (one, other) = (Digest::of(b"one"), Digest::of(b"other"));
        let accepted = Some((Generation(5), one));
        assert_eq!(judge(accepted, Generation(4), one), Verdict::Outdated(Generation(5)));
        assert_eq!(judge(accepted, Generation(5), one), Verdict::Same);
        assert_eq!(judge(accepted, Generation(5), other), Verdict::Conflict);
        assert_eq!(judge(accepted, Generation(6), one), Verdict::Newer);
        assert_eq!(judge(None, Generation(0), one), Verdict::Newer);
    }
}
