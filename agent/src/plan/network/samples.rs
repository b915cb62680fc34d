//! Links for tests.

use muster_protocol::Mac;
use muster_protocol::inventory::Carrier;
use muster_protocol::observed::{Admin, Link, LinkKind};

/// A NIC that is up and has a carrier, and nothing on it. Its MAC is `02:00:00:00:00:INDEX`.
pub(crate) fn nic(index: u32, name: &str) -> Link {
    let mac = Mac::from_bytes([2, 0, 0, 0, 0, index as u8]);
    Link {
        driver: "e1000e".to_owned(),
        admin: Admin::Up,
        carrier: Carrier::Present,
        ..Link::bare(index, name, mac, LinkKind::Ethernet)
    }
}
