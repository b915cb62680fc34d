//! Links for tests.

use muster_protocol::Mac;
use muster_protocol::inventory::Carrier;
use muster_protocol::observed::{Admin, Link, LinkKind};

/// A NIC that is up and has a carrier, and nothing on it. Its MAC is `02:00:00:00:00:INDEX`.
pub(crate) fn nic(index: u32, name: &str) -> Link {
    let mac = Mac::from_bytes([2, 0, 0, 0, 0, index as u8]);
    Link {
        index,
        name: name.to_owned(),
        mac,
        permanent_mac: mac,
        driver: "e1000e".to_owned(),
        kind: LinkKind::Ethernet,
        port: None,
        admin: Admin::Up,
        carrier: Carrier::Present,
        mtu: 1500,
        addresses: Vec::new(),
        neighbors: Vec::new(),
        dhcp4: Default::default(),
        dhcp6: Default::default(),
        accept_ra: Default::default(),
        privacy: Default::default(),
        wake_on_lan: Default::default(),
    }
}
