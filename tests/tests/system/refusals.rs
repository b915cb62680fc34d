//! Bad input at every door: a clear answer that names what is wrong, nothing changed, nothing lost.

use anyhow::{Context, Result, ensure};
use muster_agent::identity;
use muster_protocol::enroll::{self, Identity, Leave, Ticket};
use muster_protocol::frame;
use muster_protocol::{ALPN_ENROLL, ALPN_SESSION, close};
use muster_tests::child::Process;
use muster_tests::controller::Controller;
use muster_tests::cycle::Cycle;
use muster_tests::http::{Http, Reply};
use muster_tests::lab::{LOCATION, SOON, text};
use muster_tests::peer::{self, Peer};
use muster_tests::{eventually, namespace, scratch};
use serde_json::{Value, json};

/// A controller with one location and no machines, in a namespace of its own.
fn controller(name: &str) -> Result<Controller> {
    namespace::enter()?;
    let controller = Controller::start(&scratch::scratch(name)?, "")?;
    controller.muster(&["location", "add", LOCATION, "--name", "The lab"])?;
    Ok(controller)
}

/// Everything that a request could have changed.
fn everything(controller: &Controller) -> Result<Vec<Value>> {
    let api = controller.api()?;
    ["machines", "locations", "operations", "subnets"].iter().map(|what| api.get(&format!("/api/v1/{what}"))).collect()
}

#[test]
fn the_agents_port_refuses_what_is_not_the_protocol_and_serves_on() -> Result<()> {
    let controller = controller("refusals-agents")?;
    let (address, ca) = (controller.agents(), controller.ca_pem()?);
    let before = everything(&controller)?;

    // Not QUIC at all: every length, bytes that a long header could begin with.
    peer::throw(address, (0..1500).map(|length| vec![0xc3; length]))?;
    peer::throw(address, (0..1500).map(|n| (0..n).map(|i| (i * 31 + n) as u8).collect()))?;

    // QUIC, and nobody we know.
    ensure!(Peer::connect(address, &ca, b"h3").is_err(), "another protocol is refused in the handshake");
    // TLS 1.3 tells a client only after its handshake that its certificate was missed.
    let heard = Peer::connect(address, &ca, ALPN_SESSION).and_then(|peer| peer.say(b"\0\0\0\0"));
    ensure!(heard.is_err(), "a session needs a certificate: {heard:?}");

    // The enrollment's own protocol, badly: a length beyond every limit, no message, something left over, half a frame.
    let csr = identity::signing_request(&identity::new_key()?)?;
    let request =
        enroll::Request { leave: Leave::Ticket(Ticket::from_bytes([7; 32])), csr, identity: Identity::default() };
    let good = frame::encode(&request)?;
    let mut left_over = good.clone();
    left_over[..frame::HEADER].copy_from_slice(&(good.len() as u32 - 3).to_be_bytes());
    left_over.push(0);
    for (what, bytes) in [
        ("a length over the limit", vec![0xff; 64]),
        ("no message", b"\0\0\0\x04\xff\xff\xff\xff".to_vec()),
        ("something left over", left_over),
        ("half a frame", good[..good.len() / 2].to_vec()),
    ] {
        let peer = Peer::connect(address, &ca, ALPN_ENROLL)?;
        ensure!(peer.say(&bytes).is_err(), "{what} is no question");
        let (code, reason) = peer.closed().with_context(|| what.to_owned())?;
        ensure!(code == u64::from(close::PROTOCOL) && !reason.is_empty(), "{what}: closed with {code} {reason:?}");
    }
    // Well said, and refused.
    let no_csr = enroll::Request { csr: vec![0x30, 0x00], ..request.clone() };
    for (request, why) in [(no_csr, enroll::Refusal::BadRequest), (request, enroll::Refusal::TicketUnknown)] {
        let answer: enroll::Answer = Peer::connect(address, &ca, ALPN_ENROLL)?.ask(&request)?;
        ensure!(answer == enroll::Answer::Refused(why), "{answer:?}");
    }

    ensure!(everything(&controller)? == before, "nothing changed");
    Ok(())
}

#[test]
fn the_operator_api_names_what_is_wrong_and_changes_nothing() -> Result<()> {
    let controller = controller("refusals-api")?;
    let (api, anonymous) = (controller.api()?, controller.anonymous()?);
    let before = everything(&controller)?;
    let send = |method: &str, path: &str, body: &str| {
        api.send(method, &format!("/api/v1/{path}"), &[("content-type", "application/json")], Some(body.as_bytes()))
    };
    let deep = format!("{{\"name\": {}{}}}", "[".repeat(2000), "]".repeat(2000));
    let long = format!("{{\"name\": \"{}\"}}", "x".repeat(2 << 20));
    for (method, path, body, status, code, names) in [
        ("PUT", "locations/ber1", "{\"name\": ", 400, "malformed", "body"),
        ("PUT", "locations/ber1", "\u{0}\u{1}", 400, "malformed", "body"),
        ("PUT", "locations/ber1", deep.as_str(), 400, "malformed", "body"),
        ("PUT", "locations/ber1", long.as_str(), 413, "too-large", "body"),
        ("PUT", "locations/ber1", "{\"name\": 7}", 422, "invalid", "name"),
        ("PUT", "locations/ber1", "{\"nmae\": \"Berlin\"}", 422, "invalid", "nmae"),
        ("PUT", "locations/BER%201", "{\"name\": \"Berlin\"}", 422, "invalid", "code"),
        ("DELETE", "locations/nowhere", "", 404, "not-found", "location"),
        ("POST", "machines/nobody/approve", "{}", 404, "not-found", "machine"),
        ("POST", "machines/nobody/power", "{\"action\": \"explode\"}", 422, "invalid", "action"),
        ("POST", "machines/nobody/power", "{\"action\": \"off\"}", 404, "not-found", "machine"),
        ("POST", "machines/nobody/apply", "{\"document\": \"network: {}\"}", 404, "not-found", "machine"),
        ("GET", "machines?limit=many", "", 422, "invalid", "limit"),
        ("GET", "machines?colour=red", "", 400, "malformed", "colour"),
        ("GET", "nothing/like/this", "", 404, "not-found", ""),
        ("DELETE", "machines", "", 405, "method-not-allowed", ""),
        ("POST", "operations/00000000-0000-0000-0000-000000000000/cancel", "{}", 404, "not-found", "operation"),
    ] {
        check_problem(&send(method, path, body)?, status, code, names)
            .with_context(|| format!("{method} {path} {}", &body[..body.len().min(60)]))?;
    }
    let as_text = api.send("PUT", "/api/v1/locations/ber1", &[("content-type", "text/plain")], Some(b"{}"))?;
    check_problem(&as_text, 415, "unsupported-media-type", "Content-Type")?;

    // Without a token, with a wrong one, and with one that may only look.
    let location = json!({ "name": "Berlin" });
    let viewer =
        text(&controller.muster_json(&["token", "create", "looks", "--role", "viewer"])?, "/token")?.to_owned();
    for (who, status, code) in [
        (anonymous.clone(), 401, "unauthenticated"),
        (anonymous.with_token("muster_00000000_0"), 401, "unauthenticated"),
        (anonymous.with_token(&viewer), 403, "forbidden"),
    ] {
        check_problem(&who.json("PUT", "/api/v1/locations/ber1", &location)?, status, code, "")?;
    }
    ensure!(everything(&controller)? == before, "nothing changed");
    Ok(())
}

/// A problem document (RFC 9457) with this status, code and field, and a text for people.
fn check_problem(reply: &Reply, status: u16, code: &str, names: &str) -> Result<()> {
    ensure!(reply.status == status, "the status is {} and not {status}: {}", reply.status, reply.text());
    ensure!(reply.header("content-type").starts_with("application/problem+json"), "{:?}", reply.headers);
    let problem = reply.value()?;
    ensure!(problem["code"] == code && problem["status"] == status, "{problem}");
    ensure!(text(&problem, "/detail")?.len() > 8, "it says something: {problem}");
    let named = text(&problem, "/field")?;
    ensure!(names.is_empty() || named.contains(names), "it names {named:?} and not {names:?}: {problem}");
    Ok(())
}

#[test]
fn the_ial_answers_bad_requests_in_its_envelope_and_changes_nothing() -> Result<()> {
    let controller = controller("refusals-ial")?;
    let credential = controller.muster_json(&["ial", "credential", "create", "cycle"])?;
    let (key, secret) = (text(&credential, "/key")?, text(&credential, "/secret")?);
    let http = controller.anonymous()?;
    let cycle = Cycle::new(http.clone(), key, secret);
    let before = everything(&controller)?;

    let server = "/v1/infrastructure/server";
    let whole = json!({
        "hostname": "a.example.net", "model_id": "none", "location_id": LOCATION, "zone_id": null,
        "model_features": null, "provision_options": null, "location_configuration": null,
        "cycle": { "server_id": "6516a1f2a6078e98982dbd92" },
    });
    let with = |key: &str, value: Value| {
        let mut request = whole.clone();
        request[key] = value;
        request
    };
    for (path, request, status, source) in [
        (format!("{server}/provision"), Value::Null, 422, ""),
        (format!("{server}/provision"), with("model_id", json!(7)), 400, "model_id"),
        (format!("{server}/provision"), with("model_id", Value::Null), 422, "model_id"),
        (format!("{server}/provision"), whole.clone(), 404, "model_id"),
        (format!("{server}/provision"), with("location_id", json!("nowhere")), 404, "location_id"),
        (format!("{server}/provision-status"), json!({ "server_id": "nobody" }), 404, "server_id"),
        (format!("{server}/restart"), json!({ "server_id": "nobody" }), 404, "server_id"),
        ("/v1/location/configure".into(), json!({ "location_id": "nowhere" }), 404, "location_id"),
        ("/v1/infrastructure/ip/allocate".into(), json!({ "kind": "ipv9", "server_id": "nobody" }), 422, "kind"),
        ("/v1/nothing/like/this".into(), Value::Null, 404, ""),
    ] {
        check_error(&cycle.send("POST", &path, &request)?, status, source)
            .with_context(|| format!("{path} {request}"))?;
    }
    let raw = |body: &[u8]| http.send("POST", &format!("{server}/provision"), &[], Some(body));
    check_error(&raw(b"{\"auth\":")?, 400, "")?;
    check_error(&raw(&[0xff; 100])?, 400, "")?;
    check_error(&raw("[".repeat(100_000).as_bytes())?, 400, "")?;
    check_error(&raw(&vec![b' '; 256 << 10])?, 400, "")?;

    // Credentials: a wrong secret, a wrong key, none.
    ensure!(!Cycle::new(http.clone(), key, "wrong").verify()?, "a wrong secret is no credential");
    ensure!(!Cycle::new(http.clone(), "ial_wrong", secret).verify()?, "a wrong key is no credential");
    for stranger in [Cycle::new(http.clone(), key, "wrong"), Cycle::new(http.clone(), "", "")] {
        check_error(&stranger.send("POST", &format!("{server}/provision"), &whole)?, 401, "")?;
    }
    // What is gone or never was is given back gladly: a failing delete would be asked for ever.
    ensure!(cycle.call("POST", &format!("{server}/decommission"), &json!({ "server_id": "nobody" }))? == json!(true));

    ensure!(everything(&controller)? == before, "nothing changed");
    Ok(())
}

/// Cycle's error: in the envelope, with the status twice, a code that begins with it, and where it is.
fn check_error(reply: &Reply, status: u16, source: &str) -> Result<()> {
    let answer = reply.value()?;
    let error = &answer["error"];
    ensure!(reply.status == status, "the status is {} and not {status}: {answer}", reply.status);
    ensure!(answer.get("data") == Some(&Value::Null) && error["status"] == status, "{answer}");
    ensure!(text(error, "/code")?.starts_with(&format!("{status}.")), "{answer}");
    ensure!(text(error, "/title")?.len() > 5, "{answer}");
    ensure!(source.is_empty() || text(error, "/source")?.contains(source), "it names {source:?}: {answer}");
    Ok(())
}

#[test]
fn a_boot_request_with_nonsense_in_it_is_told_so_changes_nothing_and_fills_no_log() -> Result<()> {
    let controller = controller("refusals-boot")?;
    let before = everything(&controller)?;
    let boot: Http = controller.boot();
    let plain = |path: &str| boot.send("GET", path, &[], None);
    for path in ["/boot/script?uuid=%ff%fe&macs=zz", "/boot/script?location=..%2f..%2fetc", "/boot/script?uuid="] {
        let reply = plain(path)?;
        ensure!(reply.status < 500, "{path}: {} {}", reply.status, reply.text());
        ensure!(!reply.text().contains("muster.ticket="), "no ticket for nobody: {path}: {}", reply.text());
    }
    for path in ["/boot/../../etc/passwd", "/boot/%2e%2e/%2e%2e/etc/passwd", "/api/v1/machines", "/v1/auth/verify"] {
        ensure!(plain(path)?.status == 404, "{path} is nothing that this port serves");
    }
    for _ in 0..200 {
        plain("/boot/script?uuid=7")?;
    }
    let lines = controller.log()?.lines().filter(|line| line.contains("boot script refused")).count();
    ensure!((1..100).contains(&lines), "{lines} lines in the log");
    ensure!(everything(&controller)? == before, "nothing changed");
    Ok(())
}

#[test]
fn the_controller_may_have_as_many_files_open_as_the_system_lets_it() -> Result<()> {
    let folder = scratch::scratch("refusals-files")?;
    std::fs::write(folder.join("muster.toml"), "[listen]\nagents = []\nhttps = []\nboot = []\n")?;
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "ulimit -Sn 256 && exec \"$0\" serve --config \"$1/muster.toml\" --data \"$1/data\""]);
    command.arg(muster_tests::artifacts::muster()?).arg(&folder);
    let process = Process::start("muster serve", &mut command, &folder.join("controller.log"))?;
    eventually(SOON, "its limit is the highest", || {
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", process.id()))?;
        let line = limits.lines().find(|line| line.starts_with("Max open files")).context("there is one")?;
        let [soft, hard] = [0, 1].map(|n| line["Max open files".len()..].split_whitespace().nth(n).map(str::to_owned));
        ensure!(soft == hard && soft.as_deref() != Some("256"), "{line}");
        Ok(())
    })
}

#[test]
fn a_wrong_configuration_names_its_line_and_starts_nothing() -> Result<()> {
    let folder = scratch::scratch("refusals-config")?;
    for (config, names) in [
        ("[listen]\nhtps = \"[::]:8443\"\n", ["line 2", "https"]),
        ("data = 7\n", ["line 1", "data"]),
        ("[listen]\nboot = \"nowhere\"\n", ["line 2", "boot"]),
        ("[agents]\nconfirm_within = \"1h\"\n", ["line 2", "confirm_within"]),
        ("[listen\n", ["line 1", "muster.toml"]),
    ] {
        let file = folder.join("muster.toml");
        std::fs::write(&file, config)?;
        let said = refused(
            std::process::Command::new(muster_tests::artifacts::muster()?)
                .arg("serve")
                .arg("--config")
                .arg(&file)
                .arg("--data")
                .arg(folder.join("data")),
        )?;
        ensure!(names.iter().all(|name| said.contains(name)), "{config:?}: {said}");
        ensure!(!folder.join("data").exists(), "{config:?}: nothing was made");
    }
    Ok(())
}

#[test]
fn the_iso_command_names_what_is_wrong_and_leaves_no_file() -> Result<()> {
    let controller = controller("refusals-iso")?;
    let iso = controller.data().join("bad.iso");
    let output = iso.to_str().context("the path is UTF-8")?;
    for (arguments, names) in [
        (vec!["--location", "Not A Code", "--controller", "10.0.2.2", "--output", output], "Not A Code"),
        (vec!["--location", LOCATION, "--controller", "10.0.2.2:0", "--output", output], "10.0.2.2:0"),
        (vec!["--location", LOCATION, "--controller", "gopher://x", "--output", output], "gopher"),
        (
            vec!["--location", LOCATION, "--controller", "10.0.2.2", "--output", "/no/such/folder/x.iso"],
            "/no/such/folder",
        ),
        (vec!["--output", output], "--location"),
        (vec!["--location", LOCATION, "--colour", "red"], "--colour"),
    ] {
        let said = refused(&mut controller.command(&[&["iso", "build"], &arguments[..]].concat())?)?;
        ensure!(said.contains(names), "{arguments:?}: {said}");
        ensure!(!iso.exists(), "{arguments:?}: no file is left");
    }
    // One that its controller does not take note of takes nobody's place.
    let good = ["iso", "build", "--location", LOCATION, "--controller", "10.0.2.2", "--output", output];
    controller.muster(&good)?;
    let before = (std::fs::read(&iso)?, std::fs::read(iso.with_extension("iso.json"))?);
    let made = controller.muster_json(&["token", "create", "looks", "--role", "viewer"])?;
    let said = refused(controller.command(&good)?.env("MUSTER_TOKEN", text(&made, "/token")?))?;
    ensure!(said.contains("operator"), "{said}");
    ensure!((std::fs::read(&iso)?, std::fs::read(iso.with_extension("iso.json"))?) == before, "it is there still");
    ensure!(!iso.with_extension("iso.new").exists(), "and nothing is left beside it");
    Ok(())
}

/// What a command says when it refuses; exit code 1 or 2.
fn refused(command: &mut std::process::Command) -> Result<String> {
    let done = command.output()?;
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    ensure!(matches!(done.status.code(), Some(1 | 2)), "it ends with {} {said}", done.status);
    ensure!(!said.contains("panicked"), "{said}");
    Ok(said)
}
