//! How a change came out, as operators read it.

use muster_controller::fleet::machine;
use muster_protocol::Generation;
use muster_protocol::hello::{Progress, Reason, Times};
use muster_protocol::to_agent::Refusal;

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

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_reverted_a_document_differs_from_it_and_whoever_compares_is_told_why() {
    let lab = Lab::new().await;
    let id = lab.pending("S1").await;
    let name = id.to_string();
    lab.says(&["machine", "approve", &name]).await;
    let write = |file: &str, address: &str| {
        let path = lab.data.path().join(file);
        let text = format!("network:\n  ethernets:\n    eth0:\n      addresses: [{address}]\n");
        std::fs::write(&path, text).expect("written");
        path.to_str().expect("UTF-8").to_owned()
    };
    let (good, bad) = (write("good.yaml", "192.0.2.7/24"), write("bad.yaml", "192.0.2.8/24"));
    let tell = async |how: Progress| {
        let told = lab.server.fleet.change(Author::controller(), move |draft| machine::progress(draft, id, &how));
        told.await.expect("told");
    };
    let reverted = |generation: u64| Progress::Reverted {
        generation: Generation(generation),
        reason: Reason::NoGateway,
        why: "192.0.2.1 does not answer".to_owned(),
        times: Times::default(),
    };
    let diff = async |file: &str| lab.says(&["diff", "-m", &name, "-f", file]).await;
    let changes = "network.ethernets.eth0.addresses\n  - [\"192.0.2.7/24\"]\n  + [\"192.0.2.8/24\"]\n";

    // Before anything was confirmed there is nothing else that it could be.
    lab.says(&["apply", "-m", &name, "-f", &good]).await;
    assert_eq!(diff(&good).await, "no difference\n", "it is on its way there");
    tell(reverted(1)).await;
    let said = diff(&good).await;
    let expected = "generation 1 was reverted: no-gateway: 192.0.2.1 does not answer; compared with a machine of which \
                    nothing was confirmed:\nnetwork\n  + {";
    assert!(said.starts_with(expected), "{said}");

    lab.says(&["apply", "-m", &name, "-f", &good]).await;
    tell(Progress::Confirmed { generation: Generation(2) }).await;
    assert_eq!((diff(&good).await, diff(&bad).await), ("no difference\n".to_owned(), changes.to_owned()));

    lab.says(&["apply", "-m", &name, "-f", &bad]).await;
    tell(reverted(3)).await;
    let header = "generation 3 was reverted: no-gateway: 192.0.2.1 does not answer; compared with generation 2, which was \
                  confirmed last:\n";
    assert_eq!(diff(&bad).await, format!("{header}{changes}"));
    assert_eq!(diff(&good).await, format!("{header}no difference\n"));
    let several = lab.says(&["diff", "--all", "-f", &bad]).await;
    assert!(several.contains(&format!("  {header}")) && several.contains("  + [\"192.0.2.8/24\"]"), "{several}");
    assert_eq!(lab.says(&["diff", "--all", "-f", &good]).await, "no difference for 1 machine\n");
    lab.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_interrupts_the_wait_for_a_change_is_told_that_it_goes_on_and_how_to_see_it() {
    let lab = Lab::new().await;
    let id = lab.pending("S1").await.to_string();
    lab.says(&["machine", "approve", &id]).await;
    let file = lab.data.path().join("office.yaml");
    std::fs::write(&file, "network:\n  ethernets:\n    eth0: {}\n").expect("written");
    lab.says(&["apply", "-m", &id, "-f", file.to_str().expect("UTF-8")]).await;
    let operation = lab.json(&["operation", "list"]).await[0]["id"].as_str().expect("an id").to_owned();
    let (code, said) = lab.interrupted(&["operation", "watch", &operation]).await;
    assert_eq!(code, Some(130), "{said}");
    let goes_on =
        format!("muster: apply generation 1 goes on as operation {operation}; muster operation watch {operation}");
    assert!(said.contains(&goes_on) && said.contains(&format!("muster operation show {operation}")), "{said}");
    assert_eq!(lab.json(&["operation", "show", &operation]).await["state"], "queued", "nobody has taken it back");
    lab.server.stop().await;
}

/// A machine knows what a document means, and not how it is written: the line is found here.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_machine_refuses_is_shown_with_the_line_of_its_field() {
    let lab = made_up::Lab::new().await;
    let id = lab.online("S1").await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let serving = tokio::spawn(axum::serve(listener, lab.router.clone()).into_future());
    let file = |name: &str, text: &str| {
        let path = lab.files.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.to_str().expect("UTF-8").to_owned()
    };
    let document = file("d.yaml", "network:\n  ethernets:\n    eth0: {}\n    eth7:\n      dhcp4: true\n");
    let template = file("t.yaml", "network:\n  ethernets:\n    \"{{ machine.name }}\": {}\n    eth7: {dhcp4: true}\n");
    let (url, machine) = (url.as_str(), id.to_string());
    let says = async |why: &str, arguments: &[&str]| {
        lab.answers(Answer::Refused(Refusal::Impossible(why.into())));
        let arguments: Vec<&str> = arguments.iter().copied().chain(["--url", url, "--token", &lab.operator]).collect();
        let output = run(lab.files.path(), &arguments).await;
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat()
    };

    let why = "network.ethernets.eth7: this machine has no NIC with the name eth7";
    let said = says(why, &["plan", "-m", &machine, "-f", &document]).await;
    assert!(said.contains(&format!("network.ethernets.eth7 ({document}:4): this machine has no NIC")), "{said}");
    let said = says(why, &["plan", "--all", "-f", &template]).await;
    assert!(said.contains(&format!("network.ethernets.eth7 ({template}:4): this machine has no NIC")), "{said}");
    // What is not in the file, or not by that name, has no line.
    let other = "network.ethernets.eth8: this machine has no NIC with the name eth8";
    for arguments in [["plan", "-m", &machine, "-f", &document].as_slice(), &["plan", "--all", "-f", &template]] {
        let said = says(other, arguments).await;
        assert!(said.contains("network.ethernets.eth8: this machine") && !said.contains(".yaml:"), "{said}");
    }

    // An apply is refused by the operation that it began.
    let apply = ["apply", "-m", &machine, "-f", &document];
    let refusing = async {
        let mut states = lab.fleet.watch();
        states.wait_for(|state| state.desired.get(&id).is_some()).await.expect("the fleet is there");
        let refused = Progress::Refused { generation: Generation(1), why: why.into() };
        let tell = move |draft: &mut Draft| machine::progress(draft, id, &refused);
        lab.fleet.change(Author::controller(), tell).await.expect("told");
    };
    let (said, ()) = tokio::join!(says(why, &apply), refusing);
    assert!(said.contains(&format!("refused: network.ethernets.eth7 ({document}:4): this machine")), "{said}");
    serving.abort();
}
