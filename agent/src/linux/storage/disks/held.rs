//! Who uses a disk: mounts, swap, layers above it; and which of the mounts are the agent's own.
//!
//! Called by `Disks` when it observes, and by `storage` when it mounts and unmounts.
//! The agent's own mounts are written down in a file in /run, because its worker may be started again and must still
//! know what it may take out of the tree. Whatever is not written down there belongs to somebody else.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use muster_protocol::desired::{self, FLAGS, Tree, TreeMount, is_at_or_below, is_flag, mount_options};
use muster_protocol::observed::SWAP;

use super::dm::Mapped;
use crate::linux::sysfs;

/// Major and minor number of a block device.
pub type DeviceNumber = (u32, u32);

/// A disk or partition as the kernel has it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Kernel name.
    pub name: String,
    /// Device number.
    pub number: DeviceNumber,
    /// Its folder in sysfs.
    pub path: PathBuf,
}

impl Node {
    /// The device of this folder in sysfs.
    pub fn at(path: PathBuf) -> Option<Self> {
        let name = path.file_name()?.to_str()?.to_owned();
        let (major, minor) = sysfs::text(path.join("dev"))?.split_once(':').map(|(a, b)| (a.parse(), b.parse()))?;
        Some(Self { name, number: (major.ok()?, minor.ok()?), path })
    }
}

/// One line of /proc/self/mountinfo (proc_pid_mountinfo(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Of the device, or of the device that it names as its source: btrfs has made-up numbers.
    pub number: DeviceNumber,
    /// Where; [`SWAP`] for a swap area.
    pub path: String,
    /// As the kernel has them, those that every filesystem has; as the agent gave them, all.
    pub options: Vec<String>,
    /// Of a bind mount of the agent's, what it shows. The kernel tells nothing of that.
    pub from: Option<String>,
}

/// The agent's own tmpfs go by this source and number: theirs are made up, and known only when they are there.
pub const TMPFS_SOURCE: &str = "muster";
/// See [`TMPFS_SOURCE`].
pub const OWN_TMPFS: DeviceNumber = (0, u32::MAX);

impl Mount {
    fn is_at(&self, number: DeviceNumber, path: &str) -> bool {
        self.number == number && self.path == path
    }
}

/// Everything that is mounted or swapped to, and what of it is the agent's.
#[derive(Debug, Clone, Default)]
pub struct Usage {
    mounts: Vec<Mount>,
    swaps: Vec<DeviceNumber>,
    own: Vec<Mount>,
}

impl Usage {
    /// Looks. `root` is `/`, or a test's.
    pub fn read(root: &Path, record: &Record) -> io::Result<Self> {
        let mountinfo = fs::read_to_string(root.join("proc/self/mountinfo"))?;
        let mounts = mountinfo.lines().filter_map(|line| parse_mount(line, root)).collect();
        let swaps = fs::read_to_string(root.join("proc/swaps")).unwrap_or_default();
        let swaps = swaps.lines().skip(1).filter_map(|line| device_number(root, line.split_whitespace().next()?));
        Ok(Self { mounts, swaps: swaps.collect(), own: record.read() })
    }

    /// Where the agent mounted this device.
    pub fn own_mount(&self, number: DeviceNumber) -> Option<&str> {
        let is_its = |own: &Mount| own.from.is_none();
        let mount = self.mounts.iter().find(|mount| mount.number == number && self.own(mount).is_some_and(is_its));
        let swap = || self.is_swap(number) && self.own.iter().any(|own| own.is_at(number, SWAP));
        mount.map(|mount| &*mount.path).or_else(|| swap().then_some(SWAP))
    }

    /// Where anybody mounted this device or swaps to it, the agent first.
    pub fn mount(&self, number: DeviceNumber) -> Option<&str> {
        let shows = |mount: &Mount| self.own(mount).is_some_and(|own| own.from.is_some());
        let is_its = |mount: &&Mount| mount.number == number && !shows(mount);
        let anybody = || self.mounts.iter().find(is_its).map(|mount| &*mount.path);
        let swap = || self.is_swap(number).then_some(SWAP);
        self.own_mount(number).or_else(anybody).or_else(swap)
    }

    /// With which options it is mounted there: those that every filesystem has as the kernel has them now, its own as
    /// the agent gave them. What the kernel says of those is in other words than what it was told.
    pub fn options(&self, number: DeviceNumber, path: &str) -> Vec<String> {
        let Some(mount) = self.mounts.iter().find(|mount| mount.is_at(number, path)) else { return Vec::new() };
        let own = self.own(mount).into_iter().flat_map(|own| &own.options).filter(|option| !is_flag(option));
        mount.options.iter().chain(own).cloned().collect()
    }

    /// What the agent mounted that is on no disk of its own, in the order in which it did.
    pub fn trees(&self) -> Vec<TreeMount> {
        let there = self.own.iter().filter(|own| own.from.is_some() || own.number == OWN_TMPFS);
        let tree = |own: &Mount| {
            let seen = self.mounts.iter().find(|mount| mount.is_at(own.number, &own.path))?;
            let what = own.from.clone().map_or(Tree::Tmpfs, Tree::Bind);
            let is_its = |option: &&String| mount_options(what.mountable(), &[option.as_str()]).is_ok();
            let flags = seen.options.iter().filter(is_its).cloned();
            let options = flags.chain(own.options.iter().filter(|option| !is_flag(option)).cloned()).collect();
            Some(TreeMount { what, mount: desired::Mount { path: own.path.clone(), options } })
        };
        there.filter_map(tree).collect()
    }

    /// The same one by its path, as it is written down.
    pub fn own_tree(&self, path: &str) -> Option<&Mount> {
        let is_tree = |own: &&Mount| own.path == path && (own.from.is_some() || own.number == OWN_TMPFS);
        self.own.iter().find(is_tree).filter(|own| self.mounts.iter().any(|mount| mount.is_at(own.number, path)))
    }

    /// The device that a path is on.
    pub fn under(&self, path: &str) -> Option<DeviceNumber> {
        let above = |mount: &&Mount| mount.path == "/" || is_at_or_below(path, &mount.path);
        // Of several at one place the last one is seen.
        Some(self.mounts.iter().filter(above).max_by_key(|mount| mount.path.len())?.number)
    }

    /// Whether this device is swapped to.
    pub fn is_swap(&self, number: DeviceNumber) -> bool {
        self.swaps.contains(&number)
    }

    /// What the agent wrote down of this mount.
    fn own(&self, mount: &Mount) -> Option<&Mount> {
        self.own.iter().find(|own| own.is_at(mount.number, &mount.path))
    }

    /// Whether anything is mounted at exactly this path.
    pub fn is_taken(&self, path: &str) -> bool {
        self.mounts.iter().any(|mount| mount.path == path)
    }

    /// Why nobody may write to this device, `None` where nothing but the agent uses it. Arrays, volumes and encrypted devices
    /// on it are no reason by themselves, since they are told apart ([`observed::Layers`]); who uses them is one.
    ///
    /// [`observed::Layers`]: muster_protocol::observed::Layers
    pub fn holder(&self, node: &Node) -> Option<String> {
        self.holder_above(node, LAYERS)
    }

    fn holder_above(&self, node: &Node, layers: usize) -> Option<String> {
        let name = &node.name;
        let foreign = self.mounts.iter().find(|mount| mount.number == node.number && self.own(mount).is_none());
        if let Some(mount) = foreign {
            return Some(format!("{name} is mounted at {}", mount.path));
        }
        if self.is_swap(node.number) && self.own_mount(node.number) != Some(SWAP) {
            return Some(format!("{name} is in use as swap"));
        }
        let folder = node.path.join("holders");
        let above = sysfs::names(&folder).into_iter().filter_map(|holder| {
            let path = sysfs::resolved(folder.join(&holder)).unwrap_or_else(|| folder.join(&holder));
            if layers == 0 || !is_layer(&path) {
                return Some(format!("{name} {}", holds(&holder, &folder)));
            }
            let used = Node::at(path).and_then(|node| self.holder_above(&node, layers - 1))?;
            Some(format!("{name} {}: {used}", holds(&holder, &folder)))
        });
        let above: Vec<String> = above.collect();
        (!above.is_empty()).then(|| above.join(", "))
    }

    /// The arrays, volumes and encrypted devices that stand on this device, in words; `None` where there is none.
    pub fn layers_on(&self, node: &Node) -> Option<String> {
        let folder = node.path.join("holders");
        let holders: Vec<String> = sysfs::names(&folder).iter().map(|holder| holds(holder, &folder)).collect();
        (!holders.is_empty()).then(|| format!("{} {}", node.name, holders.join(", ")))
    }
}

/// How many layers may stand on each other.
const LAYERS: usize = 16;

/// Whether this is an array, or a device of the device mapper whose maker is known: what is told of it says enough.
fn is_layer(device: &Path) -> bool {
    match Mapped::at(device) {
        Some(Mapped::Unknown { .. }) => false,
        Some(Mapped::Volume { .. } | Mapped::Part { .. } | Mapped::Luks { .. }) => true,
        None => device.join("md").exists(),
    }
}

/// What the layer above does with a device.
fn holds(holder: &str, folder: &Path) -> String {
    let device = folder.join(holder);
    match Mapped::at(&device) {
        Some(mapped) => format!("is in use by {}", mapped.in_words()),
        None if device.join("md").exists() => format!("is a member of the array {holder}"),
        None => format!("is in use by {holder}"),
    }
}

fn parse_mount(line: &str, root: &Path) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    let mut fields = before.split(' ').skip(2);
    let (major, minor) = fields.next()?.split_once(':')?;
    let path = unescape(fields.nth(1)?);
    let options = fields.next().unwrap_or_default();
    let mut after = after.split(' ');
    let kind = after.next()?;
    let source = unescape(after.next()?);
    let is_own_tmpfs = source == TMPFS_SOURCE && kind == "tmpfs";
    let number = match (major.parse().ok()?, minor.parse().ok()?) {
        _ if is_own_tmpfs => OWN_TMPFS,
        (0, minor) => device_number(root, &source).unwrap_or((0, minor)),
        number => number,
    };
    Some(Mount { number, path, options: flags(options, after.next().unwrap_or_default()), from: None })
}

/// Options that every filesystem has, from what mountinfo says of the mount and of the filesystem.
fn flags(mount: &str, filesystem: &str) -> Vec<String> {
    let says = |options: &str, name: &str| options.split(',').any(|option| option == name);
    let is_set = |name: &&str| match *name {
        "sync" | "lazytime" => says(filesystem, name),
        // What is neither of the others.
        "strictatime" => !says(mount, "relatime") && !says(mount, "noatime"),
        name => says(mount, name),
    };
    FLAGS.iter().copied().filter(is_set).map(str::to_owned).collect()
}

/// The number of a device node named by its path; `None` for anything that is none.
fn device_number(root: &Path, path: &str) -> Option<DeviceNumber> {
    let path = root.join(path.strip_prefix('/').filter(|path| path.starts_with("dev/"))?);
    let stat = rustix::fs::stat(&path).ok()?;
    let is_block = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_block_device();
    is_block.then(|| (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)))
}

/// mountinfo writes blank, tab, newline and backslash as a backslash and three octal digits.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = (first == b'\\')
            .then(|| after.get(..3))
            .flatten()
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(code.unwrap_or(first));
        rest = if code.is_some() { &after[3..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Where the agent writes down what it mounted: one line per mount, `MAJOR:MINOR OPTIONS PATH`, with `-` for no options
/// and, for a bind mount, a tab and what it shows behind it; under a line with the boot's id.
#[derive(Debug, Clone)]
pub struct Record {
    file: PathBuf,
    boot: String,
}

impl Record {
    /// The record in this folder, for the boot that `root` tells of. An older boot's record counts for nothing.
    pub fn new(folder: &Path, root: &Path) -> Self {
        let boot = sysfs::text(root.join("proc/sys/kernel/random/boot_id")).unwrap_or_default();
        Self { file: folder.join("mounts"), boot }
    }

    /// Another file beside it, of what else is the agent's own.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.file.with_file_name(name)
    }

    /// What is written down.
    pub fn read(&self) -> Vec<Mount> {
        let text = fs::read_to_string(&self.file).unwrap_or_default();
        let mut lines = text.lines();
        if lines.next() != Some(&*self.boot) {
            return Vec::new();
        }
        lines
            .filter_map(|line| {
                let (number, rest) = line.split_once(' ')?;
                let (options, paths) = rest.split_once(' ')?;
                let (path, from) =
                    paths.split_once('\t').map_or((paths, None), |(path, from)| (path, Some(from.into())));
                let (major, minor) = number.split_once(':')?;
                let options = options.split(',').filter(|option| *option != "-").map(str::to_owned).collect();
                Some(Mount { number: (major.parse().ok()?, minor.parse().ok()?), path: path.into(), options, from })
            })
            .collect()
    }

    /// Writes a mount down; called before mounting, so that no mount of ours is ever taken for somebody else's.
    pub fn add(&self, mount: Mount) -> io::Result<()> {
        let mut all = self.read();
        // There is one mount at a path, but any number of swap areas.
        let is_it = |other: &Mount| other.path == mount.path && (mount.path != SWAP || other.number == mount.number);
        match all.iter().position(is_it) {
            Some(at) => all[at] = mount,
            None => all.push(mount),
        }
        self.write(&all)
    }

    /// Forgets what was mounted at a path.
    pub fn remove(&self, number: DeviceNumber, path: &str) -> io::Result<()> {
        let mut all = self.read();
        all.retain(|other| !other.is_at(number, path));
        self.write(&all)
    }

    fn write(&self, mounts: &[Mount]) -> io::Result<()> {
        let mut text = format!("{}\n", self.boot);
        for Mount { number: (major, minor), path, options, from } in mounts {
            let from = from.as_ref().map(|from| format!("\t{from}")).unwrap_or_default();
            let options = if options.is_empty() { "-".to_owned() } else { options.join(",") };
            text.push_str(&format!("{major}:{minor} {options} {path}{from}\n"));
        }
        if let Some(folder) = self.file.parent() {
            fs::create_dir_all(folder)?;
        }
        let new = self.file.with_extension("new");
        fs::write(&new, text)?;
        fs::rename(&new, &self.file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(mountinfo: &str, swaps: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a folder");
        let proc = root.path().join("proc/self");
        fs::create_dir_all(&proc).expect("made");
        fs::create_dir_all(root.path().join("proc/sys/kernel/random")).expect("made");
        fs::write(proc.join("mountinfo"), mountinfo).expect("written");
        fs::write(root.path().join("proc/swaps"), swaps).expect("written");
        fs::write(root.path().join("proc/sys/kernel/random/boot_id"), "boot-1\n").expect("written");
        root
    }

    fn at(number: DeviceNumber, path: &str) -> Mount {
        Mount { number, path: path.into(), options: vec![], from: None }
    }

    fn node(number: DeviceNumber) -> Node {
        Node { name: "vda1".into(), number, path: "/nonexistent".into() }
    }

    const INFO: &str = "24 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw\n\
        30 24 254:2 / /srv/my\\040data rw - ext4 /dev/vda2 rw\n\
        31 24 0:40 / /tmp rw - tmpfs tmpfs rw\n\
        garbage\n";

    #[test]
    fn a_mount_of_others_holds_a_disk_and_our_own_does_not() {
        let root = machine(INFO, "");
        let record = Record::new(&root.path().join("run"), root.path());
        let usage = Usage::read(root.path(), &record).expect("read");
        assert_eq!(usage.holder(&node((254, 1))).as_deref(), Some("vda1 is mounted at /"));
        assert_eq!(usage.holder(&node((254, 2))).as_deref(), Some("vda1 is mounted at /srv/my data"));
        assert_eq!(usage.holder(&node((254, 3))), None);

        record.add(at((254, 2), "/srv/my data")).expect("written");
        let usage = Usage::read(root.path(), &record).expect("read");
        assert_eq!(usage.holder(&node((254, 2))), None);
        assert_eq!(usage.own_mount((254, 2)), Some("/srv/my data"));
        assert_eq!((usage.own_mount((254, 1)), usage.mount((254, 1))), (None, Some("/")));
        assert!(usage.is_taken("/tmp") && !usage.is_taken("/srv"));
    }

    #[test]
    fn a_record_of_another_boot_or_another_device_claims_nothing() {
        let root = machine(INFO, "");
        let folder = root.path().join("run");
        let record = Record::new(&folder, root.path());
        record.add(at((254, 9), "/srv/my data")).expect("written");
        assert!(Usage::read(root.path(), &record).expect("read").holder(&node((254, 2))).is_some());

        record.add(at((254, 2), "/srv/my data")).expect("written");
        assert!(Usage::read(root.path(), &record).expect("read").holder(&node((254, 2))).is_none());
        fs::write(root.path().join("proc/sys/kernel/random/boot_id"), "boot-2\n").expect("written");
        let later = Record::new(&folder, root.path());
        assert!(Usage::read(root.path(), &later).expect("read").holder(&node((254, 2))).is_some());
    }

    #[test]
    fn what_is_forgotten_is_somebody_elses() {
        let root = machine(INFO, "");
        let record = Record::new(&root.path().join("run"), root.path());
        record.add(at((254, 1), "/")).expect("written");
        record.add(at((254, 2), "/srv/my data")).expect("written");
        record.remove((254, 1), "/").expect("written");
        assert_eq!(record.read(), [at((254, 2), "/srv/my data")]);
    }

    #[test]
    fn layers_above_hold_a_disk_where_nobody_knows_them_or_somebody_uses_them() {
        let root = machine("", "");
        fs::create_dir_all(root.path().join("vda/holders/dm-0")).expect("made");
        let usage = Usage::read(root.path(), &Record::new(root.path(), root.path())).expect("read");
        let node = Node { name: "vda".into(), number: (1, 1), path: root.path().join("vda") };
        assert_eq!(usage.holder(&node).as_deref(), Some("vda is in use by dm-0"));
        fs::create_dir_all(root.path().join("vda/holders/dm-0/dm")).expect("made");
        fs::write(root.path().join("vda/holders/dm-0/dm/name"), "vault\n").expect("written");
        let uuid = "CRYPT-LUKS2-6ba7b8109dad41d180b400c04fd430c8-vault\n";
        fs::write(root.path().join("vda/holders/dm-0/dm/uuid"), uuid).expect("written");
        fs::create_dir_all(root.path().join("vda/holders/md127/md")).expect("made");
        assert_eq!(
            usage.layers_on(&node).as_deref(),
            Some("vda is a member of the array md127, is in use by the LUKS device that is open as vault")
        );
        assert_eq!(usage.holder(&node), None, "they are told apart");
        fs::write(root.path().join("vda/holders/dm-0/dev"), "254:1\n").expect("written");
        let root = machine(INFO, "");
        let others = Usage::read(root.path(), &Record::new(root.path(), root.path())).expect("read");
        let held = others.holder(&node).expect("somebody mounted it");
        assert!(held.ends_with("is open as vault: dm-0 is mounted at /"), "{held}");
    }

    #[test]
    fn escapes_are_read_back() {
        assert_eq!(unescape(r"/a\040b\134c\12"), "/a b\\c\\12");
    }
}
