//! The certificate that the controller itself shows, to agents and over HTTPS: made at start, renewed while it runs
//! and when another CA signs. Machines that boot get one by the boot CA: see [`ForBooting`].

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::{Authority, LEAF_LIFETIME, Leaf, Pki, PkiError, provider};

/// Addresses that the certificate names beside the host's names. They are the computer's own, so there are few.
const ADDRESSES: usize = 256;

/// By what machines that boot reach the controller: addresses and DNS names.
/// As long as they are the same, so is the pointer.
pub type Hosts = Box<dyn Fn() -> Arc<BTreeSet<String>> + Send + Sync>;

/// See the module.
pub struct OwnCertificate {
    pki: Arc<Pki>,
    names: Vec<String>,
    hosts: Hosts,
    inner: Mutex<Inner>,
}

struct Inner {
    addresses: BTreeSet<IpAddr>,
    key: Arc<CertifiedKey>,
    by: Arc<Authority>,
    renew_at: SystemTime,
    /// By the boot CA, for the same addresses and these hosts; made when somebody asks for it.
    boot: Option<(Arc<BTreeSet<String>>, Arc<CertifiedKey>)>,
}

impl OwnCertificate {
    /// Makes the first one, for `names` (addresses may be among them) and this computer's own name.
    ///
    /// That for machines that boot is good for `hosts` as well, as they are when one of them comes: an address that was
    /// translated on the way is not this computer's.
    pub fn new(pki: Arc<Pki>, names: &[String], hosts: Hosts) -> Result<Self, PkiError> {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let plain =
            |name: &String| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-.".contains(c));
        let own = ["localhost".to_owned(), host];
        let names: Vec<String> = own.into_iter().filter(plain).chain(names.iter().cloned()).collect();
        let addresses = BTreeSet::from([Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        let by = pki.authority();
        let (key, renew_at) = issue(&by, &names, &addresses, SystemTime::now())?;
        Ok(Self { pki, names, hosts, inner: Mutex::new(Inner { addresses, key, by, renew_at, boot: None }) })
    }

    /// Adds an address of this computer that somebody came by, so that the certificate is good for it.
    pub fn cover(&self, address: IpAddr) {
        let address = address.to_canonical();
        let mut inner = self.inner();
        if inner.addresses.len() < ADDRESSES && inner.addresses.insert(address) {
            inner.boot = None;
            self.renew(&mut inner, SystemTime::now());
        }
    }

    /// `None` where there is no boot CA, and so nobody who could believe it.
    fn for_booting(&self) -> Option<Arc<CertifiedKey>> {
        let authority = self.pki.boot_made()?;
        let hosts = (self.hosts)();
        let mut inner = self.inner();
        if let Some((of, key)) = &inner.boot
            && Arc::ptr_eq(of, &hosts)
        {
            return Some(key.clone());
        }
        let addresses: Vec<IpAddr> = inner.addresses.iter().copied().collect();
        let names: Vec<String> = self.names.iter().chain(hosts.iter()).cloned().collect();
        let leaf = authority.sign(&names, &addresses).and_then(certified);
        let key = leaf.inspect_err(|error| tracing::error!(?error, "no certificate for machines that boot")).ok()?;
        inner.boot = Some((hosts, key.clone()));
        Some(key)
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
    Ok((certified(leaf)?, now + LEAF_LIFETIME / 2))
}

fn certified(leaf: Leaf) -> Result<Arc<CertifiedKey>, PkiError> {
    CertifiedKey::from_der(leaf.chain, leaf.key, &provider()).map(Arc::new).map_err(PkiError::Tls)
}

impl ResolvesServerCert for OwnCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current(SystemTime::now()))
    }
}

/// The same controller for machines that boot: shows its certificate by the boot CA, and none where there is no such CA.
#[derive(Debug)]
pub struct ForBooting(pub Arc<OwnCertificate>);

impl ResolvesServerCert for ForBooting {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.for_booting()
    }
}

impl std::fmt::Debug for OwnCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OwnCertificate").field("names", &self.names).finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use rustls::SignatureScheme;
    use rustls::pki_types::{CertificateDer, UnixTime};
    use x509_parser::extensions::GeneralName;

    pub(crate) fn own() -> (tempfile::TempDir, Arc<OwnCertificate>) {
        let data = tempfile::tempdir().expect("a temporary folder");
        let pki = Arc::new(Pki::open(data.path()).expect("a CA"));
        let names = ["muster.example.net".to_owned(), "192.0.2.9".to_owned()];
        let hosts = Arc::new(BTreeSet::from(["203.0.113.5".to_owned(), "boot.example.net".to_owned()]));
        let hosts = move || hosts.clone();
        (data, Arc::new(OwnCertificate::new(pki, &names, Box::new(hosts)).expect("a certificate")))
    }

    /// What stands between a client and [`OwnCertificate`], as far as it goes.
    fn handshake(
        own: Arc<dyn ResolvesServerCert>,
        client: rustls::ClientConfig,
        host: &str,
    ) -> Result<(), rustls::Error> {
        let server = rustls::ServerConfig::builder_with_provider(provider());
        let server = server.with_protocol_versions(rustls::ALL_VERSIONS)?.with_no_client_auth();
        let mut server = rustls::ServerConnection::new(Arc::new(server.with_cert_resolver(own)))?;
        let host = host.to_owned().try_into().expect("a name");
        let mut client = rustls::ClientConnection::new(Arc::new(client), host)?;
        while client.is_handshaking() || server.is_handshaking() {
            let mut wire = Vec::new();
            client.write_tls(&mut wire).expect("memory");
            server.read_tls(&mut wire.as_slice()).expect("memory");
            server.process_new_packets()?;
            let mut wire = Vec::new();
            server.write_tls(&mut wire).expect("memory");
            client.read_tls(&mut wire.as_slice()).expect("memory");
            client.process_new_packets()?;
        }
        Ok(())
    }

    #[derive(Debug)]
    struct Clock(u64);

    impl rustls::time_provider::TimeProvider for Clock {
        fn current_time(&self) -> Option<UnixTime> {
            Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(self.0)))
        }
    }

    fn boot(own: &Arc<OwnCertificate>, client: rustls::ClientConfig, host: &str) -> Result<(), rustls::Error> {
        handshake(Arc::new(ForBooting(own.clone())), client, host)
    }

    /// A client like iPXE: TLS 1.2, RSA alone, one CA, and a clock of its own.
    pub(crate) fn ipxe(ca: &CertificateDer<'static>, unix_s: u64) -> rustls::ClientConfig {
        let mut provider = (*provider()).clone();
        let mapping = provider.signature_verification_algorithms.mapping;
        let rsa = |(scheme, _): &&(SignatureScheme, _)| *scheme == SignatureScheme::RSA_PKCS1_SHA256;
        provider.signature_verification_algorithms.mapping =
            mapping.iter().filter(rsa).copied().collect::<Vec<_>>().leak();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(ca.clone()).expect("a CA");
        let client = rustls::ClientConfig::builder_with_details(Arc::new(provider), Arc::new(Clock(unix_s)));
        let client = client.with_protocol_versions(&[&rustls::version::TLS12]).expect("there is a suite");
        client.with_root_certificates(roots).with_no_client_auth()
    }

    #[test]
    fn a_machine_that_boots_finds_the_controller_true_by_any_of_its_names_in_1970_and_in_2099() {
        let hosts = ["127.0.0.1", "localhost", "muster.example.net", "192.0.2.9", "203.0.113.5", "boot.example.net"];
        let (_data, own) = own();
        let ca = own.pki.boot().expect("made");
        for (unix_s, host) in [0, 4_070_908_800].into_iter().flat_map(|now| hosts.map(|host| (now, host))) {
            boot(&own, ipxe(ca.certificate(), unix_s), host).expect(host);
        }
    }

    #[test]
    fn a_machine_that_pins_another_boot_ca_or_asks_for_another_host_does_not_believe_the_controller() {
        let ((_data, ours), (_other_data, other)) = (own(), own());
        let stranger = other.pki.boot().expect("made");
        ours.pki.boot().expect("made");
        let error = boot(&ours, ipxe(stranger.certificate(), 0), "localhost").expect_err("another CA");
        assert_eq!(error, rustls::CertificateError::UnknownIssuer.into());
        let error = boot(&other, ipxe(stranger.certificate(), 0), "other.example.net").expect_err("another host");
        assert!(matches!(error, rustls::Error::InvalidCertificate(_)), "{error}");
    }

    #[test]
    fn who_boots_is_shown_no_certificate_and_makes_no_ca_while_no_medium_can_pin_one() {
        let ((_data, ours), (_other_data, other)) = (own(), own());
        let ca = other.pki.boot().expect("made");
        let refused = boot(&ours, ipxe(ca.certificate(), 0), "localhost").expect_err("refused");
        assert!(matches!(refused, rustls::Error::General(_)), "by the controller: {refused}");
        assert!(ours.pki.boot_made().is_none());
    }

    #[test]
    fn whoever_does_not_boot_never_sees_the_boot_ca() {
        let (_data, own) = own();
        own.pki.boot().expect("made");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(own.pki.authority().ca().clone()).expect("a CA");
        let client = rustls::ClientConfig::builder_with_provider(provider());
        let client = client.with_protocol_versions(rustls::ALL_VERSIONS).expect("versions");
        let client = client.with_root_certificates(roots).with_no_client_auth();
        handshake(own.clone(), client, "localhost").expect("ours");
        let ca = own.pki.boot().expect("there");
        assert!(
            handshake(own.clone(), ipxe(ca.certificate(), 0), "localhost").is_err(),
            "also to whoever knows RSA alone"
        );
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
