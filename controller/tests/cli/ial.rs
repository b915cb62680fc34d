//! `muster ial check`, as an operator and a script use it.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Command, Stdio};

use super::{Lab, run};

/// By which a check calls its first hub.
const HUB: &str = "6516a1f2a6078e9800000001";

#[tokio::test(flavor = "multi_thread")]
async fn a_check_tells_what_it_found_and_ends_with_0_only_where_nothing_failed() {
    let lab = Lab::new().await;
    lab.says(&["location", "add", "ber1"]).await;
    let url = format!("https://{}/", lab.server.https[0]);
    let credential = lab.json(&["ial", "credential", "create", "acme"]).await;
    let key = credential["key"].as_str().expect("a text");
    let file = lab.data.path().join("secret");
    std::fs::write(&file, format!("{}\n", credential["secret"].as_str().expect("a text"))).expect("written");
    let file = file.to_str().expect("UTF-8");

    let good = ["ial", "check", &url, "--key", key, "--secret-file", file];
    let table = lab.says(&good).await;
    assert!(table.starts_with("CASE") && table.contains("\nverify/good-credentials"), "{table}");
    assert!(table.contains("server/provision ") && table.contains("needs --provision"), "{table}");
    assert!(table.ends_with(" left out\n") && table.contains(" passed, 0 failed, "), "{table}");
    let report = lab.json(&good).await;
    assert_eq!((&report["failed"], &report["interrupted"]), (&0.into(), &false.into()), "{report}");

    let other = lab.json(&["ial", "credential", "create", "other"]).await;
    let [other, secret] = ["key", "secret"].map(|name| other[name].as_str().expect("a text"));
    let two = [&good[..], &["--second-key", other, "--second-secret", secret]].concat();
    let table = lab.says(&two).await;
    assert!(table.contains("another hub's credentials are good"), "{table}");

    let wrong = lab.run(&["ial", "check", &url, "--key", key, "--secret", "wrong"]).await;
    let said = String::from_utf8(wrong.stdout).expect("UTF-8");
    assert_eq!(wrong.status.code(), Some(1), "{said}");
    for line in [
        "\nverify/good-credentials: good credentials",
        "\n  expected: data/valid: true\n",
        "\n  do: give a credential that the server knows",
        "\n0 passed, 1 failed, ",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("1 case failed"));

    let nobody = ["ial", "check", "http://127.0.0.1:1", "--key", "k", "--secret", "s"];
    assert_eq!(lab.run(&nobody).await.status.code(), Some(1), "a server that is not there passes nothing");
    for (arguments, says) in [
        (&["ial", "check", &url][..], "no credential: give --key"),
        (&["ial", "check", "muster.example", "--key", "k", "--secret", "s"], "the URL must read like"),
        (&["ial", "check", &url, "--key", "k", "--secret", "s", "--location", "ber1"], "--provision"),
        (&["ial", "check", &url, "--key", "k", "--secret", " "], "the key or the secret is empty"),
        (&["ial", "check", &url, "--auth", file], "is no JSON"),
        (&["ial", "check", &url, "--poll", "never"], "30s, 5m or 1h"),
        (&["ial", "check", &url, "--key", "k", "--secret", "s", "--second-key", "k"], "give --second-key with"),
        (&[&good[..], &["--hub-id", "zzz"]].concat(), "'--hub-id <ID>': a hub's id has 24 hexadecimal digits"),
        (&[&good[..], &["--hub-id", "000000000000000000000000"]].concat(), "not all of them 0"),
        (&[&good[..], &["--second-hub-id", "6516a1f2a6078e980000000"]].concat(), "'--second-hub-id <ID>': "),
        (&[&good[..], &["--second-auth", file]].concat(), "--second-auth: "),
        (&[&good[..], &["--second-key", "k", "--second-secret", "s", "--second-hub-id", HUB]].concat(), "are one"),
    ] {
        let error = lab.refuses(2, arguments).await;
        assert!(error.contains(says), "{arguments:?}: {error}");
    }
    lab.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_is_interrupted_says_so_and_ends_with_130() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let ended = tokio::task::spawn_blocking(move || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_muster"));
        command.args(["ial", "check", &url, "--key", "k", "--secret", "s", "--output", "json"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
        let (asked, _) = listener.accept().expect("it calls");
        let process = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(process, rustix::process::Signal::INT).expect("interrupted");
        let mut said = BufReader::new(child.stderr.take().expect("piped")).lines().map(|line| line.expect("it speaks"));
        assert_eq!(said.next().as_deref(), Some("verify"), "nobody watches a terminal, so the group is told");
        assert!(said.any(|line| line.contains("interrupted")));
        drop((asked, listener));
        child.wait_with_output().expect("it ran")
    });
    let ended = ended.await.expect("no panic");
    assert_eq!(ended.status.code(), Some(130));
    let report: serde_json::Value = serde_json::from_slice(&ended.stdout).expect("JSON");
    assert_eq!((&report["interrupted"], &report["calls"]), (&true.into(), &1.into()));
}

#[tokio::test]
async fn the_help_of_check_says_what_it_takes() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = run(folder.path(), &["ial", "check", "--help"]).await;
    let help = String::from_utf8(output.stdout).expect("UTF-8");
    for part in ["changes nothing unless --provision", "wiped when they are given back", "[env: MUSTER_IAL_SECRET]"] {
        assert!(help.split_whitespace().collect::<Vec<_>>().join(" ").contains(part), "{part}: {help}");
    }
}
