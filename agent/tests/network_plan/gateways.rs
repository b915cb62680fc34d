//! From one gateway to another on the same link, behind whatever addresses: random machines and documents, made such that
//! this is the way.

use std::net::IpAddr;

use muster_agent::plan::network::{
    Change, PROOF_MARK, PROOF_TABLE, Past, as_it_boots, differences, next_hop, plan, revert,
};
use muster_protocol::desired::{self, MAIN_TABLE, Reach, Rule};
use muster_protocol::observed::{Address, Admin, Network, Origin, Route};
use muster_protocol::to_agent::Impact;
use proptest::prelude::*;

use super::generate::{document, ip, machine, net, twin};
use super::{apply, config, essence, fitting, nic, waits_in_vain};

const CONTROLLER: &str = "203.0.113.1";

/// The same machine, reached over `via` from a static address of its first NIC.
fn stands_on(mut machine: Network, via: &str) -> Network {
    machine.rules.clear();
    let to: IpAddr = ip(CONTROLLER);
    machine.routes.retain(|route| !route.to.contains(&to));
    let Some(link) = machine.links.iter_mut().find(|link| link.admin == Admin::Up && link.port.is_none()) else {
        return machine;
    };
    let mine = net("198.18.0.7/24");
    link.addresses.push(Address { net: mine, origin: Origin::Static });
    link.addresses.sort();
    let (to, via, origin) = (net("0.0.0.0/0"), Some(ip(via)), Origin::Static);
    machine.routes.push(Route { to, via, link: link.index, metric: 0, table: MAIN_TABLE, origin });
    machine
}

/// The same document with that NIC as it is, but for its gateway, and its address where that changes as well.
fn leads_over(mut document: desired::Network, machine: &Network, via: &str, address: &str) -> desired::Network {
    let to: IpAddr = ip(CONTROLLER);
    for link in &mut document.links {
        link.settings.routes.retain(|route| !route.to.contains(&to));
        link.settings.rules.clear();
        link.settings.dhcp4 = desired::Dhcp::Off;
    }
    let Some(link) = machine.links.iter().find(|link| link.admin == Admin::Up && link.port.is_none()) else {
        return document;
    };
    document.links.retain(|entry| match &entry.kind {
        desired::LinkKind::Ethernet(ethernet) => ethernet.select.mac != Some(link.permanent_mac),
        _ => false,
    });
    let default = desired::Route {
        to: net("0.0.0.0/0"),
        via: Some(ip(via)),
        metric: None,
        table: MAIN_TABLE,
        reach: Reach::Prefix,
    };
    let settings =
        desired::Settings { addresses: vec![net(address)], routes: vec![default], ..desired::Settings::default() };
    document.links.push(desired::Link { id: "way".into(), kind: nic(&link.name), settings });
    document
}

/// What a proof puts up, as an agent that died in the middle of one may have left it.
fn left_by_a_dead_agent(mut machine: Network) -> Network {
    let link = machine.links.last().map_or(0, |link| link.index);
    let (to, via) = (net("203.0.113.1/32"), Some(ip("198.18.0.99")));
    let (metric, table, origin) = (4_000_000_000, PROOF_TABLE, Origin::Static);
    machine.routes.push(Route { to, via, link, metric, table, origin });
    machine.rules.push(proofs_rule());
    machine
}

fn proofs_rule() -> Rule {
    let to = Some(net("203.0.113.1/32"));
    Rule { from: None, to, table: PROOF_TABLE, priority: Some(1), mark: Some(PROOF_MARK), tos: None }
}

/// Nothing in the table of proofs, and nobody sent there.
fn is_clean(network: &Network) -> bool {
    network.routes.iter().all(|route| route.table != PROOF_TABLE)
        && network.rules.iter().all(|rule| rule.table != PROOF_TABLE)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..config() })]

    #[test]
    fn another_gateway_on_the_link_is_proven_by_a_mark_and_nothing_of_the_proof_stays(
        machine in machine(),
        document in document(),
        keeps_its_address in any::<bool>(),
        is_left in any::<bool>(),
        done in 0_usize..40,
    ) {
        let controllers: [IpAddr; 1] = [ip(CONTROLLER)];
        let machine = stands_on(machine, "198.18.0.1");
        prop_assume!(next_hop(&machine, controllers[0]).is_some_and(|(_, via)| via == Some(ip("198.18.0.1"))));
        let address = if keeps_its_address { "198.18.0.7/24" } else { "198.18.0.8/24" };
        let document = leads_over(document, &machine, "198.18.0.254", address);
        let observed = if is_left { left_by_a_dead_agent(machine.clone()) } else { machine.clone() };
        let planned = fitting(document, &observed, &controllers);
        prop_assume!(planned.is_some());
        let (document, steps) = planned.expect("assumed");
        prop_assume!(!waits_in_vain(&steps, &observed));
        let is_proof = |change: &Change| matches!(change, Change::Prove(_));
        let proof = steps.iter().position(|step| is_proof(&step.change));
        // A NIC that has to go down first cannot stand beside itself.
        let first = steps.iter().position(|step| step.impact == Impact::ControlPath);
        let is_replaced = steps.iter().any(|step| {
            step.impact == Impact::ControlPath && matches!(step.change, Change::SetMtu { .. } | Change::Delete { .. } | Change::SetAdmin { .. } | Change::Leave { .. })
        });
        prop_assert!(proof.is_some() || is_replaced, "{:#?}", steps);
        prop_assume!(proof.is_some());
        let proof = proof.expect("assumed");
        prop_assert!(first.is_some_and(|first| first > proof), "{:#?}", steps);

        let mut part = twin(&observed);
        for (at, step) in steps.iter().enumerate() {
            if at == proof {
                let now = part.observe();
                let table: Vec<_> = now.routes.iter().filter(|route| route.table == PROOF_TABLE).collect();
                prop_assert!(table.len() == 1 && table[0].via == Some(ip("198.18.0.254")), "{:#?}", table);
                prop_assert!(now.rules.contains(&proofs_rule()), "{:#?}", now.rules);
                // Whoever has no mark goes on by the present one.
                prop_assert_eq!(next_hop(now, controllers[0]).map(|(_, via)| via), Some(Some(ip("198.18.0.1"))));
                break;
            }
            part.apply(&step.change).map_err(|refused| TestCaseError::fail(refused.to_string()))?;
        }

        let mut whole = twin(&observed);
        apply(&mut whole, &steps).map_err(TestCaseError::fail)?;
        prop_assert!(is_clean(whole.observe()), "{:#?}", whole.observe());
        prop_assert_eq!(differences(&document, &Past::default(), whole.observe()), Vec::<String>::new());
        prop_assert_eq!(plan(&document, &Past::default(), whole.observe(), &controllers), Ok(Vec::new()));

        let mut part = twin(&observed);
        apply(&mut part, steps.get(..done.min(steps.len())).unwrap_or_default()).map_err(TestCaseError::fail)?;
        let mut booted = part.clone();
        let back = revert(&observed, part.observe());
        apply(&mut part, &back).map_err(TestCaseError::fail)?;
        prop_assert!(is_clean(part.observe()), "{:#?}\nby {:#?}", steps, back);
        prop_assert_eq!(essence(part.observe()), essence(&machine), "{:#?}\nby {:#?}", steps, back);
        as_it_boots(booted.observe()).iter().for_each(|step| drop(booted.apply(&step.change)));
        prop_assert!(is_clean(booted.observe()), "{:#?}", booted.observe());
    }
}
