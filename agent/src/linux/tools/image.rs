//! The tools image on its way from the controller to its place: a file in RAM, checked, attached to a loop device, mounted.
//!
//! Which image it has to be says the initramfs ([`muster_protocol::tools`]). Nothing of another one is ever mounted.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use muster_protocol::Digest;
use muster_protocol::tools::{self, Pinned};
use ring::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use rustix::io::Errno;
use rustix::ioctl::{self, IntegerSetter, Setter, ioctl};
use rustix::mount::{MountFlags, mount};

use super::{MOUNTED, are_here};
use crate::linux::{modules, sysfs};
use crate::machine::MachineError;
use crate::plan::Tools;

/// Where it grows, in RAM.
const FILE: &str = "/run/muster/tools.image";

// Linux kernel, include/uapi/linux/loop.h.
const LOOP_CTL_ADD: ioctl::Opcode = 0x4c80;
const LOOP_CONFIGURE: ioctl::Opcode = 0x4c0a;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
/// Devices that are tried: others may use some.
const LOOPS: usize = 64;

/// Where the programs are for a machine that runs from an image.
pub fn look() -> Tools {
    let pinned = fs::read_to_string(Path::new("/").join(tools::PATH)).ok().and_then(|text| text.parse().ok());
    match pinned {
        Some(pinned) if !are_here() => {
            // What programs may take before something else has to go, by proc_meminfo(5).
            Tools::Away { pinned, free_bytes: sysfs::memory(Path::new("/"), "MemAvailable:") }
        }
        // Of an image that pins none, what there is has to do.
        Some(_) | None => Tools::Here,
    }
}

/// Keeps bytes of it. Those at 0 begin it anew.
pub fn keep(at: u64, bytes: &[u8]) -> Result<(), MachineError> {
    let kept = OpenOptions::new().write(true).create(true).truncate(at == 0).mode(0o600).open(FILE);
    kept.and_then(|file| file.write_all_at(bytes, at)).map_err(|source| {
        let _ = fs::remove_file(FILE);
        MachineError::os("keep the storage tools in memory", source)
    })
}

/// Checks it, and mounts it.
///
/// Errors: among others it is another one, which is thrown away.
pub fn open(pinned: &Pinned) -> Result<(), MachineError> {
    if are_here() {
        return Ok(());
    }
    let opened = checked(Path::new(FILE), pinned).and_then(|file| {
        modules::load("loop")?;
        modules::load("squashfs")?;
        mount_at(&file, MOUNTED).map_err(|source| MachineError::os("mount the storage tools", source))
    });
    // Mounted, it needs no name any more: nobody is to write to it.
    let _ = fs::remove_file(FILE);
    opened
}

/// The file, if it is what is pinned.
fn checked(path: &Path, pinned: &Pinned) -> Result<File, MachineError> {
    let failed = |source| MachineError::os("read the storage tools", source);
    let mut file = File::open(path).map_err(failed)?;
    let (mut hash, mut bytes) = (Context::new(&SHA256), 0);
    let mut chunk = vec![0; 64 << 10];
    loop {
        match file.read(&mut chunk).map_err(failed)? {
            0 => break,
            count => {
                hash.update(&chunk[..count]);
                bytes += count as u64;
            }
        }
    }
    let mut digest = [0; SHA256_OUTPUT_LEN];
    digest.copy_from_slice(hash.finish().as_ref());
    let digest = Digest::from_bytes(digest);
    if (Pinned { digest, bytes }) == *pinned {
        return Ok(file);
    }
    Err(MachineError::Unable(format!(
        "use the storage tools that the controller sent: they have {bytes} bytes and the SHA-256 {digest}, and the image \
         that this machine booted names {} bytes and {}; make the image anew with muster image build, and reboot",
        pinned.bytes, pinned.digest
    )))
}

/// Mounts a squashfs for reading. The loop device goes with the mount.
pub fn mount_at(file: &File, place: &str) -> io::Result<()> {
    fs::create_dir_all(place)?;
    let (_device, path) = attach(file)?;
    let flags = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID;
    Ok(mount(&path, place, "squashfs", flags, None)?)
}

/// Attaches the file to a free loop device, for reading: the device is free again when nobody has it open or mounted.
fn attach(file: &File) -> io::Result<(File, String)> {
    let control = File::options().read(true).write(true).open("/dev/loop-control")?;
    let config = LoopConfig::of(file);
    for number in 0..LOOPS {
        match add_loop(&control, number) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let path = format!("/dev/loop{number}");
        let device = File::open(&path)?;
        match configure_loop(&device, config) {
            Ok(()) => return Ok((device, path)),
            Err(Errno::BUSY) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(io::Error::other("all loop devices are in use"))
}

/// `struct loop_config` with its `struct loop_info64`.
#[repr(C)]
#[derive(Clone, Copy)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    /// Device, inode, rdevice, offset, size limit: the kernel's to say, or 0 for the whole file.
    numbers: [u64; 5],
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    /// File name, name of a cipher, its key.
    texts: [u8; 64 + 64 + 32],
    init: [u64; 2],
    reserved: [u64; 8],
}

impl LoopConfig {
    fn of(file: &File) -> Self {
        use std::os::fd::AsRawFd;
        Self {
            fd: file.as_raw_fd().unsigned_abs(),
            block_size: 0,
            numbers: [0; 5],
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags: LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR,
            texts: [0; 160],
            init: [0; 2],
            reserved: [0; 8],
        }
    }
}

const _: () = assert!(size_of::<LoopConfig>() == 304);

#[allow(unsafe_code)]
fn add_loop(control: &File, number: usize) -> rustix::io::Result<()> {
    // SAFETY: LOOP_CTL_ADD takes a number and touches no memory of this process.
    unsafe { ioctl(control, IntegerSetter::<LOOP_CTL_ADD>::new_usize(number)) }
}

#[allow(unsafe_code)]
fn configure_loop(device: &File, config: LoopConfig) -> rustix::io::Result<()> {
    // SAFETY: the struct is laid out as the kernel's, which only reads it; the file that it names is open meanwhile.
    unsafe { ioctl(device, Setter::<LOOP_CONFIGURE, LoopConfig>::new(config)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_pinned_to_the_bit_is_not_used() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("image");
        let pinned = Pinned { digest: Digest::of(b"the tools"), bytes: 9 };
        assert!(checked(&path, &pinned).is_err(), "nothing came");
        for (bytes, is_it) in [(&b"the tools"[..], true), (b"the tool", false), (b"The tools", false), (b"", false)] {
            fs::write(&path, bytes).expect("written");
            assert_eq!(checked(&path, &pinned).is_ok(), is_it, "{bytes:?}");
        }
        let error = checked(&path, &pinned).expect_err("another one").to_string();
        assert!(error.contains("they have 0 bytes") && error.contains("muster image build"), "{error}");
    }
}
