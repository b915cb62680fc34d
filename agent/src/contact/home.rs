//! The way home of a boot in which nothing was configured yet, where the machine was handed the network that was confirmed
//! last: that one, and where it leads to no controller the ordinary start, in turns, for ever.
//!
//! Called by `run` beside `dial`, which does not know by which of them its packets go. Once there was a session, what led
//! to it stays.

use std::sync::Arc;
use std::time::Duration;

use muster_protocol::desired::Network;
use tokio::time::timeout;

use crate::agent::{Agent, Contact, Status};
use crate::reconcile::{Patience, TURN};

/// A controller that answers may still have to let the machine wait before it lets it in.
const ANSWERED: Duration = Duration::from_secs(600);

/// The network that the machine was handed, where nothing happened in this boot that it would undo.
pub fn handed(agent: &Agent) -> Option<&Network> {
    let (generation, network) = agent.options.handed.as_ref()?;
    if !agent.options.manage.network || !agent.reconciler.is_fresh() {
        return None;
    }
    crate::info!("this machine was handed the network of generation {generation}, which was confirmed last");
    Some(network)
}

/// Stays with what leads home. `stands` is whether the machine could be brought to `handed`. Returns once there was a session.
pub async fn come_home(agent: &Arc<Agent>, handed: &Network, mut stands: bool) {
    let mut patience = Patience::default();
    loop {
        if stands {
            let turn = patience.pass();
            if leads_home(agent, turn).await {
                return agent.reconciler.came_home_by(Some(handed));
            }
            let seconds = turn.as_secs();
            crate::warn!("no controller within {seconds} s over the network that was handed; asking for addresses");
        }
        agent.reconciler.start_as_it_boots().await;
        if leads_home(agent, TURN).await {
            crate::warn!("the network that was handed leads nowhere here, and asking for an address does");
            return agent.reconciler.came_home_by(None);
        }
        let seconds = TURN.as_secs();
        crate::warn!("no controller within {seconds} s that way either; trying the network that was handed again");
        stands = agent.reconciler.start_with(handed).await;
    }
}

/// Whether there is a session within the time, or within a longer one where a controller answers at all.
async fn leads_home(agent: &Agent, turn: Duration) -> bool {
    let answered = |addresses: &Vec<_>| !addresses.is_empty();
    let in_session = |status: &Status| matches!(status.contact, Contact::Pending { .. } | Contact::Online);
    let mut reached = agent.controller.subscribe();
    if timeout(turn, reached.wait_for(answered)).await.is_err() {
        return false;
    }
    let is_in = timeout(ANSWERED, agent.status.subscribe().wait_for(in_session)).await.is_ok();
    if !is_in {
        agent.controller.send_replace(Vec::new());
    }
    is_in
}

#[cfg(test)]
mod tests {
    use muster_protocol::desired::{Ethernet, Link, LinkKind, Select, Settings};
    use muster_protocol::hello::Progress;
    use muster_protocol::observed::{Dhcp, Origin};
    use muster_protocol::{BootId, Digest, Generation};

    use super::*;
    use crate::keep::Keep;
    use crate::machine::Machine;
    use crate::options::{Manage, Options, Pace, WhenRefused};
    use crate::reconcile::Jobs;
    use crate::sim::SimMachine;

    /// A static address on the NIC of this name, and nothing else.
    fn network(nic: &str) -> Network {
        let select = Select { name: Some(nic.into()), ..Select::default() };
        let settings = Settings { addresses: vec!["10.0.5.7/24".parse().expect("valid")], ..Settings::default() };
        let kind = LinkKind::Ethernet(Ethernet { select, ..Ethernet::default() });
        Network { links: vec![Link { id: "lan".into(), kind, settings }], ..Network::default() }
    }

    fn agent(machine: &Arc<SimMachine>, keep: &Keep, handed: Option<Network>) -> (Arc<Agent>, Jobs) {
        let options = Options {
            controllers: Vec::new(),
            ca: Digest::of(b"a CA"),
            leave: None,
            time_unix_s: 0,
            lease: None,
            handed: handed.map(|network| (Generation(3), network)),
            manage: Manage::ALL,
            keep: keep.clone(),
            boot: BootId::from_bytes([1; 16]),
            refused: WhenRefused::BootAgain,
            pace: Pace::default(),
        };
        Agent::new(options, machine.clone())
    }

    /// What `run` does until there was a session.
    async fn start(agent: &Arc<Agent>) {
        agent.reconciler.recover().await;
        if let Some(network) = handed(agent) {
            let stands = agent.reconciler.start_with(network).await;
            come_home(agent, network, stands).await;
        }
    }

    /// A session by whatever there is now.
    fn answer(agent: &Agent) {
        agent.controller.send_replace(vec!["192.0.2.1:8443".parse().expect("an address")]);
        agent.status.send_modify(|status| status.contact = Contact::Online);
    }

    fn is_as_handed(machine: &SimMachine) -> bool {
        let links = machine.observe_network().expect("observes").links;
        links[0].addresses.iter().any(|address| address.net.to_string() == "10.0.5.7/24")
    }

    fn is_as_it_boots(machine: &SimMachine) -> bool {
        let network = machine.observe_network().expect("observes");
        let is_bare = |origin| origin != Origin::Static;
        network.routes.iter().all(|route| is_bare(route.origin))
            && network
                .links
                .iter()
                .all(|link| link.dhcp4 != Dhcp::Off && link.addresses.iter().all(|address| is_bare(address.origin)))
    }

    /// What `run` does, beside the test.
    fn starting(agent: &Arc<Agent>) -> tokio::task::JoinHandle<()> {
        let agent = agent.clone();
        tokio::spawn(async move { start(&agent).await })
    }

    #[tokio::test(start_paused = true)]
    async fn a_machine_that_is_handed_a_network_tries_it_and_asking_for_addresses_in_turns_until_one_leads_home() {
        let (machine, keep) = (Arc::new(SimMachine::new(1)), Keep::memory());
        let (agent, _jobs) = agent(&machine, &keep, Some(network("eth0")));
        let starting = starting(&agent);
        let mut outbox = agent.outbox.subscribe();
        let mut lasted = Vec::new();
        for turn in 1..=11 {
            let began = tokio::time::Instant::now();
            outbox.wait_for(|out| out.changes == turn).await.expect("the agent lives");
            lasted.push(began.elapsed().as_secs());
            let what_it_should_be = if turn % 2 == 1 { is_as_handed } else { is_as_it_boots };
            assert!(what_it_should_be(&machine), "turn {turn}: {:?}", machine.observe_network());
        }
        // What it was handed for longer each time, and asking for as long as a lease may take.
        assert_eq!(lasted[1..], [60, 60, 120, 60, 240, 60, 480, 60, 600, 60]);
        answer(&agent);
        starting.await.expect("it has come home");
        assert!(is_as_handed(&machine));
    }

    #[tokio::test(start_paused = true)]
    async fn a_machine_comes_home_at_a_switch_that_holds_its_ports_back_for_half_a_minute_whenever_they_come_up() {
        for leads_home in [is_as_handed, is_as_it_boots] {
            let (machine, keep) = (Arc::new(SimMachine::new(1)), Keep::memory());
            let (agent, _jobs) = agent(&machine, &keep, Some(network("eth0")));
            let starting = starting(&agent);
            let mut outbox = agent.outbox.subscribe();
            let mut turns = 0;
            while !starting.is_finished() {
                turns = outbox.wait_for(|out| out.changes > turns).await.expect("the agent lives").changes;
                assert!(turns <= 2, "each has one turn at most");
                // Spanning tree, a lease, and the next attempt at a session.
                tokio::time::sleep(Duration::from_secs(50)).await;
                if leads_home(&machine) && outbox.borrow().changes == turns {
                    answer(&agent);
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_led_home_is_what_an_agent_that_starts_again_in_the_same_boot_goes_on_with() {
        let (machine, keep) = (Arc::new(SimMachine::new(1)), Keep::memory());
        let (first, _jobs) = agent(&machine, &keep, Some(network("eth0")));
        answer(&first);
        start(&first).await;
        assert_eq!(first.outbox.borrow().progress, Progress::Idle, "the controller gives it all of what was confirmed");
        first.reconciler.start_as_it_boots().await;
        let (second, _jobs) = agent(&machine, &keep, Some(network("eth0")));
        assert!(handed(&second).is_none(), "it is confirmed by now, and not tried");
        start(&second).await;
        assert!(is_as_handed(&machine), "and true again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_machine_that_came_home_by_asking_for_addresses_is_not_cut_off_by_what_it_was_handed() {
        let (machine, keep) = (Arc::new(SimMachine::new(1)), Keep::memory());
        let (first, _jobs) = agent(&machine, &keep, Some(network("eth0")));
        let starting = starting(&first);
        first.outbox.subscribe().wait_for(|out| out.changes == 2).await.expect("the agent lives");
        answer(&first);
        starting.await.expect("it has come home");
        let (second, _jobs) = agent(&machine, &keep, Some(network("eth0")));
        start(&second).await;
        assert!(is_as_it_boots(&machine));
    }

    #[tokio::test(start_paused = true)]
    async fn a_network_that_does_not_fit_the_machine_any_more_leaves_it_as_it_boots() {
        let (machine, keep) = (Arc::new(SimMachine::new(1)), Keep::memory());
        let (first, _jobs) = agent(&machine, &keep, Some(network("eth7")));
        answer(&first);
        start(&first).await;
        assert!(is_as_it_boots(&machine));
        let (second, _jobs) = agent(&machine, &keep, Some(network("eth7")));
        assert!(handed(&second).is_none(), "it is no part of what is confirmed");
    }

    #[tokio::test(start_paused = true)]
    async fn a_machine_that_is_not_to_be_configured_leaves_the_network_alone() {
        let (machine, keep) = (Arc::new(SimMachine::new(1)), Keep::memory());
        let (agent, _jobs) = agent(&machine, &keep, Some(network("eth0")));
        let agent = Arc::into_inner(agent).expect("nobody else has it");
        let options = Options { manage: Manage::default(), ..agent.options.clone() };
        let (agent, _jobs) = Agent::new(options, machine.clone());
        assert!(handed(&agent).is_none());
    }
}
