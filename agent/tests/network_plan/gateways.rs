//! From one gateway to another on the same link, behind whatever addresses: random machines and documents, made such that
//! this is the way.

use std::collections::BTreeSet;
use std::net::IpAddr;

use muster_agent::plan::network::twin::Twin;
use muster_agent::plan::network::{
    Change, PROOF_MARK, PROOF_TABLE, Past, Step, as_it_boots, differences, next_hop, plan, revert,
};
use muster_protocol::desired::{self, MAIN_TABLE, Reach, Rule};
use muster_protocol::observed::{self, Address, Admin, Network, Origin, Route};
use muster_protocol::to_agent::Impact;
use proptest::prelude::*;

use super::generate::{document, ethernet, ip, machine, net, twin};
use super::{apply, config, entry, essence, fitting, lines, nic, route, waits_in_vain};

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

/// eth0 with this address and a default route, by which the controller is reached.
fn plain(address: &str) -> Network {
    let eth0 = observed::Link { addresses: vec![fixed(address)], ..ethernet(2) };
    let (to, via, origin) = (net("0.0.0.0/0"), Some(ip("192.0.2.1")), Origin::Static);
    let default = Route { to, via, link: 2, metric: 0, table: MAIN_TABLE, origin };
    Network { links: vec![eth0], routes: vec![default], ..Network::default() }
}

fn fixed(address: &str) -> Address {
    Address { net: net(address), origin: Origin::Static }
}

/// A document of eth0 alone.
fn of_eth0(settings: desired::Settings) -> desired::Network {
    desired::Network { links: vec![entry("eth0", nic("eth0"), settings)], ..desired::Network::default() }
}

/// A rule that says no priority asks a table of its own for the controller, over this gateway.
fn ruled(via: &str, to: &str) -> desired::Network {
    of_eth0(desired::Settings {
        addresses: vec![net("192.0.2.7/24")],
        routes: vec![desired::Route { table: 101, ..route("0.0.0.0/0", via) }],
        rules: vec![Rule { from: None, to: Some(net(to)), table: 101, priority: None, mark: None, tos: None }],
        ..desired::Settings::default()
    })
}

fn planned(document: &desired::Network, machine: &Network) -> Vec<Step> {
    plan(document, &Past::default(), machine, &[ip(CONTROLLER)]).expect("it fits")
}

fn is_proven(steps: &[Step]) -> bool {
    steps.iter().any(|step| matches!(step.change, Change::Prove(_)))
}

fn priorities(twin: &Twin) -> Vec<Option<u32>> {
    twin.observe().rules.iter().map(|rule| rule.priority).collect()
}

#[test]
fn a_rule_without_a_priority_never_stands_before_the_next_proof() {
    let mut twin = Twin::new(plain("192.0.2.7/24"));
    let network = "203.0.113.0/24";
    for (via, to) in [("192.0.2.254", network), ("192.0.2.9", network), ("192.0.2.1", "203.0.0.0/16")] {
        let before = twin.observe().clone();
        let steps = planned(&ruled(via, to), &before);
        assert!(is_proven(&steps), "{via}: {steps:#?}");
        for done in 0..steps.len() {
            let mut part = Twin::new(before.clone());
            apply(&mut part, &steps[..done]).expect("the kernel agrees");
            let back = revert(&before, part.observe());
            apply(&mut part, &back).expect("the kernel agrees");
            assert_eq!(priorities(&part), priorities(&twin), "{done} of {steps:#?}");
        }
        apply(&mut twin, &steps).expect("the kernel agrees");
        assert!(priorities(&twin).iter().all(|priority| *priority > Some(1)), "{via}: {:#?}", twin.observe().rules);
    }
}

/// As agents left them that added such a rule while that of a proof stood.
#[test]
fn a_rule_that_stands_before_proofs_is_put_behind_them_by_the_next_change_of_the_way() {
    let mut twin = Twin::new(plain("192.0.2.7/24"));
    let steps = planned(&ruled("192.0.2.1", "203.0.113.0/24"), twin.observe());
    apply(&mut twin, &steps).expect("the kernel agrees");
    let mut first = twin.observe().clone();
    first.rules.iter_mut().for_each(|rule| rule.priority = Some(0));
    for to in ["203.0.113.0/24", "203.0.0.0/16"] {
        let mut twin = Twin::new(first.clone());
        assert_eq!(planned(&ruled("192.0.2.1", "203.0.113.0/24"), &first), [], "it is as it is described");
        let steps = planned(&ruled("192.0.2.254", to), &first);
        assert!(!is_proven(&steps), "{steps:#?}");
        apply(&mut twin, &steps).expect("the kernel agrees");
        assert_eq!(priorities(&twin), [Some(32_765)], "{steps:#?}");
        assert!(is_proven(&planned(&ruled("192.0.2.9", to), twin.observe())), "{:#?}", twin.observe());
    }
}

#[test]
fn the_priority_that_the_kernel_gives_a_rule_is_its_familys() {
    let rule = |to: &str, priority| {
        Change::AddRule(Rule { from: None, to: Some(net(to)), table: 7, priority, mark: None, tos: None })
    };
    let mut twin = Twin::new(Network::default());
    for change in [rule("2001:db8::/32", Some(5)), rule("192.0.2.0/24", None), rule("2001:db8:1::/48", None)] {
        twin.apply(&change).expect("the kernel agrees");
    }
    assert_eq!(BTreeSet::from_iter(priorities(&twin)), BTreeSet::from([Some(4), Some(5), Some(32_765)]));
}

#[test]
fn an_address_that_makes_the_controller_a_neighbor_is_tried_alone_before_its_prefix_is_there() {
    let machine = plain("192.0.2.7/24");
    let document = of_eth0(desired::Settings {
        addresses: vec![net("192.0.2.7/24"), net("203.0.113.7/24")],
        routes: vec![route("0.0.0.0/0", "192.0.2.1")],
        ..desired::Settings::default()
    });
    assert_eq!(
        lines(&document, &machine),
        [
            "None: add address 203.0.113.7/32 to eth0",
            "None: wait until the addresses of eth0 are known to be unique",
            "None: add route 203.0.113.1/32 by eth0 with metric 4000000000 in table 19797",
            "None: add rule 1: to 203.0.113.1/32 fwmark 0x4d55 lookup 19797",
            "None: reach the controller by eth0 from 203.0.113.7, beside the present way",
            "None: remove rule 1: to 203.0.113.1/32 fwmark 0x4d55 lookup 19797",
            "None: remove route 203.0.113.1/32 by eth0 with metric 4000000000 in table 19797",
            "ControlPath: add address 203.0.113.7/24 to eth0",
            "None: wait until the addresses of eth0 are known to be unique",
            "ControlPath: remove address 203.0.113.7/32 from eth0",
        ]
    );
    let steps = planned(&document, &machine);
    for done in 0..=steps.len() {
        let mut part = Twin::new(machine.clone());
        apply(&mut part, &steps[..done]).expect("the kernel agrees");
        if done == steps.len() {
            assert_eq!(differences(&document, &Past::default(), part.observe()), [""; 0]);
        }
        let back = revert(&machine, part.observe());
        apply(&mut part, &back).expect("the kernel agrees");
        assert_eq!(part.observe(), &machine, "{done} of {steps:#?}");
    }
}

#[test]
fn a_machine_that_moves_into_the_controllers_network_on_the_same_link_is_proven_beside() {
    let machine = plain("192.0.2.7/24");
    let moves = |address: &str| {
        let addresses = vec![net(address)];
        planned(&of_eth0(desired::Settings { addresses, ..desired::Settings::default() }), &machine)
    };
    let steps = moves("203.0.113.7/24");
    let proof = steps.iter().position(|step| matches!(step.change, Change::Prove(_)));
    let first = steps.iter().position(|step| step.impact == Impact::ControlPath);
    assert!(proof.is_some_and(|proof| first.is_some_and(|first| first > proof)), "{steps:#?}");
    // The controller's own address is no way to it.
    assert!(!is_proven(&moves("203.0.113.1/24")));
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
