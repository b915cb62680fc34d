//! Reading: machines, lists in pages, the document that describes it all.

use axum::http::Method;
use muster_controller::fleet::{Author, Draft, machine};
use muster_protocol::VlanTag;
use muster_protocol::inventory::health::{Drive, Health, Readings, Said, Verdict};
use muster_protocol::inventory::{Carrier, Home, Link, LinkKind};
use serde_json::{Value, json};

use crate::lab::Lab;

#[tokio::test]
async fn a_machine_is_shown_with_all_that_is_known() {
    let lab = Lab::new().await;
    let (pending, online) = (lab.enrolled("S1").await, lab.online("S2").await);
    let shown = lab.get(format!("/machines/{online}")).await.succeeds().body;
    assert_eq!((&shown["presence"]["state"], &shown["lifecycle"]), (&json!("online"), &json!("available")));
    assert_eq!((&shown["standing"], &shown["progress"]["state"]), (&json!("member"), &json!("idle")));
    assert_eq!((&shown["addresses"], &shown["serial"]), (&json!(["192.0.2.7/24"]), &json!("S2")));
    assert_eq!(shown["inventory"]["nics"][0]["driver"], "igb");
    let shown = lab.get(format!("/machines/{pending}")).await.succeeds().body;
    assert_eq!((&shown["presence"]["state"], &shown["standing"]), (&json!("offline"), &json!("pending")));
    assert_eq!(shown["claim"].as_str().map(str::len), Some(9));
}

#[tokio::test]
async fn what_stands_on_nics_is_shown_with_its_addresses_and_with_what_carries_the_session() {
    let lab = Lab::new().await;
    let id = lab.online("S1").await;
    let record = lab.fleet.state().inventories.get(&id).cloned().expect("reported");
    assert_eq!(lab.get(format!("/machines/{id}")).await.succeeds().body["inventory"].get("home"), None);
    let mut inventory = record.inventory;
    let mac = inventory.nics[0].mac;
    (inventory.nics[0].port_of, inventory.nics[0].addresses) = (Some("bond0".into()), Vec::new());
    let link = |name: &str, kind, addresses: &[&str]| Link {
        name: name.into(),
        kind,
        mac,
        carrier: Carrier::Present,
        port_of: None,
        addresses: addresses.iter().map(|net| net.parse().expect("a prefix")).collect(),
    };
    let tag = VlanTag::try_from(42).expect("a tag");
    let office = LinkKind::Vlan { tag, parent: "bond0".into() };
    inventory.links =
        vec![link("bond0", LinkKind::Bond, &["fe80::1/64"]), link("office", office, &["10.0.0.7/8", "fe80::1/64"])];
    inventory.home = Some(Home { link: "office".into(), nics: vec!["eth0".into()] });
    let told = move |draft: &mut Draft| machine::inventory(draft, id, inventory);
    lab.fleet.change(Author::controller(), told).await.expect("stored");
    let shown = lab.get(format!("/machines/{id}")).await.succeeds().body;
    assert_eq!(shown["addresses"], json!(["10.0.0.7/8"]));
    let (mac, shown) = (mac.to_string(), &shown["inventory"]);
    assert_eq!((&shown["home"], &shown["primary"]), (&json!({"link": "office", "nics": ["eth0"]}), &json!("eth0")));
    assert_eq!(shown["nics"][0]["port_of"], "bond0");
    let on = |name, kind, on, addresses| json!({"name": name, "kind": kind, "on": [on], "mac": mac, "carrier": true, "addresses": addresses});
    let mut office = on("office", "vlan", "bond0", json!(["10.0.0.7/8", "fe80::1/64"]));
    office["id"] = 42.into();
    assert_eq!(shown["links"], json!([on("bond0", "bond", "eth0", json!(["fe80::1/64"])), office]));
}

#[tokio::test]
async fn drives_are_shown_with_their_health_and_those_in_trouble_are_said_in_words() {
    let lab = Lab::new().await;
    let id = lab.online("S1").await;
    let disk = lab.get(format!("/machines/{id}")).await.succeeds().text("/inventory/disks/0/id").to_owned();
    let drive = |disk: &str, verdict| {
        let readings = Readings { verdict, temperature_c: Some(41), media_errors: Some(3), ..Readings::default() };
        Drive { disk: disk.parse().expect("an id"), name: "sda".into(), said: Said::Told(readings) }
    };
    let drives = vec![drive(&disk, Verdict::Failing), drive("serial:GONE", Verdict::Failing)];
    let told = move |draft: &mut Draft| machine::health::told(draft, id, Health { drives });
    lab.fleet.change(Author::controller(), told).await.expect("stored");

    let shown = lab.get(format!("/machines/{id}")).await.succeeds().body;
    assert_eq!(
        shown["troubled_disks"],
        json!([format!("{disk} (sda): it expects to fail")]),
        "what is gone is no trouble"
    );
    let listed = lab.get(format!("/machines/{id}/disks")).await.succeeds().body;
    let all = listed["items"].as_array().expect("a list");
    let one = all.iter().find(|drive| drive["disk"] == *disk).expect("it is there");
    assert_eq!(
        (&one["verdict"], &one["warnings"], &one["present"]),
        (&json!("failing"), &json!(["failing"]), &json!(true))
    );
    assert_eq!((&one["temperature_c"], one.get("hours")), (&json!(41), None), "what it does not tell is not there");
    assert_eq!(
        (&one["trend"][0]["media_errors"], one["trend"][0]["day"].as_str().map(str::len)),
        (&json!(3), Some(10))
    );
    let gone = all.iter().find(|drive| drive["disk"] == "serial:GONE").expect("it is remembered");
    assert_eq!(gone["present"], false);
    let first = lab.get(format!("/machines/{id}/disks?limit=1")).await.succeeds().body;
    let next =
        lab.get(format!("/machines/{id}/disks?cursor={}", first["next"].as_str().expect("more"))).await.succeeds();
    assert_eq!((&first["items"][0], &next.body["items"][0]), (&all[0], &all[1]));
}

#[tokio::test]
async fn a_machine_is_found_by_id_by_the_beginning_of_it_and_by_name() {
    let lab = Lab::new().await;
    let id = lab.enrolled("S1").await.to_string();
    lab.ask(Method::PATCH, format!("/machines/{id}")).json(json!({"name": "kitchen"})).send().await.succeeds();
    for name in [&*id, &id[..6], "kitchen"] {
        assert_eq!(lab.get(format!("/machines/{name}")).await.succeeds().text("/id"), id);
    }
}

#[tokio::test]
async fn pages_follow_each_other_and_leave_nothing_out() {
    let lab = Lab::new().await;
    for serial in ["S1", "S2", "S3", "S4", "S5"] {
        lab.online(serial).await;
    }
    let mut seen: Vec<String> = Vec::new();
    let mut path = "/machines?limit=2".to_owned();
    loop {
        let page = lab.get(&*path).await.succeeds();
        let items = page.body["items"].as_array().expect("a list");
        assert!(items.iter().all(|item| item.get("inventory").is_none()));
        seen.extend(items.iter().map(|item| item["id"].as_str().expect("an id").to_owned()));
        match page.body["next"].as_str() {
            Some(next) => path = format!("/machines?limit=2&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen.len(), 5);
    assert!(seen.is_sorted());
}

#[tokio::test]
async fn machines_are_chosen_by_what_they_are() {
    let lab = Lab::new().await;
    let (pending, online) = (lab.enrolled("S1").await, lab.online("S2").await);
    let label = json!({"labels": {"rack": "4"}});
    lab.ask(Method::PATCH, format!("/machines/{online}")).json(label).send().await.succeeds();
    for (query, id) in [
        ("lifecycle=pending", pending),
        ("lifecycle=available", online),
        ("presence=online", online),
        ("presence=offline", pending),
        ("label=rack", online),
        ("label=rack%3D4", online),
        ("location=ber1&presence=online", online),
    ] {
        let items = lab.get(format!("/machines?{query}")).await.succeeds().body["items"].clone();
        assert_eq!(items.as_array().map(Vec::len), Some(1), "{query}");
        assert_eq!(items[0]["id"], id.to_string(), "{query}");
    }
    let nowhere = lab.get("/machines?location=ams1").await;
    nowhere.refuses(422, "invalid", "location");
    assert!(nowhere.text("/detail").contains("there are ber1"), "{:#}", nowhere.body);
    lab.ask(Method::PUT, "/locations/ams1").json(json!({})).send().await.succeeds();
    assert_eq!(lab.get("/machines?location=ams1").await.succeeds().body, json!({"items": []}));
}

#[tokio::test]
async fn operations_come_newest_first_in_pages() {
    let lab = Lab::new().await;
    let (one, two) = (lab.online("S1").await, lab.online("S2").await);
    for id in [one, two] {
        lab.post(format!("/machines/{id}/power"), json!({"action": "reboot"})).await.succeeds();
    }
    let first = lab.get("/operations?limit=1").await.succeeds();
    let second = lab.get(format!("/operations?limit=1&cursor={}", first.text("/next"))).await.succeeds();
    assert_ne!(first.text("/items/0/id"), second.text("/items/0/id"));
    assert_eq!(second.body.get("next"), None);
    let of_one = lab.get(format!("/operations?machine={one}&state=unfinished")).await.succeeds();
    assert_eq!(of_one.body["items"].as_array().map(Vec::len), Some(1));
    assert_eq!(of_one.text("/items/0/machine"), one.to_string());
}

#[tokio::test]
async fn the_status_counts() {
    let lab = Lab::new().await;
    lab.enrolled("S1").await;
    lab.online("S2").await;
    let status = lab.get("/status").await.succeeds().body;
    assert_eq!((&status["machines"], &status["online"]), (&json!({"pending": 1, "available": 1}), &json!(1)));
}

#[tokio::test]
async fn images_and_media_are_listed_where_there_are_any() {
    let lab = Lab::new().await;
    assert_eq!(lab.get("/images").await.succeeds().body, json!({"items": []}));
    assert_eq!(lab.get("/isos").await.succeeds().body, json!({"items": []}));

    let part = |bytes: usize| json!({"bytes": bytes, "sha256": "0".repeat(64)});
    let images = lab.files.path().join("images");
    std::fs::create_dir(&images).expect("made");
    std::fs::write(images.join("kernel"), [0; 7]).expect("written");
    std::fs::write(images.join("initramfs"), [0; 9]).expect("written");
    let manifest = json!({
        "kernel_release": "6.1.0-1-amd64", "kernel": part(7), "initramfs": part(9), "unpacked": part(90),
        "agent": part(5), "packages": {"e2fsprogs": "1.47"}, "modules": ["igb"], "built_in": [], "missing": [],
        "firmware": [], "inputs": "0".repeat(64),
        "tools": {
            "image": part(11), "unpacked_bytes": 30, "packages": {"lvm2": "2.03"}, "programs": ["lvm"], "modules": ["xfs"],
        },
    });
    std::fs::create_dir(images.join("tools")).expect("made");
    std::fs::write(images.join("tools").join("0".repeat(64)), [0; 11]).expect("written");
    std::fs::write(images.join("manifest.json"), manifest.to_string()).expect("written");
    let listed = lab.get("/images").await.succeeds();
    assert_eq!(
        (listed.text("/items/0/kernel_release"), &listed.body["items"][0]["modules"]),
        ("6.1.0-1-amd64", &json!(["igb"]))
    );
    assert_eq!(listed.body["items"][0]["tools"]["bytes"], 11);
}

#[tokio::test]
async fn the_api_describes_itself_to_everyone() {
    let lab = Lab::new().await;
    let document = lab.ask(Method::GET, "/openapi.json").token(None).send().await.succeeds().body;
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")));
    for path in ["/api/v1/machines", "/api/v1/machines/{machine}/apply", "/api/v1/events", "/api/v1/ial/credentials"] {
        assert!(document["paths"][path].is_object(), "{path}");
    }
    assert!(document["components"]["schemas"]["Problem"].is_object());

    // Every reference leads somewhere.
    let mut open = vec![&document];
    while let Some(value) = open.pop() {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(reference)) = map.get("$ref") {
                    assert!(document.pointer(&reference[1..]).is_some(), "{reference}");
                }
                open.extend(map.values());
            }
            Value::Array(list) => open.extend(list),
            _ => {}
        }
    }
}
