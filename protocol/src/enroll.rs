//! The one conversation before a machine has a certificate (ALPN `muster-enroll/1`).
//!
//! The agent opens one stream, sends [`Request`], reads [`Answer`], and the connection ends.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::bounded::{self, at_most};
use crate::frame::Message;
use crate::ids::{Digest, DiskId, IdError, Mac, MachineId};

/// A boot ticket: 256 random bits, good for one enrollment within minutes.
/// Debug output hides it; [`fmt::Display`] is for the boot script alone.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket([u8; 32]);

/// What an ISO vouches for its machines with: 256 random bits, made by whoever builds it and kept on it alone.
/// Debug output hides it; [`fmt::Display`] is for the medium alone.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteCredential([u8; 32]);

/// A secret whose text form is 64 lower-case hex digits.
macro_rules! secret {
    ($name:ident, $hidden:literal, $expected:literal) => {
        impl $name {
            /// Takes 32 random bytes.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// What the controller stores in its place.
            pub fn digest(&self) -> Digest {
                Digest::of(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($hidden)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                Digest::from_bytes(self.0).fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                match text.parse::<Digest>() {
                    Ok(digits) => Ok(Self(*digits.as_bytes())),
                    // The text may be a secret: it is not repeated in the error.
                    Err(_) => Err(IdError { text: "(hidden)".into(), expected: $expected }),
                }
            }
        }
    };
}

secret!(Ticket, "Ticket(…)", "a boot ticket of 64 hex digits");
secret!(SiteCredential, "SiteCredential(…)", "a site credential of 64 hex digits");

/// By whose leave a machine asks to join.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Leave {
    /// Its boot script gave it a ticket.
    Ticket(Ticket),
    /// It started from a sealed ISO, which carries everything and asks for no script. Good as often as is needed.
    Site(SiteCredential),
}

impl From<&Ticket> for Leave {
    fn from(ticket: &Ticket) -> Self {
        Self::Ticket(ticket.clone())
    }
}

/// Most disks that an [`Identity`] names.
pub const IDENTITY_DISKS: usize = 32;

/// What a machine can say of itself without drivers for anything but its NIC.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// SMBIOS system UUID in the byte order in which it is printed.
    pub uuid: Option<[u8; 16]>,
    /// SMBIOS system serial, empty where there is none.
    pub system_serial: String,
    /// SMBIOS board serial, empty where there is none.
    pub board_serial: String,
    /// Permanent MACs of all physical NICs, sorted, at most 64.
    #[serde(deserialize_with = "at_most::<{ bounded::NICS }, _, _>")]
    pub macs: Vec<Mac>,
    /// Fixed disks that have their drivers already, at most [`IDENTITY_DISKS`]; most of them come later.
    #[serde(deserialize_with = "at_most::<IDENTITY_DISKS, _, _>")]
    pub disks: Vec<DiskId>,
    /// What its TPM says.
    pub tpm: Tpm,
}

/// What a machine's TPM 2.0 says of itself. A key that is proven to be there will be another variant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tpm {
    /// There is none.
    #[default]
    Absent,
    /// There is one that did not tell its key, or not in time.
    Silent,
    /// It has this key, or whoever says so claims it: nothing proves it yet.
    Claimed {
        /// SHA-256 of the public area (TPMT_PUBLIC) of its endorsement key: the TPM's own name for that key without the
        /// two bytes that name the hash. The same for as long as the TPM's endorsement seed is.
        key: Digest,
    },
}

impl Tpm {
    /// The key, where one is told.
    pub fn key(&self) -> Option<Digest> {
        match self {
            Self::Absent | Self::Silent => None,
            Self::Claimed { key } => Some(*key),
        }
    }
}

impl Identity {
    /// Refuses serial numbers that an agent does not tell. The lists are bounded already where they are read.
    pub fn check(&self) -> Result<(), Refusal> {
        let fine = is_serial(&self.system_serial) && is_serial(&self.board_serial);
        fine.then_some(()).ok_or(Refusal::BadSerial)
    }
}

/// Longest serial number that is taken.
const SERIAL_BYTES: usize = 128;

/// Whether a text may be a serial number, or none: not too long, and every character [`shows`].
pub fn is_serial(text: &str) -> bool {
    text.len() <= SERIAL_BYTES && text.chars().all(shows)
}

/// Whether people see a character for what it is: letters and digits of any script, ASCII's signs and its blank, and what
/// stands for bytes that are none. Not what hides, what looks like a blank, nor what turns the writing round.
pub fn shows(c: char) -> bool {
    // Hangul's and Khmer's fillers count as letters.
    let hides = matches!(c, '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{3164}' | '\u{ffa0}');
    matches!(c, ' '..='~' | char::REPLACEMENT_CHARACTER) || c.is_alphanumeric() && !hides
}

/// An agent asks to join.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// From the boot script or the medium.
    pub leave: Leave,
    /// Certificate signing request in DER (RFC 2986), ECDSA P-256, made with the key that stays in this machine's RAM.
    #[serde(deserialize_with = "at_most::<{ bounded::CSR_BYTES }, _, _>")]
    pub csr: Vec<u8>,
    /// Compared with what asked for the boot script, and with known machines.
    pub identity: Identity,
}

impl Message for Request {
    const LIMIT: usize = 8 * 1024;
}

/// The controller's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Welcome.
    Enrolled {
        /// The machine this box is, known before or new.
        machine: MachineId,
        /// Its certificate chain in DER, leaf first, CA last.
        certificates: Vec<Vec<u8>>,
        /// The controller's time in milliseconds since 1970 UTC.
        time_unix_ms: u64,
    },
    /// No.
    Refused(Refusal),
}

impl Message for Answer {
    const LIMIT: usize = 16 * 1024;
}

impl Refusal {
    /// Whether the same request may be taken later, without anything else having to be done to the machine.
    pub fn is_passing(self) -> bool {
        match self {
            Self::Busy | Self::Full | Self::Awaited { .. } => true,
            Self::TicketUnknown
            | Self::TicketExpired
            | Self::TicketForeign
            | Self::BadRequest
            | Self::Rejected
            | Self::MediumRevoked
            | Self::NoMedium
            | Self::Retired
            | Self::BadSerial => false,
        }
    }
}

/// Why an enrollment was refused. The agent shows it on its console.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// No such ticket, or one that was used before.
    #[error("the boot ticket is unknown or was used before; boot the machine again to get a new one")]
    TicketUnknown,
    /// Older than its lifetime.
    #[error("the boot ticket has expired; boot the machine again to get a new one")]
    TicketExpired,
    /// Fetched by a machine with another UUID or other MACs.
    #[error("the boot ticket was given to another machine")]
    TicketForeign,
    /// The signing request is not one, or not signed by its own key.
    #[error("the certificate signing request is not valid")]
    BadRequest,
    /// An operator rejected this machine.
    #[error("this machine was rejected by an operator")]
    Rejected,
    /// Too many attempts.
    #[error("too many attempts; try again later")]
    Busy,
    /// The ISO that it booted from was revoked, and this machine is not in the fleet.
    #[error("the boot medium was revoked; start this machine from another one")]
    MediumRevoked,
    /// Too many machines wait for approval.
    #[error("too many machines wait for approval; an operator has to approve or reject some")]
    Full,
    /// It is not in the fleet, and its boot script was given to one that is.
    #[error("this machine is new here and must be started from an ISO of its site that is not revoked")]
    NoMedium,
    /// It looks like a machine that may be on its way back to a controller that has just started.
    #[error(
        "the controller has just started and waits for the machines that it knows; this one looks like one of them and asks \
         again in {seconds} s"
    )]
    Awaited {
        /// When it may ask again; an agent waits for five minutes at most.
        seconds: u16,
    },
    /// An operator retired this machine.
    #[error("this machine was retired by an operator")]
    Retired,
    /// See [`Identity::check`].
    #[error("a serial number in the enrollment request is longer than 128 bytes, or has characters that do not show")]
    BadSerial,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_number_that_does_not_read_as_what_it_is_is_refused_in_words_of_its_own() {
        let check = |serial: &str| Identity { board_serial: serial.into(), ..Identity::default() }.check();
        for serial in ["", "/7CZX9R1/CN0012 3#4.", "Größe-7", "型番12", "\u{fffd}1", &"x".repeat(SERIAL_BYTES)] {
            assert_eq!(check(serial), Ok(()), "{serial:?}");
        }
        let long = "x".repeat(SERIAL_BYTES + 1);
        for serial in ["7CZ\u{202e}1R9", "7\u{200b}C", "7\u{a0}C", "7\nC", "7\u{3164}C", "7\u{feff}", "7\u{301}", &long]
        {
            assert_eq!(check(serial), Err(Refusal::BadSerial), "{serial:?}");
        }
        assert!(!Refusal::BadSerial.to_string().contains("signing request"));
    }
}
