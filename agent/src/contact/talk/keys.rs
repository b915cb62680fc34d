//! Asks the controller for the key that the reconcile loop waits for, and hands it to the machine: it is kept nowhere on its
//! way, and nothing tells of it but that it came.

use std::time::Duration;

use muster_protocol::to_controller::{Answer, Call, Refusal};
use quinn::Connection;
use tokio::time::sleep;

use super::End;
use crate::agent::Agent;
use crate::contact::quic;
use crate::machine;
use crate::outbox::{Came, Wish};

/// Before asking again a controller that was busy.
const AGAIN: Duration = Duration::from_secs(2);

/// Asks whenever a key is waited for, as long as the session lasts. Cancel-safe: whoever asks again gets the same key.
pub async fn ask(agent: &Agent, connection: &Connection) -> End {
    let mut outbox = agent.outbox.subscribe();
    loop {
        let waits = outbox.wait_for(|out| out.key.as_ref().is_some_and(|wish| wish.came == Came::Waiting)).await;
        let Some(wish) = waits.ok().and_then(|out| out.key.clone()) else {
            // The agent itself is going: whoever runs it ends this as well.
            return std::future::pending().await;
        };
        let Wish { name, uuid, use_for, .. } = wish.clone();
        let answer = match quic::ask(connection, &Call::Key { name: name.clone(), uuid, use_for }).await {
            Ok(answer) => answer,
            Err(error) => {
                note(agent, &wish, |wish| wish.trouble = error.to_string());
                return End::Lost(error);
            }
        };
        match answer {
            Answer::Key(key) => {
                machine::blocking(&agent.machine, move |machine| machine.keep_key(&name, uuid, key)).await;
                note(agent, &wish, |wish| wish.came = Came::All);
            }
            Answer::Refused(refusal @ Refusal::Busy) => {
                note(agent, &wish, |wish| wish.trouble = refusal.to_string());
                sleep(AGAIN).await;
            }
            Answer::Refused(refusal) => note(agent, &wish, |wish| wish.came = Came::Never(refusal.to_string())),
            Answer::Welcome(_) | Answer::Accepted | Answer::Renewed { .. } | Answer::File { .. } => {
                let why = "the controller answered with something else";
                note(agent, &wish, |wish| wish.came = Came::Never(why.into()));
            }
        }
    }
}

/// What is told of it; it may be that nobody waits for it any more, or for another one by now.
fn note(agent: &Agent, asked: &Wish, change: impl FnOnce(&mut Wish)) {
    agent.outbox.send_modify(|out| {
        if let Some(wish) = out.key.as_mut().filter(|wish| wish.uuid == asked.uuid && wish.came == Came::Waiting) {
            change(wish);
        }
    });
}
