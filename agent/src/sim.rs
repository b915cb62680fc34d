//! The simulated machine: the same promises as the real one, kept in memory.
//!
//! Used by this crate's tests and by lab tests that run hundreds of real agents in one process against a real controller.
//! Its network is [`Twin`], its disks are what [`apply_to_model`] makes of them; bytes are not simulated.
//! A test says who carries its packets ([`Wire`]) and which steps fail ([`Faults`]).

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use muster_protocol::desired::{Key, MAIN_TABLE, TreeMount};
use muster_protocol::enroll::{Identity, Tpm};
use muster_protocol::inventory::health::Health;
use muster_protocol::inventory::{self, Attachment, Carrier, Inventory, Medium, Transport};
use muster_protocol::observed::{
    Address, Admin, Contents, Disk, Filesystem, Firmware, Limit, Link, LinkKind, Network, Observed, Origin, Route,
    WakeOnLan,
};
use muster_protocol::to_agent::{PowerAction, WipeLevel};
use muster_protocol::to_controller::WipeReceipt;
use muster_protocol::tools::Pinned;
use muster_protocol::{Digest, DiskId, DiskKey, Mac};
use tokio::sync::Notify;

use crate::machine::{Lost, Machine, MachineError, Percent};
use crate::plan;
use crate::plan::network::twin::Twin;
use crate::plan::network::{Change, NewWay, PROOF_MARK, PROOF_TABLE};
use crate::plan::storage::{KeyFor, Model, apply_to_limits, apply_to_model, apply_to_trees, look_again, take_down};
use crate::reconcile::DEAD_MAN;

/// Bytes of each simulated disk.
const DISK_BYTES: u64 = 8 << 30;

/// A machine without a machine.
pub struct SimMachine {
    world: Mutex<World>,
    /// Its network or its faults became others.
    changed: Condvar,
}

struct World {
    number: u16,
    network: Twin,
    storage: Model,
    mounts: Vec<TreeMount>,
    limits: Vec<Limit>,
    /// Those that the agent has set.
    own_limits: Vec<Limit>,
    wire: Wire,
    faults: Faults,
    powered: Vec<PowerAction>,
    guids: u8,
    /// Disks whose driver is not there before [`Machine::settle`].
    late: Vec<Disk>,
    health: Health,
    tools: plan::Tools,
    /// What came of them.
    kept: Vec<u8>,
    /// Volumes whose keys are at hand: what they are called, and the UUIDs in their headers.
    keys: Vec<(String, [u8; 16])>,
    notice: Arc<Notify>,
    looks: u64,
}

/// Who carries the machine's packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// Everything arrives, however the machine is configured.
    Magic,
    /// A default route, or that of a proof, must lead to this gateway, by a link that is up and has a carrier and an address beside it.
    Gateway(IpAddr),
    /// Nothing arrives.
    Cut,
}

/// Steps that do not do what they should, by a part of what they are called in plans.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// These fail.
    pub refuse: Vec<String>,
    /// These say they are done, and nothing happened.
    pub ignore: Vec<String>,
    /// These do not end, until they are none of these any more. They catch the agent's loop: its dead man is another thread.
    pub hang: Vec<String>,
}

impl SimMachine {
    /// Machine `number`: two NICs, the first with a carrier and an address by DHCP, and two blank disks, all named by it.
    pub fn new(number: u16) -> Self {
        let [high, low] = number.to_be_bytes();
        let mac = |nic: u8| Mac::from_bytes([0x52, 0x54, 0, high, low, nic]);
        let address = Ipv4Addr::new(10, 77, high, low.max(2));
        let link = |index: u32, carrier: Carrier, addresses: Vec<Address>| Link {
            driver: "simulated".into(),
            admin: Admin::Up,
            carrier,
            addresses,
            wake_on_lan: WakeOnLan::Off,
            ..Link::bare(index, &format!("eth{}", index - 2), mac(index as u8 - 1), LinkKind::Ethernet)
        };
        let net = ipnet::Ipv4Net::new(address, 16).map(Into::into).expect("16 is a prefix length");
        let routes = vec![Route {
            to: ipnet::Ipv4Net::default().into(),
            via: Some(Ipv4Addr::new(10, 77, 0, 1).into()),
            link: 2,
            metric: 0,
            table: MAIN_TABLE,
            origin: Origin::Static,
        }];
        let first = link(2, Carrier::Present, vec![Address { net, origin: Origin::Static }]);
        let network = Network {
            links: vec![first, link(3, Carrier::Absent, Vec::new())],
            routes,
            hostname: format!("sim{number}"),
            ..Network::default()
        };
        let disk = |letter: char| Disk {
            name: format!("sd{letter}"),
            wwn: None,
            serial: Some(format!("SIM{number:05}{}", letter.to_ascii_uppercase())),
            size_bytes: DISK_BYTES,
            logical_sector: 512,
            medium: Medium::SolidState,
            attachment: Attachment::Fixed,
            transport: Transport::Virtio,
            model: "simulated".into(),
            by_path: Some(format!("pci-0000:00:{:02x}.0", 4 + letter as u32 - u32::from(b'a'))),
            contents: Contents::Blank,
            partitions: Vec::new(),
            held: String::new(),
        };
        let world = World {
            number,
            network: Twin::new(network),
            storage: Model::new(vec![disk('a'), disk('b')]),
            mounts: Vec::new(),
            limits: Vec::new(),
            own_limits: Vec::new(),
            wire: Wire::Magic,
            faults: Faults::default(),
            powered: Vec::new(),
            guids: 0,
            late: Vec::new(),
            health: Health::default(),
            tools: plan::Tools::Here,
            kept: Vec::new(),
            keys: Vec::new(),
            notice: Arc::default(),
            looks: 0,
        };
        Self { world: Mutex::new(world), changed: Condvar::new() }
    }

    /// Says who carries its packets from now on.
    pub fn set_wire(&self, wire: Wire) {
        self.world().wire = wire;
    }

    /// Says where the programs of storage steps are.
    pub fn set_tools(&self, tools: plan::Tools) {
        self.world().tools = tools;
    }

    /// Says how its drives are from now on.
    pub fn set_health(&self, health: Health) {
        self.world().health = health;
    }

    /// Says which steps go wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.world().faults = faults;
        self.changed.notify_all();
    }

    /// Blocks until its network is so, or for so long. Returns whether it is.
    pub fn wait_for_network(&self, within: Duration, is_so: impl Fn(&Network) -> bool) -> bool {
        let differs = |world: &mut World| !is_so(world.network.observe());
        let waited = self.changed.wait_timeout_while(self.world(), within, differs);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Lets its disks appear only with [`Machine::settle`], as those of a machine that has just booted.
    pub fn hide_disks_until_settled(&self) {
        let world = &mut *self.world();
        world.late.append(&mut world.storage.disks);
    }

    /// Puts somebody's data on a disk.
    pub fn put_filesystem(&self, disk: &DiskId, kind: &str) {
        for there in self.world().storage.disks.iter_mut().filter(|d| disk.names(d.wwn.as_deref(), d.serial.as_deref()))
        {
            there.contents = Contents::Filesystem(Filesystem { kind: kind.to_owned(), ..Filesystem::default() }.into());
        }
    }

    /// Somebody pulls disks out, puts others in, or writes to them on another machine.
    pub fn exchange_disks(&self, does: impl FnOnce(&mut Vec<Disk>)) {
        does(&mut self.world().storage.disks);
    }

    /// It is rebooted: nothing of its storage runs any more. The network comes up as it was.
    pub fn reboot(&self) {
        let world = &mut *self.world();
        world.storage.reboot();
        (world.mounts, world.limits, world.own_limits, world.keys) = <_>::default();
    }

    /// Somebody takes the limits of its disks away.
    pub fn unlimit(&self) {
        self.world().limits.clear();
    }

    /// Somebody else changes its network, whom no fault stops.
    ///
    /// Panics: where the kernel would refuse it.
    pub fn by_hand(&self, change: &Change) {
        self.by_another(|network| network.apply(change).expect("the kernel takes it"));
    }

    fn by_another<T>(&self, does: impl FnOnce(&mut Twin) -> T) -> T {
        let mut world = self.world();
        let done = does(&mut world.network);
        self.changed.notify_all();
        world.notice.notify_one();
        done
    }

    /// Pulls a NIC out of it. Answers what [`Self::put_in`] puts in again.
    ///
    /// Panics: it has none of this name.
    pub fn pull_out(&self, nic: &str) -> Link {
        self.by_another(|network| network.pull_out(nic).expect("it has this NIC"))
    }

    /// Puts a NIC in.
    pub fn put_in(&self, nic: &Link) {
        self.by_another(|network| network.put_in(nic));
    }

    /// How often its network was looked at.
    pub fn looks(&self) -> u64 {
        self.world().looks
    }

    /// The power actions that were carried out, oldest first.
    pub fn powered(&self) -> Vec<PowerAction> {
        self.world().powered.clone()
    }

    /// Hangs for as long as this is to.
    fn world_once_it_goes_on(&self, action: &str) -> MutexGuard<'_, World> {
        let is_spared = std::thread::current().name() == Some(DEAD_MAN);
        let hangs = |world: &mut World| !is_spared && world.faults.hang.iter().any(|part| action.contains(part));
        self.changed.wait_while(self.world(), hangs).unwrap_or_else(PoisonError::into_inner)
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl World {
    fn observed(&self) -> Observed {
        let (network, disks, mounts) =
            (self.network.observe().clone(), self.storage.disks.clone(), self.mounts.clone());
        let (layers, limits) = (self.storage.layers(), self.limits.clone());
        Observed { network, disks, layers, mounts, limits, firmware: Firmware::Bios }
    }

    /// Whether a step is to be carried out.
    fn meets_no_fault(&self, action: &str) -> Result<bool, MachineError> {
        let named = |faults: &[String]| faults.iter().any(|part| action.contains(part.as_str()));
        if named(&self.faults.refuse) {
            return Err(MachineError::os(action, io::Error::from(io::ErrorKind::PermissionDenied)));
        }
        Ok(!named(&self.faults.ignore))
    }

    fn header(&self, step: &plan::storage::Step) -> Result<[u8; 16], MachineError> {
        let strange = || MachineError::Unable("tell the UUID of what is not opened".into());
        let plan::storage::Step::Open { on, header, .. } = step else { return Err(strange()) };
        let found = self.storage.header(on, header);
        found.map_err(|(what, now)| MachineError::Changed { what, now })?.ok_or_else(strange)
    }

    /// The UUID that goes with the controller's key of a volume, where a step needs one.
    fn key_for(&self, step: &plan::storage::Step) -> Result<Option<[u8; 16]>, MachineError> {
        let Some((name, Key::Controller, key_for)) = step.key() else { return Ok(None) };
        let uuid = match key_for {
            KeyFor::Making(uuid) => uuid,
            KeyFor::Opening(_) => Some(self.header(step)?),
        };
        let mut kept = self.keys.iter().filter(|(other, of)| other == name && uuid.is_none_or(|uuid| uuid == *of));
        let missing = || MachineError::Unable(format!("use {name}: the controller's key of it is not at hand"));
        Ok(Some(kept.next().ok_or_else(missing)?.1))
    }

    /// The gateways of default routes; where the rule of a proof sends packets of `way` elsewhere, those of its table.
    fn gateways(&self, way: Option<&NewWay>) -> impl Iterator<Item = (IpAddr, u32)> {
        let network = self.network.observe();
        let is_marked = way.is_some() && network.rules.iter().any(|rule| rule.mark == Some(PROOF_MARK));
        let leads = move |route: &Route| match is_marked {
            true => route.table == PROOF_TABLE,
            false => route.to.prefix_len() == 0,
        };
        let gateway = move |route: &Route| route.via.filter(|_| leads(route)).map(|via| (via, route.link));
        network.routes.iter().filter_map(gateway)
    }

    fn is_carried(&self, way: Option<&NewWay>) -> bool {
        let usable = |index: u32, gateway: IpAddr| {
            self.network.observe().links.iter().any(|link| {
                link.index == index
                    && way.is_none_or(|way| way.links.contains(&link.name))
                    && link.admin == Admin::Up
                    && link.carrier == Carrier::Present
                    && link.addresses.iter().any(|address| address.net.contains(&gateway))
            })
        };
        match self.wire {
            Wire::Magic => true,
            Wire::Cut => false,
            Wire::Gateway(gateway) => self.gateways(way).any(|(via, link)| via == gateway && usable(link, gateway)),
        }
    }
}

impl Machine for SimMachine {
    fn identity(&self) -> Identity {
        let world = self.world();
        let mut uuid = [0; 16];
        uuid[0] = 0x51;
        uuid[14..].copy_from_slice(&world.number.to_be_bytes());
        Identity {
            uuid: Some(uuid),
            system_serial: format!("SIM{:05}", world.number),
            board_serial: String::new(),
            macs: world.network.observe().links.iter().map(|link| link.permanent_mac).collect(),
            disks: Vec::new(),
            tpm: Tpm::Absent,
        }
    }

    fn settle(&self) {
        let world = &mut *self.world();
        world.storage.disks.append(&mut world.late);
    }

    fn inventory(&self) -> Inventory {
        let identity = self.identity();
        let world = self.world();
        let disks = world.storage.disks.iter().map(|disk| inventory::Disk {
            name: disk.name.clone(),
            size_bytes: disk.size_bytes,
            logical_sector: disk.logical_sector,
            physical_sector: 4096,
            medium: disk.medium,
            attachment: disk.attachment,
            transport: disk.transport,
            model: disk.model.clone(),
            serial: disk.serial.clone(),
            wwn: disk.wwn.clone(),
        });
        let network = world.network.observe();
        let named = |index: u32| network.links.iter().find(|link| link.index == index).map(|link| link.name.clone());
        let port_of = |link: &Link| link.port.and_then(|port| named(port.of));
        let ethernets = network.links.iter().filter(|link| link.kind == LinkKind::Ethernet);
        let nics = ethernets.map(|link| inventory::Nic {
            name: link.name.clone(),
            mac: link.mac,
            permanent_mac: link.permanent_mac,
            driver: "simulated".into(),
            speed_mbps: (link.carrier == Carrier::Present).then_some(1000),
            carrier: link.carrier,
            pci: None,
            port_of: port_of(link),
            addresses: link.addresses.iter().map(|address| address.net).collect(),
        });
        let links = network.links.iter().filter_map(|link| {
            let kind = match &link.kind {
                LinkKind::Vlan { parent, tag } => inventory::LinkKind::Vlan { tag: *tag, parent: named(*parent)? },
                LinkKind::Bond(_) => inventory::LinkKind::Bond,
                LinkKind::Bridge(_) => inventory::LinkKind::Bridge,
                LinkKind::Ethernet | LinkKind::Foreign(_) => return None,
            };
            Some(inventory::Link {
                name: link.name.clone(),
                kind,
                mac: link.mac,
                carrier: link.carrier,
                port_of: port_of(link),
                addresses: link.addresses.iter().map(|address| address.net).collect(),
            })
        });
        Inventory {
            system: inventory::System {
                vendor: "Muster".into(),
                product: "simulated".into(),
                serial: identity.system_serial,
                board_serial: identity.board_serial,
                uuid: identity.uuid,
            },
            cpu: inventory::Cpu { model: "simulated".into(), sockets: 1, cores: 2, threads: 4, flags: Vec::new() },
            memory: inventory::Memory { total_bytes: 4 << 30, dimms: Vec::new() },
            disks: disks.collect(),
            nics: nics.collect(),
            links: links.collect(),
            software: inventory::Software {
                kernel: "simulated".into(),
                agent: env!("CARGO_PKG_VERSION").into(),
                ..inventory::Software::default()
            },
            ..Inventory::default()
        }
    }

    fn health(&self) -> Health {
        self.world().health.clone()
    }

    fn observe(&self) -> Result<Observed, MachineError> {
        Ok(self.world().observed())
    }

    fn observe_network(&self) -> Result<Network, MachineError> {
        let mut world = self.world();
        world.looks += 1;
        Ok(world.network.observe().clone())
    }

    fn lost_limits(&self) -> Vec<Limit> {
        let world = self.world();
        world.own_limits.iter().filter(|limit| !world.limits.contains(limit)).cloned().collect()
    }

    fn changes(&self) -> Result<Arc<Notify>, MachineError> {
        Ok(self.world().notice.clone())
    }

    fn lost(&self) -> Result<Vec<Lost>, MachineError> {
        Ok(Vec::new())
    }

    fn apply_network(&self, step: &plan::network::Step) -> Result<(), MachineError> {
        let action = step.change.action();
        let mut world = self.world_once_it_goes_on(&action);
        if world.meets_no_fault(&action)? {
            let done = world.network.apply(&step.change);
            self.changed.notify_all();
            world.notice.notify_one();
            return done.map_err(|refused| MachineError::os(action, io::Error::other(refused.why)));
        }
        Ok(())
    }

    fn apply_storage(&self, step: &plan::storage::Step, progress: Percent<'_>) -> Result<(), MachineError> {
        progress(0);
        let action = step.describe().action;
        let mut world = self.world_once_it_goes_on(&action);
        if world.meets_no_fault(&action)? {
            let changed = |(what, now)| MachineError::Changed { what, now };
            look_again(step, &world.storage).map_err(changed)?;
            world.guids = world.guids.wrapping_add(1);
            let random = world.key_for(step)?.unwrap_or([world.guids; 16]);
            apply_to_model(step, &mut world.storage, random);
            apply_to_trees(step, &mut world.mounts);
            apply_to_limits(step, &mut world.limits);
            apply_to_limits(step, &mut world.own_limits);
        }
        progress(100);
        Ok(())
    }

    fn write_image(
        &self,
        step: &plan::storage::Step,
        source: &mut dyn Read,
        progress: Percent<'_>,
    ) -> Result<(), MachineError> {
        let mut image = Vec::new();
        source.read_to_end(&mut image).map_err(|source| MachineError::os("take the image", source))?;
        if image.is_empty() {
            return Err(MachineError::Missing("the image".into()));
        }
        self.apply_storage(step, progress)
    }

    fn tools(&self) -> plan::Tools {
        self.world().tools
    }

    fn keep_tools(&self, at: u64, bytes: &[u8]) -> Result<(), MachineError> {
        let kept = &mut self.world().kept;
        kept.truncate(at as usize);
        kept.extend_from_slice(bytes);
        Ok(())
    }

    fn open_tools(&self, pinned: &Pinned) -> Result<(), MachineError> {
        let mut world = self.world();
        let kept = std::mem::take(&mut world.kept);
        let found = Digest::of(&kept);
        if found != pinned.digest || kept.len() as u64 != pinned.bytes {
            return Err(MachineError::Unable(format!("use tools with the SHA-256 {found}")));
        }
        world.tools = plan::Tools::Here;
        Ok(())
    }

    fn header(&self, step: &plan::storage::Step) -> Result<[u8; 16], MachineError> {
        self.world().header(step)
    }

    fn keep_key(&self, name: &str, uuid: [u8; 16], _key: DiskKey) {
        self.world().keys.push((name.to_owned(), uuid));
    }

    fn forget_keys(&self) {
        self.world().keys.clear();
    }

    fn wipe(&self, disk: &DiskId, level: WipeLevel, progress: Percent<'_>) -> Result<WipeReceipt, MachineError> {
        let mut world = self.world_once_it_goes_on(&format!("wipe {disk}"));
        let carried_out = world.meets_no_fault(&format!("wipe {disk}"))?;
        let running = take_down(std::slice::from_ref(disk), &world.observed());
        if running.as_ref().is_ok_and(|steps| !steps.is_empty()) || running.is_err() {
            return Err(MachineError::Unable(format!("wipe {disk}: something runs on it: {running:?}")));
        }
        let there = world.storage.disks.iter_mut().find(|d| disk.names(d.wwn.as_deref(), d.serial.as_deref()));
        let there = there.ok_or_else(|| MachineError::Missing(disk.to_string()))?;
        progress(50);
        if carried_out {
            there.contents = match level {
                WipeLevel::Signatures => Contents::Unknown,
                WipeLevel::Quick | WipeLevel::Full | WipeLevel::Secure => Contents::Blank,
            };
            there.partitions.clear();
        }
        progress(100);
        let size_bytes = there.size_bytes;
        world.storage.forget();
        let (bytes, verified_bytes) = (size_bytes, size_bytes);
        let (disk, method) = (disk.clone(), "simulated".into());
        Ok(WipeReceipt { disk, method, size_bytes, bytes, verified_bytes, milliseconds: 1 })
    }

    fn socket(&self, to: IpAddr, way: Option<&NewWay>) -> Result<UdpSocket, MachineError> {
        let failed = |error: io::Error| MachineError::os(format!("reach {to}"), error);
        if !self.world().is_carried(way) {
            return Err(failed(io::Error::from(io::ErrorKind::NetworkUnreachable)));
        }
        let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        UdpSocket::bind((any, 0)).map_err(failed)
    }

    fn unanswered(&self) -> Vec<(u32, IpAddr)> {
        let world = self.world();
        let Wire::Gateway(right) = world.wire else { return Vec::new() };
        let hops = &world.network.observe().routes;
        hops.iter().filter_map(|route| Some((route.link, route.via.filter(|via| *via != right)?))).collect()
    }

    fn set_clock(&self, _unix_ms: u64) {}

    fn power(&self, action: PowerAction) -> Result<(), MachineError> {
        self.world().powered.push(action);
        Ok(())
    }
}
