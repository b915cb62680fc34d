//! What we say of a disk's bytes, beside what blkid says of the same bytes.
//!
//! The samples in `signatures/` were made by the formats' own tools (`make.sh`).
//! Formats whose tools need a kernel driver, a licence or a cluster are made here by hand; blkid judges those too.

mod layers;

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use muster_agent::linux::storage::signatures::{self, Ends, HEAD, TAIL};
use muster_protocol::observed::Contents;
use proptest::prelude::*;

const MIB: u64 = 1 << 20;

/// A disk image: its size, and what is not zero.
#[derive(Clone)]
struct Image {
    size: u64,
    pieces: Vec<(u64, Vec<u8>)>,
}

impl Image {
    fn new(size: u64, pieces: &[(u64, &[u8])]) -> Self {
        Self { size, pieces: pieces.iter().map(|(at, bytes)| (*at, bytes.to_vec())).collect() }
    }

    /// Reads the text form of a sample.
    fn sample(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).expect("a sample");
        let mut image = Self { size: 0, pieces: vec![] };
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (first, rest) = line.split_once(' ').expect("two words");
            match first {
                "size" => image.size = rest.parse().expect("a size"),
                at => {
                    let bytes = rest.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).expect("hex"));
                    image.pieces.push((at.parse().expect("an offset"), bytes.collect()));
                }
            }
        }
        image
    }

    fn ends(&self) -> (Vec<u8>, Vec<u8>) {
        let cut = |start: u64, len: u64| {
            let mut bytes = vec![0; len as usize];
            for (at, piece) in &self.pieces {
                for (at, byte) in (*at..).zip(piece).filter(|(at, _)| (start..start + len).contains(at)) {
                    bytes[(at - start) as usize] = *byte;
                }
            }
            bytes
        };
        let (head, tail) = (self.size.min(HEAD as u64), self.size.min(TAIL as u64));
        (cut(0, head), cut(self.size - tail, tail))
    }

    fn contents(&self) -> Contents {
        let (head, tail) = self.ends();
        signatures::of_disk(Ends { head: &head, tail: &tail, size: self.size }, 512).0
    }

    fn contents_as_partition(&self) -> Contents {
        let (head, tail) = self.ends();
        signatures::of_partition(Ends { head: &head, tail: &tail, size: self.size })
    }

    /// What `blkid -p` says: TYPE, LABEL, UUID, PTTYPE, …
    fn blkid(&self) -> BTreeMap<String, String> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        file.as_file().set_len(self.size).expect("room");
        for (at, piece) in &self.pieces {
            file.as_file().write_all_at(piece, *at).expect("written");
        }
        file.as_file().flush().expect("written");
        let out = Command::new("blkid").args(["-p", "-o", "export"]).arg(file.path()).output();
        let out = out.expect("blkid is needed to judge; install util-linux");
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let unescaped = |text: &str| text.replace('\\', "");
        text.lines().filter_map(|line| line.split_once('=')).map(|(k, v)| (k.into(), unescaped(v))).collect()
    }
}

fn samples() -> Vec<(String, Image)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/signatures");
    let files = std::fs::read_dir(folder).expect("the samples").map(|entry| entry.expect("a sample").path());
    let mut samples: Vec<_> = files
        .filter(|path| path.extension().is_some_and(|e| e == "hex"))
        .map(|path| (path.file_stem().expect("a name").to_string_lossy().into_owned(), Image::sample(&path)))
        .collect();
    samples.sort_by(|a, b| a.0.cmp(&b.0));
    assert!(samples.len() >= 25, "samples are missing");
    samples
}

/// Contents and blkid's words, in one form.
fn words(contents: &Contents) -> (String, String, String) {
    let none = String::new;
    match contents {
        Contents::Filesystem(fs) => (fs.kind.clone(), fs.label.clone(), fs.uuid.clone()),
        Contents::Signature(name) => (name.clone(), none(), none()),
        Contents::Raid(_) => ("linux_raid_member".into(), none(), none()),
        Contents::Lvm(volume) => ("LVM2_member".into(), none(), volume.uuid.to_string()),
        Contents::Luks(luks) => ("crypto_LUKS".into(), luks.label.clone(), luks.uuid.clone()),
        Contents::Gpt { .. } => ("gpt".into(), none(), none()),
        Contents::Dos => ("dos".into(), none(), none()),
        Contents::Blank => ("blank".into(), none(), none()),
        Contents::Unknown => ("unknown".into(), none(), none()),
    }
}

#[test]
fn samples_of_every_tool_are_told_as_blkid_tells_them() {
    for (name, image) in samples() {
        let blkid = image.blkid();
        let say = |key: &str| blkid.get(key).cloned().unwrap_or_default();
        let (kind, label, uuid) = words(&image.contents());
        let expected = if blkid.contains_key("TYPE") { say("TYPE") } else { say("PTTYPE") };
        assert_eq!(kind, expected, "{name}: {blkid:?}");
        if matches!(image.contents(), Contents::Filesystem(_) | Contents::Lvm(_) | Contents::Luks(_)) {
            // FAT keeps its label twice; ours is the boot sector's.
            let label_key = if kind == "vfat" { "LABEL_FATBOOT" } else { "LABEL" };
            assert_eq!(label, say(label_key), "{name}");
            // An ISO's "UUID" is a date; it is not told.
            assert!(uuid == say("UUID") || kind == "iso9660" && uuid.is_empty(), "{name}: {uuid} {blkid:?}");
        }
    }
}

/// A superblock of Linux md, version 1.x, as far as blkid looks (include/uapi/linux/raid/md_p.h).
fn md_v1(at: u64) -> Vec<u8> {
    let mut sb = vec![0_u8; 256];
    let mut put = |at: usize, bytes: &[u8]| sb[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &0xa92b_4efc_u32.to_le_bytes());
    put(4, &1_u32.to_le_bytes());
    put(16, &[0x11; 16]);
    put(144, &(at / 512).to_le_bytes());
    let sum = sb.chunks_exact(4).map(|word| u64::from(u32::from_le_bytes([word[0], word[1], word[2], word[3]])));
    let sum: u64 = sum.sum();
    let sum = (sum & 0xffff_ffff) as u32 + (sum >> 32) as u32;
    sb[216..220].copy_from_slice(&sum.to_le_bytes());
    sb
}

/// The uberblocks of one ZFS label.
fn zfs(label: u64) -> Vec<(u64, Vec<u8>)> {
    let block = |i: u64| (label + 128 * 1024 + i * 1024, 0x00ba_b10c_u64.to_le_bytes().to_vec());
    (0..8).map(block).collect()
}

#[test]
fn members_of_arrays_and_pools_are_told_wherever_their_metadata_lies() {
    let size = 64 * MIB + 12_288;
    let v1_0_at = (size / 512 - 16) / 8 * 8 * 512;
    let v0_90_at = size / 65_536 * 65_536 - 65_536;
    let md_v0: Vec<u8> = [0xa92b_4efc_u32, 0, 90].iter().flat_map(|word| word.to_le_bytes()).collect();
    let zfs_end = size / 262_144 * 262_144;
    let pieces = |all: Vec<(u64, Vec<u8>)>| Image { size, pieces: all };
    let cases = [
        ("linux_raid_member", Image::new(size, &[(0, &md_v1(0))]), true),
        ("linux_raid_member", Image::new(size, &[(4096, &md_v1(4096))]), true),
        ("linux_raid_member", Image::new(size, &[(v1_0_at, &md_v1(v1_0_at))]), true),
        ("linux_raid_member", Image::new(size, &[(v0_90_at, &md_v0)]), true),
        ("zfs_member", pieces(zfs(0)), true),
        ("zfs_member", pieces(zfs(262_144)), true),
        ("zfs_member", pieces(zfs(zfs_end - 262_144)), true),
        ("zfs_member", pieces(zfs(zfs_end - 524_288)), true),
        ("ceph_bluestore", Image::new(size, &[(0, b"bluestore block device\n")]), true),
        ("VMFS_volume_member", Image::new(size, &[(MIB, &[0x0d, 0xd0, 0x01, 0xc0])]), true),
        ("VMFS", Image::new(size, &[(2 * MIB, &[0x5e, 0xf1, 0xab, 0x2f])]), true),
        ("isw_raid_member", Image::new(size, &[(size - 1024, b"Intel Raid ISM Cfg Sig. 1.0.00")]), true),
        ("ddf_raid_member", Image::new(size, &[(size - 512, &[0xde, 0x11, 0xde, 0x11])]), false),
        ("swsuspend", Image::new(size, &[(4086, b"S1SUSPEND\0")]), true),
        ("BitLocker", Image::new(size, &[(0, b"\xeb\x58\x90-FVE-FS-")]), false),
        ("ReFS", Image::new(size, &[(3, b"ReFS\0\0\0\0")]), true),
        ("oracleasm", Image::new(size, &[(32, b"ORCLDISK")]), false),
        (
            "bcachefs",
            Image::new(size, &[(4120, b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef")]),
            false,
        ),
        ("DM_integrity", Image::new(size, &[(0, b"integrt\0\x01")]), true),
    ];
    for (i, (name, image, blkid_agrees)) in cases.into_iter().enumerate() {
        assert_eq!(words(&image.contents()).0, name, "case {i}");
        assert_eq!(words(&image.contents_as_partition()).0, name, "case {i} as a partition");
        if blkid_agrees {
            assert_eq!(image.blkid().get("TYPE").map(String::as_str), Some(name), "case {i}: {:?}", image.blkid());
        }
    }
}

#[test]
fn a_mirrored_disk_that_begins_with_a_table_is_a_member_and_not_a_table() {
    let gpt = samples().into_iter().find(|(name, _)| name == "gpt").expect("the sample").1;
    let at = (gpt.size / 512 - 16) / 8 * 8 * 512;
    let mut mirrored = gpt.clone();
    // md 1.0 lies where the backup table is on a plain disk.
    mirrored.pieces.push((at, md_v1(at)));
    assert_eq!(words(&mirrored.contents()).0, "linux_raid_member");
}

#[test]
fn partitions_of_gpt_and_mbr_are_told_as_sfdisk_wrote_them() {
    let of = |wanted: &str| {
        let image = samples().into_iter().find(|(name, _)| name == wanted).expect("the sample").1;
        let (head, tail) = image.ends();
        signatures::of_disk(Ends { head: &head, tail: &tail, size: image.size }, 512).1
    };
    let gpt = of("gpt");
    assert_eq!((gpt[0].number, gpt[0].start, gpt[0].size, &*gpt[0].label), (1, MIB, 10 * MIB, "boot"));
    assert_eq!((gpt[1].number, gpt[1].start, &*gpt[1].label), (2, 11 * MIB, "größe"));
    assert_eq!(gpt[1].type_guid, muster_protocol::desired::LINUX_FILESYSTEM);
    let dos = of("dos");
    assert_eq!((dos[0].number, dos[0].start, dos[0].size), (1, MIB, 10 * MIB));
    assert_eq!((dos[1].number, dos[1].start), (2, 11 * MIB));
    assert_eq!(of("dos-empty"), []);
}

#[test]
fn only_zeros_are_blank() {
    let blank = Image::new(64 * MIB, &[]);
    assert_eq!((blank.contents(), blank.contents_as_partition()), (Contents::Blank, Contents::Blank));
    for at in [0, 511, 512, 4096, MIB, 2 * MIB + 4095, 63 * MIB, 64 * MIB - 1] {
        let image = Image::new(64 * MIB, &[(at, &[1])]);
        assert_eq!((image.contents(), image.contents_as_partition()), (Contents::Unknown, Contents::Unknown), "{at}");
    }
}

#[test]
fn text_that_looks_like_a_table_is_not_one() {
    // A boot signature over entries that make no sense.
    let mut sector = vec![0x41; 512];
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    assert_eq!(Image::new(64 * MIB, &[(0, &sector)]).contents(), Contents::Unknown);
    assert_eq!(Image::new(64 * MIB, &[(512, b"EFI PART")]).contents(), Contents::Signature("damaged GPT".into()));
}

#[test]
fn a_boot_medium_is_known_even_under_a_partition_table() {
    let is = |name: &str| {
        let image = samples().into_iter().find(|(n, _)| n == name).expect("the sample").1;
        let (head, tail) = image.ends();
        signatures::is_boot_medium(Ends { head: &head, tail: &tail, size: image.size })
    };
    assert!(is("iso9660") && is("iso9660-hybrid"));
    assert!(!is("gpt") && !is("ext4"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic_and_are_never_blank(
        size in 0..200_000_u64,
        noise in proptest::collection::vec((0..200_000_u64, proptest::collection::vec(1..255_u8, 1..64)), 1..20),
        sector in prop_oneof![Just(0_u32), Just(512), Just(4096), Just(u32::MAX)],
    ) {
        let image = Image { size, pieces: noise };
        let (head, tail) = image.ends();
        let ends = Ends { head: &head, tail: &tail, size };
        let (contents, _) = signatures::of_disk(ends, sector);
        let zeros = head.iter().chain(&tail).all(|&b| b == 0);
        prop_assert_eq!(contents == Contents::Blank, zeros);
        prop_assert_eq!(signatures::of_partition(ends) == Contents::Blank, zeros);
        // Ends that contradict the size: never from us, and still no panic.
        let _ = signatures::of_disk(Ends { size: size / 2, ..ends }, sector);
        let _ = signatures::of_partition(Ends { size: u64::MAX, ..ends });
        let _ = signatures::is_boot_medium(Ends { size: 1, ..ends });
    }

    #[test]
    fn samples_with_one_byte_changed_never_panic(which in 0..25_usize, piece in 0..1000_usize, at in 0..32_usize, to in any::<u8>()) {
        let (_, mut image) = samples().swap_remove(which);
        let pieces = image.pieces.len();
        let bytes = &mut image.pieces[piece % pieces].1;
        let len = bytes.len();
        bytes[at % len] = to;
        image.size = image.size.min(3 * MIB);
        let _ = image.contents();
        let _ = image.contents_as_partition();
    }
}
