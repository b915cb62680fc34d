//! What machines that boot ask for: the scripts for iPXE, kernel and initramfs, and the network that a machine is handed.
//!
//! BIOS machines ask by plain HTTP, so everything here may be seen and asked by anyone on the boot network: a script is worth
//! what its ticket is worth, which is one enrollment of one machine within minutes. Nothing that a request carries is stored
//! but in that ticket, and what it carries is read strictly by [`asker`].
//! UEFI machines that start from a site's ISO ask by HTTPS, of the boot CA that it pins.
//! `server` mounts [`plain`] and [`secure`]; the scripts' texts are [`muster_ipxe::script`]'s.

mod asker;
pub mod dhcp;
mod handed;
mod media;
pub mod metadata;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::Router;
use axum::extract::{ConnectInfo, Extension, RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST};
use http::uri::Authority;
use http::{HeaderMap, StatusCode};
use muster_ipxe::image::{INITRAMFS, KERNEL};
use muster_ipxe::param::{Endpoint, Location};
use muster_ipxe::script::{
    self, DISPATCH_PATH, INITRAMFS_PATH, KERNEL_PATH, Machine, NETWORK_PATH, Network, SCRIPT_PATH, Wait, iso_id,
};
use muster_protocol::MachineId;
use muster_protocol::enroll::{Identity, Tpm};

use crate::clock::now_unix_ms;
use crate::config;
use crate::fleet::identity::{self, Match};
use crate::fleet::lease::handover;
use crate::fleet::operation::confirmed;
use crate::fleet::record::{Iso, Lifecycle};
use crate::fleet::ticket::Grant;
use crate::fleet::{self, Author, Fleet, iso, ticket};
use crate::metrics::Reason;
use crate::pki::Pki;
use crate::sessions::limit::{self, Buckets, ONE_MORE_START, STARTS};
pub use asker::Asker;
use media::Medium;

/// The address of this computer that a request came in on, which its server puts into every request's extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalAddress(pub IpAddr);

/// What is needed to answer.
#[derive(Clone)]
pub struct Settings {
    /// For tickets, and to know whom not to start.
    pub fleet: Fleet,
    /// Whose fingerprint machines are told.
    pub pki: Arc<Pki>,
    /// Images, controllers, ticket lifetime.
    pub boot: config::Boot,
    /// UDP port of the agents' listener, where no controllers are configured.
    pub agents_port: u16,
}

struct Boot {
    settings: Settings,
    wants: Wants,
    kernel: Medium,
    initramfs: Medium,
    scripts: Mutex<Scripts>,
    failures: Mutex<Buckets>,
}

/// How many scripts one source gets. Who comes with less takes nothing from its neighbors who come with more: anybody can
/// call himself a newcomer, or a member by a MAC that he has seen; an ISO's credential has to be had.
struct Scripts {
    vouched: Buckets,
    members: Buckets,
    newcomers: Buckets,
}

/// The routes over plain HTTP.
pub fn plain(settings: Settings) -> Router {
    router(settings, Wants::Nothing)
}

/// The routes over HTTPS, for machines that start from an ISO that is known here, and nobody else.
pub fn secure(settings: Settings) -> Router {
    router(settings, Wants::Medium)
}

/// What whoever asks for a boot script has to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wants {
    Nothing,
    /// The credential of an ISO that is known here. One that is revoked will do for machines that are in.
    Medium,
}

fn router(settings: Settings, wants: Wants) -> Router {
    let medium = |name: &str| Medium::new(settings.boot.images.join(Path::new(name)));
    let buckets = || Buckets::new(STARTS, ONE_MORE_START);
    let boot = Boot {
        kernel: medium(KERNEL),
        initramfs: medium(INITRAMFS),
        scripts: Mutex::new(Scripts { vouched: buckets(), members: buckets(), newcomers: buckets() }),
        failures: Mutex::new(limit::failures()),
        wants,
        settings,
    };
    let kernel = |State(boot): State<Arc<Boot>>, headers: HeaderMap| async move { boot.kernel.serve(&headers).await };
    let initramfs =
        |State(boot): State<Arc<Boot>>, headers: HeaderMap| async move { boot.initramfs.serve(&headers).await };
    Router::new()
        .route(DISPATCH_PATH, get(dispatch))
        // Asking makes a ticket, so asking for the headers alone makes no sense.
        .route(SCRIPT_PATH, get(machine).head(|| async { (StatusCode::METHOD_NOT_ALLOWED, [(ALLOW, "GET")]) }))
        .route(KERNEL_PATH, get(kernel))
        .route(INITRAMFS_PATH, get(initramfs))
        .route(NETWORK_PATH, get(network))
        .fallback(|| async { (StatusCode::NOT_FOUND, "only what machines boot from is served here\n") })
        .with_state(Arc::new(boot))
}

/// `/boot.ipxe`
async fn dispatch(RawQuery(query): RawQuery) -> Response {
    let location = match query.as_deref().unwrap_or_default().split_once('=') {
        None => Ok(None),
        Some(("location", "")) => Ok(None),
        Some(("location", code)) => Location::try_from(code.to_owned()).map(Some).map_err(|e| e.to_string()),
        Some(_) => Err("the only parameter here is location, like /boot.ipxe?location=ber1".to_owned()),
    };
    match location {
        Ok(location) => text(StatusCode::OK, script::dispatch(location.as_ref())),
        Err(problem) => text(StatusCode::BAD_REQUEST, problem + "\n"),
    }
}

/// `/boot/script`
async fn machine(
    State(boot): State<Arc<Boot>>,
    Extension(ConnectInfo(from)): Extension<ConnectInfo<SocketAddr>>,
    Extension(LocalAddress(local)): Extension<LocalAddress>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Response {
    let asker = match Asker::read(query.as_deref().unwrap_or_default()) {
        Ok(asker) => asker,
        Err(problem) => {
            if let Some(left_out) = boot.tells_of(from.ip()) {
                tracing::warn!(%from, %problem, left_out, "boot script refused");
            }
            return text(StatusCode::BAD_REQUEST, problem + "\n");
        }
    };
    let macs = asker.macs.clone();
    match boot.start(asker, from, &headers, local).await {
        Ok(script) => text(StatusCode::OK, script),
        Err(why) => {
            if let Some(left_out) = boot.tells_of(from.ip()) {
                tracing::info!(%from, ?macs, ?why, left_out, "a machine has to wait");
            }
            let mut response = text(StatusCode::OK, script::wait(why));
            response.extensions_mut().insert(match why {
                Wait::Rejected => Reason::Rejected,
                Wait::NoImage | Wait::Busy => Reason::Busy,
                Wait::Revoked => Reason::IsoRevoked,
                Wait::NoCredential => Reason::IsoMissing,
            });
            response
        }
    }
}

/// `/boot/network`
async fn network(
    State(boot): State<Arc<Boot>>,
    Extension(ConnectInfo(from)): Extension<ConnectInfo<SocketAddr>>,
    RawQuery(query): RawQuery,
) -> Response {
    let query = query.unwrap_or_default();
    match handed::archive(&boot.settings.fleet.state(), &query, now_unix_ms()) {
        Ok(archive) => {
            let headers = [(CONTENT_TYPE, "application/octet-stream"), (CACHE_CONTROL, "no-store")];
            (StatusCode::OK, headers, archive).into_response()
        }
        Err((status, problem)) => {
            if let Some(left_out) = boot.tells_of(from.ip()) {
                tracing::warn!(%from, %problem, left_out, "no network for a machine that boots");
            }
            text(status, problem + "\n")
        }
    }
}

impl Boot {
    /// Whether the log gets what led to nothing, and how many it did not get from there before.
    fn tells_of(&self, source: IpAddr) -> Option<u64> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).draw(source, Instant::now())
    }

    /// The script that starts the agent on this machine, with a ticket of its own.
    async fn start(&self, asker: Asker, from: SocketAddr, headers: &HeaderMap, local: IpAddr) -> Result<String, Wait> {
        if !self.kernel.exists() || !self.initramfs.exists() {
            return Err(Wait::NoImage);
        }
        let state = self.settings.fleet.state();
        let iso = match &asker.credential {
            None => Vouched::Nothing,
            Some(credential) => iso::check(&state, &credential.digest()).map_or_else(Vouched::Wrong, Vouched::By),
        };
        let wants_medium = self.wants == Wants::Medium;
        let may_join = may_join(&iso, wants_medium || self.settings.boot.require_credential);
        if wants_medium && matches!(iso, Vouched::Nothing | Vouched::Wrong(iso::Wrong::Unknown)) {
            may_join?;
        }
        let claimed = may_start(&state, &asker, may_join)?;
        if let Claimed::Member(machine) = claimed
            && let Some(handover) = handover::of(&state, machine)
        {
            tracing::info!(%from, %machine, target = %handover.target, "a leased machine is handed over");
            return Ok(script::hand_over(handover.target, handover.network.as_ref()));
        }
        if let Claimed::Member(machine) = claimed
            && confirmed::boots_from_disk(&state, machine)
        {
            tracing::info!(%from, %machine, "a machine starts from its disk");
            return Ok(script::from_disk());
        }
        {
            let mut scripts = self.scripts.lock().unwrap_or_else(PoisonError::into_inner);
            let bucket = match (&iso, claimed) {
                (Vouched::By(_), _) => &mut scripts.vouched,
                (_, Claimed::Member(_)) => &mut scripts.members,
                (_, Claimed::Newcomer) => &mut scripts.newcomers,
            };
            bucket.draw(from.ip(), Instant::now()).ok_or(Wait::Busy)?;
        }
        let controllers = match self.settings.boot.controllers.as_slice() {
            [] => vec![sent_to(headers, local, self.settings.agents_port).ok_or(Wait::Busy)?],
            configured => configured.to_vec(),
        };
        let lifetime_ms = self.settings.boot.ticket_lifetime.as_millis() as u64;
        let author = Author::new("boot", Some(from), "");
        // What the medium was built for counts, and not what the request claims.
        let (iso, location) = match iso {
            Vouched::By(iso) => (iso.id.clone(), iso.location.clone()),
            // It lets nobody join and moves nobody; whoever is in came from it all the same.
            Vouched::Wrong(iso::Wrong::Revoked) => {
                (asker.credential.map(|credential| iso_id(&credential.digest())).unwrap_or_default(), String::new())
            }
            Vouched::Nothing | Vouched::Wrong(iso::Wrong::Unknown) => (String::new(), asker.location.clone()),
        };
        let joins = may_join.is_ok();
        let hands = match claimed {
            Claimed::Member(machine) => Some(machine).filter(|id| confirmed::network(&state, *id).is_some()),
            Claimed::Newcomer => None,
        };
        let grant = Grant { location, iso, joins, hands, bound: asker.bound(), lifetime_ms };
        let issued =
            self.settings.fleet.change(author, move |draft| ticket::issue(draft, grant)).await.map_err(|error| {
                tracing::warn!(%from, %error, "no boot ticket");
                Wait::Busy
            })?;
        let Asker { serial, macs, location, platform, ipxe, .. } = asker;
        tracing::info!(%from, ?macs, serial, location, platform, ipxe, "boot script");
        let time_unix_s = now_unix_ms() / 1000;
        let network = if hands.is_some() { Network::Handed } else { Network::AsItBoots };
        let ca = self.settings.pki.fingerprint();
        let machine = Machine { controllers: &controllers, ca, ticket: &issued, time_unix_s, network };
        Ok(script::machine(&machine))
    }
}

/// What stands behind a machine that asks.
enum Vouched<'a> {
    /// It showed no credential.
    Nothing,
    /// The credential of this ISO.
    By(&'a Iso),
    /// A credential that is not good.
    Wrong(iso::Wrong),
}

/// Whether a box that is not in may join with what stands behind it.
fn may_join(vouched: &Vouched<'_>, is_asked_for: bool) -> Result<(), Wait> {
    match vouched {
        Vouched::By(_) => Ok(()),
        Vouched::Wrong(_) => Err(Wait::Revoked),
        Vouched::Nothing if is_asked_for => Err(Wait::NoCredential),
        Vouched::Nothing => Ok(()),
    }
}

/// Who a box is by what it says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claimed {
    /// A machine that is in, or was.
    Member(MachineId),
    /// Any other.
    Newcomer,
}

/// Whether this box gets a ticket, and who it says that it is. One that an operator keeps out would be refused at enrollment
/// anyway; here its screen says so before anything is loaded.
///
/// An ISO lets machines join; those that are in need none. Who says here that it is in may be another all the same: its
/// ticket does not let it join.
fn may_start(state: &fleet::State, asker: &Asker, may_join: Result<(), Wait>) -> Result<Claimed, Wait> {
    let identity = Identity {
        uuid: asker.uuid,
        system_serial: asker.serial.clone(),
        board_serial: String::new(),
        macs: asker.macs.clone(),
        disks: Vec::new(),
        tpm: Tpm::Absent,
    };
    let lifecycle = |id| state.machines.get(&id).map(|machine| &machine.lifecycle);
    match identity::find_booting(state, &identity) {
        Match::Known(id) => match lifecycle(id) {
            Some(Lifecycle::Rejected) => Err(Wait::Rejected),
            Some(Lifecycle::Pending) => may_join.map(|()| Claimed::Newcomer),
            _ => Ok(Claimed::Member(id)),
        },
        // A box of a machine that was retired is new: it joins anew, and waits for an operator.
        Match::New | Match::Doubtful(_) => may_join.map(|()| Claimed::Newcomer),
    }
}

/// The controller as this machine reaches it: by what it wrote in its request, since an address may have been translated
/// on the way; else by the address that the request came in on.
fn sent_to(headers: &HeaderMap, local: IpAddr, port: u16) -> Option<Endpoint> {
    let host = headers.get(HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let named = host.and_then(|host| Endpoint::parse("host", host.host(), port).ok());
    named.or_else(|| Endpoint::parse("host", &local.to_canonical().to_string(), port).ok())
}

fn text(status: StatusCode, body: String) -> Response {
    (status, [(CONTENT_TYPE, "text/plain"), (CACHE_CONTROL, "no-store")], body).into_response()
}
