//! What an agent is told when it starts, on the kernel command line or on its own.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use muster_protocol::Mac;

/// The lease that iPXE holds, handed over by the boot script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The NIC it is for.
    pub mac: Mac,
    /// Address and prefix length.
    pub address: Ipv4Net,
    /// Default gateway.
    pub gateway: Option<Ipv4Addr>,
    /// Resolver.
    pub dns: Option<Ipv4Addr>,
    /// Who gave it, and whom to ask to renew it.
    pub server: Option<Ipv4Addr>,
}
