//! Socket options and addresses that rustix does not have.
//!
//! Used by `netlink` and `dhcp`. All of the network's unsafe code is in this file.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use muster_protocol::Mac;
use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};

/// setsockopt(2) with the option's bytes.
#[allow(unsafe_code)]
pub fn set_option(socket: impl AsFd, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the pointer is good for the given length, which the kernel does not exceed, and the descriptor is open.
    let result = unsafe { libc::setsockopt(fd, level, name, value.as_ptr().cast(), value.len() as libc::socklen_t) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// One instruction of a classic socket filter, `struct sock_filter`.
pub type Instruction = libc::sock_filter;

/// Lets only those packets into a socket for which the filter (linux/filter.h) returns more than 0.
#[allow(unsafe_code)]
pub fn attach_filter(socket: impl AsFd, filter: &[Instruction]) -> io::Result<()> {
    // The kernel only reads it, whatever the pointer's type says.
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    let size = size_of_val(&program) as libc::socklen_t;
    let (level, name) = (libc::SOL_SOCKET, libc::SO_ATTACH_FILTER);
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: `program` and the filter it points to live until the call returns; the kernel copies both.
    let result = unsafe { libc::setsockopt(fd, level, name, (&raw const program).cast(), size) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A link-layer address for packet sockets, `struct sockaddr_ll` (packet(7)).
#[derive(Debug, Clone, Copy)]
pub struct LinkAddress {
    /// Ethernet type.
    pub protocol: u16,
    /// Interface index.
    pub link: u32,
    /// Whom to send to; ignored when binding.
    pub mac: Mac,
}

// SAFETY: the closure gets a whole `sockaddr_ll` that lives until it returns, and its length.
#[allow(unsafe_code)]
unsafe impl SocketAddrArg for LinkAddress {
    unsafe fn with_sockaddr<R>(&self, f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R) -> R {
        let mut sll_addr = [0; 8];
        sll_addr[..6].copy_from_slice(self.mac.as_bytes());
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: self.protocol.to_be(),
            sll_ifindex: self.link.cast_signed(),
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 6,
            sll_addr,
        };
        f((&raw const address).cast(), size_of_val(&address) as SocketAddrLen)
    }
}
