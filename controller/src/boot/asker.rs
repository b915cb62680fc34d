//! Who asks for a boot script: the parameters that iPXE sends, read strictly.
//!
//! Everything here comes from whoever is on the boot network. What names the machine (`uuid`, `macs`, `location`, `credential`) is right
//! or refused by name, and nothing is stored; texts that are only for people are cleaned instead, because firmware puts
//! anything into its serial numbers and iPXE of 2019 writes bytes over 127 as `%FFFFFFFFFFFFC3`.

use muster_protocol::Mac;
use muster_protocol::enroll::SiteCredential;
use muster_protocol::ids::parse_uuid;

use crate::fleet::location::check_code;
use crate::fleet::record::TicketBound;

/// Most MACs that a machine may name.
const MACS: usize = 64;

/// Longest query that is read, in bytes.
const QUERY: usize = 4096;

/// Longest text that is kept, in characters.
const TEXT: usize = 64;

/// A machine that asks for its boot script.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asker {
    /// SMBIOS UUID, absent where the firmware has none.
    pub uuid: Option<[u8; 16]>,
    /// SMBIOS serial, empty where the firmware has none.
    pub serial: String,
    /// Its NICs, as far as iPXE has drivers for them; at least one.
    pub macs: Vec<Mac>,
    /// Code of the site, from the medium it booted from; empty where that does not say.
    pub location: String,
    /// Of the ISO that it started from; absent where it started otherwise.
    pub credential: Option<SiteCredential>,
    /// `pcbios` or `efi`, as iPXE calls it.
    pub platform: String,
    /// iPXE's version.
    pub ipxe: String,
}

impl Asker {
    /// Reads the query of `/boot/script`.
    ///
    /// Errors: in words, naming the parameter and what would be right.
    pub fn read(query: &str) -> Result<Self, String> {
        if query.len() > QUERY {
            return Err(format!("the query is longer than {QUERY} bytes"));
        }
        let mut asker = Self::default();
        let mut seen = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decode(value);
            let value = value.trim();
            if seen.contains(&name) {
                return Err(format!("{name}: given twice"));
            }
            seen.push(name);
            match name {
                "uuid" => asker.uuid = uuid(value)?,
                "serial" => asker.serial = clean(value),
                "serialhex" => asker.serial = clean(&text_of_hex(value)?),
                "platform" => asker.platform = clean(value),
                "ipxe" => asker.ipxe = clean(value),
                "macs" => asker.macs = macs(value)?,
                "credential" if value.is_empty() => {}
                "credential" => asker.credential = Some(value.parse().map_err(|e| format!("credential: {e}"))?),
                "location" if value.is_empty() => {}
                "location" => {
                    check_code("location", value).map_err(|e| e.to_string())?;
                    asker.location = value.to_owned();
                }
                _ => {
                    let name: String = name.chars().take(40).collect();
                    return Err(format!(
                        "{name:?} is no parameter; there are uuid, serial, serialhex, macs, location, credential, platform and ipxe"
                    ));
                }
            }
        }
        if asker.macs.is_empty() {
            return Err("macs: at least one MAC address is needed, like macs=52:54:00:12:34:56".into());
        }
        Ok(asker)
    }

    /// Who may use the ticket in the script.
    pub fn bound(&self) -> TicketBound {
        TicketBound::Machine { uuid: self.uuid, macs: self.macs.clone() }
    }
}

/// Zeros and ones all over mean that the board has no UUID (DMTF DSP0134, section 7.2.1).
fn uuid(text: &str) -> Result<Option<[u8; 16]>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let uuid = parse_uuid(text).ok_or("uuid: not a UUID like 3f2a9c1e-0b7d-4c55-9a51-2f6d1e0c8b7a")?;
    Ok(Some(uuid).filter(|uuid| *uuid != [0; 16] && *uuid != [0xff; 16]))
}

/// The text that these hex digits are the bytes of.
fn text_of_hex(digits: &str) -> Result<String, String> {
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let legal = digits.len().is_multiple_of(2) && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let bytes: Option<Vec<u8>> = digits.as_bytes().chunks(2).map(pair).collect();
    let bytes = bytes.filter(|_| legal).ok_or("serialhex: not the hex digits of a serial number's bytes")?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What can be shown of a text from firmware.
fn clean(text: &str) -> String {
    let shown = |c: &char| !c.is_control() && *c != char::REPLACEMENT_CHARACTER;
    text.chars().filter(shown).take(TEXT).collect::<String>().trim().to_owned()
}

/// Separated by commas; a NIC that is not there leaves an empty place.
fn macs(text: &str) -> Result<Vec<Mac>, String> {
    let mut macs = Vec::new();
    for text in text.split(',').map(str::trim).filter(|text| !text.is_empty()) {
        if is_long_address(text) {
            continue;
        }
        let mac: Mac = text.parse().map_err(|e| format!("macs: {e}"))?;
        // A group address, or none at all, is no NIC's own (IEEE 802, section 8.2).
        if mac.as_bytes()[0] & 1 != 0 || mac.as_bytes() == &[0; 6] {
            return Err(format!("macs: {mac} is not a NIC's own address"));
        }
        if !macs.contains(&mac) {
            macs.push(mac);
        }
        if macs.len() > MACS {
            return Err(format!("macs: more than {MACS}"));
        }
    }
    macs.sort_unstable();
    Ok(macs)
}

/// InfiniBand's addresses have 20 bytes; such a card is no NIC of ours, and no reason to refuse its machine.
fn is_long_address(text: &str) -> bool {
    let bytes: Vec<&str> = text.split(['-', ':']).collect();
    bytes.len() > 6 && bytes.iter().all(|byte| byte.len() == 2 && byte.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Percent-decoding (RFC 3986, section 2.1); what is no UTF-8 becomes replacement characters, what is no encoding stays.
/// A `+` is a `+`: iPXE encodes blanks as `%20`.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, mut after)) = rest.split_first() {
        // The iPXE of 2019 widens a byte over 127 to 56 bits before it writes it.
        if byte == b'%' {
            after = after.strip_prefix(b"FFFFFFFFFFFF").unwrap_or(after);
        }
        let digits = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        let coded = digits.filter(|_| byte == b'%').and_then(|two| u8::from_str_radix(two, 16).ok());
        // "+7" is a number to the standard library, and no encoding.
        match coded.filter(|_| after[0] != b'+') {
            Some(decoded) => {
                bytes.push(decoded);
                rest = &after[2..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_number_of_any_bytes_is_read() {
        let serial = |digits: &str| Asker::read(&format!("macs=525400123456&serialhex={digits}")).map(|a| a.serial);
        assert_eq!(serial("41423c623e78"), Ok("AB<b>x".into()));
        assert_eq!(serial("22c3bc22"), Ok("\"\u{fc}\"".into()));
        assert_eq!(serial(""), Ok(String::new()));
        for wrong in ["4", "4g", "+1", "0x41"] {
            assert!(serial(wrong).is_err_and(|e| e.starts_with("serialhex: ")), "{wrong}");
        }
    }

    #[test]
    fn what_ipxe_sends_is_read() {
        let query = "uuid=3F2A9C1E-0b7d-4c55-9a51-2f6d1e0c8b7a&serial=PF%20-12%2F3&macs=52:54:00:12:34:56,52-54-00-12-34-55,,&location=ber1&platform=pcbios&ipxe=1.0.0%2B";
        let asker = Asker::read(query).expect("all is well");
        assert_eq!(asker.uuid.map(|u| u[0]), Some(0x3f));
        assert_eq!(asker.serial, "PF -12/3");
        let macs: Vec<String> = asker.macs.iter().map(ToString::to_string).collect();
        assert_eq!(macs, ["52:54:00:12:34:55", "52:54:00:12:34:56"]);
        assert_eq!(
            (asker.location.as_str(), asker.platform.as_str(), asker.ipxe.as_str()),
            ("ber1", "pcbios", "1.0.0+")
        );
    }

    #[test]
    fn a_board_without_numbers_is_known_by_its_macs() {
        for uuid in ["", "00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"] {
            let asker = Asker::read(&format!("uuid={uuid}&serial=&macs=525400123456&location=")).expect("enough");
            assert_eq!((asker.uuid, asker.serial.as_str(), asker.location.as_str()), (None, "", ""));
        }
    }

    #[test]
    fn what_firmware_puts_into_its_texts_keeps_no_machine_from_booting() {
        let long = "x".repeat(500);
        for (serial, expected) in [
            ("%0a", ""),
            ("a%0a%00b", "ab"),
            ("caf%FFFFFFFFFFFFC3%FFFFFFFFFFFFA9", "café"),
            ("%C3%A9", "é"),
            ("100%", "100%"),
            ("%4", "%4"),
            ("%+7", "%+7"),
            ("%é", "%é"),
            (long.as_str(), &long[..TEXT]),
        ] {
            let asker = Asker::read(&format!("macs=525400123456&serial={serial}")).expect("it boots");
            assert_eq!(asker.serial, expected, "{serial}");
        }
    }

    #[test]
    fn an_infiniband_card_does_not_count_and_does_not_harm() {
        let card = ["80"; 20].join("-");
        let asker = Asker::read(&format!("macs={card},52-54-00-12-34-56")).expect("it boots");
        assert_eq!(asker.macs.len(), 1);
        assert!(Asker::read(&format!("macs={card}")).is_err());
    }

    #[test]
    fn a_refusal_is_short_and_repeats_no_secret() {
        let long = format!("location={}", "x".repeat(4000));
        let problem = Asker::read(&long).expect_err("no code is that long");
        assert!(problem.len() < 300 && problem.contains("xxx"), "{problem}");
        let secret = "5e".repeat(31);
        let problem = Asker::read(&format!("credential={secret}")).expect_err("too short");
        assert!(!problem.contains(&secret[..8]), "{problem}");
    }

    #[test]
    fn junk_is_refused_by_name() {
        let many: Vec<String> = (0..65).map(|i| format!("0200000000{i:02x}")).collect();
        let many = format!("macs={}", many.join(","));
        let huge = "x".repeat(5000);
        for (query, name) in [
            ("", "macs"),
            ("macs=", "macs"),
            ("macs=52:54:00:12:34", "macs"),
            ("macs=ff:ff:ff:ff:ff:ff", "macs"),
            ("macs=00:00:00:00:00:00", "macs"),
            (many.as_str(), "macs"),
            ("macs=525400123456&uuid=1234", "uuid"),
            ("macs=525400123456&uuid=", ""),
            ("macs=525400123456&uuid=%ff", "uuid"),
            ("macs=525400123456&location=Ber%201", "location"),
            ("macs=525400123456&location=../x", "location"),
            ("macs=525400123456&macs=525400123457", "macs"),
            ("macs=525400123456&shell=1", "\"shell\""),
            (huge.as_str(), "the query"),
        ] {
            match Asker::read(query) {
                Ok(_) => assert_eq!(name, "", "{query}"),
                Err(e) => assert!(!name.is_empty() && e.starts_with(name), "{query}: {e}"),
            }
        }
    }
}
