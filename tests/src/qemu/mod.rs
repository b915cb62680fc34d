//! Virtual x86 machines.
//!
//! [`spec`] says what a machine is made of, [`Machine`] is one that runs, [`console`] is what it writes on its serial
//! port, [`qmp`] is the hand on its power switch, [`tpm`] its security chip, [`disks`] looks at what it leaves behind,
//! [`attached`] with the programs of other people. [`writes`] is how it came there.

pub mod attached;
pub mod console;
pub mod disks;
pub mod qmp;
pub mod spec;
pub mod tpm;
pub mod writes;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::child::Process;
pub use console::Console;
use qmp::Qmp;
pub use spec::{Bmc, Boot, Disk, DiskKind, Firmware, HardwareClock, Net, Nic, Place, Spec};
pub use tpm::Tpm;

/// A running machine. It is unplugged when this is dropped.
pub struct Machine {
    process: Process,
    tpm: Option<Process>,
    folder: PathBuf,
    /// Sockets have short names only (108 bytes, unix(7)), so they do not lie in the machine's folder.
    sockets: TempDir,
    /// What it writes on its serial port.
    pub console: Console,
}

impl Machine {
    /// Plugs in a machine made as `spec` says; disks, console and log lie in `folder`.
    /// Disk images that are there already are used as they are.
    pub fn start(spec: &Spec, folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        for disk in &spec.disks {
            disk.make(folder)?;
        }
        let sockets = tempfile::tempdir()?;
        let tpm = spec.tpm.as_ref().map(|tpm| tpm.start(&sockets.path().join(spec::TPM), folder)).transpose()?;
        let mut command = Command::new("qemu-system-x86_64");
        command.args(spec.arguments(folder, sockets.path())?).stdin(Stdio::null()).stdout(Stdio::piped());
        command.stderr(std::fs::File::create(folder.join("qemu.log"))?);
        let mut process = Process::start_as_is("qemu", &mut command)?;
        let output = process.child().stdout.take().context("qemu's standard output is a pipe")?;
        let console = Console::follow(output, &folder.join("console.log"))?;
        Ok(Self { process, tpm, folder: folder.to_owned(), sockets, console })
    }

    /// Pulls the plug: no shutdown, no goodbye.
    pub fn unplug(&mut self) {
        self.process.kill();
        self.tpm = None;
    }

    /// The reset button.
    pub fn reset(&self) -> Result<()> {
        self.qmp()?.run("system_reset")
    }

    /// Pulls the cable of a NIC, counted from zero, or puts it in.
    pub fn plug(&self, nic: usize, is_in: bool) -> Result<()> {
        self.qmp()?.run_with("set_link", serde_json::json!({ "name": format!("net{nic}"), "up": is_in }))
    }

    /// Pulls a NIC in a slot, counted from zero, out of it, and waits until the machine's kernel has let it go.
    pub fn pull_out(&self, nic: usize) -> Result<()> {
        let id = format!("nic{nic}");
        let mut qmp = self.qmp()?;
        qmp.run_with("device_del", serde_json::json!({ "id": id }))?;
        qmp.wait_for("DEVICE_DELETED", |data| data["device"] == id.as_str())
    }

    /// Puts the NIC that was pulled out, as the machine was made with it, into its slot again.
    pub fn put_in(&self, nic: usize, as_made: &Nic) -> Result<()> {
        let Nic { model, mac, .. } = as_made;
        let [id, netdev, bus] = ["nic", "net", "slot"].map(|kind| format!("{kind}{nic}"));
        let device = serde_json::json!({
            "driver": model, "id": id, "netdev": netdev, "mac": mac.to_string(), "romfile": "", "bus": bus,
        });
        self.qmp()?.run_with("device_add", device)
    }

    /// Pulls a disk that may be pulled, counted from zero, and waits until the machine's kernel has let it go.
    pub fn pull_disk(&self, disk: usize) -> Result<()> {
        let id = format!("plug{disk}");
        let mut qmp = self.qmp()?;
        qmp.run_with("device_del", serde_json::json!({ "id": id }))?;
        qmp.wait_for("DEVICE_DELETED", |data| data["device"] == id.as_str())
    }

    /// Plugs a disk that was pulled into its place again, the same one or another with the same image.
    pub fn put_disk(&self, disk: usize, serial: &str, wwn: u64) -> Result<()> {
        self.qmp()?.run_with(
            "device_add",
            serde_json::json!({
                "driver": "scsi-hd", "bus": "scsi.0", "id": format!("plug{disk}"), "drive": format!("disk{disk}"),
                "serial": serial, "wwn": wwn,
            }),
        )
    }

    /// Plugs a disk into USB that is pulled, in its case with sectors of 512 bytes.
    pub fn put_usb_disk(&self, disk: usize, serial: &str) -> Result<()> {
        self.qmp()?.run_with(
            "device_add",
            serde_json::json!({
                "driver": "usb-storage", "bus": "usb.0", "id": format!("plug{disk}"), "drive": format!("disk{disk}"),
                "serial": serial, "removable": false,
            }),
        )
    }

    /// Gives a disk, counted from zero, another size while the machine runs.
    pub fn resize_disk(&self, disk: usize, size_mib: u64) -> Result<()> {
        let arguments = serde_json::json!({ "node-name": format!("disk{disk}"), "size": size_mib << 20 });
        self.qmp()?.run_with("block_resize", arguments)
    }

    /// Kills every process but PID 1, as Alt, SysRq and I do; only where the kernel's command line allows it.
    pub fn kill_processes(&self) -> Result<()> {
        let key = |name| serde_json::json!({ "type": "qcode", "data": name });
        self.qmp()?.run_with("send-key", serde_json::json!({ "keys": [key("alt"), key("sysrq"), key("i")] }))
    }

    /// Writes what a person in front of the machine would see to `screen.png` in its folder.
    pub fn screenshot(&self) -> Result<PathBuf> {
        let path = self.folder.join("screen.png");
        self.qmp()?
            .run_with("screendump", serde_json::json!({ "filename": path.display().to_string(), "format": "png" }))?;
        Ok(path)
    }

    /// The words on the screen while it shows text, as boot programs do: the memory of the text screen, 80 by 25 cells of a
    /// character and its color.
    pub fn text_screen(&self) -> Result<String> {
        let path = self.folder.join("screen.bin");
        let place = serde_json::json!({ "val": 0xb8000, "size": 80 * 25 * 2, "filename": path.display().to_string() });
        self.qmp()?.run_with("pmemsave", place)?;
        let cells = std::fs::read(path)?;
        let line =
            |line: &[u8]| line.iter().step_by(2).map(|&c| char::from(c)).collect::<String>().trim_end().to_owned();
        Ok(cells.chunks(80 * 2).map(line).collect::<Vec<_>>().join("\n"))
    }

    /// Waits until the machine has switched itself off.
    pub fn wait_off(&mut self, deadline: Duration) -> Result<()> {
        let status = self.process.wait(deadline)?;
        if !status.success() {
            bail!("qemu ended with {status}, see {}", self.folder.join("qemu.log").display());
        }
        Ok(())
    }

    /// Whether it has power.
    pub fn is_on(&mut self) -> Result<bool> {
        Ok(self.process.ended()?.is_none())
    }

    fn qmp(&self) -> Result<Qmp> {
        Qmp::connect(&self.sockets.path().join(spec::CONTROL))
    }
}
