//! Whether a NIC wakes the machine (linux/ethtool.h): what its driver says, and what it is told.

use std::io;
use std::os::fd::AsFd;

use muster_protocol::observed::WakeOnLan;
use rustix::io::Errno;

use crate::linux::network::sockopt::{WakeRequest, ethtool_wake};

/// `WAKE_MAGIC`: when it hears a magic packet.
const MAGIC: u32 = 1 << 5;

/// What a link does. Any socket of its namespace will do; without privilege, no driver answers.
pub fn read(socket: impl AsFd, link: &str) -> WakeOnLan {
    let mut request = WakeRequest::GET;
    match ethtool_wake(socket, link, &mut request) {
        Ok(()) if request.supported & MAGIC == 0 => WakeOnLan::Unable,
        Ok(()) if request.options & MAGIC == 0 => WakeOnLan::Off,
        Ok(()) => WakeOnLan::On,
        Err(_) => WakeOnLan::Unable,
    }
}

/// Turns it on or off; whatever else wakes the machine stays as it is.
///
/// Returns whether the link is able to do so: one that never wakes the machine can be off.
pub fn set(socket: impl AsFd, link: &str, on: bool) -> io::Result<bool> {
    let mut request = WakeRequest::GET;
    match ethtool_wake(&socket, link, &mut request) {
        Err(error) if is_unknown(&error) => return Ok(!on),
        result => result?,
    }
    if request.supported & MAGIC == 0 {
        return Ok(!on);
    }
    let options = if on { request.options | MAGIC } else { request.options & !MAGIC };
    if options == request.options {
        return Ok(true);
    }
    match ethtool_wake(&socket, link, &mut request.into_set(options)) {
        // Some say what their chips could, although the machine around them cannot be woken.
        Err(error) if is_unknown(&error) => Ok(!on),
        result => result.map(|()| true),
    }
}

fn is_unknown(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error())
}
