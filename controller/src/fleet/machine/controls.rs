//! What switches a machine from outside: its BMC, a smart outlet, and its own NICs that wake it.
//!
//! An operator names them; who uses them is [`crate::fleet::operation::switch`]. What must not be known is sealed and leaves
//! the record for whoever is asked to switch alone: no view, event, log or entry of the audit log has it.
//!
//! Frozen once released, as all of [`crate::fleet::record`].

use muster_protocol::{Digest, MachineId, OperationId};
use serde::{Deserialize, Serialize};

use crate::fleet::record::Machine;
use crate::fleet::{Draft, Facts, Refusal, State, machine};
use crate::pki::{DiskSeal, SealedText};

/// Bytes of a name, a URL or a password; far more than any BMC takes.
const TEXT: usize = 256;

/// Bytes of certificates in PEM: a chain, and not the CAs of the whole world.
const PEM: usize = 16 * 1024;

/// What IPMI 2.0 has room for (section 22.28 and 22.30).
const IPMI_USER: usize = 16;
const IPMI_PASSWORD: usize = 20;

/// What switches one machine from outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Controls {
    /// Which one.
    pub machine: MachineId,
    /// Its baseboard management controller.
    pub bmc: Option<Bmc>,
    /// What its plug is in.
    pub outlet: Option<Outlet>,
    /// Whether its NICs switch it on.
    pub wake: Wake,
    /// The last operation that used any of them.
    pub last: Option<OperationId>,
    /// How it was brought back for the operation that waited for it last.
    pub brought: Option<Brought>,
}

/// A baseboard management controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bmc {
    /// Where it is and what it speaks.
    pub address: BmcAddress,
    /// Who signs in.
    pub user: String,
    /// With what; sealed for this address, this user and these certificates.
    pub password: SealedText,
}

/// Where a BMC is and what it speaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BmcAddress {
    /// DMTF's Redfish.
    Redfish {
        /// `https://` and the host, with its port where it is another one than 443.
        url: String,
        /// Id of the system, for BMCs of several; empty for the only one, or the one with the machine's UUID.
        system: String,
        /// Who it must be.
        trust: Trust,
    },
    /// IPMI 2.0 over LAN (RMCP+).
    Ipmi {
        /// Name or address.
        host: String,
        /// UDP.
        port: u16,
    },
}

/// By what a BMC is known to be the one that is meant. There is no way to ask for none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Trust {
    /// Its certificate is the one with this SHA-256, whatever that says.
    Pinned(Digest),
    /// Its certificate is for its name, and by one of these CAs, in PEM.
    Cas(String),
    /// The same, by one of those that the controller's host trusts.
    System,
}

/// A smart outlet, by what asks it over HTTP. The URLs are sealed: many have a password or a token in them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outlet {
    /// Scheme and host of the first one, for people.
    pub at: String,
    /// How it is asked.
    pub method: Method,
    /// [`Hooks`], as JSON.
    pub hooks: SealedText,
}

/// What asks an outlet.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hooks {
    /// Switches on.
    pub on: String,
    /// Switches off.
    pub off: String,
    /// Switches off and on by itself, where there is such a thing.
    pub cycle: Option<String>,
}

/// How an outlet is asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Method {
    /// As most are.
    #[default]
    Get,
    /// With an empty body.
    Post,
}

/// Whether a magic packet switches a machine on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wake {
    /// Nobody said so.
    #[default]
    Off,
    /// An operator did.
    OnLan,
}

/// How often a machine was switched for the sake of an operation that waits for its agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Brought {
    /// The one that waits.
    pub operation: OperationId,
    /// So often.
    pub times: u8,
    /// Last.
    pub at_unix_ms: u64,
}

impl Controls {
    fn none(machine: MachineId) -> Self {
        Self { machine, bmc: None, outlet: None, wake: Wake::Off, last: None, brought: None }
    }

    fn is_empty(&self) -> bool {
        self.bmc.is_none() && self.outlet.is_none() && self.wake == Wake::Off
    }
}

/// What a password is sealed for: put beside another address or another certificate it does not open.
fn bound(address: &BmcAddress, user: &str) -> Digest {
    Digest::of_value(&(address, user))
}

/// What hooks are sealed for.
fn bound_outlet(at: &str, method: Method) -> Digest {
    Digest::of_value(&(at, method))
}

impl Bmc {
    /// One whose password is sealed.
    pub fn new(seal: &DiskSeal, machine: MachineId, address: BmcAddress, user: String, password: &str) -> Self {
        let password = seal.seal_text(machine, &bound(&address, &user), password);
        Self { address, user, password }
    }

    /// Its password; `None` where it was sealed with another key, or for something else.
    pub fn password(&self, seal: &DiskSeal, machine: MachineId) -> Option<String> {
        seal.open_text(machine, &bound(&self.address, &self.user), &self.password)
    }

    /// For people and the audit log.
    pub fn said(&self) -> String {
        match &self.address {
            BmcAddress::Redfish { url, .. } => format!("Redfish at {url}"),
            BmcAddress::Ipmi { host, port: 623 } => format!("IPMI at {host}"),
            BmcAddress::Ipmi { host, port } => format!("IPMI at {host}, port {port}"),
        }
    }
}

impl Outlet {
    /// One whose hooks are sealed.
    pub fn new(seal: &DiskSeal, machine: MachineId, method: Method, hooks: &Hooks) -> Self {
        let at = place(&hooks.on);
        let text = serde_json::to_string(hooks).expect("three texts encode");
        let sealed = seal.seal_text(machine, &bound_outlet(&at, method), &text);
        Self { at, method, hooks: sealed }
    }

    /// What asks it; `None` where that was sealed with another key, or for something else.
    pub fn hooks(&self, seal: &DiskSeal, machine: MachineId) -> Option<Hooks> {
        let text = seal.open_text(machine, &bound_outlet(&self.at, self.method), &self.hooks)?;
        serde_json::from_str(&text).ok()
    }
}

/// Scheme and host of a URL, without whatever else may be a secret.
fn place(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}")
}

impl Trust {
    /// For people and the audit log.
    pub fn said(&self) -> String {
        match self {
            Self::Pinned(digest) => format!("certificate {digest}"),
            Self::Cas(pem) => format!("CA file {}", Digest::of(pem.as_bytes())),
            Self::System => "the host's CAs".to_owned(),
        }
    }
}

/// Names a machine's BMC, in place of the one before.
///
/// Errors: the machine is retired, or what is said cannot be one.
pub fn set_bmc(
    draft: &mut Draft,
    seal: &DiskSeal,
    id: MachineId,
    address: BmcAddress,
    user: &str,
    password: &str,
) -> Result<Machine, Refusal> {
    check_address(&address)?;
    text("user", user, TEXT)?;
    text("password", password, TEXT)?;
    if let BmcAddress::Ipmi { .. } = address {
        text("user", user, IPMI_USER)?;
        text("password", password, IPMI_PASSWORD)?;
    }
    let bmc = Bmc::new(seal, id, address, user.to_owned(), password);
    change(draft, id, "machine.bmc-set", |controls| controls.bmc = Some(bmc))
}

/// Names a machine's outlet, in place of the one before.
///
/// Errors: the machine is retired, or what is said cannot be one.
pub fn set_outlet(
    draft: &mut Draft,
    seal: &DiskSeal,
    id: MachineId,
    method: Method,
    hooks: &Hooks,
) -> Result<Machine, Refusal> {
    let all = [("on", Some(&hooks.on)), ("off", Some(&hooks.off)), ("cycle", hooks.cycle.as_ref())];
    for (field, url) in all.into_iter().filter_map(|(field, url)| Some((field, url?))) {
        text(field, url, 4 * TEXT)?;
        is_url(field, url, &["http", "https"])?;
    }
    let outlet = Outlet::new(seal, id, method, hooks);
    change(draft, id, "machine.outlet-set", |controls| controls.outlet = Some(outlet))
}

/// Says whether a machine's NICs switch it on.
pub fn set_wake(draft: &mut Draft, id: MachineId, wake: Wake) -> Result<Machine, Refusal> {
    change(draft, id, "machine.wake-set", |controls| controls.wake = wake)
}

/// Forgets a machine's BMC, and its password.
pub fn forget_bmc(draft: &mut Draft, id: MachineId) -> Result<Machine, Refusal> {
    change(draft, id, "machine.bmc-forgotten", |controls| controls.bmc = None)
}

/// Forgets a machine's outlet, and what asks it.
pub fn forget_outlet(draft: &mut Draft, id: MachineId) -> Result<Machine, Refusal> {
    change(draft, id, "machine.outlet-forgotten", |controls| controls.outlet = None)
}

/// Forgets everything that switches a machine: it is retired.
pub fn forget(draft: &mut Draft, id: MachineId) {
    if draft.get::<Controls>(&id).is_some() {
        let before = draft.get::<Controls>(&id).map(facts).unwrap_or_default();
        draft.audit("machine.controls-forgotten", id, before, Facts::none());
        draft.delete::<Controls>(&id);
    }
}

fn change(
    draft: &mut Draft,
    id: MachineId,
    action: &'static str,
    with: impl FnOnce(&mut Controls),
) -> Result<Machine, Refusal> {
    let machine = draft.need::<Machine>(&id)?;
    if machine.lifecycle == crate::fleet::record::Lifecycle::Retired {
        return Err(Refusal::Conflict(format!("{} is retired", machine.name)));
    }
    let known = draft.get::<Controls>(&id).cloned();
    let mut controls = known.clone().unwrap_or_else(|| Controls::none(id));
    with(&mut controls);
    if known.as_ref() == Some(&controls) || (known.is_none() && controls.is_empty()) {
        return Ok(machine);
    }
    // The version tells two passwords apart, which nothing else does that is shown.
    let version = |of: u64| format!("{of}");
    let before = facts_of(known.as_ref()).and("version", version(machine.version));
    let after = facts(&controls).and("version", version(machine.version + 1));
    draft.audit(action, id, before, after);
    if controls.is_empty() && controls.last.is_none() {
        draft.delete::<Controls>(&id);
    } else {
        draft.put(controls);
    }
    Ok(machine::save(draft, machine))
}

fn facts_of(controls: Option<&Controls>) -> Facts {
    controls.map(facts).unwrap_or_default()
}

fn facts(controls: &Controls) -> Facts {
    let (bmc, user, trust) = match &controls.bmc {
        None => Default::default(),
        Some(bmc) => {
            let trust = match &bmc.address {
                BmcAddress::Redfish { trust, .. } => trust.said(),
                BmcAddress::Ipmi { .. } => String::new(),
            };
            (bmc.said(), bmc.user.clone(), trust)
        }
    };
    let wake = if controls.wake == Wake::OnLan { "on" } else { "" };
    let outlet = controls.outlet.as_ref().map(|outlet| outlet.at.clone()).unwrap_or_default();
    Facts::of([("bmc", bmc), ("user", user), ("trust", trust), ("outlet", outlet), ("wake", wake.to_owned())])
}

/// Errors: this is not where a Redfish service can be.
pub fn check_url(url: &str) -> Result<(), Refusal> {
    text("redfish", url, TEXT)?;
    is_url("redfish", url, &["https"])?;
    let after = url.split_once("://").map_or("", |(_, rest)| rest);
    if after.contains(['/', '?', '#', '@']) {
        let problem = "must read like https://bmc.example or https://192.0.2.9:8443, with nothing behind the host";
        return Err(Refusal::invalid("redfish", problem));
    }
    Ok(())
}

fn check_address(address: &BmcAddress) -> Result<(), Refusal> {
    match address {
        BmcAddress::Redfish { url, system, trust } => {
            check_url(url)?;
            if system.len() > TEXT || system.contains(|c: char| c.is_control()) {
                return Err(Refusal::invalid("system", "must be the id of one of the BMC's systems"));
            }
            match trust {
                Trust::Cas(pem) if pem.len() > PEM => {
                    Err(Refusal::invalid("ca", format!("has more than {PEM} bytes; give the CA of this BMC alone")))
                }
                Trust::Cas(pem) if pem::parse_many(pem).ok().is_none_or(|blocks| blocks.is_empty()) => {
                    Err(Refusal::invalid("ca", "holds no certificate in PEM"))
                }
                Trust::Cas(_) | Trust::Pinned(_) | Trust::System => Ok(()),
            }
        }
        BmcAddress::Ipmi { host, port } => {
            text("ipmi", host, TEXT)?;
            let sound = |c: char| c.is_ascii_alphanumeric() || "-.:_".contains(c);
            if !host.chars().all(sound) || host.starts_with('-') {
                return Err(Refusal::invalid("ipmi", format!("must be a host's name or address, and is {host:?}")));
            }
            if *port == 0 {
                return Err(Refusal::invalid("port", "must be a UDP port; IPMI's is 623"));
            }
            Ok(())
        }
    }
}

fn text(field: &str, value: &str, most: usize) -> Result<(), Refusal> {
    if value.is_empty() {
        return Err(Refusal::invalid(field, "is empty"));
    }
    if value.len() > most {
        return Err(Refusal::invalid(field, format!("has {} bytes; there is room for {most}", value.len())));
    }
    if value.chars().any(char::is_control) {
        return Err(Refusal::invalid(field, "has control characters in it, such as the end of a line"));
    }
    Ok(())
}

fn is_url(field: &str, url: &str, schemes: &[&str]) -> Result<(), Refusal> {
    let parsed: Option<http::Uri> = url.parse().ok();
    let fits = |uri: &http::Uri| {
        uri.scheme_str().is_some_and(|scheme| schemes.contains(&scheme))
            && uri.host().is_some_and(|host| !host.is_empty())
    };
    // A port that is no number is as good as none to who parses it.
    let has_port = |uri: &http::Uri| {
        let place = uri.authority().and_then(|all| all.as_str().rsplit('@').next());
        place == uri.host() || uri.port_u16().is_some_and(|port| port != 0)
    };
    match parsed.filter(fits) {
        Some(uri) if has_port(&uri) => Ok(()),
        Some(_) => Err(Refusal::invalid(field, "must have a port from 1 to 65535, or none")),
        // Not repeated: it may have a password in it.
        None => Err(Refusal::invalid(field, format!("must be a URL that begins with {}://", schemes.join(":// or ")))),
    }
}

/// What can be done to a machine from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Switch {
    /// On, where it is off.
    On,
    /// Off, without asking what runs on it.
    Off,
    /// Started anew, or on where it is off.
    Restart,
    /// Its power is cut, and comes again.
    Cycle,
}

impl Switch {
    /// For people.
    pub fn word(self) -> &'static str {
        match self {
            Self::On => "switch on",
            Self::Off => "switch off",
            Self::Restart => "restart",
            Self::Cycle => "cycle the power of",
        }
    }

    /// Whether telling it twice does no harm.
    pub fn is_idempotent(self) -> bool {
        matches!(self, Self::On | Self::Off)
    }
}

/// Whether anything was named that can do this to the machine.
pub fn can(state: &State, id: MachineId, action: Switch) -> bool {
    state.controls.get(&id).is_some_and(|controls| {
        controls.bmc.is_some() || controls.outlet.is_some() || (controls.wake == Wake::OnLan && action == Switch::On)
    })
}

#[cfg(test)]
mod tests {
    use muster_protocol::enroll::Identity;

    use super::*;
    use crate::fleet::draft::tests::draft;
    use crate::fleet::enrollment::tests::enrolled;
    use crate::fleet::state::{read_value, stored_value};
    use crate::pki::Pki;

    fn seal() -> std::sync::Arc<DiskSeal> {
        let data = tempfile::tempdir().expect("a temporary folder");
        Pki::open(data.path()).expect("opens").disks().expect("made")
    }

    fn redfish(url: &str) -> BmcAddress {
        let trust = Trust::Pinned(Digest::from_bytes([7; 32]));
        BmcAddress::Redfish { url: url.into(), system: String::new(), trust }
    }

    fn hooks(on: &str) -> Hooks {
        Hooks { on: on.into(), off: "http://10.0.0.9/relay/0?turn=off".into(), cycle: None }
    }

    #[test]
    fn a_password_opens_for_its_machine_its_address_and_its_user_alone() {
        let (mut draft, seal) = (draft(), seal());
        let id = enrolled(&mut draft, Identity::default());
        set_bmc(&mut draft, &seal, id, redfish("https://bmc.example"), "admin", "hunter2hunter2").expect("set");
        let stored = draft.need::<Controls>(&id).expect("there");
        let bytes = stored_value(&stored);
        assert!(!bytes.windows(7).any(|window| window == b"hunter2"), "it is not in what is stored");
        let bmc = read_value::<Controls>(&bytes).expect("read").bmc.expect("there");
        assert_eq!(bmc.password(&seal, id).as_deref(), Some("hunter2hunter2"));
        assert_eq!(bmc.password(&seal, MachineId::from_bytes([9; 16])), None);
        let elsewhere = Bmc { address: redfish("https://evil.example"), ..bmc.clone() };
        assert_eq!(elsewhere.password(&seal, id), None, "whoever changes the address does not get the password");
        assert_eq!(Bmc { user: "root".into(), ..bmc.clone() }.password(&seal, id), None);
        let other = self::seal();
        assert_eq!(bmc.password(&other, id), None);
    }

    #[test]
    fn what_asks_an_outlet_is_sealed_and_only_its_host_is_shown() {
        let (mut draft, seal) = (draft(), seal());
        let id = enrolled(&mut draft, Identity::default());
        let asked = hooks("http://admin:hunter2@10.0.0.9:8080/relay/0?turn=on&key=hunter2");
        set_outlet(&mut draft, &seal, id, Method::Post, &asked).expect("set");
        let stored = draft.need::<Controls>(&id).expect("there");
        assert!(!stored_value(&stored).windows(7).any(|window| window == b"hunter2"));
        let outlet = stored.outlet.expect("there");
        assert_eq!(outlet.at, "http://10.0.0.9:8080");
        assert!(outlet.hooks(&seal, id) == Some(asked));
    }

    #[test]
    fn what_cannot_be_a_bmc_or_an_outlet_is_refused_by_field() {
        let (mut draft, seal) = (draft(), seal());
        let id = enrolled(&mut draft, Identity::default());
        let long = "x".repeat(21);
        let ipmi = |host: &str, port| BmcAddress::Ipmi { host: host.into(), port };
        for (address, user, password, said) in [
            (redfish("http://bmc.example"), "admin", "p", "redfish: must be a URL that begins with https://"),
            (redfish("https://bmc.example/redfish"), "admin", "p", "redfish: must read like https://bmc.example or"),
            (redfish("https://bmc.example:99999"), "admin", "p", "redfish: must have a port from 1 to 65535"),
            (redfish("https://[2001:db8::9]:0"), "admin", "p", "redfish: must have a port"),
            (redfish("https://admin:p@bmc.example"), "admin", "p", "redfish: must read like"),
            (redfish("https://bmc.example"), "", "p", "user: is empty"),
            (redfish("https://bmc.example"), "admin", "p\n", "password: has control characters"),
            (ipmi("-H", 623), "admin", "p", "ipmi: must be a host's name"),
            (ipmi("10.0.0.9; rm", 623), "admin", "p", "ipmi: must be a host's name"),
            (ipmi("10.0.0.9", 0), "admin", "p", "port: must be a UDP port"),
            (ipmi("10.0.0.9", 623), "admin", &long, "password: has 21 bytes; there is room for 20"),
            (ipmi("10.0.0.9", 623), "a-name-of-17-bytes", "p", "user: has 18 bytes; there is room for 16"),
        ] {
            let refused = set_bmc(&mut draft, &seal, id, address, user, password).expect_err("no").to_string();
            assert!(refused.starts_with(said), "{refused}");
        }
        let refused = set_outlet(&mut draft, &seal, id, Method::Get, &hooks("ftp://u:hunter2@h")).expect_err("no");
        assert_eq!(refused.to_string(), "on: must be a URL that begins with http:// or https://");
        assert!(draft.get::<Controls>(&id).is_none());
    }

    #[test]
    fn what_was_named_is_forgotten_by_its_own_word_and_when_the_machine_is_retired() {
        let (mut draft, seal) = (draft(), seal());
        let id = enrolled(&mut draft, Identity::default());
        set_wake(&mut draft, id, Wake::OnLan).expect("set");
        assert!(can(draft.state(), id, Switch::On) && !can(draft.state(), id, Switch::Restart));
        set_outlet(&mut draft, &seal, id, Method::Get, &hooks("http://10.0.0.9/on")).expect("set");
        assert!(can(draft.state(), id, Switch::Restart));
        forget_outlet(&mut draft, id).expect("forgotten");
        assert!(!can(draft.state(), id, Switch::Restart));
        set_wake(&mut draft, id, Wake::Off).expect("set");
        assert!(draft.get::<Controls>(&id).is_none(), "nothing is left where nothing is named");
        set_bmc(&mut draft, &seal, id, redfish("https://bmc.example"), "admin", "p").expect("set");
        machine::retire(&mut draft, id).expect("retired");
        assert!(draft.get::<Controls>(&id).is_none());
        assert!(set_wake(&mut draft, id, Wake::OnLan).is_err());
    }

    /// A released controller's database is read for ever: see `operation::stored`. What is sealed has other bytes each time.
    #[test]
    fn the_bytes_of_what_switches_a_machine() {
        let (operation, times) = (OperationId::from_bytes([2; 16]), 3);
        let controls = Controls {
            wake: Wake::OnLan,
            last: Some(OperationId::from_bytes([3; 16])),
            brought: Some(Brought { operation, times, at_unix_ms: 300 }),
            ..Controls::none(MachineId::from_bytes([1; 16]))
        };
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let expected = format!("00 {} 00 00 01 01 {} 01 {} 03 ac02", "01".repeat(16), "03".repeat(16), "02".repeat(16));
        assert_eq!(hex(&stored_value(&controls)), expected.replace(' ', ""));
        assert_eq!(read_value::<Controls>(&stored_value(&controls)), Some(controls));
        let trust = Trust::Pinned(Digest::from_bytes([0xd1; 32]));
        let redfish = BmcAddress::Redfish { url: "u".into(), system: "s".into(), trust };
        let expected = format!("00 0175 0173 00 {}", "d1".repeat(32)).replace(' ', "");
        assert_eq!(hex(&postcard::to_stdvec(&redfish).expect("encodes")), expected);
        let ipmi = BmcAddress::Ipmi { host: "h".into(), port: 623 };
        assert_eq!(hex(&postcard::to_stdvec(&ipmi).expect("encodes")), "010168ef04");
    }
}
