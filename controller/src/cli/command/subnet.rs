//! `muster subnet` and `muster address`.

use clap::{Args, Subcommand};

use crate::cli::client::{escape, object, or_null};
use crate::cli::connect::Connect;
use crate::cli::error::CliError;
use crate::cli::show::{Column, Show, age, joined, lines, print, text};
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
    /// List addresses that are handed out
    #[command(visible_alias = "ls")]
    List(AddressList),
    /// Take back an address that a pool of Cycle's holds and will not release any more
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
      --reserve 192.0.2.2-192.0.2.9")]
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
    Column("taken", |s| text(s, "/taken")),
    Column("free", |s| text(s, "/free")),
];

const ADDRESSES: &[Column] = &[
    Column("address", |a| text(a, "/address")),
    Column("subnet", |a| text(a, "/subnet")),
    Column("holder", |a| {
        let who = text(a, "/machine");
        let who = if who.is_empty() { text(a, "/hub") } else { who };
        format!("{} {who}", text(a, "/holder"))
    }),
    Column("lease", |a| text(a, "/lease")),
    Column("age", |a| age(a, "/since")),
];

impl SubnetCommand {
    pub(super) fn run(self) -> Result<(), CliError> {
        match self {
            Self::List(List { location, show, connect }) => {
                let subnets = connect.client()?.all("/subnets", &[("location", location.as_deref())])?;
                show.list(&subnets, COLUMNS);
                Ok(())
            }
            Self::Show(One { net, show, connect }) => {
                let subnet = connect.client()?.get(&format!("/subnets/{}", escape(&net)))?;
                show.one(&subnet, |subnet| lines(subnet, COLUMNS));
                Ok(())
            }
            Self::Add(Add { net, location, gateway, nameservers, reserved, connect }) => {
                let body = object([
                    ("net", net.into()),
                    ("location", location.into()),
                    ("gateway", or_null(gateway)),
                    ("nameservers", or_null(nameservers)),
                    ("reserved", or_null(reserved)),
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
    pub(super) fn run(self) -> Result<(), CliError> {
        match self {
            Self::List(AddressList { subnet, show, connect }) => {
                let addresses = connect.client()?.all("/addresses", &[("subnet", subnet.as_deref())])?;
                show.list(&addresses, ADDRESSES);
                Ok(())
            }
            Self::Reclaim(Reclaim { address, connect }) => {
                connect.client()?.delete(&format!("/addresses/{}", escape(&address)))?;
                print(&format!("{address} is free\n"));
                Ok(())
            }
        }
    }
}
