//! Site ISOs, built from Debian's packages as an operator's are, and looked at with xorriso.
//!
//! Packages are kept in `build/cache` (or `MUSTER_CACHE`), so that only the first run downloads anything.
//! Booting them is the business of the QEMU tests.

use std::fs;
use std::io::{Cursor, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use muster_ipxe::iso::{self, IsoError, IsoManifest, IsoSpec, Kind, Vouched};
use muster_ipxe::packages::Freshness;
use muster_ipxe::param::{AGENTS_PORT, BOOT_PORT, Site};
use muster_ipxe::script::{self, Scheme};
use muster_protocol::Digest;
use muster_protocol::enroll::SiteCredential;

const CREDENTIAL: SiteCredential = SiteCredential::from_bytes([0x5c; 32]);

fn vouched() -> Vouched {
    Vouched { credential: CREDENTIAL, boot_ca: Digest::of(b"the boot CA's certificate"), https_port: 8443 }
}

fn spec(folder: &Path, name: &str) -> IsoSpec {
    let build = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../build/cache");
    IsoSpec {
        site: Site::new("ber1", &["192.0.2.7", "boot.example:80"], BOOT_PORT).expect("a site"),
        kind: Kind::Network { vouched: Some(vouched()) },
        cache: std::env::var_os("MUSTER_CACHE").map_or_else(build, PathBuf::from),
        out: folder.join(name),
        freshness: Freshness::Cached,
    }
}

fn build(spec: &IsoSpec) -> Result<IsoManifest, IsoError> {
    iso::build(spec, &mut |_| {})?.keep()
}

fn xorriso(arguments: &[&str], folder: &Path) -> String {
    let output = Command::new("xorriso").args(arguments).current_dir(folder).output().expect("xorriso starts");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn an_iso_starts_bios_and_uefi_machines_from_cd_and_from_a_stick() {
    let folder = tempfile::tempdir().expect("a folder");
    let spec = spec(folder.path(), "ber1.iso");
    let manifest = build(&spec).expect("an ISO");
    let mode = fs::metadata(&spec.out).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "its credential is a key");
    let reports = ["-pvd_info", "-report_el_torito", "plain", "-report_system_area", "plain"];
    let report = xorriso(&[&["-indev", "ber1.iso"][..], &reports].concat(), folder.path());
    let has = |words: &str| {
        let words: Vec<_> = words.split_whitespace().collect();
        let found = report.lines().any(|line| line.split_whitespace().collect::<Vec<_>>() == words);
        assert!(found, "no {words:?} in\n{report}");
    };
    has("Volume Id : MUSTER");
    has("El Torito img path : 1 /isolinux/isolinux.bin");
    has("El Torito img opts : 1 boot-info-table isohybrid-suitable");
    has("El Torito img path : 2 /boot/efi.img");
    has("System area summary: MBR isohybrid cyl-align-on GPT");
    has("MBR partition path : 2 /boot/efi.img");
    has("GPT partition path : 2 /boot/efi.img");
    assert!(
        report.contains("El Torito boot img :   1  BIOS  y") && report.contains("El Torito boot img :   2  UEFI  y")
    );

    let extract = ["-osirrox", "on", "-indev", "ber1.iso", "-extract", "/", "files"];
    xorriso(&extract, folder.path());
    let file = |name: &str| fs::read(folder.path().join("files").join(name)).expect(name);
    let script = |scheme| script::site(&spec.site, Some(&CREDENTIAL), scheme);
    assert_eq!(String::from_utf8_lossy(&file("isolinux/site.ipxe")), script(Scheme::Http));
    let config = String::from_utf8(file("isolinux/isolinux.cfg")).expect("text");
    assert!(config.contains("KERNEL ipxe.lkrn\n  INITRD site.ipxe\n") && config.contains("PROMPT 0\n"));

    let volume = fatfs::FileSystem::new(Cursor::new(file("boot/efi.img")), fatfs::FsOptions::new()).expect("FAT");
    let read = |path: &str| {
        let mut bytes = vec![];
        volume.root_dir().open_file(path).and_then(|mut f| f.read_to_end(&mut bytes)).expect(path);
        bytes
    };
    assert_eq!(String::from_utf8_lossy(&read("autoexec.ipxe")), script(Scheme::Https { port: 8443 }));
    let program = read("EFI/BOOT/BOOTX64.EFI");
    assert!(
        program.starts_with(b"MZ") && program.windows(13).any(|w| w == b"autoexec.ipxe"),
        "an iPXE that runs the script"
    );
    let pins = |program: &[u8]| program.windows(32).filter(|w| w == vouched().boot_ca.as_bytes()).count();
    assert_eq!((pins(&program), manifest.boot_ca), (1, Some(vouched().boot_ca.to_string())), "and believes one CA");
}

/// An image as far as a medium looks at it.
fn image(folder: &Path, kernel: &[u8]) -> PathBuf {
    let part = |bytes: &[u8]| serde_json::json!({ "bytes": bytes.len(), "sha256": Digest::of(bytes).to_string() });
    let manifest = serde_json::json!({
        "kernel_release": "6.12", "kernel": part(kernel), "initramfs": part(b"initramfs"), "unpacked": part(b""),
        "agent": part(b""), "packages": {}, "modules": [], "built_in": [], "missing": [], "firmware": [], "inputs": "",
        "tools": {
            "image": part(b"tools"), "unpacked_bytes": 9, "packages": {}, "programs": [], "modules": [],
        },
    });
    let image = folder.join("image");
    fs::create_dir_all(image.join("tools")).expect("a folder");
    fs::write(image.join("tools").join(Digest::of(b"tools").to_string()), b"tools").expect("a file");
    for (name, bytes) in
        [("kernel", kernel), ("initramfs", b"initramfs"), ("manifest.json", manifest.to_string().as_bytes())]
    {
        fs::write(image.join(name), bytes).expect("a file");
    }
    image
}

fn sealed(folder: &Path, name: &str, image: PathBuf) -> IsoSpec {
    let kind = Kind::Sealed { credential: CREDENTIAL, ca: Digest::of(b"the CA's certificate"), image };
    let site = Site::new("ber1", &["192.0.2.7"], AGENTS_PORT).expect("a site");
    IsoSpec { site, kind, ..spec(folder, name) }
}

#[test]
fn a_sealed_iso_carries_kernel_and_initramfs_for_both_kinds_of_firmware_and_pins_the_ca() {
    let folder = tempfile::tempdir().expect("a folder");
    let kernel = vec![0x4b; 3_000_000];
    let spec = sealed(folder.path(), "ber1.iso", image(folder.path(), &kernel));
    let manifest = build(&spec).expect("an ISO");
    let contents = manifest.sealed.as_ref().expect("sealed");
    assert_eq!(contents.ca, Digest::of(b"the CA's certificate").to_string());
    assert_eq!(build(&spec).expect("an ISO"), manifest, "the same inputs, the same bytes");

    xorriso(&["-osirrox", "on", "-indev", "ber1.iso", "-extract", "/", "files"], folder.path());
    let file = |name: &str| fs::read(folder.path().join("files").join(name)).expect(name);
    assert!(file("isolinux/kernel") == kernel && file("isolinux/initrd") == b"initramfs");
    let menu = String::from_utf8(file("isolinux/isolinux.cfg")).expect("text");
    let arguments = script::sealed_arguments(&spec.site, Digest::of(b"the CA's certificate"), &CREDENTIAL);
    assert!(menu.contains(&format!("LINUX kernel\n  INITRD initrd\n  APPEND {arguments}\n")), "{menu}");
    assert!(arguments.contains("muster.controller=192.0.2.7:8443 "), "{arguments}");
    let volume = fatfs::FileSystem::new(Cursor::new(file("boot/efi.img")), fatfs::FsOptions::new()).expect("FAT");
    let read = |path: &str| {
        let mut bytes = vec![];
        volume.root_dir().open_file(path).and_then(|mut f| f.read_to_end(&mut bytes)).expect(path);
        bytes
    };
    assert!(read("kernel") == kernel && read("initramfs") == b"initramfs");
    assert_eq!(String::from_utf8_lossy(&read("autoexec.ipxe")), script::sealed(&spec.site, &CREDENTIAL, &arguments));
}

#[test]
fn a_sealed_iso_of_a_damaged_image_or_with_names_that_no_kernel_reads_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = image(folder.path(), b"kernel");
    let long = format!("{}.{}.example", vec!["a".repeat(63); 3].join("."), "b".repeat(50));
    let site = Site::new("ber1", &vec![long; 8], AGENTS_PORT).expect("names");
    let spec = IsoSpec { site, ..sealed(folder.path(), "long.iso", image.clone()) };
    assert!(matches!(iso::build(&spec, &mut |_| {}), Err(IsoError::Controllers(bytes)) if bytes > 2000));
    fs::write(image.join("kernel"), b"KERNEL").expect("a file");
    let refused = iso::build(&sealed(folder.path(), "damaged.iso", image), &mut |_| {});
    assert!(matches!(refused, Err(IsoError::Image(_))), "{refused:?}");
    assert_eq!(iso::list(folder.path()).expect("a list"), []);
}

#[test]
fn the_same_site_gives_the_same_bytes() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut percents = vec![];
    let one = iso::build(&spec(folder.path(), "one.iso"), &mut |p| percents.push(p.percent)).expect("an ISO");
    let one = one.keep().expect("kept");
    let two = build(&spec(folder.path(), "two.iso")).expect("an ISO");
    assert_eq!(one, two);
    assert!(percents.is_sorted() && percents.last() == Some(&100));
}

#[test]
fn isos_are_listed_while_they_are_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    let manifest = build(&spec(folder.path(), "ber1.iso")).expect("an ISO");
    fs::write(folder.path().join("other.iso"), b"somebody else's").expect("a file");
    let listed = iso::list(folder.path()).expect("a list");
    assert_eq!(listed, [(folder.path().join("ber1.iso"), manifest)]);
    fs::write(folder.path().join("ber1.iso"), b"cut short").expect("a file");
    assert_eq!(iso::list(folder.path()).expect("a list"), []);
}

#[test]
fn a_medium_is_not_written_over_what_is_no_iso() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["sda", "ber1.img", ".iso"] {
        let refused = iso::build(&spec(folder.path(), name), &mut |_| {});
        assert!(matches!(refused, Err(IsoError::Name { .. })), "{name}");
    }
}

#[test]
fn an_iso_that_is_not_kept_changes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let names = || {
        let names = fs::read_dir(folder.path()).expect("a folder").map(|entry| entry.expect("there").file_name());
        names.collect::<std::collections::BTreeSet<_>>()
    };
    let kept = build(&spec(folder.path(), "ber1.iso")).expect("an ISO");
    let before = names();
    drop(iso::build(&sealed(folder.path(), "ber1.iso", image(folder.path(), b"kernel")), &mut |_| {}).expect("built"));
    fs::remove_dir_all(folder.path().join("image")).expect("removed");
    assert_eq!(
        (names(), iso::list(folder.path()).expect("a list")),
        (before, vec![(folder.path().join("ber1.iso"), kept)])
    );

    fs::create_dir(folder.path().join("new.iso.json")).expect("made");
    let refused = build(&spec(folder.path(), "new.iso"));
    assert!(matches!(refused, Err(IsoError::Write { path, .. }) if path.ends_with("new.iso.json")));
    assert!(!folder.path().join("new.iso").exists(), "nothing is left half done");
}
