//! /etc/resolv.conf, made of what is configured and what leases brought (resolv.conf(5)).
//!
//! Written by `network` and its keeper, read by whoever observes. Knows the file, and not who looks names up.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::keeper::LeaseOf;
use crate::plan::network::in_force;
use crate::sort;

/// What is at the top of the file, for people who wonder.
const HEADER: &str = "# Written by muster-agent; changes made here do not last.\n";

/// What a report has room for; programs look at the first three.
const MOST: usize = 64;

/// Resolvers and search domains.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolvers {
    /// Resolvers.
    pub nameservers: Vec<IpAddr>,
    /// Search domains.
    pub search: Vec<String>,
}

/// The file, and what it is made of.
#[derive(Debug)]
pub struct ResolvConf {
    path: PathBuf,
    configured: Resolvers,
    /// By link and family, sorted.
    leased: Vec<(LeaseOf, Resolvers)>,
}

impl ResolvConf {
    /// The file at `path`. What is in it already counts as configured until something else is; nothing is written yet.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), configured: read(path), leased: Vec::new() }
    }

    /// Sets what comes first.
    pub fn configure(&mut self, resolvers: Resolvers) -> io::Result<()> {
        self.configured = resolvers;
        self.write()
    }

    /// Sets what a link's lease brought; `None` takes it away.
    pub(super) fn lease(&mut self, of: &LeaseOf, resolvers: Option<Resolvers>) -> io::Result<()> {
        self.leased.retain(|(link, _)| link != of);
        self.leased.extend(resolvers.map(|resolvers| (of.clone(), resolvers)));
        sort::short(&mut self.leased, |(a, _), (b, _)| a.cmp(b));
        self.write()
    }

    /// Writes the file unless it is so already. Whoever reads it sees the old one or the new one, whole.
    fn write(&self) -> io::Result<()> {
        let leased = || self.leased.iter().map(|(_, lease)| lease);
        let mut all = Resolvers {
            nameservers: in_force(
                &self.configured.nameservers,
                leased().flat_map(|lease| lease.nameservers.iter().copied()),
            ),
            search: in_force(&self.configured.search, leased().flat_map(|lease| lease.search.iter().cloned())),
        };
        all.nameservers.truncate(MOST);
        all.search.truncate(MOST);
        let text = format(&all);
        if std::fs::read_to_string(&self.path).is_ok_and(|old| old == text) {
            return Ok(());
        }
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let new = self.path.with_extension("conf.new");
        std::fs::write(&new, text)?;
        std::fs::rename(&new, &self.path)
    }
}

/// Reads the file; one that cannot be read is empty.
pub fn read(path: &Path) -> Resolvers {
    std::fs::read(path).map(|bytes| parse(&String::from_utf8_lossy(&bytes))).unwrap_or_default()
}

fn parse(text: &str) -> Resolvers {
    let mut resolvers = Resolvers::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => {
                // A link-local address may name its link; that cannot be said here and is not configured here.
                let address = words.next().and_then(|word| word.split('%').next()?.parse::<IpAddr>().ok());
                resolvers.nameservers.extend(address);
            }
            // The last such line counts.
            Some("search" | "domain") => resolvers.search = words.map(str::to_owned).collect(),
            _ => {}
        }
    }
    resolvers
}

fn format(resolvers: &Resolvers) -> String {
    let mut text = HEADER.to_owned();
    if !resolvers.search.is_empty() {
        text.push_str(&format!("search {}\n", resolvers.search.join(" ")));
    }
    for nameserver in &resolvers.nameservers {
        text.push_str(&format!("nameserver {nameserver}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::network::Family;

    fn resolvers(nameservers: &[&str], search: &[&str]) -> Resolvers {
        Resolvers {
            nameservers: nameservers.iter().map(|text| text.parse().expect("an address")).collect(),
            search: search.iter().map(|text| (*text).to_owned()).collect(),
        }
    }

    fn of(link: &str, family: Family) -> LeaseOf {
        (link.to_owned(), family)
    }

    #[test]
    fn what_others_write_is_read() {
        let text = "# comment\noptions edns0\ndomain old.example\nnameserver 192.0.2.53\nnameserver fe80::1%eth0\n\
                    nameserver nonsense\nsearch lan.example example.org\n";
        assert_eq!(parse(text), resolvers(&["192.0.2.53", "fe80::1"], &["lan.example", "example.org"]));
    }

    #[test]
    fn leases_come_after_what_is_configured_and_go_with_their_link() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("etc/resolv.conf");
        let mut file = ResolvConf::new(&path);
        file.configure(resolvers(&["192.0.2.1"], &["example.org"])).expect("written");
        file.lease(&of("eth1", Family::V4), Some(resolvers(&["192.0.2.3", "192.0.2.1"], &[]))).expect("written");
        file.lease(&of("eth0", Family::V4), Some(resolvers(&["192.0.2.2"], &["lan.example"]))).expect("written");
        let all = resolvers(&["192.0.2.1", "192.0.2.2", "192.0.2.3"], &["example.org", "lan.example"]);
        assert_eq!(read(&path), all);
        file.lease(&of("eth1", Family::V4), None).expect("written");
        assert_eq!(read(&path), resolvers(&["192.0.2.1", "192.0.2.2"], &["example.org", "lan.example"]));
        assert_eq!(std::fs::read_dir(folder.path().join("etc")).expect("a folder").count(), 1, "nothing is left over");
    }

    #[test]
    fn a_file_that_was_there_counts_as_configured() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("resolv.conf");
        std::fs::write(&path, "nameserver 192.0.2.9\n").expect("written");
        ResolvConf::new(&path).lease(&of("eth0", Family::V4), Some(resolvers(&["192.0.2.2"], &[]))).expect("written");
        assert_eq!(read(&path), resolvers(&["192.0.2.9", "192.0.2.2"], &[]));
    }
}
