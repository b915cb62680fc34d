//! The filesystems of the kernel's own that programs expect.

use std::ffi::CStr;
use std::fs;

use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};

struct Mount {
    kind: &'static str,
    at: &'static str,
    flags: MountFlags,
    data: Option<&'static CStr>,
}

/// Mounts them in order. What fails is said; only a kernel without /proc or /dev makes a useless machine.
pub fn mount_all() {
    let plain = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let device = MountFlags::NOSUID | MountFlags::NOEXEC;
    for entry in [
        Mount { kind: "proc", at: "/proc", flags: plain, data: None },
        Mount { kind: "sysfs", at: "/sys", flags: plain, data: None },
        Mount { kind: "devtmpfs", at: "/dev", flags: device, data: Some(c"mode=0755") },
        Mount { kind: "devpts", at: "/dev/pts", flags: device, data: Some(c"mode=0620,ptmxmode=0666") },
        Mount { kind: "tmpfs", at: "/run", flags: MountFlags::NOSUID | MountFlags::NODEV, data: Some(c"mode=0755") },
        Mount { kind: "cgroup2", at: "/sys/fs/cgroup", flags: plain, data: None },
    ] {
        attempt(&entry);
    }
    if let Err(error) = fs::create_dir_all("/tmp") {
        crate::warn!("could not make /tmp: {error}");
    }
}

fn attempt(entry: &Mount) {
    let Mount { kind, at, flags, data } = entry;
    // sysfs and devtmpfs have these folders or allow them to be made; the image has the others.
    let _ = fs::create_dir_all(at);
    match mount(*kind, *at, *kind, *flags, *data) {
        // A restarted supervisor, or a kernel that mounts by itself.
        Ok(()) | Err(Errno::BUSY) => {}
        Err(error) => crate::warn!("could not mount {kind} at {at}: {error}"),
    }
}
