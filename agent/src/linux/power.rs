//! Reboot and power-off of the real machine.

use std::fs;
use std::io;
use std::process::{Command, Stdio};

use muster_protocol::to_agent::PowerAction;
use rustix::mount::{MountFlags, UnmountFlags, mount_remount, unmount};
use rustix::system::{RebootCommand, reboot};

use crate::machine::MachineError;

/// Writes everything to the disks, takes their filesystems out of use, and acts. For PID 1 and its worker: nobody else has
/// anything to put in order. Returns only where the kernel refuses.
pub fn act(action: PowerAction) -> Result<(), MachineError> {
    rustix::fs::sync();
    leave_disks();
    rustix::fs::sync();
    let (command, words) = match action {
        PowerAction::Reboot => (RebootCommand::Restart, "restart the machine"),
        PowerAction::Off => (RebootCommand::PowerOff, "power the machine off"),
    };
    reboot(command).map_err(|error| MachineError::os(words, error))
}

/// Asks the init system that runs this machine, which has other programs to end first. Returns when it has been told.
pub fn ask_init(action: PowerAction) -> Result<(), MachineError> {
    let flag = match action {
        PowerAction::Reboot => "-r",
        PowerAction::Off => "-P",
    };
    let told = Command::new("/sbin/shutdown").args([flag, "now"]).stdin(Stdio::null()).output();
    match told {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(MachineError::Program { program: "shutdown", output: format!("{}: {text}", output.status) })
        }
        Err(error) => Err(MachineError::os("run /sbin/shutdown", error)),
    }
}

/// Unmounts what lies on disks, the innermost first, so that no journal has to be replayed. What is in use becomes
/// read-only at least.
fn leave_disks() {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for line in mounts.lines().rev().filter(|line| line.starts_with("/dev/")) {
        let Some(at) = line.split(' ').nth(1).map(unescaped) else { continue };
        if unmount(at.as_str(), UnmountFlags::empty()).is_err()
            && let Err(error) = mount_remount(at.as_str(), MountFlags::RDONLY, "")
        {
            crate::warn!("could not unmount {at}: {}", io::Error::from(error));
        }
    }
}

/// The kernel writes blanks, tabs, newlines and backslashes as three octal digits (proc(5)).
fn unescaped(path: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(path.to_owned(), |path, (code, character)| path.replace(code, character))
}
