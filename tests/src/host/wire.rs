//! A wire between a virtual machine's NIC and taps in the calling thread's namespace, with a managed switch's port on it.
//!
//! The host's kernel may have no VLANs, so the port is made here: frames of each VLAN go to a tap of their own, tagged on
//! the machine's side and plain on the tap's (IEEE 802.1Q-2018, clause 9: tag protocol 0x8100, then priority and VLAN id).
//! Frames of a VLAN that no tap stands for are dropped, as a switch does.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use muster_protocol::VlanTag;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tempfile::TempDir;

use crate::namespace::ip;
use crate::qemu::Net;

/// Bytes of the two MAC addresses, before which nothing is inserted.
const ADDRESSES: usize = 12;

/// 802.1Q's tag protocol.
const TAG_PROTOCOL: [u8; 2] = [0x81, 0x00];

/// How soon a dropped wire is noticed by its thread.
const STOP_CHECK: Duration = Duration::from_millis(100);

/// What a tap carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carries {
    /// Frames without a tag.
    Untagged,
    /// Frames of this VLAN, plain on the tap.
    Vlan(VlanTag),
}

/// A wire that is plugged in; unplugged when dropped.
pub struct Wire {
    sockets: TempDir,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

struct Tap {
    device: File,
    carries: Carries,
}

impl Wire {
    /// Makes one tap in this namespace for each of `taps` (name, what it carries, its addresses), and a wire to them.
    pub fn plug(taps: &[(&str, Carries, &[&str])]) -> Result<Self> {
        let sockets = tempfile::tempdir()?;
        let socket = UnixDatagram::bind(sockets.path().join("far")).context("making the wire's socket")?;
        socket.set_nonblocking(true)?;
        let mut made = Vec::new();
        for &(name, carries, addresses) in taps {
            made.push(Tap { device: open_tap(name)?, carries });
            for address in addresses {
                // `nodad`: nobody else is there, and a tentative address cannot be bound.
                let nodad: &[&str] = if address.contains(':') { &["nodad"] } else { &[] };
                ip(&[&["addr", "add", address, "dev", name], nodad].concat())?;
            }
            ip(&["link", "set", name, "up"])?;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (near, stop) = (sockets.path().join("near"), stop.clone());
            std::thread::spawn(move || carry(&socket, &near, &made, &stop))
        };
        Ok(Self { sockets, stop, thread: Some(thread) })
    }

    /// What the machine's NIC is plugged into.
    pub fn net(&self) -> Net {
        Net::Wire { far: self.sockets.path().join("far"), near: self.sockets.path().join("near") }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It cannot panic; if it did, the test has failed already.
            let _ = thread.join();
        }
    }
}

/// Moves frames both ways until told to stop. A frame that finds no taker is lost, as on any wire.
fn carry(socket: &UnixDatagram, near: &Path, taps: &[Tap], stop: &AtomicBool) {
    let mut frame = vec![0; 65_536];
    let wait = Timespec { tv_sec: 0, tv_nsec: i64::from(STOP_CHECK.subsec_nanos()) };
    while !stop.load(Ordering::Relaxed) {
        let mut watched = vec![PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN)];
        watched.extend(taps.iter().map(|tap| PollFd::from_borrowed_fd(tap.device.as_fd(), PollFlags::IN)));
        if poll(&mut watched, Some(&wait)).is_err() {
            continue;
        }
        while let Ok(length) = socket.recv(&mut frame) {
            let (carries, plain) = untag(&frame[..length]);
            if let Some(tap) = taps.iter().find(|tap| tap.carries == carries) {
                let _ = (&tap.device).write(&plain);
            }
        }
        for tap in taps {
            loop {
                match (&tap.device).read(&mut frame) {
                    Ok(length) => drop(socket.send_to(&tag(&frame[..length], tap.carries), near)),
                    Err(e) if e.kind() == ErrorKind::Interrupted => {}
                    Err(_) => break,
                }
            }
        }
    }
}

/// What a frame from the machine belongs to, and the frame without its tag.
fn untag(frame: &[u8]) -> (Carries, Vec<u8>) {
    match frame.get(ADDRESSES..ADDRESSES + 4) {
        Some(&[a, b, high, low]) if [a, b] == TAG_PROTOCOL => {
            // Twelve bits; 0 is a priority tag, which belongs to no VLAN.
            let id = u16::from_be_bytes([high & 0x0f, low]);
            let carries = VlanTag::try_from(id).map_or(Carries::Untagged, Carries::Vlan);
            (carries, [&frame[..ADDRESSES], &frame[ADDRESSES + 4..]].concat())
        }
        _ => (Carries::Untagged, frame.to_vec()),
    }
}

/// A frame for the machine.
fn tag(frame: &[u8], carries: Carries) -> Vec<u8> {
    match carries {
        Carries::Vlan(id) if frame.len() >= ADDRESSES => {
            [&frame[..ADDRESSES], &TAG_PROTOCOL, &id.get().to_be_bytes(), &frame[ADDRESSES..]].concat()
        }
        _ => frame.to_vec(),
    }
}

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
fn open_tap(name: &str) -> Result<File> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tagged_frame_comes_back_as_it_was() -> Result<()> {
        let carries = Carries::Vlan(VlanTag::try_from(42)?);
        let frame: Vec<u8> = (0..64).collect();
        let tagged = tag(&frame, carries);
        assert_eq!(tagged[12..16], [0x81, 0x00, 0, 42]);
        assert_eq!(untag(&tagged), (carries, frame.clone()));
        assert_eq!(untag(&frame), (Carries::Untagged, frame));
        Ok(())
    }
}
