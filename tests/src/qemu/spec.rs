//! What a virtual machine is made of, and the QEMU command line that makes it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use muster_protocol::Mac;

use super::Tpm;
use crate::bmc::INSIDE;

/// The name of QEMU's control socket.
pub(super) const CONTROL: &str = "qmp";
/// The name of the socket that the TPM listens at.
pub(super) const TPM: &str = "tpm";

/// An emulated processor does not say that `rep movsb` is fast: where it does, kernel and libc copy by it, and emulation
/// goes byte by byte (a quarter of the time of programs in a guest).
const EMULATED: &str = "-machine q35,accel=tcg -cpu max,-erms";

/// The parts of a machine.
#[derive(Debug, Clone)]
pub struct Spec {
    /// What its firmware does.
    pub firmware: Firmware,
    /// What it starts from.
    pub boot: Boot,
    /// MiB.
    pub memory_mib: u32,
    /// Hardware threads, one per core, one socket.
    pub cpus: u16,
    /// SMBIOS system UUID, as printed.
    pub uuid: String,
    /// SMBIOS system serial.
    pub serial: String,
    /// What its hardware clock says when it is switched on.
    pub clock: HardwareClock,
    /// SMBIOS board serial.
    pub board_serial: String,
    /// In the order in which they are plugged in.
    pub disks: Vec<Disk>,
    /// In the order in which they are plugged in.
    pub nics: Vec<Nic>,
    /// A security chip.
    pub tpm: Option<Tpm>,
    /// A management controller.
    pub bmc: Bmc,
}

/// What manages a machine from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bmc {
    /// Nothing.
    Absent,
    /// QEMU's own, which the machine reaches over a keyboard-style port (KCS), and which has no network.
    Ipmi,
    /// One that is there already, and has an address; see [`bmc`](crate::bmc).
    OnLan,
}

/// What a hardware clock says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HardwareClock {
    /// The time that it is.
    Right,
    /// The first of January of this year.
    Year(u16),
}

/// Which firmware.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS.
    Bios,
    /// OVMF, without Secure Boot.
    Uefi,
}

/// What a machine starts from.
#[derive(Debug, Clone)]
pub enum Boot {
    /// An ISO in a CD drive.
    Cd(PathBuf),
    /// The same ISO on a stick.
    Usb(PathBuf),
    /// The first NIC's ROM.
    Network,
    /// No firmware worth the name: QEMU puts kernel and initramfs into memory.
    Kernel {
        /// Kernel image.
        kernel: PathBuf,
        /// Initramfs.
        initramfs: PathBuf,
        /// Command line.
        cmdline: String,
    },
}

/// One disk, an image file called `SERIAL.img` in the machine's folder.
#[derive(Debug, Clone)]
pub struct Disk {
    /// How it is connected.
    pub kind: DiskKind,
    /// Serial number; virtio keeps 20 bytes of it.
    pub serial: String,
    /// MiB.
    pub size_mib: u64,
    /// Bytes of a sector, 512 or 4096; SATA disks and sticks have 512, whatever is said here.
    pub sector: u32,
    /// Whether all that is written to it is kept in the order in which it came, in `SERIAL.log`: see [`super::writes`].
    pub is_logged: bool,
    /// Whether it is not plugged in when the machine is switched on.
    pub is_pulled: bool,
}

/// How a disk is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskKind {
    /// virtio-blk.
    Virtio,
    /// NVMe.
    Nvme,
    /// SCSI behind virtio-scsi, with this world wide name. It may be pulled while the machine runs.
    Scsi {
        /// 64 bits, NAA 5 or 3 in the highest four.
        wwn: u64,
    },
    /// SATA behind AHCI, one disk to a port, with this world wide name.
    Sata {
        /// 64 bits, NAA 5 or 3 in the highest four.
        wwn: u64,
    },
    /// A disk in a case on USB: one with sectors of 512 bytes behind a bridge of the old kind, one with large sectors behind UAS.
    Usb,
    /// A stick.
    Stick,
}

/// One network card.
#[derive(Debug, Clone)]
pub struct Nic {
    /// Its address.
    pub mac: Mac,
    /// QEMU's name of the model, such as `virtio-net-pci` or `e1000`.
    pub model: &'static str,
    /// What its plug is in.
    pub net: Net,
    /// Where it sits.
    pub place: Place,
}

/// Where a NIC sits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// On the board.
    Board,
    /// In a slot, which it may be pulled out of while the machine runs.
    Slot,
}

/// What a NIC is plugged into.
#[derive(Debug, Clone)]
pub enum Net {
    /// QEMU's own little network: `10.0.N.0/24` with DHCP, the host is `10.0.N.2`.
    User {
        /// N.
        subnet: u8,
        /// What DHCP tells a boot ROM to load.
        bootfile: Option<String>,
    },
    /// A port of a [`crate::switch::Switch`].
    Port {
        /// The switch's end, where frames for the machine are sent from.
        far: PathBuf,
        /// The machine's end.
        near: PathBuf,
    },
}

impl Disk {
    /// One with sectors of 512 bytes.
    pub fn new(kind: DiskKind, serial: &str, size_mib: u64) -> Self {
        Self { kind, serial: serial.into(), size_mib, sector: 512, is_logged: false, is_pulled: false }
    }

    /// The same with sectors of 4096 bytes.
    pub fn with_large_sectors(self) -> Self {
        Self { sector: 4096, ..self }
    }

    /// The same, and what is written to it is kept.
    pub fn logged(self) -> Self {
        Self { is_logged: true, ..self }
    }

    /// Where the log of what was written to it is, for a machine in `folder`.
    pub fn log(&self, folder: &Path) -> PathBuf {
        folder.join(format!("{}.log", self.serial))
    }

    /// Where its image is, for a machine in `folder`.
    pub fn path(&self, folder: &Path) -> PathBuf {
        folder.join(format!("{}.img", self.serial))
    }

    /// Makes the image where there is none: all zeros, taking no room.
    pub(super) fn make(&self, folder: &Path) -> Result<()> {
        let path = self.path(folder);
        if !path.exists() {
            let file = std::fs::File::create(&path).with_context(|| format!("making {}", path.display()))?;
            file.set_len(self.size_mib << 20)?;
        }
        if self.is_logged {
            std::fs::File::create(self.log(folder))?;
        }
        Ok(())
    }

    /// The image as QEMU's block layer takes it, and the device; `port` counts SATA disks.
    fn arguments(&self, i: usize, port: usize, folder: &Path) -> Result<String> {
        let (path, log) = (self.path(folder), self.log(folder));
        let image = text(&path)?;
        // Nothing waits for the host's medium: the test outlives its page cache. A log has each flush written down.
        let file =
            |prefix: &str| format!("{prefix}cache.no-flush=on,{prefix}file.driver=file,{prefix}file.filename={image}");
        let backend = match self.is_logged {
            true => format!(
                "-blockdev driver=blklogwrites,node-name=disk{i},discard=unmap,log.driver=file,log.cache.no-flush=on,\
                 log.filename={},file.driver=raw,file.discard=unmap,file.file.discard=unmap,{}",
                text(&log)?,
                file("file.")
            ),
            false => {
                format!("-blockdev driver=raw,node-name=disk{i},discard=unmap,file.discard=unmap,{}", file(""))
            }
        };
        if self.is_pulled {
            return Ok(backend);
        }
        let Self { serial, sector, .. } = self;
        let sectors = match sector {
            512 => String::new(),
            _ => format!(",logical_block_size={sector},physical_block_size={sector}"),
        };
        let device = match self.kind {
            DiskKind::Virtio => format!("virtio-blk-pci,drive=disk{i},serial={serial}{sectors}"),
            DiskKind::Nvme => format!("nvme,drive=disk{i},serial={serial}{sectors}"),
            DiskKind::Scsi { wwn } => {
                format!("scsi-hd,bus=scsi.0,drive=disk{i},serial={serial},wwn={wwn:#x}{sectors}")
            }
            DiskKind::Sata { wwn } => format!("ide-hd,bus=sata.{port},drive=disk{i},serial={serial},wwn={wwn:#x}"),
            // QEMU's usb-storage keeps the size of sectors to itself.
            DiskKind::Usb if *sector != 512 => format!(
                "usb-uas,bus=usb.0,id=uas{i} -device scsi-hd,bus=uas{i}.0,drive=disk{i},serial={serial}{sectors}"
            ),
            DiskKind::Usb => format!("usb-storage,bus=usb.0,drive=disk{i},serial={serial},removable=off"),
            DiskKind::Stick => format!("usb-storage,bus=usb.0,drive=disk{i},serial={serial},removable=on"),
        };
        // Where the medium gives up, firmware goes on to the disks: OVMF forgets those that are not in QEMU's order.
        Ok(format!("{backend} -device {device},id=plug{i},bootindex={}", i + 1))
    }
}

impl Spec {
    /// The QEMU arguments, with QEMU's sockets in `sockets`.
    /// Writes the firmware's variables to `folder` where the firmware keeps some.
    pub(super) fn arguments(&self, folder: &Path, sockets: &Path) -> Result<Vec<String>> {
        let mut line = Arguments::default();
        line.add("-nodefaults -no-user-config -display none -device VGA");
        line.add(if is_virtualized() { "-machine q35,accel=kvm -cpu host" } else { EMULATED });
        line.add(&format!("-m {} -smp {},sockets=1 -uuid {}", self.memory_mib, self.cpus, self.uuid));
        line.add(&format!("-smbios type=1,manufacturer=Muster,product=Lab,serial={},uuid={}", self.serial, self.uuid));
        if let HardwareClock::Year(year) = self.clock {
            line.add(&format!("-rtc base={year}-01-01T00:00:00"));
        }
        line.add(&format!("-smbios type=2,manufacturer=Muster,product=Board,serial={}", self.board_serial));
        // Without -no-reboot a reboot is one; a power-off ends the process.
        line.add("-chardev stdio,id=console,signal=off -serial chardev:console");
        line.add(&format!("-qmp unix:{},server=on,wait=off", text(&sockets.join(CONTROL))?));
        if self.firmware == Firmware::Uefi {
            let variables = folder.join("uefi-variables.fd");
            if !variables.exists() {
                std::fs::copy("/usr/share/OVMF/OVMF_VARS_4M.fd", &variables).context("copying OVMF's variables")?;
            }
            line.add("-drive if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd");
            line.add(&format!("-drive if=pflash,format=raw,file={}", text(&variables)?));
        }
        if let Some(Tpm { model, .. }) = &self.tpm {
            line.add(&format!("-chardev socket,id=tpm,path={}", text(&sockets.join(TPM))?));
            line.add(&format!("-tpmdev emulator,id=tpm0,chardev=tpm -device {model},tpmdev=tpm0"));
        }
        match self.bmc {
            Bmc::Absent => {}
            Bmc::Ipmi => line.add("-device ipmi-bmc-sim,id=bmc -device isa-ipmi-kcs,bmc=bmc"),
            Bmc::OnLan => {
                line.add(&format!("-chardev socket,id=bmc-port,host=127.0.0.1,port={INSIDE},reconnect=1"));
                line.add("-device ipmi-bmc-extern,id=bmc,chardev=bmc-port -device isa-ipmi-kcs,bmc=bmc");
            }
        }
        let any = |is_it: fn(&DiskKind) -> bool| self.disks.iter().any(|disk| is_it(&disk.kind));
        if any(|kind| matches!(kind, DiskKind::Scsi { .. })) {
            line.add("-device virtio-scsi-pci,id=scsi");
        }
        if any(|kind| matches!(kind, DiskKind::Sata { .. })) {
            line.add("-device ahci,id=sata");
        }
        if any(|kind| matches!(kind, DiskKind::Usb | DiskKind::Stick)) || matches!(self.boot, Boot::Usb(_)) {
            line.add("-device qemu-xhci,id=usb");
        }
        self.boot_arguments(&mut line)?;
        for (i, disk) in self.disks.iter().enumerate() {
            let port = self.disks[..i].iter().filter(|disk| matches!(disk.kind, DiskKind::Sata { .. })).count();
            line.add(&disk.arguments(i, port, folder)?);
        }
        for (i, nic) in self.nics.iter().enumerate() {
            line.add(&nic.net.argument(i)?);
            // Only the NIC that boots carries a ROM: the others would each wait for a DHCP server.
            let rom = match (&self.boot, i) {
                (Boot::Network, 0) => "bootindex=0",
                _ => "romfile=",
            };
            let slot = match nic.place {
                Place::Board => String::new(),
                Place::Slot => {
                    line.add(&format!("-device pcie-root-port,id=slot{i},chassis={}", i + 1));
                    format!(",bus=slot{i}")
                }
            };
            line.add(&format!("-device {},id=nic{i},netdev=net{i},mac={},{rom}{slot}", nic.model, nic.mac));
        }
        Ok(line.0)
    }

    fn boot_arguments(&self, line: &mut Arguments) -> Result<()> {
        match &self.boot {
            Boot::Cd(iso) => {
                line.add(&format!("-drive if=none,id=boot,format=raw,media=cdrom,readonly=on,file={}", text(iso)?));
                line.add("-device ide-cd,drive=boot,bootindex=0");
            }
            Boot::Usb(iso) => {
                line.add(&format!("-drive if=none,id=boot,format=raw,readonly=on,file={}", text(iso)?));
                line.add("-device usb-storage,bus=usb.0,drive=boot,removable=on,bootindex=0");
            }
            Boot::Network => {}
            Boot::Kernel { kernel, initramfs, cmdline } => {
                line.add(&format!("-kernel {} -initrd {}", text(kernel)?, text(initramfs)?));
                line.0.extend(["-append".into(), cmdline.clone()]);
            }
        }
        Ok(())
    }
}

impl Net {
    fn argument(&self, i: usize) -> Result<String> {
        Ok(match self {
            Self::User { subnet, bootfile } => {
                let bootfile = bootfile.as_ref().map(|url| format!(",bootfile={url}")).unwrap_or_default();
                format!("-netdev user,id=net{i},net=10.0.{subnet}.0/24,host=10.0.{subnet}.2{bootfile}")
            }
            Self::Port { far, near } => format!(
                "-netdev dgram,id=net{i},remote.type=unix,remote.path={},local.type=unix,local.path={}",
                text(far)?,
                text(near)?
            ),
        })
    }
}

/// A command line in the making; its words hold no blanks unless they are added one by one.
#[derive(Default)]
struct Arguments(Vec<String>);

impl Arguments {
    fn add(&mut self, words: &str) {
        self.0.extend(words.split_ascii_whitespace().map(str::to_owned));
    }
}

/// A path as QEMU's options take it: commas separate them, blanks would be cut by [`Arguments::add`].
fn text(path: &Path) -> Result<&str> {
    match path.to_str() {
        Some(text) if !text.contains([',', ' ']) => Ok(text),
        _ => bail!("{} holds a comma or a blank, which QEMU's options cannot say; move the checkout", path.display()),
    }
}

/// Whether the processor really virtualizes: a machine can have /dev/kvm without, and then guests hang in it.
fn is_virtualized() -> bool {
    let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let able = flags.split_ascii_whitespace().any(|flag| flag == "vmx" || flag == "svm");
    able && std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok()
}
