//! What an agent is told when it starts: on the kernel command line as PID 1, by arguments as an ordinary process.
//!
//! Both become one [`Options`]. Nothing is read or opened here: texts in, values out, and errors that name the parameter
//! and what would be right.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::Ipv4Net;
use muster_protocol::desired::Network;
use muster_protocol::enroll::Leave;
use muster_protocol::inventory::Leaves;
use muster_protocol::{BootId, Digest, Generation, Mac, cmdline};

use crate::keep::Keep;

/// What `--help` prints.
pub const HELP: &str = "\
muster-agent reports what this machine is made of to a Muster controller, and changes it only where it is told to manage.

Usage: muster-agent --controller HOST:PORT[,HOST:PORT…] --ca HEX [--ticket HEX] [--manage AREAS] [--state DIR]

  --controller HOST:PORT   where the controller listens for agents (UDP, usually port 8443); several with commas
  --ca HEX                 SHA-256 of the controller's CA certificate, 64 hex digits
  --ticket HEX             the ticket to enroll with, 64 hex digits; not needed again while the certificate is good
  --manage AREAS           what it may change: network, storage, power, with commas; nothing by default
  --state DIR              where its key and certificate are kept, /run/muster-agent by default
  --help, --version        print this, or the version, and end

Exit codes: 0 ended as asked, 1 refused or failed, 2 wrong usage.
As PID 1 it takes the same from the kernel command line (muster.controller=, muster.ca=, muster.ticket=) and never ends.";

/// UDP port of a controller whose address does not say.
const DEFAULT_PORT: u16 = 8443;

/// Everything an agent is told.
#[derive(Debug, Clone)]
pub struct Options {
    /// Controllers, in the order in which they are tried; never empty.
    pub controllers: Vec<Endpoint>,
    /// The only CA that is trusted: SHA-256 of its certificate in DER.
    pub ca: Digest,
    /// To enroll with; `None` where a certificate is expected to be there.
    pub leave: Option<Leave>,
    /// The time when the agent starts, as far as the boot script tells, in seconds since 1970 UTC; 0 where it tells nothing.
    pub time_unix_s: u64,
    /// The lease that iPXE holds.
    pub lease: Option<Lease>,
    /// The network that was confirmed last before this boot, and which generation it is, where the boot script gave it.
    pub handed: Option<(Generation, Network)>,
    /// What may be changed.
    pub manage: Manage,
    /// Where key, certificate and unfinished work are kept.
    pub keep: Keep,
    /// This run.
    pub boot: BootId,
    /// What to do when a controller does not let the machine in.
    pub refused: WhenRefused,
    /// How often things are done.
    pub pace: Pace,
}

/// What to do when a controller refuses an enrollment for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenRefused {
    /// End: whoever started the process can give it a new ticket.
    End,
    /// Keep trying, and where a new ticket would help boot again to get one: nobody stands in front of the machine.
    BootAgain,
}

/// One controller's address: a name or an IP, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// DNS name, IPv4 or IPv6 address without brackets.
    pub host: String,
    /// UDP port.
    pub port: u16,
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// What an agent may change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Manage {
    /// Links, addresses, routes, resolvers.
    pub network: bool,
    /// Partitions, filesystems, mounts, wiping.
    pub storage: bool,
    /// Reboot and power off.
    pub power: bool,
}

impl Manage {
    /// Everything: what PID 1's agent may do.
    pub const ALL: Self = Self { network: true, storage: true, power: true };

    /// The rest.
    pub fn leaves(self) -> Leaves {
        let Self { network, storage, power } = self;
        Leaves { network: !network, storage: !storage, power: !power }
    }
}

/// How often an agent does things. Simulated fleets choose other figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Between two looks at the hardware.
    pub rescan: Duration,
    /// Between two times that drives are asked how they are.
    pub health: Duration,
    /// The longest wait before the second attempt to reach a controller; it doubles with each further one.
    pub backoff_first: Duration,
    /// What the doubling ends at.
    pub backoff_limit: Duration,
    /// After this, and up to twice this, a machine that never got in and whose ticket is no good boots for another.
    pub boot_again: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            rescan: Duration::from_secs(10),
            health: Duration::from_secs(3600),
            backoff_first: Duration::from_millis(500),
            backoff_limit: Duration::from_secs(30),
            boot_again: Duration::from_secs(180),
        }
    }
}

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

/// What the arguments of an ordinary process ask for.
#[derive(Debug)]
pub enum Command {
    /// Print [`HELP`].
    Help,
    /// Print the version.
    Version,
    /// Run.
    Run(Box<Options>),
}

/// A parameter that is missing or wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{parameter}: {problem}")]
pub struct OptionsError {
    /// As it was to be written: `--ca`, `muster.ca=`.
    pub parameter: String,
    /// What is wrong, and what would be right.
    pub problem: String,
}

impl OptionsError {
    fn new(parameter: &str, problem: impl ToString) -> Self {
        Self { parameter: parameter.to_owned(), problem: problem.to_string() }
    }
}

/// Reads the arguments of an ordinary process, program name left out.
pub fn from_arguments(mut arguments: impl Iterator<Item = String>, boot: BootId) -> Result<Command, OptionsError> {
    let (mut controllers, mut ca, mut leave) = (None, None, None);
    let mut manage = Manage::default();
    let mut state = PathBuf::from("/run/muster-agent");
    while let Some(argument) = arguments.next() {
        let (name, mut inline) = match argument.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (argument, None),
        };
        let mut value = || {
            inline
                .take()
                .or_else(|| arguments.next())
                .ok_or_else(|| OptionsError::new(&name, "needs a value; see --help"))
        };
        match name.as_str() {
            "--help" | "-h" => return Ok(Command::Help),
            "--version" | "-V" => return Ok(Command::Version),
            "--controller" => controllers = Some(endpoints(&name, &value()?)?),
            "--ca" => ca = Some(value()?.parse().map_err(|e| OptionsError::new(&name, e))?),
            "--ticket" => leave = Some(Leave::Ticket(value()?.parse().map_err(|e| OptionsError::new(&name, e))?)),
            "--manage" => manage = areas(&name, &value()?)?,
            "--state" => state = value()?.into(),
            _ => return Err(OptionsError::new(&name, "is not known; see --help")),
        }
        if inline.is_some() {
            return Err(OptionsError::new(&name, "takes no value"));
        }
    }
    Ok(Command::Run(Box::new(Options {
        controllers: controllers.ok_or_else(|| OptionsError::new("--controller", "is missing; give HOST:PORT"))?,
        ca: ca.ok_or_else(|| OptionsError::new("--ca", "is missing; give the SHA-256 of the controller's CA"))?,
        leave,
        time_unix_s: 0,
        lease: None,
        handed: None,
        manage,
        keep: Keep::Folder(state),
        boot,
        refused: WhenRefused::End,
        pace: Pace::default(),
    })))
}

/// Reads the kernel command line. Parameters of other programs are passed over.
///
/// What the agent can do without (time, lease) is ignored where it is malformed; the second value says so.
pub fn from_cmdline(text: &str, boot: BootId) -> Result<(Options, Vec<OptionsError>), OptionsError> {
    // As for the kernel itself, the last of two wins.
    let find = |name: &str| {
        let value = |word: &str| word.strip_prefix(name)?.strip_prefix('=').map(str::to_owned);
        text.split_ascii_whitespace().rev().find_map(value)
    };
    let shown = |name: &str| format!("kernel parameter {name}=");
    let need = |name: &str| {
        let absent = "is missing; the boot script of the controller gives it, so boot this machine through that script";
        find(name).ok_or_else(|| OptionsError::new(&shown(name), absent))
    };
    let mut ignored = Vec::new();
    let controllers = endpoints(&shown(cmdline::CONTROLLER), &need(cmdline::CONTROLLER)?)?;
    let ca = need(cmdline::CA)?.parse().map_err(|e| OptionsError::new(&shown(cmdline::CA), e))?;
    let wrong = |name: &'static str| move |e| OptionsError::new(&shown(name), e);
    let leave = match (find(cmdline::TICKET), find(cmdline::SITE)) {
        (None, None) => None,
        (Some(text), _) => Some(Leave::Ticket(text.parse().map_err(wrong(cmdline::TICKET))?)),
        (None, Some(text)) => Some(Leave::Site(text.parse().map_err(wrong(cmdline::SITE))?)),
    };
    let time_unix_s = match find(cmdline::TIME).map(|text| text.parse()) {
        None => 0,
        Some(Ok(seconds)) => seconds,
        Some(Err(_)) => {
            ignored.push(OptionsError::new(&shown(cmdline::TIME), "is no number of seconds; ignored"));
            0
        }
    };
    let lease = match find(cmdline::LEASE).map(|text| lease(&text)) {
        None => None,
        Some(Ok(lease)) => lease,
        Some(Err(problem)) => {
            ignored.push(OptionsError::new(&shown(cmdline::LEASE), format!("{problem}; ignored, DHCP is asked")));
            None
        }
    };
    let keep = Keep::Folder("/run/muster".into());
    let manage = Manage::ALL;
    let (refused, pace) = (WhenRefused::BootAgain, Pace::default());
    let handed = None;
    Ok((Options { controllers, ca, leave, time_unix_s, lease, handed, manage, keep, boot, refused, pace }, ignored))
}

impl Options {
    /// For an agent that starts so long after the kernel: the script's time is that of the kernel's start, and the agent may
    /// have been started again many days later.
    pub fn since_kernel(mut self, passed: Duration) -> Self {
        if self.time_unix_s > 0 {
            self.time_unix_s = self.time_unix_s.saturating_add(passed.as_secs());
        }
        self
    }
}

fn endpoints(parameter: &str, text: &str) -> Result<Vec<Endpoint>, OptionsError> {
    text.split(',').map(|part| endpoint(part).map_err(|problem| OptionsError::new(parameter, problem))).collect()
}

/// `host`, `host:port`, `[2001:db8::1]:port`, or an IPv6 address alone.
fn endpoint(text: &str) -> Result<Endpoint, String> {
    let wrong = || format!("{text:?} is no address like controller.example:8443 or [2001:db8::1]:8443");
    let (host, port) = match text.strip_prefix('[').map(|rest| rest.split_once(']')) {
        Some(Some((host, rest))) => (host, rest.strip_prefix(':')),
        Some(None) => return Err(wrong()),
        None if text.matches(':').count() > 1 => (text, None),
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let port = port.map_or(Ok(DEFAULT_PORT), str::parse).map_err(|_| wrong())?;
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | ':' | '%');
    if host.is_empty() || host.len() > 255 || port == 0 || !host.chars().all(legal) {
        return Err(wrong());
    }
    Ok(Endpoint { host: host.to_owned(), port })
}

fn areas(parameter: &str, text: &str) -> Result<Manage, OptionsError> {
    let mut manage = Manage::default();
    for area in text.split(',') {
        match area {
            "network" => manage.network = true,
            "storage" => manage.storage = true,
            "power" => manage.power = true,
            _ => {
                let problem = format!("{area:?} is none of network, storage, power");
                return Err(OptionsError::new(parameter, problem));
            }
        }
    }
    Ok(manage)
}

/// `mac,address,netmask,gateway,dns,dhcp-server`; without MAC or address there is no lease to take over.
fn lease(text: &str) -> Result<Option<Lease>, String> {
    let parts: Vec<&str> = text.split(',').collect();
    let [mac, address, netmask, gateway, dns, server] = parts[..] else {
        return Err(format!("has {} parts, not the 6 of mac,address,netmask,gateway,dns,dhcp-server", parts.len()));
    };
    if mac.is_empty() || address.is_empty() {
        return Ok(None);
    }
    let ip = |text: &str| text.parse::<Ipv4Addr>().map_err(|_| format!("{text:?} is no IPv4 address"));
    let maybe = |text: &str| if text.is_empty() { Ok(None) } else { ip(text).map(Some) };
    let mac = mac.parse().map_err(|e: muster_protocol::ids::IdError| e.to_string())?;
    let address =
        Ipv4Net::with_netmask(ip(address)?, ip(netmask)?).map_err(|_| format!("{netmask:?} is no netmask"))?;
    Ok(Some(Lease { mac, address, gateway: maybe(gateway)?, dns: maybe(dns)?, server: maybe(server)? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn boot() -> BootId {
        BootId::from_bytes([7; 16])
    }

    fn arguments(text: &str) -> Result<Command, OptionsError> {
        from_arguments(text.split_whitespace().map(str::to_owned), boot())
    }

    #[test]
    fn the_kernel_command_line_gives_everything() {
        let text = format!(
            "BOOT_IMAGE=kernel quiet muster.controller=10.0.2.2:8443,[2001:db8::1]:9,c.example muster.ca={HEX} \
             muster.ticket={HEX} muster.time=1790000000 muster.lease=52:54:00:12:34:56,10.0.2.15,255.255.255.0,10.0.2.2,,10.0.2.2\n"
        );
        let (options, ignored) = from_cmdline(&text, boot()).expect("reads");
        assert_eq!(ignored, []);
        let shown: Vec<String> = options.controllers.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["10.0.2.2:8443", "[2001:db8::1]:9", "c.example:8443"]);
        assert_eq!(options.time_unix_s, 1_790_000_000);
        let lease = options.lease.expect("a lease");
        assert_eq!(lease.address.to_string(), "10.0.2.15/24");
        assert_eq!((lease.gateway, lease.dns), (Some(Ipv4Addr::new(10, 0, 2, 2)), None));
        assert_eq!(options.manage, Manage::ALL);
    }

    #[test]
    fn a_sealed_medium_gives_its_credential_in_place_of_a_ticket() {
        let with = |leave: &str| from_cmdline(&format!("muster.controller=a muster.ca={HEX} {leave}"), boot());
        let (options, ignored) = with(&format!("muster.site={HEX}")).expect("reads");
        assert_eq!((options.leave, ignored), (Some(Leave::Site(HEX.parse().expect("hex"))), vec![]));
        let error = with("muster.site=secret").expect_err("no credential").to_string();
        assert!(error.starts_with("kernel parameter muster.site=: ") && !error.contains("secret"), "{error}");
    }

    #[test]
    fn an_agent_that_is_started_again_days_later_counts_them() {
        let with = |time: &str| {
            let text = format!("muster.controller=a muster.ca={HEX} muster.ticket={HEX} {time}");
            from_cmdline(&text, boot()).expect("reads").0.since_kernel(Duration::from_secs(3 * 24 * 3600)).time_unix_s
        };
        assert_eq!(with("muster.time=1790000000"), 1_790_000_000 + 3 * 24 * 3600);
        assert_eq!(with("muster.time=18446744073709551615"), u64::MAX);
        assert_eq!(with(""), 0, "no time plus three days is no time");
    }

    #[test]
    fn an_empty_or_malformed_lease_means_dhcp() {
        let with = |lease: &str| {
            let text = format!("muster.controller=a muster.ca={HEX} muster.ticket={HEX} muster.lease={lease}");
            from_cmdline(&text, boot()).expect("reads")
        };
        for (lease, complaints) in
            [(",,,,,", 0), ("52:54:00:12:34:56,,,,,", 0), ("x", 1), ("52:54:00:12:34:56,10.0.0.1,255.0.255.0,,,", 1)]
        {
            let (options, ignored) = with(lease);
            assert_eq!((options.lease, ignored.len()), (None, complaints), "{lease}");
        }
    }

    #[test]
    fn what_is_missing_is_named_with_its_remedy() {
        let error = from_cmdline("quiet", boot()).expect_err("incomplete");
        assert!(error.to_string().starts_with("kernel parameter muster.controller=: is missing; the boot script"));
        let error = from_cmdline("muster.controller=a:x", boot()).expect_err("no port");
        assert!(error.problem.contains("controller.example:8443"), "{error}");
        let error = from_cmdline(&format!("muster.controller=a muster.ca={HEX} muster.ticket=secret"), boot())
            .expect_err("no ticket");
        assert!(!error.to_string().contains("secret"), "a ticket is never repeated");
    }

    #[test]
    fn an_ordinary_process_manages_nothing_unless_told() {
        let Ok(Command::Run(options)) = arguments(&format!("--controller=a:1 --ca {HEX}")) else { panic!("runs") };
        assert_eq!(options.manage, Manage::default());
        let Ok(Command::Run(options)) = arguments(&format!("--controller a:1 --ca {HEX} --manage network,power"))
        else {
            panic!("runs")
        };
        assert_eq!(options.manage, Manage { network: true, storage: false, power: true });
        assert!(matches!(arguments("--help"), Ok(Command::Help)));
        assert!(matches!(arguments("-V"), Ok(Command::Version)));
    }

    #[test]
    fn wrong_arguments_are_named() {
        for (text, parameter) in [
            ("", "--controller"),
            ("--controller a", "--ca"),
            ("--controller a --ca 12", "--ca"),
            ("--controller", "--controller"),
            ("--controller a,,b", "--controller"),
            ("--controller [::1 ", "--controller"),
            ("--controller a:0", "--controller"),
            ("--manage everything", "--manage"),
            ("--verbose", "--verbose"),
            ("stray", "stray"),
        ] {
            assert_eq!(arguments(text).expect_err(text).parameter, parameter, "{text}");
        }
    }
}
