//! What is typed wrong, left empty or damaged: the exit code, and what is said.

use std::io::BufRead;
use std::process::{Command, Stdio};

use super::{Lab, run};

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_exit_code_2_and_what_is_refused_or_fails_is_1() {
    let lab = Lab::new().await;
    lab.says(&["location", "add", "ber1"]).await;
    for (arguments, says) in [
        (&["token", "create", "t", "--role", "viewer", "--expires", ""][..], "expires: must be"),
        (&["token", "create", "two words", "--role", "viewer"], "name: "),
        (&["audit", "--since", "bogus"], "since: must be"),
        (&["audit", "--result", "maybe"], "maybe"),
        (&["machine", "list", "--lifecycle", "asleep"], "lifecycle: must be one of"),
        (&["machine", "list", "--presence", "perhaps"], "presence: must be"),
        (&["machine", "list", "--location", "nope"], "there is no location \"nope\", there are ber1"),
        (&["ticket", "create", "--location", "nope"], "there is no location \"nope\", there are ber1"),
        (&["subnet", "list", "--location", "nope"], "there is no location \"nope\""),
        (&["subnet", "add", "192.0.2.0/24", "--location", "nope"], "there is no location \"nope\""),
        (&["policy", "create", "p", "--serial", "X1", "--location", "nope"], "there is no location \"nope\""),
        (&["ial", "credential", "create", "h", "--location", "nope"], "there is no location \"nope\""),
        (&["iso", "build", "--location", "nope", "-o", "x.iso"], "there is no location \"nope\", there are ber1"),
        (&["operation", "list", "--state", "odd"], "odd"),
        (&["apply", "-f", "x.yaml"], "--machine <MACHINE>|--selector <LABELS>|--location <CODE>|--role <ROLE>|--all"),
        (&["plan", "-f", "x.yaml"], "--machine <MACHINE>|--selector <LABELS>|--location <CODE>|--role <ROLE>|--all"),
        (&["diff", "-f", "x.yaml"], "--machine <MACHINE>|--selector <LABELS>|--location <CODE>|--role <ROLE>|--all"),
        (&["apply", "-m", "kitchen", "-l", "rack=b2", "-f", "x.yaml"], "cannot be used with"),
        (&["apply", "-l", "rack=b2", "--permit-destroy", "-f", "x.yaml"], "cannot be used with"),
        (&["apply", "-l", "rack=b2", "--soak", "long", "-f", "x.yaml"], "30s, 5m or 1h"),
        (&["apply", "-m", "kitchen", "--canary", "2", "-f", "x.yaml"], "cannot be used with"),
        (&["rollout", "list", "--state", "lost"], "state: must be one of"),
        (&["rollout", "show", "first"], "first"),
        (&["machine", "list", "--url", ""], "--url"),
        (&["machine", "list", "--url", "nowhere:8443:x"], "--url"),
    ] {
        let error = lab.refuses(2, arguments).await;
        assert!(error.contains(says), "{arguments:?}: {error}");
    }
    for arguments in [
        &["machine", "show", "nobody"][..],
        &["token", "revoke", "nothing"],
        &["rollout", "show", "7"],
        &["rollout", "cancel", "7"],
        &["location", "add", "ber1"],
        &["machine", "list", "--token", "muster_00000000_00"],
        &["apply", "-m", "nobody", "-f", "/nowhere.yaml"],
        &["machine", "list", "--url", "https://127.0.0.1:1"],
    ] {
        lab.refuses(1, arguments).await;
    }
    lab.server.stop().await;
}

#[tokio::test]
async fn help_says_what_a_command_means_and_gives_an_example() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (command, parts) in [
        (&["machine", "approve"][..], &["muster machine approve KX4M-7QPD"][..]),
        (&["machine", "reject"], &["muster machine reject ber1-3f2a9c"]),
        (&["machine", "retire"], &["Cannot be undone", "certificate is revoked", "join anew", "--yes"]),
        (&["machine", "resolve"], &["waits for approval until somebody says", "--same-as kitchen"]),
        (&["ca", "show"], &["muster ca show --pem > ca.crt"]),
        (&["ca", "rotate"], &["muster ca finish"]),
        (&["ca", "finish"], &["muster ca finish --force"]),
        (&["ial", "credential", "create"], &["muster ial credential create acme --location ber1"]),
        (&["ial", "credential", "revoke"], &["muster ial credential revoke 5f"]),
        (&["iso", "build"], &["keep ISOs like keys"]),
        (&["policy", "create"], &["All that is given must hold"]),
        (&["apply"], &["a canary first, then waves", "muster apply -l role=web,rack!=b2", "--max-failures"]),
        (&["rollout", "pause"], &["one of them that fails still stops the rollout"]),
        (&["apply"], &["undoes it by itself"]),
        (&["serve"], &["Needs nothing"]),
        (&["machine", "list"], &["[env: MUSTER_URL]"]),
    ] {
        let output = run(folder.path(), &[command, &["--help"]].concat()).await;
        let help = String::from_utf8(output.stdout).expect("UTF-8");
        let words = help.split_whitespace().collect::<Vec<_>>().join(" ");
        for part in parts {
            assert!(words.contains(part), "{command:?}, {part}: {help}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_empty_in_the_environment_says_nothing() {
    let lab = Lab::new().await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_muster"));
    command.arg("status").env("MUSTER_DATA", lab.data.path()).stdin(Stdio::null());
    command.envs([("MUSTER_URL", ""), ("MUSTER_TOKEN", ""), ("MUSTER_CA", "")]);
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    lab.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_mixes_up_http_and_https_is_told_so() {
    let lab = Lab::new().await;
    let plain = format!("http://{}", lab.server.https[0]);
    let error = lab.refuses(1, &["status", "--url", &plain]).await;
    assert!(error.contains("https://"), "{error}");
    let boot = format!("https://{}", lab.server.boot[0]);
    let error = lab.refuses(1, &["status", "--url", &boot]).await;
    assert!(error.contains("speaks no TLS"), "{error}");
    lab.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_that_takes_the_place_of_the_configured_one_is_named_at_the_start() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (file, data) = (folder.path().join("muster.toml"), folder.path().join("other"));
    let text = "data = \"/var/lib/configured\"\n[listen]\nagents = []\nhttps = []\nboot = []\n";
    std::fs::write(&file, text).expect("written");
    let mut serve = Command::new(env!("CARGO_BIN_EXE_muster"));
    serve.arg("serve").arg("--config").arg(&file).env("MUSTER_DATA", &data).stderr(Stdio::piped());
    let (_, said) = tokio::task::spawn_blocking(move || until_ready(serve)).await.expect("no panic");
    assert!(said.contains("MUSTER_DATA") && said.contains("/var/lib/configured"), "{said}");
    assert!(said.contains(&data.display().to_string()), "{said}");
}

/// What a controller says before it is ready, where it is ended, and with what code it ends by itself.
fn until_ready(mut serve: Command) -> (Option<i32>, String) {
    let mut serve = serve.spawn().expect("the program starts");
    let lines = std::io::BufReader::new(serve.stderr.take().expect("piped")).lines();
    let said: Vec<String> = lines.map_while(Result::ok).take_while(|line| !line.contains("ready")).collect();
    // Where it has ended already its own code stays.
    drop(serve.kill());
    (serve.wait().expect("it ran").code(), said.join("\n"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_database_is_named_with_the_remedy() {
    let Lab { data, server } = Lab::new().await;
    server.stop().await;
    let db = data.path().join("db");
    let file = db.join("db");
    let mut bytes = std::fs::read(&file).expect("there");
    let middle = bytes.len() / 2;
    bytes.iter_mut().take(middle).for_each(|byte| *byte ^= 0x5a);
    std::fs::write(&file, bytes).expect("written");
    let config = data.path().join("muster.toml");
    std::fs::write(&config, "[listen]\nagents = []\nhttps = []\nboot = []\n").expect("written");
    let mut serve = Command::new(env!("CARGO_BIN_EXE_muster"));
    serve.arg("serve").arg("--config").arg(&config).env("MUSTER_DATA", data.path()).stderr(Stdio::piped());
    let (code, error) = tokio::task::spawn_blocking(move || until_ready(serve)).await.expect("no panic");
    assert_eq!(code, Some(1), "{error}");
    for part in [db.to_str().expect("UTF-8"), "cannot be read", "put back a copy", "move it away"] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn revoking_an_iso_says_which_policies_go_with_it_and_asks_first() {
    let lab = Lab::new().await;
    lab.says(&["location", "add", "ber1"]).await;
    let ids = [lab.iso(1).await, lab.iso(2).await];
    lab.says(&["policy", "create", "sticks", "--iso", &ids[0]]).await;
    let asked = lab.refuses(1, &["iso", "revoke", &ids[0]]).await;
    assert!(asked.contains("sticks") && asked.contains("--yes"), "{asked}");
    assert!(lab.says(&["policy", "list"]).await.contains("sticks"), "nothing was changed");
    let said = lab.says(&["iso", "revoke", &ids[0], "--yes"]).await;
    assert!(said.contains("the policy sticks is deleted"), "{said}");
    let whom = format!("machine list --iso {}", ids[0]);
    assert!(said.contains(&format!("muster {whom}\n")), "{said}");
    assert_eq!(lab.says(&whom.split(' ').collect::<Vec<_>>()).await, "none\n");
    assert_eq!(lab.says(&["policy", "list"]).await, "none\n");
    let output = lab.run(&["iso", "revoke", "nothing", &ids[1]]).await;
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains(&format!("{} for ber1 lets nobody join", ids[1])), "no policy, no question: {said}");
    lab.server.stop().await;
}
