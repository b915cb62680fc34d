//! A BMC with an address on the network, behind a virtual machine: OpenIPMI's simulator, which QEMU's IPMI device talks to.
//!
//! The machine sees it over a port of its own (KCS) and may ask for its address; operators and controllers talk to it by IPMI
//! over LAN, and what they switch is the machine.

use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::child::Process;
use crate::eventually;
use crate::lab::SOON;
use crate::namespace::ip;

/// Where QEMU finds it, on the namespace's loopback.
pub const INSIDE: u16 = 7623;

/// Who may sign in, with what.
pub const USER: &str = "admin";
/// See [`USER`].
pub const PASSWORD: &str = "lab-bmc";

/// What it says of its address; it asks for one parameter at a time.
const ADDRESS: &str = r#"#!/bin/sh
[ "$1" = get ] || exit 0
case $2 in
    ip_addr) echo "ip_addr:ADDRESS" ;;
    ip_addr_src) echo "ip_addr_src:static" ;;
    mac_addr) echo "mac_addr:MAC" ;;
    subnet_mask) echo "subnet_mask:255.255.255.0" ;;
    *) echo "$2:0.0.0.0" ;;
esac
"#;

/// `ipmi_sim`'s configuration; ipmi_lan(5), and `lan_config_program`, which that does not mention.
const CONFIGURATION: &str = r#"name "box"
set_working_mc 0x20
  startlan 1
    addr ADDRESS 623
    priv_limit admin
    allowed_auths_operator none md5
    allowed_auths_admin none md5
    guid a123456789abcdefa123456789abcdef
    lan_config_program "FOLDER/address"
  endlan
  serial 15 127.0.0.1 INSIDE codec VM ipmb 0x20
  startnow false
  user 1 true "" "nobody" user 1 none
  user 2 true "USER" "PASSWORD" admin 4 md5
"#;

/// One controller that knows no sensors; ipmi_sim_cmd(5).
const EMULATED: &str =
    "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr\nmc_enable 0x20\n";

/// Starts it in the calling thread's namespace, where it gets the address; what it writes lies in `folder`.
pub fn start(folder: &Path, address: Ipv4Addr, mac: &str) -> Result<Process> {
    std::fs::create_dir_all(folder.join("state"))?;
    ip(&["addr", "add", &format!("{address}/32"), "dev", "lo"])?;
    let at = folder.to_str().context("the path is UTF-8")?;
    let fill = |text: &str| {
        [("ADDRESS", address.to_string().as_str()), ("FOLDER", at), ("INSIDE", &INSIDE.to_string()), ("MAC", mac)]
            .into_iter()
            .chain([("USER", USER), ("PASSWORD", PASSWORD)])
            .fold(text.to_owned(), |text, (word, value)| text.replace(word, value))
    };
    let [script, configuration, emulated] = ["address", "lan.conf", "box.emu"].map(|name| folder.join(name));
    std::fs::write(&script, fill(ADDRESS))?;
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755))?;
    std::fs::write(&configuration, fill(CONFIGURATION))?;
    std::fs::write(&emulated, EMULATED)?;
    let mut command = Command::new("ipmi_sim");
    command.arg("-c").arg(&configuration).arg("-f").arg(&emulated).arg("-s").arg(folder.join("state"));
    let log = folder.join("log");
    let mut simulator = Process::start("ipmi_sim (package openipmi)", command.args(["-n", "-d"]), &log)?;
    eventually(SOON, "the BMC listens", || {
        ensure!(simulator.ended()?.is_none(), "it has ended: {}", std::fs::read_to_string(&log)?);
        let ports = std::fs::read_to_string("/proc/thread-self/net/tcp")?;
        ensure!(ports.contains(&format!("0100007F:{INSIDE:04X} 00000000:0000 0A")), "{ports}");
        Ok(())
    })?;
    Ok(simulator)
}
