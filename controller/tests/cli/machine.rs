//! Approving, rejecting and retiring machines.

use super::Lab;

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
