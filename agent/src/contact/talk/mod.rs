//! One session: hello, then whatever there is to say in either direction, until the connection or its purpose ends.
//!
//! Called by `dial` with a fresh connection. It moves messages between the connection, the [`Outbox`], the pure
//! [`Session`](crate::contact::session::Session) and the reconcile loop; it does not decide what is answered.

mod fetch;
mod keys;

use std::mem::discriminant;
use std::sync::Arc;
use std::time::Duration;

use muster_protocol::frame::FrameError;
use muster_protocol::hello::{Hello, InventoryWish, Welcome, version};
use muster_protocol::to_agent;
use muster_protocol::to_controller::{self, Call};
use muster_protocol::{ALPN_SESSION, close};
use quinn::{Connection, ConnectionError, RecvStream, SendStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::agent::Agent;
use crate::contact::identity::{self, Credentials};
use crate::contact::quic::{self, QuicError};
use crate::contact::reach;
use crate::contact::session::{Act, Due};
use crate::machine::chain;
use crate::outbox::{Heard, Outbox};
use crate::random;

/// For a request to arrive whole once its stream is open.
const REQUEST: Duration = Duration::from_secs(10);
/// For an answer to be acknowledged before what it promises is done, where that may cut the way.
const LAST_WORD: Duration = Duration::from_secs(2);
/// Between two reports of how far something is.
const PASSING: Duration = Duration::from_millis(500);
/// For an answer that shows that the session has outlived a change.
const OUTLIVED: Duration = Duration::from_millis(1500);
/// Before asking again a controller that was busy.
const BUSY: Duration = Duration::from_secs(2);

/// Why a session ended.
#[derive(Debug)]
pub enum End {
    /// The connection failed, was closed, or carried what is not the protocol.
    Lost(QuicError),
    /// A power command was accepted and its answer has arrived, or had its time.
    Power(Due),
    /// It is to go on by this connection, to another address of the controller. Its own is still there.
    Moved(Connection),
}

/// Why a hello brought no welcome.
#[derive(Debug, thiserror::Error)]
pub enum HelloError {
    /// No answer.
    #[error(transparent)]
    Quic(#[from] QuicError),
    /// The controller refused.
    #[error("the controller refuses the session: {0}")]
    Refused(to_controller::Refusal),
    /// An answer to something else.
    #[error("the controller answered the hello with something else")]
    Strange,
}

/// Says hello. The second value is what the controller knows by it.
pub async fn hello(agent: &Agent, connection: &Connection) -> Result<(Welcome, Heard), HelloError> {
    let outbox = agent.outbox.borrow().clone();
    let digest = outbox.inventory_digest();
    let hello = Hello {
        versions: (version::MIN..=version::CURRENT).collect(),
        boot: agent.options.boot,
        agent: env!("CARGO_PKG_VERSION").to_owned(),
        // Before the first look there is nothing to offer, and no inventory has this digest.
        inventory: digest.unwrap_or(muster_protocol::Digest::from_bytes([0; 32])),
        progress: outbox.progress.clone(),
    };
    let welcome = match quic::ask(connection, &Call::Hello(hello)).await? {
        to_controller::Answer::Welcome(welcome) => welcome,
        to_controller::Answer::Refused(refusal) => return Err(HelloError::Refused(refusal)),
        to_controller::Answer::Accepted
        | to_controller::Answer::Renewed { .. }
        | to_controller::Answer::File { .. }
        | to_controller::Answer::Key(_) => return Err(HelloError::Strange),
    };
    let inventory = digest.filter(|_| welcome.inventory == InventoryWish::Known);
    let (changes, progress) = (outbox.changes, outbox.progress);
    Ok((welcome, Heard { changes, progress, inventory, drift: Default::default(), health: Default::default() }))
}

/// Keeps the session until it ends. `own` is renewed on the way.
pub async fn converse(agent: &Arc<Agent>, connection: &Connection, heard: Heard, own: &mut Credentials) -> End {
    let welcomed_at = heard.changes;
    let end = tokio::select! {
        end = listen(agent, connection) => end,
        end = tell(agent, connection, heard) => end,
        end = outlived(agent, connection, welcomed_at) => end,
        end = renew(agent, connection, own) => end,
        end = moves(agent, connection) => end,
        end = fetch::fetch(agent, connection) => end,
        end = keys::ask(agent, connection) => end,
    };
    // What was accepted is done, even where the session broke before its answer had arrived.
    let end = match agent.session().take_due() {
        Some(due) => End::Power(due),
        None => end,
    };
    match &end {
        End::Lost(QuicError::Frame(error)) => quic::end(connection, close::PROTOCOL, &error.to_string()),
        End::Lost(QuicError::Late) => quic::end(connection, close::PROTOCOL, "a request was not finished in time"),
        End::Lost(_) => quic::end(connection, close::DONE, "the session is lost"),
        End::Power(_) => quic::end(connection, close::DONE, "the machine is going down"),
        End::Moved(_) => {}
    }
    end
}

/// Serves the controller's requests. Cancel-safe only as a whole: requests under way end with it.
async fn listen(agent: &Arc<Agent>, connection: &Connection) -> End {
    let mut requests = JoinSet::new();
    loop {
        tokio::select! {
            stream = connection.accept_bi() => match stream {
                // QUIC's stream limit is the limit of requests at once.
                Ok((send, receive)) => drop(requests.spawn(serve(agent.clone(), send, receive))),
                Err(error) => return End::Lost(error.into()),
            },
            Some(served) = requests.join_next() => match served {
                // Only here: a task that takes it and is dropped before it is heard would take it for nobody.
                Ok(Ok(())) => if let Some(due) = agent.session().take_due() {
                    return End::Power(due);
                },
                Ok(Err(error)) => {
                    crate::warn!("a request could not be served: {error}");
                    match error {
                        // A stream that breaks off is the peer's way to say never mind.
                        QuicError::Stream => {}
                        error => return End::Lost(error),
                    }
                }
                Err(error) => return End::Lost(QuicError::Local(error.to_string())),
            },
        }
    }
}

/// One request, from its first byte to its answer's last.
async fn serve(agent: Arc<Agent>, mut send: SendStream, mut receive: RecvStream) -> Result<(), QuicError> {
    let call = timeout(REQUEST, quic::read(&mut receive)).await.unwrap_or(Err(QuicError::Late))?;
    let cut = agent.reconciler.must_not_be_cut();
    let act = agent.session().decide(call, cut);
    let answer = match act {
        Act::Answer(answer) => answer,
        Act::Observe => match agent.reconciler.observe().await {
            Ok(observed) => to_agent::Answer::Observed(Box::new(observed)),
            Err(refusal) => to_agent::Answer::Refused(refusal),
        },
        Act::Plan(desired) => agent.reconciler.plan(desired).await,
        Act::Apply(apply) => {
            let (answer, begin) = agent.reconciler.apply(apply).await;
            quic::write(&mut send, &answer).await?;
            if begin.is_some() {
                arrives(&send).await;
            }
            drop(begin);
            return Ok(());
        }
        Act::Wipe(wipe) => agent.reconciler.wipe(wipe).await,
        Act::Trust(cas) => match agent.trust.follow(cas) {
            Ok(()) => to_agent::Answer::Accepted,
            Err(error) => {
                let problem = format!("could not keep whom to trust: {error}");
                to_agent::Answer::Refused(to_agent::Refusal::Impossible(problem))
            }
        },
        Act::Power => {
            quic::write(&mut send, &to_agent::Answer::Accepted).await?;
            arrives(&send).await;
            return Ok(());
        }
    };
    match quic::write(&mut send, &answer).await {
        // What lies on disks decides how long some answers are: that must not end sessions.
        Err(QuicError::Frame(error @ FrameError::TooLong { .. })) => {
            let problem = format!("this machine has more to tell than fits into one answer: {error}");
            quic::write(&mut send, &to_agent::Answer::Refused(to_agent::Refusal::Impossible(problem))).await
        }
        other => other,
    }
}

/// Waits until the controller has acknowledged every byte of an answer. If it never does, what was answered is done all
/// the same.
async fn arrives(send: &SendStream) {
    let _ = timeout(LAST_WORD, send.stopped()).await;
}

/// Tells what there is to tell, one thing at a time.
async fn tell(agent: &Agent, connection: &Connection, mut heard: Heard) -> End {
    let mut changes = agent.outbox.subscribe();
    loop {
        let next = changes.borrow_and_update().next(&heard);
        let Some(call) = next else {
            if changes.changed().await.is_err() {
                // The agent itself is going: whoever runs it ends this as well.
                std::future::pending::<()>().await;
            }
            continue;
        };
        let answer = match quic::ask(connection, &call).await {
            Ok(answer) => answer,
            Err(error) => return End::Lost(error),
        };
        let passing = Outbox::is_passing(&call);
        let kind = discriminant(&call);
        if let to_controller::Answer::Refused(refusal) = &answer {
            crate::warn!("the controller refused a report: {refusal}");
        }
        agent.outbox.send_modify(|outbox| outbox.answered(&mut heard, call, &answer));
        match answer {
            to_controller::Answer::Refused(to_controller::Refusal::Busy) => {
                // It has no time for this, and may have some for what comes before it now.
                let other = |out: &Outbox| out.next(&heard).is_some_and(|call| discriminant(&call) != kind);
                let _ = timeout(BUSY, changes.wait_for(other)).await;
            }
            _ if passing => {
                // What matters does not wait behind what passes.
                let matters = |out: &Outbox| out.next(&heard).is_some_and(|call| !Outbox::is_passing(&call));
                let _ = timeout(PASSING, changes.wait_for(matters)).await;
            }
            _ => {}
        }
    }
}

/// Asks after each change of the network whether the session has outlived it. What has not ends, so that another is begun
/// at once: it would be missed only after its idle time.
async fn outlived(agent: &Agent, connection: &Connection, mut seen: u64) -> End {
    let mut outbox = agent.outbox.subscribe();
    loop {
        // A welcome, or an answer, after the last change.
        agent.outbox.send_modify(|out| out.heard = seen);
        if outbox.wait_for(|out| out.changes != seen).await.is_err() {
            // The agent itself is going: whoever runs it ends this as well.
            std::future::pending::<()>().await;
        }
        seen = outbox.borrow_and_update().changes;
        let generation = outbox.borrow().progress.generation().unwrap_or_default();
        let call = Call::Prove { generation };
        let asked = timeout(OUTLIVED, quic::ask::<_, to_controller::Answer>(connection, &call));
        if let Err(error) = asked.await.unwrap_or(Err(QuicError::Late)) {
            return End::Lost(error);
        }
    }
}

/// Opens another connection beside this one, as soon as the session is to go on at another address: a connection cannot
/// follow to one.
async fn moves(agent: &Agent, connection: &Connection) -> End {
    let mut outbox = agent.outbox.subscribe();
    let here = connection.remote_address().ip();
    loop {
        let to = outbox.wait_for(|out| out.moves_to.is_some()).await.ok().and_then(|out| out.moves_to);
        let own = Credentials::load(&agent.options.keep, agent.options.ca);
        if to != Some(here)
            && let Ok(reached) = reach::connect(agent, ALPN_SESSION, own.as_ref(), to).await
        {
            return End::Moved(reached);
        }
        agent.outbox.send_modify(|out| out.moves_to = None);
    }
}

/// Asks for a new certificate when it is time to, or when another CA signs them now, and again until it is there.
async fn renew(agent: &Agent, connection: &Connection, own: &mut Credentials) -> End {
    let mut told = agent.trust.told();
    loop {
        let is_of_another = told.borrow_and_update().first().is_some_and(|signs| own.issuer() != Some(*signs));
        match own.renew_in(agent.clock.now()) {
            left if left > Duration::ZERO && !is_of_another => {
                // The clock may be set meanwhile, so it is looked at again every hour.
                let _ = timeout(left.min(Duration::from_secs(3600)), told.changed()).await;
                continue;
            }
            _ => {}
        }
        match renewed(connection, own).await {
            Ok(new) => {
                crate::info!("the certificate was renewed");
                *own = new;
                own.keep(&agent.options);
            }
            Err(error) => crate::warn!("the certificate could not be renewed, asking again: {error}"),
        }
        // After a success too: a controller whose certificates are old at once must not be asked without end.
        let pause = own.renew_again_in(agent.clock.now(), u64::from_ne_bytes(random::bytes()));
        let _ = timeout(pause, told.changed()).await;
    }
}

async fn renewed(connection: &Connection, own: &Credentials) -> Result<Credentials, String> {
    let csr = identity::signing_request(&own.key).map_err(|error| chain(&error))?;
    match quic::ask(connection, &Call::Renew { csr }).await.map_err(|error| error.to_string())? {
        to_controller::Answer::Renewed { certificates } => {
            Credentials::new(own.machine, own.key.clone(), certificates).map_err(|error| error.to_string())
        }
        to_controller::Answer::Refused(refusal) => Err(refusal.to_string()),
        to_controller::Answer::Welcome(_)
        | to_controller::Answer::Accepted
        | to_controller::Answer::File { .. }
        | to_controller::Answer::Key(_) => Err("a strange answer".into()),
    }
}

/// Whether the controller has said that the welcome is out of date, and an immediate hello is called for.
pub fn asks_for_a_new_hello(error: &QuicError) -> bool {
    let changed = quinn::VarInt::from_u32(close::CHANGED);
    matches!(error, QuicError::Connection(ConnectionError::ApplicationClosed(closed)) if closed.error_code == changed)
}
