//! The command line as operators use it: the real program against a real controller on loopback.

use std::io::{BufRead, Read};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use muster_controller::config::Config;
use muster_controller::fleet::audit::{self, Head};
use muster_controller::fleet::enrollment::{self, Seen};
use muster_controller::fleet::iso::{self, Built};
use muster_controller::fleet::ticket::{self, Grant};
use muster_controller::fleet::{Author, Draft};
use muster_controller::server::Server;
use muster_protocol::enroll::Identity;
use muster_protocol::to_agent::{Answer, Impact, Plan, Step};
use muster_protocol::{Digest, MachineId};
use serde_json::Value;
use tempfile::TempDir;

mod fetch;
mod ial;
mod machine;
mod outcome;
mod usage;

#[path = "../api/lab.rs"]
#[allow(dead_code)]
mod made_up;

struct Lab {
    data: TempDir,
    server: Server,
}

impl Lab {
    async fn new() -> Self {
        let data = tempfile::tempdir().expect("a temporary folder");
        let any = vec!["127.0.0.1:0".parse().expect("an address")];
        let mut config = Config::with_data(data.path().to_owned());
        config.listen.agents = any.clone();
        config.listen.https = any.clone();
        config.listen.boot = any;
        let server = Server::start(config).await.expect("the controller starts");
        Self { data, server }
    }

    /// A machine that waits for approval.
    async fn pending(&self, serial: &'static str) -> MachineId {
        let identity = Identity { system_serial: serial.into(), ..Identity::default() };
        let enrolled = self.server.fleet.change(Author::controller(), move |draft| {
            let ticket = ticket::issue(draft, Grant::bearer("ber1", 60_000))?;
            Ok(enrollment::enroll(draft, &ticket, identity, Seen::default(), ticket.digest())?.machine)
        });
        enrolled.await.expect("enrolls")
    }

    /// The id of an ISO for ber1 that was built.
    async fn iso(&self, n: u8) -> String {
        let built = Built {
            location: "ber1".into(),
            controllers: vec!["192.0.2.1:8080".into()],
            file: format!("/tmp/{n}.iso"),
            bytes: 1,
            sha256: Digest::of(&[n]),
            credential: Digest::of(&[n, n]),
            sealed: None,
            boot_ca: None,
        };
        let added = self.server.fleet.change(Author::controller(), move |draft| iso::add(draft, built));
        added.await.expect("added").id
    }

    async fn run(&self, arguments: &[&str]) -> Output {
        run(self.data.path(), arguments).await
    }

    /// What a command prints that succeeds.
    async fn says(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {error}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    async fn json(&self, arguments: &[&str]) -> Value {
        let text = self.says(&[arguments, &["--output", "json"]].concat()).await;
        serde_json::from_str(&text).expect("JSON")
    }

    /// The exit code of a command that is interrupted once it has told how far it is, and all that it says to people.
    async fn interrupted(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_muster"));
        command.args(arguments).env("MUSTER_DATA", self.data.path()).stdin(Stdio::null()).stderr(Stdio::piped());
        let ended = tokio::task::spawn_blocking(move || {
            let mut child = command.spawn().expect("the program starts");
            let mut said = String::new();
            let mut lines = std::io::BufReader::new(child.stderr.take().expect("piped"));
            while !said.contains('%') {
                assert_ne!(lines.read_line(&mut said).expect("it speaks"), 0, "{said}");
            }
            let process = rustix::process::Pid::from_child(&child);
            rustix::process::kill_process(process, rustix::process::Signal::INT).expect("interrupted");
            lines.read_to_string(&mut said).expect("it speaks");
            (child.wait().expect("it ran").code(), said)
        });
        ended.await.expect("no panic")
    }

    /// What a command complains of that fails with this code.
    async fn refuses(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        let error = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {error}");
        assert!(output.stdout.is_empty(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stdout));
        error
    }
}

/// Runs the program with this data directory and nothing else of this test's environment that it would heed.
async fn run(data: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_muster"));
    command.args(arguments).env("MUSTER_DATA", data).stdin(Stdio::null());
    for name in ["MUSTER_URL", "MUSTER_TOKEN", "MUSTER_CA", "MUSTER_IAL_KEY", "MUSTER_IAL_SECRET"] {
        command.env_remove(name);
    }
    let output = tokio::task::spawn_blocking(move || command.output()).await;
    output.expect("no panic").expect("the program starts")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_on_the_controllers_host_needs_no_arguments() {
    let lab = Lab::new().await;
    let id = lab.pending("S1").await.to_string();
    let table = lab.says(&["machine", "list"]).await;
    assert!(table.starts_with("NAME") && table.contains(&id[..8]) && table.contains("pending"), "{table}");

    assert!(lab.says(&["machine", "approve", &id]).await.contains("available"));
    lab.says(&["machine", "rename", &id, "kitchen"]).await;
    lab.says(&["machine", "label", "kitchen", "rack=b2", "gone-"]).await;
    lab.says(&["machine", "maintenance", "kitchen", "on"]).await;
    lab.says(&["machine", "drift", "kitchen", "report"]).await;
    let machine = lab.json(&["machine", "show", "kitchen"]).await;
    assert_eq!((&machine["id"], &machine["labels"]["rack"]), (&Value::from(id), &Value::from("b2")));
    assert_eq!((&machine["maintenance"], &machine["on_drift"]), (&Value::from(true), &Value::from("report")));
    assert!(lab.says(&["machine", "show", "kitchen"]).await.contains("available, maintenance"));
    assert!(lab.says(&["machine", "show", "kitchen", "--output", "yaml"]).await.contains("name: kitchen\n"));
    assert!(lab.says(&["audit"]).await.contains("machine.renamed"));
    assert!(lab.says(&["events"]).await.contains("machine.approved"));
    assert!(lab.says(&["status"]).await.contains("1 available"));
    assert!(lab.says(&["machine", "desired", "kitchen"]).await.contains("nothing is desired of it"));
    lab.says(&["machine", "retire", "kitchen", "--yes"]).await;
    lab.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_is_applied_compared_and_refused_with_its_lines() {
    let lab = Lab::new().await;
    let id = lab.pending("S1").await.to_string();
    lab.says(&["machine", "approve", &id]).await;
    let write = |name: &str, text: &str| {
        let path = lab.data.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.to_str().expect("UTF-8").to_owned()
    };
    let good = write("good.yaml", "network:\n  ethernets:\n    eth0:\n      addresses: [192.0.2.7/24]\n");
    let bad = write("bad.yaml", "network:\n  tunnels: {}\n  ethernets: 7\n");

    let said = lab.says(&["apply", "-m", &id, "-f", &good]).await;
    assert!(said.contains("generation 1 is desired") && said.contains("the machine is offline"), "{said}");
    assert!(lab.says(&["diff", "-m", &id, "-f", &good]).await.contains("no difference"));
    assert!(lab.says(&["machine", "desired", &id]).await.contains("192.0.2.7/24"));
    assert!(lab.says(&["operation", "list", "-m", &id]).await.contains("queued"));

    // Whoever waits for it is told why that may take long.
    let operation = lab.json(&["operation", "list", "-m", &id]).await[0]["id"].as_str().expect("an id").to_owned();
    let mut watch = Command::new(env!("CARGO_BIN_EXE_muster"));
    watch.args(["operation", "watch", &operation]).env("MUSTER_DATA", lab.data.path()).stderr(Stdio::piped());
    let first = tokio::task::spawn_blocking(move || {
        let mut watch = watch.spawn().expect("the program starts");
        let mut line = String::new();
        let stderr = watch.stderr.take().expect("piped");
        std::io::BufReader::new(stderr).read_line(&mut line).expect("it speaks");
        watch.kill().and_then(|()| watch.wait()).expect("it ran");
        line
    });
    let first = first.await.expect("no panic");
    assert!(first.contains("queued; the machine is offline"), "{first}");

    let refused = lab.refuses(1, &["apply", "-m", &id, "-f", &bad]).await;
    let lines: Vec<&str> = refused.trim_start_matches("muster: ").lines().collect();
    assert_eq!(lines.len(), 2, "{refused}");
    assert!(lines[0].starts_with(&format!("{bad}: line 2, column 3: network.tunnels: ")), "{refused}");
    // A document's texts move no cursor, and a template is for machines that are selected.
    let loud = write("loud.yaml", "network:\n  \"\\e[2J\": {}\n  ethernets:\n    eth0: {mtu: \"\\r9000\"}\n");
    let refused = lab.refuses(1, &["apply", "-m", &id, "-f", &loud]).await;
    assert!(!refused.contains(|c: char| c.is_control() && c != '\n') && refused.contains("u001b[2J"), "{refused}");
    assert_eq!(refused.trim_end().lines().count(), 2, "{refused}");
    let template = write("t.yaml", "network:\n  ethernets:\n    eth0:\n      mtu: {{ labels.mtu }}\n");
    let refused = lab.refuses(1, &["plan", "-m", &id, "-f", &template]).await;
    assert!(refused.contains("line 4") && refused.contains("--selector"), "{refused}");
    let offline = lab.refuses(1, &["plan", "-m", &id, "-f", &good]).await;
    assert!(offline.contains("offline"), "{offline}");
    assert!(lab.refuses(1, &["apply", "-m", &id, "-f", "/nowhere.yaml"]).await.contains("/nowhere.yaml"));
    assert!(lab.refuses(1, &["power", "cycle", &id]).await.contains("nothing was named"));
    lab.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_gets_its_location_subnet_token_ticket_and_credential() {
    let lab = Lab::new().await;
    lab.says(&["location", "add", "ber1", "--name", "Berlin", "--latitude", "-52.5", "--zone", "a"]).await;
    lab.says(&["location", "set", "ber1", "--city", "Berlin"]).await;
    assert!(lab.refuses(2, &["location", "set", "ber1"]).await.contains("nothing to change was named"));
    assert!(lab.refuses(2, &["location", "set", "ber1", "--latitude", "NaN"]).await.contains("write degrees"));
    assert!(lab.says(&["location", "metadata", "ber1"]).await.starts_with("no keys and no user data"));
    let location = lab.json(&["location", "show", "ber1"]).await;
    assert_eq!((&location["name"], &location["city"]), (&Value::from("Berlin"), &Value::from("Berlin")));
    assert_eq!(location["latitude"], -52.5);
    assert!(lab.refuses(1, &["location", "add", "ber1"]).await.contains("muster location set"));
    assert!(
        lab.refuses(2, &["location", "add", ""]).await.contains("CODE: \"\" is no code: 1 to 32 lower-case letters")
    );
    for empty in [["location", "show", ""], ["location", "remove", ""], ["lease", "show", ""]] {
        assert!(lab.refuses(2, &empty).await.contains("is empty"), "{empty:?}");
    }

    let subnet = ["subnet", "add", "192.0.2.0/24", "--location", "ber1", "--gateway", "192.0.2.1"];
    assert!(lab.says(&subnet).await.contains("253 addresses free"));
    assert!(lab.says(&["subnet", "show", "192.0.2.0/24"]).await.contains("192.0.2.1"));
    assert_eq!(lab.says(&["address", "list"]).await, "none\n");
    assert_eq!(lab.json(&["model", "list"]).await, Value::Array(vec![]));
    assert!(lab.refuses(2, &["subnet", "add", "192.0.2.0", "--location", "ber1"]).await.contains("net: must be"));
    lab.says(&["subnet", "remove", "192.0.2.0/24"]).await;

    let token = lab.json(&["token", "create", "ci", "--role", "viewer"]).await;
    let text = token["token"].as_str().expect("shown once");
    lab.says(&["machine", "list", "--token", text]).await;
    let forbidden = lab.refuses(1, &["token", "list", "--token", text]).await;
    assert!(forbidden.contains("this needs admin"), "{forbidden}");
    lab.says(&["token", "revoke", token["id"].as_str().expect("an id")]).await;
    lab.refuses(1, &["machine", "list", "--token", text]).await;

    let ticket = lab.says(&["ticket", "create", "--location", "ber1"]).await;
    lab.says(&["location", "remove", "ber1"]).await;
    assert!(ticket.contains("muster-agent --controller 127.0.0.1:"), "{ticket}");
    let credential = lab.json(&["ial", "credential", "create", "cycle"]).await;
    assert_eq!(credential["secret"].as_str().map(str::len), Some(64));
    assert!(lab.says(&["ial", "credential", "list"]).await.contains("cycle"));
    lab.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_finds_a_token_in_a_netrc_file() {
    let lab = Lab::new().await;
    let token = lab.json(&["token", "create", "ci", "--role", "viewer", "--expires", "90d"]).await;
    assert!(token["expires"].as_str().is_some_and(|end| end.ends_with('Z')), "{token}");
    lab.refuses(2, &["token", "create", "ci2", "--role", "viewer", "--expires", "soon"]).await;
    let ask = async |user: &str| {
        let netrc = lab.data.path().join("netrc");
        let secret = token["token"].as_str().expect("shown once");
        std::fs::write(&netrc, format!("machine 127.0.0.1 login {user} password {secret}\n")).expect("written");
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--max-time", "30", "--netrc-file"]).arg(netrc).arg("--cacert");
        curl.arg(lab.data.path().join("ca.crt")).arg(format!("https://{}/api/v1/status", lab.server.https[0]));
        let output = tokio::task::spawn_blocking(move || curl.output()).await.expect("no panic");
        let output = output.expect("curl is installed");
        serde_json::from_slice::<Value>(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
    };
    assert!(ask("token").await["version"].is_string());
    let refused = ask("olga").await;
    assert!(refused["detail"].as_str().is_some_and(|why| why.contains("there are no users here")), "{refused}");
    lab.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_are_looked_after_by_name() {
    let lab = Lab::new().await;
    let id = lab.pending("S1").await.to_string();
    assert_eq!(lab.json(&["lease", "list"]).await, serde_json::json!([]));
    let error = lab.refuses(1, &["lease", "end", "srv-none"]).await;
    assert!(error.contains("srv-none"), "{error}");
    let error = lab.refuses(1, &["lease", "clean", &id]).await;
    assert!(error.contains("is not being cleaned"), "{error}");
    let error = lab.refuses(2, &["lease", "write-off", &id]).await;
    assert!(error.contains("--is-off"), "{error}");
    let error = lab.refuses(1, &["lease", "write-off", "--is-off", &id]).await;
    assert!(error.contains("is not leased"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_log_is_read_as_what_changed_field_by_field_and_found_by_names() {
    let lab = Lab::new().await;
    lab.says(&["location", "add", "ber1", "--name", "Berlin"]).await;
    lab.says(&["location", "set", "ber1", "--city", "Berlin"]).await;
    let id = lab.pending("S1").await.to_string();
    lab.says(&["machine", "approve", &id]).await;
    lab.says(&["machine", "rename", &id, "kitchen"]).await;
    lab.says(&["machine", "label", "kitchen", "rack=b2"]).await;
    let log = lab.says(&["audit"]).await;
    for change in ["code: ber1, name: Berlin", "city: none → Berlin", "lifecycle: pending → available", "rack: \"b2\""]
    {
        assert!(log.contains(change), "{change}: {log}");
    }
    assert!(!log.contains('{') && !log.contains("Some("), "{log}");
    for name in ["kitchen", &id, &id[..8]] {
        let found = lab.json(&["audit", "--subject", name]).await;
        assert_eq!(found.as_array().map(Vec::len), Some(3), "{name}: {found}");
    }
    assert_eq!(lab.json(&["audit", "--subject", "ber1"]).await.as_array().map(Vec::len), Some(2));
    lab.refuses(2, &["ticket", "create", "--location", "No Code"]).await;
    assert!(lab.says(&["audit", "--result", "refused"]).await.contains("refused: invalid: location: "));
    lab.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_log_is_exported_and_verified_without_trust_in_the_controller() {
    let lab = Lab::new().await;
    lab.says(&["location", "add", "ber1"]).await;
    let said = lab.says(&["audit", "verify"]).await;
    let head = said.lines().find_map(|line| line.strip_prefix("head: ")).expect("it names the head").to_owned();
    assert!(said.contains("none changed, none missing"), "{said}");
    lab.says(&["location", "set", "ber1", "--name", "Berlin"]).await;
    lab.refuses(1, &["machine", "rename", "nobody", "box"]).await;
    lab.says(&["audit", "verify", "--head", &head]).await;

    // What sha256sum makes of a line is what the next one has.
    let lines = lab.says(&["audit", "--output", "jsonl"]).await;
    let lines: Vec<&str> = lines.lines().collect();
    let last: Value = serde_json::from_str(lines[lines.len() - 1]).expect("JSON");
    assert_eq!(last["previous"], Digest::of(lines[lines.len() - 2].as_bytes()).to_string());
    assert!(last["result"].as_str().is_some_and(|result| result.starts_with("refused: not-found")), "{last}");
    assert!(lab.says(&["audit", "--result", "refused", "--since", "1h"]).await.contains("machines/nobody"));
    assert_eq!(lab.says(&["audit", "--output", "jsonl", "--limit", "1"]).await.trim(), lines[lines.len() - 1]);

    let file = lab.data.path().join("audit.jsonl");
    let path = file.to_str().expect("UTF-8").to_owned();
    let write = |lines: &[&str]| std::fs::write(&file, lines.join("\n") + "\n").expect("written");
    write(&lines);
    let whole = lab.says(&["audit", "verify", "--file", &path, "--head", &head]).await;
    assert!(whole.starts_with(&format!("{} entries", lines.len())), "{whole}");
    let last_head = whole.lines().find_map(|line| line.strip_prefix("head: ")).expect("it names the head").to_owned();
    // Who does not know where it ended is told that the end is unchecked, and how to check it.
    let output = lab.run(&["audit", "verify", "--file", &path]).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("unchecked") && said.contains(&last_head), "{said}");
    let edited = lines[0].replace("controller", "nobody");
    write(&[&[edited.as_str()], &lines[1..]].concat());
    let changed = lab.refuses(1, &["audit", "verify", "--file", &path]).await;
    assert!(changed.contains("entry 2 does not continue entry 1"), "{changed}");
    write(&lines[1..]);
    let part = lab.says(&["audit", "verify", "--file", &path, "--head", &last_head]).await;
    assert!(part.starts_with("partial: begins at entry 2\n"), "{part}");
    assert!(part.contains(&format!("{} entries", lines.len() - 1)) && part.contains("none missing"), "{part}");
    write(&[&lines[1..2], &lines[3..]].concat());
    let filtered = lab.refuses(1, &["audit", "verify", "--file", &path]).await;
    assert!(filtered.contains("entry 4 follows entry 2") && filtered.contains("filtered"), "{filtered}");
    write(&lines[..1]);
    let cut = lab.refuses(1, &["audit", "verify", "--file", &path, "--head", &head]).await;
    assert!(cut.contains("its end was cut off"), "{cut}");
    lab.refuses(2, &["audit", "verify", "--head", "7"]).await;

    let gone = Head::at(&lab.server.fleet.ledger().from(0, 2, 2).expect("read")[1]);
    let prune = move |draft: &mut Draft| {
        audit::announce(draft, 1, gone);
        audit::prune(draft, 1..=2);
        Ok(())
    };
    lab.server.fleet.change(Author::controller(), prune).await.expect("pruned");
    let pruned = lab.says(&["audit", "verify"]).await;
    assert!(pruned.starts_with("pruned: begins at entry 3"), "{pruned}");
    lab.says(&["audit", "verify", "--head", &gone.to_string()]).await;
    lab.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn following_the_audit_log_goes_on_after_the_controller_was_away_and_has_another_ca() {
    let lab = Lab::new().await;
    let mut follow = Command::new(env!("CARGO_BIN_EXE_muster"));
    follow
        .args(["audit", "--follow", "--action", "location.", "--output", "jsonl"])
        .env("MUSTER_DATA", lab.data.path());
    let mut follow = follow.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
    let mut lines = std::io::BufReader::new(follow.stdout.take().expect("piped")).lines();
    let mut complaints = std::io::BufReader::new(follow.stderr.take().expect("piped")).lines();
    let (told, mut news) = tokio::sync::mpsc::unbounded_channel();
    let reader = std::thread::spawn(move || {
        while let Some(Ok(line)) = lines.next() {
            let line: Value = serde_json::from_str(&line).expect("JSON");
            let _ = told.send(line["subject"].as_str().expect("a text").to_owned());
        }
    });
    let (lost, mut losses) = tokio::sync::mpsc::unbounded_channel();
    let complainer = std::thread::spawn(move || {
        while let Some(Ok(line)) = complaints.next() {
            let _ = lost.send(line);
        }
    });
    let deadline = std::time::Duration::from_secs(60);
    // It may not follow yet: what comes before it does is among the newest that it begins with.
    lab.says(&["location", "add", "ber1"]).await;
    let first = tokio::time::timeout(deadline, news.recv()).await.expect("in time");
    assert_eq!(first.as_deref(), Some("ber1"));

    lab.says(&["ca", "rotate"]).await;
    lab.says(&["ca", "finish"]).await;
    let Lab { data, server } = lab;
    let at = server.https.clone();
    server.stop().await;
    let loss = tokio::time::timeout(deadline, losses.recv()).await.expect("in time");
    assert!(loss.is_some_and(|loss| loss.contains("trying again")));
    let mut config = Config::with_data(data.path().to_owned());
    (config.listen.agents, config.listen.boot, config.listen.https) = (vec![], vec![], at);
    let lab = Lab { server: Server::start(config).await.expect("starts again"), data };
    lab.says(&["location", "add", "ber2"]).await;
    let second = tokio::time::timeout(deadline, news.recv()).await.expect("in time");
    assert_eq!(second.as_deref(), Some("ber2"), "nothing twice, nothing missing");
    follow.kill().and_then(|()| follow.wait()).expect("it ran");
    reader.join().and_then(|()| complainer.join()).expect("no panic");
    lab.server.stop().await;
}

/// A permit goes with the plan that was shown, and covers no disk that was not named.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_plan_destroys_is_permitted_by_name() {
    let lab = made_up::Lab::new().await;
    let id = lab.online("S1").await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let serving = tokio::spawn(axum::serve(listener, lab.router.clone()).into_future());
    let file = lab.files.path().join("disk.yaml");
    std::fs::write(&file, "storage:\n  disks:\n    - device: serial:D1\n      wipe_table: true\n").expect("written");
    let (file, machine) = (file.to_str().expect("UTF-8").to_owned(), id.to_string());
    let apply = |permit: &'static str| {
        let step =
            Step { action: "write a GPT".into(), impact: Impact::Destroys(vec!["serial:D1".parse().expect("an id")]) };
        lab.answers(Answer::Planned(Plan { steps: vec![step], notices: vec![], digest: Digest::of(b"plan") }));
        let arguments = ["apply", "-m", &machine, "-f", &file, "--no-wait", "--url", &url, "--token", &lab.operator];
        let arguments: Vec<String> = arguments.into_iter().chain(permit.split(' ')).map(str::to_owned).collect();
        let data = lab.files.path().to_owned();
        async move { run(&data, &arguments.iter().map(String::as_str).collect::<Vec<_>>()).await }
    };

    let unnamed = apply("--permit-destroy").await;
    let error = String::from_utf8_lossy(&unnamed.stderr).into_owned();
    assert!(unnamed.status.code() == Some(1) && error.contains("--permit-destroy=serial:D1"), "{error}");
    assert!(lab.fleet.state().desired.get(&id).is_none(), "nobody said yes");

    let other = apply("--permit-destroy=serial:D2").await;
    let error = String::from_utf8_lossy(&other.stderr).into_owned();
    assert!(other.status.code() == Some(1) && error.contains("serial:D1"), "{error}");
    assert!(lab.fleet.state().desired.get(&id).is_none());

    for permit in ["--permit-destroy --yes", "--permit-destroy=serial:D2,serial:D1"] {
        let output = apply(permit).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stderr).contains("DESTROYS what serial:D1 carries"));
        let state = lab.fleet.state();
        let permit = state.desired.get(&id).and_then(|desired| desired.permit.clone()).expect("it went along");
        assert_eq!((permit.plan, permit.disks.len()), (Digest::of(b"plan"), 1));
    }
    serving.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_reached_or_trusted_is_said_with_the_remedy() {
    let nowhere = tempfile::tempdir().expect("a temporary folder");
    let complains = |output: Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let missing = run(nowhere.path(), &["machine", "list"]).await;
    assert_eq!(missing.status.code(), Some(1));
    assert!(complains(missing).contains("muster serve"));
    let wrong = run(nowhere.path(), &["machine", "list", "--url", "ftp://x", "--token", "t"]).await;
    assert_eq!(wrong.status.code(), Some(2));

    let lab = Lab::new().await;
    let other_ca = Lab::new().await;
    let ca = other_ca.data.path().join("ca.crt");
    let distrusted = lab.refuses(1, &["machine", "list", "--ca", ca.to_str().expect("UTF-8")]).await;
    assert!(distrusted.contains("--ca"), "{distrusted}");
    let url = std::fs::read_to_string(lab.data.path().join("endpoint")).expect("written by the controller");
    lab.server.stop().await;
    let gone = lab.data.path().to_owned();
    let refused = run(&gone, &["machine", "list", "--url", url.trim()]).await;
    assert!(complains(refused).contains("is `muster serve` running?"));
    other_ca.server.stop().await;
}

#[tokio::test]
async fn wrong_usage_is_exit_code_2_and_names_what_is_meant() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (arguments, names) in [
        (&["machin"][..], "machine"),
        (&["machine"], "list"),
        (&["machine", "list", "--colour"], "--colour"),
        (&["machine", "list", "--output", "xml"], "xml"),
        (&["machine", "label", "m", "rack"], "KEY=VALUE"),
        (&["machine", "maintenance", "m", "maybe"], "maybe"),
        (&["machine", "drift", "m", "ignore"], "repair, report, default"),
        (&["apply", "-m", "m"], "--file"),
        (&["token", "create", "t", "--role", "king"], "king"),
        (&["iso", "build"], "--location"),
        (&["iso", "build", "--location", "Not A Code", "-o", "x.iso"], "Not A Code"),
        (&["iso", "build", "--location", "ber1", "-o", "x.iso", "--controller", "gopher://x"], "gopher"),
        (&["operation", "list", "--limit", "0"], "--limit"),
    ] {
        let output = run(folder.path(), arguments).await;
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(error.contains(names), "{arguments:?}: {error}");
    }
    for arguments in [&["--help"][..], &["--version"], &["apply", "--help"], &["iso", "build", "--help"]] {
        let output = run(folder.path(), arguments).await;
        assert!(output.status.success() && !output.stdout.is_empty(), "{arguments:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_whose_secrets_do_not_open_does_not_start_and_says_what_it_needs() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let folder = data.path().to_owned();
    std::fs::write(folder.join("muster.toml"), "[listen]\nagents = []\nhttps = []\nboot = []\n").expect("written");
    let serve = move |variables: &'static [(&'static str, &'static str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_muster"));
        command.arg("serve").arg("--config").arg(folder.join("muster.toml")).arg("--data").arg(folder.join("data"));
        command.envs(variables.iter().copied()).stderr(Stdio::piped());
        command.spawn().expect("the program starts")
    };
    let mut first = serve(&[("MUSTER_PASSPHRASE", "correct horse")]);
    let mut lines = std::io::BufReader::new(first.stderr.take().expect("piped")).lines();
    let ready = tokio::task::spawn_blocking(move || {
        let found = lines.any(|line| line.is_ok_and(|line| line.contains("ready")));
        first.kill().and_then(|()| first.wait()).expect("it ran");
        found
    });
    assert!(ready.await.expect("no panic"), "it starts with its passphrase");
    for (variables, says) in [
        (&[][..], "pki/ca.pem is encrypted; give its passphrase in MUSTER_PASSPHRASE"),
        (&[("MUSTER_PASSPHRASE", "wrong horse")], "does not open with the passphrase that MUSTER_PASSPHRASE gives"),
        (&[("MUSTER_PASSPHRASE_FILE", "/nowhere/passphrase")], "cannot read the passphrase from /nowhere/passphrase"),
    ] {
        let child = serve(variables);
        let output = tokio::task::spawn_blocking(move || child.wait_with_output()).await.expect("no panic");
        let output = output.expect("it ends");
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains(says) && !error.contains("horse"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn https_shows_a_new_certificate_at_the_next_handshake_and_commands_go_with_the_ca() {
    let lab = Lab::new().await;
    let old = lab.data.path().join("old.crt");
    std::fs::copy(lab.data.path().join("ca.crt"), &old).expect("copied");
    let by_old = ["status", "--ca", old.to_str().expect("UTF-8")];
    lab.says(&["ca", "rotate"]).await;
    lab.says(&["status"]).await;
    lab.says(&by_old).await;
    lab.says(&["ca", "finish"]).await;
    // The controller was not started again: whoever knows the new CA alone is served, and by the old one nobody is.
    assert!(lab.says(&["status"]).await.contains("CA:"));
    assert_eq!(lab.run(&by_old).await.status.code(), Some(1));
    assert!(!lab.says(&["ca", "show"]).await.contains("CA before"));
}
