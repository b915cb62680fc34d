//! BMCs of others' making: sushy-tools for Redfish and virtualbmc for IPMI, in front of a QEMU machine of libvirt's, switched
//! as a machine is that has no agent. `scripts/setup python` installs them, `scripts/bmc-lab` runs them.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use muster_controller::fleet::machine::controls::{self, BmcAddress, Switch, Trust};
use muster_controller::fleet::operation::switch;
use muster_controller::fleet::record::{OperationKind, OperationState};
use muster_controller::pki::Pki;
use muster_controller::power::http::shown;
use muster_protocol::{Digest, OperationId};
use serde_json::json;

use crate::site::{Site, cycle};

const SERVER: &str = "6516a1f2a6078e98982dbd92";

/// Tools that may be slow to answer, on a host that is busy.
const WITHIN: Duration = Duration::from_secs(60);

/// A machine behind two BMCs; gone when it is dropped.
struct Lab {
    work: tempfile::TempDir,
    redfish: u16,
    ipmi: u16,
    child: Child,
}

impl Lab {
    fn start() -> Self {
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
        let venv = top.join("build/python/venv");
        assert!(venv.join("installed").exists(), "run scripts/setup python first");
        let work = tempfile::tempdir().expect("a temporary folder");
        let tcp = || TcpListener::bind("127.0.0.1:0").and_then(|port| port.local_addr()).expect("a port").port();
        let ipmi = UdpSocket::bind("127.0.0.1:0").and_then(|port| port.local_addr()).expect("a port").port();
        let (redfish, control) = (tcp(), tcp());
        let mut child = Command::new("unshare")
            .args(["--user", "--map-user=1", "--map-group=1", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .arg(top.join("scripts/bmc-lab"))
            .args([&venv, work.path()])
            .args([redfish, ipmi, control].map(|port| port.to_string()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare is there");
        let mut line = String::new();
        let out = child.stdout.take().expect("piped");
        BufReader::new(out).read_line(&mut line).expect("it can be read");
        assert_eq!(line.trim(), "ready", "see what it wrote above");
        Self { work, redfish, ipmi, child }
    }

    /// What happened to the machine since the last look.
    fn events(&self, seen: &mut usize) -> Vec<String> {
        let text = fs::read_to_string(self.events_file()).unwrap_or_default();
        let all: Vec<String> = text.lines().map(str::to_owned).collect();
        let new = all[(*seen).min(all.len())..].to_vec();
        *seen = all.len();
        new
    }

    fn events_file(&self) -> PathBuf {
        self.work.path().join("events")
    }

    /// Waits until all of this has happened since the last look.
    async fn happens(&self, what: &[&str], seen: &mut usize) {
        let all = async {
            let mut since = Vec::new();
            loop {
                since.extend(self.events(seen));
                if what.iter().all(|what| since.iter().any(|event| event.contains(what))) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let in_time = tokio::time::timeout(WITHIN, all).await;
        assert!(in_time.is_ok(), "{what:?} never happened: {:?}", fs::read_to_string(self.events_file()));
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Its standard input ends with it, and with that all that it runs.
        drop(self.child.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sushy_tools_and_virtualbmc_switch_a_qemu_machine_that_has_no_agent() {
    let lab = Lab::start();
    let site = Site::with(1).await;
    let (id, machine) = (site.server(SERVER).await, site.machines[0]);
    site.leave(machine);
    let data = tempfile::tempdir().expect("a temporary folder");
    let pki = Arc::new(Pki::open(data.path()).expect("opens"));
    let running = tokio::spawn(switch::keep::keep(site.fleet.clone(), pki.clone(), switch::keep::carry()));
    let seal = pki.disks().expect("made");

    let url = format!("https://127.0.0.1:{}", lab.redfish);
    let fingerprint = Digest::of(&shown(&url).expect("it shows a certificate"));
    let redfish = |fingerprint, password: &'static str| {
        let trust = Trust::Pinned(fingerprint);
        (BmcAddress::Redfish { url: url.clone(), system: String::new(), trust }, password)
    };
    let ipmi = (BmcAddress::Ipmi { host: "127.0.0.1".into(), port: lab.ipmi }, "secret");
    let name = |(address, password): (BmcAddress, &'static str)| {
        let seal = seal.clone();
        site.change(move |draft| controls::set_bmc(draft, &seal, machine, address, "admin", password))
    };
    let switched = |action| site.change(move |draft| switch::ask(draft, machine, action).map(|begun| begun.id));
    let ended = async |operation: OperationId| {
        site.until(WITHIN, |state| {
            let operation = state.operations.get(&operation)?;
            operation.state.is_ended().then(|| (operation.state.clone(), operation.receipt.clone()))
        })
        .await
    };
    let done = async |operation: OperationId, part: &str| {
        let (state, receipt) = ended(operation).await;
        assert!(state == OperationState::Succeeded && receipt.contains(part), "{state:?}: {receipt}");
    };
    let failed = async |operation: OperationId, part: &str| match ended(operation).await.0 {
        OperationState::Failed { why } => assert!(why.contains(part) && !why.contains("hunter2"), "{why}"),
        other => panic!("{other:?}"),
    };
    let mut seen = 0;

    // Whoever is not the one that was named is told nothing, and a wrong password is not tried twice.
    name(redfish(Digest::from_bytes([7; 32]), "secret")).await;
    failed(switched(Switch::On).await, "another certificate").await;
    name(redfish(fingerprint, "hunter2")).await;
    failed(switched(Switch::On).await, "does not let admin in").await;
    assert!(!lab.events(&mut seen).iter().any(|event| event.contains("Started")));

    name(redfish(fingerprint, "secret")).await;
    done(switched(Switch::On).await, "On was accepted, and it is On").await;
    lab.happens(&["Started"], &mut seen).await;
    let act =
        json!({ "server_id": id, "hostname": "h", "model_id": "m", "location_id": "ber1", "cycle": cycle(SERVER) });
    assert_eq!(site.data("/v1/infrastructure/server/restart", act).await, json!(true));
    let restart = site.until(WITHIN, |state| {
        let restarts = |kind: &OperationKind| matches!(kind, OperationKind::Switch { action: Switch::Restart, .. });
        state.operations.iter().find(|operation| restarts(&operation.kind)).map(|operation| operation.id)
    });
    done(restart.await, "ForceRestart was accepted").await;
    lab.happens(&["Stopped", "Started"], &mut seen).await;
    done(switched(Switch::Off).await, "ForceOff was accepted, and it is Off").await;
    lab.happens(&["Stopped"], &mut seen).await;

    name(ipmi).await;
    done(switched(Switch::On).await, "power on was accepted, and it is on").await;
    lab.happens(&["Started"], &mut seen).await;
    done(switched(Switch::Restart).await, "power reset was accepted").await;
    lab.happens(&["event 'reboot'"], &mut seen).await;
    done(switched(Switch::Off).await, "power off was accepted, and it is off").await;
    lab.happens(&["Stopped"], &mut seen).await;
    running.abort();
}
