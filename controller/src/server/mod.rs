//! What `muster serve` runs: opens the store, the fleet, the certificate authority and the ports, and puts the parts
//! together.
//!
//! [`run`] is the whole process's life; tests use [`Server::start`] inside their own runtime.
//! On first start it makes the CA, an admin token and the database, and needs nothing else.

mod first;
mod heard;
pub mod http;
mod idle;
mod listen;
mod page;
mod scrape;
#[cfg(test)]
mod tests;
mod witness;

use std::io::IsTerminal;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::middleware::from_fn;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tower_http::timeout::RequestBodyTimeoutLayer;

pub use listen::PortError;

use crate::api::{self, Api, Site};
use crate::boot;
use crate::clock::now_unix_ms;
use crate::config::Config;
use crate::files;
use crate::fleet::converge::Agents;
use crate::fleet::operation::switch;
use crate::fleet::state::Table;
use crate::fleet::{Ended, Fleet, Refusal, converge, iso, rollout};
use crate::ial;
use crate::metrics::{Door, Metrics};
use crate::pki::{Hosts, OwnCertificate, Pki, PkiError, PublicCertificate, Vault};
use crate::sessions::{ListenError, Port, Sessions};
use crate::store::{SledStore, Store, StoreError};

/// Silence within a request's body after which it is given up.
const BODY_PAUSE: Duration = Duration::from_secs(30);

/// How long the last changes may take when the controller stops.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// Why the controller does not run, or does not run any more.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The data directory cannot be used.
    #[error("cannot use the data directory {}; choose another one with --data or the key data in muster.toml", folder.display())]
    Data {
        /// Which one.
        folder: PathBuf,
        /// Why.
        #[source]
        cause: std::io::Error,
    },
    /// The database cannot be opened, or failed while the controller ran.
    #[error("the database cannot be used")]
    Store(#[from] StoreError),
    /// The database cannot be read.
    #[error(
        "the database in {} cannot be read: put back a copy that was made while the controller was stopped, or move it \
         away to begin anew; then nothing of the fleet is known, and its machines boot again and wait for approval",
        folder.display()
    )]
    Database {
        /// Where.
        folder: PathBuf,
        /// Why.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The certificate authority cannot be opened.
    #[error("the certificate authority cannot be used")]
    Pki(#[from] PkiError),
    /// The files that `[https]` names are no certificate with its key.
    #[error("the certificate of [https] in the configuration cannot be shown")]
    PublicCertificate(#[source] PkiError),
    /// The first admin token cannot be made.
    #[error("the admin token cannot be made")]
    Token(#[from] Refusal),
    /// A port cannot be opened.
    #[error(transparent)]
    Port(#[from] PortError),
    /// The agents' port cannot be served.
    #[error(transparent)]
    Agents(#[from] ListenError),
    /// TLS cannot be set up.
    #[error("cannot set up HTTPS")]
    Tls(#[from] rustls::Error),
    /// The runtime or its signals cannot be set up.
    #[error("cannot set up the process")]
    Process(#[source] std::io::Error),
    /// The fleet's writer has gone.
    #[error("the controller's writer has ended; its log has the reason")]
    Writer,
    /// One of the loops has gone: machines would wait for ever.
    #[error("the controller's {0} has ended; its log has the reason")]
    Part(&'static str),
}

/// Runs a controller until it is told to stop (SIGTERM, SIGINT) or cannot go on.
pub fn run(config: Config) -> Result<(), ServeError> {
    start_log();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(ServeError::Process)?;
    let result = runtime.block_on(async {
        // Before anything else: a signal during the start must not be lost.
        let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Process)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Process)?;
        open_files();
        let mut server = Server::start(config).await?;
        // All arms are cancel-safe; whatever comes first ends the process.
        let ended = tokio::select! {
            _ = terminate.recv() => None,
            _ = interrupt.recv() => None,
            error = server.failed() => Some(error),
        };
        if ended.is_none() {
            tracing::info!("stopping");
        }
        server.stop().await;
        ended.map_or(Ok(()), Err)
    });
    // Nothing that still runs may hold the process: what was acknowledged is on the disk.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

/// As many open files as the system lets this process have: each connection is one, and each download.
fn open_files() {
    let limit = Rlimit { current: getrlimit(Resource::Nofile).maximum, ..getrlimit(Resource::Nofile) };
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "cannot raise the number of open files");
    }
}

/// One line per state change, to standard error. `MUSTER_LOG` sets the level, as `debug` or `muster_controller=debug`.
fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("MUSTER_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    // A second start in one process keeps the first one's.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .try_init();
}

/// A running controller.
pub struct Server {
    /// Where agents are listened for.
    pub agents: Vec<SocketAddr>,
    /// Where HTTPS is listened for.
    pub https: Vec<SocketAddr>,
    /// Where boot media are served.
    pub boot: Vec<SocketAddr>,
    /// The fleet, for tests that look inside.
    pub fleet: Fleet,
    /// The conversations, for tests that look inside.
    pub sessions: Sessions,
    ports: Vec<Port>,
    listeners: Vec<JoinHandle<()>>,
    /// The converge loop, those that look after leases and rollouts, and the one that switches machines from outside.
    loops: [JoinHandle<()>; 4],
    witness: JoinHandle<()>,
    stop: watch::Sender<bool>,
    ended: oneshot::Receiver<Ended>,
}

impl Server {
    /// Starts a controller; when this returns, all its ports are open.
    pub async fn start(config: Config) -> Result<Self, ServeError> {
        if let Some(configured) = &config.overridden {
            let (data, configured) = (config.data.display(), configured.display());
            tracing::warn!(%data, %configured, "the data directory is the one that --data or MUSTER_DATA names");
        }
        first::folder(&config.data).map_err(|cause| ServeError::Data { folder: config.data.clone(), cause })?;
        // The database comes first: its lock keeps two controllers from one data directory.
        let folder = config.data.join("db");
        // Both files come after the first commit, and sled drops what it cannot read without a word.
        let has_held = folder.join("db").exists() && first::was_there(&config.data);
        let store = SledStore::open(&folder).map_err(|error| unusable(error, &config.data))?;
        if has_held && store.is_new() {
            return Err(ServeError::Database { folder, cause: "it is damaged: nothing in it can be read".into() });
        }
        Self::start_on(store, config).await
    }

    async fn start_on(store: impl Store, config: Config) -> Result<Self, ServeError> {
        let in_data = |cause| ServeError::Data { folder: config.data.clone(), cause };
        let (fleet, ended) = Fleet::start(store).map_err(|error| unusable(error, &config.data))?;
        witness::begin(&fleet).await;
        let pki = Arc::new(Pki::open_with(&config.data, Vault::from_env().map_err(PkiError::from)?)?);
        first::admin_token(&fleet, &config.data).await?;
        let own = Arc::new(OwnCertificate::new(pki.clone(), &config.https.names, hosts(fleet.clone()))?);
        let public =
            PublicCertificate::open(own.clone(), config.https.files.clone()).map_err(ServeError::PublicCertificate)?;

        let udp: Result<Vec<_>, _> = config.listen.agents.iter().map(|at| listen::udp("listen.agents", *at)).collect();
        let tcp = |key, addresses: &[SocketAddr]| -> Result<Vec<_>, PortError> {
            addresses.iter().map(|at| listen::tcp(key, *at)).collect()
        };
        // All ports are opened before the first is served: a controller starts whole or not at all.
        let (udp, https, boot) =
            (udp?, tcp("listen.https", &config.listen.https)?, tcp("listen.boot", &config.listen.boot)?);
        let metadata = tcp("listen.metadata", &config.listen.metadata)?;

        let dhcp = |name: &String| {
            let (interface, port) = (name.clone(), config.dhcp.port);
            boot::dhcp::open(name, port).map_err(|cause| PortError::Interface { interface, port, cause })
        };
        let dhcp: Vec<_> = config.dhcp.interfaces.iter().map(dhcp).collect::<Result<_, _>>()?;

        let metrics = Metrics::default();
        let files = config.boot.images.join(muster_ipxe::image::tools::FOLDER);
        let sessions = Sessions::start(fleet.clone(), pki.clone(), config.agents.clone(), files, metrics.clone());
        let confirm_within_s = config.agents.confirm_within.as_secs() as u16;
        let converge = tokio::spawn(converge::run(fleet.clone(), sessions.clone(), confirm_within_s));
        let leases = tokio::spawn(ial::keep(fleet.clone(), ial::presence(sessions.clone())));
        let contacts = api::contacts(Arc::new(sessions.clone()), now_unix_ms());
        let rollouts = rollout::keep::keep(fleet.clone(), contacts, sessions.changes());
        let rollouts = tokio::spawn(rollouts);
        let switching = tokio::spawn(switch::keep::keep(fleet.clone(), pki.clone(), switch::keep::carry()));
        let witness = tokio::spawn(witness::daily(fleet.clone(), config.audit.keep));
        let (stop, stopped) = watch::channel(false);
        let mut server = Self {
            agents: Vec::new(),
            https: Vec::new(),
            boot: Vec::new(),
            fleet,
            sessions,
            ports: Vec::new(),
            listeners: Vec::new(),
            loops: [converge, leases, rollouts, switching],
            witness,
            stop,
            ended,
        };
        for socket in udp {
            let port = server.sessions.listen(own.clone(), socket)?;
            let address = port.address().map_err(ListenError::Socket)?;
            tracing::info!(%address, protocol = "QUIC over UDP", "listening for agents");
            server.agents.push(address);
            server.ports.push(port);
        }
        let agents_port = server.agents.first().map_or(0, SocketAddr::port);
        let starts =
            boot::Settings { fleet: server.fleet.clone(), pki: pki.clone(), boot: config.boot.clone(), agents_port };
        let media = metrics.count(Door::Boot, boot::plain(starts.clone()));
        let starts = metrics.count(Door::Boot, boot::secure(starts));
        let operators = operators(&server, &config, &metrics, pki.clone(), agents_port);
        let tls = http::Transport::Tls(Arc::new(http::Tls::new(own, public, starts)?));
        for listener in https {
            let address =
                server.serve(listener, tls.clone(), operators.clone(), &metrics, &stopped).map_err(in_data)?;
            tracing::info!(%address, protocol = "HTTPS", "listening for operators and Cycle");
            server.https.push(address);
        }
        for listener in boot {
            let address =
                server.serve(listener, http::Transport::Plain, media.clone(), &metrics, &stopped).map_err(in_data)?;
            tracing::info!(%address, protocol = "HTTP", "listening for machines that boot");
            server.boot.push(address);
        }
        let told = metrics.count(Door::Boot, boot::metadata::router(server.fleet.clone()));
        for listener in metadata {
            let plain = http::Transport::Plain;
            let address = server.serve(listener, plain, told.clone(), &metrics, &stopped).map_err(in_data)?;
            tracing::info!(%address, protocol = "HTTP", "telling leased machines of themselves");
        }
        for (open, interface) in dhcp.into_iter().zip(&config.dhcp.interfaces) {
            let serves = boot::dhcp::serve(open, server.fleet.clone(), config.dhcp.clone(), stopped.clone());
            server.listeners.push(tokio::spawn(serves));
            tracing::info!(interface, port = config.dhcp.port, protocol = "DHCP", "telling machines their addresses");
        }
        let endpoint = config.data.join(first::ENDPOINT_FILE);
        match server.https.first() {
            Some(address) => {
                let url = format!("https://{}\n", reachable(*address));
                files::replace(&endpoint, url.as_bytes(), files::PUBLIC).map_err(in_data)?;
            }
            None => drop(std::fs::remove_file(&endpoint)),
        }
        tracing::info!(ca = %pki.fingerprint(), data = %config.data.display(), "ready");
        Ok(server)
    }

    fn serve(
        &mut self,
        listener: std::net::TcpListener,
        transport: http::Transport,
        router: Router,
        metrics: &Metrics,
        stopped: &watch::Receiver<bool>,
    ) -> std::io::Result<SocketAddr> {
        let listener = TcpListener::from_std(listener)?;
        let address = listener.local_addr()?;
        let serve = http::serve(listener, transport, router, metrics.clone(), http::CONNECTIONS, stopped.clone());
        self.listeners.push(tokio::spawn(serve));
        Ok(address)
    }

    /// Resolves when the controller cannot go on: then the process must end, and its next start recovers.
    pub async fn failed(&mut self) -> ServeError {
        let [converge, leases, rollouts, switching] = &mut self.loops;
        // The loops end with the writer, whose word is the better one; by themselves they end only where they panic.
        let alone = async {
            let part = tokio::select! {
                _ = converge => "converge loop",
                _ = leases => "lease keeper",
                _ = rollouts => "rollout keeper",
                _ = switching => "loop that switches machines",
            };
            tokio::time::sleep(Duration::from_secs(1)).await;
            part
        };
        tokio::select! {
            ended = &mut self.ended => match ended {
                Ok(Ended::StoreFailed(e)) => ServeError::Store(e),
                Ok(Ended::Idle) | Err(_) => ServeError::Writer,
            },
            part = alone => ServeError::Part(part),
        }
    }

    /// Stops taking requests, finishes those under way, says goodbye to the agents, and closes the database. A few seconds
    /// at most.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        self.loops.iter().chain([&self.witness]).for_each(JoinHandle::abort);
        for port in self.ports {
            port.close().await;
        }
        for listener in self.listeners {
            // A listener that panicked has said so in the log.
            let _ = listener.await;
        }
        witness::tell(&self.fleet);
        // The writer ends when the last handle of the fleet is gone, and the database's lock with it.
        drop((self.fleet, self.sessions));
        let has_ended = self.ended.is_terminated();
        if !has_ended && tokio::time::timeout(STOP_WITHIN, self.ended).await.is_err() {
            tracing::warn!("something still holds the database; the end of the process will close it");
        }
    }
}

/// By what machines that boot reach the controller, looked for again where media have changed.
fn hosts(fleet: Fleet) -> Hosts {
    let known = Mutex::new((Table::default(), Arc::default()));
    Box::new(move || {
        let isos = fleet.state().isos.clone();
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.0.is_same(&isos) {
            *known = (isos.clone(), Arc::new(iso::hosts(&isos)));
        }
        known.1.clone()
    })
}

/// What HTTPS serves.
fn operators(server: &Server, config: &Config, metrics: &Metrics, pki: Arc<Pki>, agents_port: u16) -> Router {
    let site = Site {
        controllers: config.boot.controllers.iter().map(ToString::to_string).collect(),
        agents_port,
        ticket_lifetime: config.boot.ticket_lifetime,
        images: config.boot.images.clone(),
        started_unix_ms: now_unix_ms(),
    };
    let api = Api { fleet: server.fleet.clone(), live: Arc::new(server.sessions.clone()), pki, site: Arc::new(site) };
    let ial = ial::router(server.fleet.clone(), ial::presence(server.sessions.clone()), config.ial.envelope);
    let scrape = scrape::router(api.clone(), server.sessions.clone(), metrics.clone());
    let api = metrics.count(Door::Api, api::router(api).merge(scrape));
    let all = page::router().merge(api).merge(metrics.count(Door::Ial, ial)).layer(from_fn(heard::hear));
    all.layer(RequestBodyTimeoutLayer::new(BODY_PAUSE))
}

/// Why the database of this data directory cannot be used: where it failed, it is damaged or the disk is.
fn unusable(error: StoreError, data: &Path) -> ServeError {
    match error {
        StoreError::Failed(cause) => ServeError::Database { folder: data.join("db"), cause },
        other => ServeError::Store(other),
    }
}

/// An address under which this computer reaches its own listener.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip: IpAddr = if address.ip().is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { address.ip() };
    SocketAddr::new(ip, address.port())
}
