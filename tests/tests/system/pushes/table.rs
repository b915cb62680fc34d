//! Tables of pushes: texts in which an entry is a few lines.
//!
//! ```text
//! ## what follows is for one seat; what stands here is what its machine has before
//! one: {dhcp4: true}
//!
//! # what is pushed
//! ! VLAN 42 loses UDP 67        (or `everything`, or `packets over 1100 bytes`), as long as the push takes
//! ! port 2 has no cable
//! @ 10.N.42.50                  where the machine is found afterwards
//! ~ the session goes on         it is the same one afterwards, and was there all the while
//! ~ the session moves           another one has its place afterwards, and one of them was there all the while
//! ~ the reason is no-gateway    why it is not kept
//! ~ spanning tree takes 30 s    before the time begins in which the controller must answer
//! one: {mtu: 1400}              `ethernets`, by port; those that are left out are in the document with nothing
//! vlans: {office: {id: 42, link: one, dhcp4: true}}     everything else of `network`
//! ```

use std::time::Duration;

use anyhow::{Context, Result, bail};
use muster_protocol::VlanTag;
use muster_tests::ground::Seat;
use muster_tests::switch::{Fault, Lost};

/// Ports and the ids of their NICs in documents.
const NICS: [(usize, &str); 3] = [(1, "one"), (2, "two"), (3, "three")];

/// One document, and what happens at the same time.
#[derive(Debug, Default)]
pub(super) struct Push {
    pub(super) name: String,
    /// Where the machine is found afterwards.
    pub(super) found_at: Vec<String>,
    /// Whether the session outlives it.
    pub(super) session: Session,
    /// Why it is not kept, where the entry says.
    pub(super) reason: Option<String>,
    /// How long it waits, by its own words, before the time begins in which it must be proven.
    pub(super) waits: Duration,
    faults: Vec<Fault>,
    no_cable: Option<usize>,
    nics: Vec<String>,
    more: Vec<String>,
}

/// What becomes of the session.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Session {
    /// Whatever does: the present way and the new one cannot stand side by side.
    #[default]
    MayBeAnother,
    /// It goes on.
    GoesOn,
    /// It is begun anew beside, at another address of the controller's, before the present way is given up.
    Moves,
}

/// What is for one seat.
#[derive(Debug)]
pub(super) struct List {
    pub(super) before: Push,
    pub(super) pushes: Vec<Push>,
}

/// Reads a table.
pub(super) fn read(table: &str) -> Result<Vec<List>> {
    let mut lists: Vec<List> = Vec::new();
    for line in table.lines().filter(|line| !line.trim().is_empty()) {
        let named = |name: &str| Push { name: name.to_owned(), ..Push::default() };
        if let Some(name) = line.strip_prefix("## ") {
            lists.push(List { before: named(name), pushes: vec![] });
            continue;
        }
        let list = lists.last_mut().context("a table begins with ##")?;
        match line.strip_prefix("# ") {
            Some(name) => list.pushes.push(named(name)),
            None => list.pushes.last_mut().unwrap_or(&mut list.before).take(line).with_context(|| line.to_owned())?,
        }
    }
    Ok(lists)
}

impl Push {
    /// A push of this name and these lines.
    pub(super) fn read(name: &str, lines: &[&str]) -> Result<Self> {
        let mut push = Self { name: name.to_owned(), ..Self::default() };
        lines.iter().try_for_each(|line| push.take(line)).map(|()| push)
    }

    fn take(&mut self, line: &str) -> Result<()> {
        if let Some(fault) = line.strip_prefix("! ") {
            return self.take_fault(fault);
        }
        if let Some(addresses) = line.strip_prefix("@ ") {
            self.found_at.extend(addresses.split_whitespace().map(str::to_owned));
            return Ok(());
        }
        if let Some(promise) = line.strip_prefix("~ ") {
            return self.take_promise(promise);
        }
        let (key, _) = line.split_once(": {").context("neither a fault nor a part of a document")?;
        let lines = if NICS.iter().any(|(_, id)| *id == key) { &mut self.nics } else { &mut self.more };
        lines.push(line.to_owned());
        Ok(())
    }

    fn take_promise(&mut self, text: &str) -> Result<()> {
        match text.split_whitespace().collect::<Vec<_>>()[..] {
            ["the", "session", "goes", "on"] => self.session = Session::GoesOn,
            ["the", "session", "moves"] => self.session = Session::Moves,
            ["the", "reason", "is", reason] => self.reason = Some(reason.to_owned()),
            ["spanning", "tree", "takes", seconds, "s"] => self.waits = Duration::from_secs(seconds.parse()?),
            _ => bail!("no such promise"),
        }
        Ok(())
    }

    fn take_fault(&mut self, text: &str) -> Result<()> {
        match text.split_whitespace().collect::<Vec<_>>()[..] {
            ["port", port, "has", "no", "cable"] => self.no_cable = Some(port.parse()?),
            ["VLAN", tag, "loses", ref what @ ..] => {
                let lost = match what {
                    ["everything"] => Lost::All,
                    ["UDP", port] => Lost::Udp(port.parse()?),
                    ["packets", "over", bytes, "bytes"] => Lost::LongerThan(bytes.parse()?),
                    _ => bail!("a switch cannot lose that"),
                };
                self.faults.push(Fault { vlan: VlanTag::try_from(tag.parse::<u16>()?)?, lost });
            }
            _ => bail!("no such fault"),
        }
        Ok(())
    }

    /// The document for this seat. A NIC that says itself how it is matched is left as it is.
    pub(super) fn document(&self, seat: &Seat) -> String {
        let mut document = "network:\n  version: 2\n  ethernets:\n".to_owned();
        for (port, id) in NICS {
            let own =
                self.nics.iter().find(|line| line.starts_with(id)).cloned().unwrap_or_else(|| format!("{id}: {{}}"));
            let select = format!("{{match: {{macaddress: \"{}\"}}, ", seat.mac(port));
            let own = if own.contains("match:") { own } else { own.replacen('{', &select, 1).replace(", }", "}") };
            document.push_str(&format!("    {own}\n"));
        }
        self.more.iter().for_each(|line| document.push_str(&format!("  {line}\n")));
        seat.fill(&document)
    }

    /// From now on, what goes wrong with it goes wrong.
    pub(super) fn begin(&self, seat: &Seat) -> Result<()> {
        seat.switch.set_faults(&self.faults);
        self.no_cable.map_or(Ok(()), |port| seat.plug(port, false))
    }

    /// Everything works again.
    pub(super) fn end(&self, seat: &Seat) -> Result<()> {
        seat.switch.set_faults(&[]);
        self.no_cable.map_or(Ok(()), |port| seat.plug(port, true))
    }
}
