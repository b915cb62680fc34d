//! Leases as operators see them, and what they bring about when no hub does.

use axum::http::Method;
use muster_controller::fleet::lease::{self, Order};
use muster_controller::fleet::record::{Lifecycle, Location, Machine, Subnet};
use muster_controller::fleet::{Author, Draft, address, location, machine, model, operation, subnet};
use muster_protocol::hello::Progress;
use muster_protocol::{BootId, Generation, MachineId};
use serde_json::json;

use crate::lab::Lab;

const BOOT: BootId = BootId::from_bytes([1; 16]);

/// A machine that is ready in a hub's hands, and its lease.
pub async fn leased(lab: &Lab, serial: &'static str) -> (MachineId, String) {
    let id = lab.enrolled(serial).await;
    let make = move |draft: &mut Draft| {
        let code = draft.need::<Machine>(&id)?.location;
        location::put(draft, Location { code: code.clone(), ..Location::default() })?;
        if !address::is_offered(draft.state(), &code, address::Family::V4) {
            let subnet = Subnet::new("203.0.113.0/29".parse().expect("a prefix"), code.clone());
            let subnet = Subnet { quarantine_s: 0, ..subnet };
            subnet::add(draft, subnet)?;
        }
        machine::approve(draft, id)?;
        machine::hello(draft, id, BOOT, Progress::Idle)?;
        let model = model::of_machine(draft.state(), id).expect("it has an inventory");
        let order = Order { hub: "acme".into(), model, location: code, ..Order::default() };
        let lease = lease::provision(draft, order, &|online| online == id)?;
        machine::progress(draft, id, &Progress::Confirmed { generation: Generation(1) })?;
        Ok(lease.id)
    };
    let lease = lab.fleet.change(Author::controller(), make).await.expect("leased");
    (id, lease)
}

#[tokio::test]
async fn leases_are_listed_and_shown() {
    let lab = Lab::new().await;
    let (id, lease) = leased(&lab, "S1").await;
    let shown = lab.get(format!("/leases/{lease}")).await.succeeds();
    assert_eq!((shown.text("/hub"), shown.text("/state")), ("acme", "ready"));
    assert_eq!((shown.text("/machine"), shown.text("/addresses/0")), (id.to_string().as_str(), "203.0.113.1"));
    assert_eq!(lab.get("/leases").await.succeeds().body["items"], json!([shown.body]));
    assert_eq!(lab.get("/leases?hub=other").await.succeeds().body["items"], json!([]));
    lab.get("/leases/srv-none").await.refuses(404, "not-found", "lease");
}

#[tokio::test]
async fn an_operator_ends_a_lease_and_has_a_machine_cleaned_again() {
    let lab = Lab::new().await;
    let (id, lease) = leased(&lab, "S1").await;
    let viewer = lab.ask(Method::POST, format!("/leases/{lease}/end")).token(Some(&lab.viewer)).json(json!({})).send();
    viewer.await.refuses(403, "forbidden", "Authorization");
    lab.post("/leases/srv-none/end", json!({})).await.refuses(404, "not-found", "lease");
    lab.post(format!("/machines/{id}/clean"), json!({})).await.refuses(409, "conflict", "state");
    assert_eq!(lab.post(format!("/leases/{lease}/end"), json!({})).await.succeeds().status, 204);

    let cleaning = |lab: &Lab| match lab.fleet.state().machines.get(&id).expect("there").lifecycle {
        Lifecycle::Cleaning { operation } => operation,
        _ => panic!("it is not being cleaned"),
    };
    let first = cleaning(&lab);
    let fail = move |draft: &mut Draft| operation::refused(draft, first, "an I/O error");
    lab.fleet.change(Author::controller(), fail).await.expect("noted");
    let again = lab.post(format!("/machines/{id}/clean"), json!({})).await.succeeds();
    assert_eq!((again.status.as_u16(), again.text("/kind")), (202, "decommission"));
    assert_eq!(again.text("/id"), cleaning(&lab).to_string());
    assert_ne!(cleaning(&lab), first);
}

#[tokio::test]
async fn a_machine_that_will_not_come_back_is_written_off_with_its_lease_and_addresses() {
    let lab = Lab::new().await;
    let (id, lease) = leased(&lab, "S1").await;
    assert_eq!(lab.post(format!("/machines/{id}/write-off"), json!({})).await.succeeds().status, 204);
    assert_eq!(lab.get(format!("/machines/{id}")).await.succeeds().text("/lifecycle"), "retired");
    lab.get(format!("/leases/{lease}")).await.refuses(404, "not-found", "lease");
    assert!(lab.fleet.state().addresses.is_empty());
    lab.post(format!("/machines/{id}/write-off"), json!({})).await.refuses(409, "conflict", "state");
}
