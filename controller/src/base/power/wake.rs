//! Wake-on-LAN: a magic packet to a machine's NICs, by UDP to the broadcast address of its subnets.
//!
//! Nobody answers one, so nobody knows whether it woke anything. Broadcasts go as far as the controller's own networks, and
//! further where routers let directed ones through, which few do.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use ipnet::IpNet;
use muster_protocol::Mac;

use super::Failure;

/// Discard: what nobody listens on.
const PORT: u16 = 9;

/// How often each is sent: frames are lost.
const TIMES: usize = 3;

/// Six bytes of ones, and the MAC sixteen times.
pub fn packet(mac: Mac) -> [u8; 102] {
    let mut packet = [0xff; 102];
    for place in packet[6..].chunks_exact_mut(6) {
        place.copy_from_slice(mac.as_bytes());
    }
    packet
}

/// Where a packet for a machine with these addresses goes: the broadcast address of each of its networks, and that of the
/// networks that this host is in.
pub fn broadcasts(addresses: &[IpNet]) -> Vec<Ipv4Addr> {
    let mut all: Vec<Ipv4Addr> = addresses
        .iter()
        .filter_map(|net| match net {
            IpNet::V4(net) if net.prefix_len() < 31 && !net.addr().is_link_local() => Some(net.broadcast()),
            IpNet::V4(_) | IpNet::V6(_) => None,
        })
        .chain([Ipv4Addr::BROADCAST])
        .collect();
    all.sort();
    all.dedup();
    all
}

/// Sends it to each, and says where.
pub fn wake(macs: &[Mac], addresses: &[IpNet]) -> Result<String, Failure> {
    let to = broadcasts(addresses);
    wake_at(macs, &to.iter().map(|at| SocketAddr::new(IpAddr::V4(*at), PORT)).collect::<Vec<_>>())
}

fn wake_at(macs: &[Mac], to: &[SocketAddr]) -> Result<String, Failure> {
    if macs.is_empty() {
        return Err(Failure::Refused("no NIC of it is known, so nobody can be woken".into()));
    }
    let failed = |e: std::io::Error| Failure::Untold(format!("no magic packet can be sent: {e}"));
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(failed)?;
    socket.set_broadcast(true).map_err(failed)?;
    let (mut sent, mut why) = (Vec::new(), None);
    for at in to {
        let mut all = macs.iter().flat_map(|mac| std::iter::repeat_n(packet(*mac), TIMES));
        match all.try_for_each(|packet| socket.send_to(&packet, at).map(drop)) {
            Ok(()) => sent.push(at.ip().to_string()),
            Err(error) => why = Some(error),
        }
    }
    match (sent.is_empty(), why) {
        (true, Some(error)) => Err(failed(error)),
        _ => {
            let macs = macs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            Ok(format!("a magic packet for {macs} was sent to {}; nobody answers one", sent.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_magic_packet_goes_to_the_broadcast_of_each_of_the_machines_networks() {
        let nets =
            ["192.0.2.7/24", "198.51.100.9/28", "192.0.2.9/24", "203.0.113.1/32", "2001:db8::1/64", "169.254.1.1/16"];
        let nets: Vec<IpNet> = nets.iter().map(|net| net.parse().expect("an address")).collect();
        let texts: Vec<String> = broadcasts(&nets).iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["192.0.2.255", "198.51.100.15", "255.255.255.255"]);
    }

    #[test]
    fn a_magic_packet_has_six_bytes_of_ones_and_the_mac_sixteen_times() {
        let there = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let mac = Mac::from_bytes([2, 0, 0, 0, 0, 7]);
        let said = wake_at(&[mac], &[there.local_addr().expect("an address")]).expect("sent");
        assert!(said.contains("02:00:00:00:00:07") && said.contains("nobody answers"), "{said}");
        let mut bytes = [0; 200];
        let length = there.recv(&mut bytes).expect("it came");
        assert_eq!(bytes[..6], [0xff; 6]);
        assert_eq!(bytes[6..length], [2, 0, 0, 0, 0, 7].repeat(16));
        assert!(matches!(wake_at(&[], &[]), Err(Failure::Refused(_))));
    }
}
