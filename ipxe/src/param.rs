//! Values that may stand in a boot script, an URL or a file name without any escaping.
//!
//! iPXE expands settings first and splits commands afterwards, so a value with a blank, `||`, `;` or `${` in it would
//! be a command.
//! There is no quoting that both iPXE versions agree on: what is not plainly safe is refused, by the name of the
//! parameter that carries it.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

/// The boot HTTP listener's port, where a controller is named without one.
pub const BOOT_PORT: u16 = 8080;

/// The port of the agents' listener (UDP), where a controller is named without one for a sealed medium.
pub const AGENTS_PORT: u16 = 8443;

/// A parameter that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{parameter}: {text:?} is not {expected}")]
pub struct ParamError {
    /// Which parameter, as users know it: `location`, `controllers[1]`.
    pub parameter: String,
    /// What was given, cut to 80 characters.
    pub text: String,
    /// What would be right, with an example.
    pub expected: &'static str,
}

impl ParamError {
    pub(crate) fn new(parameter: impl Into<String>, text: &str, expected: &'static str) -> Self {
        Self { parameter: parameter.into(), text: text.chars().take(80).collect(), expected }
    }
}

/// A location's code, such as `ber1`: 1 to 32 lower-case letters, digits or hyphens, no hyphen first.
/// The same rule as the controller's for the codes of its locations.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Location(String);

impl Location {
    /// The code.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Location {
    type Error = ParamError;

    fn try_from(code: String) -> Result<Self, ParamError> {
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if code.is_empty() || code.len() > 32 || code.starts_with('-') || !code.chars().all(legal) {
            let expected = "a location code: 1 to 32 lower-case letters, digits or hyphens, like ber1";
            return Err(ParamError::new("location", &code, expected));
        }
        Ok(Self(code))
    }
}

impl From<Location> for String {
    fn from(location: Location) -> String {
        location.0
    }
}

/// Where a controller listens: an address or a DNS name, and a port.
///
/// Text form: `192.0.2.7:8080`, `[2001:db8::7]:8080`, `boot.example:8080`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Endpoint {
    host: Host,
    port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    Ip(IpAddr),
    Name(String),
}

impl Endpoint {
    /// Reads `text`, with `default_port` where it names none.
    ///
    /// Errors: [`ParamError`] under the name `parameter`.
    pub fn parse(parameter: &str, text: &str, default_port: u16) -> Result<Self, ParamError> {
        Self::read(text, Some(default_port)).ok_or_else(|| {
            let expected = "a controller's address, like 192.0.2.7, 192.0.2.7:8080, [2001:db8::7]:8080 or boot.example";
            ParamError::new(parameter, text, expected)
        })
    }

    fn read(text: &str, default_port: Option<u16>) -> Option<Self> {
        // "2001:db8::7" without brackets is an address as well, and its last group no port.
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Some(Self { host: Host::Ip(ip), port: default_port? });
        }
        let (host, port) = match text.rsplit_once(':') {
            // "+80" parses as a number, too.
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => (host, port.parse().ok()?),
            Some((_, port)) if !port.ends_with(']') => return None,
            _ => (text, default_port?),
        };
        let host = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
            Some(ip) => Host::Ip(ip.parse::<Ipv6Addr>().ok()?.into()),
            None => match host.parse() {
                Ok(IpAddr::V4(ip)) => Host::Ip(ip.into()),
                // Brackets tell where an IPv6 address ends and its port starts.
                Ok(IpAddr::V6(_)) => return None,
                Err(_) => is_dns_name(host).then(|| Host::Name(host.to_ascii_lowercase()))?,
            },
        };
        (port != 0).then_some(Self { host, port })
    }

    /// The address or the DNS name, without brackets.
    pub fn host(&self) -> String {
        match &self.host {
            Host::Ip(ip) => ip.to_string(),
            Host::Name(name) => name.clone(),
        }
    }

    /// The same computer at another port.
    pub fn at_port(&self, port: u16) -> Self {
        Self { host: self.host.clone(), port }
    }

    /// Whether it may take IPv6 to get there; what a name stands for is not known here.
    pub fn may_be_ipv6(&self) -> bool {
        !matches!(self.host, Host::Ip(IpAddr::V4(_)))
    }
}

/// RFC 1123, section 2.1. The last label must not be a number: `1.2.3` is a mistyped address and no name.
fn is_dns_name(text: &str) -> bool {
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    let last = text.rsplit('.').next().unwrap_or_default();
    text.len() <= 253 && text.split('.').all(label) && !last.bytes().all(|b| b.is_ascii_digit())
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self { host: Host::Ip(address.ip()), port: address.port() }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
            Host::Ip(ip) => write!(f, "{ip}:{}", self.port),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

impl TryFrom<String> for Endpoint {
    type Error = ParamError;

    fn try_from(text: String) -> Result<Self, ParamError> {
        Self::read(&text, None)
            .ok_or_else(|| ParamError::new("endpoint", &text, "an address with a port, like 192.0.2.7:8080"))
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> String {
        endpoint.to_string()
    }
}

/// An `http` or `https` URL that a boot script may name: visible ASCII, nothing that iPXE reads as a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BootUrl(String);

impl fmt::Display for BootUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for BootUrl {
    type Error = ParamError;

    fn try_from(text: String) -> Result<Self, ParamError> {
        let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
        // No '$', '#', ';', '|', quotes, backslash or blanks: RFC 3986 lets each of them be written as %XX.
        let legal = |b: u8| b.is_ascii_alphanumeric() || b"-._~/?=&%:@+,[]!()*".contains(&b);
        match rest {
            Some(rest) if has_host(rest) && text.len() <= 1024 && rest.bytes().all(legal) && is_escaped(rest) => {
                Ok(Self(text))
            }
            _ => Err(ParamError::new(
                "url",
                &text,
                "an http or https URL of at most 1024 characters, with a port up to 65535 where it has one; \
                 write blanks, $, #, ;, |, quotes and % itself as % and two hexadecimal digits",
            )),
        }
    }
}

/// Whether two hexadecimal digits stand behind each %: programs differ in what they make of others.
fn is_escaped(text: &str) -> bool {
    let is_hex = |part: &str| part.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2;
    text.split('%').skip(1).all(is_hex)
}

/// Whether what stands behind the scheme begins with a host, and with a port that can be where it has one.
fn has_host(rest: &str) -> bool {
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let place = authority.rsplit('@').next().unwrap_or_default();
    let (host, behind) = match place.strip_prefix('[') {
        Some(bracketed) => bracketed.split_once(']').unwrap_or_default(),
        None => place.split_at(place.find(':').unwrap_or(place.len())),
    };
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port != 0);
    !host.is_empty() && (behind.is_empty() || behind.strip_prefix(':').is_some_and(is_port))
}

impl BootUrl {
    /// Whether it is asked for by HTTPS.
    pub fn is_https(&self) -> bool {
        self.0.starts_with("https://")
    }
}

impl From<BootUrl> for String {
    fn from(url: BootUrl) -> String {
        url.0
    }
}

/// A site: what its boot medium knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    /// Where the machines stand that boot from it.
    pub location: Location,
    /// The controllers' boot HTTP listeners, for a sealed medium their agents' listeners, tried in this order; 1 to 8.
    pub controllers: Vec<Endpoint>,
}

impl Site {
    /// Checks what a user gave; `default_port` is meant where a controller is named without one.
    ///
    /// Errors: the first parameter that is not right, by name: `location`, `controllers`, `controllers[1]`.
    pub fn new<S: AsRef<str>>(location: &str, controllers: &[S], default_port: u16) -> Result<Self, ParamError> {
        let location = Location::try_from(location.to_owned())?;
        if controllers.is_empty() || controllers.len() > 8 {
            let count = controllers.len().to_string();
            return Err(ParamError::new("controllers", &count, "a number of controllers from 1 to 8"));
        }
        let named = controllers.iter().enumerate().map(|(i, text)| (format!("controllers[{i}]"), text.as_ref()));
        let controllers =
            named.map(|(name, text)| Endpoint::parse(&name, text, default_port)).collect::<Result<_, _>>()?;
        Ok(Self { location, controllers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_read_what_they_write() {
        for (text, written) in [
            ("192.0.2.7", "192.0.2.7:8080"),
            ("192.0.2.7:80", "192.0.2.7:80"),
            ("[2001:db8::7]", "[2001:db8::7]:8080"),
            ("[2001:DB8:0::7]:81", "[2001:db8::7]:81"),
            ("2001:db8::7", "[2001:db8::7]:8080"),
            ("Boot.Example", "boot.example:8080"),
            ("muster:9", "muster:9"),
        ] {
            let endpoint = Endpoint::parse("controller", text, 8080).expect(text);
            assert_eq!(endpoint.to_string(), written);
            assert_eq!(Endpoint::try_from(written.to_owned()), Ok(endpoint));
        }
    }

    #[test]
    fn what_could_be_a_command_is_refused_by_the_name_of_its_parameter() {
        for text in [
            "",
            " ",
            "192.0.2.7 ",
            "192.0.2",
            "192.0.2.256",
            "192.0.2.7:0",
            "192.0.2.7:65536",
            "192.0.2.7:",
            "192.0.2.7:+80",
            "[192.0.2.7]:80",
            "[fe80::1%eth0]:80",
            "[2001:db8::7",
            "a b",
            "a||shell",
            "a;shell",
            "${filename}",
            "http://192.0.2.7",
            "192.0.2.7/x",
            "boot..example",
            "-boot.example",
            "b\u{fc}ro.example",
            "a\nshell",
        ] {
            let refused = Site::new("ber1", &["192.0.2.1", text], BOOT_PORT).expect_err(text);
            assert_eq!(refused.parameter, "controllers[1]", "{text:?}");
        }
        for text in ["", "Ber1", "ber 1", "ber1\n", "-ber1", "ber1||shell", "${ip}", &"b".repeat(33)] {
            let refused = Site::new(text, &["192.0.2.1"], BOOT_PORT).expect_err(text);
            assert_eq!(refused.parameter, "location", "{text:?}");
        }
        let refused = Site::new::<&str>("ber1", &[], BOOT_PORT).expect_err("nobody to ask");
        assert_eq!(refused.to_string(), "controllers: \"0\" is not a number of controllers from 1 to 8");
    }

    #[test]
    fn urls_hold_nothing_that_ipxe_reads_as_a_command() {
        for text in [
            "http://192.0.2.7/a?b=c&d=%20",
            "https://[2001:db8::7]:8443/x.ipxe",
            "http://[2001:db8::7]",
            "http://u:p@h:80?x=a:b",
        ] {
            assert_eq!(BootUrl::try_from(text.to_owned()).expect(text).to_string(), text);
        }
        for text in [
            "",
            "http://",
            "http:///x",
            "http://u@/x",
            "ftp://a/b",
            "http://a b",
            "http://a/${ip}",
            "http://a/;x",
            "http://a/\n",
            "http://a:99999/x",
            "http://a:0/x",
            "http://a/%zz",
            "http://a/%2",
            "http://a/100%",
            "http://a%/x",
            "http://a:/x",
            "http://[::1/x",
        ] {
            assert!(BootUrl::try_from(text.to_owned()).is_err(), "{text:?}");
        }
    }
}
