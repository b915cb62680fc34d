//! What a document makes of a machine's disks: cases in `plans/disks/NOUN/`.
//!
//! A case is a sentence, the machine's disks, what is desired, and then what is planned. Each line under `## disks` is a
//! disk, `NAME SIZE WORD=VALUE…`, with what it carries last; the lines below it that begin with a blank are its partitions,
//! `NUMBER LABEL START+SIZE CONTENTS`, in MiB. `-` is an empty label, and `ext4:data@/srv/data` a filesystem with its label
//! and where it is mounted.
//! Under `## before` may stand a document that is applied first, and under `## then` what happens after it, a line each:
//! `reboot`, `pull sda`, `put sdc 10GiB serial=S3`, `fail sda1` (a member of an array).
//! Every plan is carried out on values, step by step, as the agent does it: it must lead where nothing is left to do, from
//! wherever it was cut, and lose nothing that its steps do not say.

use std::fs;

use muster_agent::plan::Impossible;
use muster_agent::plan::storage::{Model, Step, apply_to_model, describe, look_again, notices, plan_all};
use muster_controller::api::view::plan::PlanView;
use muster_controller::{cli, documents};
use muster_protocol::Digest;
use muster_protocol::desired::{LINUX_FILESYSTEM, Storage};
use muster_protocol::inventory::{Attachment, Medium, Transport};
use muster_protocol::observed::{Contents, Disk, Filesystem, Observed, Partition};
use muster_protocol::to_agent::Plan;

use super::{compare, folder, inside};

const MIB: u64 = 1 << 20;

#[test]
fn every_case_of_disks_is_planned_as_it_says_and_leads_there() {
    let files: Vec<_> = inside(&folder("disks")).iter().flat_map(|noun| inside(noun)).collect();
    assert!(files.len() >= 20, "only {} cases", files.len());
    let mut wrong = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("readable");
        match planned(&text) {
            Ok(found) => wrong.extend(compare(&file, &found)),
            Err(problem) => wrong.push(format!("{}: {problem}", file.display())),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The file, with what is planned.
fn planned(text: &str) -> Result<String, String> {
    let mut parts = text.split("\n## ");
    let sentence = parts.next().unwrap_or_default().trim().to_owned();
    let (mut disks, mut desired) = (String::new(), String::new());
    let (mut before, mut then) = (None, None);
    for part in parts {
        let (name, body) = part.split_once('\n').unwrap_or((part, ""));
        let body = format!("{}\n", body.trim_end());
        match name {
            "disks" => disks = body,
            "desired" => desired = body,
            "before" => before = Some(body),
            "then" => then = Some(body),
            "plan" | "impossible" => {}
            other => return Err(format!("there is no part {other:?}")),
        }
    }
    let storage = storage_of(&desired)?;
    let mut machine = Model::new(read(&disks)?);
    if let Some(before) = &before {
        let before = storage_of(before)?;
        let steps = plan_on(&before, &machine).map_err(|why| format!("before: {why}"))?;
        apply(&steps, &mut machine, 200)?;
    }
    for line in then.iter().flat_map(|then| then.lines()) {
        happen(line, &mut machine).ok_or_else(|| format!("{line:?} is not understood"))?;
    }
    let came_out = match plan_on(&storage, &machine) {
        Ok(steps) => {
            carry_out(&storage, &machine, &steps)?;
            let steps = steps.iter().map(|step| describe(step, &machine.disks)).collect();
            let notices = notices(&storage, &machine.disks, &machine.layers());
            let view = PlanView::from(&Plan { steps, notices, digest: Digest::of_value(&()) });
            format!("plan\n{}", cli::plan_text(&serde_json::to_value(view).expect("a view is JSON")))
        }
        Err(why) => format!("impossible\n{why}\n"),
    };
    let part =
        |name: &str, body: &Option<String>| body.as_ref().map_or(String::new(), |body| format!("## {name}\n{body}\n"));
    let (before, then) = (part("before", &before), part("then", &then));
    Ok(format!("{sentence}\n\n## disks\n{disks}\n{before}{then}## desired\n{desired}\n## {came_out}"))
}

fn storage_of(document: &str) -> Result<Storage, String> {
    let document = documents::parse(document).map_err(|problems| format!("{problems:?}"))?.into_inner();
    document.storage.ok_or_else(|| "the document has no storage".to_owned())
}

fn plan_on(storage: &Storage, machine: &Model) -> Result<Vec<Step>, Impossible> {
    let (disks, layers) = (machine.disks.clone(), machine.layers());
    plan_all(storage, &Observed { disks, layers, ..Observed::default() })
}

fn happen(line: &str, machine: &mut Model) -> Option<()> {
    match line.split_once(' ') {
        None if line == "reboot" => machine.reboot(),
        Some(("pull", name)) => machine.pull(name),
        Some(("put", line)) => machine.disks.push(disk(line)?),
        Some(("fail", name)) => machine.fail(name),
        _ => return None,
    }
    Some(())
}

/// Does the steps, and from wherever they are cut what is planned then.
fn carry_out(storage: &Storage, before: &Model, steps: &[Step]) -> Result<(), String> {
    let destroys = |disk: &Disk, steps: &[Step]| steps.iter().any(|step| step.is_destructive() && step.is_of(disk));
    for cut in 0..=steps.len() {
        let mut model = before.clone();
        apply(&steps[..cut], &mut model, 0)?;
        for (was, is) in before.disks.iter().zip(&model.disks).filter(|(was, _)| !destroys(was, steps)) {
            keeps(was, is).map_err(|what| format!("after {cut} steps {what}"))?;
        }
        let mut rebooted = model.clone();
        // What lies between two steps is nothing that plans could not go on from.
        go_on(storage, &mut model).map_err(|why| format!("after {cut} steps: {why}"))?;
        rebooted.reboot();
        go_on(storage, &mut rebooted).map_err(|why| format!("after {cut} steps and a reboot: {why}"))?;
    }
    Ok(())
}

/// Plans and does until nothing is left. What is inside a layer is seen when that runs: a step that finds something else
/// than the plan hoped for is refused, and the next plan knows more.
fn go_on(storage: &Storage, model: &mut Model) -> Result<(), String> {
    for turn in 0..6 {
        let steps = plan_on(storage, model).map_err(|why| why.to_string())?;
        if steps.is_empty() {
            return Ok(());
        }
        if let Err(why) = apply(&steps, model, 60 + 20 * turn)
            && turn == 5
        {
            return Err(why);
        }
    }
    Err("it does not come to an end".to_owned())
}

/// `count` keeps what is made here apart from what was made before.
fn apply(steps: &[Step], model: &mut Model, count: u8) -> Result<(), String> {
    for (step, i) in steps.iter().zip(1..) {
        look_again(step, model).map_err(|(what, now)| {
            format!("{what} is not what the plan saw: {now}, before {}", step.describe().action)
        })?;
        apply_to_model(step, model, [count + i; 16]);
    }
    Ok(())
}

/// Whatever a disk carried is there, where it was.
fn keeps(was: &Disk, is: &Disk) -> Result<(), String> {
    if was.contents != Contents::Blank && was.contents != is.contents {
        return Err(format!("{} carries something else", was.name));
    }
    for partition in &was.partitions {
        let there =
            is.partitions.iter().find(|p| (p.number, p.start_bytes) == (partition.number, partition.start_bytes));
        let is_kept = there.is_some_and(|there| {
            let is_same = there.contents.unmounted() == partition.contents.unmounted();
            there.size_bytes >= partition.size_bytes && (is_same || partition.contents == Contents::Blank)
        });
        if !is_kept {
            return Err(format!("{} has lost its partition {}", was.name, partition.number));
        }
    }
    Ok(())
}

fn read(text: &str) -> Result<Vec<Disk>, String> {
    let mut disks: Vec<Disk> = Vec::new();
    for line in text.lines() {
        let wrong = || format!("{line:?} is not understood");
        match (line.strip_prefix(' '), disks.last_mut()) {
            (Some(line), Some(disk)) => disk.partitions.push(partition(line.trim()).ok_or_else(wrong)?),
            _ => disks.push(disk(line).ok_or_else(wrong)?),
        }
    }
    Ok(disks)
}

fn disk(line: &str) -> Option<Disk> {
    let mut words = line.split(' ');
    let (name, size) = (words.next()?, words.next()?);
    let mut disk = Disk {
        name: name.into(),
        wwn: None,
        serial: None,
        size_bytes: bytes(size)?,
        logical_sector: 512,
        medium: Medium::SolidState,
        attachment: Attachment::Fixed,
        transport: Transport::Ata,
        model: String::new(),
        by_path: None,
        contents: Contents::Blank,
        partitions: Vec::new(),
        held: String::new(),
    };
    for word in words {
        match word.split_once('=') {
            Some(("serial", serial)) => disk.serial = Some(serial.into()),
            Some(("wwn", wwn)) => disk.wwn = Some(wwn.into()),
            Some(("model", model)) => disk.model = model.replace('_', " "),
            Some(("slot", slot)) => disk.by_path = Some(slot.into()),
            Some(("sector", sector)) => disk.logical_sector = sector.parse().ok()?,
            Some(("held", held)) => disk.held = held.replace('_', " "),
            Some(("transport", "nvme")) => disk.transport = Transport::Nvme,
            Some(("transport", "scsi")) => disk.transport = Transport::Scsi,
            Some(("transport", "virtio")) => disk.transport = Transport::Virtio,
            Some(("transport", "usb")) => (disk.transport, disk.attachment) = (Transport::Usb, Attachment::External),
            Some(_) => return None,
            None if word == "rotational" => disk.medium = Medium::Rotational,
            None if word == "removable" => disk.attachment = Attachment::Removable,
            None => disk.contents = contents(word),
        }
    }
    Some(disk)
}

/// `400GiB`, `64MiB`.
fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let shift =
        [("B", 0), ("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)].iter().find(|(name, _)| *name == unit)?.1;
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

fn partition(line: &str) -> Option<Partition> {
    let mut words = line.split(' ');
    let (number, label) = (words.next()?.parse().ok()?, words.next()?);
    let (start, size) = words.next()?.split_once('+')?;
    let (start, size): (u64, u64) = (start.parse().ok()?, size.parse().ok()?);
    Some(Partition {
        number,
        start_bytes: start * MIB,
        size_bytes: size * MIB,
        label: label.replace('-', ""),
        type_guid: LINUX_FILESYSTEM,
        guid: [number as u8; 16],
        contents: contents(words.next()?),
    })
}

fn contents(word: &str) -> Contents {
    match word {
        "blank" => Contents::Blank,
        "gpt" => Contents::Gpt { guid: [9; 16] },
        "mbr" => Contents::Dos,
        "unknown" => Contents::Unknown,
        other => match other.split_once(':') {
            Some((kind, rest)) => {
                let (label, mounted_at) = rest.split_once('@').unwrap_or((rest, ""));
                let (kind, label, mounted_at) = (kind.into(), label.into(), mounted_at.into());
                let found = Filesystem { kind, label, uuid: "u".into(), mounted_at, ..Filesystem::default() };
                Contents::Filesystem(found.into())
            }
            None => Contents::Signature(if other == "damaged_GPT" { "damaged GPT".into() } else { other.into() }),
        },
    }
}
