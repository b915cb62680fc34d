//! The certificate that the controller itself shows, to agents and over HTTPS: made at start, renewed while it runs
//! and when another CA signs.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::{Authority, LEAF_LIFETIME, Pki, PkiError, provider};

/// Addresses that the certificate names beside the host's names. They are the computer's own, so there are few.
const ADDRESSES: usize = 256;

/// See the module.
pub struct OwnCertificate {
    pki: Arc<Pki>,
    names: Vec<String>,
    inner: Mutex<Inner>,
}

struct Inner {
    addresses: BTreeSet<IpAddr>,
    key: Arc<CertifiedKey>,
    by: Arc<Authority>,
    renew_at: SystemTime,
}

impl OwnCertificate {
    /// Makes the first one, for `names` (addresses may be among them) and this computer's own name.
    pub fn new(pki: Arc<Pki>, names: &[String]) -> Result<Self, PkiError> {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let plain =
            |name: &String| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-.".contains(c));
        let own = ["localhost".to_owned(), host];
        let names: Vec<String> = own.into_iter().filter(plain).chain(names.iter().cloned()).collect();
        let addresses = BTreeSet::from([Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        let by = pki.authority();
        let (key, renew_at) = issue(&by, &names, &addresses, SystemTime::now())?;
        Ok(Self { pki, names, inner: Mutex::new(Inner { addresses, key, by, renew_at }) })
    }

    /// Adds an address of this computer that somebody came by, so that the certificate is good for it.
    pub fn cover(&self, address: IpAddr) {
        let address = address.to_canonical();
        let mut inner = self.inner();
        if inner.addresses.len() < ADDRESSES && inner.addresses.insert(address) {
            self.renew(&mut inner, SystemTime::now());
        }
    }

    fn current(&self, now: SystemTime) -> Arc<CertifiedKey> {
        let mut inner = self.inner();
        if now >= inner.renew_at || !Arc::ptr_eq(&inner.by, &self.pki.authority()) {
            self.renew(&mut inner, now);
        }
        inner.key.clone()
    }

    fn renew(&self, inner: &mut Inner, now: SystemTime) {
        let by = self.pki.authority();
        match issue(&by, &self.names, &inner.addresses, now) {
            Ok((key, renew_at)) => (inner.key, inner.renew_at, inner.by) = (key, renew_at, by),
            // The one that is there is good for as long again.
            Err(error) => tracing::error!(?error, "cannot renew the controller's certificate"),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn issue(
    by: &Authority,
    names: &[String],
    addresses: &BTreeSet<IpAddr>,
    now: SystemTime,
) -> Result<(Arc<CertifiedKey>, SystemTime), PkiError> {
    let addresses: Vec<IpAddr> = addresses.iter().copied().collect();
    let leaf = Pki::sign_controller(by, names, &addresses, now)?;
    let key = CertifiedKey::from_der(leaf.chain, leaf.key, &provider()).map_err(PkiError::Tls)?;
    Ok((Arc::new(key), now + LEAF_LIFETIME / 2))
}

impl ResolvesServerCert for OwnCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current(SystemTime::now()))
    }
}

impl std::fmt::Debug for OwnCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OwnCertificate").field("names", &self.names).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use x509_parser::extensions::GeneralName;

    fn own() -> (tempfile::TempDir, OwnCertificate) {
        let data = tempfile::tempdir().expect("a temporary folder");
        let pki = Arc::new(Pki::open(data.path()).expect("a CA"));
        let names = ["muster.example.net".to_owned(), "192.0.2.9".to_owned()];
        (data, OwnCertificate::new(pki, &names).expect("a certificate"))
    }

    fn names(key: &CertifiedKey) -> Vec<String> {
        let (_, leaf) = x509_parser::parse_x509_certificate(&key.cert[0]).expect("a certificate");
        let names = leaf.subject_alternative_name().expect("readable").expect("there");
        let text = |name: &GeneralName<'_>| match name {
            GeneralName::DNSName(name) => (*name).to_owned(),
            GeneralName::IPAddress(bytes) => format!("{bytes:?}"),
            other => panic!("{other:?}"),
        };
        names.value.general_names.iter().map(text).collect()
    }

    #[test]
    fn it_names_the_role_the_host_and_what_was_configured() {
        let (_data, own) = own();
        let names = names(&own.current(SystemTime::now()));
        for name in
            [muster_protocol::CONTROLLER_NAME, "localhost", "muster.example.net", "[192, 0, 2, 9]", "[127, 0, 0, 1]"]
        {
            assert!(names.iter().any(|n| n == name), "{name} is not in {names:?}");
        }
    }

    #[test]
    fn an_address_that_somebody_came_by_is_covered_from_then_on() {
        let (_data, own) = own();
        own.cover("::ffff:198.51.100.7".parse().expect("an address"));
        let first = own.current(SystemTime::now());
        assert!(names(&first).contains(&"[198, 51, 100, 7]".to_owned()));
        own.cover("198.51.100.7".parse().expect("an address"));
        assert!(Arc::ptr_eq(&first, &own.current(SystemTime::now())), "no new certificate for what is covered");
    }

    #[test]
    fn it_is_renewed_when_half_of_its_time_has_passed() {
        let (_data, own) = own();
        let now = SystemTime::now();
        let first = own.current(now);
        assert!(Arc::ptr_eq(&first, &own.current(now + LEAF_LIFETIME / 3)));
        assert!(!Arc::ptr_eq(&first, &own.current(now + LEAF_LIFETIME / 2 + std::time::Duration::from_secs(60))));
    }
}
