//! Looks after the audit log: reads its newest part at the start and all of it once a day, takes out what is older than
//! the operator wants it, and has the controller's own log name its end now and then.
//!
//! Whoever writes the database can write a whole chain of their own. What the log of this process said before, kept by
//! the system or another host, is what such a chain does not agree with: `muster audit verify --head`.

use std::time::Duration;

use tokio::time::{Instant, interval_at};

use crate::clock::now_unix_ms;
use crate::config::Keep;
use crate::fleet::audit::{self, Extent, Head};
use crate::fleet::ledger::LedgerError;
use crate::fleet::{Author, Fleet, Refusal};

/// Entries that are read before anything else begins: a tenth of a second.
const AT_START: u64 = 10_000;

/// When everything is read for the first time: until then the controller has its machines to welcome.
const FIRST: Duration = Duration::from_secs(3600);

/// How often everything is read, and the end of the audit log is named.
const EVERY: Duration = Duration::from_secs(24 * 3600);

/// Entries that are taken out in one change.
const PRUNED_AT_ONCE: u64 = 400;

/// Reads the newest part of the log as it was found. A broken one is said loudly and is no reason not to start: the fleet
/// needs its controller, and what is missing does not come back.
pub async fn begin(fleet: &Fleet) {
    check(fleet, Extent::Newest(AT_START)).await;
}

/// Does the rest, an hour after the start and once a day, until it is dropped.
pub async fn daily(fleet: Fleet, keep: Keep) {
    let mut days = interval_at(Instant::now() + FIRST, EVERY);
    loop {
        days.tick().await;
        if let Keep::For(time) = keep
            && let Err(error) = prune(&fleet, time).await
        {
            tracing::error!(error = &*error, "the audit log could not be pruned");
        }
        check(&fleet, Extent::Whole).await;
        tell(&fleet);
    }
}

/// Names the end of the log.
pub fn tell(fleet: &Fleet) {
    tracing::info!(head = %Head::of(&fleet.state()), "the audit log ends here");
}

async fn check(fleet: &Fleet, extent: Extent) {
    let ledger = fleet.ledger();
    match tokio::task::spawn_blocking(move || audit::check(&ledger, extent)).await {
        Ok(Ok(head)) => tracing::info!(%head, ?extent, "the audit log is whole"),
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

/// Takes out the entries that are older than `keep`, once an entry says so. Stopped in the middle it begins anew the next
/// time.
async fn prune(fleet: &Fleet, keep: Duration) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let ledger = fleet.ledger();
    let before = now_unix_ms().saturating_sub(keep.as_millis() as u64);
    let found: Result<_, LedgerError> = tokio::task::spawn_blocking(move || audit::prunable(&ledger, before)).await?;
    let Some((first, to)) = found? else { return Ok(()) };
    let announce = move |draft: &mut crate::fleet::Draft| {
        audit::announce(draft, first, to);
        Ok::<_, Refusal>(())
    };
    fleet.change(Author::controller(), announce).await?;
    for from in (first..=to.seq).step_by(PRUNED_AT_ONCE as usize) {
        let part = from..=to.seq.min(from + PRUNED_AT_ONCE - 1);
        let prune = move |draft: &mut crate::fleet::Draft| {
            audit::prune(draft, part);
            Ok::<_, Refusal>(())
        };
        fleet.change(Author::controller(), prune).await?;
    }
    tracing::info!(first, %to, "the audit log was pruned");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::Facts;
    use crate::store::MemoryStore;

    #[tokio::test]
    async fn a_log_that_is_pruned_is_whole_from_where_it_says_and_is_not_pruned_further_than_it_is_old() {
        let (fleet, _ended) = Fleet::start(MemoryStore::new()).expect("starts");
        let write = |count: u64| {
            fleet.change(Author::controller(), move |draft| {
                (0..count).for_each(|n| draft.audit("location.set", n, Facts::none(), Facts::none()));
                Ok::<_, Refusal>(draft.now_unix_ms())
            })
        };
        let mut at = 0;
        for _ in 0..3 {
            at = write(450).await.expect("written");
        }
        prune(&fleet, Duration::from_secs(3600)).await.expect("nothing to do");
        let first = |fleet: &Fleet| fleet.ledger().from(0, u64::MAX, 1).expect("read")[0].seq;
        assert_eq!((first(&fleet), Head::of(&fleet.state()).seq), (1, 1350), "nothing is so old");
        while now_unix_ms() <= at {
            tokio::task::yield_now().await;
        }
        prune(&fleet, Duration::ZERO).await.expect("pruned");
        assert_eq!((first(&fleet), Head::of(&fleet.state()).seq), (1350, 1351), "the newest stays, and one says it");
        let (ledger, head) = (fleet.ledger(), Head::of(&fleet.state()));
        assert_eq!(audit::check(&ledger, Extent::Whole), Ok(head));
        let said = ledger.back(0, u64::MAX, 1).expect("read").remove(0);
        let gone: Head = said.after.get("up to").and_then(|text| text.parse().ok()).expect("the last one that went");
        assert_eq!((said.action.as_str(), gone.seq), ("audit.pruned", 1349));
        assert_eq!(ledger.from(0, u64::MAX, 1).expect("read")[0].previous, gone.digest);
    }
}
