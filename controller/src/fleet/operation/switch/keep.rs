//! The loop that switches machines from outside: looks when anything has changed, and when the time of a try has come.
//!
//! Started by the server, one task. Decides nothing: that is the module above, on durable state. Whoever is told is told on a
//! thread of his own, a few at once; a BMC that never answers holds up nobody but its machine.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use muster_protocol::{MachineId, OperationId};
use tokio::sync::mpsc;
use tokio::time::Instant;
use ureq::http;

use super::{Told, begin, due, goes_on, left_over, tried};
use crate::base::power::http::Trusted;
use crate::base::power::{Action, Failure, Secret, ipmi, outlet, redfish, wake};
use crate::clock::now_unix_ms;
use crate::fleet::machine::controls::{Bmc, BmcAddress, Method, Switch, Trust, Wake};
use crate::fleet::record::MachineInventory;
use crate::fleet::{Author, Fleet, Refusal, State};
use crate::pki::{DiskSeal, Pki};

/// How many machines are switched at once.
const AT_ONCE: usize = 32;

/// The longest between two looks, whatever the clock does.
const LONGEST: Duration = Duration::from_secs(15);

/// After what could not be written.
const AFTER_REFUSAL: Duration = Duration::from_secs(5);

/// Somebody who can be told to switch a machine, with all that it takes.
#[derive(Debug, Clone)]
pub enum Means {
    /// A BMC that speaks Redfish.
    Redfish(redfish::Bmc),
    /// One that speaks IPMI.
    Ipmi(ipmi::Bmc),
    /// What its plug is in.
    Outlet(outlet::Outlet),
    /// Its NICs.
    Wake {
        /// Of its NICs.
        macs: Vec<muster_protocol::Mac>,
        /// Of the machine, with their networks.
        addresses: Vec<ipnet::IpNet>,
    },
    /// What the database holds does not open.
    Closed,
}

/// Tells somebody; may block.
pub type Carry = Arc<dyn Fn(&Means, Switch) -> Result<String, Failure> + Send + Sync>;

/// Tells those who are really there.
pub fn carry() -> Carry {
    Arc::new(|means, action| {
        let action = match action {
            Switch::On => Action::On,
            Switch::Off => Action::Off,
            Switch::Restart => Action::Restart,
            Switch::Cycle => Action::Cycle,
        };
        match means {
            Means::Redfish(bmc) => redfish::switch(bmc, action),
            Means::Ipmi(bmc) => ipmi::switch(bmc, action),
            Means::Outlet(outlet) => outlet::switch(outlet, action),
            Means::Wake { macs, addresses } => wake::wake(macs, addresses),
            Means::Closed => {
                let why = "its password does not open: pki/disks.key is not the one it was sealed with; name it anew";
                Err(Failure::Refused(why.into()))
            }
        }
    })
}

/// Those who can do this to a machine, in the order in which they are asked, with their names.
pub fn means(state: &State, seal: &DiskSeal, id: MachineId, action: Switch) -> Vec<(String, Means)> {
    let Some(controls) = state.controls.get(&id) else { return Vec::new() };
    let mut all = Vec::new();
    if let Some(bmc) = &controls.bmc {
        all.push((bmc.said(), bmc_of(state, seal, id, bmc).unwrap_or(Means::Closed)));
    }
    if let Some(known) = &controls.outlet {
        let method = match known.method {
            Method::Get => http::Method::GET,
            Method::Post => http::Method::POST,
        };
        let opened = known.hooks(seal, id).map(|hooks| {
            let (on, off, cycle) = (Secret::new(hooks.on), Secret::new(hooks.off), hooks.cycle.map(Secret::new));
            Means::Outlet(outlet::Outlet { on, off, cycle, method })
        });
        all.push((format!("the outlet at {}", known.at), opened.unwrap_or(Means::Closed)));
    }
    if action == Switch::On && controls.wake == Wake::OnLan {
        let record = state.inventories.get(&id);
        let addresses = record.map(addresses).unwrap_or_default();
        all.push(("Wake-on-LAN".into(), Means::Wake { macs: record.map(macs).unwrap_or_default(), addresses }));
    }
    all
}

fn bmc_of(state: &State, seal: &DiskSeal, id: MachineId, bmc: &Bmc) -> Option<Means> {
    let (user, password) = (bmc.user.clone(), Secret::new(bmc.password(seal, id)?));
    Some(match &bmc.address {
        BmcAddress::Ipmi { host, port } => Means::Ipmi(ipmi::Bmc { host: host.clone(), port: *port, user, password }),
        BmcAddress::Redfish { url, system, trust } => {
            let uuid = state.machines.get(&id).and_then(|machine| machine.identity.uuid);
            let trusted = match trust {
                Trust::Pinned(digest) => Trusted::Pinned(*digest),
                Trust::Cas(pem) => Trusted::Cas(pem.clone()),
                Trust::System => Trusted::System,
            };
            // A machine's id is written as UUIDs are.
            let uuid = uuid.map(|bytes| MachineId::from_bytes(bytes).to_string());
            Means::Redfish(redfish::Bmc { url: url.clone(), system: system.clone(), uuid, trusted, user, password })
        }
    })
}

/// The NIC that carried its session, else all.
fn macs(record: &MachineInventory) -> Vec<muster_protocol::Mac> {
    match record.primary {
        Some(primary) => vec![primary],
        None => record.inventory.nics.iter().map(|nic| nic.permanent_mac).collect(),
    }
}

fn addresses(record: &MachineInventory) -> Vec<ipnet::IpNet> {
    let of_nics = record.inventory.nics.iter().flat_map(|nic| &nic.addresses);
    of_nics.chain(record.inventory.links.iter().flat_map(|link| &link.addresses)).copied().collect()
}

/// Runs until the fleet ends.
pub async fn keep(fleet: Fleet, pki: Arc<Pki>, carry: Carry) {
    let (done, mut finished) = mpsc::channel::<MachineId>(AT_ONCE);
    let mut states = fleet.watch();
    let mut busy = HashSet::new();
    loop {
        match fleet.change(Author::controller(), left_over).await {
            Ok(true) => {}
            Ok(false) => break,
            Err(Refusal::StoreFailed) => return,
            Err(refusal) => {
                tracing::warn!(%refusal, "what a controller before this one was switching could not be noted yet");
                tokio::time::sleep(AFTER_REFUSAL).await;
            }
        }
    }
    loop {
        let looked_at = Instant::now();
        let state = states.borrow_and_update().clone();
        let (due, next) = due(&state, now_unix_ms());
        for id in due {
            let Some(machine) = state.operations.get(&id).map(|operation| operation.machine) else { continue };
            if busy.len() >= AT_ONCE || !busy.insert(machine) {
                continue;
            }
            let (fleet, pki, carry, done) = (fleet.clone(), pki.clone(), carry.clone(), done.clone());
            tokio::spawn(async move {
                if let Err(refusal) = once(&fleet, &pki, &carry, id).await {
                    tracing::warn!(%machine, operation = %id, %refusal, "a machine could not be switched");
                    tokio::time::sleep(AFTER_REFUSAL).await;
                }
                // The loop outlives its tries unless the process ends.
                let _ = done.send(machine).await;
            });
        }
        let look = looked_at.elapsed();
        let pause = next.map_or(LONGEST, |at| Duration::from_millis(at.saturating_sub(now_unix_ms()) + 1)).min(LONGEST);
        // Every arm is cancel-safe: what one misses, the next look at the state finds.
        tokio::select! {
            Some(machine) = finished.recv() => drop(busy.remove(&machine)),
            changed = states.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(pause) => {}
        }
        // A look goes over all that is under way; many changes are looked at together.
        tokio::time::sleep(look).await;
        while let Ok(machine) = finished.try_recv() {
            busy.remove(&machine);
        }
    }
}

/// One try.
async fn once(fleet: &Fleet, pki: &Arc<Pki>, carry: &Carry, id: OperationId) -> Result<(), Refusal> {
    let Some((machine, action)) = fleet.change(Author::controller(), move |draft| begin(draft, id)).await? else {
        return Ok(());
    };
    let (state, pki, carry) = (fleet.state(), pki.clone(), carry.clone());
    let telling = move || tell(&state, &pki, &carry, machine, action);
    let told = tokio::task::spawn_blocking(telling).await.unwrap_or_else(|panicked| {
        vec![("the controller".into(), Err(Failure::Unknown(format!("it made a mistake: {panicked}"))))]
    });
    loop {
        let noted = told.clone();
        match fleet.change(Author::controller(), move |draft| tried(draft, id, &noted)).await {
            Ok(()) => return Ok(()),
            Err(Refusal::StoreFailed) => return Err(Refusal::StoreFailed),
            // What was told stays told: it must come on record.
            Err(refusal) => {
                tracing::warn!(operation = %id, %refusal, "what came of switching a machine could not be noted yet");
                tokio::time::sleep(AFTER_REFUSAL).await;
            }
        }
    }
}

fn tell(state: &State, pki: &Pki, carry: &Carry, machine: MachineId, action: Switch) -> Vec<Told> {
    let refused = |why: &str| vec![("the controller".to_owned(), Err(Failure::Refused(why.to_owned())))];
    let seal = match pki.disks() {
        Ok(seal) => seal,
        Err(error) => {
            tracing::error!(?error, "what passwords are sealed with cannot be had");
            return refused("what passwords are sealed with cannot be had; see its log");
        }
    };
    let means = means(state, &seal, machine, action);
    if means.is_empty() {
        return refused("nothing is named any more that could do it");
    }
    let mut all: Vec<Told> = Vec::new();
    for (name, means) in means {
        let told = carry(&means, action);
        let goes_on = goes_on(action, &told);
        all.push((name, told));
        if !goes_on {
            break;
        }
    }
    all
}
