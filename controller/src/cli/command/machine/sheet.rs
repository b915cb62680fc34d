//! A machine's data sheet, as `muster machine show` prints it for people: what it is and how it stands, then its memory
//! modules, disks, NICs and what stands on them. Everything that the inventory holds is on it.

use serde_json::Value;

use super::{lifecycle, presence};
use crate::cli::show::{Column, bytes, joined, lines, table, text};

/// The whole sheet. `machine` is the API's answer; `retired` says when it was and by whom, where it was.
pub fn sheet(machine: &Value, retired: &str) -> String {
    let mut machine = machine.clone();
    machine["retired"] = retired.into();
    let machine = &machine;
    let mut sheet = lines(machine, FACTS);
    for (list, columns) in [
        ("/inventory/memory/dimms", DIMMS),
        ("/inventory/disks", DISKS),
        ("/drives", DRIVES),
        ("/inventory/arrays", ARRAYS),
        ("/inventory/nics", NICS),
        ("/inventory/links", LINKS),
    ] {
        let items = machine.pointer(list).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        if !items.is_empty() {
            sheet.push_str(&format!("\n{}", table(items, columns)));
        }
    }
    sheet
}

const FACTS: &[Column] = &[
    Column("name", |m| text(m, "/name")),
    Column("id", |m| text(m, "/id")),
    Column("location", |m| text(m, "/location")),
    Column("lifecycle", lifecycle),
    Column("retired", |m| text(m, "/retired")),
    Column("claim code", |m| text(m, "/claim")),
    Column("to approve", |m| match (text(m, "/claim"), joined(m, "/may_be")) {
        (claim, doubt) if !claim.is_empty() && doubt.is_empty() => format!("muster machine approve {claim}"),
        _ => String::new(),
    }),
    Column("to decide", |m| match (text(m, "/claim"), text(m, "/may_be/0")) {
        (claim, first) if !claim.is_empty() && !first.is_empty() => {
            format!("muster machine resolve {claim} --same-as {first}, or --separate")
        }
        _ => String::new(),
    }),
    Column("ISO", |m| text(m, "/iso")),
    Column("lease", |m| text(m, "/lease")),
    Column("presence", |m| {
        let from = text(m, "/presence/from");
        let from = if from.is_empty() { from } else { format!(" from {from}") };
        format!("{}{from}", presence(m))
    }),
    Column("boot", |m| text(m, "/presence/boot")),
    Column("generation", |m| text(m, "/generation")),
    Column("progress", |m| {
        words(m, &["/progress/state", "/progress/generation", "/progress/step", "/progress/reason", "/progress/why"])
    }),
    Column("drift", |m| match m.get("drift") {
        None => String::new(),
        Some(drift) => {
            let why = text(drift, "/why");
            let why = if why.is_empty() { why } else { format!(": {why}") };
            format!("{}{why}; to set it right: {}", text(drift, "/state"), joined(drift, "/differences"))
        }
    }),
    Column("arrays", |m| joined(m, "/troubled_arrays")),
    Column("disks", |m| joined(m, "/troubled_disks")),
    Column("on drift", |m| Some(text(m, "/on_drift")).filter(|word| word != "default").unwrap_or_default()),
    Column("labels", |m| {
        let labels = m["labels"].as_object().cloned().unwrap_or_default();
        labels.iter().map(|(key, value)| format!("{key}={}", text(value, ""))).collect::<Vec<_>>().join(" ")
    }),
    Column("BMC", |m| words(m, &["/controls/bmc/protocol", "/controls/bmc/address", "/controls/bmc/port"])),
    Column("BMC user", |m| text(m, "/controls/bmc/user")),
    Column("BMC shows", |m| text(m, "/controls/bmc/fingerprint")),
    Column("BMC inside", |m| match (&m["inventory"]["bmc"], text(m, "/inventory/bmc/address")) {
        (bmc, _) if !bmc.is_object() => String::new(),
        (_, address) if address.is_empty() => "there is one, which tells no address".into(),
        (_, address) => format!("at {address}"),
    }),
    Column("outlet", |m| text(m, "/controls/outlet")),
    Column("wakes", |m| if m["controls"]["wake_on_lan"] == true { "on a magic packet".into() } else { String::new() }),
    Column("only looks at", |m| joined(m, "/inventory/leaves")),
    Column("model", |m| text(m, "/model")),
    Column("system", |m| words(m, &["/inventory/system/vendor", "/inventory/system/product"])),
    Column("serial", |m| text(m, "/serial")),
    Column("board serial", |m| text(m, "/inventory/system/board_serial")),
    Column("UUID", |m| text(m, "/uuid")),
    Column("TPM", |m| match text(m, "/tpm/state").as_str() {
        "absent" => String::new(),
        _ => words(m, &["/tpm/state", "/tpm/key"]),
    }),
    Column("firmware", |m| {
        let parts = ["kind", "vendor", "version", "date"].map(|part| format!("/inventory/firmware/{part}"));
        words(m, &parts.each_ref().map(String::as_str))
    }),
    Column("processors", |m| match m.pointer("/inventory/cpu") {
        None => String::new(),
        Some(cpu) => format!(
            "{} x {}, {} cores, {} threads",
            text(cpu, "/sockets"),
            text(cpu, "/model"),
            text(cpu, "/cores"),
            text(cpu, "/threads")
        ),
    }),
    Column("processor flags", |m| joined(m, "/inventory/cpu/flags")),
    Column("memory", |m| size(m, "/inventory/memory/total_bytes")),
    Column("home", |m| match (text(m, "/inventory/home/link"), joined(m, "/inventory/home/nics")) {
        (link, nics) if nics.is_empty() || nics == link => link,
        (link, nics) => format!("{link} over {nics}"),
    }),
    Column("primary NIC", |m| text(m, "/inventory/primary")),
    Column("kernel", |m| text(m, "/inventory/kernel")),
    Column("agent", |m| text(m, "/inventory/agent")),
];

const DIMMS: &[Column] = &[
    Column("dimm", |d| text(d, "/slot")),
    Column("size", |d| size(d, "/size_bytes")),
    Column("kind", |d| text(d, "/kind")),
    Column("speed", |d| match d["speed_mts"].as_u64() {
        None | Some(0) => String::new(),
        Some(speed) => format!("{speed} MT/s"),
    }),
    Column("vendor", |d| text(d, "/vendor")),
    Column("part", |d| text(d, "/part")),
    Column("serial", |d| text(d, "/serial")),
];

const DISKS: &[Column] = &[
    Column("disk", |d| text(d, "/name")),
    Column("size", |d| size(d, "/size_bytes")),
    Column("sectors", |d| format!("{}/{}", text(d, "/logical_sector"), text(d, "/physical_sector"))),
    Column("kind", |d| {
        let spins = if d["rotational"] == true { ", rotational" } else { "" };
        let leaves = match text(d, "/attachment") {
            fixed if fixed.is_empty() || fixed == "fixed" => String::new(),
            other => format!(", {other}"),
        };
        format!("{}{spins}{leaves}", text(d, "/transport"))
    }),
    Column("model", |d| text(d, "/model")),
    Column("serial", |d| text(d, "/serial")),
    Column("wwn", |d| text(d, "/wwn")),
    Column("name in documents", |d| match text(d, "/id") {
        id if id.is_empty() => "(none: it has neither WWN nor serial)".into(),
        id => id,
    }),
];

/// How drives are, wherever they are listed.
pub(super) const DRIVES: &[Column] = &[
    Column("health of", |d| text(d, "/name")),
    Column("disk", |d| text(d, "/disk")),
    Column("verdict", |d| match (d["present"] == false, text(d, "/verdict")) {
        (true, verdict) => format!("{verdict}, gone"),
        (false, verdict) => verdict,
    }),
    Column("warnings", |d| joined(d, "/warnings")),
    Column("temperature", |d| unit(d, "/temperature_c", " C")),
    Column("hours", |d| text(d, "/hours")),
    Column("used", |d| unit(d, "/used_percent", "%")),
    Column("spare", |d| unit(d, "/spare_percent", "%")),
    Column("reallocated", |d| text(d, "/reallocated")),
    Column("pending", |d| text(d, "/pending")),
    Column("uncorrectable", |d| text(d, "/uncorrectable")),
    Column("media errors", |d| text(d, "/media_errors")),
    Column("unsafe shutdowns", |d| text(d, "/unsafe_shutdowns")),
];

/// A number with its unit; empty where there is none.
pub(super) fn unit(value: &Value, pointer: &str, unit: &str) -> String {
    match text(value, pointer) {
        number if number.is_empty() => number,
        number => format!("{number}{unit}"),
    }
}

const ARRAYS: &[Column] = &[
    Column("array", |a| text(a, "/name")),
    Column("level", |a| text(a, "/level")),
    Column("members", |a| text(a, "/devices")),
    Column("state", |a| text(a, "/state")),
    Column("missing", |a| joined(a, "/missing")),
    Column("faulty", |a| joined(a, "/faulty")),
];

const NICS: &[Column] = &[
    Column("nic", |n| text(n, "/name")),
    Column("mac", |n| text(n, "/mac")),
    Column("permanent mac", |n| text(n, "/permanent_mac")),
    Column("driver", |n| text(n, "/driver")),
    Column("pci", |n| text(n, "/pci")),
    Column("link", |n| match (n["carrier"] == true, n["speed_mbps"].as_u64()) {
        (false, _) => "no carrier".into(),
        (true, None) => "up".into(),
        (true, Some(speed)) => format!("{speed} Mbit/s"),
    }),
    Column("port of", |n| text(n, "/port_of")),
    Column("addresses", |n| joined(n, "/addresses")),
];

const LINKS: &[Column] = &[
    Column("link", |l| text(l, "/name")),
    Column("kind", |l| match text(l, "/kind").as_str() {
        "vlan" => format!("VLAN {}", text(l, "/id")),
        kind => kind.to_owned(),
    }),
    Column("on", |l| joined(l, "/on")),
    Column("mac", |l| text(l, "/mac")),
    Column("link", |l| if l["carrier"] == true { "up".into() } else { "no carrier".into() }),
    Column("port of", |l| text(l, "/port_of")),
    Column("addresses", |l| joined(l, "/addresses")),
];

fn words(machine: &Value, pointers: &[&str]) -> String {
    let words = pointers.iter().map(|pointer| text(machine, pointer)).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ")
}

fn size(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_u64).map(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_machine_is_shown_whole() {
        let machine = json!({
            "name": "kitchen", "id": "4f06d3aa-0000-0000-0000-000000000000", "location": "ber1",
            "lifecycle": "available", "maintenance": true, "presence": {"state": "offline"}, "labels": {"rack": "b2"},
            "serial": "SRV1", "uuid": "4c4c4544-0042-3510-8052-b4c04f4e3132",
            "tpm": {"state": "claimed", "key": "e3b0c44298fc1c14"},
            "controls": {
                "bmc": {"protocol": "redfish", "address": "https://10.0.9.7", "user": "admin", "fingerprint": "6db2"},
                "outlet": "http://10.0.9.20", "wake_on_lan": true,
            },
            "inventory": {
                "system": {"vendor": "Dell Inc.", "product": "R620", "board_serial": "BRD7"},
                "firmware": {"kind": "uefi", "vendor": "Dell Inc.", "version": "2.9.0", "date": "2020-01-02"},
                "cpu": {"model": "Xeon E5-2650", "sockets": 2, "cores": 16, "threads": 32, "flags": ["vmx", "aes"]},
                "memory": {"total_bytes": 17_179_869_184_u64, "dimms": [{
                    "slot": "DIMM_A1", "size_bytes": 17_179_869_184_u64, "kind": "DDR3", "speed_mts": 1600,
                    "vendor": "Samsung", "part": "M393B2G70", "serial": "03A1",
                }]},
                "disks": [{
                    "name": "sda", "id": "wwn:0x5000c500a1b2c3d4", "size_bytes": 1_000_204_886_016_u64,
                    "logical_sector": 512, "physical_sector": 4096, "rotational": true, "attachment": "fixed",
                    "transport": "sata", "model": "ST1000", "serial": "Z1D5", "wwn": "0x5000c500a1b2c3d4",
                }],
                "arrays": [{
                    "name": "md0", "level": "raid1", "devices": 2, "state": "degraded", "missing": [1], "faulty": ["sdb1"],
                }],
                "nics": [{
                    "name": "eth0", "mac": "02:00:00:00:00:01", "permanent_mac": "52:54:00:12:34:56", "driver": "igb",
                    "speed_mbps": 1000, "carrier": true, "pci": "8086:1521", "port_of": "bond0", "addresses": [],
                }],
                "links": [
                    {"name": "bond0", "kind": "bond", "on": ["eth0"], "mac": "52:54:00:12:34:56", "carrier": true,
                        "addresses": []},
                    {"name": "office", "kind": "vlan", "id": 42, "on": ["bond0"], "mac": "52:54:00:12:34:56",
                        "carrier": false, "addresses": ["192.0.2.7/24"]},
                ],
                "home": {"link": "office", "nics": ["eth0"]}, "primary": "eth0",
                "kernel": "6.1.0", "agent": "0.1.0",
            },
        });
        let expected = "\
name:             kitchen
id:               4f06d3aa-0000-0000-0000-000000000000
location:         ber1
lifecycle:        available, maintenance
presence:         offline
labels:           rack=b2
BMC:              redfish https://10.0.9.7
BMC user:         admin
BMC shows:        6db2
outlet:           http://10.0.9.20
wakes:            on a magic packet
system:           Dell Inc. R620
serial:           SRV1
board serial:     BRD7
UUID:             4c4c4544-0042-3510-8052-b4c04f4e3132
TPM:              claimed e3b0c44298fc1c14
firmware:         uefi Dell Inc. 2.9.0 2020-01-02
processors:       2 x Xeon E5-2650, 16 cores, 32 threads
processor flags:  vmx, aes
memory:           16 GiB
home:             office over eth0
primary NIC:      eth0
kernel:           6.1.0
agent:            0.1.0

DIMM     SIZE    KIND  SPEED      VENDOR   PART       SERIAL
DIMM_A1  16 GiB  DDR3  1600 MT/s  Samsung  M393B2G70  03A1

DISK  SIZE       SECTORS   KIND              MODEL   SERIAL  WWN                 NAME IN DOCUMENTS
sda   931.5 GiB  512/4096  sata, rotational  ST1000  Z1D5    0x5000c500a1b2c3d4  wwn:0x5000c500a1b2c3d4

ARRAY  LEVEL  MEMBERS  STATE     MISSING  FAULTY
md0    raid1  2        degraded  1        sdb1

NIC   MAC                PERMANENT MAC      DRIVER  PCI        LINK         PORT OF  ADDRESSES
eth0  02:00:00:00:00:01  52:54:00:12:34:56  igb     8086:1521  1000 Mbit/s  bond0

LINK    KIND     ON     MAC                LINK        PORT OF  ADDRESSES
bond0   bond     eth0   52:54:00:12:34:56  up
office  VLAN 42  bond0  52:54:00:12:34:56  no carrier           192.0.2.7/24
";
        assert_eq!(sheet(&machine, ""), expected);
    }

    #[test]
    fn what_differs_from_what_was_confirmed_is_shown_with_what_would_set_it_right() {
        let differences = ["bring lan up", "set the MTU of lan to 1400"];
        let mut machine = json!({"on_drift": "report", "drift": {"state": "reported", "differences": differences}});
        let said = sheet(&machine, "");
        assert!(said.contains("on drift:  report\n"), "{said}");
        assert!(said.contains("reported; to set it right: bring lan up, set the MTU of lan to 1400\n"), "{said}");
        machine["drift"]["why"] = "no such device".into();
        assert!(sheet(&machine, "").contains("reported: no such device; to"));
        let said = sheet(&json!({"on_drift": "default"}), "");
        assert!(!said.contains("drift"), "what is as everywhere is not said: {said}");
    }

    #[test]
    fn an_array_in_trouble_is_among_the_first_things() {
        let trouble = "md0 (raid1): degraded, lacks member 1 of 2; faulty: sdb1";
        let said = sheet(&json!({"name": "kitchen", "troubled_arrays": [trouble]}), "");
        assert!(said.contains(&format!("arrays:  {trouble}\n")), "{said}");
    }

    #[test]
    fn who_waits_is_shown_with_what_there_is_to_type() {
        let mut machine = json!({"name": "ber1-3f2a9c", "lifecycle": "pending", "claim": "KX4M-7QPD"});
        let said = sheet(&machine, "");
        assert!(said.contains("to approve:  muster machine approve KX4M-7QPD\n"), "{said}");
        machine["has_parts_of"] = "kitchen".into();
        let said = sheet(&machine, "");
        assert!(said.contains("pending, has parts of kitchen, which was retired\n"), "{said}");
        machine["may_be"] = json!(["kitchen", "cellar"]);
        let said = sheet(&machine, "");
        assert!(said.contains("muster machine resolve KX4M-7QPD --same-as kitchen, or --separate\n"), "{said}");
        assert!(!said.contains("approve KX4M"), "{said}");
    }
}
