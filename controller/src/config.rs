//! `muster.toml`: what the controller does differently from its defaults.
//!
//! Every key has a default that is right on a laptop.
//! A key that is not known is an error that names the nearest one, and every error names the line: a controller that
//! starts has understood its whole file. Read once, by `muster serve` and by the commands that work on its files.

use std::collections::BTreeSet;
use std::net::{Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use muster_ipxe::param::Endpoint;
use muster_protocol::drift::OnDrift;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::ial::Envelope;
use crate::pki::PublicFiles;

/// Where the configuration is looked for when no file is named.
pub const SYSTEM_FILE: &str = "/etc/muster/muster.toml";

/// The agents' UDP port, where nothing else is said.
const AGENTS_PORT: u16 = 8443;

/// Everything that can be configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Database, keys, images: everything durable.
    pub data: PathBuf,
    /// The data directory that the file names, where another one was given in its place.
    pub overridden: Option<PathBuf>,
    /// Where the controller listens.
    pub listen: Listen,
    /// Boot media over HTTP.
    pub boot: Boot,
    /// Agents.
    pub agents: Agents,
    /// HTTPS.
    pub https: Https,
    /// The audit log.
    pub audit: Audit,
    /// DHCP.
    pub dhcp: Dhcp,
    /// Cycle.
    pub ial: Ial,
}

/// `[listen]`: one address or a list of them, each with its port; an empty list switches that listener off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// QUIC, UDP.
    pub agents: Vec<SocketAddr>,
    /// HTTPS, TCP.
    pub https: Vec<SocketAddr>,
    /// HTTP for boot media, TCP.
    pub boot: Vec<SocketAddr>,
    /// HTTP for what leased machines are told of themselves, TCP; off by default.
    pub metadata: Vec<SocketAddr>,
}

/// `[boot]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    /// Where `muster image build` leaves kernel and initramfs; `images` in the data directory by default.
    pub images: PathBuf,
    /// The controllers that agents dial; empty for the address that the boot request was sent to.
    pub controllers: Vec<Endpoint>,
    /// How long a boot ticket is good: from the boot script to the agent's enrollment.
    pub ticket_lifetime: Duration,
    /// Whether a machine that is not in the fleet is only started from an ISO with a good site credential.
    pub require_credential: bool,
}

/// `[agents]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agents {
    /// How long an agent's certificate is good; it is renewed within the session.
    pub certificate_lifetime: Duration,
    /// How long a machine has to reach the controller after a change before it undoes it.
    pub confirm_within: Duration,
    /// What machines do where somebody changes their networks by hand, unless one of them is told otherwise.
    pub drift: OnDrift,
}

/// `[https]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Https {
    /// Names and addresses for the certificate, beside the host's own.
    pub names: Vec<String>,
    /// A certificate of another CA for the public name.
    pub files: Option<PublicFiles>,
}

/// `[audit]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// How long entries are kept.
    pub keep: Keep,
}

/// `[dhcp]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dhcp {
    /// Names of the interfaces on which machines are told the addresses that they have; nowhere by default.
    pub interfaces: Vec<String>,
    /// UDP port of the server, and of relays.
    pub port: u16,
    /// UDP port of clients.
    pub client_port: u16,
    /// For how long an address is told at most; no longer than its subnet's quarantine in any case.
    pub lease_time: Duration,
}

/// `[ial]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ial {
    /// How answers are wrapped.
    pub envelope: Envelope,
}

/// How long something is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// `all`
    All,
    /// For so long.
    For(Duration),
}

impl Config {
    /// The defaults for a controller whose data lies in `data`.
    pub fn with_data(data: PathBuf) -> Self {
        let any = |port| vec![SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))];
        Self {
            listen: Listen { agents: any(AGENTS_PORT), https: any(8443), boot: any(8080), metadata: Vec::new() },
            boot: Boot {
                images: data.join("images"),
                controllers: Vec::new(),
                ticket_lifetime: Duration::from_secs(10 * 60),
                require_credential: false,
            },
            agents: Agents {
                certificate_lifetime: Duration::from_secs(24 * 3600),
                confirm_within: Duration::from_secs(20),
                drift: OnDrift::Repair,
            },
            https: Https { names: Vec::new(), files: None },
            audit: Audit { keep: Keep::All },
            dhcp: Dhcp { interfaces: Vec::new(), port: 67, client_port: 68, lease_time: Duration::from_secs(10 * 60) },
            ial: Ial { envelope: Envelope::default() },
            data,
            overridden: None,
        }
    }

    /// The configuration that `muster serve` runs with.
    ///
    /// `file` is what the operator named; without it [`SYSTEM_FILE`] is read where there is one.
    /// `data` overrides the file's key.
    pub fn load(file: Option<&Path>, data: Option<PathBuf>) -> Result<Self, ConfigError> {
        let system = Path::new(SYSTEM_FILE);
        let file = file.or_else(|| system.exists().then_some(system));
        let text = match file {
            None => String::new(),
            Some(path) => {
                std::fs::read_to_string(path).map_err(|cause| ConfigError::Read { file: path.to_owned(), cause })?
            }
        };
        Self::parse(&text, data).map_err(|problem| ConfigError::Wrong {
            file: file.map(Path::to_owned).unwrap_or_default(),
            line: problem.line,
            what: problem.what,
        })
    }

    /// Reads the text of a configuration file.
    pub fn parse(text: &str, data: Option<PathBuf>) -> Result<Self, Problem> {
        let table = DeTable::parse(text).map_err(|e| Problem::at(text, e.span(), e.message().trim().to_owned()))?;
        let mut top = Section { text, name: "", table: table.get_ref(), known: BTreeSet::new() };
        let said = top.take("data", path)?;
        let mut config = Self::with_data(data.or_else(|| said.clone()).unwrap_or_else(default_data));
        config.overridden = said.filter(|said| *said != config.data);

        if let Some(mut listen) = top.section("listen")? {
            listen.set("agents", &mut config.listen.agents, addresses)?;
            listen.set("https", &mut config.listen.https, addresses)?;
            listen.set("boot", &mut config.listen.boot, addresses)?;
            listen.set("metadata", &mut config.listen.metadata, addresses)?;
            listen.finish()?;
        }
        if let Some(mut boot) = top.section("boot")? {
            boot.set("images", &mut config.boot.images, path)?;
            boot.set("controllers", &mut config.boot.controllers, controllers)?;
            // A machine may have to wait for a minute after the controller's start.
            boot.set("ticket_lifetime", &mut config.boot.ticket_lifetime, |v| duration(v, 120, 24 * 3600))?;
            boot.set("require_credential", &mut config.boot.require_credential, yes_or_no)?;
            boot.finish()?;
        }
        if let Some(mut agents) = top.section("agents")? {
            // The upper end of a certificate's life is what a thief of a running machine's RAM gets.
            agents.set("certificate_lifetime", &mut config.agents.certificate_lifetime, |v| {
                duration(v, 600, 30 * 24 * 3600)
            })?;
            // The bounds are those of `protocol::to_agent::Apply::confirm_within_s`.
            agents.set("confirm_within", &mut config.agents.confirm_within, |v| duration(v, 5, 300))?;
            agents.set("drift", &mut config.agents.drift, on_drift)?;
            agents.finish()?;
        }
        if let Some(mut https) = top.section("https")? {
            https.set("names", &mut config.https.names, |v| texts(v)?.into_iter().map(host).collect())?;
            let (certificate, key) = (https.take("certificate", path)?, https.take("key", path)?);
            let mut lacks = |there: &'static str, lacks: &str| {
                let what = format!("https.{there}: https.{lacks} is missing; a certificate is nothing without its key");
                Err(Problem::at(text, https.find(there).map(|value| value.span()), what))
            };
            config.https.files = match (certificate, key) {
                (Some(certificate), Some(key)) => Some(PublicFiles { certificate, key }),
                (Some(_), None) => return lacks("certificate", "key"),
                (None, Some(_)) => return lacks("key", "certificate"),
                (None, None) => None,
            };
            https.finish()?;
        }
        if let Some(mut audit) = top.section("audit")? {
            audit.set("keep", &mut config.audit.keep, keep)?;
            audit.finish()?;
        }
        if let Some(mut dhcp) = top.section("dhcp")? {
            dhcp.set("interfaces", &mut config.dhcp.interfaces, |v| texts(v)?.into_iter().map(interface).collect())?;
            dhcp.set("port", &mut config.dhcp.port, port)?;
            dhcp.set("client_port", &mut config.dhcp.client_port, port)?;
            dhcp.set("lease_time", &mut config.dhcp.lease_time, |v| duration(v, 120, 24 * 3600))?;
            dhcp.finish()?;
        }
        if let Some(mut ial) = top.section("ial")? {
            ial.set("envelope", &mut config.ial.envelope, envelope)?;
            ial.finish()?;
        }
        top.finish()?;
        Ok(config)
    }
}

/// `/var/lib/muster` for root, the user's own data folder for everybody else.
pub fn default_data() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/muster");
    }
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    // XDG base directory specification: XDG_DATA_HOME, else ~/.local/share.
    absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
        .map_or_else(|| PathBuf::from("muster-data"), |folder| folder.join("muster"))
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}", file.display())]
    Read {
        /// Which file.
        file: PathBuf,
        /// Why.
        #[source]
        cause: std::io::Error,
    },
    /// What it says is wrong.
    #[error("{}, line {line}: {what}", file.display())]
    Wrong {
        /// Which file.
        file: PathBuf,
        /// Counts from 1.
        line: usize,
        /// What is wrong and what would be right.
        what: String,
    },
}

/// What is wrong with the text of a configuration, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct Problem {
    /// Counts from 1.
    pub line: usize,
    /// What is wrong and what would be right.
    pub what: String,
}

impl Problem {
    fn at(text: &str, span: Option<Range<usize>>, what: String) -> Self {
        let before = span.and_then(|span| text.get(..span.start)).unwrap_or_default();
        Self { line: before.matches('\n').count() + 1, what }
    }
}

/// A table of the file while it is read; remembers which keys somebody asked for.
struct Section<'a> {
    text: &'a str,
    name: &'static str,
    table: &'a DeTable<'a>,
    known: BTreeSet<&'static str>,
}

type Value<'a> = DeValue<'a>;

impl<'a> Section<'a> {
    fn find(&mut self, key: &'static str) -> Option<&'a Spanned<Value<'a>>> {
        self.known.insert(key);
        self.table.iter().find(|(name, _)| name.get_ref() == key).map(|(_, value)| value)
    }

    /// What the file says for `key`, `None` where it says nothing.
    fn take<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&Value<'a>) -> Result<T, String>,
    ) -> Result<Option<T>, Problem> {
        let Some(value) = self.find(key) else { return Ok(None) };
        let full = if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) };
        let wrong = |what| Problem::at(self.text, Some(value.span()), format!("{full}: {what}"));
        read(value.get_ref()).map(Some).map_err(wrong)
    }

    fn set<T>(
        &mut self,
        key: &'static str,
        place: &mut T,
        read: impl FnOnce(&Value<'a>) -> Result<T, String>,
    ) -> Result<(), Problem> {
        if let Some(value) = self.take(key, read)? {
            *place = value;
        }
        Ok(())
    }

    fn section(&mut self, name: &'static str) -> Result<Option<Section<'a>>, Problem> {
        let Some(value) = self.find(name) else { return Ok(None) };
        match value.get_ref() {
            DeValue::Table(table) => Ok(Some(Section { text: self.text, name, table, known: BTreeSet::new() })),
            other => {
                let what = format!("{name} is a section, [{name}], and not {}", kind(other));
                Err(Problem::at(self.text, Some(value.span()), what))
            }
        }
    }

    /// Refuses keys that nobody asked for.
    fn finish(self) -> Result<(), Problem> {
        let stray = |(key, _): &(&Spanned<_>, _)| !self.known.contains(AsRef::<str>::as_ref(key.get_ref()));
        let Some((key, _)) = self.table.iter().filter(stray).min_by_key(|(k, _)| k.span().start) else {
            return Ok(());
        };
        let place = if self.name.is_empty() { String::new() } else { format!(" in [{}]", self.name) };
        let known: Vec<&str> = self.known.iter().copied().collect();
        let nearest = nearest(key.get_ref(), &known);
        let what = format!("there is no key {:?}{place}; did you mean {nearest:?}?", key.get_ref());
        Err(Problem::at(self.text, Some(key.span()), what))
    }
}

/// The known name that takes the fewest edits to reach.
fn nearest<'a>(wrong: &str, known: &[&'a str]) -> &'a str {
    known.iter().copied().min_by_key(|name| strsim::damerau_levenshtein(wrong, name)).unwrap_or_default()
}

fn kind(value: &Value<'_>) -> String {
    format!(
        "{} {}",
        if matches!(value, DeValue::Array(_) | DeValue::Integer(_)) { "an" } else { "a" },
        value.type_str()
    )
}

fn text<'a>(value: &'a Value<'_>) -> Result<&'a str, String> {
    match value {
        DeValue::String(text) => Ok(text),
        other => Err(format!("this is {}, a text in quotes is needed", kind(other))),
    }
}

fn yes_or_no(value: &Value<'_>) -> Result<bool, String> {
    match value {
        DeValue::Boolean(wish) => Ok(*wish),
        other => Err(format!("this is {}, true or false is needed", kind(other))),
    }
}

fn texts(value: &Value<'_>) -> Result<Vec<String>, String> {
    match value {
        DeValue::Array(items) => items.iter().map(|item| text(item.get_ref()).map(str::to_owned)).collect(),
        DeValue::String(one) => Ok(vec![one.to_string()]),
        other => Err(format!("this is {}, a list of texts is needed", kind(other))),
    }
}

fn path(value: &Value<'_>) -> Result<PathBuf, String> {
    match text(value)? {
        "" => Err("an empty path names nothing".into()),
        text => Ok(PathBuf::from(text)),
    }
}

fn addresses(value: &Value<'_>) -> Result<Vec<SocketAddr>, String> {
    let one = |text: String| {
        text.parse()
            .map_err(|_| format!("{text:?} is no address with a port, like \"[::]:8443\" or \"192.0.2.1:8443\""))
    };
    texts(value)?.into_iter().map(one).collect()
}

/// `90s`, `10m`, `24h`, `7d`, between two bounds in seconds.
fn duration(value: &Value<'_>, least_s: u64, most_s: u64) -> Result<Duration, String> {
    let text = text(value)?;
    let shape = || format!("{text:?} is no duration, like \"90s\", \"10m\", \"24h\" or \"7d\"");
    let unit = match text.as_bytes().last() {
        Some(b's') => 1,
        Some(b'm') => 60,
        Some(b'h') => 3600,
        Some(b'd') => 24 * 3600,
        _ => return Err(shape()),
    };
    let count: u64 = text[..text.len() - 1].parse().map_err(|_| shape())?;
    let seconds = count.checked_mul(unit).ok_or_else(shape)?;
    if !(least_s..=most_s).contains(&seconds) {
        return Err(format!("{text} is out of range: {least_s} to {most_s} seconds"));
    }
    Ok(Duration::from_secs(seconds))
}

/// `all`, or from a day to a hundred years.
fn keep(value: &Value<'_>) -> Result<Keep, String> {
    match text(value)? {
        "all" => Ok(Keep::All),
        _ => duration(value, 24 * 3600, 36_500 * 24 * 3600).map(Keep::For).map_err(|e| format!("{e}, or \"all\"")),
    }
}

fn on_drift(value: &Value<'_>) -> Result<OnDrift, String> {
    match text(value)? {
        "repair" => Ok(OnDrift::Repair),
        "report" => Ok(OnDrift::Report),
        other => Err(format!("{other:?} is neither \"repair\" nor \"report\"")),
    }
}

fn envelope(value: &Value<'_>) -> Result<Envelope, String> {
    match text(value)? {
        "plain" => Ok(Envelope::Plain),
        "superset" => Ok(Envelope::Superset),
        other => Err(format!("{other:?} is neither \"plain\" nor \"superset\"")),
    }
}

fn controllers(value: &Value<'_>) -> Result<Vec<Endpoint>, String> {
    let one = |text: &String| {
        Endpoint::parse("controllers", text, AGENTS_PORT).map_err(|_| {
            format!("{text:?} is no controller's address, like \"192.0.2.1\", \"[2001:db8::1]:8443\" or \"muster.example.net\"")
        })
    };
    texts(value)?.iter().map(one).collect()
}

/// As the kernel takes it (`dev_valid_name`).
fn interface(text: String) -> Result<String, String> {
    let legal = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | ':');
    match (1..16).contains(&text.len()) && text.chars().all(legal) && text != "." && text != ".." {
        true => Ok(text),
        false => Err(format!("{text:?} is no interface's name, like \"eth0\"")),
    }
}

fn port(value: &Value<'_>) -> Result<u16, String> {
    let wrong = || "a port is a number from 1 to 65535".to_owned();
    match value {
        DeValue::Integer(number) => match number.as_str().parse() {
            Ok(0) | Err(_) => Err(wrong()),
            Ok(port) => Ok(port),
        },
        _ => Err(wrong()),
    }
}

/// A DNS name or an address without a port.
fn host(text: String) -> Result<String, String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    let name = !text.is_empty() && text.len() <= 253 && text.chars().all(legal) && !text.starts_with(['-', '.']);
    match name || text.parse::<Ipv6Addr>().is_ok() {
        true => Ok(text),
        false => Err(format!("{text:?} is neither a DNS name nor an address")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> (usize, String) {
        let problem = Config::parse(text, None).expect_err(text);
        (problem.line, problem.what)
    }

    #[test]
    fn an_empty_file_is_the_default() {
        let data = PathBuf::from("/srv/muster");
        assert_eq!(Config::parse("", Some(data.clone())), Ok(Config::with_data(data)));
    }

    #[test]
    fn the_operators_guide_shows_every_key_with_its_default() {
        let guide = include_str!("../../docs/operating.md");
        let (_, rest) = guide.split_once("```toml\n").expect("the guide has a configuration");
        let (text, _) = rest.split_once("```").expect("it ends");
        assert_eq!(Config::parse(text, None), Ok(Config::with_data("/var/lib/muster".into())));
        for key in ["agents", "https", "boot", "images", "controllers", "ticket_lifetime", "certificate_lifetime"] {
            assert!(text.contains(&format!("\n{key} = ")), "{key}");
        }
        assert!(
            text.contains("\nrequire_credential = ")
                && text.contains("\nconfirm_within = ")
                && text.contains("\ndrift = ")
                && text.contains("\nnames = ")
                && text.contains("\nkeep = ")
                && text.contains("\nmetadata = ")
                && text.contains("\ninterfaces = ")
                && text.contains("\nport = ")
                && text.contains("\nclient_port = ")
                && text.contains("\nlease_time = ")
                && text.contains("\nenvelope = ")
                && text.contains("\n# certificate = ")
                && text.contains("\n# key = ")
        );
    }

    #[test]
    fn every_key_is_read() {
        let text = r#"
            data = "/srv/muster"
            listen.agents = "192.0.2.1:8443"
            listen.https = ["192.0.2.1:443", "[2001:db8::1]:443"]
            listen.boot = []
            listen.metadata = "169.254.169.254:80"
            [boot]
            images = "/srv/images"
            controllers = ["192.0.2.1:8443", "[2001:db8::1]:8443", "muster.example.net:8443"]
            ticket_lifetime = "5m"
            require_credential = true
            [agents]
            certificate_lifetime = "12h"
            confirm_within = "90s"
            drift = "report"
            [https]
            names = ["muster.example.net", "2001:db8::1"]
            certificate = "/srv/tls/fullchain.pem"
            key = "/srv/tls/privkey.pem"
            [audit]
            keep = "400d"
            [dhcp]
            interfaces = ["lan", "br0.42"]
            port = 6767
            client_port = 6868
            lease_time = "5m"
            [ial]
            envelope = "superset"
        "#;
        let config = Config::parse(text, None).expect("all keys are known");
        assert_eq!(config.data, Path::new("/srv/muster"));
        assert_eq!(config.listen.https.len(), 2);
        assert_eq!(config.listen.boot, []);
        assert_eq!(config.listen.metadata, [SocketAddr::from(([169, 254, 169, 254], 80))]);
        assert_eq!(config.boot.images, Path::new("/srv/images"));
        assert_eq!(config.boot.controllers.len(), 3);
        assert_eq!(config.boot.ticket_lifetime, Duration::from_secs(300));
        assert!(config.boot.require_credential);
        assert_eq!(config.agents.certificate_lifetime, Duration::from_secs(12 * 3600));
        assert_eq!(config.agents.confirm_within, Duration::from_secs(90));
        assert_eq!(config.agents.drift, OnDrift::Report);
        assert_eq!(config.https.names.len(), 2);
        let files = ["fullchain.pem", "privkey.pem"].map(|name| Path::new("/srv/tls").join(name));
        assert_eq!(config.https.files.map(|files| [files.certificate, files.key]), Some(files));
        assert_eq!(config.audit.keep, Keep::For(Duration::from_secs(400 * 24 * 3600)));
        let Dhcp { interfaces, port, client_port, lease_time } = config.dhcp;
        assert_eq!((interfaces.join(" ").as_str(), port, client_port), ("lan br0.42", 6767, 6868));
        assert_eq!(lease_time, Duration::from_secs(300));
        assert_eq!(config.ial.envelope, Envelope::Superset);
    }

    #[test]
    fn the_command_line_overrides_the_files_data() {
        let config = Config::parse("data = \"/srv/a\"", Some("/srv/b".into())).expect("fine");
        assert_eq!(config.data, Path::new("/srv/b"));
        assert_eq!(config.boot.images, Path::new("/srv/b/images"));
    }

    #[test]
    fn an_unknown_key_names_the_nearest_one_and_its_line() {
        assert_eq!(wrong("\n[listen]\nagent = \"[::]:1\"\n").0, 3);
        assert!(wrong("[listen]\nagent = \"[::]:1\"").1.ends_with("in [listen]; did you mean \"agents\"?"));
        assert!(wrong("[boots]").1.ends_with("did you mean \"boot\"?"));
        assert!(wrong("datta = 1").1.ends_with("did you mean \"data\"?"));
    }

    #[test]
    fn a_wrong_type_names_key_and_line() {
        assert_eq!(wrong("data = 7"), (1, "data: this is an integer, a text in quotes is needed".into()));
        assert_eq!(wrong("\nlisten = 7"), (2, "listen is a section, [listen], and not an integer".into()));
        let (line, what) = wrong("[agents]\n\nconfirm_within = 60");
        assert_eq!((line, what.starts_with("agents.confirm_within: this is an integer")), (3, true));
    }

    #[test]
    fn a_wrong_value_says_what_would_be_right() {
        for (text, part) in [
            ("listen.boot = \"8080\"", "like \"[::]:8443\""),
            ("listen.boot = [\"[::]:99999\"]", "like \"[::]:8443\""),
            ("boot.require_credential = \"yes\"", "true or false is needed"),
            ("boot.ticket_lifetime = \"ten\"", "like \"90s\""),
            ("boot.ticket_lifetime = \"é\"", "like \"90s\""),
            ("boot.ticket_lifetime = \"10s\"", "120 to 86400 seconds"),
            ("agents.confirm_within = \"99999999999999999999h\"", "like \"90s\""),
            ("agents.drift = \"ignore\"", "neither \"repair\" nor \"report\""),
            ("boot.controllers = [\"192.0.2.1:0\"]", "no controller's address"),
            ("boot.controllers = \"a b\"", "no controller's address"),
            ("https.names = [\"a b\"]", "neither a DNS name"),
            ("https.certificate = \"a.pem\"", "https.certificate: https.key is missing"),
            ("https.key = \"a.pem\"", "https.key: https.certificate is missing"),
            ("data = \"\"", "names nothing"),
            ("audit.keep = \"1h\"", "86400 to"),
            ("audit.keep = \"some\"", "or \"all\""),
            ("dhcp.interfaces = \"a/b\"", "no interface's name"),
            ("dhcp.interfaces = \"sixteen-letters-\"", "no interface's name"),
            ("dhcp.port = 0", "from 1 to 65535"),
            ("dhcp.port = 65536", "from 1 to 65535"),
            ("dhcp.client_port = \"68\"", "from 1 to 65535"),
            ("dhcp.lease_time = \"1m\"", "120 to 86400"),
            ("ial.envelope = \"none\"", "neither \"plain\" nor \"superset\""),
        ] {
            assert!(wrong(text).1.contains(part), "{text}: {}", wrong(text).1);
        }
    }

    #[test]
    fn a_syntax_error_names_its_line() {
        assert_eq!(wrong("data = \"/srv\"\n[listen\n").0, 2);
        assert_eq!(wrong("data = \"/a\"\ndata = \"/b\"").0, 2);
    }
}
