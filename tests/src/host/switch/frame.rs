//! Ethernet frames, as far as a switch and a firewall look into them.

use muster_protocol::VlanTag;

/// Bytes of the two MAC addresses, before which nothing is inserted.
const ADDRESSES: usize = 12;

/// 802.1Q's tag protocol.
const TAG_PROTOCOL: [u8; 2] = [0x81, 0x00];

/// Ethernet's header: two addresses and a type.
const HEADER: usize = 14;

/// UDP's number (IANA protocol numbers).
const UDP: u8 = 17;

/// A MAC.
pub type Address = [u8; 6];

/// Whom a frame is for and from whom it is; `None` where it is none.
pub fn addresses(frame: &[u8]) -> Option<(Address, Address)> {
    Some((frame.get(..6)?.try_into().ok()?, frame.get(6..12)?.try_into().ok()?))
}

/// Whether it is for many.
pub fn is_group(to: Address) -> bool {
    to[0] & 1 != 0
}

/// Whether no switch passes it on: spanning tree, link aggregation and their kin (IEEE 802.1Q-2018, table 8-1).
pub fn is_for_bridges(to: Address) -> bool {
    to[..5] == [0x01, 0x80, 0xc2, 0, 0] && to[5] < 0x10
}

/// A frame's tag, and the frame without it.
pub fn untag(frame: &[u8]) -> (Option<VlanTag>, Vec<u8>) {
    match frame.get(ADDRESSES..ADDRESSES + 4) {
        Some(&[a, b, high, low]) if [a, b] == TAG_PROTOCOL => {
            // Twelve bits; 0 is a priority tag, which belongs to no VLAN.
            let tag = VlanTag::try_from(u16::from_be_bytes([high & 0x0f, low])).ok();
            (tag, [&frame[..ADDRESSES], &frame[ADDRESSES + 4..]].concat())
        }
        _ => (None, frame.to_vec()),
    }
}

/// A frame with a tag.
pub fn tag(frame: &[u8], tag: Option<VlanTag>) -> Vec<u8> {
    match tag {
        Some(id) if frame.len() >= ADDRESSES => {
            [&frame[..ADDRESSES], &TAG_PROTOCOL, &id.get().to_be_bytes(), &frame[ADDRESSES..]].concat()
        }
        _ => frame.to_vec(),
    }
}

/// Bytes of the packet in an untagged frame.
pub fn packet_length(frame: &[u8]) -> usize {
    frame.len().saturating_sub(HEADER)
}

/// The UDP ports, from and to, of the packet in an untagged frame.
pub fn udp_ports(frame: &[u8]) -> Option<[u16; 2]> {
    let packet = frame.get(HEADER..)?;
    // RFC 791: the header's length in words, the protocol; RFC 8200: 40 bytes, and nobody here puts more in between.
    let datagram = match (&frame[ADDRESSES..HEADER], packet.first()? >> 4) {
        ([0x08, 0x00], 4) if packet.get(9) == Some(&UDP) => packet.get(usize::from(packet[0] & 0x0f) * 4..)?,
        ([0x86, 0xdd], 6) if packet.get(6) == Some(&UDP) => packet.get(40..)?,
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes(datagram.get(at..at + 2)?.try_into().ok()?));
    Some([port(0)?, port(2)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tagged_frame_comes_back_as_it_was() -> anyhow::Result<()> {
        let office = Some(VlanTag::try_from(42)?);
        let frame: Vec<u8> = (0..64).collect();
        let tagged = tag(&frame, office);
        assert_eq!(tagged[12..16], [0x81, 0x00, 0, 42]);
        assert_eq!(untag(&tagged), (office, frame.clone()));
        assert_eq!(untag(&frame), (None, frame));
        Ok(())
    }

    #[test]
    fn the_ports_of_both_families_are_found() {
        let ports = [0x20, 0xfb, 0x00, 0x43];
        let four = [&[0; 12][..], &[0x08, 0x00, 0x46], &[0; 8], &[UDP], &[0; 14], &ports].concat();
        let six = [&[0; 12][..], &[0x86, 0xdd, 0x60], &[0; 5], &[UDP], &[0; 33], &ports].concat();
        assert_eq!((udp_ports(&four), udp_ports(&six)), (Some([8443, 67]), Some([8443, 67])));
        for length in 0..four.len() {
            assert_eq!(udp_ports(&four[..length]), None, "{length} bytes of it");
        }
    }
}
