//! The keys of machines' encrypted volumes, which no answer has.

use axum::body::to_bytes;
use axum::http::Method;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use muster_controller::api::openapi;
use muster_controller::fleet::{Author, machine};
use muster_controller::pki::Pki;
use muster_protocol::to_controller::KeyUse;
use serde_json::json;

use crate::lab::Lab;

const DOCUMENT: &str = "storage:\n  disks:\n    - device: serial:D1\n      partitions: [{number: 1, label: safe}]\n  \
                        luks:\n    - {name: vault, device: /dev/disk/by-partlabel/safe}\n";

#[tokio::test]
async fn no_route_answers_with_the_key_of_a_volume() {
    let lab = Lab::new().await;
    let id = lab.online("S1").await;
    let applied = lab.post(format!("/machines/{id}/apply"), json!({"document": DOCUMENT})).await.succeeds();
    let seal = Pki::open(lab.files.path()).expect("a CA").disks().expect("made");
    let asked = lab.fleet.change(Author::controller(), move |draft| {
        machine::keys::ask(draft, &seal, id, ("vault", [7; 16]), KeyUse::Make)
    });
    let key = asked.await.expect("decided").expect("made");

    let hex: String = key.bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let list = format!("{:?}", key.bytes()).replace(' ', "");
    let coded = BASE64.encode(key.bytes());
    // The beginning of each is enough; of the list, several numbers.
    let told = [&hex[..16], &coded[..10], list.trim_start_matches('[').rsplitn(24, ',').last().expect("numbers")];
    let (mut read, mut says_made) = (Vec::new(), false);
    let document = serde_json::to_value(openapi()).expect("a document");
    let routes = document["paths"].as_object().expect("paths");
    for path in routes.iter().filter(|(_, item)| item["get"].is_object()).map(|(path, _)| path) {
        let filled = path.replace("{machine}", &id.to_string()).replace("{operation}", applied.text("/id"));
        let filled = filled.replace("/api/v1", "").replace(['{', '}'], "");
        let response = lab.ask(Method::GET, filled.clone()).token(Some(&lab.admin)).open().await;
        if response.status().is_success() {
            read.push(filled.clone());
        }
        let body = to_bytes(response.into_body(), 16 << 20).await.expect("the body comes whole");
        let body = String::from_utf8_lossy(&body).to_lowercase().replace([' ', '\n'], "");
        says_made |= body.contains("key.made");
        for text in told {
            assert!(!body.contains(&text.to_lowercase()), "{filled} has it");
        }
    }
    assert!(says_made, "that there is one is told");
    let must = ["", "/desired", "/observed", "/disks"].map(|of| format!("/machines/{id}{of}"));
    let others = ["/machines", "/events", "/audit", "/operations"].map(str::to_owned);
    for path in must.iter().chain(&others).filter(|path| !path.ends_with("/observed")) {
        assert!(read.contains(path), "{path} is not among {read:?}");
    }
}
