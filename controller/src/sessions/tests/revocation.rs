//! A machine that is not to be in the fleet any more is gone within a second, and no memory of TLS brings it back.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::NamedGroup;
use rustls::client::Tls13ClientSessionValue;
use rustls::client::{ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue};
use rustls::pki_types::ServerName;

use super::*;
use crate::fleet::Refusal as Refused;

/// The promise, from the moment at which the change was acknowledged.
const GONE_WITHIN: Duration = Duration::from_secs(1);

type Change = fn(&mut Draft, MachineId) -> Result<(), Refused>;

/// What takes a pending machine's right to a session away.
const WAYS: [(&str, Change); 3] = [
    ("rejected", |draft, id| machine::reject(draft, id).map(drop)),
    ("retired", |draft, id| machine::retire(draft, id).map(drop)),
    ("superseded", |draft, id| {
        // As the enrollment of its next boot does.
        let record = draft.need::<Machine>(&id)?;
        machine::save(draft, Machine { certificate: Digest::of(b"another key"), ..record });
        Ok(())
    }),
];

#[tokio::test]
async fn the_session_of_a_machine_that_is_rejected_retired_or_superseded_ends_within_a_second() {
    for (way, change) in WAYS {
        let world = world();
        let who = world.enrolled().await;
        let session = world.session(&who).await;
        let id = who.machine;
        world.fleet.change(Author::controller(), move |draft| change(draft, id)).await.expect(way);
        let end = tokio::time::timeout(GONE_WITHIN, session.closed()).await;
        let Ok(ConnectionError::ApplicationClosed(end)) = end else { panic!("{way}: {end:?}") };
        assert_eq!(end.error_code, close::UNAUTHORIZED.into(), "{way}");
        world.presence(id, |p| matches!(p, Presence::Offline { .. })).await;
    }
}

#[tokio::test]
async fn its_next_handshake_is_refused_with_resumption_and_early_data_tried() {
    for (way, change) in WAYS {
        let world = world();
        let who = world.enrolled().await;
        let id = who.machine;
        let (endpoint, memory) = world.with_a_memory(&who);
        let dial = || endpoint.connect(world.address, CONTROLLER_NAME).expect("dials");
        let session = dial().await.expect("it may");
        welcome(&session).await;
        world.fleet.change(Author::controller(), move |draft| change(draft, id)).await.expect(way);
        assert_eq!(closed(&session).await.0, close::UNAUTHORIZED, "{way}");

        // A ticket would have come by now: it is sent right after the handshake, and a whole exchange came later.
        assert_eq!(memory.tickets.load(Ordering::Relaxed), 0, "{way}: nothing was given to resume with");
        let Err(connecting) = dial().into_0rtt() else { panic!("{way}: it could send early data") };
        let again = connecting.await.expect("TLS lets it pass");
        assert_eq!(closed(&again).await.0, close::UNAUTHORIZED, "{way}");
        assert!(memory.asked.load(Ordering::Relaxed) >= 2, "{way}: the client did want to resume");
    }
}

/// What a client of TLS remembers, and counts.
#[derive(Debug)]
struct Memory {
    inner: ClientSessionMemoryCache,
    tickets: AtomicUsize,
    asked: AtomicUsize,
    groups: Mutex<Option<NamedGroup>>,
}

impl ClientSessionStore for Memory {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        *self.groups.lock().expect("not poisoned") = Some(group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        *self.groups.lock().expect("not poisoned")
    }

    fn set_tls12_session(&self, name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.inner.set_tls12_session(name, value);
    }

    fn tls12_session(&self, name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.inner.tls12_session(name)
    }

    fn remove_tls12_session(&self, name: &ServerName<'static>) {
        self.inner.remove_tls12_session(name);
    }

    fn insert_tls13_ticket(&self, name: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.tickets.fetch_add(1, Ordering::Relaxed);
        self.inner.insert_tls13_ticket(name, value);
    }

    fn take_tls13_ticket(&self, name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.inner.take_tls13_ticket(name)
    }
}

impl World {
    /// An agent that resumes sessions and sends early data wherever it can, unlike ours.
    fn with_a_memory(&self, who: &Identified) -> (Endpoint, Arc<Memory>) {
        let memory = Arc::new(Memory {
            inner: ClientSessionMemoryCache::new(8),
            tickets: AtomicUsize::new(0),
            asked: AtomicUsize::new(0),
            groups: Mutex::new(None),
        });
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.pki.authority().ca().clone()).expect("our CA");
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(who.key.clone()));
        let mut tls = rustls::ClientConfig::builder_with_provider(crate::pki::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(roots)
            .with_client_auth_cert(who.chain.clone(), key)
            .expect("a certificate and its key");
        tls.alpn_protocols = vec![ALPN_SESSION.to_vec()];
        tls.enable_early_data = true;
        tls.resumption = Resumption::store(memory.clone());
        let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls).expect("QUIC");
        let mut endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).expect("a port");
        endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(tls)));
        (endpoint, memory)
    }
}
