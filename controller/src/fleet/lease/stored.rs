//! The bytes of what leases, addresses, inventories, models and credentials leave in the store.
//!
//! A released controller's database is read for ever: if a test here fails, do not change the test. Growth is a new
//! variant of `Stored`, or of one of the enums inside, at its end.

use muster_protocol::inventory::{Home, Inventory};
use muster_protocol::{Digest, Mac, MachineId, OperationId};

use crate::fleet::record::{
    Address, AddressHolder, AddressRange, Credential, HubRule, Lease, LeaseState, MachineInventory, ModelCard,
    NatRange, PlaceRule, Seat, Subnet,
};
use crate::fleet::state::{Record, State, stored_key, stored_value};

/// Key and value as they lie in the store, and that they are read back as what they were.
fn stored<R: Record + PartialEq + std::fmt::Debug>(record: &R) -> (String, String) {
    let (key, value) = (stored_key::<R>(&record.key()), stored_value(record));
    let state = State::load(vec![(key.clone(), value.clone())]).expect("read back");
    assert_eq!(R::table(&state).get(&record.key()), Some(record));
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    (String::from_utf8_lossy(&key).into_owned(), hex(&value))
}

fn lease(state: LeaseState) -> Lease {
    Lease {
        id: "srv-1".into(),
        hub: "acme".into(),
        cycle_server: "6516".into(),
        hostname: "h".into(),
        model: "m-1".into(),
        location: "ber1".into(),
        zone: String::new(),
        created_unix_ms: 300,
        tried: vec![MachineId::from_bytes([9; 16])],
        state,
    }
}

fn seat() -> Seat {
    Seat {
        machine: MachineId::from_bytes([1; 16]),
        uuid: Some([2; 16]),
        mac: Mac::from_bytes([3; 6]),
        addresses: vec!["203.0.113.2".parse().expect("an address"), "2001:db8::2".parse().expect("an address")],
    }
}

#[test]
fn leases() {
    let operation = OperationId::from_bytes([4; 16]);
    let head = "00057372762d310461636d6504363531360168036d2d31046265723100ac020109090909090909090909090909090909";
    let states = [
        (LeaseState::Seeking { why: "w".into() }, "000177"),
        (
            LeaseState::Preparing { seat: seat(), operation },
            "010101010101010101010101010101010101020202020202020202020202020202020303030303030200cb0071020120010db800000000000000000000000204040404040404040404040404040404",
        ),
        (
            LeaseState::Ready { seat: Seat { uuid: None, ..seat() } },
            "0201010101010101010101010101010101000303030303030200cb0071020120010db8000000000000000000000002",
        ),
        (LeaseState::Failed { why: "w".into() }, "030177"),
        (LeaseState::Ending { machine: MachineId::from_bytes([1; 16]) }, "0401010101010101010101010101010101"),
    ];
    for (state, tail) in states {
        let (key, value) = stored(&lease(state.clone()));
        assert_eq!((key.as_str(), value), ("lease/srv-1", format!("{head}{tail}")), "{state:?}");
    }
}

#[test]
fn inventories() {
    let machine = MachineId::from_bytes([1; 16]);
    let home = Some(Home { link: "office".into(), nics: Vec::new() });
    let inventory = Inventory { home, ..Inventory::default() };
    let record = MachineInventory { machine, at_unix_ms: 300, inventory, primary: Some(Mac::from_bytes([3; 6])) };
    let (key, value) = stored(&record);
    // As it travels, between whose it is, when it came, and the primary NIC.
    let travels = format!("{}01066f666669636500000000000000", "00".repeat(20));
    assert_eq!(key, format!("inventory/{}", "\u{1}".repeat(16)));
    assert_eq!(value, format!("00{}ac02{travels}01030303030303", "01".repeat(16)));
}

#[test]
fn subnets_and_addresses() {
    let subnet = Subnet {
        net: "203.0.113.0/28".parse().expect("a prefix"),
        location: "ber1".into(),
        gateway: "203.0.113.1".parse().ok(),
        nameservers: vec!["2001:db8::53".parse().expect("an address")],
        reserved: vec!["203.0.113.4-203.0.113.5".parse::<AddressRange>().expect("a range")],
        nat: vec!["203.0.113.6=198.51.100.7".parse::<NatRange>().expect("a pair")],
        block: Some(121),
        quarantine_s: 600,
    };
    let (key, value) = stored(&subnet);
    assert_eq!(key.as_bytes().first_chunk(), Some(b"subnet/"));
    let said = "0000cb0071001c04626572310100cb007101010120010db80000000000000000000000530100cb00710400cb007105";
    // One pair, blocks of /121, ten minutes.
    assert_eq!(value, format!("{said}0100cb0071062000c6336407200179d804"));
    let machine = AddressHolder::Machine { machine: MachineId::from_bytes([1; 16]), lease: "srv-1".into() };
    let pool =
        AddressHolder::Pool { hub: "acme".into(), pool: "6516".into(), lease: "srv-1".into(), assignment: "a1".into() };
    for (holder, expected) in [
        (machine, "0000cb0071022000cb0071001c0001010101010101010101010101010101057372762d31ac02"),
        (pool, "0000cb0071022000cb0071001c010461636d650436353136057372762d31026131ac02"),
        (
            AddressHolder::Assigned { machine: MachineId::from_bytes([1; 16]) },
            "0000cb0071022000cb0071001c0201010101010101010101010101010101ac02",
        ),
        (AddressHolder::Quarantine { until_unix_ms: 400 }, "0000cb0071022000cb0071001c039003ac02"),
    ] {
        let address = Address {
            block: "203.0.113.2/32".parse().expect("a block"),
            subnet: subnet.net,
            holder,
            since_unix_ms: 300,
        };
        assert_eq!(stored(&address).1, expected);
    }
}

#[test]
fn keys_of_prefixes_sort_as_prefixes_do() {
    let nets = ["10.0.0.0/8", "10.0.0.0/32", "10.0.0.1/32", "203.0.113.0/28", "2001:db8::/64", "2001:db8::1/128"];
    let nets: Vec<ipnet::IpNet> = nets.iter().map(|net| net.parse().expect("a prefix")).collect();
    assert!(nets.is_sorted());
    assert!(nets.iter().map(stored_key::<Address>).collect::<Vec<_>>().is_sorted());
}

#[test]
fn models_and_credentials() {
    let card = ModelCard {
        id: "m-1".into(),
        name: "n".into(),
        description: "d".into(),
        category: "c".into(),
        class: "k".into(),
        hourly_mils: 450,
        monthly_mils: 299_000,
    };
    assert_eq!(stored(&card), ("model/m-1".into(), "00036d2d31016e01640163016bc203f89f12".to_owned()));
    let credential = |good_for, places| Credential {
        key: "0011223344556677".into(),
        hub: "acme".into(),
        good_for,
        places,
        secret: Digest::from_bytes([5; 32]),
        created_unix_ms: 300,
    };
    for (rule, places, expected) in [
        (
            HubRule::Any,
            PlaceRule::Anywhere,
            "0010303031313232333334343535363637370461636d6500000505050505050505050505050505050505050505050505050505050505050505ac02",
        ),
        (
            HubRule::Only("6515".into()),
            PlaceRule::Only(vec!["ber1".into()]),
            "0010303031313232333334343535363637370461636d65010436353135010104626572310505050505050505050505050505050505050505050505050505050505050505ac02",
        ),
    ] {
        let (key, value) = stored(&credential(rule, places));
        assert_eq!((key.as_str(), value.as_str()), ("credential/0011223344556677", expected));
    }
}
