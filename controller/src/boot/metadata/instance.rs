//! What a leased machine is told of itself, in the shapes of NoCloud, EC2 and OpenStack.
//!
//! Pure: every text by its path. A path that others begin with is a folder; [`listing`] says what is in it, as EC2's does.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use muster_protocol::Mac;
use serde_json::{Value, json};

use crate::documents::render_network;
use crate::fleet::State;
use crate::fleet::lease::handover;
use crate::fleet::operation::confirmed;
use crate::fleet::record::{AddressHolder, LeaseState, Location, Subnet};

/// The texts, by path without a slash at its beginning.
pub type Files = BTreeMap<String, String>;

/// One leased machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Instance {
    id: String,
    hostname: String,
    model: String,
    location: String,
    zone: String,
    mac: Mac,
    addresses: Vec<(IpAddr, Subnet)>,
    network: Option<Value>,
    keys: Vec<String>,
    user_data: String,
}

/// The machine that asks from this address, whose lease is ready; `None` for everybody else.
pub fn of(state: &State, from: IpAddr) -> Option<Instance> {
    let (machine, lease) = handover::by_address(state, from)?;
    let LeaseState::Ready { seat } = &lease.state else { return None };
    let its = |holder: &AddressHolder| matches!(holder, AddressHolder::Machine { machine: m, lease: l } if *m == machine.id && *l == lease.id);
    let own = state.addresses.iter().filter(|address| its(&address.holder));
    let location = state.locations.get(&lease.location).cloned().unwrap_or_else(Location::default);
    Some(Instance {
        id: lease.id.clone(),
        hostname: if lease.hostname.is_empty() { machine.name.clone() } else { lease.hostname.clone() },
        model: lease.model.clone(),
        location: lease.location.clone(),
        zone: lease.zone.clone(),
        mac: seat.mac,
        addresses: own.filter_map(|a| Some((a.block.addr(), state.subnets.get(&a.subnet)?.clone()))).collect(),
        network: confirmed::network(state, machine.id).map(|(_, network)| render_network(network)),
        keys: location.ssh_keys,
        user_data: location.user_data,
    })
}

/// What is in a folder, one entry a line; folders end with a slash. `None` where there is no such folder.
pub fn listing(files: &Files, folder: &str) -> Option<String> {
    let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
    let inside = files.keys().filter_map(|path| path.strip_prefix(&prefix));
    let entry = |rest: &str| match rest.split_once('/') {
        // EC2: keys have names behind their numbers.
        Some((number, _)) if folder.ends_with("/public-keys") => format!("{number}=muster-{number}"),
        Some((inner, _)) => format!("{inner}/"),
        None => rest.to_owned(),
    };
    let entries: BTreeSet<String> = inside.map(entry).collect();
    (!entries.is_empty()).then(|| entries.into_iter().collect::<Vec<_>>().join("\n"))
}

impl Instance {
    /// Everything that it may ask for.
    pub fn files(&self) -> Files {
        let mut files = Files::new();
        self.no_cloud(&mut files);
        self.ec2(&mut files);
        self.open_stack(&mut files);
        files
    }

    /// cloud-init reads JSON as the YAML that it is. `ds=nocloud-net;s=http://…/nocloud/` leads here.
    fn no_cloud(&self, files: &mut Files) {
        let meta = json!({ "instance-id": self.id, "local-hostname": self.hostname, "public-keys": self.keys });
        let mut put = |name: &str, text: String| files.insert(format!("nocloud/{name}"), text);
        put("meta-data", text(&meta));
        put("user-data", self.user_data.clone());
        put("vendor-data", String::new());
        if let Some(network) = &self.network {
            put("network-config", text(network));
        }
    }

    fn ec2(&self, files: &mut Files) {
        let v4 = || self.addresses.iter().filter(|(own, _)| own.is_ipv4());
        let v6 = || self.addresses.iter().filter(|(own, _)| own.is_ipv6());
        let zone = if self.zone.is_empty() { &self.location } else { &self.zone };
        let local: Vec<String> = v4().map(|(own, _)| own.to_string()).collect();
        let public: Vec<String> = v4().map(|(own, subnet)| subnet.public(*own).to_string()).collect();
        let mut put = |name: &str, value: &str| {
            if !value.is_empty() {
                files.insert(format!("latest/{name}"), value.to_owned());
            }
        };
        for (name, value) in [
            ("instance-id", &*self.id),
            ("instance-type", &self.model),
            ("hostname", &self.hostname),
            ("local-hostname", &self.hostname),
            ("local-ipv4", local.first().map_or("", |ip| ip)),
            ("public-ipv4", public.first().map_or("", |ip| ip)),
            ("mac", &self.mac.to_string()),
            ("placement/region", &self.location),
            ("placement/availability-zone", zone),
        ] {
            put(&format!("meta-data/{name}"), value);
        }
        for (number, key) in self.keys.iter().enumerate() {
            put(&format!("meta-data/public-keys/{number}/openssh-key"), key);
        }
        let nets = |list: Vec<&(IpAddr, Subnet)>| {
            list.iter().map(|(_, subnet)| subnet.net.to_string()).collect::<Vec<_>>().join("\n")
        };
        for (name, value) in [
            ("device-number", "0".to_owned()),
            ("mac", self.mac.to_string()),
            ("local-hostname", self.hostname.clone()),
            ("local-ipv4s", local.join("\n")),
            ("public-ipv4s", public.join("\n")),
            ("subnet-ipv4-cidr-block", nets(v4().take(1).collect())),
            ("ipv6s", v6().map(|(own, _)| own.to_string()).collect::<Vec<_>>().join("\n")),
            ("subnet-ipv6-cidr-blocks", nets(v6().collect())),
        ] {
            put(&format!("meta-data/network/interfaces/macs/{}/{name}", self.mac), &value);
        }
        let document = json!({
            "architecture": "x86_64", "availabilityZone": zone, "instanceId": self.id, "instanceType": self.model,
            "privateIp": local.first(), "region": self.location, "version": "2017-09-30",
        });
        put("dynamic/instance-identity/document", &text(&document));
        put("user-data", &self.user_data);
    }

    fn open_stack(&self, files: &mut Files) {
        let named = |number: usize| format!("muster-{number}");
        let keys = || self.keys.iter().enumerate();
        let meta = json!({
            "uuid": self.uuid(),
            "name": self.hostname,
            "hostname": self.hostname,
            "availability_zone": if self.zone.is_empty() { &self.location } else { &self.zone },
            "launch_index": 0,
            "meta": {},
            "public_keys": keys().map(|(i, key)| (named(i), json!(key))).collect::<serde_json::Map<_, _>>(),
            "keys": keys().map(|(i, key)| json!({"name": named(i), "type": "ssh", "data": key})).collect::<Vec<_>>(),
        });
        let mut put = |name: &str, text: String| files.insert(format!("openstack/latest/{name}"), text);
        put("meta_data.json", text(&meta));
        put("network_data.json", text(&self.network_data()));
        put("vendor_data.json", text(&json!({})));
        put("vendor_data2.json", text(&json!({})));
        if !self.user_data.is_empty() {
            put("user_data", self.user_data.clone());
        }
    }

    /// Nova's network_data.json.
    fn network_data(&self) -> Value {
        let link = "primary";
        let network = |(number, (own, subnet)): (usize, &(IpAddr, Subnet))| {
            let (kind, everywhere) = if own.is_ipv4() { ("ipv4", "0.0.0.0") } else { ("ipv6", "::") };
            let route = |via: IpAddr| json!({ "network": everywhere, "netmask": everywhere, "gateway": via });
            json!({
                "id": format!("network{number}"), "network_id": subnet.net, "type": kind, "link": link,
                "ip_address": own, "netmask": subnet.net.netmask(),
                "routes": subnet.gateway.map(route).into_iter().collect::<Vec<_>>(),
            })
        };
        let resolvers: BTreeSet<IpAddr> =
            self.addresses.iter().flat_map(|(_, subnet)| subnet.nameservers.clone()).collect();
        json!({
            "links": [{ "id": link, "type": "phy", "ethernet_mac_address": self.mac.to_string(), "mtu": null }],
            "networks": self.addresses.iter().enumerate().map(network).collect::<Vec<_>>(),
            "services": resolvers.iter().map(|ip| json!({ "type": "dns", "address": ip })).collect::<Vec<_>>(),
        })
    }

    /// The lease's 128 bits as a UUID is written.
    fn uuid(&self) -> String {
        match self.id.strip_prefix("srv-") {
            Some(hex) if hex.len() == 32 && hex.is_ascii() => {
                [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
            }
            _ => self.id.clone(),
        }
    }
}

fn text(value: &Value) -> String {
    format!("{value:#}\n")
}
