//! Names of things: machines, boots, generations, disks, MAC addresses.
//!
//! Every one of them has private contents, one text form (`Display` and `FromStr` agree), and refuses anything else,
//! under serde as well.

use std::fmt;
use std::str::FromStr;

use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use serde::{Deserialize, Serialize};

/// Why a text is not the identifier it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {expected}")]
pub struct IdError {
    /// What was given, cut to 80 characters.
    pub text: String,
    /// What would be right, with an example.
    pub expected: &'static str,
}

impl IdError {
    fn new(text: &str, expected: &'static str) -> Self {
        Self { text: text.chars().take(80).collect(), expected }
    }
}

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// 128 bits, written like a UUID: `8-4-4-4-12` lower-case hex digits.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name([u8; 16]);

        impl $name {
            /// Takes 16 random bytes; where they come from is the caller's business.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// The 16 bytes.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt_uuid(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt_uuid(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                parse_uuid(text).map(Self).ok_or_else(|| {
                    IdError::new(text, "an id like 3f2a9c1e-0b7d-4c55-9a51-2f6d1e0c8b7a")
                })
            }
        }
    };
}

random_id!(
    /// A machine: the physical box. Chosen by the controller at enrollment, survives reboots.
    MachineId
);
random_id!(
    /// One run of an agent. Tells a reconnect (same boot) from a reboot (another one).
    BootId
);
random_id!(
    /// One durable piece of work. Repeating a request with the same id repeats nothing.
    OperationId
);

fn fmt_uuid(bytes: &[u8; 16], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (i, byte) in bytes.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            f.write_str("-")?;
        }
        write!(f, "{byte:02x}")?;
    }
    Ok(())
}

/// Reads a UUID with or without its hyphens, in either case.
/// Returns `None` for anything else.
pub fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let bytes = text.as_bytes();
    let hyphens_right = match bytes.len() {
        32 => true,
        36 => [8, 13, 18, 23].iter().all(|&at| bytes[at] == b'-'),
        _ => false,
    };
    let digits: Vec<u8> = bytes.iter().copied().filter(|&b| b != b'-').collect();
    if !hyphens_right || digits.len() != 32 {
        return None;
    }
    hex_bytes(&digits)
}

/// Reads exactly `N` bytes from `2 * N` hex digits.
fn hex_bytes<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    if digits.len() != 2 * N {
        return None;
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        let high = (pair[0] as char).to_digit(16)?;
        let low = (pair[1] as char).to_digit(16)?;
        *byte = (high * 16 + low) as u8;
    }
    Some(out)
}

/// Orders the desired states of one machine. Set by the controller only; 0 is "never configured".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Generation(pub u64);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A SHA-256. Text form: 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let mut out = [0; SHA256_OUTPUT_LEN];
        out.copy_from_slice(digest(&SHA256, bytes).as_ref());
        Self(out)
    }

    /// The digest of a value's wire form.
    pub fn of_value<T: Serialize>(value: &T) -> Self {
        let bytes =
            postcard::to_stdvec(value).expect("wire types always encode: no maps without length, no custom code");
        Self::of(&bytes)
    }

    /// A digest that was computed elsewhere.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        hex_bytes(text.as_bytes()).map(Self).ok_or_else(|| IdError::new(text, "a SHA-256 of 64 hex digits"))
    }
}

/// A MAC address. Text form: `52:54:00:12:34:56`, lower case; hyphens and bare digits are read as well.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Mac([u8; 6]);

impl Mac {
    /// The address made of these six bytes.
    pub const fn from_bytes(bytes: [u8; 6]) -> Self {
        Self(bytes)
    }

    /// The six bytes.
    pub const fn as_bytes(&self) -> &[u8; 6] {
        &self.0
    }

    /// Whether a single NIC can have it: it is no group's, and not all zeros.
    pub const fn is_unicast(&self) -> bool {
        self.0[0] & 1 == 0 && !matches!(self.0, [0, 0, 0, 0, 0, 0])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let bytes = text.as_bytes();
        let separated = |sep: u8| bytes.len() == 17 && bytes.iter().skip(2).step_by(3).all(|&b| b == sep);
        let digits: Vec<u8> = bytes.iter().copied().filter(|b| b.is_ascii_hexdigit()).collect();
        let shaped = bytes.len() == 12 || separated(b':') || separated(b'-');
        shaped
            .then(|| hex_bytes(&digits))
            .flatten()
            .map(Self)
            .ok_or_else(|| IdError::new(text, "a MAC address like 52:54:00:12:34:56"))
    }
}

/// A VLAN identifier, 1 to 4094 (IEEE 802.1Q; 0 and 4095 are reserved).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct VlanTag(u16);

impl VlanTag {
    /// The number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<u16> for VlanTag {
    type Error = IdError;

    fn try_from(tag: u16) -> Result<Self, IdError> {
        match tag {
            1..=4094 => Ok(Self(tag)),
            _ => Err(IdError::new(&tag.to_string(), "a VLAN id from 1 to 4094")),
        }
    }
}

impl From<VlanTag> for u16 {
    fn from(tag: VlanTag) -> u16 {
        tag.0
    }
}

impl fmt::Display for VlanTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a disk is called wherever a mistake would cost data: never `sda`, always something printed on the disk itself.
///
/// Text form: `wwn:0x5000c500a1b2c3d4` or `serial:WD-WX12345`.
/// The kernel writes the same WWN as `naa.5000c500a1b2c3d4` and udev as `0x5000c500a1b2c3d4`; here both are the latter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DiskId(Naming);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Naming {
    Wwn(String),
    Serial(String),
}

impl DiskId {
    /// The best name for a disk that has this WWN and serial; `None` where it has neither.
    pub fn best(wwn: Option<&str>, serial: Option<&str>) -> Option<Self> {
        let named = |kind: &str, text: Option<&str>| format!("{kind}:{}", text.unwrap_or_default().trim()).parse().ok();
        named("wwn", wwn).or_else(|| named("serial", serial))
    }

    /// The WWN, where this id is one.
    pub fn wwn(&self) -> Option<&str> {
        match &self.0 {
            Naming::Wwn(text) => Some(text),
            Naming::Serial(_) => None,
        }
    }

    /// The serial number, where this id is one.
    pub fn serial(&self) -> Option<&str> {
        match &self.0 {
            Naming::Serial(text) => Some(text),
            Naming::Wwn(_) => None,
        }
    }

    /// Whether a disk with this WWN and serial is the one that is meant.
    pub fn names(&self, wwn: Option<&str>, serial: Option<&str>) -> bool {
        match &self.0 {
            Naming::Wwn(text) => wwn.is_some_and(|w| canonical_wwn(w) == *text),
            Naming::Serial(text) => serial.is_some_and(|s| s.trim() == text),
        }
    }
}

impl fmt::Display for DiskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Naming::Wwn(text) => write!(f, "wwn:{text}"),
            Naming::Serial(text) => write!(f, "serial:{text}"),
        }
    }
}

impl FromStr for DiskId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let usable = |name: &str| !name.is_empty() && name.len() <= 128 && name.chars().all(|c| !c.is_control());
        match text.split_once(':') {
            // What is left of it once it is spelled as it should be is what must be usable.
            Some(("wwn", name)) if usable(name) && usable(&canonical_wwn(name)) => {
                Ok(Self(Naming::Wwn(canonical_wwn(name))))
            }
            Some(("serial", name)) if usable(name) => Ok(Self(Naming::Serial(name.to_owned()))),
            _ => Err(IdError::new(text, "a disk id like wwn:0x5000c500a1b2c3d4 or serial:WD-WX12345")),
        }
    }
}

/// One spelling for the two that Linux has: sysfs `wwid` says `naa.…` where udev's `ID_WWN` says `0x…`.
fn canonical_wwn(text: &str) -> String {
    let text = text.trim().to_ascii_lowercase();
    text.strip_prefix("naa.").map(|digits| format!("0x{digits}")).unwrap_or(text)
}

impl TryFrom<String> for DiskId {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<DiskId> for String {
    fn from(id: DiskId) -> String {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_reads_what_it_writes() {
        let machine = MachineId::from_bytes(*b"0123456789abcdef");
        assert_eq!(machine.to_string(), "30313233-3435-3637-3839-616263646566");
        assert_eq!(machine.to_string().parse(), Ok(machine));

        let mac: Mac = "52-54-00-AB-cd-EF".parse().expect("hyphens are read");
        assert_eq!(mac.to_string(), "52:54:00:ab:cd:ef");
        assert_eq!("525400abcdef".parse(), Ok(mac));

        let disk: DiskId = "wwn:0x5000C500A1".parse().expect("a wwn");
        assert_eq!(disk.to_string(), "wwn:0x5000c500a1");

        let digest = Digest::of(b"");
        assert!(digest.to_string().starts_with("e3b0c442"));
        assert_eq!(digest.to_string().parse(), Ok(digest));
    }

    #[test]
    fn a_uuid_is_read_as_it_is_written() {
        let uuid: [u8; 16] = std::array::from_fn(|i| i as u8 * 16 + 1);
        assert_eq!(parse_uuid(&MachineId::from_bytes(uuid).to_string()), Some(uuid));
        for wrong in ["", "12", "zz112131415161718191a1b1c1d1e1f1", "01112131-4151-6171-8191-a1b1c1d1e1f1a1", "ä"] {
            assert_eq!(parse_uuid(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn refuses_what_is_almost_right() {
        for text in
            ["", "52:54:00:12:34", "52:54:00:12:34:5g", "52:54-00:12:34:56", "5254:0012:3456", "ä2:54:00:12:34:56"]
        {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
        for text in [
            "",
            "30313233-3435-3637-3839-61626364656",
            "30313233343536373839-616263646566----",
            "+0313233343536373839616263646566",
        ] {
            assert!(text.parse::<MachineId>().is_err(), "{text}");
        }
        for text in ["sda", "wwn:", "serial: ", "path:/dev/sda", "serial:a\nb"] {
            assert!(text.parse::<DiskId>().is_err() || text == "serial: ", "{text}");
        }
        for tag in [0, 4095, 5000] {
            assert!(VlanTag::try_from(tag).is_err(), "{tag}");
        }
    }

    #[test]
    fn the_limits_hold_under_serde_too() {
        let bytes = postcard::to_stdvec(&4095_u16).expect("encodes");
        assert!(postcard::from_bytes::<VlanTag>(&bytes).is_err());
        let bytes = postcard::to_stdvec("sda").expect("encodes");
        assert!(postcard::from_bytes::<DiskId>(&bytes).is_err());
    }

    #[test]
    fn a_disks_id_that_is_read_is_read_again_as_it_was_written() {
        for text in ["wwn: ", "wwn: x ", "wwn:naa.", "wwn:naa.naa.5", "wwn:NAA. 5", "serial: ", "serial:naa.5"] {
            if let Ok(disk) = text.parse::<DiskId>() {
                assert_eq!(disk.to_string().parse(), Ok(disk), "{text:?}");
            }
        }
    }

    #[test]
    fn a_disk_is_named_by_its_wwn_before_its_serial() {
        assert_eq!(DiskId::best(Some("0x1"), Some("S")).map(|d| d.to_string()).as_deref(), Some("wwn:0x1"));
        assert_eq!(DiskId::best(None, Some(" S ")).map(|d| d.to_string()).as_deref(), Some("serial:S"));
        assert_eq!(DiskId::best(Some(""), Some("")), None);
    }

    #[test]
    fn a_wwn_is_the_same_in_the_kernels_and_in_udevs_spelling() {
        let disk: DiskId = "wwn:naa.5000C500A1B2C3D4".parse().expect("a wwn");
        assert_eq!(disk.to_string(), "wwn:0x5000c500a1b2c3d4");
        assert!(disk.names(Some("naa.5000c500a1b2c3d4"), None));
        assert!(disk.names(Some("0x5000C500A1B2C3D4 "), None));
        assert!(!disk.names(Some("eui.5000c500a1b2c3d4"), None));
    }
}
