//! From a static way of IPv6 to whatever routers announce: random machines and documents, made such that this is the way.

use std::net::IpAddr;

use muster_agent::plan::network::{Change, PROOF_TABLE, Past, differences, plan, revert};
use muster_protocol::desired::{self, AcceptRa, MAIN_TABLE};
use muster_protocol::observed::{Address, Admin, Network, Origin, Route};
use muster_protocol::to_agent::Impact;
use proptest::prelude::*;

use super::generate::{document, ip, machine, net, twin};
use super::{apply, config, essence, fitting, waits_in_vain};

/// The same machine, reached by a static address of its first NIC.
fn stands_on_ipv6(mut machine: Network) -> Network {
    machine.rules.clear();
    machine.routes.retain(|route| route.to.addr().is_ipv4());
    let Some(link) = machine.links.iter_mut().find(|link| link.admin == Admin::Up && link.port.is_none()) else {
        return machine;
    };
    link.addresses.retain(|address| address.net != net("2001:db8:7::7/64"));
    link.addresses.push(Address { net: net("2001:db8:7::7/64"), origin: Origin::Static });
    link.addresses.sort();
    let (to, via, origin) = (net("::/0"), Some(ip("2001:db8:7::1")), Origin::Static);
    machine.routes.push(Route { to, via, link: link.index, metric: 1024, table: MAIN_TABLE, origin });
    machine
}

/// The same document, with no way of IPv6 but by routers on these links.
fn listens(mut document: desired::Network, listening: &[bool]) -> desired::Network {
    for (link, listens) in document.links.iter_mut().zip(listening.iter().cycle()) {
        link.settings.routes.retain(|route| route.to.addr().is_ipv4());
        link.settings.addresses.retain(|address| address.addr().is_ipv4());
        link.settings.rules.clear();
        link.settings.accept_ra = if *listens { AcceptRa::On } else { AcceptRa::Off };
    }
    document
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..config() })]

    #[test]
    fn what_is_put_up_to_prove_an_announced_way_touches_nothing_and_goes_forwards_and_back(
        machine in machine(),
        document in document(),
        listening in prop::collection::vec(any::<bool>(), 3),
        done in 0_usize..40,
    ) {
        let controllers: [IpAddr; 1] = [ip("2001:db8:9::1")];
        let machine = stands_on_ipv6(machine);
        let planned = fitting(listens(document, &listening), &machine, &controllers);
        let is_announced = |change: &Change| matches!(change, Change::AddAnnounced(_));
        prop_assume!(planned.as_ref().is_some_and(|(_, steps)| steps.iter().any(|step| is_announced(&step.change))));
        let (document, steps) = planned.expect("assumed");
        prop_assume!(!waits_in_vain(&steps, &machine));
        let proof = steps.iter().position(|step| matches!(step.change, Change::Prove(_))).expect("it is for a proof");
        prop_assert!(steps.iter().take(proof).all(|step| step.impact != Impact::ControlPath), "{:#?}", steps);

        let mut whole = twin(&machine);
        apply(&mut whole, &steps).map_err(TestCaseError::fail)?;
        prop_assert!(whole.observe().routes.iter().all(|route| route.table != PROOF_TABLE), "{:#?}", whole.observe());
        prop_assert_eq!(whole.observe().rules.len(), 0);
        prop_assert_eq!(differences(&document, &Past::default(), whole.observe()), Vec::<String>::new());
        prop_assert_eq!(plan(&document, &Past::default(), whole.observe(), &controllers), Ok(Vec::new()));

        let mut part = twin(&machine);
        apply(&mut part, steps.get(..done.min(steps.len())).unwrap_or_default()).map_err(TestCaseError::fail)?;
        let back = revert(&machine, part.observe());
        apply(&mut part, &back).map_err(TestCaseError::fail)?;
        prop_assert_eq!(essence(part.observe()), essence(&machine), "{:#?}\nby {:#?}", steps, back);
    }
}
