//! Wake-on-LAN of a real NIC, which no network namespace has; QEMU's rtl8139 is real enough. Needs ethtool.
//!
//! Changes the NIC for as long as it runs, so it is for booted machines only: the kernel tests' guest is one.

use std::fs;
use std::process::Command;

use muster_agent::linux::network::Network;
use muster_agent::plan::network::{Change, Step};
use muster_protocol::desired;
use muster_protocol::observed::{Link, WakeOnLan};
use muster_protocol::to_agent::Impact;

fn able(network: &Network) -> Link {
    let links = network.observe().expect("observed").links;
    links.into_iter().find(|link| link.wake_on_lan != WakeOnLan::Unable).expect("a NIC that knows magic packets")
}

#[test]
#[ignore = "needs a NIC that knows magic packets: run in a booted machine by tests/tests/system/kernel.rs"]
fn a_nic_is_told_to_wake_the_machine_and_not_to() {
    let folder = tempfile::tempdir().expect("a folder");
    let network = Network::with_resolv_conf(None, &folder.path().join("resolv.conf")).expect("netlink");
    let link = able(&network);
    let device = format!("/sys/class/net/{}/device", link.name);
    let driver = fs::read_link(format!("{device}/driver")).expect("a driver");
    assert_eq!(Some(link.driver.as_str()), driver.file_name().and_then(|name| name.to_str()));

    let before = link.wake_on_lan;
    let (on, off) = ((desired::WakeOnLan::On, WakeOnLan::On), (desired::WakeOnLan::Off, WakeOnLan::Off));
    for (wake_on_lan, seen) in [on, off, on, if before == WakeOnLan::On { on } else { off }] {
        for _ in 0..2 {
            let change = Change::SetWakeOnLan { link: link.name.clone(), wake_on_lan };
            network.apply(&Step { change, impact: Impact::None }).expect("taken");
        }
        assert_eq!(able(&network).wake_on_lan, seen);
        let shown = Command::new("ethtool").arg(&link.name).output().expect("ethtool starts").stdout;
        let shown = String::from_utf8_lossy(&shown);
        let wake_on = shown.lines().find_map(|line| line.trim().strip_prefix("Wake-on:")).expect("a NIC that wakes");
        assert_eq!(wake_on.contains('g'), seen == WakeOnLan::On, "{shown}");
    }
}
