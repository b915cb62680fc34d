//! Disk images that are fetched: the real program, and a server on loopback whose certificate it is told to trust.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::*;

/// What a server does with a request.
#[derive(Clone, Copy)]
enum Behavior {
    /// Answers with this status and the image.
    Whole(&'static str),
    /// Says how long it is, and ends the connection in the middle.
    Cut,
    /// The same without saying how long it is, and with TLS's own end.
    CutInSilence,
    /// Sends whoever asks to `/image` of the same server.
    Elsewhere,
    /// Sends whoever asks to a server without TLS.
    InTheOpen,
}

const PATHS: [(&str, Behavior); 6] = [
    ("/image", Behavior::Whole("200 OK")),
    ("/gone", Behavior::Whole("404 Not Found")),
    ("/cut", Behavior::Cut),
    ("/silence", Behavior::CutInSilence),
    ("/elsewhere", Behavior::Elsewhere),
    ("/open", Behavior::InTheOpen),
];

/// The smallest disk that is taken in: 2 MiB with the mark of a GPT.
fn image() -> Vec<u8> {
    let mut disk = vec![0; 2 << 20];
    disk[512..520].copy_from_slice(b"EFI PART");
    disk[1 << 20..][..9].copy_from_slice(b"the image");
    disk
}

/// Serves for as long as the test runs; answers with where, and writes the certificate of its CA to `ca`.
fn serve(ca: &Path) -> SocketAddr {
    let key = || KeyPair::generate().expect("a key");
    let mut of_ca = CertificateParams::new(Vec::new()).expect("no names");
    of_ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let (ca_key, own_key) = (key(), key());
    let certificate = of_ca.self_signed(&ca_key).expect("signed");
    fs::write(ca, certificate.pem()).expect("written");
    let own = CertificateParams::new(vec!["localhost".into()]).expect("a name");
    let own = own.signed_by(&own_key, &Issuer::new(of_ca, ca_key)).expect("signed");

    let provider = rustls::crypto::ring::default_provider();
    let config = ServerConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![own.der().clone()], PrivatePkcs8KeyDer::from(own_key.serialize_der()).into())
        .expect("a certificate");
    let (config, listener) = (Arc::new(config), TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port"));
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let tls = ServerConnection::new(config.clone()).expect("a connection");
            // A client that does not like the certificate ends here.
            let _ = answer(StreamOwned::new(tls, stream), address.port());
        }
    });
    address
}

fn answer(stream: StreamOwned<ServerConnection, TcpStream>, port: u16) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut asked = String::new();
    reader.read_line(&mut asked)?;
    while reader.by_ref().lines().next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let mut stream = reader.into_inner();
    let path = asked.split(' ').nth(1).unwrap_or_default();
    let behavior = PATHS.iter().find(|(known, _)| *known == path).expect("a path of this test").1;
    let (image, long) = (image(), format!("Content-Length: {}\r\n", image().len()));
    let half = &image[..image.len() / 2];
    let elsewhere = format!("Location: https://localhost:{port}/image\r\nContent-Length: 0\r\n");
    let open = format!("Location: http://localhost:{port}/image\r\nContent-Length: 0\r\n");
    let (status, headers, body) = match behavior {
        Behavior::Whole(status) => (status, long.as_str(), &image[..]),
        Behavior::Cut => ("200 OK", long.as_str(), half),
        Behavior::CutInSilence => ("200 OK", "", half),
        Behavior::Elsewhere => ("302 Found", elsewhere.as_str(), &[][..]),
        Behavior::InTheOpen => ("302 Found", open.as_str(), &[][..]),
    };
    write!(stream, "HTTP/1.1 {status}\r\n{headers}Connection: close\r\n\r\n")?;
    stream.write_all(body)?;
    if !matches!(behavior, Behavior::Cut) {
        stream.conn.send_close_notify();
    }
    stream.flush()
}

#[tokio::test]
async fn an_image_is_fetched_over_https_whole_and_right_or_not_kept_at_all() {
    let folder = tempfile::tempdir().expect("a folder");
    let (ca, images) = (folder.path().join("ca.pem"), folder.path().join("images"));
    let port = serve(&ca).port();
    let (right, wrong) = (Digest::of(&image()).to_string(), Digest::of(b"another").to_string());
    let add = async |url: &str, sha256: Option<&str>, trusted: Option<&Path>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_muster"));
        command.args(["disk-image", "add", url, "--images"]).arg(&images).stdin(Stdio::null());
        command.args(sha256.iter().flat_map(|sha256| ["--sha256", sha256]));
        command.env("MUSTER_DATA", folder.path()).env_remove("SSL_CERT_FILE");
        command.envs(trusted.map(|ca| ("SSL_CERT_FILE", ca)));
        tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("the program starts")
    };
    let kept = || fs::read_dir(images.join("disks")).map_or(0, Iterator::count);
    let url = |path: &str| format!("https://localhost:{port}{path}");

    for (path, sha256, trusts, why) in [
        ("/image", Some(&wrong), true, right.as_str()),
        ("/image", None, true, "--sha256 is needed with a URL"),
        ("/image", Some(&right), false, "certificate"),
        ("/gone", Some(&right), true, "404"),
        ("/cut", Some(&right), true, "/cut: "),
        ("/silence", Some(&right), true, "SHA-256"),
        ("/open", Some(&right), true, "/open: "),
    ] {
        let output = add(&url(path), sha256.map(String::as_str), trusts.then_some(ca.as_path())).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{path}: {said}");
        assert!(said.contains(why), "{path} says {said:?} and nothing of {why:?}");
        assert_eq!(kept(), 0, "{path} left something");
    }
    for path in ["/image", "/elsewhere"] {
        let output = add(&url(path), Some(&right), Some(&ca)).await;
        let (told, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && told.contains(&right), "{path}: {told}{said}");
        assert_eq!(kept(), 1, "the image, and nothing of the way it came");
        fs::remove_dir_all(&images).expect("removed");
    }
    let plain = add(&url("/image").replace("https", "http"), Some(&right), Some(&ca)).await;
    assert!(String::from_utf8_lossy(&plain.stderr).contains("https:// is"), "{plain:?}");
}
