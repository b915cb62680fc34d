//! The agent's key, made in this machine's RAM, and the certificate it was given for it.
//!
//! Used by `dial`, which brings the signing request to the controller and the chain back.
//! Nothing here talks to anybody; what is kept is kept through [`Keep`].

use std::time::Duration;

use muster_protocol::{Digest, MachineId};
use ring::error::{KeyRejected, Unspecified};
use serde::{Deserialize, Serialize};

use super::crypto::{self, Signer};
use crate::keep::Keep;
use crate::options::Options;

/// The name under which it is kept.
const NAME: &str = "identity";

/// Between attempts to renew a certificate: the shortest and the longest pause, before jitter.
const RENEW_AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

// Of DER: X.690, section 8.
const SEQUENCE: u8 = 0x30;
const BIT_STRING: u8 = 0x03;

/// A P-256 public key up to its point (RFC 5480, section 2): SubjectPublicKeyInfo with id-ecPublicKey and secp256r1.
const P256_KEY: [u8; 26] = [
    SEQUENCE, 89, SEQUENCE, 19, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7,
    BIT_STRING, 66, 0,
];

/// The algorithm ecdsa-with-SHA256 (RFC 5758, section 3.2).
const ECDSA_WITH_SHA256: [u8; 12] = [SEQUENCE, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];

/// Key and certificate of an enrolled agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Who this machine is to its controller.
    pub machine: MachineId,
    /// Private key, PKCS#8 in DER.
    pub key: Vec<u8>,
    /// Certificate chain in DER, leaf first.
    pub chain: Vec<Vec<u8>>,
    /// When the leaf begins and ends, since 1970 UTC.
    pub validity: (Duration, Duration),
}

/// What is kept. A new form is a new variant.
#[derive(Serialize, Deserialize)]
enum Kept {
    V1 { ca: Digest, machine: MachineId, key: Vec<u8>, chain: Vec<Vec<u8>> },
}

/// Why there is no key, request or certificate.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// No random numbers.
    #[error("could not make a key or sign with it")]
    Key,
    /// A key that does not read back.
    #[error("could not read a key that was made before: {0}")]
    Kept(KeyRejected),
    /// The controller's answer holds no certificate that can be read.
    #[error("the controller sent a certificate that cannot be read")]
    Certificate,
}

/// A new ECDSA P-256 key, PKCS#8 in DER.
pub fn new_key() -> Result<Vec<u8>, IdentityError> {
    crypto::new_key().map_err(no_random)
}

/// A certificate signing request for this key, in DER (RFC 2986, section 4). Its subject says nothing: the controller
/// decides who this is.
pub fn signing_request(key: &[u8]) -> Result<Vec<u8>, IdentityError> {
    let signer = Signer::new(key).map_err(IdentityError::Kept)?;
    let (version, subject, attributes) = ([2, 1, 0], [SEQUENCE, 0], [0xa0, 0]);
    let asked = wrapped(SEQUENCE, &[&version, &subject, &P256_KEY, signer.point(), &attributes]);
    let signature = signer.sign(&asked).map_err(no_random)?;
    Ok(wrapped(SEQUENCE, &[&asked, &ECDSA_WITH_SHA256, &wrapped(BIT_STRING, &[&[0], &signature])]))
}

fn no_random(Unspecified: Unspecified) -> IdentityError {
    IdentityError::Key
}

impl Credentials {
    /// Puts together what the controller answered.
    ///
    /// Errors: [`IdentityError::Certificate`].
    pub fn new(machine: MachineId, key: Vec<u8>, chain: Vec<Vec<u8>>) -> Result<Self, IdentityError> {
        let validity = chain.first().and_then(|leaf| validity(leaf)).ok_or(IdentityError::Certificate)?;
        Ok(Self { machine, key, chain, validity })
    }

    /// What was kept for this CA. Its certificate may have ended; its key is known to the controller all the same.
    pub fn load(keep: &Keep, ca: Digest) -> Option<Self> {
        let Ok(Kept::V1 { ca: kept, machine, key, chain }) = postcard::from_bytes(&keep.read(NAME)?) else {
            return None;
        };
        let own = Self::new(machine, key, chain).ok()?;
        (kept == ca).then_some(own)
    }

    /// Keeps it, so that a restarted agent is the same machine without another ticket. A failure is logged: until a
    /// restart nothing is lost.
    pub fn keep(&self, options: &Options) {
        if let Err(error) = self.save(&options.keep, options.ca) {
            crate::warn!("the certificate could not be kept for a restart: {error}");
        }
    }

    fn save(&self, keep: &Keep, ca: Digest) -> std::io::Result<()> {
        let kept = Kept::V1 { ca, machine: self.machine, key: self.key.clone(), chain: self.chain.clone() };
        let bytes = postcard::to_stdvec(&kept).map_err(std::io::Error::other)?;
        keep.write(NAME, &bytes)
    }

    /// Whether the certificate is past its end.
    pub fn has_ended(&self, now: Duration) -> bool {
        now >= self.validity.1
    }

    /// The CA that signed it, which the controller sends last in the chain.
    pub fn issuer(&self) -> Option<Digest> {
        self.chain.get(1..)?.last().map(|ca| Digest::of(ca))
    }

    /// How long until it is time to renew; zero once it is.
    ///
    /// That is at two thirds of the certificate's life or up to a tenth of it earlier: machines that enrolled together do
    /// not renew together. When exactly, the certificate itself decides, so that asking twice answers the same.
    pub fn renew_in(&self, now: Duration) -> Duration {
        let (begin, end) = self.validity;
        let life = end.saturating_sub(begin);
        let leaf = Digest::of(self.chain.first().map_or(&[][..], Vec::as_slice));
        let early = f64::from(leaf.as_bytes()[0]) / f64::from(u8::MAX) / 10.0;
        (begin + life.mul_f64(2.0 / 3.0 - early)).saturating_sub(now)
    }

    /// The pause before a renewal that failed is tried again: at most a minute, shorter where the end is near, and jittered
    /// by `random`, which is anything from 0 to `u64::MAX`.
    pub fn renew_again_in(&self, now: Duration, random: u64) -> Duration {
        let longest = (self.validity.1.saturating_sub(now) / 4).clamp(RENEW_AGAIN.0, RENEW_AGAIN.1);
        longest.mul_f64(0.5 + random as f64 / u64::MAX as f64 / 2.0)
    }
}

/// One DER element of less than 256 bytes.
fn wrapped(tag: u8, contents: &[&[u8]]) -> Vec<u8> {
    let contents = contents.concat();
    let length = u8::try_from(contents.len()).expect("nothing is longer in a signing request for P-256");
    let head = if length < 128 { vec![tag, length] } else { vec![tag, 0x81, length] };
    [head, contents].concat()
}

/// When a certificate begins and ends, since 1970 UTC (RFC 5280, section 4.1.2.5). `None` for anything malformed.
///
/// The whole of X.509 that an agent must read: rustls judges certificates but does not say when they end.
fn validity(certificate: &[u8]) -> Option<(Duration, Duration)> {
    let (_, certificate, _) = element(certificate).filter(|(tag, ..)| *tag == SEQUENCE)?;
    let (_, mut rest, _) = element(certificate).filter(|(tag, ..)| *tag == SEQUENCE)?;
    // [0] version (absent in version 1), serialNumber, signature, issuer come before it.
    let (first, _, after) = element(rest)?;
    rest = if first == 0xa0 { element(after)?.2 } else { after };
    for _ in 0..2 {
        rest = element(rest)?.2;
    }
    let (_, validity, _) = element(rest).filter(|(tag, ..)| *tag == SEQUENCE)?;
    let (tag, begin, rest) = element(validity)?;
    let begin = time(tag, begin)?;
    let (tag, end, _) = element(rest)?;
    Some((begin, time(tag, end)?))
}

/// One DER element: its tag, its contents, and what follows it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&short, rest) = rest.split_first()?;
    let (length, rest) = match short {
        0..=0x7f => (usize::from(short), rest),
        0x81 | 0x82 => {
            let (digits, rest) = rest.split_at_checked(usize::from(short & 0x7f))?;
            (digits.iter().fold(0, |sum, &byte| sum << 8 | usize::from(byte)), rest)
        }
        _ => return None,
    };
    let (contents, rest) = rest.split_at_checked(length)?;
    Some((tag, contents, rest))
}

/// UTCTime `YYMMDDHHMMSSZ` or GeneralizedTime `YYYYMMDDHHMMSSZ`.
fn time(tag: u8, text: &[u8]) -> Option<Duration> {
    let digits = std::str::from_utf8(text).ok()?.strip_suffix('Z').filter(|t| t.bytes().all(|b| b.is_ascii_digit()))?;
    let (year, rest): (i64, &str) = match (tag, digits.len()) {
        (0x17, 12) => {
            let year: i64 = digits[..2].parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, &digits[2..])
        }
        (0x18, 14) => (digits[..4].parse().ok()?, &digits[4..]),
        _ => return None,
    };
    let part = |at: usize| rest[at..at + 2].parse::<i64>().ok();
    let (month, day) = (part(0)?, part(2)?);
    let seconds = part(4)? * 3600 + part(6)? * 60 + part(8)?;
    // Days since 1970 of a Gregorian date, the year beginning in March so that the leap day comes last.
    let march_year = if month > 2 { year } else { year - 1 };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = 365 * march_year + march_year / 4 - march_year / 100 + march_year / 400 + day_of_year - 719_468;
    u64::try_from(days * 86_400 + seconds).ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, CertificateSigningRequestParams, KeyPair, PublicKeyData};

    use super::*;

    fn certificate(key: &[u8], from: (i32, u8, u8), to: (i32, u8, u8)) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.not_before = rcgen::date_time_ymd(from.0, from.1, from.2);
        params.not_after = rcgen::date_time_ymd(to.0, to.1, to.2);
        params.self_signed(&KeyPair::try_from(key).expect("a key")).expect("signed").der().to_vec()
    }

    #[test]
    fn reads_when_certificates_begin_and_end() {
        let key = new_key().expect("a key");
        for (from, to, seconds) in [
            ((1970, 1, 1), (1970, 1, 2), (0, 86_400)),
            ((2024, 2, 29), (2026, 11, 21), (1_709_164_800, 1_795_219_200)),
            ((2049, 12, 31), (2050, 3, 1), (2_524_521_600, 2_529_705_600)),
        ] {
            let (begin, end) = validity(&certificate(&key, from, to)).expect("reads");
            assert_eq!((begin.as_secs(), end.as_secs()), seconds, "{from:?} {to:?}");
        }
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let good = certificate(&new_key().expect("a key"), (2026, 1, 1), (2027, 1, 1));
        for cut in 0..good.len().min(200) {
            let _ = validity(&good[..cut]);
            for value in [0, 0x30, 0x80, 0x82, 0xff] {
                let mut bad = good.clone();
                bad[cut] = value;
                let _ = validity(&bad);
            }
        }
        assert_eq!(validity(b""), None);
    }

    #[test]
    fn a_restarted_agent_is_the_same_machine() {
        let (keep, ca) = (Keep::memory(), Digest::of(b"ca"));
        let key = new_key().expect("a key");
        let chain = vec![certificate(&key, (2026, 1, 1), (2026, 1, 4))];
        let own = Credentials::new(MachineId::from_bytes([1; 16]), key, chain).expect("reads");
        own.save(&keep, ca).expect("kept");
        let (begin, end) = own.validity;
        assert_eq!(Credentials::load(&keep, ca), Some(own.clone()));
        assert_eq!(Credentials::load(&keep, Digest::of(b"another")), None);
        assert!(own.has_ended(end) && !own.has_ended(begin));
    }

    /// Credentials whose certificates differ, as those of many machines do.
    fn many(validity: (Duration, Duration)) -> impl Iterator<Item = Credentials> {
        let machine = MachineId::from_bytes([1; 16]);
        (0..1000_u32).map(move |number| {
            let chain = vec![number.to_be_bytes().to_vec()];
            Credentials { machine, key: Vec::new(), chain, validity }
        })
    }

    #[test]
    fn a_renewal_is_never_later_than_two_thirds_of_the_certificates_life() {
        let (begin, life) = (Duration::from_secs(1_795_000_000), Duration::from_secs(86_400));
        for own in many((begin, begin + life)) {
            let due = own.renew_in(begin);
            assert!(due <= life.mul_f64(2.0 / 3.0) && due >= life.mul_f64(2.0 / 3.0 - 0.1), "{due:?}");
            assert_eq!(own.renew_in(begin + due), Duration::ZERO);
            assert_eq!(own.renew_in(begin + life), Duration::ZERO);
            assert_eq!(own.renew_in(Duration::ZERO), begin + due);
        }
    }

    #[test]
    fn a_thousand_machines_that_enrolled_together_do_not_renew_together() {
        let life = Duration::from_secs(86_400);
        // In the tenth of a day over which they are spread, no tenth of it has to bear a fifth of them.
        let mut at = [0; 10];
        for own in many((Duration::ZERO, life)) {
            let early = life.mul_f64(2.0 / 3.0) - own.renew_in(Duration::ZERO);
            at[((early.as_secs_f64() / life.as_secs_f64() * 100.0) as usize).min(9)] += 1;
        }
        assert!(at.iter().all(|count| (50..200).contains(count)), "{at:?}");
    }

    #[test]
    fn a_refused_renewal_is_tried_again_after_a_pause_and_more_than_once_before_the_end() {
        let end = Duration::from_secs(1_795_086_400);
        for own in many((end - Duration::from_secs(600), end)).take(10) {
            let mut now = end - Duration::from_secs(200);
            let mut tries = 0;
            while now < end {
                let pause = own.renew_again_in(now, u64::MAX);
                assert!(pause >= Duration::from_secs(1) && pause <= Duration::from_secs(60), "{pause:?}");
                assert_eq!(own.renew_again_in(now, 0).as_millis(), (pause / 2).as_millis(), "jittered to half of it");
                now += pause;
                tries += 1;
            }
            assert!(tries >= 10, "{tries}");
        }
    }

    #[test]
    fn a_signing_request_is_made_of_the_key_alone() {
        for _ in 0..20 {
            let key = new_key().expect("a key");
            let request = signing_request(&key).expect("a request");
            // What reads it checks its signature too.
            let read = CertificateSigningRequestParams::from_der(&request.into()).expect("reads");
            assert_eq!(read.public_key.der_bytes(), Signer::new(&key).expect("a key").point());
            assert_eq!(read.params.distinguished_name.iter().count(), 0);
        }
        assert!(matches!(signing_request(b"no key"), Err(IdentityError::Kept(_))));
    }
}
