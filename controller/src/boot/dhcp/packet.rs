//! DHCP messages as they lie in a datagram (RFC 2131, section 2; RFC 2132): a client's is read, ours is written.
//!
//! Own code and not a crate: what is read are six options and what is written nine, and the crate that there is
//! (dhcproto) brings eighty others with it. Arbitrary bytes never panic: the fuzz target `leases` is held to that.

use std::net::Ipv4Addr;

use muster_protocol::Mac;

/// RFC 2131, section 3: what begins the options.
const COOKIE: [u8; 4] = [99, 130, 83, 99];

/// Fixed part, with the cookie.
const HEAD: usize = 240;

/// Of BOOTP (RFC 951): some clients drop what is shorter.
const LEAST: usize = 300;

/// RFC 2132, section 9.6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    Discover = 1,
    Offer = 2,
    Request = 3,
    Decline = 4,
    Ack = 5,
    Nak = 6,
    Release = 7,
    Inform = 8,
}

/// What a client sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What it wants.
    pub kind: Kind,
    /// Names the conversation.
    pub xid: [u8; 4],
    /// Whether it can hear broadcasts only; goes back as it came.
    pub flags: [u8; 2],
    /// The address that it has and uses; unspecified where it has none.
    pub client: Ipv4Addr,
    /// The relay that passed it on; unspecified where none did.
    pub relay: Ipv4Addr,
    /// Its hardware address.
    pub mac: Mac,
    /// The address that it asks for.
    pub requested: Option<Ipv4Addr>,
    /// The server that it has chosen.
    pub server: Option<Ipv4Addr>,
    /// How it calls itself (option 61), and what a relay added (82): both go back as they came.
    pub echoed: Vec<(u8, Vec<u8>)>,
}

impl Request {
    /// Reads a datagram; `None` for what is no request of a client with an Ethernet address.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let head: &[u8; HEAD] = bytes.first_chunk()?;
        // op BOOTREQUEST, htype Ethernet, hlen 6.
        if head[..3] != [1, 1, 6] || head[236..] != COOKIE {
            return None;
        }
        let address = |at: usize| Ipv4Addr::new(head[at], head[at + 1], head[at + 2], head[at + 3]);
        let mut mac = [0; 6];
        mac.copy_from_slice(&head[28..34]);
        let mut request = Self {
            // Where the options say nothing it is BOOTP, which is not served.
            kind: Kind::Offer,
            xid: [head[4], head[5], head[6], head[7]],
            flags: [head[10], head[11]],
            client: address(12),
            relay: address(24),
            mac: Mac::from_bytes(mac),
            requested: None,
            server: None,
            echoed: Vec::new(),
        };
        let mut rest = &bytes[HEAD..];
        while let [code, after @ ..] = rest {
            match code {
                0 => rest = after,
                255 => break,
                _ => {
                    let (length, after) = after.split_first()?;
                    let (value, after) = after.split_at_checked(usize::from(*length))?;
                    request.option(*code, value)?;
                    rest = after;
                }
            }
        }
        let is_clients =
            matches!(request.kind, Kind::Discover | Kind::Request | Kind::Decline | Kind::Release | Kind::Inform);
        // A group's address is nobody's.
        (is_clients && mac[0] & 1 == 0).then_some(request)
    }

    fn option(&mut self, code: u8, value: &[u8]) -> Option<()> {
        let address = || <[u8; 4]>::try_from(value).ok().map(Ipv4Addr::from);
        match code {
            50 => self.requested = Some(address()?),
            53 => {
                self.kind = match value {
                    [1] => Kind::Discover,
                    [3] => Kind::Request,
                    [4] => Kind::Decline,
                    [7] => Kind::Release,
                    [8] => Kind::Inform,
                    _ => return None,
                }
            }
            54 => self.server = Some(address()?),
            61 | 82 if self.echoed.len() < 2 => self.echoed.push((code, value.to_vec())),
            _ => {}
        }
        Some(())
    }
}

/// What we say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// [`Kind::Offer`], [`Kind::Ack`] or [`Kind::Nak`].
    pub kind: Kind,
    /// Our address on that wire.
    pub server: Ipv4Addr,
    /// The client's; unspecified in a NAK.
    pub address: Ipv4Addr,
    /// Codes and values, in order; each value has 255 bytes at most.
    pub options: Vec<(u8, Vec<u8>)>,
}

impl Reply {
    /// The datagram, for whoever sent `request`.
    pub fn encode(&self, request: &Request) -> Vec<u8> {
        let mut bytes = vec![0; HEAD];
        bytes[..3].copy_from_slice(&[2, 1, 6]);
        bytes[4..8].copy_from_slice(&request.xid);
        bytes[10..12].copy_from_slice(&request.flags);
        // RFC 2131, section 4.3.1, table 3.
        if self.kind == Kind::Ack {
            bytes[12..16].copy_from_slice(&request.client.octets());
        }
        bytes[16..20].copy_from_slice(&self.address.octets());
        bytes[24..28].copy_from_slice(&request.relay.octets());
        bytes[28..34].copy_from_slice(request.mac.as_bytes());
        bytes[236..].copy_from_slice(&COOKIE);
        let own = [(53, vec![self.kind as u8]), (54, self.server.octets().to_vec())];
        // RFC 3046, section 2.2: what the relay added comes last. RFC 6842: the client's own name goes back.
        let mut echoed = request.echoed.clone();
        echoed.sort_by_key(|(code, _)| *code);
        for (code, value) in own.iter().chain(&self.options).chain(&echoed) {
            let value = &value[..value.len().min(255)];
            bytes.extend([*code, value.len() as u8]);
            bytes.extend(value);
        }
        bytes.push(255);
        bytes.resize(bytes.len().max(LEAST), 0);
        bytes
    }
}
