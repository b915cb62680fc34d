//! Where a whole-system test happens: a namespace, a controller with a location, and the parts of one machine.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::controller::{BOOT_PORT, Controller};
use crate::qemu::{Bmc, Boot, Disk, DiskKind, Firmware, HardwareClock, Net, Nic, Place, Spec};
use crate::slot::Slot;
use crate::{artifacts, eventually, namespace, scratch};

/// Power-on to session under emulation takes 15 to 30 s on an idle processor; others may keep it busy.
pub const BOOT: Duration = Duration::from_secs(240);

/// Wiping writes every byte of both disks, and reads them back, under emulation; then the machine boots.
pub const WIPE: Duration = Duration::from_secs(360);

/// For what takes a second or two on an idle processor.
pub const SOON: Duration = Duration::from_secs(60);

/// A short time to confirm, so that what cannot be confirmed is undone soon.
pub const CONFIRM_WITHIN: Duration = Duration::from_secs(10);

/// The one location.
pub const LOCATION: &str = "lab1";

/// See the module.
pub struct Lab {
    /// Logs, consoles, disks.
    pub folder: PathBuf,
    /// The controller.
    pub controller: Controller,
    _slot: Slot,
}

impl Lab {
    /// Moves the calling thread into a namespace of its own and starts a controller there, reached by agents at the
    /// addresses `dialed`, or at whatever address they booted from where there are none.
    pub fn open(name: &str, dialed: &[&str]) -> Result<Self> {
        let slot = Slot::take()?;
        namespace::enter()?;
        Self::open_here(&scratch::scratch(name)?, dialed, slot)
    }

    /// The same; it serves the images that `images` has put somewhere, in the lab's folder or elsewhere.
    pub fn serving(name: &str, images: impl FnOnce(&Path) -> Result<PathBuf>) -> Result<Self> {
        let slot = Slot::take()?;
        namespace::enter()?;
        let folder = scratch::scratch(name)?;
        Self::open_with(&folder, &[], &images(&folder)?, slot)
    }

    /// The same in the namespace that the thread is in.
    pub fn open_here(folder: &Path, dialed: &[&str], slot: Slot) -> Result<Self> {
        Self::open_with(folder, dialed, &artifacts::image()?, slot)
    }

    /// The same, with more in the controller's configuration.
    pub fn configured(folder: &Path, more: &str, slot: Slot) -> Result<Self> {
        Self::open_as(folder, &[], &artifacts::image()?, more, slot)
    }

    fn open_with(folder: &Path, dialed: &[&str], images: &Path, slot: Slot) -> Result<Self> {
        Self::open_as(folder, dialed, images, "", slot)
    }

    fn open_as(folder: &Path, dialed: &[&str], images: &Path, more: &str, slot: Slot) -> Result<Self> {
        let dialed = if dialed.is_empty() { String::new() } else { format!("controllers = {dialed:?}\n") };
        let confirm = CONFIRM_WITHIN.as_secs();
        let config = format!("[boot]\nimages = {images:?}\n{dialed}[agents]\nconfirm_within = \"{confirm}s\"\n{more}");
        let controller = Controller::start(folder, &config)?;
        controller.muster(&["location", "add", LOCATION, "--name", "The lab"])?;
        Ok(Self { folder: folder.to_owned(), controller, _slot: slot })
    }

    /// Builds the site's ISO, reached by machines in QEMU's own network.
    pub fn iso(&self) -> Result<PathBuf> {
        self.iso_for("10.0.2.2")
    }

    /// The same for machines that reach the controller at this address.
    pub fn iso_for(&self, controller: &str) -> Result<PathBuf> {
        let iso = self.folder.join("site.iso");
        let boot = format!("{controller}:{BOOT_PORT}");
        let path = iso.to_str().context("the path is UTF-8")?;
        self.controller.muster(&["iso", "build", "--location", LOCATION, "--controller", &boot, "--output", path])?;
        Ok(iso)
    }

    /// What the boot script would give the kernel of this machine, for one that starts without firmware. A ticket is in it.
    pub fn command_line(&self, spec: &Spec) -> Result<String> {
        let macs = spec.nics.iter().map(|nic| nic.mac.to_string()).collect::<Vec<_>>().join(",");
        let path = format!("/boot/script?uuid={}&serial={}&macs={macs}&location={LOCATION}", spec.uuid, spec.serial);
        let host = format!("10.0.2.2:{BOOT_PORT}");
        let reply = self.controller.boot().send("GET", &path, &[("host", &host)], None)?;
        let script = reply.text();
        ensure!(reply.status == 200, "no boot script: {script}");
        let line = script.lines().find(|line| line.starts_with("kernel ")).context("a boot script loads a kernel")?;
        // iPXE's own variables are not known to anybody else.
        let words = line.split_whitespace().skip(2).filter(|word| word.contains('=') && !word.contains("${"));
        Ok(format!("{} console=ttyS0", words.collect::<Vec<_>>().join(" ")))
    }

    /// What a boot program would put into the memory of a machine with this command line: the image's initramfs, and before
    /// it the network that is handed to the machine, where there is one. Written into `folder`.
    pub fn initramfs(&self, cmdline: &str, folder: &Path) -> Result<PathBuf> {
        let image = artifacts::image()?.join("initramfs");
        let ticket = cmdline.split_whitespace().find_map(|word| word.strip_prefix("muster.ticket="));
        let path = format!("/boot/network?ticket={}", ticket.context("a ticket")?);
        let reply = self.controller.boot().send("GET", &path, &[], None)?;
        match reply.status {
            404 => Ok(image),
            200 => {
                std::fs::create_dir_all(folder)?;
                let both = folder.join("initramfs");
                std::fs::write(&both, [&reply.body[..], &std::fs::read(image)?].concat())?;
                Ok(both)
            }
            _ => bail!("no network for a machine that boots: {}", reply.text()),
        }
    }

    /// The only machine there is, with its inventory.
    pub fn machine(&self) -> Result<Value> {
        let api = self.controller.api()?;
        let list = api.get("/api/v1/machines")?;
        match list["items"].as_array().map(Vec::as_slice) {
            Some([one]) => api.get(&format!("/api/v1/machines/{}", text(one, "/id")?)),
            _ => bail!("not one machine: {list}"),
        }
    }

    /// Waits until the only machine is as `is_so` wants it.
    pub fn until(&self, deadline: Duration, what: &str, is_so: impl Fn(&Value) -> bool) -> Result<Value> {
        eventually(deadline, what, || {
            let mut machine = self.machine()?;
            if is_so(&machine) {
                return Ok(machine);
            }
            machine["inventory"].take();
            bail!("{machine}")
        })
    }

    /// Waits until the only machine is online, in another boot than `before`, and has told what it is made of.
    pub fn until_online(&self, before: Option<&str>) -> Result<Value> {
        self.until(BOOT, "the machine comes online", |machine| {
            let presence = &machine["presence"];
            presence["state"] == "online" && presence["boot"].as_str() != before && !machine["inventory"].is_null()
        })
    }

    /// Waits until the only machine is online and has told that it is made as `spec` says.
    /// It tells of its NICs at once, and of everything else as soon as its drivers are there.
    pub fn until_inventoried(&self, spec: &Spec) -> Result<Value> {
        self.until_online(None)?;
        eventually(SOON, "the inventory is what QEMU was given", || {
            let machine = self.machine()?;
            check_inventory(spec, &machine)?;
            Ok(machine)
        })
    }

    /// Waits until the only machine is online, and approves it. It is welcomed anew then, in another session.
    pub fn admit(&self) -> Result<Value> {
        let pending = self.until_online(None)?;
        self.controller.muster(&["machine", "approve", text(&pending, "/id")?])?;
        self.until(SOON, "the machine is available and online", |machine| {
            machine["lifecycle"] == "available" && is_welcomed_anew(machine, &pending)
        })
    }
}

/// Whether a machine is online in another session than it was `before`.
pub fn is_welcomed_anew(machine: &Value, before: &Value) -> bool {
    let (now, then) = (&machine["presence"], &before["presence"]);
    now["state"] == "online" && now["since"] != then["since"]
}

/// One text in an answer.
pub fn text<'a>(value: &'a Value, pointer: &str) -> Result<&'a str> {
    value.pointer(pointer).and_then(Value::as_str).with_context(|| format!("no text at {pointer} in {value}"))
}

/// A machine with two disks and two NICs in QEMU's own networks.
pub fn machine(firmware: Firmware, boot: Boot) -> Result<Spec> {
    let user = |subnet| Net::User { subnet, bootfile: None };
    Ok(Spec {
        firmware,
        boot,
        memory_mib: 512,
        // Of two emulated ones, each takes up to half of its time waiting for the other's locks.
        cpus: 1,
        uuid: "4c4c4544-0042-3510-8052-b4c04f4e3132".into(),
        serial: "LAB-0001".into(),
        clock: HardwareClock::Right,
        board_serial: "LAB-BOARD-0001".into(),
        disks: vec![Disk::new(DiskKind::Virtio, "LAB-DISK-A", 1024), Disk::new(DiskKind::Nvme, "LAB-DISK-B", 512)],
        nics: vec![
            Nic { mac: "52:54:00:4c:41:01".parse()?, model: "virtio-net-pci", net: user(2), place: Place::Board },
            Nic { mac: "52:54:00:4c:41:02".parse()?, model: "e1000e", net: user(3), place: Place::Board },
        ],
        tpm: None,
        bmc: Bmc::Absent,
    })
}

/// Compares a machine's inventory with what QEMU was given.
///
/// Errors: every difference.
pub fn check_inventory(spec: &Spec, machine: &Value) -> Result<()> {
    let inventory = &machine["inventory"];
    let mut differences = Vec::new();
    let mut expect = |what: &str, found: &Value, expected: Value| {
        if *found != expected {
            differences.push(format!("{what} is {found} and not {expected}"));
        }
    };
    let firmware = match spec.firmware {
        Firmware::Bios => "bios",
        Firmware::Uefi => "uefi",
    };
    expect("the firmware", &inventory["firmware"]["kind"], firmware.into());
    expect("the UUID", &inventory["system"]["uuid"], spec.uuid.as_str().into());
    expect("the serial", &inventory["system"]["serial"], spec.serial.as_str().into());
    expect("the board's serial", &inventory["system"]["board_serial"], spec.board_serial.as_str().into());
    expect("the vendor", &inventory["system"]["vendor"], "Muster".into());
    expect("the product", &inventory["system"]["product"], "Lab".into());
    expect("the sockets", &inventory["cpu"]["sockets"], 1.into());
    expect("the cores", &inventory["cpu"]["cores"], spec.cpus.into());
    expect("the threads", &inventory["cpu"]["threads"], spec.cpus.into());
    expect("the DIMMs' size", &sum(&inventory["memory"]["dimms"]), (u64::from(spec.memory_mib) << 20).into());

    expect("whether there is a BMC", &inventory["bmc"].is_object().into(), (spec.bmc != Bmc::Absent).into());

    let mut disks = named(&inventory["disks"], "serial");
    for disk in &spec.disks {
        let found = take(&mut disks, &disk.serial);
        let what = format!("disk {}: its", disk.serial);
        let (transport, wwn) = match disk.kind {
            DiskKind::Virtio => ("virtio", None),
            DiskKind::Nvme => ("nvme", None),
            DiskKind::Scsi { wwn } => ("scsi", Some(format!("naa.{wwn:016x}"))),
            DiskKind::Sata { wwn } => ("sata", Some(format!("naa.{wwn:016x}"))),
            DiskKind::Usb | DiskKind::Stick => ("usb", None),
        };
        let attachment = match disk.kind {
            DiskKind::Usb => "external",
            DiskKind::Stick => "removable",
            _ => "fixed",
        };
        expect(&format!("{what} size"), &found["size_bytes"], (disk.size_mib << 20).into());
        expect(&format!("{what} transport"), &found["transport"], transport.into());
        expect(&format!("{what} attachment"), &found["attachment"], attachment.into());
        if let Some(wwn) = wwn {
            expect(&format!("{what} WWN"), &found["wwn"], wwn.into());
        }
    }
    // The stick that it booted from is a disk as well.
    let others: Vec<_> = disks.iter().filter(|(_, disk)| disk["attachment"] != "removable").collect();
    expect("what other disks there are", &others.len().into(), 0.into());

    let mut nics = named(&inventory["nics"], "permanent_mac");
    for nic in &spec.nics {
        let mac = nic.mac.to_string();
        let found = take(&mut nics, &mac);
        expect(&format!("NIC {mac}: its MAC in use"), &found["mac"], mac.as_str().into());
        expect(&format!("NIC {mac}: its carrier"), &found["carrier"], true.into());
        let driver = if nic.model == "virtio-net-pci" { "virtio_net" } else { nic.model };
        expect(&format!("NIC {mac}: its driver"), &found["driver"], driver.into());
    }
    expect("how many other NICs there are", &nics.len().into(), 0.into());

    // The kernel keeps some of what is plugged in for itself: page tables, its own image, what firmware reserves.
    let total = inventory["memory"]["total_bytes"].as_u64().unwrap_or_default() >> 20;
    let plugged = u64::from(spec.memory_mib);
    if !(plugged * 3 / 4..=plugged).contains(&total) {
        differences.push(format!("the memory is {total} MiB of {plugged}"));
    }
    if differences.is_empty() { Ok(()) } else { bail!("{}\n{inventory:#}", differences.join("\n")) }
}

fn sum(dimms: &Value) -> Value {
    let sizes = dimms.as_array().into_iter().flatten().filter_map(|dimm| dimm["size_bytes"].as_u64());
    sizes.sum::<u64>().into()
}

fn named(list: &Value, key: &str) -> Vec<(String, Value)> {
    let name = |entry: &Value| entry[key].as_str().unwrap_or_default().to_owned();
    list.as_array().into_iter().flatten().map(|entry| (name(entry), entry.clone())).collect()
}

/// Null where there is none of that name.
fn take(list: &mut Vec<(String, Value)>, name: &str) -> Value {
    let at = list.iter().position(|(found, _)| found == name);
    at.map(|at| list.swap_remove(at).1).unwrap_or_default()
}
