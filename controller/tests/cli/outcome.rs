//! How a change came out, as operators read it.

use muster_controller::fleet::machine;
use muster_protocol::Generation;
use muster_protocol::hello::{Progress, Reason, Times};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_was_reverted_is_shown_with_its_reason_and_its_times() {
    let lab = Lab::new().await;
    let id = lab.pending("S1").await;
    lab.says(&["machine", "approve", &id.to_string()]).await;
    let file = lab.data.path().join("office.yaml");
    std::fs::write(&file, "network:\n  ethernets:\n    eth0:\n      addresses: [192.0.2.7/24]\n").expect("written");
    let file = file.to_str().expect("UTF-8");
    lab.says(&["apply", "-m", &id.to_string(), "-f", file]).await;
    let operation = lab.json(&["operation", "list"]).await[0]["id"].as_str().expect("an id").to_owned();

    let times = Times { switch_ms: 300, prove_ms: 10_000, revert_ms: 2_000, ..Times::default() };
    let why = "192.0.2.1 does not answer".to_owned();
    let reverted = Progress::Reverted { generation: Generation(1), reason: Reason::NoGateway, why, times };
    let tell = move |draft: &mut Draft| machine::progress(draft, id, &reverted);
    lab.server.fleet.change(Author::controller(), tell).await.expect("told");

    let shown = lab.says(&["operation", "show", &operation]).await;
    for line in [
        "error:        reverted: no-gateway: 192.0.2.1 does not answer\n",
        "outcome:      reverted: no-gateway\n",
        "took:         12.3 s (switched 0.3 s, proven 10.0 s, reverted 2.0 s)\n",
    ] {
        assert!(shown.contains(line), "{line}{shown}");
    }
    let said = lab.refuses(1, &["operation", "watch", &operation]).await;
    let expected =
        "apply generation 1: reverted: no-gateway: 192.0.2.1 does not answer; it took 12.3 s (switched 0.3 s,";
    assert!(said.contains(expected), "{said}");
    let machine = lab.says(&["machine", "show", &id.to_string()]).await;
    assert!(machine.contains("reverted 1 no-gateway 192.0.2.1 does not answer\n"), "{machine}");
    lab.server.stop().await;
}
