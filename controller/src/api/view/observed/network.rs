//! Links, routes and rules. What can be configured is named as documents name it.

use std::collections::BTreeMap;

use muster_protocol::desired::{AcceptRa, Privacy, Rule};
use muster_protocol::observed::{Admin, Bond, Bridge, Dhcp, Link, LinkKind, Network, Origin, Port, Route, WakeOnLan};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::documents::words;

/// One link.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ObservedLink)]
pub struct LinkView {
    /// Kernel name.
    pub name: String,
    /// In use.
    pub mac: String,
    /// In the hardware; as `mac` where the driver does not say.
    pub permanent_mac: String,
    /// The kernel's driver; absent for a link without hardware.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// `ethernet`, `bond`, `bridge`, `vlan`, or the kernel's word for what Muster does not configure.
    pub kind: String,
    /// Name of the link below and tag, for a VLAN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<VlanView>,
    /// How it works, for a bond.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bond: Option<BondView>,
    /// Parameters by netplan's names, for a bridge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<BTreeMap<String, serde_json::Value>>,
    /// The bond or bridge that it is a port of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<PortView>,
    /// Set up or down.
    pub up: bool,
    /// Whether frames can pass.
    pub carrier: bool,
    /// Bytes.
    pub mtu: u32,
    /// Address to where it comes from: `static`, `dhcp`, `ra` or `kernel`.
    pub addresses: BTreeMap<String, String>,
    /// Address to MAC of neighbors that were set and do not age.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub neighbors: BTreeMap<String, String>,
    /// What the agent's DHCPv4 client does: `off`, `searching` or `bound`.
    pub dhcp4: String,
    /// What it has got.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease4: Option<LeaseView>,
    /// What the agent's DHCPv6 client does: `off`, `searching` or `bound`.
    pub dhcp6: String,
    /// What it has got.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease6: Option<LeaseView>,
    /// Whether the kernel takes router advertisements; absent where it is left to the kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accept_ra: Option<bool>,
    /// Whether it has temporary IPv6 addresses and prefers them.
    pub ipv6_privacy: bool,
    /// Whether a magic packet wakes the machine; absent where it cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wakeonlan: Option<bool>,
}

/// What a VLAN is on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ObservedVlan)]
pub struct VlanView {
    /// Name of the link below.
    pub link: String,
    /// Its tag.
    pub id: u16,
}

/// How a bond works. Its ports are the links that say so.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ObservedBond)]
pub struct BondView {
    /// netplan's word.
    pub mode: String,
    /// Name of the port that is preferred.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary: Option<String>,
    /// Who is asked for by ARP.
    pub arp_ip_targets: Vec<String>,
    /// All else that the kernel knows in this mode, by netplan's names.
    pub parameters: BTreeMap<String, serde_json::Value>,
}

/// What a bond or bridge has noted of its port.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ObservedPort)]
pub struct PortView {
    /// Name of the bond or bridge.
    pub of: String,
    /// What spanning tree reckons with; 0 for a bond's.
    pub path_cost: u32,
    /// What spanning tree reckons with; 0 for a bond's.
    pub priority: u32,
    /// Whether spanning tree lets frames pass; always for a bond's.
    pub forwards: bool,
}

/// A DHCP lease that the agent keeps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ObservedLease)]
pub struct LeaseView {
    /// With its prefix length; absent where DHCPv6 servers told only what follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Who gave it.
    pub server: String,
    /// Resolvers it brought.
    pub nameservers: Vec<String>,
    /// Search domains it brought.
    pub search: Vec<String>,
    /// NTP servers it brought.
    pub ntp: Vec<String>,
}

/// One route.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ObservedRoute)]
pub struct RouteView {
    /// Destination.
    pub to: String,
    /// Gateway; absent where the destination is on the link.
    pub via: Option<String>,
    /// Name of the link it leaves by.
    pub link: String,
    /// Lower wins.
    pub metric: u32,
    /// The table it is in; 254 is the main one.
    pub table: u32,
    /// `static`, `dhcp`, `ra` or `kernel`.
    pub origin: String,
}

/// One routing policy rule: packets for which all that is given holds are routed by a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ObservedRule)]
pub struct RuleView {
    /// Source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Destination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// The table that is asked.
    pub table: u32,
    /// Lower is asked first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// Firewall mark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<u32>,
    /// Type of service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub type_of_service: Option<u8>,
}

pub(super) fn link_view(link: &Link, network: &Network) -> LinkView {
    let (dhcp4, lease4) = dhcp_view(&link.dhcp4);
    let (dhcp6, lease6) = dhcp_view(&link.dhcp6);
    let mut view = LinkView {
        name: link.name.clone(),
        mac: link.mac.to_string(),
        permanent_mac: link.permanent_mac.to_string(),
        driver: Some(link.driver.clone()).filter(|driver| !driver.is_empty()),
        kind: String::new(),
        vlan: None,
        bond: None,
        bridge: None,
        port: link.port.map(|port| port_view(port, network)),
        up: link.admin == Admin::Up,
        carrier: link.carrier == muster_protocol::inventory::Carrier::Present,
        mtu: link.mtu,
        addresses: link.addresses.iter().map(|a| (a.net.to_string(), origin(a.origin).to_owned())).collect(),
        neighbors: link.neighbors.iter().map(|n| (n.address.to_string(), n.mac.to_string())).collect(),
        dhcp4,
        lease4,
        dhcp6,
        lease6,
        accept_ra: match link.accept_ra {
            AcceptRa::Default => None,
            AcceptRa::On => Some(true),
            AcceptRa::Off => Some(false),
        },
        ipv6_privacy: link.privacy == Privacy::On,
        wakeonlan: match link.wake_on_lan {
            WakeOnLan::Unable => None,
            WakeOnLan::Off => Some(false),
            WakeOnLan::On => Some(true),
        },
    };
    view.kind = match &link.kind {
        LinkKind::Ethernet => "ethernet".into(),
        LinkKind::Bond(bond) => {
            view.bond = Some(bond_view(bond, network));
            "bond".into()
        }
        LinkKind::Bridge(bridge) => {
            view.bridge = Some(bridge_view(bridge));
            "bridge".into()
        }
        LinkKind::Vlan { parent, tag } => {
            view.vlan = Some(VlanView { link: link_name(network, *parent), id: tag.get() });
            "vlan".into()
        }
        LinkKind::Foreign(kind) => kind.clone(),
    };
    view
}

fn bond_view(bond: &Bond, network: &Network) -> BondView {
    let parameter = |(option, value): (&muster_protocol::desired::BondOption, &u32)| {
        (option.name().to_owned(), words::bond(*option).write(*value))
    };
    BondView {
        mode: bond.mode.name().into(),
        primary: bond.primary.map(|index| link_name(network, index)),
        arp_ip_targets: bond.arp_ip_targets.iter().map(ToString::to_string).collect(),
        parameters: bond.options.iter().map(parameter).collect(),
    }
}

fn bridge_view(bridge: &Bridge) -> BTreeMap<String, serde_json::Value> {
    let options = bridge.options.iter();
    options.map(|(option, value)| (option.name().to_owned(), words::bridge(*option).write(*value))).collect()
}

fn port_view(port: Port, network: &Network) -> PortView {
    let Port { of, path_cost, priority, forwards } = port;
    PortView { of: link_name(network, of), path_cost, priority, forwards }
}

fn dhcp_view(dhcp: &Dhcp) -> (String, Option<LeaseView>) {
    let word = match dhcp {
        Dhcp::Off => "off",
        Dhcp::Searching(_) => "searching",
        Dhcp::Bound(..) => "bound",
    };
    let lease = dhcp.lease().map(|lease| LeaseView {
        address: Some(lease.address).filter(|net| !net.addr().is_unspecified()).map(|net| net.to_string()),
        server: lease.server.to_string(),
        nameservers: lease.nameservers.iter().map(ToString::to_string).collect(),
        search: lease.search.clone(),
        ntp: lease.ntp.iter().map(ToString::to_string).collect(),
    });
    (word.to_owned(), lease)
}

pub(super) fn route_view(route: &Route, network: &Network) -> RouteView {
    RouteView {
        to: route.to.to_string(),
        via: route.via.map(|via| via.to_string()),
        link: link_name(network, route.link),
        metric: route.metric,
        table: route.table,
        origin: origin(route.origin).into(),
    }
}

pub(super) fn rule_view(rule: &Rule) -> RuleView {
    RuleView {
        from: rule.from.map(|net| net.to_string()),
        to: rule.to.map(|net| net.to_string()),
        table: rule.table,
        priority: rule.priority,
        mark: rule.mark,
        type_of_service: rule.tos,
    }
}

fn link_name(network: &Network, index: u32) -> String {
    network.links.iter().find(|link| link.index == index).map_or_else(|| format!("#{index}"), |link| link.name.clone())
}

fn origin(origin: Origin) -> &'static str {
    match origin {
        Origin::Static => "static",
        Origin::Dhcp => "dhcp",
        Origin::Ra => "ra",
        Origin::Kernel => "kernel",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_protocol::desired::{BondMode, BondOption, BridgeOption, LeaseUse, Neighbor};
    use muster_protocol::inventory::Carrier;
    use muster_protocol::observed::Lease;
    use muster_protocol::{Mac, VlanTag};
    use serde_json::json;

    fn link(index: u32, name: &str, kind: LinkKind) -> Link {
        let mac = Mac::from_bytes([2, 0, 0, 0, 0, 1]);
        Link { admin: Admin::Up, carrier: Carrier::Present, ..Link::bare(index, name, mac, kind) }
    }

    /// What is shown beyond name, MAC and state.
    fn shown(index: usize, links: Vec<Link>) -> serde_json::Value {
        let network = Network { links, ..Network::default() };
        let mut view = serde_json::to_value(link_view(&network.links[index], &network)).expect("plain data");
        let object = view.as_object_mut().expect("an object");
        for key in ["name", "mac", "permanent_mac", "up", "carrier", "mtu", "addresses", "ipv6_privacy"] {
            assert!(object.remove(key).is_some(), "{key}");
        }
        object.retain(|_, value| *value != json!("off"));
        view
    }

    #[test]
    fn a_stack_of_links_is_shown_by_names_and_in_the_words_of_documents() {
        let bond = Bond {
            mode: BondMode::ActiveBackup,
            primary: Some(2),
            arp_ip_targets: vec!["192.0.2.1".parse().expect("an address")],
            options: [(BondOption::MiiMonitorInterval, 100), (BondOption::FailOverMac, 1)].into(),
        };
        let bridge = Bridge { options: [(BridgeOption::Stp, 1), (BridgeOption::ForwardDelay, 1_550)].into() };
        let tag = VlanTag::try_from(12).expect("a tag");
        let mut eth0 = link(2, "eth0", LinkKind::Ethernet);
        eth0.driver = "e1000e".into();
        eth0.port = Some(Port { of: 3, path_cost: 0, priority: 0, forwards: true });
        eth0.wake_on_lan = WakeOnLan::Off;
        let mut vlan = link(4, "office", LinkKind::Vlan { parent: 3, tag });
        vlan.port = Some(Port { of: 5, path_cost: 4, priority: 32, forwards: false });
        let links = vec![
            eth0,
            link(3, "bond0", LinkKind::Bond(bond.into())),
            vlan,
            link(5, "br0", LinkKind::Bridge(bridge.into())),
            link(6, "wg0", LinkKind::Foreign("wireguard".into())),
        ];
        let port = |of: &str, path_cost: u32, priority: u32, forwards: bool| json!({"of": of, "path_cost": path_cost, "priority": priority, "forwards": forwards});
        for (index, expected) in [
            json!({"kind": "ethernet", "driver": "e1000e", "port": port("bond0", 0, 0, true), "wakeonlan": false}),
            json!({"kind": "bond", "bond": {
                "mode": "active-backup",
                "primary": "eth0",
                "arp_ip_targets": ["192.0.2.1"],
                "parameters": {"mii-monitor-interval": 100, "fail-over-mac-policy": "active"},
            }}),
            json!({"kind": "vlan", "vlan": {"link": "bond0", "id": 12}, "port": port("br0", 4, 32, false)}),
            json!({"kind": "bridge", "bridge": {"stp": true, "forward-delay": "15500ms"}}),
            json!({"kind": "wireguard"}),
        ]
        .into_iter()
        .enumerate()
        {
            assert_eq!(shown(index, links.clone()), expected);
        }
    }

    #[test]
    fn leases_and_neighbors_are_shown() {
        let lease = Lease {
            address: "192.0.2.7/24".parse().expect("a prefix"),
            server: "192.0.2.1".parse().expect("an address"),
            nameservers: vec!["192.0.2.53".parse().expect("an address")],
            search: vec!["lab.example".into()],
            ntp: Vec::new(),
        };
        let mut eth0 = link(2, "eth0", LinkKind::Ethernet);
        let told = Lease { address: "::/128".parse().expect("a prefix"), search: Vec::new(), ..lease.clone() };
        eth0.dhcp4 = Dhcp::Bound(LeaseUse::default(), lease.into());
        eth0.dhcp6 = Dhcp::Bound(LeaseUse::default(), told.into());
        eth0.accept_ra = AcceptRa::Off;
        eth0.neighbors = vec![Neighbor {
            address: "192.0.2.9".parse().expect("an address"),
            mac: Mac::from_bytes([2, 0, 0, 0, 0, 9]),
        }];
        assert_eq!(
            shown(0, vec![eth0]),
            json!({
                "kind": "ethernet",
                "dhcp4": "bound",
                "lease4": {
                    "address": "192.0.2.7/24",
                    "server": "192.0.2.1",
                    "nameservers": ["192.0.2.53"],
                    "search": ["lab.example"],
                    "ntp": [],
                },
                "dhcp6": "bound",
                "lease6": {"server": "192.0.2.1", "nameservers": ["192.0.2.53"], "search": [], "ntp": []},
                "accept_ra": false,
                "neighbors": {"192.0.2.9": "02:00:00:00:00:09"},
            })
        );
    }
}
