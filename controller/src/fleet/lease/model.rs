//! Server models: machines that are alike in processors, memory, disks and NICs are one model.
//!
//! Derived from the inventories each time; only what an operator says of a model ([`ModelCard`]) is stored.
//! The id must survive reboots, unplugged cables and a disk replaced by one of equal size, so everything that varies is
//! rounded, and a NIC counts by what its driver is made for and not by the speed of today's cable.

use std::collections::BTreeMap;
use std::fmt;

use muster_protocol::inventory::{Attachment, Disk, Inventory, Medium, Nic, Transport};
use muster_protocol::{Digest, MachineId};

use super::place::{self, Standing};
use crate::fleet::record::{Lifecycle, Machine, MachineInventory, Maintenance, ModelCard};
use crate::fleet::{Draft, Facts, Refusal, State, address, check_text};

const GIB: u64 = 1 << 30;
const GB: u64 = 1_000_000_000;

/// What Cycle asks of a machine at least: gigabytes of memory.
const FLOOR_MEMORY_GB: u64 = 4;
/// What Cycle asks of a machine at least: gigabytes on one disk.
const FLOOR_DISK_GB: u64 = 45;

/// What makes a model.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hardware {
    /// Model name of the processors.
    pub cpu: String,
    /// Processors.
    pub sockets: u16,
    /// Cores, over all processors.
    pub cores: u16,
    /// Hardware threads, over all cores.
    pub threads: u16,
    /// Gigabytes, as they are sold.
    pub memory_gb: u64,
    /// Fixed disks, largest first.
    pub disks: Vec<DiskClass>,
    /// NICs, fastest first.
    pub nics: Vec<NicClass>,
}

/// Fixed disks that are alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiskClass {
    /// Decimal gigabytes, as they are sold.
    pub size_gb: u64,
    /// What it is.
    pub kind: DiskKind,
    /// How many.
    pub count: u64,
}

/// What a disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DiskKind {
    /// Spinning.
    Hdd,
    /// Flash.
    Ssd,
    /// Flash on NVM Express.
    Nvme,
}

impl fmt::Display for DiskKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hdd => "HDD",
            Self::Ssd => "SSD",
            Self::Nvme => "NVMe",
        })
    }
}

/// NICs that are alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NicClass {
    /// What its driver is made for, Mbit/s; 0 where that says nothing.
    pub mbps: u32,
    /// How many.
    pub count: u64,
}

/// A model with the machines of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// [`Hardware::id`].
    pub id: String,
    /// What makes it.
    pub hardware: Hardware,
    /// `DDR4`, …, of the first machine that knows it; empty where none does.
    pub memory_kind: String,
    /// Whether every machine of it can run virtual machines.
    pub hypervisor: Hypervisor,
    /// Operator's words, completed from the hardware.
    pub card: ModelCard,
    /// Machines by location.
    pub places: BTreeMap<String, Place>,
}

/// Whether virtual machines can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hypervisor {
    /// Every machine's processors can.
    Able,
    /// One at least cannot.
    Unable,
}

/// Machines of one model at one location.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// At all of it.
    pub count: Count,
    /// In those of its zones that have any. A machine that was put into none can be had in each, and counts in each.
    pub zones: BTreeMap<String, Count>,
}

/// Machines of one model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Approved, not retired, not in maintenance.
    pub total: u64,
    /// Of them, those that an order would get now: free, online, with a cabled NIC, disks that can be named, and addresses to
    /// be given.
    pub free: u64,
}

impl Count {
    /// One more machine, with 1 if it is free, else 0.
    fn add(&mut self, free: u64) {
        self.total += 1;
        self.free += free;
    }
}

impl Hardware {
    /// What makes the model of a machine with this inventory.
    pub fn of(inventory: &Inventory) -> Self {
        let cpu = &inventory.cpu;
        Self {
            cpu: cpu.model.split_whitespace().collect::<Vec<_>>().join(" "),
            sockets: cpu.sockets,
            cores: cpu.cores,
            threads: cpu.threads,
            memory_gb: memory_gb(inventory),
            disks: disks(&inventory.disks),
            nics: nics(&inventory.nics),
        }
    }

    /// Names the model: `m-` and twelve hex digits. Never changes for the same hardware; a test freezes it.
    pub fn id(&self) -> String {
        let Self { cpu, sockets, cores, threads, memory_gb, disks, nics } = self;
        let mut text = format!("1|{cpu}|{sockets}|{cores}|{threads}|{memory_gb}");
        for DiskClass { size_gb, kind, count } in disks {
            text += &format!("|disk {count} {size_gb} {kind}");
        }
        for NicClass { mbps, count } in nics {
            text += &format!("|nic {count} {mbps}");
        }
        format!("m-{}", &Digest::of(text.as_bytes()).to_string()[..12])
    }

    /// Whether Cycle's own software fits on it: 4 GB of memory and one disk of 45 GB.
    pub fn is_compatible(&self) -> bool {
        self.memory_gb >= FLOOR_MEMORY_GB && self.disks.iter().any(|d| d.size_gb >= FLOOR_DISK_GB)
    }

    /// `16 cores, 128 GB, 2 x 960 GB NVMe`.
    pub fn name(&self) -> String {
        let cores = if self.cores == 1 { "1 core".into() } else { format!("{} cores", self.cores) };
        let disks: Vec<String> =
            self.disks.iter().map(|d| format!("{} x {} GB {}", d.count, d.size_gb, d.kind)).collect();
        let disks = if disks.is_empty() { "no disk".into() } else { disks.join(" + ") };
        format!("{cores}, {} GB, {disks}", self.memory_gb)
    }

    /// The name, and processors and NICs as well.
    pub fn description(&self) -> String {
        let cpu = if self.cpu.is_empty() { "x86-64" } else { &self.cpu };
        let nics: Vec<String> = self.nics.iter().map(|n| format!("{} x {} NIC", n.count, throughput(n.mbps))).collect();
        format!("{} x {cpu}, {}, {}", self.sockets.max(1), self.name(), nics.join(" + "))
    }
}

/// Mbit/s in words.
pub fn throughput(mbps: u32) -> String {
    match mbps {
        0 => "unknown".into(),
        1..=999 => format!("{mbps} Mbps"),
        _ if mbps.is_multiple_of(1000) => format!("{} Gbps", mbps / 1000),
        _ => format!("{:.1} Gbps", f64::from(mbps) / 1000.0),
    }
}

/// What is plugged in; where the firmware does not tell, what the kernel can use, rounded up to a size that is sold.
fn memory_gb(inventory: &Inventory) -> u64 {
    let plugged: u64 = inventory.memory.dimms.iter().map(|d| d.size_bytes).fold(0, u64::saturating_add);
    let total = inventory.memory.total_bytes;
    if plugged >= total && plugged >= GIB {
        return plugged / GIB;
    }
    // The kernel and the firmware keep a few percent: 125.6 GiB are 128, and 94.2 are 96.
    let whole = total.div_ceil(GIB);
    let step = (whole.checked_ilog2().map_or(1, |log| 1 << log) / 8).max(1);
    whole.div_ceil(step) * step
}

fn disks(disks: &[Disk]) -> Vec<DiskClass> {
    let mut classes: BTreeMap<(u64, DiskKind), u64> = BTreeMap::new();
    for disk in disks.iter().filter(|d| d.attachment == Attachment::Fixed) {
        let kind = match (disk.transport, disk.medium) {
            (Transport::Nvme, _) => DiskKind::Nvme,
            (_, Medium::SolidState) => DiskKind::Ssd,
            (_, Medium::Rotational) => DiskKind::Hdd,
        };
        *classes.entry((disk_gb(disk.size_bytes), kind)).or_default() += 1;
    }
    classes.into_iter().rev().map(|((size_gb, kind), count)| DiskClass { size_gb, kind, count }).collect()
}

/// Makers differ by a few megabytes in what they sell under one size, and by a gigabyte above one terabyte.
fn disk_gb(bytes: u64) -> u64 {
    let whole = bytes.saturating_add(GB / 2) / GB;
    if whole < 1000 { whole.max(1) } else { (whole + 5) / 10 * 10 }
}

fn nics(nics: &[Nic]) -> Vec<NicClass> {
    let mut classes: BTreeMap<u32, u64> = BTreeMap::new();
    for nic in nics {
        *classes.entry(driver_mbps(&nic.driver)).or_default() += 1;
    }
    classes.into_iter().rev().map(|(mbps, count)| NicClass { mbps, count }).collect()
}

/// What the NICs of a Linux driver are made for, as far as one driver has one speed.
/// A driver of several speeds counts with its lowest common one; an unknown one, or a virtual NIC's, as 0.
fn driver_mbps(driver: &str) -> u32 {
    match driver {
        "e100" | "8139too" | "8139cp" => 100,
        "e1000" | "e1000e" | "igb" | "r8169" | "r8168" | "tg3" | "bnx2" | "sky2" | "forcedeth" | "alx" | "atl1c" => {
            1_000
        }
        "igc" | "r8125" => 2_500,
        "ixgbe" | "bnx2x" | "be2net" | "atlantic" | "qlcnic" | "netxen_nic" | "cxgb3" | "cxgb4" | "i40e" | "sfc"
        | "mlx4_core" | "mlx4_en" => 10_000,
        "ice" | "bnxt_en" | "mlx5_core" | "qede" | "ionic" => 25_000,
        _ => 0,
    }
}

/// All models, by their ids. `online` says who can be reached now. No more machines are free than could be given addresses.
pub fn list(state: &State, online: &dyn Fn(MachineId) -> bool, now_unix_ms: u64) -> Vec<Model> {
    let mut models = count(state, online);
    fit(&mut models, state, now_unix_ms);
    models
}

/// The same before it is looked at how many addresses there are. Looks at [`State::machines_alone`].
pub fn count(state: &State, online: &dyn Fn(MachineId) -> bool) -> Vec<Model> {
    let mut models: BTreeMap<String, Model> = BTreeMap::new();
    for (machine, record) in members(state) {
        let inventory = &record.inventory;
        let hardware = Hardware::of(inventory);
        let id = hardware.id();
        let model = models.entry(id.clone()).or_insert_with(|| Model {
            card: card(state, &id, &hardware),
            id,
            hardware,
            memory_kind: String::new(),
            hypervisor: Hypervisor::Able,
            places: BTreeMap::new(),
        });
        if !inventory.cpu.flags.iter().any(|f| f == "vmx" || f == "svm") {
            model.hypervisor = Hypervisor::Unable;
        }
        if model.memory_kind.is_empty() {
            model.memory_kind = inventory.memory.dimms.first().map(|d| d.kind.clone()).unwrap_or_default();
        }
        let at = model.places.entry(machine.location.clone()).or_default();
        if machine.maintenance == Maintenance::Off {
            let free = u64::from(place::standing(state, machine, record, online) == Standing::Free);
            at.count.add(free);
            for zone in place::zones(state, machine) {
                at.zones.entry(zone.clone()).or_default().add(free);
            }
        }
    }
    models.into_values().collect()
}

/// Leaves no more machines free than could be given addresses at their locations. Looks at [`State::addresses_alone`].
pub fn fit(models: &mut [Model], state: &State, now_unix_ms: u64) {
    let mut rooms: BTreeMap<String, u64> = BTreeMap::new();
    for (location, at) in models.iter_mut().flat_map(|model| &mut model.places) {
        let room = *rooms
            .entry(location.clone())
            .or_insert_with(|| u64::try_from(address::room(state, location, now_unix_ms)).unwrap_or(u64::MAX));
        for count in at.zones.values_mut().chain([&mut at.count]) {
            count.free = count.free.min(room);
        }
    }
}

/// The model of one machine; `None` until it has reported its inventory.
pub fn of_machine(state: &State, id: MachineId) -> Option<String> {
    state.inventories.get(&id).map(|r| Hardware::of(&r.inventory).id())
}

/// Whether a machine of this model is in the fleet, or an operator described it.
pub fn is_known(state: &State, id: &str) -> bool {
    state.models.get(&id.to_owned()).is_some()
        || members(state).any(|(_, record)| Hardware::of(&record.inventory).id() == id)
}

/// Machines that count: approved and not retired, with an inventory.
fn members(state: &State) -> impl Iterator<Item = (&Machine, &MachineInventory)> {
    state.machines.iter().filter_map(|machine| match machine.lifecycle {
        Lifecycle::Pending | Lifecycle::Rejected | Lifecycle::Retired => None,
        Lifecycle::Available | Lifecycle::Leased { .. } | Lifecycle::Cleaning { .. } => {
            state.inventories.get(&machine.id).map(|record| (machine, record))
        }
    })
}

/// What is said of a model, gaps filled from its hardware.
fn card(state: &State, id: &str, hardware: &Hardware) -> ModelCard {
    let said = state.models.get(&id.to_owned()).cloned().unwrap_or_default();
    let or = |text: String, default: String| if text.is_empty() { default } else { text };
    ModelCard {
        id: id.to_owned(),
        name: or(said.name, hardware.name()),
        description: or(said.description, hardware.description()),
        category: or(said.category, "bare-metal".into()),
        class: or(said.class, "general".into()),
        hourly_mils: said.hourly_mils,
        monthly_mils: said.monthly_mils,
    }
}

/// What an operator changes of a model; `None` leaves it as it is, an empty text goes back to the hardware's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CardChange {
    /// See [`ModelCard`], as for the others.
    pub name: Option<String>,
    /// At most 255 bytes.
    pub description: Option<String>,
    /// At most 64 bytes, as for name and class.
    pub category: Option<String>,
    /// Second word.
    pub class: Option<String>,
    /// Thousandths of a dollar, at most 10^12.
    pub hourly_mils: Option<u64>,
    /// Thousandths of a dollar, at most 10^12.
    pub monthly_mils: Option<u64>,
}

/// Names and prices a model.
///
/// Errors: there is no such model; a text is too long; a price is no price.
pub fn describe(draft: &mut Draft, id: &str, change: CardChange) -> Result<ModelCard, Refusal> {
    if !is_known(draft.state(), id) {
        return Err(Refusal::NotFound { kind: "server model", name: id.chars().take(80).collect() });
    }
    let texts = [
        ("name", &change.name, 64),
        ("description", &change.description, 255),
        ("category", &change.category, 64),
        ("class", &change.class, 64),
    ];
    for (field, text, limit) in texts {
        text.as_ref().map_or(Ok(()), |text| check_text(field, text, limit))?;
    }
    for (field, price) in [("hourly", change.hourly_mils), ("monthly", change.monthly_mils)] {
        if price.is_some_and(|mils| mils > 1_000_000_000_000) {
            return Err(Refusal::invalid(field, "a price is given in thousandths of a dollar, at most 10^12"));
        }
    }
    let before = draft.get::<ModelCard>(&id.to_owned()).cloned().unwrap_or_default();
    let old = before.clone();
    let card = ModelCard {
        id: id.to_owned(),
        name: change.name.unwrap_or(old.name),
        description: change.description.unwrap_or(old.description),
        category: change.category.unwrap_or(old.category),
        class: change.class.unwrap_or(old.class),
        hourly_mils: change.hourly_mils.unwrap_or(old.hourly_mils),
        monthly_mils: change.monthly_mils.unwrap_or(old.monthly_mils),
    };
    draft.audit("model.described", id, facts(&before), facts(&card));
    draft.event("model.described", id, format!("model {id} is described anew"));
    draft.put(card.clone());
    Ok(card)
}

fn facts(card: &ModelCard) -> Facts {
    let ModelCard { name, description, category, class, hourly_mils, monthly_mils, .. } = card;
    Facts::of([
        ("name", name.clone()),
        ("description", description.clone()),
        ("category", category.clone()),
        ("class", class.clone()),
        ("hourly_mils", hourly_mils.to_string()),
        ("monthly_mils", monthly_mils.to_string()),
    ])
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::fleet::draft::tests::draft;
    use crate::fleet::enrollment::tests::enrolled;
    use crate::fleet::record::{Location, Subnet};
    use crate::fleet::{location, machine, subnet};
    use muster_protocol::Mac;
    use muster_protocol::enroll::Identity;
    use muster_protocol::inventory::{Carrier, Cpu, Dimm, Memory};

    /// Two cores, 8 GB, one NVMe disk with this serial, one cabled NIC with this last byte in its MAC.
    pub(crate) fn box_with(serial: &str, mac: u8) -> Inventory {
        let mac = Mac::from_bytes([2, 0, 0, 0, 0, mac]);
        let mut inventory = Inventory::default();
        inventory.system.uuid = Some([mac.as_bytes()[5]; 16]);
        inventory.cpu = Cpu { model: "Test  CPU".into(), sockets: 1, cores: 2, threads: 4, flags: vec!["vmx".into()] };
        inventory.memory = Memory { total_bytes: 7 * GIB + GIB / 2, dimms: Vec::new() };
        inventory.disks.push(disk(serial, 500_107_862_016));
        inventory.nics.push(Nic {
            name: "eth0".into(),
            mac,
            permanent_mac: mac,
            driver: "igb".into(),
            speed_mbps: Some(1000),
            carrier: Carrier::Present,
            pci: None,
            port_of: None,
            addresses: vec!["10.0.2.15/24".parse().expect("a prefix")],
        });
        inventory
    }

    /// An NVMe disk.
    pub(crate) fn disk(serial: &str, size_bytes: u64) -> Disk {
        Disk {
            name: "nvme0n1".into(),
            size_bytes,
            logical_sector: 512,
            physical_sector: 4096,
            medium: Medium::SolidState,
            attachment: Attachment::Fixed,
            transport: Transport::Nvme,
            model: "D".into(),
            serial: Some(serial.into()),
            wwn: None,
        }
    }

    #[test]
    fn the_id_of_a_model_is_frozen() {
        let hardware = Hardware::of(&box_with("S1", 1));
        assert_eq!(hardware.name(), "2 cores, 8 GB, 1 x 500 GB NVMe");
        assert_eq!(hardware.description(), "1 x Test CPU, 2 cores, 8 GB, 1 x 500 GB NVMe, 1 x 1 Gbps NIC");
        assert_eq!(hardware.id(), "m-2dbdd4fc08ac");
    }

    #[test]
    fn cables_replaced_disks_and_order_do_not_change_the_model_and_hardware_does() {
        let plain = box_with("S1", 1);
        let id = Hardware::of(&plain).id();
        let same = |change: &dyn Fn(&mut Inventory)| {
            let mut other = plain.clone();
            change(&mut other);
            Hardware::of(&other).id() == id
        };
        assert!(same(&|i| i.nics[0].carrier = Carrier::Absent));
        assert!(same(&|i| i.nics[0].speed_mbps = None));
        assert!(same(&|i| i.disks[0] = disk("OTHER", 500_000_000_000)));
        assert!(same(&|i| i.memory.total_bytes -= GIB / 4));
        assert!(same(&|i| i.memory.dimms = vec![Dimm { size_bytes: 8 * GIB, ..Dimm::default() }]));
        assert!(same(&|i| i.disks.push(Disk { attachment: Attachment::Removable, ..disk("STICK", 16 * GB) })));
        assert!(same(&|i| i.disks.push(Disk { attachment: Attachment::External, ..disk("OUTSIDE", 8000 * GB) })));
        assert!(!same(&|i| i.disks.push(disk("S2", 500_107_862_016))));
        assert!(!same(&|i| i.disks[0].transport = Transport::Ata));
        assert!(!same(&|i| i.cpu.threads = 2));
        assert!(!same(&|i| i.nics.push(i.nics[0].clone())));
        assert!(!same(&|i| i.memory.total_bytes *= 2));
    }

    #[test]
    fn sizes_are_those_that_are_sold() {
        let memory = |gib: f64| {
            let mut inventory = Inventory::default();
            inventory.memory.total_bytes = (gib * GIB as f64) as u64;
            memory_gb(&inventory)
        };
        for (usable, sold) in
            [(0.0, 0), (0.45, 1), (1.9, 2), (3.8, 4), (15.5, 16), (46.9, 48), (94.2, 96), (125.6, 128), (251.5, 256)]
        {
            assert_eq!(memory(usable), sold, "{usable}");
        }
        for (bytes, sold) in [
            (0, 1),
            (2_147_483_648, 2),
            (960_197_124_096, 960),
            (1_000_204_886_016, 1000),
            (3_840_755_982_336, 3840),
            (7_681_501_126_656, 7680),
        ] {
            assert_eq!(disk_gb(bytes), sold, "{bytes}");
        }
        for (mbps, text) in [(0, "unknown"), (100, "100 Mbps"), (2_500, "2.5 Gbps"), (25_000, "25 Gbps")] {
            assert_eq!(throughput(mbps), text);
        }
    }

    #[test]
    fn machines_alike_are_one_model_counted_by_location_and_what_is_below_the_floor_is_listed() {
        let mut draft = draft();
        let identity = |n| Identity { macs: vec![Mac::from_bytes([2, 0, 0, 0, 0, n])], ..Identity::default() };
        let ids: Vec<MachineId> = (1..=3).map(|n| enrolled(&mut draft, identity(n))).collect();
        for (id, n) in ids.iter().zip(1..) {
            machine::inventory(&mut draft, *id, box_with("S", n)).expect("stored");
        }
        assert_eq!(list(draft.state(), &|_| true, draft.now_unix_ms()), []);
        for id in &ids {
            machine::approve(&mut draft, *id).expect("approved");
        }
        let mut small = box_with("S", 3);
        small.disks.clear();
        machine::inventory(&mut draft, ids[2], small).expect("stored");
        machine::maintain(&mut draft, ids[1], Maintenance::On).expect("noted");
        // No more is free than there are addresses for.
        location::put(&mut draft, Location { code: "ber1".into(), ..Location::default() }).expect("a location");
        let free = |draft: &Draft| -> Vec<u64> {
            list(draft.state(), &|_| true, draft.now_unix_ms()).iter().map(|m| m.places["ber1"].count.free).collect()
        };
        assert_eq!(free(&draft), [0, 0]);
        let net = "192.0.2.0/30".parse().expect("a prefix");
        subnet::add(&mut draft, Subnet::new(net, "ber1")).expect("added");
        assert_eq!(free(&draft), [1, 1]);
        let six = "2001:db8::/126".parse().expect("a prefix");
        let reserved = vec!["2001:db8::/126".parse().expect("a range")];
        subnet::add(&mut draft, Subnet { reserved, ..Subnet::new(six, "ber1") }).expect("added");
        assert_eq!(free(&draft), [0, 0], "every machine gets one of each family");
        subnet::remove(&mut draft, six).expect("removed");
        let models = list(draft.state(), &|_| true, draft.now_unix_ms());
        let counts = |m: &Model| (m.hardware.is_compatible(), m.places["ber1"].count);
        let mut seen: Vec<_> = models.iter().map(counts).collect();
        seen.sort_by_key(|(compatible, _)| *compatible);
        assert_eq!(seen, [(false, Count { total: 1, free: 1 }), (true, Count { total: 1, free: 1 })]);
        assert!(list(draft.state(), &|_| false, draft.now_unix_ms()).iter().all(|m| m.places["ber1"].count.free == 0));

        // Nor one whose agent would refuse the order.
        let mut looked_at = box_with("S", 1);
        looked_at.software.leaves.network = true;
        machine::inventory(&mut draft, ids[0], looked_at).expect("stored");
        let big = list(draft.state(), &|_| true, draft.now_unix_ms());
        let big = big.iter().find(|m| m.hardware.is_compatible()).expect("listed");
        assert_eq!(big.places["ber1"].count, Count { total: 1, free: 0 });
    }

    #[test]
    fn machines_are_counted_in_the_zones_that_an_order_may_name_to_get_them() {
        let mut draft = draft();
        let zones = ["b", "a", "empty"].map(str::to_owned).to_vec();
        location::put(&mut draft, Location { code: "ber1".into(), zones, ..Location::default() }).expect("a location");
        subnet::add(&mut draft, Subnet::new("192.0.2.0/28".parse().expect("a prefix"), "ber1")).expect("added");
        for (n, zone) in (1..).zip(["a", "a", "b", "nowhere"]) {
            let identity = Identity { macs: vec![Mac::from_bytes([2, 0, 0, 0, 0, n])], ..Identity::default() };
            let id = enrolled(&mut draft, identity);
            machine::inventory(&mut draft, id, box_with("S", n)).expect("stored");
            machine::approve(&mut draft, id).expect("approved");
            let record = draft.need::<Machine>(&id).expect("there");
            draft.put(Machine { labels: [("zone".to_owned(), zone.to_owned())].into(), ..record });
        }
        let now = |draft: &Draft| {
            let models = list(draft.state(), &|_| true, draft.now_unix_ms());
            let at = &models[0].places["ber1"];
            let zones =
                at.zones.iter().map(|(zone, count)| (zone.clone(), count.total, count.free)).collect::<Vec<_>>();
            (at.count, zones)
        };
        let expected = vec![("a".to_owned(), 2, 2), ("b".to_owned(), 1, 1)];
        assert_eq!(now(&draft), (Count { total: 4, free: 4 }, expected));
        let first = draft.state().machines.iter().find(|m| m.labels["zone"] == "nowhere").cloned().expect("there");
        draft.put(Machine { labels: [].into(), ..first });
        let expected = vec![("a".to_owned(), 3, 3), ("b".to_owned(), 2, 2), ("empty".to_owned(), 1, 1)];
        assert_eq!(now(&draft), (Count { total: 4, free: 4 }, expected), "one without a zone is in all of them");
    }

    #[test]
    fn an_operators_words_take_the_place_of_the_hardwares_and_can_be_taken_back() {
        let mut draft = draft();
        let id = enrolled(&mut draft, Identity::default());
        machine::approve(&mut draft, id).expect("approved");
        machine::inventory(&mut draft, id, box_with("S", 1)).expect("stored");
        let model = of_machine(draft.state(), id).expect("known");
        let words = CardChange { name: Some("small".into()), monthly_mils: Some(29_000), ..CardChange::default() };
        describe(&mut draft, &model, words).expect("described");
        let seen = list(draft.state(), &|_| true, draft.now_unix_ms()).remove(0).card;
        assert_eq!((seen.name.as_str(), seen.monthly_mils, seen.class.as_str()), ("small", 29_000, "general"));
        describe(&mut draft, &model, CardChange { name: Some(String::new()), ..CardChange::default() }).expect("done");
        let seen = list(draft.state(), &|_| true, draft.now_unix_ms()).remove(0).card;
        assert_eq!((seen.name.as_str(), seen.monthly_mils), ("2 cores, 8 GB, 1 x 500 GB NVMe", 29_000));
        let unknown = describe(&mut draft, "m-none", CardChange::default());
        assert!(matches!(unknown, Err(Refusal::NotFound { kind: "server model", .. })));
        for change in [
            CardChange { name: Some("x".repeat(65)), ..CardChange::default() },
            CardChange { class: Some("a\nb".into()), ..CardChange::default() },
            CardChange { hourly_mils: Some(u64::MAX), ..CardChange::default() },
        ] {
            assert!(matches!(describe(&mut draft, &model, change), Err(Refusal::Invalid { .. })));
        }
    }
}
