//! Which steps need the key of an encrypted volume.

use muster_protocol::desired::Key;

use super::{Device, Step, Target};

impl Step {
    /// The volume whose key the step needs: what it is called, the UUID that its header has or is to have, where that is
    /// known, and where the key comes from.
    pub fn key(&self) -> Option<(&str, Option<[u8; 16]>, Key)> {
        match self {
            Self::MakeLuks { luks, .. } => Some((&luks.name, luks.uuid, luks.key)),
            Self::Open { luks: Target { device: Device::Luks { name }, .. }, uuid, key, .. } => {
                Some((name, uuid_of(uuid), *key))
            }
            _ => None,
        }
    }
}

/// A UUID as it is usually written (RFC 9562).
pub fn uuid_in_words(uuid: &[u8; 16]) -> String {
    let hex: String = uuid.iter().map(|byte| format!("{byte:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// Its bytes; `None` for another text.
pub fn uuid_of(text: &str) -> Option<[u8; 16]> {
    let hex: Vec<u8> = text.bytes().filter(|byte| *byte != b'-').collect();
    let mut uuid = [0; 16];
    let digits = hex.chunks_exact(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    let read: Vec<u8> = digits.collect::<Option<_>>()?;
    (hex.len() == 32 && read.len() == uuid.len()).then(|| uuid.copy_from_slice(&read))?;
    Some(uuid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_read_as_it_is_written() {
        let uuid: [u8; 16] = std::array::from_fn(|i| i as u8 * 16 + 1);
        assert_eq!(uuid_of(&uuid_in_words(&uuid)), Some(uuid));
        for wrong in ["", "12", "zz112131415161718191a1b1c1d1e1f1", "01112131-4151-6171-8191-a1b1c1d1e1f1a1", "ä"] {
            assert_eq!(uuid_of(wrong), None, "{wrong}");
        }
    }
}
