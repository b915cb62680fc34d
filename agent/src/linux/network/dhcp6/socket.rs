//! The socket of a DHCPv6 client: UDP to everyone's servers on one link.
//!
//! Opened by `network::keeper` while an answer is awaited. All that is sent goes to ff02::1:2, as RFC 8415 has it; the
//! kernel takes the link-local address for source.

use std::io;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recvfrom, sendto, socket_with};

use super::message::Reply;
use crate::linux::network::sockopt::set_option;

const SERVER_PORT: u16 = 547;
const CLIENT_PORT: u16 = 546;
/// All_DHCP_Relay_Agents_and_Servers.
const SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
/// Larger than any Ethernet frame.
const LARGEST: usize = 2048;

/// A client's socket.
#[derive(Debug)]
pub struct Socket {
    socket: OwnedFd,
    link: u32,
}

impl Socket {
    /// Opens it on a link. Needs CAP_NET_RAW and CAP_NET_BIND_SERVICE.
    pub fn open(name: &str, link: u32) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::INET6, SocketType::DGRAM, flags, None)?;
        rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
        set_option(&socket, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, name.as_bytes())?;
        bind(&socket, &SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, CLIENT_PORT, 0, 0))?;
        Ok(Self { socket, link })
    }

    /// Sends a message to the servers on the link.
    pub fn send(&self, message: &[u8]) -> io::Result<()> {
        sendto(&self.socket, message, SendFlags::empty(), &SocketAddrV6::new(SERVERS, SERVER_PORT, 0, self.link))?;
        Ok(())
    }

    /// The next answer that waits and who sent it, skipping what is none; `None` once there is nothing more.
    pub fn receive(&self) -> Option<(Reply, Ipv6Addr)> {
        let mut buffer = [0; LARGEST];
        loop {
            let (len, from) = match recvfrom(&self.socket, &mut buffer[..], RecvFlags::empty()) {
                Ok((_, len, from)) => (len.min(LARGEST), from),
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) => return None,
            };
            let from = from.and_then(|from| SocketAddrV6::try_from(from).ok());
            if let (Some(reply), Some(from)) = (Reply::decode(&buffer[..len]), from) {
                return Some((reply, *from.ip()));
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
