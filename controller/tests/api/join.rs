//! Who may join: boot media and their credentials, policies, claim codes, and boxes in doubt.

use std::pin::pin;

use axum::http::Method;
use futures_util::poll;
use muster_controller::fleet::Author;
use muster_controller::fleet::enrollment::{self, Seen};
use muster_controller::fleet::ticket::{self, Grant};
use muster_protocol::enroll::Identity;
use muster_protocol::{Mac, MachineId};
use serde_json::{Value, json};

use crate::lab::Lab;

impl Lab {
    async fn iso(&self, credential: u8) -> String {
        self.ask(Method::PUT, "/locations/ber1").json(json!({"name": "Berlin"})).send().await.succeeds();
        self.post("/isos", iso(credential, "ber1")).await.succeeds().text("/id").to_owned()
    }

    /// A box that started from an ISO and has enrolled.
    pub async fn joins(&self, iso: &str, serial: &str, mac: u8) -> Result<MachineId, String> {
        let macs = vec![Mac::from_bytes([2, 0, 0, 0, 9, mac])];
        let identity =
            Identity { board_serial: serial.into(), system_serial: serial.into(), macs, ..Identity::default() };
        let grant = Grant { iso: iso.into(), ..Grant::bearer("ber1", 60_000) };
        let enroll = move |draft: &mut _| {
            let ticket = ticket::issue(draft, grant)?;
            enrollment::enroll(draft, &ticket, identity, Seen::default(), ticket.digest())
        };
        self.fleet.change(Author::controller(), enroll).await.map(|e| e.machine).map_err(|e| e.to_string())
    }

    async fn lifecycle(&self, id: MachineId) -> String {
        self.get(format!("/machines/{id}")).await.succeeds().text("/lifecycle").to_owned()
    }
}

pub fn iso(credential: u8, location: &str) -> Value {
    json!({
        "location": location,
        "controllers": ["192.0.2.1:8080"],
        "file": "/srv/ber1.iso",
        "bytes": 5_000_000,
        "sha256": format!("{credential:064x}"),
        "credential_sha256": format!("{credential:02x}{}", "00".repeat(31)),
    })
}

#[tokio::test]
async fn an_iso_is_listed_and_revoked_and_then_lets_nobody_join() {
    let lab = Lab::new().await;
    let id = lab.iso(0xab).await;
    assert_eq!(id, "ab0000000000");
    let member = lab.joins(&id, "BRD-1", 1).await.expect("joins");
    lab.post(format!("/machines/{member}/approve"), json!({})).await.succeeds();
    let shown = lab.get(format!("/isos/{id}")).await.succeeds();
    assert_eq!((shown.text("/location"), &shown.body["machines"]), ("ber1", &json!(1)));
    assert_eq!(lab.get(format!("/machines/{member}")).await.succeeds().text("/iso"), id);

    let revoked = lab.post(format!("/isos/{id}/revoke"), json!({})).await.succeeds();
    assert!(revoked.body["revoked"].is_string());
    assert!(lab.joins(&id, "BRD-2", 2).await.expect_err("refused").contains("revoked"));
    assert_eq!(lab.joins(&id, "BRD-1", 1).await, Ok(member), "who is in stays in");
    assert_eq!(lab.get("/isos").await.succeeds().body["items"].as_array().map(Vec::len), Some(1));

    let came = async |query: &str| lab.get(format!("/machines?{query}")).await.succeeds().body["items"].clone();
    lab.joins("", "BRD-3", 3).await.expect("joins otherwise");
    assert_eq!(came(&format!("iso={id}")).await.as_array().map(Vec::len), Some(1), "only who came in by it");
    assert_eq!(came(&format!("iso={id}")).await[0]["id"], member.to_string());
    lab.get("/machines?iso=nothing").await.refuses(422, "invalid", "iso");

    lab.post("/isos/nothing/revoke", json!({})).await.refuses(404, "not-found", "ISO");
    lab.post("/isos", iso(0xab, "ber1")).await.refuses(409, "conflict", "state");
    let mut wrong = iso(0xcd, "ber1");
    wrong["credential_sha256"] = json!("abc");
    lab.post("/isos", wrong).await.refuses(422, "invalid", "credential_sha256");
    let mut wrong = iso(0xcd, "ber1");
    wrong["location"] = json!("muc1");
    lab.post("/isos", wrong).await.refuses(422, "invalid", "location");
    let viewer = lab.ask(Method::POST, format!("/isos/{id}/revoke")).token(Some(&lab.viewer)).json(json!({}));
    viewer.send().await.refuses(403, "forbidden", "Authorization");
}

#[tokio::test]
async fn an_iso_pins_a_ca_in_force_or_is_refused() {
    let lab = Lab::new().await;
    lab.iso(0xab).await;
    let cas = lab.post("/ca/boot", json!({})).await.succeeds();
    let (ca, boot) = (cas.text("/current/fingerprint"), cas.text("/boot/fingerprint"));
    let pinning = |credential: u8, field: &str, ca: &str| {
        let mut iso = iso(credential, "ber1");
        iso[field] = json!(ca);
        iso
    };
    for (field, wrong) in [("sealed_ca", boot), ("boot_ca", ca), ("boot_ca", "abc"), ("sealed_ca", &"0".repeat(64))] {
        lab.post("/isos", pinning(0x11, field, wrong)).await.refuses(422, "invalid", field);
    }
    let mut both = pinning(0x11, "boot_ca", boot);
    both["sealed_ca"] = json!(ca);
    lab.post("/isos", both).await.refuses(422, "invalid", "boot_ca");
    for (credential, field, ca) in [(0x12, "sealed_ca", ca), (0x13, "boot_ca", boot)] {
        let made = lab.post("/isos", pinning(credential, field, ca)).await.succeeds();
        assert_eq!((made.text(&format!("/{field}")), &made.body["ca_in_force"]), (ca, &json!(true)));
    }
    assert_eq!(lab.get("/isos").await.succeeds().body["items"].as_array().map(Vec::len), Some(3));
}

#[tokio::test]
async fn a_policy_approves_whom_it_names_and_is_refused_where_it_names_everybody() {
    let lab = Lab::new().await;
    let stick = lab.iso(0x11).await;
    let waiting = lab.joins("", "BRD-1", 1).await.expect("joins");
    let rack = json!({"name": "rack", "serials": ["BRD-1"], "macs": ["02:00:00:00:09:03"]});
    let made = lab.post("/policies", rack).await.succeeds();
    assert_eq!((&made.body["approved"], made.text("/serials/0")), (&json!(1), "BRD-1"), "it waited already");
    assert_eq!(lab.lifecycle(waiting).await, "available");
    let by_mac = lab.joins("", "BRD-3", 3).await.expect("joins");
    assert_eq!(lab.lifecycle(by_mac).await, "available");
    let stranger = lab.joins("", "BRD-4", 4).await.expect("joins");
    assert_eq!(lab.lifecycle(stranger).await, "pending");

    lab.post("/policies", json!({"name": "sticks", "iso": stick})).await.succeeds();
    let vouched = lab.joins(&stick, "BRD-5", 5).await.expect("joins");
    assert_eq!(lab.lifecycle(vouched).await, "available");

    lab.post("/policies", json!({"name": "all"})).await.refuses(422, "invalid", "policy");
    lab.post("/policies", json!({"name": "mac", "macs": ["nonsense"]})).await.refuses(422, "invalid", "macs");
    lab.post("/policies", json!({"name": "id", "uuids": ["7"]})).await.refuses(422, "invalid", "uuids");
    lab.post("/policies", json!({"name": "rack", "serials": ["X-1"]})).await.refuses(409, "conflict", "state");
    lab.post("/policies", json!({"name": "a", "iso": "none"})).await.refuses(404, "not-found", "ISO");

    let gone = lab.ask(Method::DELETE, "/policies/rack").send().await;
    assert_eq!(gone.status, 204);
    lab.get("/policies/rack").await.refuses(404, "not-found", "policy");
    assert_eq!(lab.lifecycle(by_mac).await, "available", "who is in stays in");
    let names: Vec<String> = lab.get("/policies").await.succeeds().body["items"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|policy| policy["name"].as_str().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(names, ["sticks"]);
}

#[tokio::test]
async fn the_box_of_a_retired_machine_waits_and_is_shown_as_what_it_was() {
    let lab = Lab::new().await;
    let retired = lab.joins("", "BRD-1", 1).await.expect("joins");
    lab.ask(Method::PATCH, format!("/machines/{retired}")).json(json!({"name": "kitchen"})).send().await.succeeds();
    lab.post(format!("/machines/{retired}/retire"), json!({})).await.succeeds();
    lab.post("/policies", json!({"name": "rack", "serials": ["BRD-1"]})).await.succeeds();
    let again = lab.joins("", "BRD-1", 1).await.expect("joins anew");
    assert_ne!(again, retired);
    let shown = lab.get(format!("/machines/{again}")).await.succeeds();
    assert_eq!((shown.text("/lifecycle"), shown.text("/has_parts_of")), ("pending", "kitchen"));
    let approved = lab.post(format!("/machines/{again}/approve"), json!({})).await.succeeds();
    assert_eq!((approved.text("/lifecycle"), approved.body.get("has_parts_of")), ("available", None));
}

#[tokio::test]
async fn a_machine_is_approved_by_the_claim_code_on_its_screen() {
    let lab = Lab::new().await;
    let id = lab.joins("", "BRD-1", 1).await.expect("joins");
    let claim = lab.get(format!("/machines/{id}")).await.succeeds().text("/claim").to_owned();
    let typed = claim.replace('-', "").to_lowercase();
    let approved = lab.post(format!("/machines/{typed}/approve"), json!({})).await.succeeds();
    assert_eq!((approved.text("/id"), approved.text("/lifecycle")), (id.to_string().as_str(), "available"));
    let again = lab.post(format!("/machines/{claim}/approve"), json!({})).await.succeeds();
    assert_eq!(
        again.text("/version"),
        approved.text("/version"),
        "typed twice it names the same machine, and changes nothing"
    );
}

#[tokio::test]
async fn a_box_in_doubt_is_a_question_to_the_operator_and_never_merged_with_a_live_machine() {
    let lab = Lab::new().await;
    let known = lab.joins("", "BRD-1", 1).await.expect("joins");
    lab.post(format!("/machines/{known}/approve"), json!({})).await.succeeds();
    lab.ask(Method::PATCH, format!("/machines/{known}")).json(json!({"name": "kitchen"})).send().await.succeeds();
    let doubtful = lab.joins("", "BRD-1", 9).await.expect("joins");
    let path = format!("/machines/{doubtful}");
    assert_eq!(lab.get(&path).await.succeeds().body["may_be"], json!(["kitchen"]));
    lab.post(format!("{path}/approve"), json!({})).await.refuses(409, "conflict", "state");
    for wrong in [json!({}), json!({"same_as": "kitchen", "separate": true})] {
        lab.post(format!("{path}/resolve"), wrong).await.refuses(422, "invalid", "same_as");
    }
    lab.post(format!("{path}/resolve"), json!({"same_as": "cellar"})).await.refuses(404, "not-found", "machine");

    let online = lab.online("S9").await;
    let live = lab.post(format!("{path}/resolve"), json!({"same_as": online.to_string()})).await;
    live.refuses(409, "conflict", "state");

    // It comes online while the change waits for the writer.
    let (release, released) = std::sync::mpsc::channel::<()>();
    let (begin, begun) = tokio::sync::oneshot::channel();
    let held = lab.fleet.change(Author::controller(), move |_| {
        let _ = begin.send(());
        let _ = released.recv();
        Ok(())
    });
    let late = lab.joins("", "BRD-2", 2).await.expect("joins");
    let resolved = async {
        begun.await.expect("the writer runs");
        let mut asked = pin!(lab.post(format!("{path}/resolve"), json!({"same_as": late.to_string()})));
        assert!(poll!(asked.as_mut()).is_pending(), "it waits for the writer");
        lab.machines.come(late);
        drop(release);
        asked.await
    };
    let (_, resolved) = tokio::join!(held, resolved);
    resolved.refuses(409, "conflict", "state");

    let same = lab.post(format!("{path}/resolve"), json!({"same_as": "kitchen"})).await.succeeds();
    assert_eq!((same.text("/id"), same.text("/lifecycle")), (known.to_string().as_str(), "available"));
    lab.get(&path).await.refuses(404, "not-found", "machine");

    let twin = lab.joins("", "BRD-1", 7).await.expect("joins");
    let separate = lab.post(format!("/machines/{twin}/resolve"), json!({"separate": true})).await.succeeds();
    assert_eq!((separate.text("/lifecycle"), separate.body.get("may_be")), ("pending", None));
    lab.post(format!("/machines/{twin}/approve"), json!({})).await.succeeds();
}
