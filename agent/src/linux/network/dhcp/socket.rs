//! The sockets of a DHCPv4 client: raw packets while the link has no address, UDP while it has.
//!
//! Opened by `network::keeper` as the client's state asks. Raw, because UDP would choose some other link's address as
//! source, and would drop answers that servers send to the address which the link is only about to get.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use muster_protocol::Mac;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, sendto, socket_with};

use super::client::Listening;
use super::message::Reply;
use crate::linux::network::sockopt::{Instruction, LinkAddress, attach_filter, set_option};

const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;
const ETHERTYPE_IPV4: u16 = 0x0800;
const UDP: u8 = 17;
const IP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
/// Larger than any Ethernet frame that a server may send: option 57 asks for less.
const LARGEST: usize = 2048;

/// A client's socket.
#[derive(Debug)]
pub struct Socket {
    socket: OwnedFd,
    link: u32,
    listening: Listening,
}

impl Socket {
    /// Opens what `listening` needs on a link. Needs CAP_NET_RAW.
    pub fn open(name: &str, link: u32, listening: Listening) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = match listening {
            Listening::At(address) => {
                let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)?;
                set_option(&socket, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, name.as_bytes())?;
                bind(&socket, &SocketAddrV4::new(address, CLIENT_PORT))?;
                socket
            }
            Listening::Raw | Listening::Nowhere => {
                // Bound to no protocol at first: nothing comes in before the filter is there.
                let socket = socket_with(AddressFamily::PACKET, SocketType::DGRAM, flags, None)?;
                attach_filter(&socket, &FILTER)?;
                bind(&socket, &LinkAddress { protocol: ETHERTYPE_IPV4, link, mac: BROADCAST })?;
                socket
            }
        };
        Ok(Self { socket, link, listening })
    }

    /// What it was opened for.
    pub fn listening(&self) -> Listening {
        self.listening
    }

    /// Sends a message to everyone on the link. Raw sockets only.
    pub fn broadcast(&self, message: &[u8]) -> io::Result<()> {
        let to = LinkAddress { protocol: ETHERTYPE_IPV4, link: self.link, mac: BROADCAST };
        sendto(&self.socket, &packet(message), SendFlags::empty(), &to)?;
        Ok(())
    }

    /// Sends a message to a server. UDP sockets only.
    pub fn unicast(&self, to: Ipv4Addr, message: &[u8]) -> io::Result<()> {
        sendto(&self.socket, message, SendFlags::empty(), &SocketAddrV4::new(to, SERVER_PORT))?;
        Ok(())
    }

    /// The next answer that waits, skipping what is none; `None` once there is nothing more.
    pub fn receive(&self) -> Option<Reply> {
        let mut buffer = [0; LARGEST];
        loop {
            let len = match recv(&self.socket, &mut buffer[..], RecvFlags::empty()) {
                Ok((_, len)) => len.min(LARGEST),
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) => return None,
            };
            let message = match self.listening {
                Listening::At(_) => Some(&buffer[..len]),
                Listening::Raw | Listening::Nowhere => payload(&buffer[..len]),
            };
            if let Some(reply) = message.and_then(Reply::decode) {
                return Some(reply);
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

const BROADCAST: Mac = Mac::from_bytes([0xff; 6]);

/// Lets through UDP for the client's port that is no later fragment; on a packet socket without link header, the packet
/// begins with the IP header. Spares the agent from waking up for each packet of a busy link.
const FILTER: [Instruction; 9] = {
    // linux/bpf_common.h: LD|B|ABS, LD|H|ABS, LDX|B|MSH (the IP header's length), LD|H|IND, JMP|JEQ|K, JMP|JSET|K, RET|K.
    const fn op(code: u16, jt: u8, jf: u8, k: u32) -> Instruction {
        Instruction { code, jt, jf, k }
    }
    [
        op(0x30, 0, 0, 9),
        op(0x15, 0, 5, UDP as u32),
        op(0x28, 0, 0, 6),
        op(0x45, 3, 0, 0x1fff),
        op(0xb1, 0, 0, 0),
        op(0x48, 0, 0, 2),
        op(0x15, 1, 0, CLIENT_PORT as u32),
        op(0x06, 0, 0, 0),
        op(0x06, 0, 0, u32::MAX),
    ]
};

/// IP and UDP headers in front of a message to everyone (RFC 791, RFC 768).
fn packet(message: &[u8]) -> Vec<u8> {
    // DHCP messages are some hundred bytes.
    let udp_len = (UDP_HEADER + message.len()) as u16;
    let mut bytes = vec![0; IP_HEADER + UDP_HEADER];
    bytes[0] = 0x45;
    bytes[2..4].copy_from_slice(&(udp_len + IP_HEADER as u16).to_be_bytes());
    bytes[8] = 64;
    bytes[9] = UDP;
    bytes[16..20].copy_from_slice(&[0xff; 4]);
    let sum = checksum(&bytes[..IP_HEADER], 0);
    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    bytes[20..22].copy_from_slice(&CLIENT_PORT.to_be_bytes());
    bytes[22..24].copy_from_slice(&SERVER_PORT.to_be_bytes());
    bytes[24..26].copy_from_slice(&udp_len.to_be_bytes());
    bytes.extend_from_slice(message);
    // The pseudo header: both addresses, which are zeros and ones here, protocol, length.
    let pseudo = 0xffff + 0xffff + u32::from(UDP) + u32::from(udp_len);
    let sum = checksum(&bytes[IP_HEADER..], pseudo);
    // 0 would say "no checksum".
    bytes[26..28].copy_from_slice(&(if sum == 0 { 0xffff } else { sum }).to_be_bytes());
    bytes
}

/// The UDP payload of a packet from a DHCP server to a client; `None` for anything else.
///
/// The UDP checksum is not looked at: from a server on the same host it is not computed yet (offloading), and everything
/// a reply is believed for is checked anyway.
fn payload(packet: &[u8]) -> Option<&[u8]> {
    let version_and_length = *packet.first()?;
    let header = usize::from(version_and_length & 0xf) * 4;
    let total = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
    let ip = packet.get(..header.max(IP_HEADER))?;
    let fragment = u16::from_be_bytes([ip[6], ip[7]]) & 0x3fff;
    if version_and_length >> 4 != 4 || header < IP_HEADER || fragment != 0 || ip[9] != UDP || checksum(ip, 0) != 0 {
        return None;
    }
    let udp = packet.get(header..total)?;
    let field = |at: usize| Some(u16::from_be_bytes([*udp.get(at)?, *udp.get(at + 1)?]));
    if field(0)? != SERVER_PORT || field(2)? != CLIENT_PORT {
        return None;
    }
    udp.get(UDP_HEADER..usize::from(field(4)?))
}

/// The Internet checksum (RFC 1071); 0 over what carries a right one.
fn checksum(bytes: &[u8], start: u32) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
    let mut sum = start + bytes.chunks(2).map(word).sum::<u32>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The filter, as the kernel would run it.
    fn filtered(packet: &[u8]) -> bool {
        let byte = |at: usize| packet.get(at).copied().map(u32::from);
        let half = |at: usize| Some(byte(at)? << 8 | byte(at + 1)?);
        let (mut a, mut x, mut pc) = (0_u32, 0_u32, 0);
        loop {
            let Instruction { code, jt, jf, k } = FILTER[pc];
            pc += 1;
            let taken = |yes| usize::from(if yes { jt } else { jf });
            let loaded = match code {
                0x30 => byte(k as usize),
                0x28 => half(k as usize),
                0x48 => half(x as usize + k as usize),
                0xb1 => byte(k as usize).map(|b| (b & 0xf) * 4),
                0x15 => {
                    pc += taken(a == k);
                    continue;
                }
                0x45 => {
                    pc += taken(a & k != 0);
                    continue;
                }
                _ => return k > 0,
            };
            // A load beyond the end refuses the packet.
            let Some(value) = loaded else { return false };
            if code == 0xb1 { x = value } else { a = value }
        }
    }

    /// What a server sends: the ports of what the client sends, exchanged.
    fn from_server(message: &[u8]) -> Vec<u8> {
        let mut bytes = packet(message);
        bytes[20..24].copy_from_slice(&[0, 67, 0, 68]);
        bytes
    }

    #[test]
    fn a_packet_carries_its_checksums() {
        let bytes = packet(b"hello");
        assert_eq!(bytes.len(), 33);
        assert_eq!(checksum(&bytes[..20], 0), 0);
        assert_eq!(checksum(&bytes[20..], 0xffff + 0xffff + 17 + 13), 0);
        assert_eq!(payload(&bytes), None, "it goes to the server");
        assert_eq!(payload(&from_server(b"hello")), Some(&b"hello"[..]));
    }

    #[test]
    fn what_is_no_answer_is_not_read() {
        let good = from_server(b"hello");
        assert!(filtered(&good));
        for (at, value) in [(0, 0x65), (0, 0x44), (9, 6), (6, 0x20), (7, 1), (23, 67), (12, 1), (3, 200), (25, 200)] {
            let mut bad = good.clone();
            bad[at] = value;
            assert_eq!(payload(&bad), None, "byte {at}");
        }
        for (at, value, why) in [(9, 6, "TCP"), (7, 1, "a later fragment"), (23, 67, "another port")] {
            let mut bad = good.clone();
            bad[at] = value;
            assert!(!filtered(&bad), "{why}");
        }
    }

    proptest! {
        #[test]
        fn any_packet_is_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..100), ip in any::<bool>()) {
            let mut bytes = bytes;
            if let (true, Some(first)) = (ip, bytes.first_mut()) {
                *first = 0x45;
            }
            payload(&bytes);
        }
    }
}
