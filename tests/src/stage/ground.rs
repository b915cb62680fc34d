//! A test ground for networks that are pushed: seats with a machine of three NICs each, a switch with three ports, networks
//! that are each seat's own, and one controller behind the router of all of them.
//!
//! ```text
//!  seat N      ┌ port 1: untagged VLAN 1, tagged 42 and 66      VLAN V is 10.N.V.0/24, router .1
//!  machine ────┼ port 2: untagged VLAN 2, tagged 42, 43, 66     DHCP in 1, 2 and 42
//!  of 3 NICs   └ port 3: untagged VLAN 3, nobody there          VLAN 66 is fd00:N:66::/64, router ::1, advertised; no IPv4
//!  controller: 10.99.0.1 and fd99::1, behind the routers
//!  10.N.1.66 and 10.N.42.66 are somebody else's
//! ```

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use muster_protocol::VlanTag;
use serde_json::{Value, json};

use crate::child::Process;
use crate::lab::{self, BOOT, Lab, SOON, text};
use crate::namespace::ip;
use crate::qemu::{Boot, Firmware, Machine, Nic, Place, Spec};
use crate::slot::Slot;
use crate::switch::{Port, Switch, Tap};
use crate::{artifacts, eventually, namespace, scratch, site};

/// Where machines dial.
pub const CONTROLLERS: [&str; 2] = ["10.99.0.1:8443", "[fd99::1]:8443"];

/// VLAN and whether there is DHCP, of those with IPv4.
const NETWORKS: [(u16, bool); 4] = [(1, true), (2, true), (42, true), (43, false)];

/// The one with IPv6 alone.
const SIX: u16 = 66;

/// VLANs in which somebody else has address .66.
const TAKEN: [u16; 2] = [1, 42];

/// See the module.
pub struct Ground {
    /// The controller among other things.
    pub lab: Lab,
    /// Taken one by one by whoever pushes.
    pub seats: Vec<Seat>,
    _dhcp: Process,
}

/// A machine at its switch.
pub struct Seat {
    /// N in its addresses.
    pub number: usize,
    /// What its NICs are plugged into.
    pub switch: Switch,
    /// The machine's id at the controller.
    pub id: String,
    spec: Spec,
    folder: PathBuf,
    machine: Option<Machine>,
}

impl Ground {
    /// Builds it in a namespace of its own for the calling thread, and waits until every machine is available.
    pub fn open(name: &str, seats: usize) -> Result<Self> {
        let slot = Slot::take()?;
        namespace::enter()?;
        let folder = scratch::scratch(name)?;
        for (address, flags) in [("10.99.0.1/32", &[][..]), ("fd99::1/128", &["nodad"])] {
            ip(&[&["addr", "add", address, "dev", "lo"], flags].concat())?;
        }
        // As a router: on each link it knows and tells the addresses of that link only, and says to neighbors what it is
        // (RFC 4861, section 7.2.5: who says that it is none is no default router any more).
        for (name, value) in
            [("4/conf/all/arp_ignore", "1"), ("4/conf/all/arp_announce", "2"), ("6/conf/all/forwarding", "1")]
        {
            std::fs::write(format!("/proc/sys/net/ipv{name}"), value)?;
        }
        let seats = (1..=seats).map(|number| Seat::build(number, &folder)).collect::<Result<Vec<_>>>()?;
        let dhcp = serve_dhcp(&seats, &folder)?;
        let lab = Lab::open_here(&folder, &CONTROLLERS, slot)?;
        let mut ground = Self { lab, seats, _dhcp: dhcp };
        for seat in &mut ground.seats {
            seat.switch_on(&ground.lab)?;
        }
        for seat in &mut ground.seats {
            seat.admit(&ground.lab)?;
        }
        Ok(ground)
    }
}

impl Seat {
    fn build(number: usize, folder: &Path) -> Result<Self> {
        let vlan = |tag: u16| VlanTag::try_from(tag).context("a tag");
        let mut taps = Vec::new();
        for (tag, _) in NETWORKS {
            let mut addresses = vec![format!("10.{number}.{tag}.1/24")];
            addresses.extend(TAKEN.contains(&tag).then(|| format!("10.{number}.{tag}.66/24")));
            taps.push(Tap { name: tap(number, tag), vlan: vlan(tag)?, addresses });
        }
        let addresses = vec![format!("fd00:{number}:{SIX}::1/64")];
        taps.push(Tap { name: tap(number, SIX), vlan: vlan(SIX)?, addresses });
        let port = |untagged, tagged: &[u16]| -> Result<Port> {
            Ok(Port { untagged: vlan(untagged)?, tagged: tagged.iter().map(|&tag| vlan(tag)).collect::<Result<_>>()? })
        };
        let switch = Switch::start(&[port(1, &[42, SIX])?, port(2, &[42, 43, SIX])?, port(3, &[])?], &taps)?;

        let mut spec = lab::machine(Firmware::Bios, Boot::Network)?;
        spec.uuid = format!("4c4c4544-0042-3510-8052-b4c04f4e{number:04}");
        (spec.serial, spec.board_serial) = (format!("LAB-{number:04}"), format!("LAB-BOARD-{number:04}"));
        (spec.memory_mib, spec.disks) = (256, vec![]);
        spec.nics = Vec::new();
        for (port, model) in ["virtio-net-pci", "e1000e", "virtio-net-pci"].into_iter().enumerate() {
            let mac = mac(number, port + 1).parse()?;
            let place = if port == 1 { Place::Slot } else { Place::Board };
            spec.nics.push(Nic { mac, model, net: switch.net(port), place });
        }
        let folder = folder.join(format!("machine-{number}"));
        Ok(Self { number, switch, id: String::new(), spec, folder, machine: None })
    }

    /// The machine starts, with a boot script of now. The calling thread must outlive it.
    pub fn switch_on(&mut self, lab: &Lab) -> Result<()> {
        let kernel = artifacts::image()?.join("kernel");
        let cmdline = format!("{} sysrq_always_enabled=1", lab.command_line(&self.spec)?);
        let initramfs = lab.initramfs(&cmdline, &self.folder)?;
        self.spec.boot = Boot::Kernel { kernel, initramfs, cmdline };
        self.machine = Some(Machine::start(&self.spec, &self.folder)?);
        Ok(())
    }

    /// The power fails.
    pub fn cut_power(&mut self) {
        self.machine = None;
    }

    /// The machine, while it has power.
    pub fn machine(&self) -> Result<&Machine> {
        self.machine.as_ref().context("it has power")
    }

    /// Whether the cable of this port, counted from one, is in.
    pub fn plug(&self, port: usize, is_in: bool) -> Result<()> {
        self.machine()?.plug(port - 1, is_in)
    }

    /// Pulls the NIC of this port, counted from one, out of its slot. Only the second is in one.
    pub fn pull_out(&self, port: usize) -> Result<()> {
        self.machine()?.pull_out(port - 1)
    }

    /// Puts it in again.
    pub fn put_in(&self, port: usize) -> Result<()> {
        self.machine()?.put_in(port - 1, &self.spec.nics[port - 1])
    }

    fn admit(&mut self, lab: &Lab) -> Result<()> {
        let pending = eventually(BOOT, &format!("machine {} waits for approval", self.number), || {
            let list = lab.controller.api()?.get("/api/v1/machines")?;
            let all = list["items"].as_array().into_iter().flatten();
            let mut mine = all.filter(|machine| machine["uuid"] == self.spec.uuid.as_str());
            let machine = mine.next().with_context(|| format!("it is not among {list}"))?;
            ensure!(machine["presence"]["state"] == "online", "{machine}");
            Ok(machine.clone())
        })?;
        self.id = text(&pending, "/id")?.to_owned();
        lab.controller.muster(&["machine", "approve", &self.id])?;
        eventually(SOON, "it is welcomed anew", || {
            let machine = self.state(lab)?;
            ensure!(machine["lifecycle"] == "available" && lab::is_welcomed_anew(&machine, &pending), "{machine}");
            Ok(())
        })
    }

    /// What the controller knows of the machine.
    pub fn state(&self, lab: &Lab) -> Result<Value> {
        lab.controller.api()?.get(&format!("/api/v1/machines/{}", self.id))
    }

    /// What the machine's kernel says of its network, in comparable form.
    ///
    /// Errors: the machine does not answer.
    pub fn observed(&self, lab: &Lab) -> Result<Value> {
        let mut observed = lab.controller.api()?.get(&format!("/api/v1/machines/{}/observed", self.id))?;
        let mut routes: Vec<_> = observed["routes"].as_array_mut().map(std::mem::take).unwrap_or_default();
        routes.sort_by_key(ToString::to_string);
        let mut links: Vec<_> = observed["links"].as_array_mut().map(std::mem::take).unwrap_or_default();
        links.sort_by_key(ToString::to_string);
        Ok(
            json!({ "links": links, "routes": routes, "nameservers": observed["nameservers"], "search": observed["search"] }),
        )
    }

    /// Asks for a document, and answers the operation.
    pub fn push(&self, lab: &Lab, document: &str) -> Result<Value> {
        let path = format!("/api/v1/machines/{}/apply", self.id);
        lab.controller.api()?.post(&path, &json!({ "document": document })).with_context(|| document.to_owned())
    }

    /// Fills in the seat's number where addresses have an N: `10.N.`, `fd00:N:`.
    pub fn fill(&self, text: &str) -> String {
        text.replace("10.N.", &format!("10.{}.", self.number)).replace("fd00:N:", &format!("fd00:{}:", self.number))
    }

    /// The MAC of the NIC at this port, counted from one.
    pub fn mac(&self, port: usize) -> String {
        mac(self.number, port)
    }
}

fn mac(number: usize, port: usize) -> String {
    format!("52:54:00:4c:{number:02x}:{port:02x}")
}

fn tap(number: usize, tag: u16) -> String {
    format!("s{number}v{tag}")
}

/// One server for all seats.
fn serve_dhcp(seats: &[Seat], folder: &Path) -> Result<Process> {
    let mut options = vec!["--no-ping".to_owned(), "--dhcp-authoritative".to_owned()];
    for number in seats.iter().map(|seat| seat.number) {
        for tag in NETWORKS.into_iter().filter_map(|(tag, has_dhcp)| has_dhcp.then_some(tag)) {
            let (name, net) = (tap(number, tag), format!("10.{number}.{tag}"));
            options.push(format!("--interface={name}"));
            options.push(format!("--dhcp-range=set:{name},{net}.100,{net}.200,255.255.255.0,1h"));
            options.push(format!("--dhcp-option=tag:{name},option:router,{net}.1"));
        }
        options.push(format!("--interface={}", tap(number, SIX)));
        options.push(format!("--dhcp-range=fd00:{number}:{SIX}::,ra-only,64,1h"));
    }
    site::serve_dhcp(&options.join(" "), folder)
}
