//! How a command finds its controller: what was given, the environment, else the data directory on this host.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use rustls::pki_types::CertificateDer;
use ureq::config::ConfigBuilder;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};
use ureq::typestate::AgentScope;

use super::client::Client;
use super::error::CliError;
use crate::{config, pki};

/// Where Debian keeps the certificate authorities that this host trusts.
const SYSTEM_CAS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Where the controller is, and who asks.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Controller")]
pub struct Connect {
    /// The controller's URL, such as https://muster.example:8443 [env: MUSTER_URL]
    #[arg(long, value_name = "URL", value_parser = NonEmptyStringValueParser::new())]
    pub url: Option<String>,
    /// A token, muster_… [env: MUSTER_TOKEN]
    #[arg(long, value_name = "TOKEN", value_parser = NonEmptyStringValueParser::new())]
    pub token: Option<String>,
    /// The CA to trust, in PEM; the controller's own lies in its data directory as ca.crt [env: MUSTER_CA]
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    #[command(flatten)]
    pub data: DataDir,
}

/// Where the controller on this host keeps its data.
#[derive(Debug, Clone, Default, Args)]
pub struct DataDir {
    /// The data directory of the controller on this host [env: MUSTER_DATA]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// What the environment says; what is empty there says nothing.
pub fn from_env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.trim().is_empty())
}

impl DataDir {
    /// What was given, here or in the environment.
    pub fn given(&self) -> Option<PathBuf> {
        self.data.clone().or_else(|| from_env("MUSTER_DATA").map(PathBuf::from))
    }

    /// What was given, what the system's configuration says, or the default.
    pub fn path(&self) -> PathBuf {
        self.given().unwrap_or_else(|| {
            config::Config::load(None, None).map_or_else(|_| config::default_data(), |config| config.data)
        })
    }
}

impl Connect {
    /// A client for the controller; nothing is sent yet.
    pub fn client(&self) -> Result<Client, CliError> {
        let data = self.data.path();
        let url = match self.url.clone().or_else(|| from_env("MUSTER_URL")) {
            Some(url) => url,
            None => read_line(&data.join("endpoint")).ok_or_else(|| no_controller(&data))?,
        };
        let url = url.trim_end_matches('/').to_owned();
        let uri: http::Uri = url.parse().map_err(|e| CliError::Usage(format!("--url {url:?} is not a URL: {e}")))?;
        match uri.scheme_str() {
            Some("http" | "https") if uri.host().is_some() && uri.path().len() <= 1 => {}
            _ => {
                let problem = "must read like https://muster.example:8443";
                return Err(CliError::Usage(format!("--url {problem}, and is {url:?}")));
            }
        }
        let token = match self.token.clone().or_else(|| from_env("MUSTER_TOKEN")) {
            Some(token) => token.trim().to_owned(),
            None => read_line(&data.join("admin-token")).ok_or_else(|| no_token(&data))?,
        };
        let roots = if url.starts_with("https:") { self.roots(&data)? } else { Vec::new() };
        Ok(Client::new(agent(roots), url, token))
    }

    /// What was given, the CA in the data directory, or what this host trusts.
    fn roots(&self, data: &Path) -> Result<Vec<Certificate<'static>>, CliError> {
        let own = data.join("ca.crt");
        let file = match given_ca(self.ca.as_ref()) {
            Some(file) => file,
            None if own.exists() => own,
            None => SYSTEM_CAS.into(),
        };
        certificates(&file)
    }
}

fn given_ca(ca: Option<&PathBuf>) -> Option<PathBuf> {
    ca.cloned().or_else(|| from_env("MUSTER_CA").map(PathBuf::from))
}

fn certificates(file: &Path) -> Result<Vec<Certificate<'static>>, CliError> {
    let pem = std::fs::read(file).map_err(|cause| CliError::File { verb: "read", path: file.to_owned(), cause })?;
    let certificates: Vec<_> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err(CliError::Usage(format!("{} holds no certificate in PEM", file.display())));
    }
    Ok(certificates)
}

/// Whom to trust for a server that may be anybody's: the CA that was given, or else what this host trusts and the controller
/// on it.
pub fn trusted(ca: Option<&PathBuf>, data: &DataDir) -> Result<Vec<CertificateDer<'static>>, CliError> {
    let files = match given_ca(ca) {
        Some(file) => vec![file],
        None => [PathBuf::from(SYSTEM_CAS), data.path().join("ca.crt")].into_iter().filter(|f| f.exists()).collect(),
    };
    let all: Vec<_> = files.iter().map(|file| certificates(file)).collect::<Result<_, _>>()?;
    Ok(all.concat().iter().map(|certificate| CertificateDer::from(certificate.der().to_vec())).collect())
}

/// For files of others, over HTTPS alone, by the certificate authorities that this host trusts; as for other programs,
/// `SSL_CERT_FILE` names others.
pub fn fetching() -> Result<ureq::Agent, CliError> {
    let trusted = from_env("SSL_CERT_FILE").unwrap_or_else(|| SYSTEM_CAS.to_owned());
    let connect = Connect { ca: Some(trusted.into()), ..Connect::default() };
    let config = settings(connect.roots(Path::new(""))?).https_only(true).max_redirects(5);
    Ok(config.timeout_recv_body(None).build().new_agent())
}

fn agent(roots: Vec<Certificate<'static>>) -> ureq::Agent {
    // The API waits a minute at most.
    settings(roots).max_redirects(0).timeout_recv_response(Some(Duration::from_secs(90))).build().new_agent()
}

fn settings(roots: Vec<Certificate<'static>>) -> ConfigBuilder<AgentScope> {
    let tls = TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .root_certs(RootCerts::Specific(Arc::new(roots)))
        .unversioned_rustls_crypto_provider(pki::provider());
    ureq::Agent::config_builder()
        .tls_config(tls.build())
        .http_status_as_error(false)
        .user_agent(concat!("muster/", env!("CARGO_PKG_VERSION")))
        .timeout_connect(Some(Duration::from_secs(10)))
}

fn read_line(file: &Path) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.trim();
    (!line.is_empty()).then(|| line.to_owned())
}

fn no_controller(data: &Path) -> CliError {
    CliError::Connect(format!(
        "no controller was found: {} is not there. Start one with `muster serve`, or name one with --url and --token, \
         MUSTER_URL and MUSTER_TOKEN, or another data directory with --data",
        data.join("endpoint").display()
    ))
}

fn no_token(data: &Path) -> CliError {
    let file = data.join("admin-token");
    let why = match std::fs::metadata(&file) {
        Ok(_) => "cannot be read; run this as the controller's user, or give a token",
        Err(_) => "is not there; give one",
    };
    CliError::Connect(format!("no token: {} {why} with --token or MUSTER_TOKEN", file.display()))
}
