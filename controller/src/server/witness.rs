//! Looks after the audit log: reads it whole at the start, and has the controller's own log name its end now and then.
//!
//! Whoever writes the database can write a whole chain of their own. What the log of this process said before, kept by
//! the system or another host, is what such a chain does not agree with: `muster audit verify --head`.

use std::time::Duration;

use crate::fleet::audit::{self, Head};
use crate::fleet::{Author, Fleet};

/// How often the end of the audit log is named.
const EVERY: Duration = Duration::from_secs(24 * 3600);

/// Reads the log as it was found. A broken one is said loudly and is no reason not to start: the fleet needs its
/// controller, and what is missing does not come back.
pub async fn begin(fleet: &Fleet) {
    let state = fleet.state();
    let found = tokio::task::spawn_blocking(move || audit::check(&state)).await;
    match found {
        Ok(Ok(head)) => tracing::info!(%head, "the audit log is whole"),
        Ok(Err(broken)) => {
            tracing::error!(%broken, "THE AUDIT LOG IS BROKEN: somebody changed the database beside the controller");
            let told = fleet.change(Author::controller(), move |draft| {
                draft.event("audit.broken", "audit", broken.to_string());
                Ok(())
            });
            if let Err(error) = told.await {
                tracing::warn!(%error, "that the audit log is broken is not in the event feed");
            }
        }
        Err(error) => tracing::error!(%error, "the audit log could not be read"),
    }
}

/// Names the end of the log once a day, until it is dropped.
pub async fn daily(fleet: Fleet) {
    let mut days = tokio::time::interval(EVERY);
    // The first tick comes at once, and the start has just been named.
    days.tick().await;
    loop {
        days.tick().await;
        tell(&fleet);
    }
}

/// Names the end of the log.
pub fn tell(fleet: &Fleet) {
    tracing::info!(head = %Head::of(&fleet.state()), "the audit log ends here");
}
