//! Frames on QUIC streams: one message, then the end of the stream; and the end of a connection.
//!
//! What a peer announces is checked against the message kind's limit before anything is allocated, memory is taken as
//! bytes arrive and not as they are announced, and of the larger frames a connection gets to fill one at a time.

use muster_protocol::frame::{self, FrameError, Message};
use quinn::{Connection, ConnectionError, ReadError, ReadExactError, RecvStream, SendStream, VarInt, WriteError};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::metrics::Reason;

/// Frames up to this many bytes do not wait for their turn.
const SMALL: usize = 4 * 1024;

/// Closes a connection with a code of [`close`](muster_protocol::close) and a reason for people.
pub fn shut(connection: &Connection, code: u32, reason: &str) {
    connection.close(VarInt::from_u32(code), reason.as_bytes());
}

/// Why a message was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The connection is gone.
    #[error("the connection ended")]
    Connection(#[from] ConnectionError),
    /// The peer took the stream back.
    #[error("the stream was taken back")]
    Reset,
    /// The stream ended within the frame.
    #[error("a stream ended within its frame")]
    Short,
    /// Bytes follow the frame.
    #[error("bytes follow the frame on its stream")]
    Leftover,
    /// The frame is not what was expected.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

impl StreamError {
    /// How the peer breaks the protocol, so that nothing more is to be heard from it; `None` where it does not.
    pub fn breach(&self) -> Option<Reason> {
        match self {
            Self::Short => Some(Reason::Unfinished),
            Self::Leftover | Self::Frame(FrameError::Leftover { .. }) => Some(Reason::Leftover),
            Self::Frame(FrameError::TooLong { .. }) => Some(Reason::TooLarge),
            Self::Frame(FrameError::Malformed { .. }) => Some(Reason::Malformed),
            Self::Connection(_) | Self::Reset => None,
        }
    }
}

/// Reads the one message on `stream`. `turn` is the connection's, with one permit.
pub async fn read<M: Message>(stream: &mut RecvStream, turn: &Semaphore) -> Result<M, StreamError> {
    Ok(take(stream, turn).await?.0)
}

/// The same, and keeps the turn that a larger frame took, for as long as its message is in memory.
pub async fn take<'t, M: Message>(
    stream: &mut RecvStream,
    turn: &'t Semaphore,
) -> Result<(M, Option<SemaphorePermit<'t>>), StreamError> {
    let mut header = [0; frame::HEADER];
    stream.read_exact(&mut header).await.map_err(|e| match e {
        ReadExactError::FinishedEarly(_) => StreamError::Short,
        ReadExactError::ReadError(e) => reading(e),
    })?;
    let length = frame::length::<M>(header)?;
    // Nobody closes the semaphore; if somebody did, reading without a turn would still be right.
    let turn = if length > SMALL { turn.acquire().await.ok() } else { None };
    let mut value: Vec<u8> = Vec::new();
    while value.len() < length {
        let chunk = stream.read_chunk(length - value.len(), true).await.map_err(reading)?.ok_or(StreamError::Short)?;
        value.reserve_exact(chunk.bytes.len());
        value.extend_from_slice(&chunk.bytes);
    }
    if stream.read_chunk(1, true).await.map_err(reading)?.is_some() {
        return Err(StreamError::Leftover);
    }
    Ok((frame::decode(&value)?, turn))
}

/// Writes the one message of `stream` and ends it.
pub async fn write<M: Message>(stream: &mut SendStream, message: &M) -> Result<(), StreamError> {
    send(stream, &frame::encode(message)?).await
}

/// Writes an encoded frame and ends the stream.
pub async fn send(stream: &mut SendStream, frame: &[u8]) -> Result<(), StreamError> {
    send_part(stream, frame).await?;
    stream.finish().map_err(|_| StreamError::Reset)
}

/// Writes bytes behind which more will follow.
pub async fn send_part(stream: &mut SendStream, bytes: &[u8]) -> Result<(), StreamError> {
    stream.write_all(bytes).await.map_err(|e| match e {
        WriteError::ConnectionLost(e) => StreamError::Connection(e),
        WriteError::Stopped(_) | WriteError::ClosedStream | WriteError::ZeroRttRejected => StreamError::Reset,
    })
}

fn reading(e: ReadError) -> StreamError {
    match e {
        ReadError::ConnectionLost(e) => StreamError::Connection(e),
        ReadError::Reset(_) | ReadError::ClosedStream | ReadError::IllegalOrderedRead | ReadError::ZeroRttRejected => {
            StreamError::Reset
        }
    }
}
