//! `muster dhcp`: the addresses of machines as files for DHCP servers.
//!
//! Each file has whole subnets and the machines in them, and nothing else, so that it can be included by, or lie beside,
//! what the server is told otherwise. Names and addresses are checked where they come from: none can be a directive.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;

use clap::{Args, Subcommand, ValueEnum};
use ipnet::Ipv4Net;
use serde_json::{Value, json};

use crate::api::ReservationView;
use crate::cli::connect::Connect;
use crate::cli::error::CliError;
use crate::cli::show::print;

/// `muster dhcp`
#[derive(Debug, Subcommand)]
pub enum DhcpCommand {
    /// Print the addresses of leased machines, and those that were assigned, as a file for a DHCP server
    Export(Export),
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  muster dhcp export --format dnsmasq --location ber1 > /etc/dnsmasq.d/muster.conf && systemctl restart dnsmasq")]
pub struct Export {
    /// Which server's file
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Format,
    /// Only those at the location with this code
    #[arg(long, value_name = "CODE")]
    location: Option<String>,
    #[command(flatten)]
    connect: Connect,
}

/// A server's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// dnsmasq: a file in its conf-dir
    Dnsmasq,
    /// Kea: the whole of Dhcp4, or its subnet4 to be copied
    Kea,
    /// ISC dhcpd: a file to include
    Isc,
}

impl DhcpCommand {
    pub fn run(self) -> Result<(), CliError> {
        let Self::Export(Export { format, location, connect }) = self;
        let items = connect.client()?.all("/reservations", &[("location", location.as_deref())])?;
        let all: Result<Vec<ReservationView>, _> = items.into_iter().map(serde_json::from_value).collect();
        let all =
            all.map_err(|error| CliError::Failed(format!("the controller's answer is not understood: {error}")))?;
        print(&render(format, &all));
        Ok(())
    }
}

/// One subnet and those in it.
type Subnets<'a> = BTreeMap<Ipv4Net, Vec<&'a ReservationView>>;

/// The whole file.
pub fn render(format: Format, all: &[ReservationView]) -> String {
    let mut subnets = Subnets::new();
    for reserved in all {
        subnets.entry(reserved.net).or_default().push(reserved);
    }
    match format {
        Format::Dnsmasq => dnsmasq(&subnets),
        Format::Kea => kea(&subnets),
        Format::Isc => isc(&subnets),
    }
}

const HEAD: &str = "# Addresses of machines, by `muster dhcp export`: print it anew where leases come and go.\n";

/// What all of a subnet have in common; there is at least one in it.
fn common<'a>(members: &[&'a ReservationView]) -> &'a ReservationView {
    members.first().expect("a subnet is listed for its members")
}

fn list(addresses: &[Ipv4Addr], between: &str) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(between)
}

/// dnsmasq's man page: a range that is `static` hands out what hosts are given and nothing else; an option without a value
/// is not sent, where dnsmasq would name itself.
fn dnsmasq(subnets: &Subnets<'_>) -> String {
    let mut text = HEAD.to_owned();
    for (net, members) in subnets {
        let ReservationView { gateway, nameservers, quarantine_s, .. } = common(members);
        let tag = format!("muster-{}", net.addr().to_string().replace('.', "-"));
        let _ = writeln!(
            text,
            "\ndhcp-range=set:{tag},{},static,{},{}s",
            net.network(),
            net.netmask(),
            lease_s(*quarantine_s)
        );
        let router = gateway.map(|gateway| format!(",{gateway}")).unwrap_or_default();
        let _ = writeln!(text, "dhcp-option=tag:{tag},option:router{router}");
        let resolvers = if nameservers.is_empty() { String::new() } else { format!(",{}", list(nameservers, ",")) };
        let _ = writeln!(text, "dhcp-option=tag:{tag},option:dns-server{resolvers}");
        for ReservationView { mac, address, hostname, .. } in members {
            // A domain behind the name would have to be dnsmasq's own.
            let name = hostname.iter().filter_map(|name| name.split('.').next());
            let name: String = name.map(|label| format!(",{label}")).collect();
            let _ = writeln!(text, "dhcp-host={mac},{address}{name}");
        }
    }
    text
}

/// Kea's reference: ids of subnets stay the same for as long as their leases are kept, so they come from the prefix.
fn kea(subnets: &Subnets<'_>) -> String {
    let subnet = |(net, members): (&Ipv4Net, &Vec<&ReservationView>)| {
        let ReservationView { gateway, nameservers, quarantine_s, .. } = common(members);
        let mut options = Vec::new();
        options.extend(gateway.map(|gateway| json!({"name": "routers", "data": gateway})));
        if !nameservers.is_empty() {
            options.push(json!({"name": "domain-name-servers", "data": list(nameservers, ", ")}));
        }
        let host = |reserved: &&ReservationView| {
            let mut host = json!({"hw-address": reserved.mac, "ip-address": reserved.address});
            if let Some(name) = &reserved.hostname {
                host["hostname"] = json!(name);
            }
            host
        };
        json!({
            "id": u32::from(net.network()),
            "subnet": net,
            "valid-lifetime": lease_s(*quarantine_s),
            "option-data": options,
            "reservations": members.iter().map(host).collect::<Vec<Value>>(),
        })
    };
    let all: Vec<Value> = subnets.iter().map(subnet).collect();
    let text = serde_json::to_string_pretty(&json!({"Dhcp4": {"subnet4": all}})).expect("JSON is text");
    format!("{text}\n")
}

/// dhcpd.conf(5): a host is in the subnet that its address is of, wherever it is declared.
fn isc(subnets: &Subnets<'_>) -> String {
    let mut text = HEAD.to_owned();
    for (net, members) in subnets {
        let ReservationView { gateway, nameservers, quarantine_s, .. } = common(members);
        let _ = writeln!(text, "\nsubnet {} netmask {} {{", net.network(), net.netmask());
        if let Some(gateway) = gateway {
            let _ = writeln!(text, "  option routers {gateway};");
        }
        if !nameservers.is_empty() {
            let _ = writeln!(text, "  option domain-name-servers {};", list(nameservers, ", "));
        }
        let seconds = lease_s(*quarantine_s);
        let _ = writeln!(text, "  default-lease-time {seconds};\n  max-lease-time {seconds};\n}}");
        for ReservationView { mac, address, hostname, .. } in members {
            let _ = writeln!(text, "host muster-{} {{", address.to_string().replace('.', "-"));
            let _ = writeln!(text, "  hardware ethernet {mac};\n  fixed-address {address};");
            if let Some(name) = hostname {
                let _ = writeln!(text, "  option host-name \"{name}\";");
            }
            text.push_str("}\n");
        }
    }
    text
}

/// dnsmasq takes no less than two minutes.
fn lease_s(quarantine_s: u32) -> u32 {
    quarantine_s.max(120)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::*;

    fn reserved(address: [u8; 4], net: &str, hostname: Option<&str>) -> ReservationView {
        ReservationView {
            address: address.into(),
            net: net.parse().expect("a prefix"),
            location: "ber1".into(),
            machine: "01010101-0101-0101-0101-010101010101".into(),
            mac: format!("02:00:00:00:{:02x}:{:02x}", address[0], address[3]),
            hostname: hostname.map(str::to_owned),
            gateway: None,
            nameservers: Vec::new(),
            quarantine_s: 600,
        }
    }

    fn some() -> Vec<ReservationView> {
        let said = |reserved: ReservationView| ReservationView {
            gateway: Some([203, 0, 113, 1].into()),
            nameservers: vec![[192, 0, 2, 53].into(), [192, 0, 2, 54].into()],
            ..reserved
        };
        vec![
            // Told of nothing, and given back to anybody at once.
            ReservationView { quarantine_s: 0, ..reserved([10, 0, 0, 5], "10.0.0.0/24", None) },
            said(reserved([203, 0, 113, 2], "203.0.113.0/28", Some("srv-1.example.net"))),
            said(reserved([203, 0, 113, 3], "203.0.113.0/28", Some("kitchen"))),
        ]
    }

    fn golden(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dhcp").join(name)
    }

    /// `kea-dhcp4 -t` and `dhcpd -t -cf` take the other two; they were looked at by hand, and setup does not install them.
    #[test]
    fn what_is_exported_is_what_the_servers_read() {
        for (format, name) in [(Format::Dnsmasq, "dnsmasq.conf"), (Format::Kea, "kea.json"), (Format::Isc, "isc.conf")]
        {
            let text = render(format, &some());
            if std::env::var_os("MUSTER_BLESS").is_some() {
                std::fs::write(golden(name), &text).expect("the golden file can be written");
            }
            let expected = std::fs::read_to_string(golden(name)).unwrap_or_default();
            assert_eq!(
                text, expected,
                "{name} changed; if that is meant, set MUSTER_BLESS=1 and look at the difference"
            );
        }
        let file = format!("--conf-file={}", golden("dnsmasq.conf").display());
        let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
        let looked = Command::new("dnsmasq").env("PATH", path).args(["--test", &file]).output();
        let looked = looked.expect("dnsmasq is there; run scripts/setup first");
        assert!(looked.status.success(), "{}", String::from_utf8_lossy(&looked.stderr));
    }

    #[test]
    fn nobody_to_tell_is_an_empty_file_that_servers_take() {
        assert_eq!(render(Format::Dnsmasq, &[]), HEAD);
        assert_eq!(render(Format::Isc, &[]), HEAD);
        assert!(render(Format::Kea, &[]).contains("\"subnet4\": []"));
    }
}
