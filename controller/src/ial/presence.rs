//! Who can be had now, in a way that can be kept: each answer says for how long it holds.

use std::sync::Arc;
use std::time::Duration;

use muster_protocol::MachineId;

use crate::api::Live;
use crate::api::Presence::{Offline, Online};
use crate::clock::now_unix_ms;

/// A machine whose session ended this short a time ago is taken to be there: it dials again after every change of its
/// network and of its standing, and what it is told waits for it anyway.
const REDIAL: Duration = Duration::from_secs(15);

/// Says who can be had.
pub trait Present: Send + Sync + 'static {
    /// Whether a machine can be had now; never waits.
    fn there(&self, machine: MachineId) -> There;

    /// While this stays the same, what [`Self::there`] said holds for the time that it said. To be asked first.
    fn moves(&self) -> u64;
}

/// Clones are the same.
pub type Presence = Arc<dyn Present>;

/// Whether a machine can be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct There {
    /// It can.
    pub is: bool,
    /// When that becomes another answer by itself; `None` where somebody has to come or go for it.
    pub until_unix_ms: Option<u64>,
}

impl There {
    /// Until somebody comes or goes.
    pub fn while_nobody_moves(is: bool) -> Self {
        Self { is, until_unix_ms: None }
    }
}

/// What the live sessions tell.
pub fn presence(sessions: impl Live) -> Presence {
    Arc::new(Sessions(sessions))
}

struct Sessions<L>(L);

impl<L: Live> Present for Sessions<L> {
    fn there(&self, machine: MachineId) -> There {
        match self.0.presence(machine) {
            Online(_) => There::while_nobody_moves(true),
            Offline { since_unix_ms: None } => There::while_nobody_moves(false),
            Offline { since_unix_ms: Some(since) } => gone(since, now_unix_ms()),
        }
    }

    fn moves(&self) -> u64 {
        self.0.moves()
    }
}

/// Of one whose last session ended at that time; the clock may have been set back since.
fn gone(since: u64, now: u64) -> There {
    let end = since.saturating_add(REDIAL.as_millis() as u64);
    let until_unix_ms = [since, end].into_iter().find(|at| now < *at);
    There { is: (since..end).contains(&now), until_unix_ms }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_dials_again_is_not_gone_and_it_is_known_until_when() {
        let at = |now| {
            let There { is, until_unix_ms } = gone(100_000, now);
            (is, until_unix_ms)
        };
        assert_eq!(at(100_000), (true, Some(115_000)));
        assert_eq!(at(114_999), (true, Some(115_000)));
        assert_eq!(at(115_000), (false, None));
        assert_eq!(at(99_999), (false, Some(100_000)), "the clock was set back");
        assert_eq!(gone(u64::MAX, 0), There { is: false, until_unix_ms: Some(u64::MAX) });
    }
}
