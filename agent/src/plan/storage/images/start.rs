//! What a machine's firmware starts where what started the agent gives up: the disks that got an image with `boot: true`.
//!
//! Called by `plan_all`, and by the glue of the real machine for what to write; pure. Entries are load options of the UEFI
//! specification (2.10, sections 3.1.3 and 10.3). Ours are told by their description; those of others stay as they are, and
//! in their order. It comes last: an image that is not whole is no place to start from.

use muster_protocol::Digest;
use muster_protocol::desired::{Boot, Storage};
use muster_protocol::observed::{BootOrder, Disk, Firmware, Observed};

use super::super::choose::selected;
use super::super::{StartBy, Step, line};
use crate::plan::Impossible;

/// How the description of an entry begins that is ours; the image's digest follows.
const PREFIX: &str = "Muster disk image ";
/// What UEFI starts from a disk that nobody told it more about.
const PROGRAM: &str = r"\EFI\BOOT\BOOTX64.EFI";
/// Type of an EFI system partition, in the byte order in which it is printed.
const SYSTEM_PARTITION: [u8; 16] =
    [0xc1, 0x2a, 0x73, 0x28, 0xf8, 0x1f, 0x11, 0xd2, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b];
/// The firmware is to try it.
const ACTIVE: u32 = 1;

/// Adds what makes the firmware start the disks that it should, where it does not.
///
/// Errors: a disk that is to be started cannot be.
pub(in super::super) fn with_start(
    desired: &Storage,
    observed: &Observed,
    mut steps: Vec<Step>,
) -> Result<Vec<Step>, Impossible> {
    let (mut from, mut options) = (Vec::new(), Some(Vec::new()));
    let images = desired.images.iter().enumerate().filter(|(_, image)| image.boot == Boot::Disk);
    for (i, image) in images {
        let impossible = |problem| Impossible { field: desired.image_field(i), problem };
        for (id, have) in selected(&image.select, &observed.disks).map_err(impossible)? {
            let is_new = steps.iter().any(|step| matches!(step, Step::Image { disk, .. } if *disk == id));
            options = match options {
                // What it will be is not known yet.
                _ if is_new => None,
                Some(mut options) if matches!(observed.firmware, Firmware::Uefi(_)) => {
                    options.push(load_option(&image.digest, have).map_err(impossible)?);
                    Some(options)
                }
                options => options,
            };
            from.push((id, image.digest));
        }
    }
    let is_there = |order: &BootOrder| options.as_ref().is_some_and(|options| enter(order, options).is_none());
    let how = match &observed.firmware {
        Firmware::Uefi(order) => (!is_there(order)).then_some(StartBy::Entry),
        // Said once, with the image: there is nothing to be done.
        Firmware::Bios => options.is_none().then_some(StartBy::FirstDisk),
        Firmware::Closed { why } => options.is_none().then(|| StartBy::Itself { why: why.clone() }),
    };
    steps.extend(how.map(|how| Step::Start { from, how }));
    Ok(steps)
}

/// The entry that starts this disk.
///
/// Errors: it cannot be started by UEFI, and what helps.
pub fn load_option(image: &Digest, disk: &Disk) -> Result<Vec<u8>, String> {
    let system = disk.partitions.iter().find(|partition| partition.type_guid == SYSTEM_PARTITION).ok_or_else(|| {
        format!(
            "{} has no EFI system partition, and UEFI starts no other; take an image for UEFI, or leave boot: true out",
            line(disk)
        )
    })?;
    let sector = u64::from(disk.logical_sector.max(1));
    let text = |text: &str| text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    let node = |kind: u8, subtype: u8, body: &[u8]| {
        let length = (4 + body.len()) as u16;
        [&[kind, subtype], &length.to_le_bytes()[..], body].concat()
    };
    let partition = [
        &system.number.to_le_bytes()[..],
        &(system.start_bytes / sector).to_le_bytes(),
        &(system.size_bytes / sector).to_le_bytes(),
        &mixed_endian(system.guid),
        // A GPT, and known by the partition's GUID.
        &[2, 2],
    ];
    let path = [node(4, 1, &partition.concat()), node(4, 4, &text(PROGRAM)), node(0x7f, 0xff, &[])].concat();
    let name = text(&format!("{PREFIX}{}", &image.to_string()[..16]));
    Ok([&ACTIVE.to_le_bytes()[..], &(path.len() as u16).to_le_bytes(), &name, &path].concat())
}

/// Whether an entry is one of ours.
pub fn is_ours(option: &[u8]) -> bool {
    let begins = option.get(6..).unwrap_or_default().chunks_exact(2);
    let prefix = PREFIX.encode_utf16().map(u16::to_le_bytes);
    begins.len() >= PREFIX.len() && prefix.zip(begins).all(|(want, have)| want == have)
}

/// What is to be written to a firmware's variables, in this order: a cut in between leaves entries that are in no order, which
/// are found again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Numbers, and what they become.
    pub entries: Vec<(u16, Vec<u8>)>,
    /// The new order.
    pub order: Vec<u16>,
    /// Numbers that go.
    pub gone: Vec<u16>,
}

/// What makes the firmware start `options`, in this order, and no other ones of ours; `None` where it does.
///
/// They come right behind what this boot began with, so that what started the machine still does; where that is not in the
/// order, at the end.
pub fn enter(now: &BootOrder, options: &[Vec<u8>]) -> Option<Change> {
    let ours = || now.entries.iter().filter(|entry| !entry.option.is_empty());
    let mut stale: Vec<u16> = ours().filter(|e| !options.contains(&e.option)).map(|entry| entry.number).collect();
    let (mut entries, mut numbers): (Vec<(u16, Vec<u8>)>, Vec<u16>) = Default::default();
    for option in options {
        let there = ours().find(|entry| entry.option == *option && !numbers.contains(&entry.number));
        numbers.push(there.map_or_else(
            || {
                let is_free = |number: &u16| {
                    now.entries.iter().all(|entry| entry.number != *number)
                        && !now.order.contains(number)
                        && entries.iter().all(|(taken, _)| taken != number)
                };
                let number = stale.pop().or_else(|| (0..=u16::MAX).find(is_free)).unwrap_or_default();
                entries.push((number, option.clone()));
                number
            },
            |entry| entry.number,
        ));
    }
    let gone: Vec<u16> = ours().map(|entry| entry.number).filter(|number| !numbers.contains(number)).collect();
    let others = now.order.iter().filter(|number| !numbers.contains(number) && !gone.contains(number));
    let mut order: Vec<u16> = others.copied().collect();
    let behind = order.iter().position(|number| Some(*number) == now.current).map_or(order.len(), |at| at + 1);
    numbers.into_iter().rev().for_each(|number| order.insert(behind, number));
    (!entries.is_empty() || !gone.is_empty() || order != now.order).then_some(Change { entries, order, gone })
}

/// Between the byte order in which a GUID is printed and the one in which disks, firmware and SMBIOS store it, either way.
pub fn mixed_endian(mut guid: [u8; 16]) -> [u8; 16] {
    guid[..4].reverse();
    guid[4..6].reverse();
    guid[6..8].reverse();
    guid
}

#[cfg(test)]
mod tests {
    use muster_protocol::desired::{DiskSelect, Image, Table};
    use muster_protocol::observed::{BootEntry, Contents, Partition};

    use super::super::super::plan_all;
    use super::super::super::tests::disk;
    use super::*;

    const MIB: u64 = 1 << 20;

    fn image(select: &str) -> Image {
        let select = DiskSelect::Id(select.parse().expect("an id"));
        Image { select, digest: Digest::of(b"image"), table: Table::Replace, seed: None, boot: Boot::Disk }
    }

    /// The disk that holds it.
    fn installed(serial: &str, image: &Image) -> Disk {
        let guid = *b"\x01\x23\x45\x67\x89\xab\x4c\xde\x8f\x01\x23\x45\x67\x89\xab\xcd";
        let system = Partition {
            number: 1,
            start_bytes: MIB,
            size_bytes: 8 * MIB,
            label: "esp".into(),
            type_guid: SYSTEM_PARTITION,
            guid,
            contents: Contents::Blank,
        };
        disk(serial, Contents::Gpt { guid: image.guid() }, vec![system])
    }

    fn words(storage: &Storage, observed: &Observed) -> Vec<String> {
        let steps = plan_all(storage, observed).expect("possible");
        assert!(steps.iter().all(|step| !matches!(step, Step::Start { .. }) || !step.is_destructive()));
        steps.iter().map(|step| step.describe().action).collect()
    }

    /// Those of others are 0 to 3; the machine was started by 2.
    fn order() -> BootOrder {
        let entries = (0..4).map(|number| BootEntry { number, option: Vec::new() }).collect();
        BootOrder { current: Some(2), order: vec![1, 2, 3], entries }
    }

    fn written(order: &mut BootOrder, change: Change) {
        order.entries.retain(|entry| !change.gone.contains(&entry.number));
        for (number, option) in change.entries {
            order.entries.retain(|entry| entry.number != number);
            order.entries.push(BootEntry { number, option });
        }
        order.entries.sort_by_key(|entry| entry.number);
        order.order = change.order;
    }

    /// efibootmgr 17: `--create --disk DISK --part 1 --loader '\EFI\BOOT\BOOTX64.EFI' --label 'Muster disk image 0123456789abcdef'`
    /// for a partition of 8 MiB at 1 MiB with the GUID 01234567-89ab-4cde-8f01-23456789abcd.
    #[test]
    fn an_entry_is_what_efibootmgr_writes() {
        let expected = "010000005e004d00750073007400650072002000640069007300\
                        6b00200069006d006100670065002000300031003200330034003500360037003800390061006200630064006500\
                        66000000\
                        04012a000100000000080000000000000040000000000000674523\
                        01ab89de4c8f0123456789abcd0202\
                        040430005c004500460049005c0042004f004f0054005c0042004f004f00540058003600340\
                        02e004500460049000000\
                        7fff0400";
        let digest = format!("0123456789abcdef{}", "0".repeat(48)).parse().expect("a digest");
        let option = load_option(&digest, &installed("S1", &image("serial:S1"))).expect("an entry");
        let hex: String = option.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, expected);
        assert!(is_ours(&option));
        for other in [&option[..40], b"", b"\x01\0\0\0\x04\0M\0u\0s\0t\0e\0r\0\0\0"] {
            assert!(!is_ours(other));
        }
    }

    #[test]
    fn large_sectors_are_counted_as_what_they_are() {
        let small = installed("S1", &image("serial:S1"));
        let large = Disk { logical_sector: 4096, ..small.clone() };
        let [small, large] = [small, large].map(|disk| load_option(&Digest::of(b""), &disk).expect("an entry"));
        let first = |option: &[u8]| u64::from_le_bytes(option[84..92].try_into().expect("8 bytes"));
        assert_eq!((first(&small), first(&large)), (2048, 256));
    }

    #[test]
    fn a_disk_is_entered_behind_what_started_the_machine_and_then_nothing_is_left_to_do() {
        let wanted = image("serial:S1");
        let storage = Storage { images: vec![wanted.clone()], ..Storage::default() };
        let mut firmware = order();
        let seen = |disk: &Disk, firmware: &BootOrder| Observed {
            disks: vec![disk.clone()],
            firmware: Firmware::Uefi(firmware.clone()),
            ..Observed::default()
        };
        let blank = disk("S1", Contents::Blank, vec![]);
        let image = &wanted.digest.to_string()[..16];
        let enters = "have the firmware start serial:S1 (disk image IMAGE) where what starts this machine now gives up";
        let enters = [enters.replace("IMAGE", image)];
        assert_eq!(words(&storage, &seen(&blank, &firmware))[1..], enters);
        let there = installed("S1", &wanted);
        assert_eq!(words(&storage, &seen(&there, &firmware)), enters, "it was cut off before");
        let option = load_option(&wanted.digest, &there).expect("an entry");
        let change = enter(&firmware, std::slice::from_ref(&option)).expect("something to do");
        assert_eq!(change, Change { entries: vec![(4, option)], order: vec![1, 2, 4, 3], gone: vec![] });
        written(&mut firmware, change);
        assert_eq!(words(&storage, &seen(&there, &firmware)), [""; 0]);
        firmware.order = vec![4, 1, 2, 3];
        assert_eq!(words(&storage, &seen(&there, &firmware)), enters, "somebody let the disk start first");
        // A document without it.
        let empty = Storage::default();
        let takes_out = "take what an earlier document had the firmware start out of its boot order";
        assert_eq!(words(&empty, &seen(&there, &firmware)), [takes_out]);
        let change = enter(&firmware, &[]).expect("something to do");
        written(&mut firmware, change);
        assert_eq!(firmware, order(), "nothing of others was touched");
        assert_eq!(words(&empty, &seen(&there, &firmware)), [""; 0]);
    }

    #[test]
    fn an_entry_of_an_image_that_is_gone_is_replaced_and_where_nothing_is_known_it_comes_last() {
        let mut firmware = BootOrder { current: None, ..order() };
        let options: Vec<Vec<u8>> = [b"a", b"b", b"c"].map(|name| name.to_vec()).into();
        for (wanted, numbers) in [
            (&options[..2], vec![4, 5]),
            (&options[1..], vec![5, 4]),
            (&options[..1], vec![5]),
            (&options, vec![5, 4, 6]),
        ] {
            let change = enter(&firmware, wanted).expect("something to do");
            written(&mut firmware, change);
            assert_eq!(enter(&firmware, wanted), None);
            assert_eq!(firmware.order, [[1, 2, 3].to_vec(), numbers].concat());
        }
    }

    #[test]
    fn a_firmware_that_takes_no_entries_is_told_with_the_image_and_not_again() {
        let wanted = image("serial:S1");
        let storage = Storage { images: vec![wanted.clone()], ..Storage::default() };
        let closed = Firmware::Closed { why: "they are read-only".into() };
        for (firmware, told) in [(Firmware::Bios, "a BIOS has no entries"), (closed, "they are read-only")] {
            let seen = |disk| Observed { disks: vec![disk], firmware: firmware.clone(), ..Observed::default() };
            let said = words(&storage, &seen(disk("S1", Contents::Blank, vec![])));
            assert!(said[1].contains(told) && said[1].contains("serial:S1"), "{said:?}");
            assert_eq!(words(&storage, &seen(installed("S1", &wanted))), [""; 0]);
        }
    }

    #[test]
    fn a_disk_that_uefi_cannot_start_is_refused_by_its_field() {
        let wanted = image("serial:S1");
        let storage = Storage { images: vec![wanted.clone()], ..Storage::default() };
        let plain = disk("S1", Contents::Gpt { guid: wanted.guid() }, vec![]);
        let seen = Observed { disks: vec![plain], firmware: Firmware::Uefi(order()), ..Observed::default() };
        let refused = plan_all(&storage, &seen).expect_err("refused");
        assert_eq!(refused.field, "storage.images.serial:S1");
        assert!(refused.problem.contains("boot: true"), "{refused}");
    }
}
