//! Which NICs an entry of a document is on this machine.

use muster_protocol::desired::{Ethernet, Link as Entry, Select, matches_pattern};
use muster_protocol::observed::{Link, LinkKind, Network};

use crate::plan::Impossible;

pub(super) fn impossible(field: String, problem: impl Into<String>) -> Impossible {
    Impossible { field, problem: problem.into() }
}

/// The NICs that an entry selects, at least one: those for which all that it says holds.
pub(super) fn find<'a>(entry: &Entry, ethernet: &Ethernet, observed: &'a Network) -> Result<Vec<&'a Link>, Impossible> {
    let Select { name, mac, drivers } = &ethernet.select;
    let nics = || observed.links.iter().filter(|link| link.kind == LinkKind::Ethernet);
    let by_id = ethernet.select.is_by_id();
    let fits = |link: &&Link| {
        (!by_id || link.name == entry.id)
            && name.as_ref().is_none_or(|name| {
                // A NIC that was renamed before is still the one that is meant.
                matches_pattern(name, &link.name) || ethernet.set_name.as_ref() == Some(&link.name)
            })
            && (drivers.is_empty() || drivers.iter().any(|driver| matches_pattern(driver, &link.driver)))
    };
    let mut found: Vec<_> = nics().filter(fits).collect();
    if let Some(mac) = mac {
        // The hardware's own wins: a bond gives all its ports the MAC of one.
        let permanent = found.iter().any(|link| link.permanent_mac == *mac);
        found.retain(|link| if permanent { link.permanent_mac == *mac } else { link.mac == *mac });
    }
    let names = |links: &[&Link]| links.iter().map(|link| link.name.as_str()).collect::<Vec<_>>().join(", ");
    let field = format!("network.ethernets.{}", entry.id);
    if found.is_empty() {
        let mut wanted = Vec::new();
        wanted.extend(by_id.then(|| format!("the name {}", entry.id)));
        wanted.extend(mac.map(|mac| format!("MAC {mac}")));
        wanted.extend(name.as_ref().map(|name| format!("a name like {name}")));
        wanted.extend((!drivers.is_empty()).then(|| format!("the driver {}", drivers.join(" or "))));
        let present: Vec<String> = nics()
            .map(|link| match link.driver.as_str() {
                "" => format!("{} ({})", link.name, link.permanent_mac),
                driver => format!("{} ({}, {driver})", link.name, link.permanent_mac),
            })
            .collect();
        let present = if present.is_empty() { "none".to_owned() } else { present.join(", ") };
        let problem = format!("this machine has no NIC with {}; it has {present}", wanted.join(" and "));
        return Err(impossible(field, problem));
    }
    if let (Some(mac), true) = (mac, found.len() > 1) {
        let problem = format!("{} all have MAC {mac}; name one of them instead", names(&found));
        return Err(impossible(format!("{field}.match"), problem));
    }
    let settings = &entry.settings;
    let is_one = ethernet.set_name.is_some() || !settings.addresses.is_empty() || !settings.routes.is_empty();
    if found.len() > 1 && is_one {
        let problem =
            format!("it fits {}; a name, addresses and routes are one NIC's: match one by macaddress", names(&found));
        return Err(impossible(format!("{field}.match"), problem));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use muster_protocol::Mac;

    use super::*;
    use crate::plan::network::samples::nic;

    fn machine() -> Network {
        // A bond gave both the MAC of the first; the hardware still knows better.
        let nics = [("eth0", 1, 1), ("eth1", 1, 2), ("eth2", 9, 3), ("eth3", 9, 4)];
        let mac = |last| Mac::from_bytes([2, 0, 0, 0, 0, last]);
        let link = |(index, (name, used, permanent)): (usize, (&str, u8, u8))| Link {
            mac: mac(used),
            permanent_mac: mac(permanent),
            driver: if name == "eth3" { "igb".to_owned() } else { "e1000e".to_owned() },
            ..nic(index as u32 + 2, name)
        };
        Network { links: nics.into_iter().enumerate().map(link).collect(), ..Network::default() }
    }

    fn found(select: Select) -> Result<String, String> {
        let ethernet = Ethernet { select, ..Ethernet::default() };
        let kind = muster_protocol::desired::LinkKind::Ethernet(ethernet.clone());
        let entry = Entry { id: "lan".to_owned(), kind, settings: Default::default() };
        let machine = machine();
        let found = find(&entry, &ethernet, &machine).map_err(|why| why.to_string())?;
        Ok(found.iter().map(|nic| nic.name.as_str()).collect::<Vec<_>>().join(" "))
    }

    fn mac(last: u8) -> Select {
        Select { mac: Some(Mac::from_bytes([2, 0, 0, 0, 0, last])), ..Select::default() }
    }

    #[test]
    fn the_hardware_mac_wins_over_the_mac_in_use() {
        assert_eq!(found(mac(1)).as_deref(), Ok("eth0"));
        assert_eq!(found(mac(2)).as_deref(), Ok("eth1"));
        assert_eq!(
            found(mac(9)),
            Err("network.ethernets.lan.match: eth2, eth3 all have MAC 02:00:00:00:00:09; name one of them instead"
                .to_owned())
        );
    }

    #[test]
    fn everything_that_is_said_has_to_hold() {
        let by = |name: Option<&str>, drivers: &[&str]| Select {
            name: name.map(str::to_owned),
            drivers: drivers.iter().map(|driver| (*driver).to_owned()).collect(),
            ..Select::default()
        };
        assert_eq!(found(by(Some("eth*"), &[])).as_deref(), Ok("eth0 eth1 eth2 eth3"));
        assert_eq!(found(by(None, &["ig*", "r8169"])).as_deref(), Ok("eth3"));
        assert_eq!(found(by(Some("eth[0-2]"), &["e1000e"])).as_deref(), Ok("eth0 eth1 eth2"));
        assert!(found(by(Some("eth0"), &["igb"])).is_err());
        assert!(found(Select { drivers: vec!["igb".to_owned()], ..mac(1) }).is_err());
    }

    #[test]
    fn a_missing_nic_is_answered_with_those_that_are_there() {
        let why = found(Select::default()).expect_err("there is none");
        let begin = "network.ethernets.lan: this machine has no NIC with the name lan; it has eth0 (";
        assert!(why.starts_with(begin), "{why}");
    }
}
