//! A document means the same whatever was in force before it: random ones, one after the other and the second alone.

use std::collections::BTreeSet;

use muster_agent::plan::network::{Past, differences, plan, see};
use muster_protocol::desired::{self, Desired, Rule};
use muster_protocol::observed::{LinkKind, Network, Origin};
use proptest::prelude::*;

use super::generate::{document, ethernet, twin};
use super::{apply, config, waits_in_vain};

/// What documents give, of all links: NICs that none speaks of may ask for addresses or not.
fn given(network: &Network) -> BTreeSet<String> {
    let name = |index: u32| network.links.iter().find(|link| link.index == index).map(|link| link.name.as_str());
    // Where a document says no priority, the kernel finds one before those that are there.
    let rule = |rule: &Rule| format!("{:?}", Rule { priority: None, ..rule.clone() });
    let mut all: BTreeSet<String> = network.rules.iter().map(rule).collect();
    for link in &network.links {
        let kind = match &link.kind {
            LinkKind::Vlan { parent, tag } => format!("VLAN {tag} on {:?}", name(*parent)),
            LinkKind::Ethernet => format!("NIC {}", link.index),
            kind => format!("{kind:?}, up: {:?}", link.admin),
        };
        // What spanning tree reckons with there is the kernel's choice where no document says it.
        let port = link.port.map(|port| name(port.of));
        all.insert(format!("{} is {kind}, MTU {}, port {port:?}", link.name, link.mtu));
        let fixed = link.addresses.iter().filter(|address| address.origin == Origin::Static);
        all.extend(fixed.map(|address| format!("{} has {}", link.name, address.net)));
        all.extend(link.neighbors.iter().map(|neighbor| format!("{} knows {neighbor:?}", link.name)));
    }
    for route in network.routes.iter().filter(|route| route.origin == Origin::Static) {
        all.insert(format!(
            "{:?} {:?} by {:?} {} {}",
            route.to,
            route.via,
            name(route.link),
            route.metric,
            route.table
        ));
    }
    all
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_document_gives_what_it_gives_after_a_boot_whatever_was_in_force_before(first in document(), second in document()) {
        let is_sound = |document: &desired::Network| {
            desired::check(Desired { network: Some(document.clone()), storage: None }).is_ok()
        };
        prop_assume!(is_sound(&first) && is_sound(&second));
        let booted = Network { links: (2..5).map(ethernet).collect(), ..Network::default() };
        let mut past = Past::default();
        see(&mut past.nics, &booted);
        let before = plan(&first, &past, &booted, &[]);
        prop_assume!(before.is_ok());
        let mut used = twin(&booted);
        let steps = before.expect("assumed");
        prop_assume!(!waits_in_vain(&steps, &booted));
        apply(&mut used, &steps).map_err(TestCaseError::fail)?;
        past.in_force = Some(first);

        let alone = plan(&second, &Past { in_force: None, ..past.clone() }, &booted, &[]);
        let after = plan(&second, &past, used.observe(), &[]);
        match (alone, after) {
            (Ok(alone), Ok(after)) => {
                let mut fresh = twin(&booted);
                apply(&mut fresh, &alone).map_err(TestCaseError::fail)?;
                apply(&mut used, &after).map_err(TestCaseError::fail)?;
                prop_assert_eq!(given(used.observe()), given(fresh.observe()), "{:#?}", after);
                prop_assert_eq!(differences(&second, &past, used.observe()), Vec::<String>::new());
                past.in_force = Some(second.clone());
                prop_assert_eq!(plan(&second, &past, used.observe(), &[]), Ok(Vec::new()));
            }
            (Err(alone), Err(_)) => prop_assert!(!alone.problem.is_empty()),
            (alone, after) => prop_assert!(false, "after a boot {alone:?}, and now {after:?}"),
        }
    }
}
