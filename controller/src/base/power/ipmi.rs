//! IPMI 2.0 over LAN (RMCP+), by the program `ipmitool`.
//!
//! The password goes through a pipe: it is in no argument, no variable and no file. ipmitool agrees with the BMC on the best
//! cipher suite that both know (17, else 3); none without encryption is asked for.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{Action, Failure, Secret};

/// Where Debian puts it.
const PROGRAM: &str = "ipmitool";

/// Of one command: ipmitool itself gives up after four tries of three seconds.
const WITHIN: Duration = Duration::from_secs(30);

/// How long a machine may take to be on or off once it was told.
const SETTLES_WITHIN: Duration = Duration::from_secs(20);

/// Bytes of what it prints that are looked at.
const PRINTED: u64 = 4096;

/// Where a BMC is, and who asks it.
#[derive(Debug, Clone)]
pub struct Bmc {
    /// Name or address.
    pub host: String,
    /// UDP.
    pub port: u16,
    /// Who asks.
    pub user: String,
    /// With what.
    pub password: Secret,
}

/// Does it, and says how.
pub fn switch(bmc: &Bmc, action: Action) -> Result<String, Failure> {
    Tool { program: PROGRAM.into(), bmc, within: WITHIN }.switch(action)
}

struct Tool<'a> {
    program: PathBuf,
    bmc: &'a Bmc,
    within: Duration,
}

impl Tool<'_> {
    fn switch(&self, action: Action) -> Result<String, Failure> {
        // What it says here also shows that it lets us in, before anything is told.
        let is_on = self.is_on()?;
        let (word, wanted) = match (action, is_on) {
            (Action::On, true) => return Ok("it was on already".into()),
            (Action::Off, false) => return Ok("it was off already".into()),
            (Action::Off, true) => ("off", Some(false)),
            (Action::Restart, true) => ("reset", None),
            (Action::Cycle, true) => ("cycle", None),
            // What is off is neither reset nor cycled.
            (Action::On | Action::Restart | Action::Cycle, false) => ("on", Some(true)),
        };
        self.run(&["chassis", "power", word]).map_err(|failure| match failure {
            Failure::Untold(why) => Failure::Unknown(format!("told power {word}: {why}")),
            other => other,
        })?;
        match wanted {
            None => Ok(format!("power {word} was accepted")),
            Some(wanted) => self.settled(wanted).map(|()| format!("power {word} was accepted, and it is {word}")),
        }
    }

    fn is_on(&self) -> Result<bool, Failure> {
        let said = self.run(&["chassis", "power", "status"])?;
        if said.contains("Power is on") {
            Ok(true)
        } else if said.contains("Power is off") {
            Ok(false)
        } else {
            Err(Failure::Untold(format!("it does not say whether it is on: {}", short(&said))))
        }
    }

    fn settled(&self, wanted: bool) -> Result<(), Failure> {
        let until = Instant::now() + SETTLES_WITHIN;
        loop {
            match self.is_on() {
                Ok(is_on) if is_on == wanted => return Ok(()),
                _ if Instant::now() < until => std::thread::sleep(Duration::from_millis(500)),
                Ok(_) => return Err(Failure::Unknown("it accepted the command and did not change".into())),
                Err(why) => return Err(Failure::Unknown(format!("it accepted the command, and then: {why}"))),
            }
        }
    }

    /// Runs one command and answers what it printed.
    fn run(&self, command: &[&str]) -> Result<String, Failure> {
        let Bmc { host, port, user, password } = self.bmc;
        let mut tool = Command::new(&self.program);
        tool.args(["-I", "lanplus", "-H", host, "-p", &port.to_string(), "-U", user, "-L", "OPERATOR"]);
        tool.args(["-N", "3", "-R", "3", "-f", "/dev/stdin"]).args(command);
        tool.env("LC_ALL", "C").env_remove("IPMI_PASSWORD").env_remove("IPMITOOL_PASSWORD");
        tool.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = tool.spawn().map_err(|error| missing(&self.program, &error))?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that is gone already says why by itself.
            let _ = stdin.write_all(format!("{}\n", password.reveal()).as_bytes());
        }
        // It prints a line or two, which fit into a pipe.
        let until = Instant::now() + self.within;
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(20)),
                waited => {
                    let _ = child.kill();
                    let _ = child.wait();
                    let why = waited.err().map_or_else(|| "it did not answer in time".to_owned(), |e| e.to_string());
                    return Err(Failure::Untold(why));
                }
            }
        };
        let printed = |pipe: Option<&mut dyn Read>| {
            let mut bytes = Vec::new();
            if let Some(pipe) = pipe {
                let _ = pipe.take(PRINTED).read_to_end(&mut bytes);
            }
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let out = printed(child.stdout.as_mut().map(|pipe| pipe as &mut dyn Read));
        let err = printed(child.stderr.as_mut().map(|pipe| pipe as &mut dyn Read));
        if status.success() { Ok(out) } else { Err(failed(&err)) }
    }
}

fn missing(program: &Path, error: &std::io::Error) -> Failure {
    let name = program.display();
    Failure::Refused(match error.kind() {
        std::io::ErrorKind::NotFound => {
            format!("{name} is not installed on the controller's host: apt install ipmitool")
        }
        _ => format!("{name} cannot be run on the controller's host: {error}"),
    })
}

/// What ipmitool says of a failure. It says the same of a wrong password and of nobody there, for most BMCs answer neither.
fn failed(err: &str) -> Failure {
    let lower = err.to_ascii_lowercase();
    let wrong = ["unauthorized name", "hmac is invalid", "password verification", "insufficient privilege", "rakp 2"];
    if wrong.iter().any(|word| lower.contains(word)) {
        return Failure::Refused(format!("it lets nobody in with this user and password: {}", short(err)));
    }
    if lower.contains("invalid command") || lower.contains("command not supported") {
        return Failure::Refused(format!("it does not know the command: {}", short(err)));
    }
    if lower.contains("unable to establish") {
        let why = "no session: it cannot be reached, IPMI over LAN is off, or the user or the password is wrong";
        return Failure::Untold(why.into());
    }
    Failure::Untold(short(err))
}

fn short(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A program in ipmitool's place, of which `power` is the file with the state, and what it was run with.
    fn tool(body: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let program = folder.path().join("ipmitool");
        let at = folder.path().display();
        let text = format!(
            "#!/bin/sh\nread -r password\nfor last; do :; done\necho \"$* <$password>\" >> {at}/log\n\
             env | grep -c hunter2 >> {at}/env\n{body}\n"
        )
        .replace("STATE", &format!("{at}/state"));
        fs::write(&program, text).expect("written");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("a mode");
        fs::write(folder.path().join("state"), "on\n").expect("written");
        (folder, program)
    }

    const WORKS: &str =
        "case $last in status) echo \"Chassis Power is $(cat STATE)\";; on|off) echo $last > STATE;; esac";

    fn run(program: PathBuf, action: Action, within: Duration) -> Result<String, Failure> {
        let password = Secret::new("hunter2 $(x)");
        let bmc = Bmc { host: "10.0.9.8".into(), port: 623, user: "admin".into(), password };
        Tool { program, bmc: &bmc, within }.switch(action)
    }

    #[test]
    fn a_machine_is_switched_by_what_it_is_now_and_the_password_is_in_no_argument() {
        let (folder, program) = tool(WORKS);
        let asked = |action| run(program.clone(), action, WITHIN).expect("done");
        assert_eq!(asked(Action::Restart), "power reset was accepted");
        assert_eq!(asked(Action::On), "it was on already");
        assert_eq!(asked(Action::Off), "power off was accepted, and it is off");
        assert_eq!(asked(Action::Off), "it was off already");
        assert_eq!(asked(Action::Cycle), "power on was accepted, and it is on", "what is off is not cycled");
        let log = fs::read_to_string(folder.path().join("log")).expect("there");
        for line in log.lines() {
            let (arguments, password) = line.split_once(" <").expect("both");
            assert_eq!(password, "hunter2 $(x)>");
            assert!(
                arguments.starts_with("-I lanplus -H 10.0.9.8 -p 623 -U admin -L OPERATOR")
                    && !arguments.contains("hunter2")
            );
        }
        let environment = fs::read_to_string(folder.path().join("env")).expect("there");
        assert!(environment.lines().all(|count| count == "0"), "{environment}");
    }

    #[test]
    fn each_failure_says_whether_it_may_be_tried_again() {
        let error = |text: &str| format!("echo '{text}' >&2; exit 1");
        for (body, retried, part) in [
            (error("Error: Unable to establish IPMI v2 / RMCP+ session"), true, "cannot be reached"),
            (error("RAKP 2 message indicates an error : unauthorized name"), false, "this user and password"),
            ("echo 'Chassis Power is purple'".to_owned(), true, "purple"),
        ] {
            let (_folder, program) = tool(&body);
            let failure = run(program, Action::Restart, WITHIN).expect_err("it fails");
            assert_eq!(matches!(failure, Failure::Untold(_)), retried, "{failure:?}");
            assert!(failure.to_string().contains(part) && !failure.to_string().contains("hunter2"), "{failure}");
        }
        let (_folder, program) = tool(&format!("case $last in reset) exit 1;; esac\n{WORKS}"));
        assert!(matches!(run(program, Action::Restart, WITHIN), Err(Failure::Unknown(_))), "it may have been reset");
        let (_folder, program) = tool("exec sleep 60");
        let slow = run(program, Action::Restart, Duration::from_millis(200)).expect_err("too slow");
        assert_eq!(slow, Failure::Untold("it did not answer in time".into()));
        let missing = run("/nonexistent/ipmitool".into(), Action::On, WITHIN).expect_err("not there");
        assert!(matches!(&missing, Failure::Refused(why) if why.contains("apt install ipmitool")), "{missing:?}");
    }
}
