//! Approving, rejecting and retiring machines, and another disk in one.

use std::future::IntoFuture;
use std::process::Output;

use muster_protocol::Digest;
use muster_protocol::to_agent::{Answer, Impact, Plan, Step};

use super::{Lab, made_up, run};

#[tokio::test(flavor = "multi_thread")]
async fn what_was_decided_already_is_said_so_and_is_no_failure() {
    let lab = Lab::new().await;
    let id = lab.pending("S1").await.to_string();
    let claim = lab.json(&["machine", "show", &id]).await["claim"].as_str().expect("it waits").to_owned();
    assert!(lab.says(&["machine", "show", &id]).await.contains(&format!("muster machine approve {claim}\n")));
    assert!(lab.says(&["machine", "reject", &claim]).await.contains("rejected"));
    assert!(lab.says(&["machine", "reject", &id]).await.contains("is rejected already"));
    assert!(lab.says(&["machine", "approve", &claim.to_lowercase()]).await.contains("available"));
    for again in [claim.as_str(), &id] {
        assert!(lab.says(&["machine", "approve", again]).await.contains("is approved already"), "{again}");
    }
    lab.says(&["machine", "retire", &id, "--yes"]).await;
    assert!(lab.says(&["machine", "retire", &id]).await.contains("is retired already"), "nothing is left to confirm");
    assert!(lab.refuses(1, &["machine", "approve", &id]).await.contains("does not come back"));
    lab.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retiring_asks_first_does_all_that_it_can_and_reports_every_failure() {
    let lab = Lab::new().await;
    let names = ["kitchen", "cellar", "attic"];
    for (serial, name) in ["S1", "S2", "S3"].into_iter().zip(names) {
        let id = lab.pending(serial).await.to_string();
        lab.says(&["machine", "approve", &id]).await;
        lab.says(&["machine", "rename", &id, name]).await;
    }
    let asked = lab.refuses(1, &["machine", "retire", "kitchen", "cellar"]).await;
    assert!(asked.contains("muster machine retire kitchen cellar --yes"), "{asked}");
    assert_eq!(lab.json(&["machine", "list", "--lifecycle", "available"]).await.as_array().map(Vec::len), Some(3));

    let output = lab.run(&["machine", "retire", "kitchen", "nope", "cellar", "nobody", "--yes"]).await;
    let (said, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(said.contains("kitchen  retired") && said.contains("cellar  retired"), "{said}");
    for part in ["no machine \"nope\"", "no machine \"nobody\"", "2 of 4 failed"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    let left = lab.json(&["machine", "list", "--lifecycle", "available"]).await;
    assert_eq!(
        left.as_array().map(|left| left.iter().map(|m| m["name"].clone()).collect()),
        Some(vec!["attic".into()])
    );

    let shown = lab.says(&["machine", "show", "kitchen"]).await;
    let line = shown.lines().find(|line| line.starts_with("retired:")).expect("when, and by whom");
    assert!(line.contains("Z by token:"), "{line}");
    lab.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_box_becomes_a_machine_that_it_does_not_look_like_only_where_that_is_confirmed() {
    let lab = Lab::new().await;
    let (known, other) = (lab.pending("S1").await.to_string(), lab.pending("S2").await.to_string());
    lab.says(&["machine", "approve", &known]).await;
    lab.says(&["machine", "rename", &known, "kitchen"]).await;
    let resolve = ["machine", "resolve", &other, "--same-as", "kitchen"];
    let asked = lab.refuses(1, &resolve).await;
    assert!(asked.contains("does not look like kitchen") && asked.contains("add --yes"), "{asked}");
    assert_eq!(lab.json(&["machine", "show", &other]).await["lifecycle"], "pending", "nothing was changed");
    assert!(lab.says(&[&resolve[..], &["--yes"]].concat()).await.contains("kitchen"));
    assert_eq!(lab.json(&["machine", "list"]).await.as_array().map(Vec::len), Some(1));
    lab.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_takes_anothers_place_in_the_document_once_its_plan_was_shown() {
    let lab = made_up::Lab::new().await;
    let id = lab.online("S1").await;
    let new = lab.get(format!("/machines/{id}")).await.succeeds().text("/inventory/disks/0/id").to_owned();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let serving = tokio::spawn(axum::serve(listener, lab.router.clone()).into_future());
    let (data, machine) = (lab.files.path().to_owned(), id.to_string());
    let connect = ["--url", &url, "--token", &lab.operator];
    let muster = |arguments: &[&str]| {
        let step = Step { action: "write a GPT".into(), impact: Impact::Destroys(vec![new.parse().expect("an id")]) };
        lab.answers(Answer::Planned(Plan { steps: vec![step], notices: vec![], digest: Digest::of(b"plan") }));
        let (data, arguments) = (data.clone(), [arguments, &connect].concat().join(" "));
        async move { run(&data, &arguments.split(' ').collect::<Vec<_>>()).await }
    };
    let said = |output: Output| {
        let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.code(), format!("{out}{error}"))
    };
    let desired = || lab.fleet.state().desired.get(&id).map(|record| (record.generation.0, record.desired.clone()));

    let file = data.join("disk.yaml");
    let partitions = "      partitions: [{number: 1, label: data}]\n  filesystems:\n    - {device: serial:OLD-part1, format: ext4}\n";
    std::fs::write(&file, format!("storage:\n  disks:\n    - device: serial:OLD\n{partitions}")).expect("written");
    let file = file.to_str().expect("UTF-8");
    let applied = muster(&["apply", "-m", &machine, "-f", file, "--no-wait"]).await;
    assert_eq!(said(applied).0, Some(0));
    let before = desired();

    let (code, error) = said(muster(&["machine", "disk", "replace", &machine, "serial:OLD", "serial:NONE"]).await);
    assert!(code == Some(1) && error.contains(&format!("it has {new}")), "{error}");
    let (code, error) = said(muster(&["machine", "disk", "replace", &machine, "serial:ELSE", &new]).await);
    assert!(code == Some(1) && error.contains("it names serial:OLD"), "{error}");
    let replace = ["machine", "disk", "replace", &machine, "serial:OLD", &new];
    let (code, plan) = said(muster(&[&replace[..], &["--plan"]].concat()).await);
    assert!(code == Some(0) && plan.contains(&format!("DESTROYS what {new} carries")), "{plan}");
    let (code, error) = said(muster(&replace).await);
    assert!(code == Some(1) && error.contains(&format!("--permit-destroy={new}")), "{error}");
    assert_eq!(desired(), before, "nothing was changed yet");

    let permit = format!("--permit-destroy={new}");
    let (code, error) = said(muster(&[&replace[..], &["--no-wait", &permit]].concat()).await);
    assert_eq!(code, Some(0), "{error}");
    let (generation, now) = desired().expect("desired");
    let document = muster_controller::documents::render(&now)["storage"].clone();
    assert_eq!((generation, &document["disks"][0]["device"]), (2, &serde_json::json!(new)));
    assert_eq!(document["filesystems"][0]["device"], format!("{new}-part1"));
    serving.abort();
}
