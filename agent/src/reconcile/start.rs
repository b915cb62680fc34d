//! How a boot begins in which nothing was configured yet: with the network that the machine was handed, or as it boots.
//!
//! Called by `contact::home` before there is a session. What led to one is what is confirmed in this boot: restarts of the
//! agent go back to it.

use muster_protocol::desired::{Desired, Network};
use muster_protocol::hello::Progress;

use super::{Busy, Reconciler, undo};
use crate::machine::{Machine, chain};
use crate::plan::network::{self, Step};

impl Reconciler {
    /// Whether nothing is known in this boot that a network from before it would undo.
    pub fn is_fresh(&self) -> bool {
        let kept = &self.state().kept;
        let has_network = kept.confirmed.as_ref().is_some_and(|desired| desired.network.is_some());
        !has_network && kept.before.is_none() && kept.progress == Progress::Idle && !kept.home_as_it_boots
    }

    /// Brings the machine to this network, once the drivers of its NICs are loaded. Answers whether it fits the machine; where
    /// it does not, nothing is changed.
    pub async fn start_with(&self, network: &Network) -> bool {
        self.settled().await;
        let (network, past) = (network.clone(), self.known_past());
        self.start(move |machine| {
            let observed = machine.observe_network().map_err(|error| chain(&error))?;
            network::plan(&network, &past, &observed, &[]).map_err(|impossible| impossible.to_string())
        })
        .await
    }

    /// Every NIC is what it was when the machine started: an ordinary link that asks for addresses.
    pub async fn start_as_it_boots(&self) {
        self.start(|machine| {
            let observed = machine.observe_network().map_err(|error| chain(&error))?;
            Ok(network::as_it_boots(&observed))
        })
        .await;
    }

    /// There is a session, by the network that was handed or as the machine boots.
    pub fn came_home_by(&self, handed: Option<&Network>) {
        self.note(|kept| match handed {
            Some(network) if kept.confirmed.is_none() => {
                kept.confirmed = Some(Desired { network: Some(network.clone()), storage: None });
            }
            Some(_) => {}
            None => kept.home_as_it_boots = true,
        });
    }

    /// Takes these steps, and answers whether there was a plan. One that fails does not keep the others from leading home.
    async fn start(&self, plan: impl FnOnce(&dyn Machine) -> Result<Vec<Step>, String> + Send + 'static) -> bool {
        {
            // What is being judged was found idle, and is about to begin.
            let _one = self.one_offer.lock().await;
            let mut state = self.state();
            // Somebody else is at it: there is a session.
            if state.busy != Busy::Nothing {
                return false;
            }
            state.busy = Busy::Starting;
        }
        let planned = self.blocking(move |machine| {
            let steps = plan(machine)?;
            for done in undo::take(machine, &steps, &|_| true) {
                crate::info!("bringing this machine to it: {done}");
            }
            Ok::<_, String>(())
        });
        let planned = planned.await.inspect_err(|why| crate::warn!("this machine cannot be brought to it: {why}"));
        self.state().busy = Busy::Nothing;
        self.outbox.send_modify(|out| out.changes += 1);
        planned.is_ok()
    }
}
