//! Taps: a switch's ends in the calling thread's namespace.

use std::fs::File;

use anyhow::{Context, Result};

/// `struct ifreq` as TUNSETIFF reads it: name and flags, 40 bytes in all.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// `_IOW('T', 202, int)`, linux/if_tun.h.
const TUNSETIFF: rustix::ioctl::Opcode = rustix::ioctl::opcode::write::<i32>(b'T', 202);

/// IFF_TAP and IFF_NO_PI, linux/if_tun.h.
const TAP_FLAGS: u16 = 0x0002 | 0x1000;

/// A tap that exists as long as its file is open.
#[allow(unsafe_code)]
pub fn open(name: &str) -> Result<File> {
    let device = File::options().read(true).write(true).open("/dev/net/tun").context("opening /dev/net/tun")?;
    let mut request = InterfaceRequest { name: [0; 16], flags: TAP_FLAGS, rest: [0; 22] };
    request.name.iter_mut().take(15).zip(name.bytes()).for_each(|(to, byte)| *to = byte);
    // SAFETY: the kernel reads an `ifreq` of 40 bytes for this opcode, which is what the type is.
    unsafe {
        let call = rustix::ioctl::Setter::<TUNSETIFF, InterfaceRequest>::new(request);
        rustix::ioctl::ioctl(&device, call).with_context(|| format!("making the tap {name}"))?;
    }
    rustix::io::ioctl_fionbio(&device, true)?;
    Ok(device)
}
