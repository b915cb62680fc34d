//! Images in every form that is taken in are the same disk, and bytes that are none are refused.

use std::io::Cursor;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use muster_protocol::disk::{CHUNK, HEADER, Next, PIECE};
use proptest::prelude::*;

use super::qcow2::Qcow2;
use super::*;

const CLUSTER: usize = 1 << 16;

/// A disk with the beginnings of a GPT, data with holes in between, and an end that is no whole chunk.
fn disk() -> Vec<u8> {
    let mut disk = vec![0; 5 * CHUNK + 3 * 4096];
    disk[512..520].copy_from_slice(b"EFI PART");
    let mut seed = 1_u32;
    for at in [1 << 16, CHUNK + 7, 3 * CHUNK, 3 * CHUNK + CLUSTER, disk.len() - 4096] {
        for byte in &mut disk[at..at + 4000] {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = (seed >> 28) as u8;
        }
    }
    disk
}

/// How clusters of a qcow2 are written that is made here.
#[derive(Clone, Copy, PartialEq)]
enum How {
    Plain,
    Deflate,
    Zstd,
}

/// What `qemu-img convert -O qcow2` writes, without reference counts, which no reader needs.
fn qcow2(disk: &[u8], how: How) -> Vec<u8> {
    let mut out = vec![0; 3 * CLUSTER];
    out[..4].copy_from_slice(qcow2::MAGIC);
    let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
    put(4, &3_u32.to_be_bytes());
    put(20, &16_u32.to_be_bytes());
    put(24, &(disk.len() as u64).to_be_bytes());
    put(36, &1_u32.to_be_bytes());
    put(40, &(CLUSTER as u64).to_be_bytes());
    put(100, &112_u32.to_be_bytes());
    if how == How::Zstd {
        put(72, &(1_u64 << 3).to_be_bytes());
        put(104, &[1]);
    }
    put(CLUSTER, &((2 * CLUSTER) as u64 | 1 << 63).to_be_bytes());
    for (i, cluster) in disk.chunks(CLUSTER).enumerate() {
        let mut cluster = cluster.to_vec();
        cluster.resize(CLUSTER, 0);
        let at = out.len() as u64;
        let entry = if cluster.iter().all(|byte| *byte == 0) {
            // Both ways to say zeros.
            (i % 2) as u64
        } else if how == How::Plain {
            out.extend(cluster);
            at | 1 << 63
        } else {
            let packed = match how {
                How::Zstd => zstd::bulk::compress(&cluster, 3).expect("packs"),
                _ => miniz_oxide::deflate::compress_to_vec(&cluster, 6),
            };
            let sectors = packed.len().div_ceil(512);
            out.extend(packed);
            out.resize(at as usize + sectors * 512, 0);
            1 << 62 | (sectors as u64 - 1) << 54 | at
        };
        let place = 2 * CLUSTER + i * 8;
        out[place..place + 8].copy_from_slice(&entry.to_be_bytes());
    }
    out.resize(out.len().next_multiple_of(CLUSTER), 0);
    out
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut child = Command::new("xz")
        .args(["-0", "-T1", "-c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("xz is installed");
    let mut input = child.stdin.take().expect("piped");
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || input.write_all(&bytes));
    let packed = child.wait_with_output().expect("xz ends").stdout;
    writer.join().expect("it ends").expect("it is read");
    packed
}

fn take_in(folder: &Path, bytes: &[u8]) -> Result<DiskImage, DiskImageError> {
    let file = folder.join("given");
    fs::write(&file, bytes).expect("written");
    add(&folder.join(FOLDER), &file, "given", None, &mut |percent, _| assert!(percent <= 100))
}

/// What a machine would write of it.
fn unpack(image: &[u8]) -> Vec<u8> {
    let header = Header::read(image[..HEADER].try_into().expect("long enough")).expect("a header");
    let (mut at, mut done, mut disk) = (HEADER, 0, vec![0; header.size as usize]);
    loop {
        let head = image[at..at + PIECE].try_into().expect("16 bytes");
        at += PIECE;
        match Next::read(head, done, header.size).expect("it can come") {
            Next::Piece { at: place, len } => {
                disk[place as usize..place as usize + len].copy_from_slice(&image[at..at + len]);
                (at, done) = (at + len, place + len as u64);
            }
            Next::End => break,
        }
    }
    assert_eq!(at + 32, image.len());
    let summed = [&image[HEADER..at - PIECE], &image[..HEADER]].concat();
    assert_eq!(&image[at..], Digest::of(&summed).as_bytes());
    disk
}

#[test]
fn every_form_is_the_same_disk_without_its_holes() {
    let disk = disk();
    for (form, bytes) in [
        ("raw", disk.clone()),
        ("zstd", zstd::bulk::compress(&disk, 1).expect("packs")),
        ("xz", xz(&disk)),
        ("qcow2", qcow2(&disk, How::Plain)),
        ("qcow2 with deflate", qcow2(&disk, How::Deflate)),
        ("qcow2 with zstd", qcow2(&disk, How::Zstd)),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let image = take_in(folder.path(), &bytes).unwrap_or_else(|error| panic!("{form}: {error}"));
        assert_eq!(image.header.source, Digest::of(&bytes), "{form}");
        assert_eq!(image.header.size, disk.len() as u64, "{form}");
        assert!(image.bytes < 2 * CHUNK as u64, "{form}: holes are kept: {}", image.bytes);
        let kept = fs::read(folder.path().join(FOLDER).join(image.header.source.to_string())).expect("kept");
        assert!(unpack(&kept) == disk, "{form} is another disk");
        assert_eq!(list(&folder.path().join(FOLDER)).expect("listed"), std::slice::from_ref(&image));
        assert!(remove(&folder.path().join(FOLDER), &image.header.source).expect("removed"));
        assert!(!remove(&folder.path().join(FOLDER), &image.header.source).expect("gone"));
    }
}

#[test]
fn what_cannot_be_written_to_a_disk_is_refused_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let with = |at: usize, bytes: &[u8]| {
        let mut image = qcow2(&disk(), How::Plain);
        image[at..at + bytes.len()].copy_from_slice(bytes);
        image
    };
    let mut odd = disk();
    odd.push(1);
    for (bytes, why) in [
        (vec![], "less than 2 MiB"),
        (vec![0; 4 * CHUNK], "no GPT"),
        (odd, "multiple of 512"),
        (disk()[..CHUNK + 512].to_vec(), "less than 2 MiB"),
        (vec![0x1f, 0x8b, 8, 0, 0, 0, 0], "gzip"),
        (zstd::bulk::compress(&qcow2(&disk(), How::Plain), 1).expect("packs"), "a qcow2 in it"),
        (zstd::bulk::compress(&disk(), 1).expect("packs")[..2000].to_vec(), "cannot be unpacked"),
        (with(4, &9_u32.to_be_bytes()), "version 2 or 3"),
        (with(8, &[0, 0, 0, 0, 0, 0, 1, 0]), "another file"),
        (with(35, &[1]), "encrypted"),
        (with(79, &[2]), "corrupt"),
        (with(79, &[4]), "another file"),
        (with(79, &[16]), "features"),
        (with(36, &u32::MAX.to_be_bytes()), "damaged"),
    ] {
        let error = take_in(folder.path(), &bytes).expect_err(why);
        assert!(error.to_string().contains(why), "{error} and not {why}");
        assert_eq!(list(&folder.path().join(FOLDER)).expect("listed"), [], "{why}");
        let left = fs::read_dir(folder.path().join(FOLDER)).map_or(0, Iterator::count);
        assert_eq!(left, 0, "nothing is left behind: {why}");
    }
}

#[test]
fn another_file_than_the_expected_one_is_not_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("given");
    fs::write(&file, disk()).expect("written");
    let expected = Some(Digest::of(b"the real one"));
    let error = add(&folder.path().join(FOLDER), &file, "given", expected, &mut |_, _| {}).expect_err("another");
    assert!(matches!(error, DiskImageError::Other { .. }), "{error}");
    assert_eq!(list(&folder.path().join(FOLDER)).expect("listed"), []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_damaged_qcow2_is_read_or_refused(changes in proptest::collection::vec((0..4096_usize, any::<u8>()), 0..8)) {
        static SOUND: LazyLock<Vec<u8>> = LazyLock::new(|| qcow2(&disk()[..4 * CLUSTER], How::Deflate));
        let mut image = SOUND.clone();
        for (at, byte) in changes {
            // In the header, either table, or the data.
            let place = [0, CLUSTER, 2 * CLUSTER, 3 * CLUSTER][at % 4] + at / 4 % 128;
            image[place] = byte;
        }
        if let Ok(mut disk) = Qcow2::open(Cursor::new(image)) {
            let mut out = vec![0; CLUSTER];
            for at in [0, CLUSTER as u64, disk.size / 2, disk.size.saturating_sub(CLUSTER as u64)] {
                if disk.read(at, &mut out).is_err() {
                    break;
                }
            }
        }
    }

    #[test]
    fn arbitrary_bytes_are_no_qcow2_or_read(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let image = [qcow2::MAGIC.as_slice(), &[0, 0, 0, 3], &bytes].concat();
        if let Ok(mut disk) = Qcow2::open(Cursor::new(image)) {
            let _ = disk.read(disk.size / 2, &mut [0; 512]);
        }
    }
}
