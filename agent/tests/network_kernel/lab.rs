//! Two network namespaces and a cable: the machine under test, and whoever it talks to.
//!
//! Needs root, iproute2 and dnsmasq; says so loudly where they are missing.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use muster_agent::linux::network::Network;
use muster_agent::options;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;

/// The machine's NIC is `eth0`, the other end of its cable `lan0`.
pub struct Lab {
    pub machine: String,
    pub peer: String,
    pub folder: tempfile::TempDir,
    servers: Vec<Child>,
}

/// The MAC of the machine's NIC.
pub const MAC: &str = "02:00:00:00:00:05";

static COUNT: AtomicU32 = AtomicU32::new(0);

impl Lab {
    /// Makes the namespaces, cable in, links down, and moves the calling thread onto the machine.
    pub fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "this test makes network namespaces: run it as root");
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = |role| format!("muster-{}-{number}-{role}", std::process::id());
        let lab = Self {
            machine: name("machine"),
            peer: name("peer"),
            folder: tempfile::tempdir().expect("a folder"),
            servers: Vec::new(),
        };
        for namespace in [&lab.machine, &lab.peer] {
            run(&format!("ip netns add {namespace}"));
            run(&format!("ip -n {namespace} link set lo up"));
        }
        run(&format!(
            "ip -n {} link add eth0 address {MAC} type veth peer name lan0 address 02:00:00:00:00:01 netns {}",
            lab.machine, lab.peer
        ));
        let namespace = File::open(format!("/run/netns/{}", lab.machine)).expect("the namespace");
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).expect("moved");
        lab
    }

    /// Runs `ip` on the machine.
    pub fn ip(&self, arguments: &str) -> String {
        run(&format!("ip -n {} {arguments}", self.machine))
    }

    /// Runs `ip` on the other side.
    pub fn peer_ip(&self, arguments: &str) -> String {
        run(&format!("ip -n {} {arguments}", self.peer))
    }

    /// What `ip -j` says on the machine.
    pub fn json(&self, arguments: &str) -> Vec<Value> {
        let text = self.ip(&format!("-j {arguments}"));
        serde_json::from_str(if text.trim().is_empty() { "[]" } else { &text }).expect("JSON of ip")
    }

    /// The machine as the agent has it.
    pub fn network(&self, lease: Option<options::Lease>) -> Network {
        Network::with_resolv_conf(lease, &self.resolv_conf()).expect("netlink")
    }

    pub fn resolv_conf(&self) -> PathBuf {
        self.folder.path().join("resolv.conf")
    }

    /// Starts dnsmasq on the other side; `options` are words without blanks in them.
    pub fn dnsmasq(&mut self, options: &str) {
        let folder = self.folder.path().display().to_string();
        let log = self.log();
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.peer, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0"])
            .args(["--interface=lan0", "--bind-dynamic", "--no-ping", "--log-dhcp", "--user=root"])
            .arg(format!("--log-facility={}", log.display()))
            .arg(format!("--dhcp-leasefile={folder}/leases"))
            .arg(format!("--pid-file={folder}/pid"))
            .args(options.split_whitespace())
            .stdout(Stdio::null());
        self.servers.push(command.spawn().expect("dnsmasq (package dnsmasq-base) starts"));
        eventually("dnsmasq serves", || read(&log).contains("started, version").then_some(()));
    }

    /// Ends all servers.
    pub fn stop_servers(&mut self) {
        for mut server in self.servers.drain(..) {
            let _ = server.kill();
            let _ = server.wait();
        }
        let _ = std::fs::remove_file(self.log());
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("dnsmasq.log")
    }

    /// How often dnsmasq's log has this.
    pub fn logged(&self, text: &str) -> usize {
        read(&self.log()).matches(text).count()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = Command::new("ip").args(["-n", &self.machine, "address"]).status();
            eprintln!("{}", read(&self.log()));
        }
        self.stop_servers();
        for namespace in [&self.machine, &self.peer] {
            let _ = Command::new("ip").args(["netns", "delete", namespace]).status();
        }
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Runs a command and returns what it prints; fails where it fails.
pub fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let program = words.next().expect("a program");
    let output = Command::new(program).args(words).output();
    let output = output.unwrap_or_else(|error| panic!("this test needs {program}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    text
}

/// Waits until something is there; fails after a minute, which an emulated machine beside others may need.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within 60 s: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
