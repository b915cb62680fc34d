//! The task that looks after leases, and whom it takes to be there.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::BoxFuture;
use muster_controller::api::{Alive, CallError, Live, Presence};
use muster_controller::fleet::machine;
use muster_controller::fleet::record::LeaseState;
use muster_controller::ial;
use muster_protocol::hello::Progress;
use muster_protocol::to_agent::{Answer, Call};
use muster_protocol::{Generation, MachineId};

use crate::site::{Offline, Site};

const DEADLINE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_lease_whose_machine_refused_gets_the_next_one_by_itself_and_fails_when_there_is_none() {
    let site = Site::with(2).await;
    let id = site.provision("6516a1f2a6078e98982dbd92").await;
    let keeper = tokio::spawn(ial::keep(site.fleet.clone(), Arc::new(Offline::default())));
    // A controller that has just started waits a minute for its machines: it passes at once here.
    tokio::task::yield_now().await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(61)).await;
    tokio::time::resume();
    let mut tried = BTreeSet::new();
    for _ in 0..2 {
        let seen = site.until(DEADLINE, |state| match &state.leases.get(&id)?.state {
            LeaseState::Preparing { seat, .. } if !tried.contains(&seat.machine) => Some(seat.machine),
            _ => None,
        });
        let machine = seen.await;
        tried.insert(machine);
        let refused = Progress::Refused { generation: Generation(1), why: "a disk carries something".into() };
        site.change(move |draft| machine::progress(draft, machine, &refused)).await;
    }
    let failed = site.until(DEADLINE, |state| match &state.leases.get(&id)?.state {
        LeaseState::Failed { why } => Some(why.clone()),
        _ => None,
    });
    assert!(failed.await.contains("2 that could not be prepared"));
    assert_eq!(tried.len(), 2);
    keeper.abort();
}

/// Sessions that ended at a certain time, or never were.
struct Gone(Option<u64>);

impl Live for Gone {
    fn presence(&self, _: MachineId) -> Presence {
        Presence::Offline { since_unix_ms: self.0 }
    }

    fn moves(&self) -> u64 {
        0
    }

    fn alive(&self, _: MachineId) -> Alive {
        Alive::No
    }

    fn call(&self, _: MachineId, _: Call) -> BoxFuture<'_, Result<Answer, CallError>> {
        Box::pin(async { Err(CallError::Offline) })
    }
}

#[test]
fn a_machine_that_dials_again_is_not_gone() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as u64;
    let id = MachineId::from_bytes([1; 16]);
    for (since, there) in [(Some(now - 1_000), true), (Some(now - 60_000), false), (None, false), (Some(0), false)] {
        assert_eq!(ial::presence(Gone(since)).there(id).is, there, "{since:?}");
    }
}
