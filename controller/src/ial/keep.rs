//! Looks after leases: whenever one waits for another machine, and every few seconds for the sake of time limits.
//!
//! Started by the server, one task. Decides nothing: that is [`lease::reconcile`], on durable state and presence.

use std::sync::Arc;
use std::time::Duration;

use super::Presence;
use crate::fleet::{Author, Fleet, lease};

/// How long a controller that has just started waits for machines to dial in before it believes that one is gone.
const SETTLE: Duration = Duration::from_secs(60);

/// How often time limits are looked at.
const EVERY: Duration = Duration::from_secs(10);

/// Runs until the fleet ends.
pub async fn keep(fleet: Fleet, online: Presence) {
    tokio::time::sleep(SETTLE).await;
    let mut states = fleet.watch();
    let mut limits = tokio::time::interval(EVERY);
    loop {
        let online = Arc::clone(&online);
        let done =
            fleet.change(Author::controller(), move |draft| lease::reconcile(draft, &|id| online.there(id).is)).await;
        if let Err(refusal) = done {
            tracing::warn!(%refusal, "leases could not be looked after; the next look finds the same");
            limits.tick().await;
        }
        // Both arms are cancel-safe: what one misses, the next look at the state finds.
        tokio::select! {
            seen = states.wait_for(|state| lease::is_due(state)) => if seen.is_err() { return },
            _ = limits.tick() => {}
        }
    }
}
