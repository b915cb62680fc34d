//! What UEFI starts: its variables `Boot####`, `BootOrder` and `BootCurrent` (Linux kernel, Documentation/filesystems/efivarfs.rst).
//!
//! Called by the glue of the real machine and with steps that `plan::storage` made. The filesystem of variables is mounted for
//! as long as they are looked at, where nobody else has it mounted. Which entries are to be there is decided in `plan`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use muster_protocol::observed::{BootEntry, BootOrder, Disk, Firmware};
use muster_protocol::{Digest, DiskId};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::linux::modules;
use crate::linux::storage::disks::Disks;
use crate::machine::{MachineError, chain};
use crate::plan::storage::{Change, enter, is_ours, load_option};
use crate::sort;

const EFI: &str = "/sys/firmware/efi";
const VARIABLES: &str = "/sys/firmware/efi/efivars";
/// EFI_GLOBAL_VARIABLE.
const GUID: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";
/// Kept without power, and there for boot loaders and systems. Four bytes before every value.
const ATTRIBUTES: u32 = 7;
/// Entries and places of the order beyond these are not a machine's that we would change: a part of it could be lost.
const ENTRIES: usize = 256;
const PLACES: usize = 128;

/// This machine's, as it is now.
pub fn observe() -> Firmware {
    if !Path::new(EFI).exists() {
        return Firmware::Bios;
    }
    match with_variables(|variables| variables.read()) {
        Ok(order) => Firmware::Uefi(order),
        Err(error) => Firmware::Closed { why: chain(&error) },
    }
}

/// Has this machine's firmware start these disks, and none of those that were entered before. Repeating it changes nothing.
///
/// Errors: among others its memory is full. Nothing but our own entries was touched.
pub fn start(disks: &Disks, from: &[(DiskId, Digest)]) -> Result<(), MachineError> {
    let option = |(id, image): &(DiskId, Digest)| {
        let disk = disks.observe_one(id)?;
        load_option(image, &disk).map_err(|why| MachineError::Unable(format!("start {id}: {why}")))
    };
    let options = from.iter().map(option).collect::<Result<Vec<_>, _>>()?;
    with_variables(|variables| variables.enter(&options))
}

/// Takes out what starts a disk that is not what it was any more.
///
/// Errors: as [`start`].
pub fn forget(disk: &Disk) -> Result<(), MachineError> {
    if !Path::new(EFI).exists() {
        return Ok(());
    }
    let guids: Vec<_> = disk.partitions.iter().map(|p| crate::plan::storage::mixed_endian(p.guid)).collect();
    let is_of_it = |option: &[u8]| guids.iter().any(|guid| option.windows(16).any(|part| part == guid));
    with_variables(|variables| {
        let ours = variables.read()?.entries.into_iter().map(|entry| entry.option).filter(|option| !option.is_empty());
        let (gone, rest): (Vec<_>, Vec<_>) = ours.partition(|option| is_of_it(option));
        if gone.is_empty() { Ok(()) } else { variables.enter(&rest) }
    })
}

fn with_variables<T>(work: impl FnOnce(&Variables) -> Result<T, MachineError>) -> Result<T, MachineError> {
    let variables = Variables { folder: VARIABLES.into() };
    if fs::read_dir(VARIABLES).is_ok_and(|mut entries| entries.next().is_some()) {
        return work(&variables);
    }
    modules::load("efivarfs")?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("efivarfs", VARIABLES, "efivarfs", flags, None)
        .map_err(|error| MachineError::os("mount the firmware's variables", error))?;
    let done = work(&variables);
    if let Err(error) = unmount(VARIABLES, UnmountFlags::empty()) {
        crate::warn!("could not unmount {VARIABLES}: {error}");
    }
    done
}

/// A folder of variables.
struct Variables {
    folder: PathBuf,
}

impl Variables {
    fn read(&self) -> Result<BootOrder, MachineError> {
        let failed = |source| MachineError::os("read the firmware's variables", source);
        let is_closed =
            rustix::fs::statvfs(&self.folder).is_ok_and(|fs| fs.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY));
        if is_closed {
            return Err(MachineError::Unable("write the firmware's variables: they are read-only".into()));
        }
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let number =
                name.to_str().and_then(|name| name.strip_suffix(GUID)?.strip_suffix('-')?.strip_prefix("Boot"));
            let number = number.filter(|number| number.len() == 4 && !number.contains('+'));
            let Some(number) = number.and_then(|number| u16::from_str_radix(number, 16).ok()) else { continue };
            let option = self.value(&entry_name(number)).map_err(failed)?.unwrap_or_default();
            let option = if is_ours(&option) { option } else { Vec::new() };
            entries.push(BootEntry { number, option });
        }
        sort::short(&mut entries, |a, b| a.number.cmp(&b.number));
        let numbers = |name: &str| -> Result<Vec<u16>, MachineError> {
            let value = self.value(name).map_err(failed)?.unwrap_or_default();
            Ok(value.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect())
        };
        let (order, current) = (numbers("BootOrder")?, numbers("BootCurrent")?.first().copied());
        if entries.len() > ENTRIES || order.len() > PLACES {
            return Err(MachineError::Unable("change the firmware's boot order: it has too many entries".into()));
        }
        Ok(BootOrder { current, order, entries })
    }

    fn enter(&self, options: &[Vec<u8>]) -> Result<(), MachineError> {
        let Some(Change { entries, order, gone }) = enter(&self.read()?, options) else { return Ok(()) };
        for (number, option) in &entries {
            self.write(&entry_name(*number), option)?;
        }
        let order: Vec<u8> = order.into_iter().flat_map(u16::to_le_bytes).collect();
        self.write("BootOrder", &order)?;
        for number in gone {
            let name = entry_name(number);
            fs::remove_file(self.path(&name)).map_err(|e| MachineError::os(format!("take out {name}"), e))?;
        }
        match enter(&self.read()?, options) {
            None => Ok(()),
            Some(left) => {
                let what = "the firmware's boot order".into();
                Err(MachineError::ReadBack { what, found: format!("still to be written: {left:x?}") })
            }
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}-{GUID}"))
    }

    /// Without its attributes; `None` for one that is not there.
    fn value(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.path(name)) {
            Ok(bytes) => Ok(Some(bytes.get(4..).unwrap_or_default().to_vec())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// In one call to the kernel, which hands it to the firmware.
    fn write(&self, name: &str, value: &[u8]) -> Result<(), MachineError> {
        let path = self.path(name);
        let is_new = !path.exists();
        let wrote = fs::write(&path, [&ATTRIBUTES.to_le_bytes()[..], value].concat());
        wrote.map_err(|source| {
            // The file of a variable that there is none of.
            if is_new {
                let _ = fs::remove_file(&path);
            }
            let why = match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::OutOfMemory => {
                    "its memory is full; delete entries in its setup, then apply again"
                }
                _ => "disable what protects them in its setup, then apply again",
            };
            let why = format!("{source}: {why}; the disk image is whole and stays");
            MachineError::os(format!("write the firmware's variable {name}"), io::Error::new(source.kind(), why))
        })
    }
}

fn entry_name(number: u16) -> String {
    format!("Boot{number:04X}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "Muster disk image 0123456789abcdef";

    fn option(name: &str) -> Vec<u8> {
        let name = name.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
        [&[1, 0, 0, 0, 4, 0][..], &name, &[0x7f, 0xff, 4, 0]].concat()
    }

    fn bytes(order: &[u16]) -> Vec<u8> {
        order.iter().flat_map(|number| number.to_le_bytes()).collect()
    }

    fn variables(folder: &Path) -> Variables {
        let variables = Variables { folder: folder.into() };
        for (name, value) in [
            ("Boot0000", option("somebody's")),
            ("Boot000A", option("what started this")),
            ("BootOrder", bytes(&[10, 0])),
            ("BootCurrent", bytes(&[10])),
            ("BootOrderDefault", bytes(&[7])),
        ] {
            variables.write(name, &value).expect("written");
        }
        variables
    }

    #[test]
    fn an_entry_comes_behind_what_started_the_machine_once_and_goes_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let variables = variables(folder.path());
        let (one, other) = (option(OURS), option("Muster disk image fedcba9876543210"));
        for options in [vec![one.clone()], vec![one.clone()], vec![other.clone()], vec![one, other], vec![]] {
            variables.enter(&options).expect("written");
            let now = variables.read().expect("read");
            assert_eq!(enter(&now, &options), None);
            let ours: Vec<_> = now.entries.into_iter().filter(|entry| !entry.option.is_empty()).collect();
            assert_eq!(ours.len(), options.len());
            let numbers = options.iter().map(|option| ours.iter().find(|e| e.option == *option).expect("there").number);
            let expected: Vec<u16> = [10].into_iter().chain(numbers).chain([0]).collect();
            assert_eq!(now.order, expected);
            assert_eq!(variables.value("Boot0000").expect("read"), Some(option("somebody's")), "it is another's");
        }
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 5, "nothing of ours is left");
    }

    #[test]
    fn a_firmware_that_takes_nothing_is_named_with_what_helps() {
        let folder = tempfile::tempdir().expect("a folder");
        let variables = variables(folder.path());
        // What stands in its place cannot be written, by root neither.
        fs::remove_file(variables.path("BootOrder")).expect("removed");
        fs::create_dir(variables.path("BootOrder")).expect("made");
        let error = variables.write("BootOrder", &bytes(&[1])).expect_err("a folder");
        let text = chain(&error);
        assert!(text.contains("BootOrder") && text.contains("its setup") && text.contains("stays"), "{text}");
    }
}
