//! Which servers count, and what is kept of them.

use super::*;
use crate::plan::network::Family;

fn of(link: &str, family: Family) -> LeaseOf {
    (link.to_owned(), family)
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().expect("an address")).collect()
}

#[test]
fn configured_servers_keep_the_clock_alone_and_those_of_leases_where_there_are_none() {
    let folder = tempfile::tempdir().expect("a folder");
    let ntp = Ntp::new(folder.path().join("ntp.conf"));
    assert_eq!(ntp.in_force(), [""; 0]);
    ntp.lease(of("eth1", Family::V4), ips(&["192.0.2.3", "192.0.2.1"]));
    ntp.lease(of("eth0", Family::V6), ips(&["2001:db8::1"]));
    ntp.lease(of("eth0", Family::V4), ips(&["192.0.2.1"]));
    assert_eq!(ntp.in_force(), ["192.0.2.1", "2001:db8::1", "192.0.2.3"]);
    ntp.configure(&["time.example".to_owned()]).expect("written");
    assert_eq!(ntp.in_force(), ["time.example"]);
    ntp.configure(&[]).expect("written");
    ntp.lease(of("eth0", Family::V4), Vec::new());
    assert_eq!(ntp.in_force(), ["2001:db8::1", "192.0.2.3", "192.0.2.1"]);
}

#[test]
fn an_agent_that_starts_again_goes_on_with_the_servers_that_were_configured() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("etc/ntp.conf");
    let servers = ["time.example".to_owned(), "2001:db8::1".to_owned()];
    Ntp::new(path.clone()).configure(&servers).expect("written");
    let again = Ntp::new(path.clone());
    assert_eq!(again.in_force(), servers);
    again.configure(&[]).expect("removed");
    again.configure(&[]).expect("removed already");
    assert_eq!(Ntp::new(path).in_force(), [""; 0]);
}

#[test]
fn without_a_clock_nobody_is_asked_and_no_controller_is_told_that_it_is_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let ntp = Ntp::new(folder.path().join("ntp.conf"));
    ntp.configure(&["192.0.2.1".to_owned()]).expect("written");
    assert!(!ntp.hear(1_795_305_600_000_000_000));
    assert_eq!(ntp.lock().thread, Thread::NotStarted);
}
