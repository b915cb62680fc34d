//! DHCPv4 messages as bytes (RFC 2131, section 2; options RFC 2132, RFC 3396, RFC 3442).
//!
//! What a client sends and reads, and nothing else. Reading never panics and believes nothing: what is malformed is no
//! reply.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use muster_protocol::Mac;

/// Bytes before the options: the fixed part and the magic cookie.
const OPTIONS: usize = 240;
/// BOOTP's smallest message; some relays drop shorter ones (RFC 1542, section 2.1).
const SMALLEST: usize = 300;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
const BOOT_REQUEST: u8 = 1;
const BOOT_REPLY: u8 = 2;
const ETHERNET: u8 = 1;
/// What is taken of a list: more than anybody has, and less than a report may hold.
const MOST: usize = 16;

mod option {
    pub const PAD: u8 = 0;
    pub const NETMASK: u8 = 1;
    pub const ROUTERS: u8 = 3;
    pub const RESOLVERS: u8 = 6;
    pub const DOMAIN: u8 = 15;
    pub const NTP: u8 = 42;
    pub const REQUESTED: u8 = 50;
    pub const LEASE_TIME: u8 = 51;
    pub const OVERLOAD: u8 = 52;
    pub const KIND: u8 = 53;
    pub const SERVER: u8 = 54;
    pub const WANTED: u8 = 55;
    pub const LARGEST: u8 = 57;
    pub const T1: u8 = 58;
    pub const T2: u8 = 59;
    pub const CLIENT: u8 = 61;
    pub const ROUTES: u8 = 121;
    pub const END: u8 = 255;
}

/// What a client asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// DHCPDISCOVER: who gives addresses? Preferably the one we have.
    Discover(Option<Ipv4Addr>),
    /// DHCPREQUEST after an offer.
    Take {
        /// What was offered.
        address: Ipv4Addr,
        /// By whom.
        server: Ipv4Addr,
    },
    /// DHCPREQUEST in INIT-REBOOT: is this address still ours?
    Confirm(Ipv4Addr),
    /// DHCPREQUEST in RENEWING and REBINDING, from the address that is to be kept.
    Extend(Ipv4Addr),
}

/// What a client sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// What it asks.
    pub question: Question,
    /// Tells the answer to this from others.
    pub transaction: u32,
    /// Who asks.
    pub mac: Mac,
    /// Seconds since it started to ask.
    pub seconds: u16,
}

impl Request {
    /// The bytes to send.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; OPTIONS];
        bytes[0] = BOOT_REQUEST;
        bytes[1] = ETHERNET;
        bytes[2] = 6;
        bytes[4..8].copy_from_slice(&self.transaction.to_be_bytes());
        bytes[8..10].copy_from_slice(&self.seconds.to_be_bytes());
        if let Question::Extend(address) = self.question {
            bytes[12..16].copy_from_slice(&address.octets());
        }
        bytes[28..34].copy_from_slice(self.mac.as_bytes());
        bytes[236..240].copy_from_slice(&COOKIE);

        let (kind, requested, server) = match self.question {
            Question::Discover(address) => (1, address, None),
            Question::Take { address, server } => (3, Some(address), Some(server)),
            Question::Confirm(address) => (3, Some(address), None),
            Question::Extend(_) => (3, None, None),
        };
        let mut put = |code: u8, value: &[u8]| {
            bytes.extend_from_slice(&[code, value.len() as u8]);
            bytes.extend_from_slice(value);
        };
        put(option::KIND, &[kind]);
        // Hardware type and MAC: what iPXE sends too, so that the server takes us for the one it gave the lease to.
        put(option::CLIENT, &[&[ETHERNET], &self.mac.as_bytes()[..]].concat());
        if let Some(address) = requested {
            put(option::REQUESTED, &address.octets());
        }
        if let Some(server) = server {
            put(option::SERVER, &server.octets());
        }
        put(option::LARGEST, &1472_u16.to_be_bytes());
        put(
            option::WANTED,
            &[
                option::NETMASK,
                option::ROUTES,
                option::ROUTERS,
                option::RESOLVERS,
                option::DOMAIN,
                option::NTP,
                option::LEASE_TIME,
                option::SERVER,
                option::T1,
                option::T2,
            ],
        );
        bytes.push(option::END);
        bytes.resize(bytes.len().max(SMALLEST), option::PAD);
        bytes
    }
}

/// What kind of answer it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyKind {
    /// DHCPOFFER.
    Offer,
    /// DHCPACK.
    Ack,
    /// DHCPNAK.
    Nak,
}

/// What a server answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Offer, yes or no.
    pub kind: ReplyKind,
    /// The request it answers.
    pub transaction: u32,
    /// Whom it answers.
    pub mac: Mac,
    /// The address given, with its prefix length; `None` in a refusal, and where it is none a machine can have.
    pub address: Option<Ipv4Net>,
    /// Who answers.
    pub server: Option<Ipv4Addr>,
    /// Seconds the lease lasts; `u32::MAX` for ever.
    pub lease_seconds: Option<u32>,
    /// Seconds until it is to be renewed.
    pub t1: Option<u32>,
    /// Seconds until any server is to be asked.
    pub t2: Option<u32>,
    /// Destinations with their gateways; no gateway where the destination is on the link.
    pub routes: Vec<(Ipv4Net, Option<Ipv4Addr>)>,
    /// Resolvers.
    pub nameservers: Vec<Ipv4Addr>,
    /// Search domain.
    pub domain: Option<String>,
    /// NTP servers.
    pub ntp: Vec<Ipv4Addr>,
}

impl Reply {
    /// Reads a message; `None` for anything that is no server's answer to an Ethernet client.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let fixed = bytes.get(..OPTIONS)?;
        if fixed[..3] != [BOOT_REPLY, ETHERNET, 6] || fixed[236..240] != COOKIE {
            return None;
        }
        let options = options(bytes)?;
        let value = |code| options.iter().find(|(have, _)| *have == code).map(|(_, value)| value.as_slice());
        let number = |code| Some(u32::from_be_bytes(value(code)?.try_into().ok()?));
        let kind = match value(option::KIND)? {
            [2] => ReplyKind::Offer,
            [5] => ReplyKind::Ack,
            [6] => ReplyKind::Nak,
            _ => return None,
        };
        let given = Ipv4Addr::from(<[u8; 4]>::try_from(&fixed[16..20]).ok()?);
        let routers = addresses(value(option::ROUTERS));
        // A client that knows classless routes must not look at the routers beside them (RFC 3442).
        let routes = match value(option::ROUTES) {
            Some(bytes) => classless_routes(bytes)?,
            None => routers.first().map(|router| (Ipv4Net::default(), Some(*router))).into_iter().collect(),
        };
        Some(Self {
            kind,
            transaction: u32::from_be_bytes(fixed[4..8].try_into().ok()?),
            mac: Mac::from_bytes(fixed[28..34].try_into().ok()?),
            address: host(given, addresses(value(option::NETMASK)).first().copied()),
            server: addresses(value(option::SERVER)).first().copied(),
            lease_seconds: number(option::LEASE_TIME),
            t1: number(option::T1),
            t2: number(option::T2),
            routes,
            nameservers: some(addresses(value(option::RESOLVERS))),
            domain: value(option::DOMAIN).and_then(domain),
            ntp: some(addresses(value(option::NTP))),
        })
    }
}

/// All options; one that comes in several pieces is put together (RFC 3396).
fn options(bytes: &[u8]) -> Option<Vec<(u8, Vec<u8>)>> {
    let mut all = Vec::new();
    read_options(bytes.get(OPTIONS..)?, &mut all);
    // The fields for file and server name may hold options as well (RFC 2132, section 9.3).
    let overload = all.iter().find(|(code, _)| *code == option::OVERLOAD);
    let overload = overload.and_then(|(_, value)| value.first().copied()).unwrap_or(0);
    if overload & 1 != 0 {
        read_options(bytes.get(108..236)?, &mut all);
    }
    if overload & 2 != 0 {
        read_options(bytes.get(44..108)?, &mut all);
    }
    Some(all)
}

fn read_options(mut bytes: &[u8], all: &mut Vec<(u8, Vec<u8>)>) {
    while let Some((&code, rest)) = bytes.split_first() {
        bytes = rest;
        if code == option::END {
            return;
        }
        if code == option::PAD {
            continue;
        }
        let Some((&len, rest)) = bytes.split_first() else { return };
        let Some((value, rest)) = rest.split_at_checked(usize::from(len)) else { return };
        match all.iter_mut().find(|(have, _)| *have == code) {
            Some((_, pieces)) => pieces.extend_from_slice(value),
            None => all.push((code, value.to_vec())),
        }
        bytes = rest;
    }
}

fn addresses(value: Option<&[u8]>) -> Vec<Ipv4Addr> {
    let usable = |ip: &Ipv4Addr| !ip.is_unspecified() && !ip.is_multicast();
    let four = |bytes: &[u8]| Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?));
    value.unwrap_or_default().chunks_exact(4).filter_map(four).filter(usable).collect()
}

fn some(mut addresses: Vec<Ipv4Addr>) -> Vec<Ipv4Addr> {
    addresses.truncate(MOST);
    addresses
}

/// An address that a machine can have, with the prefix length of its mask, or of its class where there is none.
fn host(address: Ipv4Addr, mask: Option<Ipv4Addr>) -> Option<Ipv4Net> {
    let class = match address.octets()[0] {
        0..=127 => 8,
        128..=191 => 16,
        _ => 24,
    };
    let net = match mask {
        Some(mask) => Ipv4Net::with_netmask(address, mask).ok()?,
        None => Ipv4Net::new(address, class).ok()?,
    };
    let reserved = address.octets()[0] == 0
        || address.is_loopback()
        || address.is_multicast()
        || address.octets()[0] >= 240
        || (net.prefix_len() < 31 && (address == net.network() || address == net.broadcast()));
    (!reserved && net.prefix_len() > 0).then_some(net)
}

/// Option 121: prefix length, as many bytes of the destination as that needs, gateway; and again.
fn classless_routes(mut bytes: &[u8]) -> Option<Vec<(Ipv4Net, Option<Ipv4Addr>)>> {
    let mut routes = Vec::new();
    while let Some((&prefix, rest)) = bytes.split_first() {
        let (significant, rest) = rest.split_at_checked(usize::from(prefix).div_ceil(8))?;
        let (gateway, rest) = rest.split_first_chunk::<4>()?;
        let mut octets = [0; 4];
        octets.get_mut(..significant.len())?.copy_from_slice(significant);
        let gateway = Ipv4Addr::from(*gateway);
        let to = Ipv4Net::new(octets.into(), prefix).ok()?.trunc();
        routes.push((to, (!gateway.is_unspecified()).then_some(gateway)));
        bytes = rest;
    }
    Some(routes)
}

/// A domain name that can go into /etc/resolv.conf as it is.
fn domain(bytes: &[u8]) -> Option<String> {
    let text = str::from_utf8(bytes).ok()?.trim_end_matches(['\0', '.']);
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    (!text.is_empty() && text.len() <= 253 && text.chars().all(legal)).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An answer as dnsmasq sends it, with these options.
    fn answer(options: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; OPTIONS];
        bytes[..3].copy_from_slice(&[2, 1, 6]);
        bytes[4..8].copy_from_slice(&7_u32.to_be_bytes());
        bytes[16..20].copy_from_slice(&[192, 0, 2, 100]);
        bytes[28..34].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
        bytes[236..240].copy_from_slice(&COOKIE);
        bytes.extend_from_slice(options);
        bytes
    }

    #[test]
    fn an_offer_is_read() {
        let bytes = answer(&[
            53, 1, 2, 54, 4, 192, 0, 2, 1, 51, 4, 0, 0, 14, 16, 1, 4, 255, 255, 255, 0, 3, 4, 192, 0, 2, 1, 6, 8, 192,
            0, 2, 53, 192, 0, 2, 54, 15, 12, b'l', b'a', b'n', b'.', b'e', b'x', b'a', b'm', b'p', b'l', b'e', 0, 255,
            9, 9,
        ]);
        let reply = Reply::decode(&bytes).expect("an offer");
        assert_eq!(reply.kind, ReplyKind::Offer);
        assert_eq!(reply.transaction, 7);
        assert_eq!(reply.mac.to_string(), "02:00:00:00:00:01");
        assert_eq!(reply.address.map(|net| net.to_string()).as_deref(), Some("192.0.2.100/24"));
        assert_eq!(reply.server, Some([192, 0, 2, 1].into()));
        assert_eq!(reply.lease_seconds, Some(3600));
        assert_eq!(reply.routes, [(Ipv4Net::default(), Some([192, 0, 2, 1].into()))]);
        assert_eq!(reply.nameservers, [Ipv4Addr::new(192, 0, 2, 53), Ipv4Addr::new(192, 0, 2, 54)]);
        assert_eq!(reply.domain.as_deref(), Some("lan.example"));
    }

    #[test]
    fn classless_routes_replace_the_router() {
        let bytes = answer(&[
            53, 1, 5, 3, 4, 192, 0, 2, 1, 121, 9, 24, 198, 51, 100, 192, 0, 2, 9, 0, // to be continued
            121, 4, 192, 0, 2, 8, 255,
        ]);
        let routes = Reply::decode(&bytes).expect("an ack").routes;
        let wanted: Ipv4Net = "198.51.100.0/24".parse().expect("a prefix");
        assert_eq!(routes, [(wanted, Some([192, 0, 2, 9].into())), (Ipv4Net::default(), Some([192, 0, 2, 8].into()))]);
    }

    #[test]
    fn options_may_lie_in_the_name_fields() {
        let mut bytes = answer(&[52, 1, 3, 255]);
        bytes[108..112].copy_from_slice(&[53, 1, 5, 255]);
        bytes[44..51].copy_from_slice(&[54, 4, 192, 0, 2, 1, 255]);
        let reply = Reply::decode(&bytes).expect("an ack");
        assert_eq!((reply.kind, reply.server), (ReplyKind::Ack, Some([192, 0, 2, 1].into())));
    }

    #[test]
    fn addresses_that_no_machine_can_have_are_not_taken() {
        for (address, mask) in [
            ([0, 0, 0, 0], 24),
            ([127, 0, 0, 1], 8),
            ([224, 0, 0, 1], 24),
            ([255, 255, 255, 255], 24),
            ([10, 0, 0, 0], 24),
            ([10, 0, 0, 255], 24),
            ([10, 0, 0, 1], 0),
        ] {
            let mask = Ipv4Net::new(Ipv4Addr::UNSPECIFIED, mask).expect("a prefix").netmask();
            assert_eq!(host(address.into(), Some(mask)), None, "{address:?}");
        }
        assert_eq!(host([10, 0, 0, 1].into(), Some([255, 0, 255, 0].into())), None, "a mask with a hole");
        assert_eq!(host([172, 16, 0, 1].into(), None).map(|net| net.prefix_len()), Some(16));
        assert_eq!(host([10, 0, 0, 0].into(), Some([255; 4].into())).map(|net| net.prefix_len()), Some(32));
    }

    #[test]
    fn a_request_has_what_servers_look_for() {
        let mac = Mac::from_bytes([2, 0, 0, 0, 0, 1]);
        let address = Ipv4Addr::new(192, 0, 2, 100);
        let ask = |question| Request { question, transaction: 0x0102_0304, mac, seconds: 5 }.encode();
        let bytes = ask(Question::Take { address, server: Ipv4Addr::new(192, 0, 2, 1) });
        assert_eq!(bytes.len(), SMALLEST);
        assert_eq!(bytes[..12], [1, 1, 6, 0, 1, 2, 3, 4, 0, 5, 0, 0]);
        let options = options(&bytes).expect("options");
        for option in
            [(53, vec![3]), (50, vec![192, 0, 2, 100]), (54, vec![192, 0, 2, 1]), (61, vec![1, 2, 0, 0, 0, 0, 1])]
        {
            assert!(options.contains(&option), "{option:?} in {options:?}");
        }

        // RFC 2131, table 4: ciaddr only when renewing, and then no requested address.
        let bytes = ask(Question::Extend(address));
        assert_eq!(bytes[12..16], [192, 0, 2, 100]);
        assert!(!bytes[OPTIONS..].windows(2).any(|w| w == [50, 4]));
        assert_eq!(ask(Question::Confirm(address))[12..16], [0; 4]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..900)) {
            Reply::decode(&bytes);
        }

        #[test]
        fn any_options_are_read_without_harm(options in proptest::collection::vec(any::<u8>(), 0..400)) {
            if let Some(reply) = Reply::decode(&answer(&[&[53, 1, 5], &options[..]].concat())) {
                prop_assert!(reply.address.is_none_or(|net| net.prefix_len() > 0));
            }
        }
    }
}
