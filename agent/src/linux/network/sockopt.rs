//! Socket options, addresses and requests that rustix does not have.
//!
//! Used by `netlink`, `dhcp`, `dhcp6` and `wake`. All of the network's unsafe code is in this file, and in `ntp::clock`.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use muster_protocol::Mac;
use rustix::ioctl::{Opcode, Updater, ioctl};
use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};

/// setsockopt(2) with the option's bytes.
#[allow(unsafe_code)]
pub fn set_option(socket: impl AsFd, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the pointer is good for the given length, which the kernel does not exceed, and the descriptor is open.
    let result = unsafe { libc::setsockopt(fd, level, name, value.as_ptr().cast(), value.len() as libc::socklen_t) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Has a socket send by this link alone, and hear nothing by others (socket(7), SO_BINDTODEVICE).
pub fn bind_to_link(socket: impl AsFd, link: &str) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, link.as_bytes())
}

/// Has a socket's packets carry a mark that rules may ask for (socket(7), SO_MARK).
pub fn set_mark(socket: impl AsFd, mark: u32) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_MARK, &mark.to_ne_bytes())
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

/// `struct ethtool_wolinfo`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WakeRequest {
    command: u32,
    /// What could wake the machine, `WAKE_*`.
    pub supported: u32,
    /// What does.
    pub options: u32,
    /// Six bytes of a password in the magic packet, and two that align.
    password: [u8; 8],
}

impl WakeRequest {
    /// `ETHTOOL_GWOL`: asks.
    pub const GET: Self = Self { command: 5, supported: 0, options: 0, password: [0; 8] };

    /// `ETHTOOL_SWOL`: tells a driver what it answered, with other options.
    pub fn into_set(self, options: u32) -> Self {
        Self { command: 6, options, ..self }
    }
}

/// `struct ifreq` as SIOCETHTOOL has it: a name and a pointer, 40 bytes in all where pointers have eight.
#[repr(C)]
struct EthtoolRequest {
    name: [u8; 16],
    data: *mut WakeRequest,
    rest: [u64; 2],
}

/// Asks the driver of a link, or tells it (SIOCETHTOOL, linux/sockios.h). The answer is where the question was.
#[allow(unsafe_code)]
pub fn ethtool_wake(socket: impl AsFd, link: &str, request: &mut WakeRequest) -> io::Result<()> {
    const SIOCETHTOOL: Opcode = 0x8946;
    let mut name = [0; 16];
    name.iter_mut().take(15).zip(link.bytes()).for_each(|(to, byte)| *to = byte);
    let mut outer = EthtoolRequest { name, data: request, rest: [0; 2] };
    // SAFETY: the kernel reads an `ifreq` for this number, which `outer` is; of what its pointer leads to it reads the
    // command, and then reads or writes a whole `ethtool_wolinfo` for both commands that there can be. Both live on.
    unsafe { ioctl(socket, Updater::<SIOCETHTOOL, EthtoolRequest>::new(&mut outer))? };
    Ok(())
}
