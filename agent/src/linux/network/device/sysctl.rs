//! Switches of a link that are files below /proc/sys/net (the kernel's ip-sysctl).
//!
//! A kernel without IPv6 has none of its files: then there is nothing to switch off, and nothing can be switched on.

use std::fs;
use std::io;

use muster_protocol::desired::{AcceptRa, Privacy};

use super::solicit;
use crate::linux::network::netlink::link::Link;

fn ipv6(link: &str, name: &str) -> String {
    format!("/proc/sys/net/ipv6/conf/{link}/{name}")
}

fn read(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

fn write(path: &str, value: &str, switches_on: bool) -> io::Result<()> {
    match fs::write(path, value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !switches_on => Ok(()),
        result => result,
    }
}

/// Has an advertisement come now, where there is somebody to send one. Best effort: the next by itself comes in minutes.
fn solicit(link: &Link) {
    if link.up {
        let _ = solicit::routers(link.index);
    }
}

/// 0 ignores advertisements, 1 takes them unless the machine forwards, 2 takes them always.
pub fn accept_ra(link: &str) -> AcceptRa {
    match read(&ipv6(link, "accept_ra")).as_deref() {
        Some("0") => AcceptRa::Off,
        Some("2") => AcceptRa::On,
        _ => AcceptRa::Default,
    }
}

pub fn set_accept_ra(link: &Link, accept_ra: AcceptRa) -> io::Result<()> {
    let value = match accept_ra {
        AcceptRa::Off => "0",
        AcceptRa::Default => "1",
        AcceptRa::On => "2",
    };
    write(&ipv6(&link.name, "accept_ra"), value, accept_ra == AcceptRa::On)?;
    if accept_ra != AcceptRa::Off {
        solicit(link);
    }
    Ok(())
}

/// 0 or less makes no temporary addresses, 1 makes them and prefers others, 2 prefers them.
pub fn privacy(link: &str) -> Privacy {
    match read(&ipv6(link, "use_tempaddr")).as_deref() {
        Some("2") => Privacy::On,
        _ => Privacy::Off,
    }
}

/// The kernel makes a temporary address at the next advertisement, and keeps those that it has.
pub fn set_privacy(link: &Link, privacy: Privacy) -> io::Result<()> {
    let is_on = privacy == Privacy::On;
    write(&ipv6(&link.name, "use_tempaddr"), if is_on { "2" } else { "0" }, is_on)?;
    if is_on && accept_ra(&link.name) != AcceptRa::Off {
        solicit(link);
    }
    Ok(())
}

/// Without this, removing a link's first address of a prefix removes all others of that prefix (net/ipv4/devinet.c).
/// Best effort: where it cannot be set, verification finds what is missing.
pub fn keep_secondaries(link: &str) {
    let _ = fs::write(format!("/proc/sys/net/ipv4/conf/{link}/promote_secondaries"), "1");
}
