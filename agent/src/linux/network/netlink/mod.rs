//! Route netlink, as much of it as is needed (rtnetlink(7)): one socket, one question at a time.
//!
//! Used by `network` and by the DHCP client. Our own codec, because the size of the agent counts: the rtnetlink crate
//! adds 717 kB to the binary, this a few tens.
//! Nothing here knows what is desired.

pub mod address;
pub mod bond;
pub mod bridge;
pub mod link;
pub mod neighbor;
pub mod route;
pub mod rule;
pub mod wire;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with};

use super::sockopt::set_option;
use wire::{Request, attribute, messages, text, u32_at};

/// `NLMSG_ERROR`: failure, or success where its number is 0.
const ERROR: u16 = 2;
/// `NLMSG_DONE`: a dump's end.
const DONE: u16 = 3;
/// The kernel packs a dump's answers into at most this many bytes at a time.
const DATAGRAM: usize = 32 * 1024;
/// How often a dump that was disturbed by changes is asked for again before it is taken as it is.
const DUMP_TRIES: usize = 8;

const SOL_NETLINK: i32 = 270;
const NETLINK_CAP_ACK: i32 = 10;
const NETLINK_EXT_ACK: i32 = 11;
const NETLINK_GET_STRICT_CHK: i32 = 12;

/// Why the kernel did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// It refused.
    #[error("{}", refusal(code, reason))]
    Refused {
        /// As in errno(3).
        code: rustix::io::Errno,
        /// In the kernel's words, often empty.
        reason: String,
    },
    /// The socket failed, or no answer came.
    #[error("the netlink socket failed")]
    Socket(#[from] io::Error),
    /// The answer makes no sense.
    #[error("the kernel's answer is malformed")]
    Malformed,
}

fn refusal(code: &rustix::io::Errno, reason: &str) -> String {
    let what = io::Error::from(*code);
    if reason.is_empty() { what.to_string() } else { format!("{what}: {reason}") }
}

impl From<rustix::io::Errno> for NetlinkError {
    fn from(code: rustix::io::Errno) -> Self {
        Self::Socket(code.into())
    }
}

impl NetlinkError {
    /// Whether the kernel refused for this reason.
    pub fn is(&self, errno: rustix::io::Errno) -> bool {
        matches!(self, Self::Refused { code, .. } if *code == errno)
    }

    /// As an error of the standard library, with the text kept.
    pub fn into_io(self) -> io::Error {
        match self {
            Self::Refused { code, reason } if reason.is_empty() => code.into(),
            Self::Refused { code, .. } => io::Error::new(io::Error::from(code).kind(), self),
            Self::Socket(error) => error,
            Self::Malformed => io::Error::new(io::ErrorKind::InvalidData, self),
        }
    }
}

/// A socket for questions and answers.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace. Needs no privilege; changing things does.
    pub fn open() -> io::Result<Self> {
        let socket = open_socket(SocketFlags::CLOEXEC, 0)?;
        // The kernel answers at once or not at all; five seconds are for a machine that swaps.
        set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_secs(5)))?;
        // Older kernels know none of these: then reasons are missing, and dumps tell more than was asked for.
        for option in [NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK] {
            let _ = set_option(&socket, SOL_NETLINK, option, &1_i32.to_ne_bytes());
        }
        Ok(Self { socket, sequence: 0, buffer: vec![0; DATAGRAM] })
    }

    /// Sends a request and waits for the kernel's yes or no.
    pub fn request(&mut self, request: Request) -> Result<(), NetlinkError> {
        self.ask(request, &mut |_, _| {}).map(|_| ())
    }

    /// Asks for all of a kind and hands each answer's body to `each`.
    pub fn dump<T>(
        &mut self,
        request: &Request,
        kind: u16,
        decode: impl Fn(&[u8]) -> T,
    ) -> Result<Vec<T>, NetlinkError> {
        let mut tries = 0;
        loop {
            let mut all = Vec::new();
            let is_whole = self.ask(request.clone(), &mut |k, body| {
                if k == kind {
                    all.push(decode(body));
                }
            })?;
            tries += 1;
            if is_whole || tries == DUMP_TRIES {
                return Ok(all);
            }
        }
    }

    /// Sends, then reads up to the end of the answer. Returns whether the answer was not disturbed by changes.
    fn ask(&mut self, request: Request, each: &mut dyn FnMut(u16, &[u8])) -> Result<bool, NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = request.finish(self.sequence);
        send(&self.socket, &bytes, SendFlags::empty())?;
        let mut is_whole = true;
        loop {
            // TRUNC makes the kernel tell how long the datagram really was.
            let (_, len) = match recv(&self.socket, &mut self.buffer[..], RecvFlags::TRUNC) {
                Err(rustix::io::Errno::INTR) => continue,
                answer => answer?,
            };
            let datagram = self.buffer.get(..len).ok_or(NetlinkError::Malformed)?;
            for message in messages(datagram).filter(|message| message.sequence == self.sequence) {
                is_whole &= message.flags & wire::DUMP_INTERRUPTED == 0;
                match message.kind {
                    ERROR | DONE => return verdict(message.kind, message.body).map(|()| is_whole),
                    kind => each(kind, message.body),
                }
            }
        }
    }
}

/// Reads how a request ended: a negative errno, then the request's header, then attributes (linux/netlink.h).
fn verdict(kind: u16, body: &[u8]) -> Result<(), NetlinkError> {
    const ATTRIBUTES_OF_ERROR: usize = 4 + 16;
    const NLMSGERR_ATTR_MSG: u16 = 1;
    let code = u32_at(body, 0).ok_or(NetlinkError::Malformed)?.cast_signed();
    if code == 0 {
        return Ok(());
    }
    let attributes = body.get(if kind == DONE { 4 } else { ATTRIBUTES_OF_ERROR }..).unwrap_or_default();
    let reason = attribute(attributes, NLMSGERR_ATTR_MSG).map(text).unwrap_or_default();
    // The range in which the kernel's error numbers are (linux/err.h); rustix panics outside of it.
    let errno = Some(code).filter(|code| (-4095..0).contains(code)).ok_or(NetlinkError::Malformed)?;
    Err(NetlinkError::Refused { code: rustix::io::Errno::from_raw_os_error(-errno), reason })
}

fn open_socket(flags: SocketFlags, groups: u32) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}

/// A socket that hears of what changes.
#[derive(Debug)]
pub struct Watch {
    socket: OwnedFd,
}

/// `RTMGRP_*` of linux/rtnetlink.h; IPv6's rules have group 19 and no name there.
const OF_LINKS: u32 = 1;
const OF_ADDRESSES: u32 = 0x10 | 0x100;
const OF_ROUTES: u32 = 0x40 | 0x400;
const OF_RULES: u32 = 0x80 | 1 << 18;

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Watch {
    /// Listens for links that come, change and go in the calling thread's network namespace.
    pub fn links() -> io::Result<Self> {
        Self::open(OF_LINKS)
    }

    /// Listens for links, addresses, routes and rules. Neighbors are left out: the kernel speaks of each that ages.
    pub fn everything() -> io::Result<Self> {
        Self::open(OF_LINKS | OF_ADDRESSES | OF_ROUTES | OF_RULES)
    }

    fn open(groups: u32) -> io::Result<Self> {
        Ok(Self { socket: open_socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, groups)? })
    }

    /// Empties the socket. Returns whether anything was heard, or lost: then look at everything.
    pub fn heard(&self) -> bool {
        let mut heard = false;
        let mut byte = [0; 1];
        loop {
            match recv(&self.socket, &mut byte[..], RecvFlags::TRUNC) {
                Ok(_) | Err(rustix::io::Errno::NOBUFS) => heard = true,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return heard,
            }
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
