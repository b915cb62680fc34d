//! The cryptography of an agent: ECDSA and key exchange on P-256, AES-128-GCM, SHA-256, and nothing else.
//!
//! These are what the controller's certificates are made with and what every QUIC endpoint has (RFC 9001, section 5.2;
//! RFC 8446, section 9.1), so there is nothing to negotiate with one's own controller. Whatever else a provider offers would
//! be a tenth of the agent's size.

use std::sync::Arc;

use ring::error::{KeyRejected, Unspecified};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::crypto::ring::kx_group::SECP256R1;
use rustls::crypto::ring::sign::any_ecdsa_type;
use rustls::crypto::{CryptoProvider, GetRandomFailed, KeyProvider, SecureRandom, WebPkiSupportedAlgorithms};
use rustls::pki_types::PrivateKeyDer;
use rustls::{Error, SignatureScheme};
use webpki::ring::ECDSA_P256_SHA256;

/// What may have signed.
static VERIFIED: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[ECDSA_P256_SHA256],
    mapping: &[(SignatureScheme::ECDSA_NISTP256_SHA256, &[ECDSA_P256_SHA256])],
};

/// For TLS 1.3.
pub fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![SECP256R1],
        signature_verification_algorithms: VERIFIED,
        secure_random: &Own,
        key_provider: &Own,
    }
}

/// A new private key, PKCS#8 in DER. Errors: no random numbers.
pub fn new_key() -> Result<Vec<u8>, Unspecified> {
    let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new());
    Ok(key?.as_ref().to_vec())
}

/// Signs with ECDSA and SHA-256.
pub struct Signer(EcdsaKeyPair);

impl Signer {
    /// Errors: this is no key that [`new_key`] has made.
    pub fn new(key: &[u8]) -> Result<Self, KeyRejected> {
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, key, &SystemRandom::new()).map(Self)
    }

    /// The public key: an uncompressed point of 65 bytes (SEC 1, section 2.3.3).
    pub fn point(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }

    /// The signature in DER. Errors: no random numbers.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Unspecified> {
        Ok(self.0.sign(&SystemRandom::new(), message)?.as_ref().to_vec())
    }
}

#[derive(Debug)]
struct Own;

impl SecureRandom for Own {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), GetRandomFailed> {
        ring::rand::SecureRandom::fill(&SystemRandom::new(), bytes).map_err(|_| GetRandomFailed)
    }
}

impl KeyProvider for Own {
    fn load_private_key(&self, key: PrivateKeyDer<'static>) -> Result<Arc<dyn rustls::sign::SigningKey>, Error> {
        any_ecdsa_type(&key)
    }
}
