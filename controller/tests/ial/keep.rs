//! The task that looks after leases.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use muster_controller::fleet::machine;
use muster_controller::fleet::record::LeaseState;
use muster_controller::ial;
use muster_protocol::Generation;
use muster_protocol::hello::Progress;

use crate::site::Site;

const DEADLINE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_lease_whose_machine_refused_gets_the_next_one_by_itself_and_fails_when_there_is_none() {
    let site = Site::with(2).await;
    let id = site.provision("6516a1f2a6078e98982dbd92").await;
    let keeper = tokio::spawn(ial::keep(site.fleet.clone(), Arc::new(|_| true)));
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
