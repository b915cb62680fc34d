//! Reaches a controller once: resolves its names, and opens a connection to whichever address answers first.
//!
//! Used by `dial` for sessions and enrollments and by `prove` for proofs. It waits for nothing but answers.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::time::Duration;

use muster_protocol::enroll::{Leave, Refusal};
use quinn::Connection;
use tokio::net::lookup_host;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::identity::{Credentials, IdentityError};
use super::quic::{self, QuicError};
use super::talk::HelloError;
use super::tls::{self, Time};
use crate::agent::Agent;
use crate::machine::{self, MachineError, chain};
use crate::options::Endpoint;
use crate::plan::network::{NewWay, in_force};
use crate::sort;

/// For one name to resolve.
const RESOLVE: Duration = Duration::from_secs(5);
/// Addresses are tried side by side, each this much after the one before (RFC 8305 says 250 ms).
const STAGGER: Duration = Duration::from_millis(250);
/// The most addresses of one attempt.
const ADDRESSES: usize = 16;

/// Why an attempt failed. What people read on the console: it says what to do where they can do something.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error("could not find the address of {0}: {1}; check the name, and the resolver in the network's DHCP")]
    Resolve(Endpoint, String),
    #[error("{}", chain(.0))]
    Route(MachineError),
    #[error(transparent)]
    Quic(#[from] QuicError),
    #[error(transparent)]
    Hello(#[from] HelloError),
    #[error("the controller does not accept this machine's certificate: {0}")]
    CertificateRefused(String),
    #[error("enrollment refused: {0}")]
    Enrollment(Refusal),
    #[error("this machine has no certificate and was given no ticket to enroll with; boot it through its boot script")]
    NoTicket,
    #[error("{}", chain(.0))]
    Identity(#[from] IdentityError),
    #[error("{}", chain(.0))]
    Power(MachineError),
    #[error("no controller could be tried")]
    Nobody,
    #[error("the controller does not take the proof: {0}")]
    Unproven(String),
    #[error("the network was changed while a controller was dialed")]
    Overtaken,
}

/// Opens a connection to whichever address of a controller answers first; the one that did last is tried first of all.
/// Where `to` is given, only that one is tried, and where `way` is, packets take it and no other. The second value is where
/// the controller is, what answered first.
pub(super) async fn reach(
    agent: &Agent,
    alpn: &[u8],
    own: Option<&Credentials>,
    to: Option<IpAddr>,
    way: Option<&NewWay>,
) -> Result<(Connection, Vec<SocketAddr>), Trouble> {
    // A sealed medium may be years old, and the hardware clock anything: the first controller that proves to be one of
    // the right CA is asked for the time.
    let is_sealed = matches!(agent.options.leave, Some(Leave::Site(_)));
    let time = if own.is_none() && is_sealed && !agent.clock.is_told() { Time::Unknown } else { Time::Known };
    let tls = tls::config(alpn, agent.trust.cas(), &agent.clock, time, own);
    let tls = tls.map_err(|error| QuicError::Local(error.to_string()))?;
    let mut failed = None;
    let known = agent.controller.borrow().clone();
    let mut found: Vec<SocketAddr> = known.first().copied().into_iter().collect();
    // A resolver may tell of some addresses only, and of others the next time.
    found.extend(known.iter().filter(|address| to == Some(address.ip())));
    for endpoint in &agent.options.controllers {
        match resolve(endpoint).await {
            Ok(addresses) => found.extend(addresses),
            Err(trouble) => {
                // Then it is where it was.
                found.extend(&known);
                failed = Some(trouble);
            }
        }
    }
    let mut addresses = in_force(&[], found);
    addresses.truncate(ADDRESSES);
    let mut attempts = JoinSet::new();
    for address in addresses.iter().copied().filter(|address| to.is_none_or(|to| to == address.ip())) {
        let (ip, by) = (address.ip(), way.cloned());
        let socket = machine::blocking(&agent.machine, move |machine| machine.socket(ip, by.as_ref())).await;
        let socket = match socket {
            Ok(socket) => socket,
            Err(error) => {
                failed = Some(Trouble::Route(error));
                continue;
            }
        };
        let (tls, delay) = (tls.clone(), STAGGER * attempts.len() as u32);
        attempts.spawn(async move {
            sleep(delay).await;
            quic::connect(address, socket, tls).await
        });
    }
    // A handshake over a network that is not the machine's any more only loses time.
    let mut outbox = agent.outbox.subscribe();
    let changes = outbox.borrow_and_update().changes;
    let mut overtaken = pin!(async move { outbox.wait_for(|out| out.changes != changes).await.is_ok() });
    loop {
        // Both are cancel-safe: a handshake that is done stays in the set.
        let attempt = tokio::select! {
            attempt = attempts.join_next() => attempt,
            _ = &mut overtaken => return Err(Trouble::Overtaken),
        };
        let Some(attempt) = attempt else { break };
        match attempt {
            Ok(Ok(connection)) => {
                let reached = connection.remote_address();
                addresses.retain(|address| *address != reached);
                // In one order, whatever the resolver's: which other one a plan names must not change by itself.
                sort::short(&mut addresses, Ord::cmp);
                addresses.insert(0, reached);
                return Ok((connection, addresses));
            }
            Ok(Err(error)) => failed = Some(error.into()),
            Err(error) => failed = Some(QuicError::Local(error.to_string()).into()),
        }
    }
    Err(failed.unwrap_or(Trouble::Nobody))
}

/// The same over whatever way there is, and remembers where the controller is.
pub(super) async fn connect(
    agent: &Agent,
    alpn: &[u8],
    own: Option<&Credentials>,
    to: Option<IpAddr>,
) -> Result<Connection, Trouble> {
    let (connection, found) = reach(agent, alpn, own, to, None).await?;
    agent.controller.send_replace(found);
    Ok(connection)
}

/// All addresses of a controller, IPv6 and IPv4. Asked anew each time: an address may have moved.
async fn resolve(endpoint: &Endpoint) -> Result<Vec<SocketAddr>, Trouble> {
    let failed = |why: &dyn std::fmt::Display| Trouble::Resolve(endpoint.clone(), why.to_string());
    let Endpoint { host, port } = endpoint;
    if let Ok(ip) = host.parse() {
        return Ok(vec![SocketAddr::new(ip, *port)]);
    }
    match timeout(RESOLVE, lookup_host((host.as_str(), *port))).await {
        Err(_) => Err(failed(&"no resolver answers")),
        Ok(Err(error)) => Err(failed(&error)),
        Ok(Ok(found)) => Ok(found.collect()),
    }
}
