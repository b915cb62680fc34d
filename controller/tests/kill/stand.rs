//! A controller in a process of its own, with agents of simulated machines that dial it, killed and started at will.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use muster_agent::dial::Ended;
use muster_agent::keep::Keep;
use muster_agent::options::{self, Options, Pace, WhenRefused};
use muster_agent::sim::SimMachine;
use muster_controller::ial::check::caller::post;
use muster_controller::ial::check::calls::{MODELS, Place, wrapped};
use muster_controller::ial::check::door::{Ask, Door};
use muster_protocol::BootId;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const PORT: u16 = 8443;

/// See the module. Its machines are unplugged first.
pub struct Stand {
    machines: Option<Runtime>,
    is_over: Arc<AtomicBool>,
    child: Option<Child>,
    folder: TempDir,
    address: Ipv4Addr,
}

impl Stand {
    /// Starts one, with nothing in it.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        // An address of loopback that no other process uses: agents dial it again and again.
        let [.., high, low] = std::process::id().to_be_bytes();
        let address = Ipv4Addr::new(127, 66, high, low);
        let config = format!(
            "[listen]\nagents = \"{address}:{PORT}\"\nhttps = \"{address}:{PORT}\"\nboot = []\n\
             [https]\nnames = [\"{address}\"]\n"
        );
        std::fs::write(folder.path().join("muster.toml"), config).expect("written");
        let mut stand = Self { machines: None, is_over: Arc::default(), child: None, folder, address };
        stand.start_again();
        stand
    }

    /// Where everything durable is.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("killed");
        child.wait().expect("gone");
    }

    /// Starts it on what the last one left, and waits until it serves.
    pub fn start_again(&mut self) {
        let log =
            std::fs::File::options().create(true).append(true).open(self.folder.path().join("log")).expect("a log");
        let child = Command::new(env!("CARGO_BIN_EXE_muster"))
            .args(["serve", "--config"])
            .arg(self.folder.path().join("muster.toml"))
            .arg("--data")
            .arg(self.data())
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the program starts");
        self.child = Some(child);
        until("the controller serves", || {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().expect("looked at"));
            assert!(ended.is_none(), "it ended: {}", self.log());
            let door = self.door()?;
            // The last thing that a first start writes.
            std::fs::metadata(self.data().join("endpoint")).ok()?;
            door.ask(&Ask { method: "GET", path: "/v1".into(), ..Ask::default() }).ok()
        });
    }

    /// Starts it anew with this in its configuration, beside what is there.
    #[allow(dead_code, reason = "not every program of tests that starts one does")]
    pub fn configure(&mut self, more: &str) {
        let file = self.folder.path().join("muster.toml");
        let text = std::fs::read_to_string(&file).expect("written before");
        std::fs::write(file, text + more).expect("written");
        self.kill();
        self.start_again();
    }

    /// Where its HTTPS is.
    pub fn url(&self) -> String {
        format!("https://{}:{PORT}", self.address)
    }

    /// What it has said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Its HTTPS; `None` before it has made its CA.
    pub fn door(&self) -> Option<Door> {
        let ca = CertificateDer::from_pem_file(self.data().join("ca.crt")).ok()?;
        Door::new(&self.url(), vec![ca]).ok()
    }

    /// Runs `muster` as the operator on its host, and reads what it says in JSON.
    pub fn muster(&self, arguments: &[&str]) -> Value {
        let mut command = Command::new(env!("CARGO_BIN_EXE_muster"));
        let done = command.args(arguments).env("MUSTER_DATA", self.data()).output().expect("the program starts");
        let error = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{arguments:?}: {error}");
        serde_json::from_slice(&done.stdout).unwrap_or_default()
    }

    /// Asks its operator API; `None` where nobody answers.
    pub fn api(&self, method: &'static str, path: &str, body: &Value) -> Option<Value> {
        api(&self.door()?, &self.data(), method, path, body)
    }

    /// Makes a site of it, with machines that are in, all of one model, and a hub.
    pub fn prepare(&mut self, machines: u16) -> (Value, Place) {
        self.muster(&["location", "add", "ber1"]);
        let gateway = ["--gateway", "203.0.113.1", "--quarantine", "0s"];
        self.muster(&[&["subnet", "add", "203.0.113.0/26", "--location", "ber1"], &gateway[..]].concat());
        self.muster(&["policy", "create", "all", "--machines", "100", "--until", "1d", "--output", "json"]);
        let credential = self.muster(&["ial", "credential", "create", "acme", "--output", "json"]);
        let auth = json!({ "api_key": credential["key"], "secret": credential["secret"] });
        self.plug_in(machines);
        let door = self.door().expect("it serves");
        let model = until("every machine is in", || {
            let reply = door.ask(&post(MODELS, &wrapped(&auth, &Value::Null))).ok()?;
            let answer: Value = serde_json::from_slice(&reply.body).ok()?;
            let model = answer["data"]["models"][0].clone();
            let id = model["provider"]["model_id"].as_str()?;
            (answer["data"]["extra"]["available"][id]["ber1"] == machines).then_some(model)
        });
        (auth, Place { location: "ber1".into(), zone: Value::Null, model, configuration: json!({}) })
    }

    /// Plugs machines in, which boot whenever they are told to.
    pub fn plug_in(&mut self, count: u16) {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        for number in 1..=count {
            let machine = Arc::new(SimMachine::new(number));
            let (door, data, address) = (self.door().expect("it serves"), self.data(), self.address);
            let is_over = Arc::clone(&self.is_over);
            runtime.spawn(async move {
                // A key that outlives a reboot, as an agent that is a process has it: a machine without one is kept
                // waiting for a minute after a start of the controller, since others may claim to be it.
                let mut identity: Option<Vec<u8>> = None;
                for boot in 1_u8.. {
                    let (door, data, over) = (door.clone(), data.clone(), Arc::clone(&is_over));
                    let ticket = tokio::task::spawn_blocking(move || {
                        // As iPXE does: a controller that is away is asked again.
                        until("a ticket", || match over.load(Ordering::Relaxed) {
                            true => Some(None),
                            false => api(&door, &data, "POST", "/tickets", &json!({ "location": "ber1" })).map(Some),
                        })
                    });
                    let Ok(Some(ticket)) = ticket.await else { return };
                    let text = |key: &str| ticket[key].as_str().expect("a text").to_owned();
                    let line = format!(
                        "muster.controller={address}:{PORT} muster.ca={} muster.ticket={}",
                        text("ca"),
                        text("ticket")
                    );
                    let mut id = [boot; 16];
                    id[..2].copy_from_slice(&number.to_be_bytes());
                    let (options, _) = options::from_cmdline(&line, BootId::from_bytes(id)).expect("a boot script");
                    let first = Duration::from_millis(50);
                    let pace =
                        Pace { backoff_first: first, backoff_limit: 4 * first, boot_again: first, ..Pace::default() };
                    let keep = Keep::memory();
                    if let Some(identity) = identity.take() {
                        keep.write("identity", &identity).expect("in memory");
                    }
                    let options = Options { keep: keep.clone(), refused: WhenRefused::End, pace, ..options };
                    if let Ended::Power(_) = muster_agent::run(options, machine.clone()).await {
                        identity = keep.read("identity");
                    }
                }
            });
        }
        self.machines = Some(runtime);
    }

    /// Pulls every plug and kills the controller; answers with its database.
    pub fn end(&mut self) -> PathBuf {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(machines) = self.machines.take() {
            machines.shutdown_background();
        }
        self.kill();
        self.data().join("db")
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(machines) = self.machines.take() {
            machines.shutdown_background();
        }
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn api(door: &Door, data: &std::path::Path, method: &'static str, path: &str, body: &Value) -> Option<Value> {
    let token = std::fs::read_to_string(data.join("admin-token")).ok()?;
    let headers = format!("content-type: application/json\r\nauthorization: Bearer {}\r\n", token.trim());
    let body = (!body.is_null()).then(|| body.to_string().into_bytes());
    let reply = door.ask(&Ask { method, path: format!("/api/v1{path}"), headers, body }).ok()?;
    (reply.status < 300).then(|| serde_json::from_slice(&reply.body).expect("JSON"))
}

/// Looks until it is there, with a pause between two looks.
pub fn until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    every(Duration::from_millis(20), what, look)
}

/// The same with a pause of this length.
pub fn every<T>(pause: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = std::time::Instant::now() + Duration::from_secs(120);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(std::time::Instant::now() < deadline, "not in time: {what}");
        std::thread::park_timeout(pause);
    }
}
