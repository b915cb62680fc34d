//! Netlink messages and attributes as bytes (linux/netlink.h).
//!
//! Used by the message kinds beside this file. Knows lengths and alignment, and nothing of what the bytes mean.
//! Reading never panics: what is malformed ends the iteration.

/// Bytes of `struct nlmsghdr`: length, kind, flags, sequence number, port.
const HEADER: usize = 16;
/// Bytes of `struct nlattr`: length, kind.
const ATTRIBUTE: usize = 4;
/// Set in the kind of an attribute that holds attributes.
const NESTED: u16 = 0x8000;
/// The bits of an attribute's kind that are its number: the two above say how it is encoded.
const KIND: u16 = 0x3fff;

/// The request starts something: always set.
const REQUEST: u16 = 0x1;
/// Answer with success or failure.
pub const ACK: u16 = 0x4;
/// Answer with all there is.
pub const DUMP: u16 = 0x300;
/// Replace what is there.
pub const REPLACE: u16 = 0x100;
/// Fail where it is there.
pub const EXCL: u16 = 0x200;
/// Make it where it is not there.
pub const CREATE: u16 = 0x400;
/// Add to the end of what is there.
pub const APPEND: u16 = 0x800;
/// On a dump's answers: things changed under way, some may be missing.
pub const DUMP_INTERRUPTED: u16 = 0x10;

fn aligned(len: usize) -> usize {
    len.next_multiple_of(4)
}

/// A request under construction.
#[derive(Debug, Clone)]
pub struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// A message of this kind with its fixed part, which must be as long as its `struct` in C.
    pub fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | REQUEST).to_ne_bytes());
        bytes.extend_from_slice(fixed);
        bytes.resize(aligned(bytes.len()), 0);
        Self { bytes }
    }

    /// Appends an attribute.
    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        // Nothing that is sent here comes near 64 KiB.
        let len = (ATTRIBUTE + value.len()) as u16;
        self.bytes.extend_from_slice(&len.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(aligned(self.bytes.len()), 0);
        self
    }

    /// Appends a number.
    pub fn number(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// Appends an attribute that holds attributes.
    pub fn nested(self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        let start = self.bytes.len();
        let mut filled = fill(self.attribute(kind | NESTED, &[]));
        let len = (filled.bytes.len() - start) as u16;
        filled.bytes[start..start + 2].copy_from_slice(&len.to_ne_bytes());
        filled
    }

    /// The bytes to send.
    pub fn finish(mut self, sequence: u32) -> Vec<u8> {
        let len = self.bytes.len() as u32;
        self.bytes[0..4].copy_from_slice(&len.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

/// One message of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// What it is: `NLMSG_*` or `RTM_*`.
    pub kind: u16,
    /// `NLM_F_*`.
    pub flags: u16,
    /// The request it answers; 0 for notifications.
    pub sequence: u32,
    /// What follows the header.
    pub body: &'a [u8],
}

/// The messages of a datagram.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let len = u32_at(bytes, 0)? as usize;
        let message = Message {
            kind: u16_at(bytes, 4)?,
            flags: u16_at(bytes, 6)?,
            sequence: u32_at(bytes, 8)?,
            body: bytes.get(HEADER..len)?,
        };
        bytes = bytes.get(aligned(len)..).unwrap_or_default();
        Some(message)
    })
}

/// The attributes in `bytes`, by number.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & KIND;
        let value = bytes.get(ATTRIBUTE..len)?;
        bytes = bytes.get(aligned(len)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The attribute with this number; the last where there are several, as the kernel reads them.
pub fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).filter(|(k, _)| *k == kind).last().map(|(_, value)| value)
}

/// A number in host order.
pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

/// A number in host order.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// Text up to its closing zero; what is not UTF-8 is replaced.
pub fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let bytes = Request::new(16, ACK, &[7; 4])
            .attribute(3, b"eth0\0")
            .nested(18, |inner| inner.attribute(1, b"vlan").nested(2, |data| data.attribute(1, &7_u16.to_ne_bytes())))
            .number(4, 1500)
            .finish(9);
        assert_eq!(bytes.len(), 16 + 4 + 12 + (4 + 8 + (4 + 8)) + 8);
        let all: Vec<_> = messages(&bytes).collect();
        assert_eq!(all.len(), 1);
        let message = all[0];
        assert_eq!((message.kind, message.flags, message.sequence), (16, ACK | REQUEST, 9));
        let rest = &message.body[4..];
        assert_eq!(attribute(rest, 3).map(text).as_deref(), Some("eth0"));
        assert_eq!(attribute(rest, 4).and_then(|v| u32_at(v, 0)), Some(1500));
        let nested = attribute(rest, 18).expect("nested");
        assert_eq!(attribute(nested, 1), Some(&b"vlan"[..]));
        assert_eq!(attribute(nested, 2).and_then(|d| attribute(d, 1)).and_then(|v| u16_at(v, 0)), Some(7));
    }

    #[test]
    fn lengths_that_lie_end_the_reading() {
        for bytes in [&[0_u8; 16][..], &[255; 16], &[15, 0, 0, 0], &[17, 0, 0, 0, 1, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0]] {
            assert_eq!(messages(bytes).count(), 0, "{bytes:?}");
        }
        for bytes in [&[0_u8, 0, 1, 0][..], &[3, 0, 1, 0], &[5, 0, 1, 0], &[255, 255, 1, 0, 0]] {
            assert_eq!(attributes(bytes).count(), 0, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            for message in messages(&bytes) {
                attributes(message.body).for_each(|(_, value)| { text(value); });
            }
            prop_assert!(attributes(&bytes).count() <= bytes.len() / 4);
        }
    }
}
