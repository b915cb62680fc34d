//! A site with one machine in the calling thread's namespace: a switch port, a DHCP server, a router with the controller
//! behind it.
//!
//! ```text
//!                       ┌ untagged  10.77.0.0/24   fd77::/64      router .1, ::1   DHCP, router advertisements
//!  machine ── port ─────┤
//!                       └ VLAN 42   10.77.42.0/24  fd77:42::/64   router .1, ::1
//!  controller: 10.99.0.1 and fd99::1, behind the router in both of them
//! ```

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};
use muster_protocol::VlanTag;

use crate::child::Process;
use crate::namespace::ip;
use crate::qemu::Net;
use crate::switch::{Port, Switch, Tap};

/// The address that agents dial.
pub const CONTROLLER: &str = "10.99.0.1:8443";

/// See the module.
pub struct Site {
    switch: Switch,
    _dhcp: Process,
}

impl Site {
    /// Builds it in this thread's namespace; the DHCP server's log lies in `folder`.
    pub fn build(folder: &Path) -> Result<Self> {
        ip(&["addr", "add", "10.99.0.1/32", "dev", "lo"])?;
        ip(&["addr", "add", "fd99::1/128", "dev", "lo", "nodad"])?;
        let [plain, office] = [VlanTag::try_from(1)?, VlanTag::try_from(42)?];
        let tap = |name: &str, vlan, addresses: [&str; 2]| Tap {
            name: name.into(),
            vlan,
            addresses: addresses.map(str::to_owned).into(),
        };
        let switch = Switch::start(
            &[Port { untagged: plain, tagged: vec![office] }],
            &[
                tap("plain", plain, ["10.77.0.1/24", "fd77::1/64"]),
                tap("office", office, ["10.77.42.1/24", "fd77:42::1/64"]),
            ],
        )?;
        let mut dhcp = Command::new("dnsmasq");
        dhcp.args(
            "--keep-in-foreground --conf-file=/dev/null --user= --group= --port=0 --log-dhcp --log-facility=-"
                .split(' '),
        )
        .args("--interface=plain --bind-dynamic --enable-ra --dhcp-range=fd77::,ra-only".split(' '))
        .args("--dhcp-range=10.77.0.100,10.77.0.200,255.255.255.0,2m --dhcp-option=option:router,10.77.0.1".split(' '))
        .arg("--dhcp-boot=http://10.77.0.1:8080/boot.ipxe")
        .arg(format!("--dhcp-leasefile={}", folder.join("leases").display()));
        let dhcp = Process::start("dnsmasq", &mut dhcp, &folder.join("dnsmasq.log"))?;
        Ok(Self { switch, _dhcp: dhcp })
    }

    /// The port that the machine's NIC is plugged into.
    pub fn port(&self) -> Net {
        self.switch.net(0)
    }
}

/// Whether somebody has this address: a port that nobody listens on is refused by its owner, and by nobody else.
pub fn is_alive(address: IpAddr) -> Result<()> {
    match TcpStream::connect_timeout(&SocketAddr::new(address, 9), Duration::from_secs(2)) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => Ok(()),
        Err(e) => bail!("nobody is at {address}: {e}"),
    }
}
