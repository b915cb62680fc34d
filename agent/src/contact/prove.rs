//! Proves ways to the controller: an exchange over a connection that is begun for it and is no session.
//!
//! The reconcile loop puts a [`Proof`] into the outbox and waits for its answer; this tries until there is one, or until
//! the proof is taken away again. The session that is up is left alone.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use muster_protocol::to_controller::{Answer, Call, Refusal};
use muster_protocol::{ALPN_SESSION, close};
use quinn::Connection;
use tokio::time::{Instant, sleep, timeout};

use super::identity::Credentials;
use super::quic;
use super::reach::{Trouble, reach};
use crate::agent::Agent;
use crate::outbox::{Asked, Outbox, Proof, Proven};

/// Between two attempts.
const AGAIN: Duration = Duration::from_millis(500);
/// From one attempt that is not answered to another beside it.
const ANEW: Duration = Duration::from_millis(2_500);
/// How long a confirmation waits for the session, where there is time.
const FOLLOWS: Duration = Duration::from_secs(4);
/// A confirmation is asked for so long before its deadline at the latest, session or not.
const IN_TIME: Duration = Duration::from_secs(2);
/// Between two questions meanwhile.
const BEAT: Duration = Duration::from_millis(250);

/// Proves what there is to prove, for ever.
pub async fn prove(agent: &Agent) {
    let mut outbox = agent.outbox.subscribe();
    loop {
        if outbox.wait_for(|out| out.waiting_proof().is_some()).await.is_err() {
            // The agent itself is going: whoever runs it ends this as well.
            return std::future::pending().await;
        }
        let proof = outbox.borrow().waiting_proof().cloned();
        let Some(proof) = proof else { continue };
        // Where the session is by and by is another question.
        let to = match &proof.asked {
            Asked::Beside(way) => way.controller.or(agent.controller.borrow().first().map(SocketAddr::ip)),
            Asked::Reach | Asked::Confirm { .. } => None,
        };
        let is_it = |out: &Outbox| out.waiting_proof().is_some_and(|now| now.asked == proof.asked);
        let mut gone = agent.outbox.subscribe();
        // Both are cancel-safe: an attempt that is dropped closes its connection.
        tokio::select! {
            () = until_answered(agent, &proof, to) => {}
            _ = async { gone.wait_for(|out| !is_it(out)).await.is_ok() } => {}
        }
    }
}

/// Tries until the controller has answered, and notes it.
async fn until_answered(agent: &Agent, proof: &Proof, to: Option<IpAddr>) {
    loop {
        // A handshake is never answered that was begun from an address which is another one by now: a later one is.
        let later = async |after: Duration| {
            sleep(after).await;
            attempt(agent, proof, to).await
        };
        let attempted = tokio::select! {
            ended = attempt(agent, proof, to) => ended,
            Ok(answer) = later(ANEW) => Ok(answer),
            Ok(answer) = later(2 * ANEW) => Ok(answer),
        };
        let trouble = match attempted {
            Ok(answer) => {
                return agent.outbox.send_modify(|out| {
                    if let Some(now) = out.proof.as_mut().filter(|now| now.asked == proof.asked) {
                        now.answer = answer;
                    }
                });
            }
            Err(trouble) => trouble.to_string(),
        };
        agent.outbox.send_if_modified(|out| {
            let now = out.proof.as_mut().filter(|now| now.asked == proof.asked && now.trouble != trouble);
            now.map(|now| now.trouble = trouble).is_some()
        });
        sleep(AGAIN).await;
    }
}

async fn attempt(agent: &Agent, proof: &Proof, to: Option<IpAddr>) -> Result<Proven, Trouble> {
    let own = Credentials::load(&agent.options.keep, agent.options.ca).ok_or(Trouble::NoTicket)?;
    let way = match &proof.asked {
        Asked::Beside(way) => Some(way),
        Asked::Reach | Asked::Confirm { .. } => None,
    };
    let (connection, _) = reach(agent, ALPN_SESSION, Some(&own), to, way).await?;
    let answered = question(agent, &connection, proof).await;
    quic::end(&connection, close::DONE, "the proof is over");
    answered
}

async fn question(agent: &Agent, connection: &Connection, proof: &Proof) -> Result<Proven, Trouble> {
    holds(connection, proof).await?;
    if matches!(proof.asked, Asked::Confirm { .. }) {
        session_follows(agent, patience(proof.deadline, Instant::now())).await;
    }
    match proof.confirmation() {
        Some(confirm) => ask(connection, &confirm).await,
        None => Ok(Proven::Yes),
    }
}

/// How long a confirmation waits for the session.
fn patience(deadline: Option<Instant>, now: Instant) -> Duration {
    deadline.map_or(FOLLOWS, |deadline| deadline.saturating_duration_since(now + IN_TIME).min(FOLLOWS))
}

/// Waits, for a while, until the session is there again: who is told that a change is kept wants to speak to the machine.
async fn session_follows(agent: &Agent, within: Duration) {
    let mut outbox = agent.outbox.subscribe();
    let _ = timeout(within, async { outbox.wait_for(|out| out.heard == out.changes).await.is_ok() }).await;
}

/// Asks, and again and again for as long as the proof says.
async fn holds(connection: &Connection, proof: &Proof) -> Result<(), Trouble> {
    let end = Instant::now() + proof.soak;
    loop {
        // A controller that wants another generation by now was reached all the same.
        let _ = ask(connection, &Call::Prove { generation: proof.generation }).await?;
        if Instant::now() >= end {
            return Ok(());
        }
        sleep(BEAT).await;
    }
}

async fn ask(connection: &Connection, call: &Call) -> Result<Proven, Trouble> {
    match quic::ask(connection, call).await? {
        Answer::Accepted => Ok(Proven::Yes),
        Answer::Refused(Refusal::Outdated) => Ok(Proven::Overtaken),
        Answer::Refused(refusal) => Err(Trouble::Unproven(refusal.to_string())),
        Answer::Welcome(_) | Answer::Renewed { .. } | Answer::File { .. } | Answer::Key(_) => {
            Err(Trouble::Unproven("a strange answer".to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_confirmation_waits_for_the_session_as_long_as_its_deadline_lets_it() {
        let now = Instant::now();
        let left = |milliseconds| Some(now + Duration::from_millis(milliseconds));
        assert_eq!(patience(None, now), FOLLOWS);
        assert_eq!(patience(left(20_000), now), FOLLOWS);
        // Of 5 s, the shortest, 2 are over once the way has held.
        assert_eq!(patience(left(3_000), now), Duration::from_secs(1));
        assert_eq!(patience(left(1_000), now), Duration::ZERO);
    }
}
