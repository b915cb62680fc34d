//! A whole controller on ports of its own: what is there after its first start, and after the next.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use muster_protocol::to_controller::KeyUse;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, version};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::*;
use crate::fleet::machine::keys;
use crate::fleet::record::Role;
use crate::fleet::{Author, Draft, access};
use crate::pki::own_tests::ipxe;
use crate::pki::{PublicCertificate, PublicFiles};

const DEADLINE: Duration = Duration::from_secs(20);

fn config(data: &Path) -> Config {
    let mut config = Config::with_data(data.into());
    let any = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))];
    config.listen.agents = any.clone();
    config.listen.https = any.clone();
    config.listen.boot = any;
    config
}

async fn talk(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.expect("written");
    let mut answer = Vec::new();
    // Some peers end without TLS's goodbye.
    let _ = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await.expect("in time");
    String::from_utf8_lossy(&answer).into_owned()
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
}

async fn https(
    data: &Path,
    address: SocketAddr,
    name: &str,
    versions: &[&'static SupportedProtocolVersion],
    path: &str,
) -> Result<String, std::io::Error> {
    let ca = std::fs::read(data.join("ca.crt")).expect("the CA's certificate lies in the data directory");
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&ca).expect("PEM")).expect("a CA");
    let tls = ClientConfig::builder_with_provider(crate::pki::provider())
        .with_protocol_versions(versions)
        .expect("known versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let stream = TlsConnector::from(Arc::new(tls)).connect(name, stream).await?;
    Ok(talk(stream, &get(path)).await)
}

#[tokio::test]
async fn a_first_start_needs_nothing_and_the_next_one_finds_everything() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let data = data.path().join("not/there/yet");
    let server = Server::start(config(&data)).await.expect("starts");
    let read = |name: &str| std::fs::read_to_string(data.join(name)).expect("there");
    let (token, ca) = (read("admin-token"), read("ca.crt"));
    assert_eq!(read("endpoint"), format!("https://{}\n", server.https[0]));
    assert!(access::check(&server.fleet.state(), token.trim(), 0).is_ok());
    server.stop().await;

    let server = Server::start(config(&data)).await.expect("starts again");
    assert_eq!((read("admin-token"), read("ca.crt")), (token.clone(), ca));
    assert!(access::check(&server.fleet.state(), token.trim(), 0).is_ok());
    server.stop().await;
}

#[tokio::test]
async fn an_audit_log_that_was_cut_is_told_at_the_next_start_and_does_not_keep_the_controller_down() {
    use crate::fleet::audit::{self, Extent};
    use crate::fleet::ledger::{self, Ledger};
    use crate::store::{Batch, MemoryStore, Write};
    let data = tempfile::tempdir().expect("a temporary folder");
    let mut store = MemoryStore::new();
    for _ in 0..2 {
        let server = Server::start_on(store.clone(), config(data.path())).await.expect("starts");
        let make = |draft: &mut Draft| {
            draft.audit("location.set", "ber1", crate::fleet::Facts::none(), crate::fleet::Facts::none());
            Ok(())
        };
        server.fleet.change(Author::controller(), make).await.expect("written");
        assert!(!server.fleet.state().events.iter().any(|event| event.kind == "audit.broken"));
        server.stop().await;
    }
    let expected = store.load(ledger::PREFIX).expect("loads").revision;
    let last = Ledger::new(store.archive()).back(0, u64::MAX, 1).expect("read").remove(0).seq;
    let cut = Batch { expected, writes: vec![Write::Delete { key: ledger::key(last) }] };
    store.commit(&cut).expect("cut");

    let server = Server::start_on(store.clone(), config(data.path())).await.expect("starts all the same");
    let state = server.fleet.state();
    let told = state.events.iter().find(|event| event.kind == "audit.broken").expect("told");
    assert!(told.text.contains("its end was cut off"), "{}", told.text);
    assert!(matches!(audit::check(&server.fleet.ledger(), Extent::Whole), Err(audit::Broken::Cut { .. })));
    drop(state);
    server.stop().await;
}

#[tokio::test]
async fn a_site_whose_machines_all_start_at_once_leaves_operators_their_places() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let pki = Arc::new(Pki::open(data.path()).expect("a CA"));
    let boot = pki.boot().expect("made");
    let own = Arc::new(OwnCertificate::new(pki, &[], Box::new(Arc::default)).expect("a certificate"));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let (metrics, (_stop, stopped)) = (Metrics::default(), watch::channel(false));
    let starts = Router::new().route("/", axum::routing::get(|| async { "a boot script" }));
    let public = PublicCertificate::open(own.clone(), None).expect("nothing to open");
    let tls = http::Transport::Tls(Arc::new(http::Tls::new(own, public, starts).expect("TLS")));
    tokio::spawn(http::serve(listener, tls, page::router(), metrics.clone(), 8, stopped));

    let machine = TlsConnector::from(Arc::new(ipxe(boot.certificate(), 0)));
    let name = ServerName::try_from("127.0.0.1").expect("a name");
    let mut starting = Vec::new();
    for number in 0..12 {
        let stream = TcpStream::connect(address).await.expect("connects");
        let mut stream = machine.connect(name.clone(), stream).await.expect("the handshake is for all of them");
        let request = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
        stream.write_all(request.as_bytes()).await.expect("written");
        let mut first = [0; 12];
        let answer = tokio::time::timeout(DEADLINE, stream.read_exact(&mut first)).await.expect("in time");
        // Half of the eight are for one source.
        assert_eq!(answer.is_ok(), number < 4, "{number}");
        starting.push(stream);
    }
    for _ in 0..4 {
        let page = https(data.path(), address, "127.0.0.1", &[&version::TLS12], "/").await.expect("TLS");
        assert!(page.starts_with("HTTP/1.1 200") && page.contains("Muster controller"), "{page}");
    }
}

#[tokio::test]
async fn https_speaks_both_versions_of_tls_and_is_good_for_the_address_it_is_reached_by() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let server = Server::start(config(data.path())).await.expect("starts");
    let address = server.https[0];
    for versions in [&[&version::TLS13], &[&version::TLS12]] {
        for name in ["127.0.0.1", "localhost", muster_protocol::CONTROLLER_NAME] {
            let page = https(data.path(), address, name, versions, "/").await.expect("TLS");
            assert!(page.starts_with("HTTP/1.1 200") && page.contains("Muster controller"), "{page}");
        }
    }
    assert!(https(data.path(), address, "example.org", &[&version::TLS13], "/").await.is_err());
    server.stop().await;
}

#[tokio::test]
async fn files_that_are_no_certificate_are_named_by_their_field_and_not_as_the_cas() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let [certificate, key] = ["fullchain.pem", "privkey.pem"].map(|name| data.path().join(name));
    std::fs::write(&certificate, "no PEM at all").expect("written");
    let mut config = config(data.path());
    config.https.files = Some(PublicFiles { certificate: certificate.clone(), key });
    let error = Server::start(config).await.err().expect("refused");
    let error = format!("{:#}", anyhow::Error::from(error));
    for part in ["[https]", "https.certificate has no certificate", "fullchain.pem: ", "certbot's"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(!error.contains("authority"), "{error}");
}

#[tokio::test]
async fn cycle_is_served_beside_the_operators() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let server = Server::start(config(data.path())).await.expect("starts");
    let ask = async |path: &str| {
        https(data.path(), server.https[0], "localhost", &[&version::TLS13], path).await.expect("TLS")
    };
    for path in ["/v1/infrastructure/provider/locations", "//v1/infrastructure//provider/locations/"] {
        let answer = ask(path).await;
        assert!(answer.ends_with(r#"{"data":{"extra":{},"locations":[]},"error":null}"#), "{answer}");
    }
    assert!(ask("/v1/nothing").await.contains(r#""code":"404.uri""#));
    assert!(ask("/").await.contains("Muster controller"));
    assert!(ask("/api/v1/machines").await.starts_with("HTTP/1.1 401"));
    assert!(ask("/api/v1/openapi.json").await.contains("\"openapi\""));
    server.stop().await;
}

#[tokio::test]
async fn metrics_are_for_viewers_and_say_who_was_refused_at_which_door() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let server = Server::start(config(data.path())).await.expect("starts");
    let ask = async |path: &str| {
        https(data.path(), server.https[0], "localhost", &[&version::TLS13], path).await.expect("TLS")
    };
    assert!(ask("/metrics").await.starts_with("HTTP/1.1 401"));
    assert!(ask("/v1/nothing").await.starts_with("HTTP/1.1 404"));
    let boot = async |path: &str| talk(TcpStream::connect(server.boot[0]).await.expect("open"), &get(path)).await;
    assert!(boot("/boot/script?colour=red").await.starts_with("HTTP/1.1 400"));
    let wait = boot("/boot/script?macs=52-54-00-12-34-56").await;
    assert!(wait.starts_with("HTTP/1.1 200"), "a script that waits, since there is no image: {wait}");

    let viewer = |draft: &mut Draft| access::create(draft, "looks", Role::Viewer, None);
    let (_, token) = server.fleet.change(Author::controller(), viewer).await.expect("made");
    let text = ask(&format!("/metrics HTTP/1.1\r\nAuthorization: Bearer {token}\r\nX-Rest: ")).await;
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("application/openmetrics-text"), "{text}");
    for line in [
        "muster_refusals_total{door=\"api\",reason=\"token_missing\"} 1",
        "muster_refusals_total{door=\"ial\",reason=\"not_found\"} 1",
        "muster_refusals_total{door=\"boot\",reason=\"malformed\"} 1",
        "muster_refusals_total{door=\"boot\",reason=\"busy\"} 1",
        "muster_enrollments_total 0",
        "muster_machines{lifecycle=\"pending\"} 0",
        "muster_sessions 0",
        "muster_handshakes_in_progress 0",
        "# EOF",
    ] {
        assert!(text.lines().any(|there| there == line), "{line} is missing: {text}");
    }
    let value = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {text}"));
        line.rsplit(' ').next().and_then(|value| value.parse::<u64>().ok()).expect("a number")
    };
    assert!(value("process_start_time_seconds ") > 1_700_000_000);
    assert!(value("process_resident_memory_bytes ") > 1 << 20);
    server.stop().await;
}

/// Of the operators' API `no_route_answers_with_the_key_of_a_volume` says the same.
#[tokio::test]
async fn metrics_show_nothing_of_the_key_of_a_volume() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let server = Server::start(config(data.path())).await.expect("starts");
    let seal = Pki::open(data.path()).expect("a CA").disks().expect("made");
    let make = move |draft: &mut Draft| {
        let id = keys::tests::member(draft);
        keys::tests::describe(draft, id);
        let key = keys::ask(draft, &seal, id, ("vault", [7; 16]), KeyUse::Make)?.expect("made");
        Ok((key, access::create(draft, "looks", Role::Viewer, None)?.1))
    };
    let (key, token) = server.fleet.change(Author::controller(), make).await.expect("made");
    let path = format!("/metrics HTTP/1.1\r\nAuthorization: Bearer {token}\r\nX-Rest: ");
    let text = https(data.path(), server.https[0], "localhost", &[&version::TLS13], &path).await.expect("TLS");
    assert!(text.contains("muster_machines{lifecycle=\"available\"} 1"), "{text}");
    let hex: String = key.bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let list = format!("{:?}", &key.bytes()[..8]);
    for told in [&hex[..16], &STANDARD.encode(key.bytes())[..10], list.trim_matches(['[', ']'])] {
        assert!(!text.to_lowercase().contains(&told.to_lowercase()), "{text}");
    }
    for word in ["vault", "07070707-0707-0707-0707-070707070707"] {
        assert!(!text.contains(word), "nor is {word} a label, of which there would be one for each volume: {text}");
    }
    server.stop().await;
}

#[tokio::test]
async fn boot_media_are_served_over_plain_http() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let images = data.path().join("images");
    std::fs::create_dir_all(&images).expect("made");
    std::fs::write(images.join("kernel"), b"kernel").expect("written");
    std::fs::write(images.join("initramfs"), vec![1; 1 << 20]).expect("written");
    let server = Server::start(config(data.path())).await.expect("starts");
    let fetch = async |request: &str| talk(TcpStream::connect(server.boot[0]).await.expect("open"), request).await;
    assert!(fetch(&get("/boot.ipxe")).await.contains("#!ipxe"));
    let script = fetch(&get("/boot/script?macs=52-54-00-12-34-56")).await;
    assert!(script.contains(&format!("muster.controller=localhost:{}", server.agents[0].port())), "{script}");
    let initramfs = fetch(&get("/boot/initramfs")).await;
    assert!(initramfs.contains("content-length: 1048576\r\n"), "{}", &initramfs[..200]);
    assert!(initramfs.ends_with(&"\u{1}".repeat(100)));
    let head = fetch(&get("/boot/kernel").replace("GET", "HEAD")).await;
    assert!(head.contains("content-length: 6\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    assert!(fetch(&get("/api/v1/machines")).await.starts_with("HTTP/1.1 404"));
    // A connection is for one download at a time: HTTP/2 would have many.
    assert!(!fetch("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.contains("\0\0"));
    let over_https = https(data.path(), server.https[0], "localhost", &[&version::TLS12], "/boot/kernel").await;
    assert!(over_https.expect("TLS").starts_with("HTTP/1.1 404"), "that is for machines that start");
    server.stop().await;
}

#[tokio::test]
async fn what_is_not_http_is_answered_and_closed() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let server = Server::start(config(data.path())).await.expect("starts");
    let large = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(1 << 20));
    for garbage in ["\u{0}\u{1}\u{2}\r\n\r\n", "GET\r\n\r\n", large.as_str(), "GET / HTTP/9.9\r\n\r\n"] {
        for address in [server.boot[0], server.https[0]] {
            let mut stream = TcpStream::connect(address).await.expect("open");
            let _ = stream.write_all(garbage.as_bytes()).await;
            let mut answer = Vec::new();
            let _ = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await.expect("closed in time");
            assert!(!answer.starts_with(b"HTTP/1.1 2"));
        }
    }
    let boot = TcpStream::connect(server.boot[0]).await.expect("open");
    assert!(talk(boot, &get("/boot.ipxe")).await.contains("#!ipxe"), "others are served");
    server.stop().await;
}

#[tokio::test]
async fn a_second_controller_on_the_same_data_is_refused() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let server = Server::start(config(data.path())).await.expect("starts");
    let Err(error) = Server::start(config(data.path())).await else { panic!("two controllers on one database") };
    let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    assert!(cause.contains("is another controller running"), "{error}: {cause}");
    server.stop().await;
}

#[tokio::test]
async fn a_port_in_use_stops_the_start_and_names_its_key() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let taken = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let mut config = config(data.path());
    config.listen.agents = vec![taken.local_addr().expect("bound")];
    let Err(error) = Server::start(config).await else { panic!("two programs on one port") };
    let text = error.to_string();
    assert!(text.starts_with("listen.agents: 127.0.0.1:") && text.contains("/udp is in use"), "{text}");
}

#[tokio::test]
async fn a_stopped_controller_has_left_its_ports() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let server = Server::start(config(data.path())).await.expect("starts");
    let (https, boot) = (server.https[0], server.boot[0]);
    // Neither a connection that does nothing nor one in the middle of a request holds the end up.
    let _idle = TcpStream::connect(boot).await.expect("open");
    let mut half = TcpStream::connect(boot).await.expect("open");
    half.write_all(b"GET /boot.ipxe HT").await.expect("written");
    tokio::time::timeout(DEADLINE, server.stop()).await.expect("in time");
    Server::start(config(data.path())).await.expect("the database is free again").stop().await;
    assert!(TcpStream::connect(https).await.is_err());
    assert!(TcpStream::connect(boot).await.is_err());
}

#[tokio::test]
async fn a_data_directory_that_cannot_be_made_is_an_error_with_a_remedy() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let file = data.path().join("file");
    std::fs::write(&file, b"").expect("written");
    let Err(error) = Server::start(config(&file.join("below"))).await else { panic!("a folder in a file") };
    assert!(error.to_string().contains("choose another one with --data"), "{error}");
}

#[tokio::test]
async fn a_failed_disk_ends_the_controller_and_says_so() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let store = crate::store::MemoryStore::new();
    let mut server = Server::start_on(store.clone(), config(data.path())).await.expect("starts");
    store.fail_after(0);
    let change = server.fleet.change(Author::controller(), |draft| {
        draft.event("test.event", "disk", "is never seen");
        Ok(())
    });
    assert_eq!(change.await, Err(Refusal::StoreFailed));
    let error = tokio::time::timeout(DEADLINE, server.failed()).await.expect("in time");
    assert_eq!(error.to_string(), "the database cannot be used");
    assert!(std::error::Error::source(&error).is_some_and(|cause| cause.to_string() == "the database failed"));
    tokio::time::timeout(DEADLINE, server.stop()).await.expect("in time");
}

#[tokio::test]
async fn a_controller_one_of_whose_loops_has_gone_ends() {
    let data = tempfile::tempdir().expect("a temporary folder");
    for (at, part) in ["converge loop", "lease keeper"].into_iter().enumerate() {
        let mut server = Server::start(config(data.path())).await.expect("starts");
        server.loops[at].abort();
        let failed = tokio::time::timeout(DEADLINE, server.failed()).await.expect("in time");
        assert!(matches!(failed, ServeError::Part(name) if name == part), "{failed}");
        server.stop().await;
    }
}
