//! Every shape that a document can give a disk, on disks of every kind: made by a machine, judged by the programs of other
//! people, found again after a boot by disks that were plugged in elsewhere and have grown. Arrays are in [`arrays`], power cuts
//! in [`cuts`].

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use muster_protocol::Digest;
use muster_tests::attached::Attached;
use muster_tests::disks;
use muster_tests::eventually;
use muster_tests::lab::{self, BOOT, Lab, SOON, text};
use muster_tests::qemu::{Boot, Disk, DiskKind, Firmware};
use serde_json::Value;

use super::{arrays, cuts, start};

/// A filesystem or swap area as it should be found.
struct Shape {
    disk: &'static str,
    number: u32,
    /// The partition's; the filesystem has the same, in the case that its format takes.
    label: &'static str,
    format: &'static str,
    uuid: &'static str,
    /// Where it is mounted to be written to.
    path: &'static str,
    /// The partition in MiB, and after the disk has grown.
    size_mib: [u64; 2],
}

const SHAPES: [Shape; 15] = [
    shape("NVME-4K", 1, "n-ext4", "ext4", "0a1b2c3d-0000-4000-8000-000000000001", "/srv/n-ext4", [128, 128]),
    shape("NVME-4K", 2, "n-btrfs", "btrfs", "0a1b2c3d-0000-4000-8000-000000000002", "/srv/n-btrfs", [382, 894]),
    shape("SATA-3T", 1, "EFI", "vfat", "1A2B-3C4D", "", [64, 64]),
    shape("SATA-3T", 7, "big", "xfs", "0a1b2c3d-0000-4000-8000-000000000003", "/srv/big", [2_097_151, 2_097_151]),
    shape("SCSI-4K", 1, "tiny", "ext4", "0a1b2c3d-0000-4000-8000-000000000004", "", [24, 24]),
    shape("SCSI-4K", 2, "TINYFAT", "vfat", "5E6F-7A8B", "", [38, 38]),
    shape("SCSI", 1, "grows", "xfs", "0a1b2c3d-0000-4000-8000-000000000005", "/srv/grows", [398, 910]),
    shape("VIRTIO-4K", 1, "v-ext4", "ext4", "0a1b2c3d-0000-4000-8000-000000000006", "/srv/v-ext4", [510, 1022]),
    shape("SATA", 1, "swap", "swap", "0a1b2c3d-0000-4000-8000-000000000007", "", [64, 64]),
    shape("SATA", 3, "s-ext4", "ext4", "0a1b2c3d-0000-4000-8000-000000000008", "", [64, 64]),
    shape("USB", 1, "u-swap", "swap", "0a1b2c3d-0000-4000-8000-000000000009", "", [16, 16]),
    shape("USB", 2, "UFAT", "vfat", "9A0B-1C2D", "", [38, 38]),
    shape("USB", 3, "u-btrfs", "btrfs", "0a1b2c3d-0000-4000-8000-00000000000a", "/srv/u-btrfs", [128, 128]),
    shape("USB", 4, "u-xfs", "xfs", "0a1b2c3d-0000-4000-8000-00000000000b", "/srv/u-xfs", [320, 832]),
    shape("USB-4K", 1, "u-ext4", "ext4", "0a1b2c3d-0000-4000-8000-00000000000c", "/srv/u-ext4", [98, 98]),
];

const fn shape(
    disk: &'static str,
    number: u32,
    label: &'static str,
    format: &'static str,
    uuid: &'static str,
    path: &'static str,
    size_mib: [u64; 2],
) -> Shape {
    Shape { disk, number, label, format, uuid, path, size_mib }
}

/// Chosen by slot, WWN, serial, and rules; partitions by number and without, where they should begin, of their own types
/// and GUIDs, the last one growing; filesystems with options; mounts with options, memory, and a directory shown twice.
fn document(slot: &str) -> String {
    let filesystem = |shape: &Shape| {
        let used = match (shape.label, shape.path) {
            ("swap" | "u-swap", _) => String::new(),
            ("s-ext4", _) => ", path: /srv/s-ext4, mount_options: [ro, noexec]".into(),
            (_, "") => ", with_mount_unit: false".into(),
            (_, path) => format!(", path: {path}, mount_options: [noatime, nosuid]"),
        };
        let options = match shape.label {
            "big" => ", options: [-l, size=64m]",
            "n-ext4" => ", options: [-m, '0']",
            _ => "",
        };
        let Shape { label, format, uuid, .. } = shape;
        format!(
            "    - {{device: /dev/disk/by-partlabel/{label}, format: {format}, label: {label}, uuid: {uuid}{used}{options}}}\n"
        )
    };
    let filesystems: String = SHAPES.iter().map(filesystem).collect();
    let [more_disks, arrays, more_filesystems] = arrays::document();
    format!(
        "storage:
  disks:
    - device: /dev/disk/by-path/{slot}
      partitions: [{{number: 1, label: n-ext4, size_mib: 128}}, {{label: n-btrfs, resize: true}}]
    - device: wwn:0x5000c50000000002
      partitions:
        - {{number: 1, label: EFI, size_mib: 64, type_guid: esp, guid: 3f2a9c1e-0b7d-4c55-9a51-2f6d1e0c8b7a}}
        - {{number: 7, label: big, start_mib: 1048576, type_guid: srv}}
    - device: /dev/disk/by-id/wwn-0x5000c50000000003
      partitions: [{{label: tiny, size_mib: 24}}, {{label: TINYFAT}}]
    - {{device: 'serial:SCSI', partitions: [{{number: 1, label: grows, resize: true}}]}}
    - {{match: {{transport: virtio, pick: smallest}}, partitions: [{{label: v-ext4, resize: true}}]}}
    - match: {{transport: sata, max_size_mib: 1000}}
      partitions: [{{number: 1, label: swap, size_mib: 64, type_guid: swap}}, {{number: 3, label: s-ext4, size_mib: 64}}]
    - device: serial:USB
      partitions:
        - {{number: 1, label: u-swap, size_mib: 16, type_guid: swap}}
        - {{number: 2, label: UFAT, size_mib: 38}}
        - {{number: 3, label: u-btrfs, size_mib: 128}}
        - {{number: 4, label: u-xfs, resize: true}}
    - {{match: {{transport: usb, pick: smallest}}, partitions: [{{label: u-ext4}}]}}
{more_disks}  raid:
{arrays}  filesystems:
{filesystems}{more_filesystems}  io_limits:
    - {{device: 'serial:SCSI', read_iops: 5000, write_bytes_per_second: 104857600}}
    - {{device: wwn:0x5000c50000000002, cgroup: machine.slice, write_iops: 300}}
  mounts:
    - {{what: tmpfs, where: /srv/memory, type: tmpfs, options: [size=8M, mode=0750]}}
    - {{what: /srv/n-ext4/shown, where: /srv/shown, options: [bind, ro]}}
"
    )
}

#[test]
fn every_shape_is_made_on_every_kind_of_disk_found_again_grown_and_gone_on_with_after_any_power_cut() -> Result<()> {
    let lab = Lab::open("shapes", &[])?;
    let mut spec = lab::machine(Firmware::Bios, Boot::Network)?;
    spec.disks = vec![
        // In its slot it stays.
        Disk::new(DiskKind::Nvme, "NVME-4K", 512).with_large_sectors(),
        Disk::new(DiskKind::Virtio, "LOGGED", 1200).logged(),
        Disk::new(DiskKind::Sata { wwn: 0x5000_c500_0000_0002 }, "SATA-3T", 3 << 20),
        Disk::new(DiskKind::Scsi { wwn: 0x5000_c500_0000_0003 }, "SCSI-4K", 64).with_large_sectors(),
        Disk::new(DiskKind::Scsi { wwn: 0x5000_c500_0000_0004 }, "SCSI", 400),
        Disk::new(DiskKind::Virtio, "VIRTIO-4K", 512).with_large_sectors(),
        Disk::new(DiskKind::Sata { wwn: 0x5000_c500_0000_0006 }, "SATA", 200),
        Disk::new(DiskKind::Stick, "STICK", 64),
        Disk::new(DiskKind::Nvme, "BESIDE", 64),
    ];
    let folder = lab.folder.join("machine");
    fs::create_dir_all(&folder)?;
    let others: Vec<PathBuf> = spec.disks[7..].iter().map(|disk| disk.path(&folder)).collect();
    for (image, disk) in others.iter().zip(&spec.disks[7..]) {
        File::create(image)?.set_len(disk.size_mib << 20)?;
        disks::scribble(image)?;
    }
    let fingerprints = || others.iter().map(|image| Ok(Digest::of(&fs::read(image)?))).collect::<Result<Vec<_>>>();
    let before = fingerprints()?;
    spec.disks.extend([
        Disk::new(DiskKind::Usb, "USB", 504),
        // The smallest in a case; the stick is none.
        Disk::new(DiskKind::Usb, "USB-4K", 100).with_large_sectors(),
    ]);
    spec.disks.extend(arrays::disks());

    let mut machine = start(&lab, &mut spec, &folder)?;
    let admitted = lab.admit()?;
    lab.until_inventoried(&spec)?;
    let (name, boot) = (text(&admitted, "/name")?, text(&admitted, "/presence/boot")?.to_owned());
    let observed = || lab.controller.api()?.get(&format!("/api/v1/machines/{}/observed", text(&admitted, "/id")?));
    let slot = slot(&observed()?, "NVME-4K")?;
    let file = lab.folder.join("disks.yaml").display().to_string();
    let is_done = |document: &str| {
        fs::write(&file, document)?;
        let plan = lab.controller.muster(&["plan", "-m", name, "-f", &file])?;
        ensure!(plan.contains("nothing to do"), "the same once more: {plan}");
        anyhow::Ok(())
    };
    let apply = |document: &str, more: &[&str]| {
        fs::write(&file, document)?;
        lab.controller.muster(&[&["apply", "-m", name, "-f", &file], more].concat())?;
        is_done(document)
    };
    let log =
        cuts::Log::make(&spec.disks[1], &folder, |document| apply(document, &["--permit-destroy=serial:LOGGED"]))?;
    apply(&document(&slot), &[])?;
    eventually(SOON * 2, "the arrays are whole", || arrays::are_whole(&observed()?))?;
    let limits = observed()?["io_limits"].clone();
    ensure!(limits.as_array().is_some_and(|all| all.len() == 2), "{limits}");
    lab.controller.muster(&["power", "off", name])?;
    machine.wait_off(BOOT)?;
    drop(machine);

    let disk = |serial: &str| spec.disks.iter().find(|disk| disk.serial == serial).context("one of them").cloned();
    let mut data = Vec::new();
    for (i, shape) in SHAPES.iter().enumerate() {
        let attached = look(&disk(shape.disk)?, &folder, shape, 0)?;
        if shape.path.is_empty() {
            data.push(partition_digest(&attached, shape)?);
            continue;
        }
        let bytes = vec![i as u8 + 1; 1 << 20];
        attached.mounted(shape.number, |at| Ok(fs::write(at.join("kept"), &bytes)?))?;
        data.push(Digest::of(&bytes));
    }
    log.check()?;
    let known = arrays::fill(&folder)?;

    // The disks grow, and all but the one in its slot are plugged in the other way round.
    for serial in ["NVME-4K", "SCSI", "VIRTIO-4K", "USB"] {
        let disk = disk(serial)?;
        File::options().write(true).open(disk.path(&folder))?.set_len((disk.size_mib + 512) << 20)?;
    }
    let sectors = spec.disks.clone();
    spec.disks.iter_mut().for_each(|disk| disk.is_logged = false);
    spec.disks[1..].reverse();
    let mut machine = start(&lab, &mut spec, &folder)?;
    lab.until_online(Some(&boot))?;
    // By itself: nobody applies anything.
    eventually(SOON * 2, "the machine has what is desired", || is_done(&document(&slot)))?;
    eventually(SOON, "the arrays are whole", || arrays::are_whole(&observed()?))?;
    ensure!(observed()?["io_limits"] == limits, "the limits are those of before");
    cuts::Log::go_on(|document| apply(document, &[]))?;
    let mut more = document(&slot);
    for shape in SHAPES.iter().filter(|shape| !shape.path.is_empty()) {
        let Shape { path, label, .. } = shape;
        more.push_str(&format!("    - {{what: {path}/new, where: /mnt/{label}, options: [bind]}}\n"));
    }
    for name in arrays::names() {
        more.push_str(&format!("    - {{what: /srv/{name}/new, where: /mnt/{name}, options: [bind]}}\n"));
    }
    apply(&more, &[])?;
    lab.controller.muster(&["power", "off", name])?;
    machine.wait_off(BOOT)?;

    for (shape, kept) in SHAPES.iter().zip(data) {
        let disk = sectors.iter().find(|disk| disk.serial == shape.disk).context("one of them")?;
        let attached = look(disk, &folder, shape, 1)?;
        if shape.path.is_empty() {
            ensure!(partition_digest(&attached, shape)? == kept, "{} is as it was", shape.label);
            continue;
        }
        attached.mounted(shape.number, |at| {
            ensure!(Digest::of(&fs::read(at.join("kept"))?) == kept, "{}: its data is there", shape.label);
            ensure!(at.join("new").is_dir(), "{}: the machine has mounted it, data and all", shape.label);
            Ok(())
        })?;
    }
    arrays::check(&folder, &known)?;
    log.check_whole()?;
    ensure!(fingerprints()? == before, "the disks beside them are as they were");
    Ok(())
}

fn slot(observed: &Value, serial: &str) -> Result<String> {
    let all = observed["disks"].as_array().into_iter().flatten();
    let mut ones = all.filter(|disk| disk["id"].as_str().is_some_and(|id| id.ends_with(serial)));
    let slot = ones.next().and_then(|disk| disk["by_path"].as_str()).map(str::to_owned);
    slot.with_context(|| format!("{serial}: {observed}"))
}

/// What others find on the disk is what the document says, before it has grown (0) or afterwards (1).
fn look(disk: &Disk, folder: &Path, shape: &Shape, grown: usize) -> Result<Attached> {
    let sector = if matches!(disk.kind, DiskKind::Sata { .. }) { 512 } else { disk.sector };
    let attached = Attached::new(&disk.path(folder), sector)?;
    let table = attached.table()?;
    let node = format!("{} :", attached.partition(shape.number));
    let line = table.lines().find(|line| line.starts_with(&node)).with_context(|| format!("{node} in {table}"))?;
    let line = line.replace(' ', "");
    let size = (shape.size_mib[grown] << 20) / u64::from(sector);
    ensure!(line.contains(&format!("size={size},")), "{} MiB: {line} in {table}", shape.size_mib[grown]);
    ensure!(line.contains(&format!("name=\"{}\"", shape.label)), "{line}");
    for (label, word) in [
        ("EFI", "start=2048,"),
        ("EFI", "type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B"),
        ("EFI", "uuid=3F2A9C1E-0B7D-4C55-9A51-2F6D1E0C8B7A"),
        ("big", "start=2147483648,"),
        ("big", "type=3B8F8425-20E0-4F3B-907F-1A25A76F98E8"),
        ("swap", "type=0657FD6D-A4AB-43C4-84E5-0933C84B4F4F"),
    ] {
        ensure!(label != shape.label || line.contains(word), "{word}: {line}");
    }
    let found = attached.probe(shape.number).with_context(|| line.clone())?;
    let said = ["TYPE", "LABEL", "UUID"].map(|tag| found.get(tag).map(String::as_str).unwrap_or_default());
    ensure!(said == [shape.format, shape.label, shape.uuid], "{said:?}");
    attached.is_sound(shape.number, shape.format)?;
    Ok(attached)
}

fn partition_digest(attached: &Attached, shape: &Shape) -> Result<Digest> {
    Ok(Digest::of(&fs::read(attached.partition(shape.number))?))
}
