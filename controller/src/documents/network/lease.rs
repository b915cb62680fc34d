//! `dhcp4`, `dhcp6`, and what of a lease counts.

use muster_protocol::desired::{Dhcp, LeaseUse, Take};

use crate::documents::reader::{Fields, Findings, Keys};

pub(super) const OVERRIDES: Keys = Keys {
    supported: &["use-dns", "use-ntp", "use-routes", "route-metric", "use-domains"],
    known: &["hostname", "send-hostname", "use-hostname", "use-mtu"],
};

/// `dhcp4` and `dhcp6`.
pub(super) fn read(fields: &Fields<'_>, findings: &mut Findings) -> (Dhcp, Dhcp) {
    let dhcp4 = dhcp(fields, "dhcp4", findings);
    let mut dhcp6 = dhcp(fields, "dhcp6", findings);
    // netplan wants both overrides alike where both are on. What DHCPv6 has none of is said for DHCPv4 then.
    if let (Dhcp::On(four), Dhcp::On(six)) = (&dhcp4, &mut dhcp6)
        && (four.routes, four.route_metric) == (six.routes, six.route_metric)
    {
        (six.routes, six.route_metric) = (Take::Yes, None);
    }
    (dhcp4, dhcp6)
}

fn dhcp(fields: &Fields<'_>, key: &str, findings: &mut Findings) -> Dhcp {
    let is_on = findings.boolean(fields, key);
    let uses = overrides(fields, &format!("{key}-overrides"), findings);
    if is_on == Some(true) { Dhcp::On(uses) } else { Dhcp::Off }
}

fn overrides(fields: &Fields<'_>, key: &str, findings: &mut Findings) -> LeaseUse {
    let Some(node) = fields.get(key) else { return LeaseUse::default() };
    let Some(fields) = findings.fields(node, &fields.path(key), &OVERRIDES) else { return LeaseUse::default() };
    let mut take = |key| match findings.boolean(&fields, key) {
        None | Some(true) => Take::Yes,
        Some(false) => Take::No,
    };
    let (dns, ntp, routes) = (take("use-dns"), take("use-ntp"), take("use-routes"));
    if let Some(domains) = findings.boolean(&fields, "use-domains")
        && domains != (dns == Take::Yes)
        && let Some(node) = fields.get("use-domains")
    {
        let problem =
            "a lease's search domains are used with its resolvers, or not at all; give use-dns the same value";
        findings.add(node.place, fields.path("use-domains"), problem);
    }
    let route_metric = findings.number(&fields, "route-metric", "a number from 0 to 4294967295");
    LeaseUse { dns, ntp, routes, route_metric }
}
