//! A managed switch between virtual machines' NICs and taps in the calling thread's namespace, with faults at will.
//!
//! The host's kernel may have no VLANs, so the switch is made here: every frame belongs to one VLAN, tagged or not on the
//! machines' side as the port says, plain on the taps (IEEE 802.1Q-2018). It learns who is where, floods what is for nobody
//! known, and drops what a port does not carry.

pub mod frame;
mod tap;

use std::collections::HashMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use muster_protocol::VlanTag;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tempfile::TempDir;

use crate::namespace::ip;
use crate::qemu::Net;

/// How soon a dropped switch is noticed by its thread.
const STOP_CHECK: Duration = Duration::from_millis(100);

/// What a port for a machine's NIC carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// The VLAN of frames without a tag.
    pub untagged: VlanTag,
    /// The VLANs of frames with one.
    pub tagged: Vec<VlanTag>,
}

/// An end in the namespace.
#[derive(Debug, Clone)]
pub struct Tap {
    /// Name of the link.
    pub name: String,
    /// Whose frames it carries, plain.
    pub vlan: VlanTag,
    /// With their prefixes.
    pub addresses: Vec<String>,
}

/// What goes wrong in one VLAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// Where.
    pub vlan: VlanTag,
    /// What is lost.
    pub lost: Lost,
}

/// Which frames are lost, both ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// All of them.
    All,
    /// Those with packets of more bytes.
    LongerThan(usize),
    /// UDP to or from this port.
    Udp(u16),
}

/// A switch that has power; without, when dropped.
pub struct Switch {
    sockets: TempDir,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    faults: Mutex<Vec<Fault>>,
}

impl Switch {
    /// Makes the taps in this namespace, and the switch.
    pub fn start(ports: &[Port], taps: &[Tap]) -> Result<Self> {
        let sockets = tempfile::tempdir()?;
        let mut places = Vec::new();
        for (i, port) in ports.iter().enumerate() {
            let socket = UnixDatagram::bind(far(&sockets, i)).context("making a port's socket")?;
            socket.set_nonblocking(true)?;
            places.push(Place::Port { socket, near: near(&sockets, i), port: port.clone() });
        }
        for Tap { name, vlan, addresses } in taps {
            places.push(Place::Tap { device: tap::open(name)?, vlan: *vlan });
            for address in addresses {
                // `nodad`: nobody else is there, and a tentative address cannot be bound.
                let nodad: &[&str] = if address.contains(':') { &["nodad"] } else { &[] };
                ip(&[&["addr", "add", address, "dev", name], nodad].concat())?;
            }
            ip(&["link", "set", name, "up"])?;
        }
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        let thread = std::thread::spawn(move || Switching { places, learned: HashMap::new(), shared: theirs }.run());
        Ok(Self { sockets, shared, thread: Some(thread) })
    }

    /// What a machine's NIC is plugged into: the port of this number.
    pub fn net(&self, port: usize) -> Net {
        Net::Port { far: far(&self.sockets, port), near: near(&self.sockets, port) }
    }

    /// From now on these things go wrong, and no others.
    pub fn set_faults(&self, faults: &[Fault]) {
        *self.shared.faults.lock().unwrap_or_else(PoisonError::into_inner) = faults.to_vec();
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It cannot panic; if it did, the test has failed already.
            let _ = thread.join();
        }
    }
}

/// Where frames for a machine are sent from.
fn far(sockets: &TempDir, port: usize) -> PathBuf {
    sockets.path().join(format!("far-{port}"))
}

/// The machine's end.
fn near(sockets: &TempDir, port: usize) -> PathBuf {
    sockets.path().join(format!("near-{port}"))
}

/// Where frames come from and go to.
enum Place {
    Port { socket: UnixDatagram, near: PathBuf, port: Port },
    Tap { device: File, vlan: VlanTag },
}

impl Place {
    /// The next frame with its VLAN; `None` where there is none now. Frames of VLANs that are not carried are dropped.
    fn receive(&self, buffer: &mut [u8]) -> Option<(VlanTag, Vec<u8>)> {
        loop {
            match self {
                Self::Port { socket, port, .. } => {
                    let length = socket.recv(buffer).ok()?;
                    let (tag, plain) = frame::untag(&buffer[..length]);
                    match tag {
                        None => return Some((port.untagged, plain)),
                        Some(tag) if port.tagged.contains(&tag) => return Some((tag, plain)),
                        Some(_) => {}
                    }
                }
                Self::Tap { device, vlan } => match (&*device).read(buffer) {
                    Ok(length) => return Some((*vlan, buffer[..length].to_vec())),
                    Err(e) if e.kind() == ErrorKind::Interrupted => {}
                    Err(_) => return None,
                },
            }
        }
    }

    /// A frame that finds no taker is lost, as on any wire.
    fn send(&self, vlan: VlanTag, plain: &[u8]) {
        match self {
            Self::Port { socket, near, port } if port.untagged == vlan => drop(socket.send_to(plain, near)),
            Self::Port { socket, near, port } if port.tagged.contains(&vlan) => {
                drop(socket.send_to(&frame::tag(plain, Some(vlan)), near));
            }
            Self::Tap { device, vlan: of } if *of == vlan => drop((&*device).write(plain)),
            _ => {}
        }
    }
}

struct Switching {
    places: Vec<Place>,
    /// Who was heard where last.
    learned: HashMap<(VlanTag, frame::Address), usize>,
    shared: Arc<Shared>,
}

impl Switching {
    /// Moves frames until told to stop.
    fn run(mut self) {
        let mut buffer = vec![0; 65_536];
        let wait = Timespec { tv_sec: 0, tv_nsec: i64::from(STOP_CHECK.subsec_nanos()) };
        while !self.shared.stop.load(Ordering::Relaxed) {
            let mut watched: Vec<_> = (self.places.iter())
                .map(|place| match place {
                    Place::Port { socket, .. } => PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN),
                    Place::Tap { device, .. } => PollFd::from_borrowed_fd(device.as_fd(), PollFlags::IN),
                })
                .collect();
            if poll(&mut watched, Some(&wait)).is_err() {
                continue;
            }
            for from in 0..self.places.len() {
                while let Some((vlan, plain)) = self.places[from].receive(&mut buffer) {
                    self.forward(from, vlan, &plain);
                }
            }
        }
    }

    fn forward(&mut self, from: usize, vlan: VlanTag, plain: &[u8]) {
        let Some((to, sender)) = frame::addresses(plain) else { return };
        if frame::is_for_bridges(to) || self.is_lost(vlan, plain) {
            return;
        }
        if !frame::is_group(sender) {
            self.learned.insert((vlan, sender), from);
        }
        match self.learned.get(&(vlan, to)) {
            Some(&place) if place == from => {}
            Some(&place) => self.places[place].send(vlan, plain),
            None => {
                let others = self.places.iter().enumerate().filter(|(place, _)| *place != from);
                others.for_each(|(_, place)| place.send(vlan, plain));
            }
        }
    }

    fn is_lost(&self, vlan: VlanTag, plain: &[u8]) -> bool {
        let faults = self.shared.faults.lock().unwrap_or_else(PoisonError::into_inner);
        faults.iter().filter(|fault| fault.vlan == vlan).any(|fault| match fault.lost {
            Lost::All => true,
            Lost::LongerThan(most) => frame::packet_length(plain) > most,
            Lost::Udp(port) => frame::udp_ports(plain).is_some_and(|ports| ports.contains(&port)),
        })
    }
}
