//! The OpenAPI documents, tried by schemathesis against a real controller with machines: requests that nobody thought of,
//! made of what the documents say. `scripts/setup python` installs it.
//!
//! The requests are the same each time; what they meet differs with what the machines are at.

use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use muster_controller::ial::check::caller::post;
use muster_controller::ial::check::calls::{ALLOCATE, PROVISION, Place, STATUS, Server, wrapped};
use muster_controller::ial::check::door::Ask;
use serde_json::{Value, json};

use crate::stand::{Stand, until};

/// What does not hold of the IAL, and why:
///
/// - `unsupported_method` wants 405: Cycle's errors know none, so that other verbs are answered as other paths are, 404.
///
/// Of the rest, these find nothing to try: `ignored_auth`, since credentials may be in the body as well, of which OpenAPI
/// knows nothing (`refused` tries those), `missing_required_header`, since none is required, and
/// `object_level_authorization`, which takes two hubs (`readings` has them).
const NOT_OF_THE_IAL: &str = "unsupported_method";

/// What does not hold of the operator API, and why:
///
/// - `positive_data_acceptance` and `negative_data_rejection`: texts have forms (names, prefixes, tags, times) and fields
///   depend on each other in ways that its description tells in words;
/// - `ignored_auth` asks without a token so often that it is answered with 429, and takes 401 and 403 alone.
const NOT_OF_THE_API: &str = "positive_data_acceptance,negative_data_rejection,ignored_auth";

/// One run of it.
#[derive(Clone, Copy)]
struct Run<'a> {
    /// A document: its URL or its file.
    document: &'a str,
    /// How many of its operations are tried.
    operations: usize,
    /// A header line that goes with each request.
    header: Option<&'a str>,
    /// What it is to take for values; see [`bindings`].
    bindings: &'a str,
    phases: &'a str,
    /// Requests of each operation that are made up.
    most: u8,
    /// Which operations, where it is not all of them.
    only: &'a [&'a str],
    /// Checks that are left out.
    not: &'a str,
}

impl Run<'_> {
    fn passes(&self, stand: &Stand, folder: &Path) {
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
        let venv = top.join("build/python/venv");
        assert!(venv.join("installed").exists(), "run scripts/setup python first");
        // A request of the right form may name what is not there, or be too long in bytes where its characters are few.
        let accepted =
            "[checks.positive_data_acceptance]\nexpected-statuses = [\"2xx\", 401, 403, 404, 409, 422, 429]\n";
        let config = folder.join("schemathesis.toml");
        std::fs::write(&config, format!("{accepted}{}", self.bindings)).expect("written");
        let mut command = Command::new(venv.join("bin/schemathesis"));
        command.arg("--config-file").arg(config).args(["run", self.document, "--url", &stand.url()]);
        command.arg("--tls-verify").arg(stand.data().join("ca.crt"));
        command.args(["--phases", self.phases, "--max-examples", &self.most.to_string(), "--exclude-checks", self.not]);
        command.args(["--generation-deterministic", "--continue-on-failure", "--no-color", "--warnings", "off"]);
        command.args(self.only).args(self.header.iter().flat_map(|header| ["--header", header]));
        command.current_dir(folder).stdin(Stdio::null()).env("NO_PROXY", "*").env("PYTHONDONTWRITEBYTECODE", "1");
        let done = command.output().expect("it is installed");
        let (said, error) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        println!("{said}");
        assert!(done.status.success(), "{}: {said}{error}", done.status);
        assert!(said.contains(&format!("Tested: {}\n", self.operations)), "{said}");
        let log = stand.log();
        assert!(!log.contains("panicked") && !log.contains("ERROR"), "{log}");
    }
}

/// Asks for a document.
fn published(stand: &Stand, path: &str) -> Value {
    let ask = Ask { method: "GET", path: path.into(), ..Ask::default() };
    let reply = stand.door().expect("it serves").ask(&ask).expect("it answers");
    assert_eq!((reply.status, reply.header("content-type")), (200, "application/json"));
    serde_json::from_slice(&reply.body).expect("JSON")
}

/// How many operations a document has, but for those whose paths have one of these in them.
fn operations(document: &Value, without: &[&str]) -> usize {
    let paths = document["paths"].as_object().expect("paths").iter();
    let tried = paths.filter(|(path, _)| !without.iter().any(|part| path.contains(part)));
    tried.map(|(_, item)| item.as_object().expect("verbs").len()).sum()
}

/// The document with examples in which everything is there.
fn with_examples(mut document: Value, auth: &Value, known: &[(&str, Value)]) -> Value {
    let paths = document["paths"].as_object_mut().expect("paths");
    for operation in paths.values_mut().flat_map(|item| item.as_object_mut().expect("verbs").values_mut()) {
        let example = &mut operation["requestBody"]["content"]["application/json"]["example"];
        example["auth"] = auth.clone();
        for (key, value) in known {
            if let Some(field) = example["request"].get_mut(key) {
                *field = value.clone();
            }
        }
    }
    document
}

/// That these values are taken for fields of these names, most of the time, or one that has more bytes than characters,
/// and that credentials are good.
fn bindings(auth: &Value, known: &[(&str, Value)]) -> String {
    let (mut dictionaries, mut parameters) = (String::from("[dictionaries]\n"), String::from("[parameters]\n"));
    let long = json!("\u{e9}\u{1f980}\u{e9}");
    let credentials = ["api_key", "secret"].map(|key| ("auth", key, vec![&auth[key]], 1.0));
    let fields = known.iter().map(|(key, value)| ("request", *key, vec![value, &long], 0.8));
    for (object, key, values, probability) in credentials.into_iter().chain(fields) {
        dictionaries += &format!("{key} = {{ values = {} }}\n", json!(values));
        parameters +=
            &format!("\"body.{object}.{key}\" = {{ dictionary = \"{key}\", probability = {probability:?} }}\n");
    }
    dictionaries + &parameters
}

/// A server that is ready, and an address of its, by the names that requests have for them.
fn known(stand: &Stand, auth: &Value, place: &Place) -> Vec<(&'static str, Value)> {
    let door = stand.door().expect("it serves");
    let ask = |path: &'static str, request: &Value| -> Value {
        let reply = door.ask(&post(path, &wrapped(auth, request))).expect("it answers");
        serde_json::from_slice::<Value>(&reply.body).expect("an answer is JSON")["data"].clone()
    };
    let order = place.order("6516a1f2a6078e98982dbd01");
    let id = ask(PROVISION, &order)["server_id"].as_str().expect("an id").to_owned();
    let server = Server { order, id: id.clone(), extra: Value::Null };
    until("the server is ready", || (ask(STATUS, &json!({ "server_id": id }))["provisioned"] == true).then_some(()));
    let address = ask(ALLOCATE, &server.allocate("ipv4", &json!("6516b3a4a6078e98982dbd01")));
    let mut known =
        vec![("server_id", json!(id)), ("model_id", json!(place.model_id())), ("location_id", json!(place.location))];
    known.extend(["ip_id", "ip_assignment_id", "cidr"].map(|key| (key, address[key].clone())));
    known
}

#[test]
fn schemathesis_finds_no_fault_of_the_server_and_nothing_untrue_in_its_descriptions() {
    let mut stand = Stand::start();
    let (auth, place) = stand.prepare(3);
    let known = known(&stand, &auth, &place);
    let bindings = bindings(&auth, &known);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("openapi.json");
    let written = |stand: &Stand| {
        let document = with_examples(published(stand, "/v1/openapi.json"), &auth, &known);
        std::fs::write(&file, document.to_string()).expect("written");
        operations(&document, &[])
    };

    // As a stranger, by the document as it is published.
    let url = format!("{}/v1/openapi.json", stand.url());
    let operations_of_the_ial = written(&stand);
    let stranger = Run {
        document: &url,
        operations: operations_of_the_ial,
        header: None,
        bindings: "",
        phases: "examples,fuzzing",
        most: 2,
        only: &[],
        not: NOT_OF_THE_IAL,
    };
    stranger.passes(&stand, folder.path());

    // As a hub, whose requests are about what is there: each limit of each field, and one call after the other.
    let document = file.to_str().expect("UTF-8");
    let text = |key: &str| auth[key].as_str().expect("a text");
    // Half of the bodies that are made up have no `auth`.
    let pair = BASE64.encode(format!("{}:{}", text("api_key"), text("secret")));
    let basic = format!("Authorization: Basic {pair}");
    let hub = Run { document, header: Some(&basic), bindings: &bindings, phases: "coverage,stateful", ..stranger };
    hub.passes(&stand, folder.path());
    // The same in the other envelope, with values that nobody thinks of; one path and verb of each call is enough.
    stand.configure("[ial]\nenvelope = \"superset\"\n");
    assert_eq!(written(&stand), operations_of_the_ial);
    let only = ["--include-method", "POST", "--exclude-path-regex", "provision-check|infrastructure/location"];
    Run { phases: "examples,fuzzing", most: 20, operations: 10, only: &only, ..hub }.passes(&stand, folder.path());

    // As an operator, but for what would ask whoever a request names.
    let token = std::fs::read_to_string(stand.data().join("admin-token")).expect("made at the first start");
    let outside = ["/bmc", "/outlet"];
    let api = Run {
        document: &format!("{}/api/v1/openapi.json", stand.url()),
        operations: operations(&published(&stand, "/api/v1/openapi.json"), &outside),
        header: Some(&format!("Authorization: Bearer {}", token.trim())),
        bindings: "",
        phases: "fuzzing",
        most: 2,
        only: &["--exclude-path-regex", &outside.join("|")],
        not: NOT_OF_THE_API,
    };
    api.passes(&stand, folder.path());
}
