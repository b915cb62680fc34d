//! Asks routers to advertise themselves now (RFC 4861, section 4.1).
//!
//! The kernel asks only when a link comes up; after `accept_ra` was switched on again it would wait for minutes.

use std::io;
use std::net::{Ipv6Addr, SocketAddrV6};

use rustix::net::sockopt::set_ipv6_multicast_hops;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, sendto, socket_with};

/// ff02::2.
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// Type 133, code 0; the kernel fills the checksum in.
const ROUTER_SOLICITATION: [u8; 8] = [133, 0, 0, 0, 0, 0, 0, 0];

/// Sends one router solicitation. The kernel itself hears the answer.
pub(super) fn routers(link: u32) -> io::Result<()> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::INET6, SocketType::RAW, flags, Some(ipproto::ICMPV6))?;
    // Routers ignore solicitations that may have passed another router.
    set_ipv6_multicast_hops(&socket, 255)?;
    let to = SocketAddrV6::new(ALL_ROUTERS, 0, 0, link);
    sendto(&socket, &ROUTER_SOLICITATION, SendFlags::empty(), &to)?;
    Ok(())
}
