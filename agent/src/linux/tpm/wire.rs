//! The few commands that the agent says to a TPM 2.0, and how their answers read, byte by byte.
//!
//! Pure; called by `endorsement`. Numbers are big-endian. Sources: TCG, Trusted Platform Module Library 2.0, Part 2
//! (Structures) for the tags, codes and structures, Part 3 (Commands) for what each command takes and gives; TCG EK
//! Credential Profile for TPM Family 2.0, annex B, for the templates.
//! An answer is read to its last byte, and whatever does not fit is refused.

use muster_protocol::Digest;

use super::TpmError;

/// TPM_ST_NO_SESSIONS and TPM_ST_SESSIONS (Part 2, 6.9): whether an authorization comes with it.
const PLAIN: u16 = 0x8001;
const AUTHORIZED: u16 = 0x8002;
/// TPM_RH_ENDORSEMENT (Part 2, 7.4), the hierarchy of endorsement keys.
const ENDORSEMENT: u32 = 0x4000_000b;
/// TPM_RH_OWNER, the hierarchy whose seed is another one after TPM2_Clear.
const OWNER: u32 = 0x4000_0001;
/// TPMS_AUTH_COMMAND (Part 2, 10.13.2): TPM_RS_PW, no nonce, no attributes, no password.
const NO_PASSWORD: [u8; 9] = [0x40, 0, 0, 0x09, 0, 0, 0, 0, 0];
/// The first byte of a handle of an object that goes with the power (TPM_HT_TRANSIENT; Part 2, 7.2).
const TRANSIENT: u32 = 0x80;
/// TPM_ALG_SHA256 (Part 2, 6.3), and the length of such a digest.
const SHA256: [u8; 2] = [0, 0x0b];

/// A kind of endorsement key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// ECC on NIST P-256: template L-2 of the profile. Made in a fraction of a second.
    P256,
    /// RSA of 2048 bits: template L-1. Made in ten seconds or more by a slow TPM.
    Rsa2048,
}

impl Kind {
    /// The public area (TPMT_PUBLIC; Part 2, 12.2.4) up to `unique`, which is where keys of a kind differ.
    fn area(self) -> Vec<u8> {
        // type, then behind what both have in common: scheme TPM_ALG_NULL and curve TPM_ECC_NIST_P256 and kdf
        // TPM_ALG_NULL, or scheme TPM_ALG_NULL and 2048 bits and the usual exponent.
        let (algorithm, rest) = match self {
            Self::P256 => ([0, 0x23], &[0, 0x10, 0, 3, 0, 0x10][..]),
            Self::Rsa2048 => ([0, 0x01], &[0, 0x10, 8, 0, 0, 0, 0, 0][..]),
        };
        // fixedTPM, fixedParent, sensitiveDataOrigin, adminWithPolicy, restricted, decrypt (TPMA_OBJECT).
        let attributes = [0, 0x03, 0, 0xb2];
        // PolicyA of the profile: TPM2_PolicySecret with the endorsement hierarchy.
        let policy = [
            0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24, 0xfd, 0x52,
            0xd7, 0x6e, 0x06, 0x52, 0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa,
        ];
        // TPM_ALG_AES, 128 bits, TPM_ALG_CFB: with what it would protect its children.
        let symmetric = [0, 0x06, 0, 0x80, 0, 0x43];
        [&algorithm[..], &SHA256, &attributes, &[0, 32], &policy, &symmetric, rest].concat()
    }

    /// The longest that the parts of `unique` are: x and y, or the modulus.
    fn unique(self) -> &'static [usize] {
        match self {
            Self::P256 => &[32, 32],
            Self::Rsa2048 => &[256],
        }
    }

    /// The public area with zeros for `unique`: what the TPM is given to make a key from.
    fn template(self) -> Vec<u8> {
        let mut template = self.area();
        for length in self.unique() {
            template.extend((*length as u16).to_be_bytes());
            template.resize(template.len() + length, 0);
        }
        template
    }

    /// The name of a key of this kind: SHA-256 of its public area, which is also how the TPM names it (Part 1, 16).
    ///
    /// Errors: [`TpmError::Foreign`] where the area is not one of this kind.
    fn key(self, public: &[u8]) -> Result<Digest, TpmError> {
        let unique = public.strip_prefix(&*self.area()).ok_or(TpmError::Foreign)?;
        let mut read = Reader(unique);
        for longest in self.unique() {
            // A TPM may leave leading zeros out.
            let part = read.sized()?;
            if part.len() > *longest || part.iter().all(|byte| *byte == 0) {
                return Err(TpmError::Foreign);
            }
        }
        read.end()?;
        Ok(Digest::of(public))
    }
}

/// TPM2_CreatePrimary (Part 3, 24.1) in the endorsement hierarchy. The key is derived from a seed in the TPM and from the
/// template, so that it is the same every time.
pub fn create(kind: Kind) -> Vec<u8> {
    create_primary(ENDORSEMENT, &kind.template())
}

fn create_primary(hierarchy: u32, template: &[u8]) -> Vec<u8> {
    let size = (template.len() as u16).to_be_bytes();
    let body = [
        &hierarchy.to_be_bytes()[..],
        &[0, 0, 0, NO_PASSWORD.len() as u8],
        &NO_PASSWORD,
        // inSensitive: neither an authorization of its own nor data.
        &[0, 4, 0, 0, 0, 0],
        &size,
        template,
        // No outsideInfo, no creationPCR.
        &[0, 0, 0, 0, 0, 0],
    ];
    command(AUTHORIZED, 0x0131, &body.concat())
}

/// TPM2_CreatePrimary in the owner hierarchy, of a key for HMAC with SHA-256.
pub fn create_mac() -> Vec<u8> {
    // TPM_ALG_KEYEDHASH; fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA, sign; no policy; TPM_ALG_HMAC; empty
    // `unique`.
    let attributes = [0, 0x04, 0x04, 0x72];
    let template = [&[0, 0x08][..], &SHA256, &attributes, &[0, 0], &[0, 0x05], &SHA256, &[0, 0]].concat();
    create_primary(OWNER, &template)
}

/// TPM2_HMAC (Part 3, 15.5) by a key that the TPM holds.
pub fn mac(handle: u32, data: &[u8]) -> Vec<u8> {
    let body = [
        &handle.to_be_bytes()[..],
        &[0, 0, 0, NO_PASSWORD.len() as u8],
        &NO_PASSWORD,
        &(data.len() as u16).to_be_bytes(),
        data,
        &SHA256,
    ];
    command(AUTHORIZED, 0x0155, &body.concat())
}

/// Reads the answer to [`mac`].
pub fn maced(answer: &[u8]) -> Result<[u8; 32], TpmError> {
    let mut read = answered(answer, AUTHORIZED)?;
    let length = read.number()? as usize;
    let mut parameters = Reader(read.take(length)?);
    let mac = parameters.sized()?;
    parameters.end()?;
    read.authorization()?;
    mac.try_into().map_err(|_| TpmError::Malformed)
}

/// TPM2_ReadPublic (Part 3, 12.4).
pub fn read(handle: u32) -> Vec<u8> {
    command(PLAIN, 0x0173, &handle.to_be_bytes())
}

/// TPM2_FlushContext (Part 3, 28.4): the TPM forgets a transient object.
pub fn flush(handle: u32) -> Vec<u8> {
    command(PLAIN, 0x0165, &handle.to_be_bytes())
}

/// Tag, size, command code (Part 1, 18).
fn command(tag: u16, code: u32, body: &[u8]) -> Vec<u8> {
    let size = (10 + body.len()) as u32;
    [&tag.to_be_bytes()[..], &size.to_be_bytes(), &code.to_be_bytes(), body].concat()
}

/// A key that the TPM made, and holds until it is flushed.
#[derive(Debug, PartialEq, Eq)]
pub struct Created<'a> {
    /// By which to flush it.
    pub handle: u32,
    parameters: &'a [u8],
}

/// Reads the answer to [`create`] as far as the handle, which has to be flushed whatever the rest is.
pub fn created(answer: &[u8]) -> Result<Created<'_>, TpmError> {
    let mut read = answered(answer, AUTHORIZED)?;
    let handle = read.number()?;
    if handle >> 24 != TRANSIENT {
        return Err(TpmError::Malformed);
    }
    let length = read.number()? as usize;
    let parameters = read.take(length)?;
    read.authorization()?;
    Ok(Created { handle, parameters })
}

impl Created<'_> {
    /// Its name.
    pub fn key(&self, kind: Kind) -> Result<Digest, TpmError> {
        let mut read = Reader(self.parameters);
        let public = read.sized()?;
        // creationData, creationHash, and creationTicket (TPMT_TK_CREATION: tag, hierarchy, digest).
        read.sized()?;
        read.sized()?;
        read.take(6)?;
        read.sized()?;
        let name = read.sized()?;
        read.end()?;
        let key = kind.key(public)?;
        if name == named(key) { Ok(key) } else { Err(TpmError::Malformed) }
    }
}

/// Reads the answer to [`read`]: the name of an endorsement key of this kind.
///
/// Errors: [`TpmError::Foreign`] also where it is like one, and of another hierarchy.
pub fn persisted(answer: &[u8], kind: Kind) -> Result<Digest, TpmError> {
    let mut read = answered(answer, PLAIN)?;
    let (public, name, qualified) = (read.sized()?, read.sized()?, read.sized()?);
    read.end()?;
    let key = kind.key(public)?;
    if name != named(key) {
        return Err(TpmError::Malformed);
    }
    // The qualified name of a primary key tells its hierarchy: the hash of that handle and the name (Part 1, 16).
    let under = Digest::of(&[&ENDORSEMENT.to_be_bytes()[..], name].concat());
    if qualified == named(under) { Ok(key) } else { Err(TpmError::Foreign) }
}

/// A digest as TPM names are written: behind the number of its algorithm.
fn named(digest: Digest) -> [u8; 34] {
    let mut name = [0; 34];
    name[..2].copy_from_slice(&SHA256);
    name[2..].copy_from_slice(digest.as_bytes());
    name
}

/// The parameters of an answer: what comes behind its tag, size and response code (Part 1, 18).
fn answered(answer: &[u8], tag: u16) -> Result<Reader<'_>, TpmError> {
    let mut read = Reader(answer);
    let (said, size, code) = (read.short()?, read.number()?, read.number()?);
    if usize::try_from(size) != Ok(answer.len()) {
        return Err(TpmError::Malformed);
    }
    match code {
        0 if said == tag => Ok(read),
        0 => Err(TpmError::Malformed),
        code => Err(TpmError::Refused { code }),
    }
}

/// What is left of an answer.
#[derive(Debug)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], TpmError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(TpmError::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn short(&mut self) -> Result<u16, TpmError> {
        self.take(2).map(|bytes| bytes.iter().fold(0, |sum, byte| sum << 8 | u16::from(*byte)))
    }

    fn number(&mut self) -> Result<u32, TpmError> {
        self.take(4).map(|bytes| bytes.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte)))
    }

    /// A TPM2B: two bytes of length, and as many.
    fn sized(&mut self) -> Result<&'a [u8], TpmError> {
        let length = self.short()?;
        self.take(usize::from(length))
    }

    /// What ends an answer to a command that was authorized. TPMS_AUTH_RESPONSE (Part 2, 10.13.3): nonce, attributes,
    /// acknowledgment.
    fn authorization(mut self) -> Result<(), TpmError> {
        self.sized()?;
        self.take(1)?;
        self.sized()?;
        self.end()
    }

    fn end(self) -> Result<(), TpmError> {
        if self.0.is_empty() { Ok(()) } else { Err(TpmError::Malformed) }
    }
}
