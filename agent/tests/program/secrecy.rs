//! What the agent holds in memory leaves it by no other way than those that it is told.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use muster_agent::secrecy;
use rustix::process::{Pid, Signal, kill_process};

/// A process in a folder of its own that is allowed cores of any size.
fn started(program: &str, folder: &std::path::Path) -> Child {
    let command = format!("ulimit -S -c unlimited 2>/dev/null; cd {}; exec {program}", folder.display());
    Command::new("sh").args(["-c", &command]).stderr(Stdio::null()).spawn().expect("sh starts")
}

fn aborts(mut child: Child) -> bool {
    let pid = Pid::from_child(&child);
    kill_process(pid, Signal::ABORT).expect("it runs");
    child.wait().expect("it ends").core_dumped()
}

#[test]
fn an_agent_that_falls_leaves_no_core() {
    let folder = tempfile::tempdir().expect("a folder");
    // Waits on a controller that never answers.
    let ca = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let program = format!(
        "{} --controller 192.0.2.1:9 --ca {ca} --ticket 0123456789abcdef --state {}",
        env!("CARGO_BIN_EXE_muster-agent"),
        folder.path().join("state").display()
    );
    let mut agent = started(&program, folder.path());
    let limits = format!("/proc/{}/limits", agent.id());
    let is_none = |line: &str| line.split_whitespace().skip(4).take(2).eq(["0", "0"]);
    let says_none = |text: String| text.lines().any(|line| line.starts_with("Max core file size") && is_none(line));
    let end = Instant::now() + Duration::from_secs(60);
    while !fs::read_to_string(&limits).is_ok_and(&says_none) {
        assert!(Instant::now() < end, "it may leave a core");
        assert_eq!(agent.try_wait().expect("looked at"), None, "it ended before it said that it wants no core");
        std::thread::yield_now();
    }
    assert!(!aborts(agent));
    let left =
        fs::read_dir(folder.path()).expect("read").filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    assert!(left.into_iter().all(|name| !name.starts_with("core")));
}

#[test]
fn what_the_agent_holds_is_not_swapped_out() {
    assert!(rustix::process::getuid().is_root(), "who may lock memory is root");
    secrecy::forbid_swapping();
    let status = fs::read_to_string("/proc/self/status").expect("read");
    let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:")).expect("told");
    assert_ne!(locked.split_whitespace().next(), Some("0"), "{locked}");
}
