//! Boot scripts for iPXE, from typed values.
//!
//! The site's medium carries [`site`]; it, or a NIC's own iPXE, fetches [`dispatch`], which is the same for every
//! machine and asks for this machine's own script: [`machine`], [`wait`] or [`hand_over`].
//! One loop, in `dispatch`, does all the asking again: the others come to an end and leave it to that loop, so that
//! scripts never nest deeper and deeper, and each attempt gets a fresh ticket.
//! No script ever ends in a shell or, silently, in the firmware's boot menu.
//!
//! Written for two iPXE versions: that of 2019 in Debian 12 and in QEMU's NIC ROMs, and that of 2025 in Debian 13.
//! Lines end in LF, and everything is ASCII: iPXE's consoles know nothing else.
//! This file decides nothing: which script a machine gets is the controller's business.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use muster_protocol::cmdline;
use muster_protocol::enroll::{SiteCredential, Ticket};
use muster_protocol::{Digest, Mac};

use crate::param::{BootUrl, Endpoint, Location, Site};

/// Path of [`dispatch`] on the controller's listeners for HTTP and HTTPS.
pub const DISPATCH_PATH: &str = "/boot.ipxe";
/// Path of the per-machine scripts; the query carries `uuid`, `serialhex`, `macs` (written with hyphens, separated by
/// commas, some of them empty), `location` and `credential` (possibly empty), `platform` (`pcbios` or `efi`) and `ipxe` (its version).
/// Each may hold anything: the iPXE of 2019 writes bytes over 127 as `%FFFFFFFFFFFFC3`.
pub const SCRIPT_PATH: &str = "/boot/script";
/// Path of the kernel.
pub const KERNEL_PATH: &str = "/boot/kernel";
/// Path of the initramfs.
pub const INITRAMFS_PATH: &str = "/boot/initramfs";
/// Path of one more initramfs, with the network that is handed to a machine; the query carries the `ticket` of its script.
pub const NETWORK_PATH: &str = "/boot/network";

/// The kernel's view of a 2,048-byte command line (COMMAND_LINE_SIZE in arch/x86), less what iPXE puts in for
/// [`cmdline::LEASE`].
const CONTROLLERS_MAX: usize = 16;

/// How an ISO is called: the first 12 hex digits of its credential's digest.
pub fn iso_id(credential: &Digest) -> String {
    credential.to_string()[..12].to_owned()
}

/// How a medium asks its controllers. What comes after its first request goes the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// In the clear, at the ports that the site names.
    Http,
    /// Of a controller that proves to be one, at this port.
    Https {
        /// TCP.
        port: u16,
    },
}

/// The script on a site's medium: brings up one NIC after the other, tries every controller over each, for ever.
///
/// A NIC that got an address but leads to no controller is closed again, so that the next one's routes count.
///
/// Over HTTP, `credential` travels in the clear to whoever answers as a controller: it is worth what a policy makes of it,
/// until its ISO is revoked.
pub fn site(site: &Site, credential: Option<&SiteCredential>, scheme: Scheme) -> String {
    let Site { location, controllers } = site;
    let vouched = credential.map(|credential| format!("set credential {credential}\n")).unwrap_or_default();
    let name = credential.map(|credential| format!(", ISO {}", iso_id(&credential.digest()))).unwrap_or_default();
    // Else iPXE asks its project's server to vouch for a CA that it does not know.
    let alone = if scheme == Scheme::Http { "" } else { "set crosscert none:\n" };
    let mut script = format!(
        "#!ipxe
# Muster: boot medium of location {location}{name}.
# Tries every NIC and every controller in turn, for ever.
set medium site
{vouched}{alone}set round:int32 1
:round
echo Muster: location {location}{name}, round ${{round:int32}}
set nic:int32 0
:nic
isset ${{net${{nic:int32}}/mac}} || goto last_nic
ifclose ||
echo Muster: net${{nic:int32}} ${{net${{nic:int32}}/mac}} waits for a link and an address
"
    );
    // Both, one after the other: a machine may get its IPv4 address where only IPv6 leads to the controller.
    let ipv6 = if controllers.iter().any(Endpoint::may_be_ipv6) {
        "ifconf --configurator ipv6 net${nic:int32} && set up yes ||\n"
    } else {
        ""
    };
    let _ = write!(
        script,
        "clear up ||
dhcp net${{nic:int32}} && set up yes ||
{ipv6}isset ${{up}} || goto next_nic
echo Muster: net${{nic:int32}} has ${{netX/ip}} gateway ${{netX/gateway}}
"
    );
    for controller in controllers {
        let url = match scheme {
            Scheme::Http => format!("http://{controller}"),
            Scheme::Https { port } => format!("https://{}", controller.at_port(port)),
        };
        let _ = write!(
            script,
            "echo Muster: asking {url}
chain --autofree --timeout 15000 {url}{DISPATCH_PATH}?location={location} ||
iseq ${{starts}} disk && exit 1 ||
"
        );
    }
    script.push_str(":next_nic\necho Muster: net${nic:int32} leads to no controller\n");
    if scheme != Scheme::Http {
        script.push_str("echo Muster: they are asked by HTTPS alone; where they answer and it does not work, this medium is of another boot CA: make it anew\n");
    }
    script.push_str(
        "inc nic
goto nic
:last_nic
iseq ${nic:int32} 0 && echo Muster: no NIC found that iPXE has a driver for ||
inc round
sleep 5
iseq ${round:int32} 30 || goto round
echo Muster: nothing answered in 30 rounds, starting the machine again
sleep 5
reboot
",
    );
    script
}

/// `/boot.ipxe`: asks the controller that sent it for this machine's own script, again and again.
///
/// `location` is that of the request, where it named one.
/// After five failures in a row it goes back to the site's medium, which then tries the next NIC or controller; started
/// by a NIC's own iPXE, it starts the machine again.
pub fn dispatch(location: Option<&Location>) -> String {
    let set = location.map(|l| format!("set location {l}\n")).unwrap_or_default();
    // Of what firmware puts into a serial number, iPXE's escaping leaves some that no URL may hold: it goes as hex digits.
    // A colon anywhere in a relative URL, and iPXE takes what stands before it for a scheme: hence the hyphens.
    let macs = (0..8).map(|i| format!("${{net{i}/mac:hexhyp}}")).collect::<Vec<_>>().join(",");
    format!(
        "#!ipxe
# Muster: asks for this machine's own boot script. The same for every machine.
{set}:answered
iseq ${{starts}} disk && exit 1 ||
set failures:int32 0
:ask
echo Muster: asking for the boot script of this machine
chain --autofree --timeout 30000 {SCRIPT_PATH}?uuid=${{uuid}}&serialhex=${{serial:hexraw}}&macs={macs}\
&location=${{location}}&credential=${{credential}}&platform=${{platform}}&ipxe=${{version:uristring}} \
&& goto answered ||
inc failures
echo Muster: that failed, attempt ${{failures:int32}} of 5
iseq ${{failures:int32}} 5 && goto give_up ||
sleep 5
goto ask
:give_up
iseq ${{medium}} site && exit 1 ||
echo Muster: starting the machine again
sleep 5
reboot
"
    )
}

/// What a machine's own script carries.
#[derive(Debug, Clone, Copy)]
pub struct Machine<'a> {
    /// The controllers' QUIC listeners, in the order in which the agent tries them; the first 16 count.
    pub controllers: &'a [Endpoint],
    /// SHA-256 of the controller CA's certificate in DER.
    pub ca: Digest,
    /// Leave to enroll once. The script is as secret as this.
    pub ticket: &'a Ticket,
    /// The controller's clock, in seconds since 1970 UTC.
    pub time_unix_s: u64,
    /// What the agent begins with.
    pub network: Network,
}

/// The network that the agent begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Every NIC asks for an address.
    AsItBoots,
    /// The one at [`NETWORK_PATH`]. A machine that does not get it starts all the same.
    Handed,
}

/// The script that starts the agent: kernel and initramfs from the controller that sent this script.
pub fn machine(machine: &Machine<'_>) -> String {
    let Machine { controllers, ca, ticket, time_unix_s, network } = machine;
    let lease = ["mac", "ip", "netmask", "gateway", "dns", "dhcp-server"].map(|part| format!("${{netX/{part}}}"));
    // First in memory: what follows it there may have any length, and it may not begin anywhere (the kernel's
    // init/initramfs.c). UEFI starts no kernel that names a file which is not there.
    let (handed, named) = match network {
        Network::AsItBoots => (String::new(), ""),
        Network::Handed => (
            format!(
                "echo Muster: loading the network of this machine
clear handed ||
initrd --name network --timeout 30000 {NETWORK_PATH}?ticket={ticket} && set handed initrd=network ||
"
            ),
            "${handed} ",
        ),
    };
    let arguments = [
        format!("{named}{INITRD_NAME}"),
        common(controllers, *ca),
        format!("{}={ticket}", cmdline::TICKET),
        format!("{}={time_unix_s}", cmdline::TIME),
        format!("{}={}", cmdline::LEASE, lease.join(",")),
    ]
    .join(" ");
    format!(
        "#!ipxe
# Muster: starts the agent. Nothing on a disk is touched.
imgfree
{handed}echo Muster: loading the kernel
kernel --name kernel --timeout 600000 {KERNEL_PATH} {arguments} || goto failed
echo Muster: loading the agent and its drivers
initrd --name initramfs --timeout 600000 {INITRAMFS_PATH} || goto failed
echo Muster: starting
boot kernel ||
:failed
imgfree
echo Muster: the kernel did not start
exit 1
"
    )
}

/// UEFI: the kernel's stub asks iPXE for the initramfs by this name. BIOS: nobody reads it.
const INITRD_NAME: &str = "initrd=initramfs";

/// What every kernel is told.
fn common(controllers: &[Endpoint], ca: Digest) -> String {
    let controllers: Vec<_> = controllers.iter().take(CONTROLLERS_MAX).map(ToString::to_string).collect();
    [
        // The last console is /dev/console; a machine without a serial port falls back to its screen.
        "console=tty0 console=ttyS0,115200".to_owned(),
        // Kernel chatter at 115,200 baud takes seconds. Without an agent the machine starts again instead of hanging.
        "quiet panic=10".to_owned(),
        // A tmpfs would let the initramfs have only half of the memory.
        "rootfstype=ramfs".to_owned(),
        format!("{}={}", cmdline::CONTROLLER, controllers.join(",")),
        format!("{}={ca}", cmdline::CA),
    ]
    .join(" ")
}

/// What a sealed medium tells its kernel: whom to dial and whom to believe, and by whose leave to join.
pub fn sealed_arguments(site: &Site, ca: Digest, credential: &SiteCredential) -> String {
    format!("{} {}={credential}", common(&site.controllers, ca), cmdline::SITE)
}

/// The script on a sealed medium for UEFI machines: starts the kernel that lies beside iPXE, and asks nobody.
///
/// `file:` is the volume that iPXE was started from. It starts no UEFI program before it has opened a NIC, so NICs are
/// opened, and nothing is sent. `arguments` are [`sealed_arguments`].
pub fn sealed(site: &Site, credential: &SiteCredential, arguments: &str) -> String {
    let (location, id) = (&site.location, iso_id(&credential.digest()));
    format!(
        "#!ipxe
# Muster: sealed boot medium of location {location}, ISO {id}. Nothing on a disk is touched.
echo Muster: location {location}, sealed ISO {id}
kernel --name kernel file:/kernel {INITRD_NAME} {arguments} || goto failed
initrd --name initramfs file:/initramfs || goto failed
ifopen ||
boot kernel ||
echo Muster: the kernel did not start; iPXE needs a NIC that it or the firmware knows
goto again
:failed
echo Muster: the medium cannot be read
:again
echo Muster: starting the machine again
sleep 10
reboot
"
    )
}

/// Why a machine is not started now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// An operator rejected it.
    Rejected,
    /// The controller has no kernel and initramfs to give.
    NoImage,
    /// The controller cannot answer now.
    Busy,
    /// Its ISO was revoked, or is not known here.
    Revoked,
    /// It came without an ISO's credential, and one is asked for.
    NoCredential,
}

/// The script for a machine that is not started now: says why, sleeps, and lets [`dispatch`] ask again.
pub fn wait(why: Wait) -> String {
    let (why, seconds) = match why {
        Wait::Rejected => ("this machine was rejected by an operator", 60),
        Wait::NoImage => ("the controller has no boot image yet, build one with: muster image build", 15),
        Wait::Busy => ("the controller cannot start this machine now", 10),
        Wait::Revoked => ("this boot medium was revoked, start the machine from another one", 60),
        Wait::NoCredential => ("this machine is new here and must be started from its site's ISO", 60),
    };
    format!(
        "#!ipxe
echo Muster: {why}
echo Muster: asking again in {seconds} seconds
sleep {seconds}
exit 0
"
    )
}

/// The script for a machine that starts from its disk.
///
/// BIOS: from the first disk that the firmware knows, or, where that is none, from what comes next in the firmware's order.
/// UEFI: iPXE ends with a failure, up to the firmware, which goes on to its next entry: after a success it would show its menu.
pub fn from_disk() -> String {
    "#!ipxe
imgfree
echo Muster: starting from the disk
iseq ${platform} pcbios && sanboot --no-describe --drive 0x80 ||
set starts disk
exit 0
"
    .to_owned()
}

/// The network that a machine has at a boot target, where it is not what its DHCP server says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Static {
    /// Of the NIC that gets it.
    pub mac: Mac,
    /// Its address.
    pub address: Ipv4Net,
    /// The router.
    pub gateway: Option<Ipv4Addr>,
    /// The resolver; iPXE asks one.
    pub nameserver: Option<Ipv4Addr>,
}

/// How long a machine waits before it asks again what to start, after a boot target that it was not given.
const HAND_OVER_PAUSE_S: u32 = 10;

/// The script that gives the machine to somebody else's boot program, such as a lease holder's.
///
/// Where that ends or is not given, the machine has the network again that it came with, and [`dispatch`] asks again: the
/// controller's answer may be another one by then.
pub fn hand_over(target: &BootUrl, network: Option<&Static>) -> String {
    let mut script = "#!ipxe\nimgfree\n".to_owned();
    if let Some(Static { mac, address, gateway, nameserver }) = network {
        let (ip, netmask) = (address.addr(), address.netmask());
        let _ = write!(
            script,
            "clear taken ||
set nic:int32 0
:nic
isset ${{net${{nic:int32}}/mac}} || goto no_nic
iseq ${{net${{nic:int32}}/mac}} {mac} && goto found ||
inc nic
goto nic
:found
echo Muster: net${{nic:int32}} takes the address of its lease, {address}
ifclose ||
set net${{nic:int32}}/ip {ip}
set net${{nic:int32}}/netmask {netmask}
"
        );
        for (name, address) in [("gateway", gateway), ("dns", nameserver)] {
            if let Some(address) = address {
                let _ = writeln!(script, "set net${{nic:int32}}/{name} {address}");
            }
        }
        script.push_str(
            "ifopen net${nic:int32} ||
set taken yes
goto start
:no_nic
echo Muster: iPXE does not know the NIC of the lease, going on with what it has
:start
",
        );
    }
    let _ = write!(
        script,
        "echo Muster: this machine is leased, starting {target}
chain --autofree --timeout 120000 {target} || echo Muster: it was not given; permission is denied until the lease holder has heard of this machine
"
    );
    if network.is_some() {
        script.push_str(
            "isset ${taken} || goto again
clear net${nic:int32}/ip ||
clear net${nic:int32}/netmask ||
clear net${nic:int32}/gateway ||
clear net${nic:int32}/dns ||
ifclose ||
dhcp net${nic:int32} || ifconf --configurator ipv6 net${nic:int32} ||
:again
",
        );
    }
    let _ = write!(
        script,
        "echo Muster: asking the controller again in {HAND_OVER_PAUSE_S} seconds
sleep {HAND_OVER_PAUSE_S}
exit 0
"
    );
    script
}
