//! MTUs: links that say what that of others is at most, or that follow others.

use muster_agent::plan::network::twin::Twin;
use muster_agent::plan::network::{Change, Past, differences, plan, revert};
use muster_protocol::desired::{self, Settings};
use muster_protocol::observed::{self, Network};

use super::generate::ethernet;
use super::{apply, entry, essence, nic, vlan};

fn of(mtu: u32) -> Settings {
    Settings { mtu: Some(mtu), ..Settings::default() }
}

fn bond(ports: &[&str]) -> desired::LinkKind {
    let ports = ports.iter().map(|port| (*port).to_owned()).collect();
    desired::LinkKind::Bond(desired::Bond { ports, ..desired::Bond::default() })
}

fn bridge(ports: &[&str]) -> desired::LinkKind {
    let ports = ports.iter().map(|port| (*port).to_owned()).collect();
    desired::LinkKind::Bridge(desired::Bridge { ports, ..desired::Bridge::default() })
}

fn document(links: Vec<desired::Link>) -> desired::Network {
    desired::Network { links, ..desired::Network::default() }
}

/// Nothing but eth0 and eth1, of these MTUs.
fn apart(mtus: [u32; 2]) -> desired::Network {
    let nics = ["eth0", "eth1"].into_iter().zip(mtus);
    document(nics.map(|(name, mtu)| entry(name, nic(name), of(mtu))).collect())
}

/// eth0 and eth1, of these MTUs.
fn nics(mtus: [u32; 2]) -> Network {
    let nic = |(index, mtu)| observed::Link { mtu, ..ethernet(index) };
    Network { links: [2, 3].into_iter().zip(mtus).map(nic).collect(), ..Network::default() }
}

fn mtu(twin: &Twin, name: &str) -> u32 {
    twin.observe().links.iter().find(|link| link.name == name).map(|link| link.mtu).expect("it is there")
}

/// Applies one document after the other, and goes back from each step of the last one, and from its end.
fn there_and_back(machine: Network, documents: &[desired::Network]) -> Result<Twin, String> {
    let mut twin = Twin::new(machine);
    for (at, document) in documents.iter().enumerate() {
        let before = twin.observe().clone();
        let steps = plan(document, &Past::default(), &before, &[]).map_err(|why| why.to_string())?;
        for done in (0..steps.len()).filter(|_| at + 1 == documents.len()) {
            let mut twin = twin.clone();
            apply(&mut twin, &steps[..=done])?;
            let back = revert(&before, twin.observe());
            apply(&mut twin, &back)?;
            assert_eq!(essence(twin.observe()), essence(&before), "{back:#?} after {done} of {steps:#?}");
        }
        apply(&mut twin, &steps)?;
        assert_eq!(differences(document, &Past::default(), twin.observe()), [""; 0], "{steps:#?}");
    }
    Ok(twin)
}

/// No document puts a VLAN on a port of a bond; somebody may have done so by hand.
#[test]
fn a_vlan_on_a_nic_that_goes_back_into_its_bond_gets_the_mtu_that_the_bond_allows() {
    let nics_of = |settings: Settings| vec![entry("eth0", nic("eth0"), settings)];
    let mut bonded = nics_of(Settings::default());
    bonded.extend([entry("bond0", bond(&["eth0"]), Settings::default()), entry("office", vlan(7, "eth0"), of(1500))]);
    let mut alone = nics_of(of(1400));
    alone.push(entry("office", vlan(7, "eth0"), of(1400)));
    there_and_back(nics([1500, 1500]), &[document(bonded), document(alone)]).expect("the kernel agrees");
}

#[test]
fn a_vlan_on_a_bridge_gets_its_mtu_after_the_bridge_that_followed_a_smaller_port() {
    let bridged = |ports: &[&str], small: u32| {
        document(vec![
            entry("eth0", nic("eth0"), of(1500)),
            entry("eth1", nic("eth1"), of(small)),
            entry("br0", bridge(ports), Settings::default()),
            entry("office", vlan(7, "br0"), Settings::default()),
        ])
    };
    let large = bridged(&["eth0"], 1500);
    for ports in [&["eth0", "eth1"][..], &["eth1"], &[]] {
        there_and_back(nics([1500, 1500]), &[large.clone(), bridged(ports, 1400)]).expect("the kernel agrees");
    }
    there_and_back(nics([1500, 1500]), &[large, apart([1400, 1500])]).expect("the kernel agrees");
}

#[test]
fn a_bridge_with_an_mtu_of_its_own_keeps_it_whatever_its_ports_have() {
    let bridged = |ports: &[&str], mtu: u32| {
        document(vec![
            entry("eth0", nic("eth0"), of(9000)),
            entry("eth1", nic("eth1"), of(1400)),
            entry("br0", bridge(ports), of(mtu)),
        ])
    };
    let ways: [&[&str]; 4] = [&["eth0"], &["eth1"], &["eth0", "eth1"], &[]];
    for first in ways {
        for then in ways {
            let both = [bridged(first, 1500), bridged(then, 1500)];
            let twin = there_and_back(nics([1500, 1500]), &both).expect("the kernel agrees");
            assert_eq!(mtu(&twin, "br0"), 1500, "{first:?} {then:?}");
        }
        there_and_back(nics([9000, 1400]), &[bridged(first, 1500), apart([9000, 1400])]).expect("the kernel agrees");
    }
}

#[test]
fn a_vlan_on_a_bridge_is_held_against_the_mtu_of_its_smallest_port() {
    let tagged = |of_bridge: Settings| {
        document(vec![
            entry("eth0", nic("eth0"), Settings::default()),
            entry("br0", bridge(&["eth0"]), of_bridge),
            entry("office", vlan(7, "br0"), of(1500)),
        ])
    };
    let larger =
        plan(&tagged(Settings::default()), &Past::default(), &nics([1400, 1500]), &[]).map_err(|why| why.to_string());
    let why = "network.vlans.office.mtu: 1500 is over 1400, the MTU of br0; raise that one too";
    assert_eq!(larger, Err(why.to_owned()));
    there_and_back(nics([1400, 1500]), &[tagged(of(1500))]).expect("the kernel agrees");
    there_and_back(nics([9000, 1500]), &[tagged(Settings::default())]).expect("the kernel agrees");
}

/// As `ip` shows it with Linux 6.18: setting what is so already does not count as setting.
#[test]
fn a_bridge_of_the_twin_follows_its_smallest_port_until_its_mtu_is_set() {
    let mut twin = Twin::new(nics([9000, 1400]));
    let mut does = |change| {
        twin.apply(&change).expect("the kernel agrees");
        mtu(&twin, "br0")
    };
    let set = |mtu| Change::SetMtu { link: "br0".to_owned(), mtu };
    let join = |link: &str| Change::Join { link: link.to_owned(), of: "br0".to_owned() };
    let leave = |link: &str| Change::Leave { link: link.to_owned() };
    let kind = muster_agent::plan::network::NewLink::Bridge;
    assert_eq!(does(Change::Create { link: "br0".to_owned(), kind }), 1500);
    assert_eq!(does(set(1500)), 1500);
    assert_eq!(does(join("eth0")), 9000);
    assert_eq!(does(join("eth1")), 1400);
    assert_eq!(does(leave("eth1")), 9000);
    assert_eq!(does(set(1500)), 1500);
    assert_eq!(does(join("eth1")), 1500);
    assert_eq!(does(leave("eth0")), 1500);
}

/// A bridge whose MTU was set looks like one that follows its ports, where both come to the same.
#[test]
fn the_mtu_of_a_bridge_is_set_where_it_may_have_been_set_before() {
    let bridged = |mtu: u32, small: Settings| {
        document(vec![entry("eth0", nic("eth0"), of(mtu)), entry("br0", bridge(&["eth0"]), small)])
    };
    let mut set = Twin::new(nics([9000, 1500]));
    for (mtu, own) in [(9000, of(1500)), (1500, Settings::default())] {
        let steps = plan(&bridged(mtu, own), &Past::default(), set.observe(), &[]).expect("it fits");
        apply(&mut set, &steps).expect("the kernel agrees");
    }
    let follows = Twin::new(set.observe().clone());
    for mut twin in [set, follows] {
        let large = bridged(9000, of(9000));
        let steps = plan(&large, &Past::default(), twin.observe(), &[]).expect("it fits");
        apply(&mut twin, &steps).expect("the kernel agrees");
        assert_eq!(mtu(&twin, "br0"), 9000, "{steps:#?}");
    }
}
