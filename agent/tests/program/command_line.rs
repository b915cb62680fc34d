//! The binary as an ordinary process: what it prints and how it ends.

use std::process::{Command, Output};

const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn agent(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_muster-agent")).args(arguments).output().expect("the agent's binary runs")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

#[test]
fn help_and_version_are_printed() {
    let help = agent(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    for word in ["--controller", "--ca", "--ticket", "--manage", "--state", "Exit codes"] {
        assert!(text(&help.stdout).contains(word), "{word}");
    }
    let version = agent(&["--version"]);
    assert_eq!((version.status.code(), text(&version.stdout)), (Some(0), "muster-agent 0.1.0\n"));
}

#[test]
fn wrong_usage_is_2_and_names_the_parameter() {
    for (arguments, named) in [
        (&["--ca", HEX][..], "--controller: is missing"),
        (&["--controller", "c.example", "--ca", "12"], "--ca: \"12\" is not a SHA-256"),
        (&["--manage", "everything"], "--manage: \"everything\" is none of network, storage, power"),
        (&["reboot"], "reboot: is not known; see --help"),
    ] {
        let output = agent(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output.stderr).contains(named), "{}", text(&output.stderr));
    }
}

#[test]
fn without_certificate_and_ticket_it_fails_with_the_remedy() {
    let folder = tempfile::tempdir().expect("a folder");
    let state = folder.path().to_str().expect("a path");
    let output = agent(&["--controller", "127.0.0.1:9", "--ca", HEX, "--state", state]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("no --ticket to get one"), "{}", text(&output.stderr));
}
