//! `muster subnet` and `muster address`.

use clap::{Args, Subcommand};

use crate::api::http::when::seconds;
use crate::cli::client::{escape, object, or_null};
use crate::cli::connect::Connect;
use crate::cli::error::CliError;
use crate::cli::show::{Column, Show, age, duration, joined, lines, machine, print, text};
use crate::words::counted;

/// `muster subnet`
#[derive(Debug, Subcommand)]
pub enum SubnetCommand {
    /// List subnets with how full they are
    #[command(visible_alias = "ls")]
    List(List),
    /// Show one subnet
    Show(One),
    /// Declare a subnet from which addresses may be handed out
    Add(Add),
    /// Remove a subnet from which nothing is handed out
    #[command(visible_alias = "rm")]
    Remove(Remove),
}

/// `muster address`
#[derive(Debug, Subcommand)]
pub enum AddressCommand {
    /// List addresses that are handed out or in quarantine
    #[command(visible_alias = "ls")]
    List(AddressList),
    /// Assign the lowest free address of a subnet to a machine, for its documents
    Assign(Assign),
    /// Take back an address that was assigned, or that a pool of Cycle's holds and will not release any more; free one that is
    /// in quarantine
    #[command(visible_alias = "release")]
    Reclaim(Reclaim),
}

#[derive(Debug, Args)]
pub struct List {
    /// Only those at the location with this code
    #[arg(long, value_name = "CODE")]
    location: Option<String>,
    #[command(flatten)]
    show: Show,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
pub struct One {
    /// Prefix, such as 192.0.2.0/24
    net: String,
    #[command(flatten)]
    show: Show,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  muster subnet add 192.0.2.0/24 --location ber1 --gateway 192.0.2.1 --nameserver 192.0.2.53 \\
      --reserve 192.0.2.2-192.0.2.9
  muster subnet add 2001:db8:1::/64 --location ber1 --gateway fe80::1 --block 121
  muster subnet add 10.0.0.0/24 --location ber1 --gateway 10.0.0.1 --nat 10.0.0.16/28=203.0.113.16/28")]
pub struct Add {
    /// Prefix, such as 192.0.2.0/24
    net: String,
    /// Code of the location where it is on the wire
    #[arg(long, value_name = "CODE")]
    location: String,
    /// Router of those who get an address from it
    #[arg(long, value_name = "ADDRESS")]
    gateway: Option<String>,
    /// Resolver of those who get an address from it; may be given more than once
    #[arg(long = "nameserver", value_name = "ADDRESS")]
    nameservers: Option<Vec<String>>,
    /// An address, FIRST-LAST or prefix that is never handed out; may be given more than once
    #[arg(long = "reserve", value_name = "RANGE")]
    reserved: Option<Vec<String>>,
    /// Private addresses and the public ones that a router translates them to, one to one; may be given more than once.
    /// Cycle's servers get no others of this subnet then
    #[arg(long, value_name = "PRIVATE=PUBLIC")]
    nat: Option<Vec<String>>,
    /// Prefix length of what Cycle gets when it asks for IPv6 addresses [default: single ones]
    #[arg(long, value_name = "LENGTH")]
    block: Option<u8>,
    /// How long an address that was given back is nobody's [default: 10m]
    #[arg(long, value_name = "SPAN", value_parser = seconds)]
    quarantine: Option<u64>,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
pub struct Remove {
    /// Prefix, such as 192.0.2.0/24
    net: String,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
pub struct AddressList {
    /// Only those of this subnet
    #[arg(long, value_name = "PREFIX")]
    subnet: Option<String>,
    #[command(flatten)]
    show: Show,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
#[command(
    after_help = "The address is the machine's until it is taken back or the machine is retired. Templates know it:
  addresses: [\"{{ addresses[0].cidr }}\"]
  routes: [{to: default, via: \"{{ addresses[0].gateway }}\"}]

Example:
  muster address assign kitchen 192.0.2.0/24"
)]
pub struct Assign {
    /// Id, unique beginning of an id, or name
    machine: String,
    /// Prefix of the subnet, such as 192.0.2.0/24; one of the machine's location
    subnet: String,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
pub struct Reclaim {
    /// The address
    address: String,
    #[command(flatten)]
    connect: Connect,
}

const COLUMNS: &[Column] = &[
    Column("net", |s| text(s, "/net")),
    Column("location", |s| text(s, "/location")),
    Column("gateway", |s| text(s, "/gateway")),
    Column("nameservers", |s| joined(s, "/nameservers")),
    Column("reserved", |s| joined(s, "/reserved")),
    Column("nat", |s| joined(s, "/nat")),
    Column("block", |s| text(s, "/block")),
    Column("taken", |s| text(s, "/taken")),
    Column("quarantined", |s| text(s, "/quarantined")),
    Column("free", |s| text(s, "/free")),
];

/// What one subnet says beside [`COLUMNS`].
const KEPT_BACK: &[Column] = &[
    Column("kept back for", |s| s["quarantine_s"].as_u64().map(duration).unwrap_or_default()),
    Column("first free again at", |s| text(s, "/quarantine_ends")),
];

const ADDRESSES: &[Column] = &[
    Column("address", |a| text(a, "/address")),
    Column("public", |a| text(a, "/public")),
    Column("subnet", |a| text(a, "/subnet")),
    Column("holder", |a| {
        let named = [machine(a), text(a, "/hub")].into_iter().find(|who| !who.is_empty());
        format!("{} {}", text(a, "/holder"), named.unwrap_or_default())
    }),
    Column("lease", |a| text(a, "/lease")),
    Column("age", |a| age(a, "/since")),
];

impl SubnetCommand {
    pub fn run(self) -> Result<(), CliError> {
        match self {
            Self::List(List { location, show, connect }) => {
                let subnets = connect.client()?.all("/subnets", &[("location", location.as_deref())])?;
                show.list(&subnets, COLUMNS);
                Ok(())
            }
            Self::Show(One { net, show, connect }) => {
                let subnet = connect.client()?.get(&format!("/subnets/{}", escape(&net)))?;
                show.one(&subnet, |subnet| lines(subnet, &[COLUMNS, KEPT_BACK].concat()));
                Ok(())
            }
            Self::Add(Add { net, location, gateway, nameservers, reserved, nat, block, quarantine, connect }) => {
                let body = object([
                    ("net", net.into()),
                    ("location", location.into()),
                    ("gateway", or_null(gateway)),
                    ("nameservers", or_null(nameservers)),
                    ("reserved", or_null(reserved)),
                    ("nat", or_null(nat)),
                    ("block", or_null(block)),
                    ("quarantine_s", or_null(quarantine)),
                ]);
                let subnet = connect.client()?.post("/subnets", body)?;
                let free = counted(subnet["free"].as_u64().unwrap_or_default() as usize, "address");
                print(&format!("{}: {free} free\n", text(&subnet, "/net")));
                Ok(())
            }
            Self::Remove(Remove { net, connect }) => {
                connect.client()?.delete(&format!("/subnets/{}", escape(&net)))?;
                print(&format!("{net} is gone\n"));
                Ok(())
            }
        }
    }
}

impl AddressCommand {
    pub fn run(self) -> Result<(), CliError> {
        match self {
            Self::List(AddressList { subnet, show, connect }) => {
                let addresses = connect.client()?.all("/addresses", &[("subnet", subnet.as_deref())])?;
                show.list(&addresses, ADDRESSES);
                Ok(())
            }
            Self::Assign(Assign { machine, subnet, connect }) => {
                let body = object([("machine", machine.clone().into()), ("subnet", subnet.into())]);
                let address = connect.client()?.post("/addresses", body)?;
                print(&format!("{} is {machine}'s\n", text(&address, "/address")));
                Ok(())
            }
            Self::Reclaim(Reclaim { address, connect }) => {
                connect.client()?.delete(&format!("/addresses/{}", escape(&address)))?;
                print(&format!("{address} was taken back\n"));
                Ok(())
            }
        }
    }
}
