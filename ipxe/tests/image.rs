//! Boot images, built from Debian's packages as an operator's are, and looked at with other people's programs.
//!
//! Packages are kept in `build/cache` (or `MUSTER_CACHE`), so that only the first run downloads anything.
//! Needs apt, dpkg-deb, cpio, unsquashfs, zstd and kmod, and fails where they are not there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use muster_ipxe::image::{self, ImageError, ImageSpec, Manifest};
use muster_ipxe::packages::Freshness;
use muster_protocol::Digest;
use muster_protocol::tools::{self as pinned, Pinned};

fn cache() -> PathBuf {
    let build = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../build/cache");
    std::env::var_os("MUSTER_CACHE").map_or_else(build, PathBuf::from)
}

/// The smallest file that an image takes for a static program: an ELF header, and the table of section names.
fn agent(folder: &Path) -> PathBuf {
    let mut elf = vec![0_u8; 64];
    elf[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    elf[18] = 62;
    elf[40] = 64;
    elf[58] = 64;
    elf[60] = 1;
    elf.extend_from_slice(&[0; 64]);
    elf[64 + 4] = 3;
    elf[64 + 24] = 128;
    elf[64 + 32] = 1;
    elf.push(0);
    let path = folder.join("agent");
    fs::write(&path, elf).expect("the agent can be written");
    path
}

fn spec(folder: &Path, name: &str) -> ImageSpec {
    ImageSpec {
        agent: agent(folder),
        cache: cache(),
        out: folder.join(name),
        firmware: None,
        freshness: Freshness::Cached,
    }
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// An image built once for all tests, and its initramfs unpacked by the cpio program.
struct Built {
    folder: tempfile::TempDir,
    manifest: Manifest,
    percents: Vec<u8>,
}

impl Built {
    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    fn tools(&self) -> PathBuf {
        self.folder.path().join("tools")
    }

    fn modules(&self) -> PathBuf {
        self.root().join("lib/modules").join(&self.manifest.kernel_release)
    }
}

fn built() -> &'static Built {
    static BUILT: OnceLock<Built> = OnceLock::new();
    BUILT.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let mut percents = vec![];
        let manifest = image::build(&spec(folder.path(), "image"), &mut |p| percents.push(p.percent));
        let manifest = manifest.expect("an image");
        let root = folder.path().join("root");
        fs::create_dir(&root).expect("a folder");
        // Without /dev: only root may make devices.
        let unpack = "zstd -dc ../image/initramfs | cpio -id --quiet --no-absolute-filenames -f 'dev/*'";
        output(Command::new("sh").args(["-ec", unpack]).current_dir(&root));
        let tools = folder.path().join("image/tools").join(&manifest.tools.image.sha256);
        output(
            Command::new("unsquashfs")
                .args(["-quiet", "-no-progress", "-dest"])
                .arg(folder.path().join("tools"))
                .arg(tools),
        );
        Built { folder, manifest, percents }
    })
}

fn lines(path: PathBuf) -> Vec<String> {
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.lines().filter(|l| !l.starts_with('#')).map(str::to_owned).collect()
}

#[test]
fn the_same_inputs_give_the_same_bytes_and_are_not_built_twice() {
    let first = built();
    let folder = tempfile::tempdir().expect("a folder");
    let again = image::build(&spec(folder.path(), "image"), &mut |_| {}).expect("an image");
    assert_eq!(again, first.manifest);
    for name in [image::KERNEL, image::INITRAMFS, image::MANIFEST] {
        let read = |folder: &Path| fs::read(folder.join("image").join(name)).expect(name);
        assert!(read(folder.path()) == read(first.folder.path()), "{name} differs");
    }
    let tools = |folder: &Path| fs::read(folder.join("image/tools").join(&again.tools.image.sha256)).expect("tools");
    assert!(tools(folder.path()) == tools(first.folder.path()), "the tools differ");

    let mut steps = vec![];
    let spec = spec(folder.path(), "image");
    image::build(&spec, &mut |p| steps.push(p.step.to_owned())).expect("an image");
    assert_eq!(steps, ["the image is up to date"]);
    fs::write(folder.path().join("image/initramfs"), b"cut short").expect("a damaged image");
    assert!(matches!(image::read(&spec.out), Err(ImageError::NoImage { .. })));
}

#[test]
fn progress_never_goes_back_and_ends_at_100() {
    let percents = &built().percents;
    assert!(percents.is_sorted(), "{percents:?}");
    assert_eq!(percents.last(), Some(&100));
}

#[test]
fn the_cpio_program_reads_the_initramfs() {
    let image = built().folder.path().join("image");
    let list = output(Command::new("sh").args(["-ec", "zstd -dc initramfs | cpio -itv --quiet"]).current_dir(image));
    let entry = |name: &str| {
        let found = list.lines().find(|l| l.ends_with(&format!(" {name}")));
        found.unwrap_or_else(|| panic!("no {name}")).split_whitespace().collect::<Vec<_>>()
    };
    assert_eq!(entry("init")[0], "-rwxr-xr-x");
    assert_eq!(entry("tmp")[0], "drwxrwxrwt");
    assert_eq!(&entry("dev/console")[..6], ["crw-------", "1", "root", "root", "5,", "1"]);
    assert!(list.lines().all(|l| l.contains(" root ") && l.contains(" Jan  1  1970 ")), "owned by root, dated 1970");
    assert!(!list.contains("/sh\n") && !list.contains("busybox"), "no shell");
}

#[test]
fn the_kernel_has_every_driver_that_is_wanted() {
    let manifest = &built().manifest;
    assert_eq!(manifest.missing, BTreeSet::new(), "not in this kernel");
    for name in [
        "e1000e",
        "igb",
        "ixgbe",
        "i40e",
        "ice",
        "r8169",
        "realtek",
        "tg3",
        "bnxt_en",
        "mlx5_core",
        "virtio_net",
        "ahci",
        "nvme",
        "megaraid_sas",
        "mpt3sas",
        "virtio_blk",
        "8021q",
        "bonding",
        "bridge",
        "ext4",
        "xhci_pci",
        "usbhid",
    ] {
        assert!(manifest.modules.contains(name) || manifest.built_in.contains(name), "{name}");
    }
}

/// depmod, which reads symbols where we read what modules say of themselves, comes to the same result.
#[test]
fn the_index_files_agree_with_depmods() {
    let built = built();
    let folder = tempfile::tempdir().expect("a folder");
    let release = &built.manifest.kernel_release;
    let theirs = folder.path().join("lib/modules").join(release);
    fs::create_dir_all(&theirs).expect("a folder");
    output(Command::new("cp").arg("-r").arg(built.modules().join("kernel")).arg(&theirs));
    fs::copy(built.modules().join("modules.builtin"), theirs.join("modules.builtin")).expect("modules.builtin");
    fs::write(theirs.join("modules.order"), "").expect("modules.order");
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    output(Command::new("depmod").env("PATH", path).arg("-b").arg(folder.path()).arg(release));

    let dependencies = |folder: PathBuf| -> BTreeMap<String, BTreeSet<String>> {
        let lines = lines(folder.join("modules.dep"));
        let split = |line: &String| {
            let (module, needs) = line.split_once(':').expect("a colon");
            (module.to_owned(), needs.split_whitespace().map(str::to_owned).collect())
        };
        lines.iter().map(split).collect()
    };
    assert_eq!(dependencies(built.modules()), dependencies(theirs.clone()));
    for name in ["modules.alias", "modules.softdep"] {
        let sorted = |folder: PathBuf| lines(folder.join(name)).into_iter().collect::<BTreeSet<_>>();
        assert_eq!(sorted(built.modules()), sorted(theirs.clone()), "{name}");
    }

    // Read from the right, each module finds what it needs already loaded.
    let direct = dependencies(built.modules());
    for line in lines(built.modules().join("modules.dep")) {
        let mut loaded = BTreeSet::new();
        for module in line.replace(':', "").split_whitespace().rev() {
            assert!(direct[module].iter().all(|needs| loaded.contains(needs.as_str())), "{module} in {line}");
            loaded.insert(module.to_owned());
        }
    }
}

/// The file that the manifest names, of these bytes, and named by the initramfs.
#[test]
fn the_initramfs_names_the_tools_that_belong_to_it() {
    let (root, manifest) = (built().root(), &built().manifest);
    let pinned = fs::read_to_string(root.join(pinned::PATH)).expect("the initramfs says which");
    let pinned: Pinned = pinned.parse().expect("a digest and a length");
    assert_eq!(
        (pinned.digest.to_string(), pinned.bytes),
        (manifest.tools.image.sha256.clone(), manifest.tools.image.bytes)
    );
    let file = built().folder.path().join("image/tools").join(&manifest.tools.image.sha256);
    assert_eq!(Digest::of(&fs::read(file).expect("the tools image")), pinned.digest);
}

#[test]
fn what_only_storage_needs_is_in_the_tools_and_not_in_every_boot() {
    let (root, manifest) = (built().root(), &built().manifest);
    for module in ["xfs", "btrfs", "vfat", "raid1", "raid456", "dm_mod", "dm_thin_pool", "dm_crypt", "algif_skcipher"] {
        assert!(manifest.tools.modules.contains(module) && !manifest.modules.contains(module), "{module}");
    }
    // With these the tools are mounted, and what is there is mounted without them.
    for module in ["loop", "squashfs", "ext4"] {
        assert!(manifest.modules.contains(module) || manifest.built_in.contains(module), "{module}");
        assert!(!manifest.tools.modules.contains(module), "{module}");
    }
    assert!(!root.join("lib64").exists() && !root.join("bin").exists(), "no program but the agent");
    assert_eq!(manifest.packages.len(), 1, "the kernel alone: {:?}", manifest.packages);
    for package in ["e2fsprogs", "xfsprogs", "btrfs-progs", "dosfstools", "lvm2", "mdadm", "cryptsetup-bin", "libc6"] {
        assert!(manifest.tools.packages.contains_key(package), "{package}");
    }
}

/// What machines boot is kept small: the budget is 18 MB.
#[test]
fn kernel_and_initramfs_stay_within_their_budget() {
    // The agent of these tests has no bytes; machines' has 2.5 MB at most, of which half are left when compressed.
    let manifest = &built().manifest;
    let bytes = manifest.kernel.bytes + manifest.initramfs.bytes + 1_300_000;
    assert!(bytes < 18_000_000, "{bytes}");
}

/// squashfs-tools reads what we wrote: every file, to the bit.
#[test]
fn the_tools_run_with_nothing_but_what_is_in_their_image() {
    let tools = built().tools();
    let modules = tools.join("lib/modules").join(&built().manifest.kernel_release);
    for (path, _) in lines(modules.join("modules.dep")).iter().filter_map(|line| line.split_once(':')) {
        let (ours, boots) = (modules.join(path).exists(), built().modules().join(path).exists());
        assert!(ours != boots, "{path} is in one of both");
    }
    for (program, argument, says) in [
        ("mke2fs", "-V", "mke2fs 1."),
        ("e2fsck", "-V", "e2fsck 1."),
        ("resize2fs", "-V", "resize2fs 1."),
        ("mkfs.xfs", "-V", "mkfs.xfs version"),
        ("xfs_repair", "-V", "xfs_repair version"),
        ("xfs_growfs", "-V", "xfs_growfs version"),
        ("mkfs.btrfs", "--version", "btrfs-progs"),
        ("btrfs", "--version", "btrfs-progs"),
        ("mkfs.vfat", "--help", "mkfs.fat 4."),
        ("lvm", "version", "LVM version"),
        ("mdadm", "--version", "mdadm - v4"),
        ("cryptsetup", "--version", "cryptsetup 2."),
    ] {
        let output = run(&tools, program).arg(argument).output().expect("it starts");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(said.contains(says), "{program} {argument}: {said}");
    }
    let disk = built().folder.path().join("disk");
    fs::File::create(&disk).and_then(|f| f.set_len(8 << 20)).expect("a disk");
    output(run(&tools, "mke2fs").args(["-q", "-F", "-t", "ext4", "-L", "data"]).arg(&disk));
    let bytes = fs::read(&disk).expect("the disk");
    // Superblock at 1,024; magic at 56, label at 120 (Documentation/filesystems/ext4).
    assert_eq!((&bytes[1024 + 56..1024 + 58], &bytes[1024 + 120..1024 + 124]), (&b"\x53\xef"[..], &b"data"[..]));
}

/// A program of the tools, as the agent starts it: by their own loader, with their own libraries.
fn run(tools: &Path, program: &str) -> Command {
    let mut command = Command::new(tools.join("lib64/ld-linux-x86-64.so.2"));
    command.arg("--inhibit-cache").arg("--library-path").arg(tools.join("lib/x86_64-linux-gnu"));
    command.env("MKE2FS_CONFIG", tools.join("etc/mke2fs.conf")).env("LC_ALL", "C");
    command.arg(tools.join("bin").join(program));
    command
}

#[test]
fn an_agent_that_cannot_be_pid_1_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let dynamic = std::env::current_exe().expect("this test");
    for (path, said) in [
        (dynamic, "--target x86_64-unknown-linux-musl"),
        (Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"), "not an ELF file"),
        (folder.path().join("nothing"), "No such file"),
    ] {
        let spec = ImageSpec { agent: path, ..spec(folder.path(), "image") };
        let error = image::build(&spec, &mut |_| {}).expect_err("no agent");
        assert!(matches!(error, ImageError::Agent { .. }) && error.to_string().contains(said), "{error}");
        assert!(!spec.out.exists(), "nothing was written");
    }
}
