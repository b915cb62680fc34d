//! A site with one machine in the calling thread's namespace: two switch ports, a DHCP server, a router with the controller
//! behind it.
//!
//! ```text
//!                       ┌ untagged  10.77.0.0/24   fd77::/64      router .1, ::1   DHCP, router advertisements
//!  machine ┬─ port ─────┤
//!          │            ├ VLAN 42   10.77.42.0/24  fd77:42::/64   router .1, ::1
//!          └─ spare ────┤
//!                       └ untagged  nobody
//!  controller: 10.99.0.1 and fd99::1, behind the router in both of them
//! ```

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use muster_protocol::VlanTag;

use crate::child::Process;
use crate::eventually;
use crate::lab::SOON;
use crate::namespace::ip;
use crate::qemu::Net;
use crate::switch::{Fault, Lost, Port, Switch, Tap};

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
        let [plain, office, nobody] = [VlanTag::try_from(1)?, VlanTag::try_from(42)?, VlanTag::try_from(2)?];
        let tap = |name: &str, vlan, addresses: [&str; 2]| Tap {
            name: name.into(),
            vlan,
            addresses: addresses.map(str::to_owned).into(),
        };
        let switch = Switch::start(
            &[Port { untagged: plain, tagged: vec![office] }, Port { untagged: nobody, tagged: vec![office] }],
            &[
                tap("plain", plain, ["10.77.0.1/24", "fd77::1/64"]),
                tap("office", office, ["10.77.42.1/24", "fd77:42::1/64"]),
            ],
        )?;
        let options = "--interface=plain --dhcp-range=fd77::,ra-only --dhcp-boot=http://10.77.0.1:8080/boot.ipxe \
                       --dhcp-range=10.77.0.100,10.77.0.200,255.255.255.0,2m --dhcp-option=option:router,10.77.0.1";
        let dhcp = serve_dhcp(options, folder)?;
        Ok(Self { switch, _dhcp: dhcp })
    }

    /// The port that the machine's NIC is plugged into.
    pub fn port(&self) -> Net {
        self.switch.net(0)
    }

    /// The port of a second one.
    pub fn spare(&self) -> Net {
        self.switch.net(1)
    }

    /// From now on the switch loses this in the VLAN of this tag, and nothing else; the untagged one is 1.
    pub fn lose(&self, tag: u16, lost: Lost) -> Result<()> {
        self.switch.set_faults(&[Fault { vlan: VlanTag::try_from(tag)?, lost }]);
        Ok(())
    }
}

/// Starts dnsmasq in this thread's namespace with `options`, words without blanks in them, and waits until it serves; its
/// log and its leases lie in `folder`.
pub fn serve_dhcp(options: &str, folder: &Path) -> Result<Process> {
    let log = folder.join("dnsmasq.log");
    let mut dhcp = Command::new("dnsmasq");
    dhcp.args(
        "--keep-in-foreground --conf-file=/dev/null --user= --group= --port=0 --log-dhcp --log-facility=-".split(' '),
    )
    .args(["--bind-dynamic", "--enable-ra"])
    .args(options.split_whitespace())
    .arg(format!("--dhcp-leasefile={}", folder.join("leases").display()))
    // All that run at one time would write the same one.
    .arg(format!("--pid-file={}", folder.join("dnsmasq.pid").display()));
    let server = Process::start("dnsmasq", &mut dhcp, &log)?;
    eventually(SOON, "the DHCP server serves", || {
        let said = std::fs::read_to_string(&log)?;
        ensure!(said.contains("started, version"), "{said}");
        Ok(())
    })?;
    Ok(server)
}

/// Whether somebody has this address: a port that nobody listens on is refused by its owner, and by nobody else.
pub fn is_alive(address: IpAddr) -> Result<()> {
    match TcpStream::connect_timeout(&SocketAddr::new(address, 9), Duration::from_secs(2)) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => Ok(()),
        Err(e) => bail!("nobody is at {address}: {e}"),
    }
}
