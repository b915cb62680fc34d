//! Site ISOs, built from Debian's packages as an operator's are, and looked at with xorriso.
//!
//! Packages are kept in `build/cache` (or `MUSTER_CACHE`), so that only the first run downloads anything.
//! Booting them is the business of the QEMU tests.

use std::fs;
use std::io::{Cursor, Read as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use muster_ipxe::iso::{self, IsoError, IsoSpec};
use muster_ipxe::packages::Freshness;
use muster_ipxe::param::Site;
use muster_ipxe::script;
use muster_protocol::enroll::SiteCredential;

fn spec(folder: &Path, name: &str) -> IsoSpec {
    let build = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../build/cache");
    IsoSpec {
        site: Site::new("ber1", &["192.0.2.7", "boot.example:80"]).expect("a site"),
        credential: Some(SiteCredential::from_bytes([0x5c; 32])),
        cache: std::env::var_os("MUSTER_CACHE").map_or_else(build, PathBuf::from),
        out: folder.join(name),
        freshness: Freshness::Cached,
    }
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
    iso::build(&spec, &mut |_| {}).expect("an ISO");
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
    let script = script::site(&spec.site, spec.credential.as_ref());
    assert_eq!(String::from_utf8_lossy(&file("isolinux/site.ipxe")), script);
    let config = String::from_utf8(file("isolinux/isolinux.cfg")).expect("text");
    assert!(config.contains("KERNEL ipxe.lkrn\n  INITRD site.ipxe\n") && config.contains("PROMPT 0\n"));

    let volume = fatfs::FileSystem::new(Cursor::new(file("boot/efi.img")), fatfs::FsOptions::new()).expect("FAT");
    let read = |path: &str| {
        let mut bytes = vec![];
        volume.root_dir().open_file(path).and_then(|mut f| f.read_to_end(&mut bytes)).expect(path);
        bytes
    };
    assert_eq!(String::from_utf8_lossy(&read("autoexec.ipxe")), script);
    let program = read("EFI/BOOT/BOOTX64.EFI");
    assert!(
        program.starts_with(b"MZ") && program.windows(13).any(|w| w == b"autoexec.ipxe"),
        "an iPXE that runs the script"
    );
}

#[test]
fn the_same_site_gives_the_same_bytes() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut percents = vec![];
    let one = iso::build(&spec(folder.path(), "one.iso"), &mut |p| percents.push(p.percent)).expect("an ISO");
    let two = iso::build(&spec(folder.path(), "two.iso"), &mut |_| {}).expect("an ISO");
    assert_eq!(one, two);
    assert!(percents.is_sorted() && percents.last() == Some(&100));
}

#[test]
fn isos_are_listed_while_they_are_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    let manifest = iso::build(&spec(folder.path(), "ber1.iso"), &mut |_| {}).expect("an ISO");
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
