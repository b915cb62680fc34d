//! What people read who stand in front of the machine: one page, on every console, written anew at each change.
//!
//! Run by PID 1's worker beside the agent. [`page`] is pure; [`show`] writes. Nobody types here.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;

use muster_protocol::hello::{Awaits, Progress};
use muster_protocol::inventory::{Carrier, LinkKind};
use muster_protocol::to_controller::Work;
use rustix::fs::OFlags;

use crate::agent::{Agent, Contact, Status};
use crate::outbox::Outbox;

/// Clears a screen, and keeps it from going dark (console_codes(4)).
const CLEAR: &str = "\x1b[9;0]\x1b[2J\x1b[H";

/// Of a screen in text mode, less one: some begin a new line by themselves in the last.
const COLUMNS: usize = 79;

/// Keeps the consoles up to date, for ever.
pub async fn show(agent: &Agent) {
    let controllers: Vec<String> = agent.options.controllers.iter().map(ToString::to_string).collect();
    let controllers = controllers.join(", ");
    let (mut status, mut outbox) = (agent.status.subscribe(), agent.outbox.subscribe());
    let mut shown = String::new();
    loop {
        let page = page(&status.borrow_and_update(), &outbox.borrow_and_update(), &controllers);
        if page != shown {
            write(&page);
            shown = page;
        }
        // Both are cancel-safe: a change that is not taken here is seen in the next round.
        let lives = tokio::select! {
            changed = status.changed() => changed.is_ok(),
            changed = outbox.changed() => changed.is_ok(),
        };
        if !lives {
            return;
        }
    }
}

/// Shows one message: for what keeps the agent from starting.
pub fn show_trouble(trouble: &str) {
    let status = Status { trouble: trouble.to_owned(), ..Status::default() };
    write(&page(&status, &Outbox::default(), "none"));
}

/// The page. `controllers` is what the boot script gave.
pub fn page(status: &Status, outbox: &Outbox, controllers: &str) -> String {
    let mut page = format!("\nMuster {}", env!("CARGO_PKG_VERSION"));
    if !status.name.is_empty() {
        let _ = write!(page, "   {}", status.name);
    }
    page.push('\n');
    let mut line = |name: &str, text: &str| add(&mut page, name, text);
    let state = match &status.contact {
        Contact::Starting => "starting".to_owned(),
        Contact::Enrolling => "asking the controller for a certificate".to_owned(),
        Contact::Dialing => "looking for the controller".to_owned(),
        Contact::Pending { awaits: Awaits::Approval, .. } => "waiting for approval".to_owned(),
        Contact::Pending { awaits: Awaits::Resolution, .. } => "looks like a machine that is known".to_owned(),
        Contact::Online => "online".to_owned(),
    };
    line("State", &state);
    if let Contact::Pending { claim, awaits } = &status.contact {
        line("Claim code", claim);
        match awaits {
            Awaits::Approval => line("To approve", &format!("muster machine approve {claim}")),
            Awaits::Resolution => {
                line("To decide", &format!("muster machine resolve {claim} --separate, or --same-as MACHINE"));
            }
        }
    }
    if let Some(machine) = &status.machine {
        line("Machine", &machine.to_string());
    }
    line("Controller", if status.controller.is_empty() { controllers } else { &status.controller });
    if let Some((inventory, _)) = &outbox.inventory {
        let system = &inventory.system;
        let words = [&system.vendor, &system.product, &system.serial].map(String::as_str);
        line("Hardware", words.join(" ").trim());
        for nic in &inventory.nics {
            // Every link has a link-local address (RFC 4291, section 2.5.6), and nobody is looked for by it.
            let mut addresses = nic.addresses.iter().filter(|net| !is_link_local(net.addr())).map(ToString::to_string);
            let port = nic.port_of.as_ref().map(|of| format!("port of {of}"));
            let state = match nic.carrier {
                Carrier::Absent => "no carrier".to_owned(),
                Carrier::Present => addresses.next().or(port).unwrap_or_else(|| "no address".to_owned()),
            };
            line(&nic.name, &format!("{} {state}", nic.mac));
            // Each below the first: a screen has 80 columns.
            addresses.for_each(|address| line("", &format!("{:17} {address}", "")));
        }
        // What stands on them, where somebody may look for the machine by it.
        for link in &inventory.links {
            let what = match &link.kind {
                LinkKind::Vlan { tag, parent } => format!("VLAN {} on {parent}", tag.get()),
                LinkKind::Bond => "bond".to_owned(),
                LinkKind::Bridge => "bridge".to_owned(),
            };
            let addresses = link.addresses.iter().filter(|net| !is_link_local(net.addr()));
            for (n, address) in addresses.enumerate() {
                let (name, what) = if n == 0 { (&*link.name, &*what) } else { ("", "") };
                line(name, &format!("{what:17} {address}"));
            }
        }
    }
    match &outbox.progress {
        Progress::Idle => {}
        // Without the percentage: a page for each would flood a serial line.
        Progress::Applying { generation, step, .. } => line("Applying", &format!("generation {generation}: {step}")),
        Progress::Confirmed { generation } => line("In force", &format!("generation {generation}")),
        Progress::Refused { generation, why } => line("Refused", &format!("generation {generation}: {why}")),
        Progress::Reverted { generation, why, .. } => line("Reverted", &format!("generation {generation}: {why}")),
        Progress::RevertFailed { generation, why, .. } => {
            line("Broken", &format!("generation {generation} failed and could not be undone: {why}"));
        }
    }
    for work in outbox.works() {
        match work {
            Work::Running { step, .. } => line("Working", step),
            Work::Done { receipts } => match receipts.len() {
                1 => line("Wiped", "1 disk"),
                count => line("Wiped", &format!("{count} disks")),
            },
            Work::Failed { why } => line("Failed", why),
        }
    }
    if !status.trouble.is_empty() {
        line("Trouble", &status.trouble);
    }
    page
}

/// Adds a line, or as many as its words take.
fn add(page: &mut String, name: &str, text: &str) {
    let mut line = format!("  {name:<12}");
    let mut begins = true;
    for word in text.split(' ') {
        if !begins && line.chars().count() + 1 + word.chars().count() > COLUMNS {
            page.push_str(&line);
            page.push('\n');
            line = " ".repeat(14);
            begins = true;
        }
        if !begins {
            line.push(' ');
        }
        line.push_str(word);
        begins = false;
    }
    page.push_str(line.trim_end());
    page.push('\n');
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

fn write(page: &str) {
    let active = fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
    let mut names = BTreeSet::new();
    names.extend(active.split_whitespace().chain(["tty0", "ttyS0"]));
    for name in names {
        // A serial line that nobody reads must not hold the agent up, and none must become its terminal.
        let flags = (OFlags::NOCTTY | OFlags::NONBLOCK).bits() as i32;
        let opened = OpenOptions::new().write(true).custom_flags(flags).open(format!("/dev/{name}"));
        // A console that is not there is no news: boards have ttyS0 without a plug.
        let Ok(mut console) = opened else { continue };
        let text = if is_screen(name) { format!("{CLEAR}{page}") } else { page.to_owned() };
        let _ = console.write_all(text.as_bytes());
    }
}

/// `tty0` and its like are screens; `ttyS0`, `hvc0` are lines on which what was written stays.
fn is_screen(name: &str) -> bool {
    name.strip_prefix("tty").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Machine;
    use crate::sim::SimMachine;
    use muster_protocol::hello::{Reason, Times};
    use muster_protocol::inventory::{Link, Nic};
    use muster_protocol::{Generation, MachineId, VlanTag};
    use std::sync::Arc;

    #[test]
    fn whoever_stands_in_front_reads_the_claim_code_and_what_is_wrong() {
        let mut inventory = SimMachine::new(7).inventory();
        let more = ["fe80::5054:ff:fe00:701/64", "2001:db8::7/64"];
        inventory.nics[0].addresses.extend(more.map(|net| net.parse::<ipnet::IpNet>().expect("an address")));
        inventory.nics[1].port_of = Some("bond0".into());
        let link = |name: &str, kind, addresses: &[&str]| Link {
            name: name.into(),
            kind,
            mac: inventory.nics[1].mac,
            carrier: Carrier::Present,
            port_of: None,
            addresses: addresses.iter().map(|net| net.parse().expect("an address")).collect(),
        };
        let tag = VlanTag::try_from(42).expect("a tag");
        let office = LinkKind::Vlan { tag, parent: "bond0".into() };
        inventory.links = vec![
            link("bond0", LinkKind::Bond, &["fe80::1/64"]),
            link("office", office, &["10.77.42.50/24", "2001:db8:42::50/64", "fe80::2/64"]),
        ];
        let port = Nic { name: "eth2".into(), carrier: Carrier::Present, ..inventory.nics[1].clone() };
        inventory.nics.push(port);
        let digest = inventory.digest();
        let why = "the controller did not answer within 30 s; no carrier on eth1".to_owned();
        let outbox = Outbox::default();
        let (outbox, _) = tokio::sync::watch::channel(outbox);
        outbox.send_modify(|out| {
            out.inventory = Some((Arc::new(inventory), Some(digest)));
            out.progress =
                Progress::Reverted { generation: Generation(4), reason: Reason::NoRoute, why, times: Times::default() };
        });
        let status = Status {
            contact: Contact::Pending { claim: "KX4M-7QPD".into(), awaits: Awaits::Approval },
            controller: "10.0.2.2:8443".into(),
            machine: Some(MachineId::from_bytes([0x11; 16])),
            name: "ber1-111111".into(),
            trouble: String::new(),
        };
        let expected = "
Muster 0.1.0   ber1-111111
  State       waiting for approval
  Claim code  KX4M-7QPD
  To approve  muster machine approve KX4M-7QPD
  Machine     11111111-1111-1111-1111-111111111111
  Controller  10.0.2.2:8443
  Hardware    Muster simulated SIM00007
  eth0        52:54:00:00:07:01 10.77.0.7/16
                                2001:db8::7/64
  eth1        52:54:00:00:07:02 no carrier
  eth2        52:54:00:00:07:02 port of bond0
  office      VLAN 42 on bond0  10.77.42.50/24
                                2001:db8:42::50/64
  Reverted    generation 4: the controller did not answer within 30 s; no
              carrier on eth1
";
        assert_eq!(page(&status, &outbox.borrow(), "unused"), expected);
    }

    #[test]
    fn a_machine_in_doubt_asks_which_one_it_is_and_not_for_approval() {
        let contact = Contact::Pending { claim: "KX4M-7QPD".into(), awaits: Awaits::Resolution };
        let page = page(&Status { contact, ..Status::default() }, &Outbox::default(), "none");
        let asked = "  To decide   muster machine resolve KX4M-7QPD --separate, or --same-as MACHINE\n";
        assert!(page.contains(asked) && !page.contains("approve"), "{page}");
    }

    #[test]
    fn before_anything_is_known_the_page_says_where_it_tries() {
        let status = Status { trouble: "no answer from 10.0.2.2:8443 within 8 s".into(), ..Status::default() };
        let page = page(&status, &Outbox::default(), "10.0.2.2:8443, [2001:db8::1]:8443");
        assert!(page.contains("Controller  10.0.2.2:8443, [2001:db8::1]:8443\n"), "{page}");
        assert!(page.contains("Trouble     no answer"), "{page}");
    }

    #[test]
    fn screens_are_cleared_and_lines_are_not() {
        assert!(is_screen("tty0") && is_screen("tty12"));
        assert!(!is_screen("ttyS0") && !is_screen("hvc0") && !is_screen("tty"));
    }
}
