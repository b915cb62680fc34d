//! DHCPv6 messages as bytes (RFC 8415, sections 8 and 21; RFC 3646 resolvers, RFC 4075 and RFC 5908 NTP servers).
//!
//! What a client sends and reads, and nothing else. Reading never panics and believes nothing: what is malformed is no
//! reply.

use std::net::Ipv6Addr;

use muster_protocol::Mac;

/// Kind and transaction.
const HEADER: usize = 4;
/// What is taken of a list: more than anybody has, and less than a report may hold.
const MOST: usize = 16;

mod option {
    pub const CLIENT: u16 = 1;
    pub const SERVER: u16 = 2;
    pub const ASSOCIATION: u16 = 3;
    pub const ADDRESS: u16 = 5;
    pub const WANTED: u16 = 6;
    pub const PREFERENCE: u16 = 7;
    pub const ELAPSED: u16 = 8;
    pub const STATUS: u16 = 13;
    pub const RAPID_COMMIT: u16 = 14;
    pub const RESOLVERS: u16 = 23;
    pub const DOMAINS: u16 = 24;
    pub const SNTP: u16 = 31;
    pub const REFRESH: u16 = 32;
    pub const NTP: u16 = 56;
    pub const SOLICIT_LONGEST: u16 = 82;
    pub const INFORM_LONGEST: u16 = 83;
}

/// Who asks, by a DUID-LL (RFC 8415, section 11.4), and for which of its links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The link's MAC.
    pub mac: Mac,
    /// The number of the address that is kept for it (IAID): the same in each boot.
    pub association: u32,
}

impl Identity {
    /// For a link; VLANs have the MAC of the link below and are told apart by their tag, 0 for all else.
    pub fn new(mac: Mac, tag: u16) -> Self {
        let [.., a, b, c, d] = *mac.as_bytes();
        Self { mac, association: u32::from_be_bytes([a, b, c, d]) ^ u32::from(tag) << 16 }
    }

    /// The DUID: kind 3, Ethernet, MAC.
    pub fn duid(&self) -> Vec<u8> {
        [&[0, 3, 0, 1], &self.mac.as_bytes()[..]].concat()
    }
}

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// Who gives addresses? Preferably the one we have.
    Solicit(Option<Ipv6Addr>),
    /// REQUEST: this one's address is wanted.
    Take {
        /// By whom.
        server: Vec<u8>,
        /// What it advertised.
        address: Ipv6Addr,
    },
    /// CONFIRM: does this address belong here?
    Confirm(Ipv6Addr),
    /// RENEW: asks its server for more time.
    Renew {
        /// Its server.
        server: Vec<u8>,
        /// What is to be kept.
        address: Ipv6Addr,
    },
    /// REBIND: asks any server for more time.
    Rebind(Ipv6Addr),
    /// INFORMATION-REQUEST: no address, only the rest.
    Inform,
}

/// What a client sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What it asks.
    pub question: Question,
    /// 24 bits that tell the answer to this from others.
    pub transaction: u32,
    /// Who asks.
    pub identity: Identity,
    /// Hundredths of a second since it started to ask.
    pub elapsed: u16,
}

impl Request {
    /// The bytes to send.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, server, address) = match &self.question {
            Question::Solicit(preferred) => (1, None, *preferred),
            Question::Take { server, address } => (3, Some(server), Some(*address)),
            Question::Confirm(address) => (4, None, Some(*address)),
            Question::Renew { server, address } => (5, Some(server), Some(*address)),
            Question::Rebind(address) => (6, None, Some(*address)),
            Question::Inform => (11, None, None),
        };
        let mut bytes = vec![kind];
        bytes.extend_from_slice(&self.transaction.to_be_bytes()[1..]);
        put(&mut bytes, option::CLIENT, &self.identity.duid());
        if let Some(server) = server {
            put(&mut bytes, option::SERVER, server);
        }
        put(&mut bytes, option::ELAPSED, &self.elapsed.to_be_bytes());
        if self.question != Question::Inform {
            // The association's number, and T1 and T2, which are the server's to say.
            let mut association = [&self.identity.association.to_be_bytes()[..], &[0; 8]].concat();
            if let Some(address) = address {
                // Its lifetimes too.
                put(&mut association, option::ADDRESS, &[&address.octets()[..], &[0; 8]].concat());
            }
            put(&mut bytes, option::ASSOCIATION, &association);
        }
        let mut wanted = vec![option::RESOLVERS, option::DOMAINS, option::SNTP, option::NTP];
        match self.question {
            Question::Solicit(_) => {
                put(&mut bytes, option::RAPID_COMMIT, &[]);
                wanted.push(option::SOLICIT_LONGEST);
            }
            Question::Inform => wanted.extend([option::REFRESH, option::INFORM_LONGEST]),
            Question::Take { .. } | Question::Renew { .. } | Question::Rebind(_) => {
                wanted.push(option::SOLICIT_LONGEST)
            }
            // Asks nothing but whether the address belongs here.
            Question::Confirm(_) => return bytes,
        }
        let wanted: Vec<u8> = wanted.into_iter().flat_map(u16::to_be_bytes).collect();
        put(&mut bytes, option::WANTED, &wanted);
        bytes
    }
}

fn put(bytes: &mut Vec<u8>, code: u16, value: &[u8]) {
    bytes.extend_from_slice(&code.to_be_bytes());
    // A server's DUID is the longest: 130 bytes.
    bytes.extend_from_slice(&(value.len() as u16).to_be_bytes());
    bytes.extend_from_slice(value);
}

/// What kind of answer it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyKind {
    /// ADVERTISE.
    Advertise,
    /// REPLY.
    Reply,
}

/// How a server says that it went (RFC 8415, section 21.13).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Status {
    /// Well, or it says nothing.
    #[default]
    Success,
    /// It has no address for us.
    NoAddress,
    /// It knows nothing of the address that we have.
    NoBinding,
    /// The address is not one for this link.
    NotOnLink,
    /// Not, for some other reason.
    Failed,
}

/// An address with its times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Given {
    /// The address.
    pub address: Ipv6Addr,
    /// Seconds for which new connections use it; `u32::MAX` for ever.
    pub preferred: u32,
    /// Seconds for which it may be used at all, 1 at least; `u32::MAX` for ever.
    pub valid: u32,
}

/// What a server says of one address that it keeps for us (IA_NA).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Association {
    /// Which one: [`Identity::association`].
    pub number: u32,
    /// Seconds until its server is to be asked for more time; 0 leaves it to the client.
    pub t1: u32,
    /// Seconds until any server is to be asked; 0 leaves it to the client.
    pub t2: u32,
    /// How it went.
    pub status: Status,
    /// The first address that a machine can use, of those that are not over.
    pub given: Option<Given>,
}

/// What a server answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Offer or answer.
    pub kind: ReplyKind,
    /// The request it answers.
    pub transaction: u32,
    /// The DUID of whom it answers.
    pub client: Vec<u8>,
    /// The server's DUID.
    pub server: Vec<u8>,
    /// Higher is chosen first; 255 at once.
    pub preference: u8,
    /// Whether it gave at once what SOLICIT asked for.
    pub rapid: bool,
    /// How it went.
    pub status: Status,
    /// Addresses it keeps.
    pub associations: Vec<Association>,
    /// Resolvers.
    pub nameservers: Vec<Ipv6Addr>,
    /// Search domains.
    pub search: Vec<String>,
    /// NTP servers.
    pub ntp: Vec<Ipv6Addr>,
    /// Seconds after which information without an address is asked for anew.
    pub refresh: Option<u32>,
    /// Seconds between questions that nobody answers, at most (SOL_MAX_RT, INF_MAX_RT).
    pub longest: Option<u32>,
}

impl Reply {
    /// Reads a message; `None` for anything that is no server's answer.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let kind = match bytes.first()? {
            2 => ReplyKind::Advertise,
            7 => ReplyKind::Reply,
            _ => return None,
        };
        let [_, a, b, c] = *bytes.first_chunk::<HEADER>()?;
        let mut reply = Self {
            kind,
            transaction: u32::from_be_bytes([0, a, b, c]),
            client: Vec::new(),
            server: Vec::new(),
            preference: 0,
            rapid: false,
            status: Status::Success,
            associations: Vec::new(),
            nameservers: Vec::new(),
            search: Vec::new(),
            ntp: Vec::new(),
            refresh: None,
            longest: None,
        };
        let mut sntp = Vec::new();
        for (code, value) in options(bytes.get(HEADER..)?) {
            match code {
                option::CLIENT => reply.client = value.to_vec(),
                option::SERVER => reply.server = value.to_vec(),
                option::PREFERENCE => reply.preference = *value.first()?,
                option::RAPID_COMMIT => reply.rapid = true,
                option::STATUS => reply.status = status(value)?,
                option::ASSOCIATION if reply.associations.len() < MOST => reply.associations.push(association(value)?),
                option::RESOLVERS => add(&mut reply.nameservers, addresses(value)),
                option::DOMAINS => add(&mut reply.search, domains(value)),
                option::SNTP => add(&mut sntp, addresses(value)),
                option::NTP => add(&mut reply.ntp, ntp_servers(value)),
                option::REFRESH => reply.refresh = Some(u32_at(value, 0)?),
                option::SOLICIT_LONGEST | option::INFORM_LONGEST => reply.longest = Some(u32_at(value, 0)?),
                _ => {}
            }
        }
        // The newer option replaces the older (RFC 5908).
        if reply.ntp.is_empty() {
            reply.ntp = sntp;
        }
        // Both have to be there, and a DUID has at most 128 bytes behind its kind (RFC 8415, sections 11.1 and 16).
        (!reply.client.is_empty() && (3..=130).contains(&reply.server.len())).then_some(reply)
    }
}

fn add<T>(list: &mut Vec<T>, more: impl Iterator<Item = T>) {
    let room = MOST.saturating_sub(list.len());
    list.extend(more.take(room));
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Options with their numbers, up to one that says that it is longer than what is there.
fn options(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16_at(bytes, 2)?);
        let option = (u16_at(bytes, 0)?, bytes.get(4..4 + len)?);
        bytes = bytes.get(4 + len..).unwrap_or_default();
        Some(option)
    })
}

fn status(value: &[u8]) -> Option<Status> {
    Some(match u16_at(value, 0)? {
        0 => Status::Success,
        2 => Status::NoAddress,
        3 => Status::NoBinding,
        4 => Status::NotOnLink,
        _ => Status::Failed,
    })
}

fn association(value: &[u8]) -> Option<Association> {
    let mut association = Association {
        number: u32_at(value, 0)?,
        t1: u32_at(value, 4)?,
        t2: u32_at(value, 8)?,
        status: Status::Success,
        given: None,
    };
    for (code, value) in options(value.get(12..)?) {
        match code {
            option::STATUS => association.status = status(value)?,
            option::ADDRESS => association.given = association.given.or(given(value)?),
            _ => {}
        }
    }
    Some(association)
}

/// `Some(None)` for an address that is over, of no use, or refused.
fn given(value: &[u8]) -> Option<Option<Given>> {
    let address = address(value.get(..16)?)?;
    let (preferred, valid) = (u32_at(value, 16)?, u32_at(value, 20)?);
    let refused =
        options(&value[24..]).any(|(code, value)| code == option::STATUS && status(value) != Some(Status::Success));
    let is_fine = usable(&address) && !address.is_unicast_link_local() && valid > 0 && preferred <= valid && !refused;
    Some(is_fine.then_some(Given { address, preferred, valid }))
}

fn address(bytes: &[u8]) -> Option<Ipv6Addr> {
    Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?))
}

/// One that a packet can be sent to by whoever hears of it.
fn usable(ip: &Ipv6Addr) -> bool {
    !ip.is_unspecified() && !ip.is_multicast() && !ip.is_loopback() && ip.to_ipv4_mapped().is_none()
}

/// A link-local address would need the link's name beside it, for which there is no room in what these go into.
fn addresses(value: &[u8]) -> impl Iterator<Item = Ipv6Addr> {
    value.chunks_exact(16).filter_map(address).filter(|ip| usable(ip) && !ip.is_unicast_link_local())
}

/// Names as DNS has them, one after the other (RFC 1035, section 3.1); one that no host has is left out.
fn domains(mut bytes: &[u8]) -> impl Iterator<Item = String> {
    std::iter::from_fn(move || {
        let mut name = String::new();
        loop {
            let (&len, rest) = bytes.split_first()?;
            // Compression is not allowed here, and longer labels would be it.
            if len > 63 {
                return None;
            }
            let (label, rest) = rest.split_at_checked(len.into())?;
            bytes = rest;
            if label.is_empty() {
                return Some(name);
            }
            if !name.is_empty() {
                name.push('.');
            }
            let legal = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            // What is too long afterwards is left out below.
            name.extend(label.iter().map(|byte| if legal(byte) { char::from(*byte) } else { ' ' }));
        }
    })
    .filter(|name| (1..=253).contains(&name.len()) && !name.contains(' '))
}

/// Addresses of servers, kind 1; groups and names are left where they are.
fn ntp_servers(value: &[u8]) -> impl Iterator<Item = Ipv6Addr> {
    options(value).filter(|(kind, _)| *kind == 1).filter_map(|(_, value)| addresses(value).next())
}

#[cfg(test)]
mod tests;
