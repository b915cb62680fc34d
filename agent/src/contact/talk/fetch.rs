//! Fetches what the reconcile loop waits for over the session, piece by piece: what has come stays where a session or a
//! stream ends, and the next one goes on from there.
//!
//! It moves bytes and judges nothing but their number: whether they are the right ones the machine looks at when all are
//! there, or while they come.

use std::time::Duration;

use muster_protocol::to_controller::{Answer, Call, Refusal};
use quinn::Connection;
use tokio::time::{sleep, timeout};

use super::End;
use crate::agent::Agent;
use crate::contact::quic::{self, QuicError};
use crate::machine::{self, chain};
use crate::outbox::{Came, Fetch, Pipe};

/// Before asking again a controller that was busy, or whose stream broke off.
const AGAIN: Duration = Duration::from_secs(2);
/// Between two pieces.
const PIECE_WITHIN: Duration = Duration::from_secs(20);
/// After which it is told that whoever takes the bytes is waited for.
const STILL_THERE: Duration = Duration::from_secs(10);
/// Bytes that are handed on at once.
const PIECE: usize = 64 * 1024;

/// Why not all came.
enum Short {
    /// The session is lost.
    Lost(QuicError),
    /// It may be had later.
    Passing(String),
    /// It cannot be had.
    Final(String),
}

/// Fetches whenever something is waited for, as long as the session lasts. Cancel-safe: what was not noted as here comes
/// again, to the same place.
pub async fn fetch(agent: &Agent, connection: &Connection) -> End {
    let mut outbox = agent.outbox.subscribe();
    loop {
        let waits = outbox.wait_for(|out| out.fetch.as_ref().is_some_and(|fetch| fetch.came == Came::Waiting)).await;
        let Some(wanted) = waits.ok().and_then(|out| out.fetch.clone()) else {
            // The agent itself is going: whoever runs it ends this as well.
            return std::future::pending().await;
        };
        match pieces(agent, connection, &wanted).await {
            Ok(()) => note(agent, &wanted, |fetch| fetch.came = Came::All),
            Err(Short::Final(why)) => note(agent, &wanted, |fetch| fetch.came = Came::Never(why)),
            Err(Short::Passing(why)) => {
                note(agent, &wanted, |fetch| fetch.trouble = why);
                sleep(AGAIN).await;
            }
            Err(Short::Lost(error)) => {
                note(agent, &wanted, |fetch| fetch.trouble = error.to_string());
                return End::Lost(error);
            }
        }
    }
}

/// What is told of it; it may be that nobody waits for it any more, or for another one by now.
fn note(agent: &Agent, wanted: &Fetch, change: impl FnOnce(&mut Fetch)) {
    agent.outbox.send_modify(|out| {
        if let Some(fetch) = out.fetch.as_mut().filter(|fetch| fetch.pinned.digest == wanted.pinned.digest) {
            change(fetch);
        }
    });
}

/// From what has come to the end.
async fn pieces(agent: &Agent, connection: &Connection, wanted: &Fetch) -> Result<(), Short> {
    let Fetch { mut pinned, mut got, .. } = *wanted;
    let _wide = quic::widen(connection);
    let (mut send, mut receive) = connection.open_bi().await.map_err(|error| Short::Lost(error.into()))?;
    let call = Call::Fetch { digest: pinned.digest, offset: got };
    let asked = async {
        quic::write(&mut send, &call).await?;
        quic::read_first(&mut receive).await
    };
    match timeout(quic::EXCHANGE, asked).await.unwrap_or(Err(QuicError::Late)).map_err(lost)? {
        Answer::File { bytes } if bytes == pinned.bytes => {}
        Answer::File { bytes } if pinned.bytes == 0 => {
            pinned.bytes = bytes;
            note(agent, wanted, |fetch| fetch.pinned.bytes = bytes);
        }
        Answer::File { bytes } => {
            let why =
                format!("the controller's have {bytes} bytes, and the image of this machine names {}", pinned.bytes);
            return Err(Short::Final(why));
        }
        Answer::Refused(Refusal::NoSuchFile) if wanted.pipe.is_some() => {
            let why = "the controller does not have it; add it there: muster disk-image add FILE";
            return Err(Short::Final(why.into()));
        }
        Answer::Refused(Refusal::NoSuchFile) => {
            let why = "the controller does not have them any more: this machine booted an older image; reboot it (from a \
                       sealed ISO: make that anew first)";
            return Err(Short::Final(why.into()));
        }
        Answer::Refused(refusal @ Refusal::Busy) => return Err(Short::Passing(refusal.to_string())),
        Answer::Refused(refusal) => return Err(Short::Final(refusal.to_string())),
        Answer::Welcome(_) | Answer::Accepted | Answer::Renewed { .. } | Answer::Key(_) => {
            return Err(Short::Final("the controller answered with something else".into()));
        }
    }
    while got < pinned.bytes {
        let mut piece = vec![0; PIECE.min((pinned.bytes - got) as usize)];
        let filled = timeout(PIECE_WITHIN, fill(&mut receive, &mut piece));
        let filled = filled.await.unwrap_or_else(|_| Err(Short::Passing("the controller stopped sending".into())))?;
        piece.truncate(filled);
        if filled == 0 {
            return Err(Short::Passing("the controller stopped in the middle".into()));
        }
        match &wanted.pipe {
            Some(pipe) => hand_on(agent, wanted, pipe, got, piece).await?,
            None => {
                let kept = machine::blocking(&agent.machine, move |machine| machine.keep_tools(got, &piece)).await;
                kept.map_err(|error| Short::Final(chain(&error)))?;
            }
        }
        got += filled as u64;
        note(agent, wanted, |fetch| (fetch.got, fetch.trouble) = (got, String::new()));
    }
    Ok(())
}

/// Waits as long as whoever takes it does: a disk may be slow.
async fn hand_on(agent: &Agent, wanted: &Fetch, pipe: &Pipe, at: u64, piece: Vec<u8>) -> Result<(), Short> {
    loop {
        match timeout(STILL_THERE, pipe.0.reserve()).await {
            Ok(Ok(room)) => {
                room.send((at, piece));
                return Ok(());
            }
            Ok(Err(_)) => return Err(Short::Final("it is not wanted any more".into())),
            Err(_) => note(agent, wanted, |fetch| fetch.waited += 1),
        }
    }
}

/// As much as there is room for, or up to the end of the stream.
async fn fill(receive: &mut quinn::RecvStream, piece: &mut [u8]) -> Result<usize, Short> {
    let mut filled = 0;
    while filled < piece.len() {
        match receive.read(&mut piece[filled..]).await {
            Ok(Some(count)) => filled += count,
            Ok(None) => break,
            Err(quinn::ReadError::ConnectionLost(error)) => return Err(Short::Lost(error.into())),
            // What came before it is good.
            Err(_) if filled > 0 => break,
            Err(_) => return Err(Short::Passing("the controller broke off".into())),
        }
    }
    Ok(filled)
}

/// A stream that breaks off is no loss of the session.
fn lost(error: QuicError) -> Short {
    match error {
        QuicError::Stream => Short::Passing(error.to_string()),
        error => Short::Lost(error),
    }
}
