//! Whether the static addresses of a link are nobody else's: the kernel finds out for IPv6 (RFC 4862), ARP for IPv4.
//!
//! Three questions with no sender's address, and an answer from a MAC that is none of this machine's (RFC 5227, section
//! 2.1, in a second instead of seven: a document that is applied waits for it).

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use muster_protocol::Mac;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, sendto, socket_with};

use super::sockopt::LinkAddress;

const ETHERTYPE_ARP: u16 = 0x0806;
const BROADCAST: Mac = Mac::from_bytes([0xff; 6]);
/// How often each address is asked for.
const PROBES: u32 = 3;
/// Between two questions, and after the last.
const PAUSE: Duration = Duration::from_millis(400);
/// Hardware is Ethernet, protocol is IPv4, of 6 and 4 bytes (RFC 826).
const HEAD: [u8; 6] = [0, 1, 8, 0, 6, 4];
const REQUEST: u16 = 1;
/// Bytes of an ARP packet for these.
const LENGTH: usize = 28;

/// The sockets and addresses of one search.
pub(super) struct Search<'a> {
    /// Where: interface index.
    pub link: u32,
    /// The MAC that is asked from.
    pub mac: Mac,
    /// All MACs of this machine: another NIC of it may be on the same network, and answer.
    pub own: &'a [Mac],
    /// What is asked for.
    pub addresses: &'a [Ipv4Addr],
}

impl Search<'_> {
    /// Finds somebody else who has one of the addresses; tells everybody whose they are where there is nobody.
    /// Takes a bit more than a second, and no time where there is nothing to search for.
    pub(super) fn run(&self) -> io::Result<Option<(Ipv4Addr, Mac)>> {
        if self.addresses.is_empty() {
            return Ok(None);
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::PACKET, SocketType::DGRAM, flags, None)?;
        bind(&socket, &self.to_all())?;
        for _ in 0..PROBES {
            self.send(&socket, |_| Ipv4Addr::UNSPECIFIED);
            if let Some(found) = self.listen(&socket, Instant::now() + PAUSE) {
                return Ok(Some(found));
            }
        }
        self.send(&socket, |address| address);
        Ok(None)
    }

    fn to_all(&self) -> LinkAddress {
        LinkAddress { protocol: ETHERTYPE_ARP, link: self.link, mac: BROADCAST }
    }

    /// A packet that cannot be sent is one that got lost.
    fn send(&self, socket: &OwnedFd, sender: impl Fn(Ipv4Addr) -> Ipv4Addr) {
        for &address in self.addresses {
            let _ = sendto(socket, &question(self.mac, sender(address), address), SendFlags::empty(), &self.to_all());
        }
    }

    fn listen(&self, socket: &OwnedFd, until: Instant) -> Option<(Ipv4Addr, Mac)> {
        loop {
            let mut packet = [0; LENGTH];
            while let Ok((_, length)) = recv(socket, &mut packet[..], RecvFlags::empty()) {
                if let Some(found) = self.conflict(packet.get(..length)?) {
                    return Some(found);
                }
            }
            let left = until.checked_duration_since(Instant::now())?;
            let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            let _ = poll(&mut [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN)], Some(&left));
        }
    }

    /// Somebody else who says that he has one of the addresses, or who is about to find out whether he may.
    fn conflict(&self, packet: &[u8]) -> Option<(Ipv4Addr, Mac)> {
        let (mac, sender, asked) = read(packet)?;
        let claimed = if sender.is_unspecified() { asked } else { sender };
        (self.addresses.contains(&claimed) && !self.own.contains(&mac)).then_some((claimed, mac))
    }
}

fn question(mac: Mac, sender: Ipv4Addr, asked: Ipv4Addr) -> Vec<u8> {
    [&HEAD[..], &REQUEST.to_be_bytes(), mac.as_bytes(), &sender.octets(), &[0; 6], &asked.octets()].concat()
}

/// The sender's MAC and address, and the address that the packet is about.
fn read(packet: &[u8]) -> Option<(Mac, Ipv4Addr, Ipv4Addr)> {
    let packet: &[u8; LENGTH] = packet.first_chunk()?;
    let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
    let mac = Mac::from_bytes(packet[8..14].try_into().ok()?);
    packet.starts_with(&HEAD).then_some((mac, address(14)?, address(24)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Mac = Mac::from_bytes([2, 0, 0, 0, 0, 5]);
    const OTHER_OF_OURS: Mac = Mac::from_bytes([2, 0, 0, 0, 0, 6]);
    const THEIRS: Mac = Mac::from_bytes([2, 0, 0, 0, 0, 7]);
    const WANTED: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
    const ANOTHER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 8);

    fn found(mac: Mac, sender: Ipv4Addr, asked: Ipv4Addr) -> Option<(Ipv4Addr, Mac)> {
        let search = Search { link: 2, mac: OURS, own: &[OURS, OTHER_OF_OURS], addresses: &[WANTED] };
        search.conflict(&question(mac, sender, asked))
    }

    #[test]
    fn whoever_says_that_the_address_is_his_is_found() {
        assert_eq!(found(THEIRS, WANTED, ANOTHER), Some((WANTED, THEIRS)));
        assert_eq!(found(THEIRS, Ipv4Addr::UNSPECIFIED, WANTED), Some((WANTED, THEIRS)), "he is about to take it");
    }

    #[test]
    fn whoever_only_asks_for_it_or_is_this_machine_has_it_not() {
        assert_eq!(found(THEIRS, ANOTHER, WANTED), None);
        assert_eq!(found(THEIRS, Ipv4Addr::UNSPECIFIED, ANOTHER), None);
        assert_eq!(found(OURS, WANTED, WANTED), None);
        assert_eq!(found(OTHER_OF_OURS, WANTED, WANTED), None, "by another NIC on the same network");
    }

    #[test]
    fn what_is_no_arp_for_ethernet_and_ipv4_is_nothing() {
        let good = question(THEIRS, WANTED, WANTED);
        assert!(read(&good).is_some());
        for length in 0..LENGTH {
            assert_eq!(read(&good[..length]), None, "{length} bytes");
        }
        for at in 0..HEAD.len() {
            let mut wrong = good.clone();
            wrong[at] ^= 1;
            assert_eq!(read(&wrong), None, "byte {at}");
        }
    }
}
