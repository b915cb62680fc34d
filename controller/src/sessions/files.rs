//! Files that machines fetch over their sessions, by what is in them: the tools of the images that they booted, and disk
//! images.
//!
//! They lie in two folders, each called by a SHA-256, and are read while they are sent: a machine holds a chunk of memory and
//! an open file, for as long as its stream has. What it does not get in that time it asks for again, from where it stopped.
//! Whether the bytes are the right ones is for the machine to judge; a file that is not what it is called harms nobody.

use std::io::{self, SeekFrom};
use std::path::PathBuf;
use std::time::Duration;

use muster_protocol::frame;
use muster_protocol::to_controller::{Answer, Refusal};
use muster_protocol::{Digest, MachineId};
use quinn::{Connection, SendStream, VarInt};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::Semaphore;

use super::endpoint::SEND_WINDOW;
use super::stream::{self, StreamError};
use crate::disk_image;
use crate::metrics::{Door, Metrics, Reason};

/// Machines that are sent a file at once. The others hear that the controller is busy, and ask again.
const AT_ONCE: usize = 64;

/// The longest that a machine keeps such a place before others have their turn.
const WITHIN: Duration = Duration::from_secs(60);

/// Bytes that are kept for a machine until it has acknowledged them, while it is sent a file: no more than these come in the
/// time of a round trip. For all places together it is 16 MiB.
const WINDOW: u64 = 256 * 1024;

/// Bytes that are read at once.
const CHUNK: usize = 32 * 1024;

/// What is served.
pub struct Files {
    folders: [PathBuf; 2],
    places: Semaphore,
    within: Duration,
}

/// What a machine asked for.
pub struct Asked {
    /// By whom.
    pub machine: MachineId,
    /// SHA-256 of the file.
    pub digest: Digest,
    /// Where to begin.
    pub offset: u64,
}

/// A connection that is sent no file any more when this is dropped.
struct Narrow<'c>(&'c Connection);

impl Drop for Narrow<'_> {
    fn drop(&mut self) {
        self.0.set_send_window(SEND_WINDOW);
    }
}

impl Files {
    /// Those in this folder, and disk images in the one beside it. Neither needs to be there yet.
    pub fn new(folder: PathBuf) -> Self {
        Self::with(folder, AT_ONCE, WITHIN)
    }

    /// The same with other limits.
    pub fn with(folder: PathBuf, at_once: usize, within: Duration) -> Self {
        let disks = folder.with_file_name(disk_image::FOLDER);
        Self { folders: [folder, disks], places: Semaphore::new(at_once), within }
    }

    /// Answers, and sends what was asked for. A stream that is not taken in time is ended without its end.
    pub async fn send(&self, asked: &Asked, mut send: SendStream, connection: &Connection, metrics: &Metrics) {
        let _narrow = Narrow(connection);
        match tokio::time::timeout(self.within, self.answer(asked, &mut send, connection, metrics)).await {
            Ok(Ok(())) => {}
            // The machine is gone, or wants it no more.
            Ok(Err(error)) => tracing::debug!(machine = %asked.machine, %error, "a file was not sent to its end"),
            Err(_) => {
                tracing::info!(machine = %asked.machine, "a file is sent slowly; the machine has to ask for the rest");
                let _ = send.reset(VarInt::from_u32(0));
            }
        }
    }

    async fn answer(
        &self,
        asked: &Asked,
        send: &mut SendStream,
        connection: &Connection,
        metrics: &Metrics,
    ) -> Result<(), StreamError> {
        let Asked { machine, digest, offset } = asked;
        let refuse = |refusal, reason| {
            metrics.refused(Door::Agents, reason);
            Answer::Refused(refusal)
        };
        let refused = match (self.places.try_acquire(), self.open(digest, *offset).await) {
            (Err(_), _) => refuse(Refusal::Busy, Reason::TooMany),
            (Ok(_), Err(error)) if error.kind() == io::ErrorKind::NotFound => {
                tracing::warn!(%machine, %digest, "a machine asks for a file that is not here: tools of another image, or a disk image");
                refuse(Refusal::NoSuchFile, Reason::Invalid)
            }
            (Ok(_), Err(error)) => {
                tracing::error!(%machine, %digest, %error, "a file cannot be sent");
                refuse(Refusal::Busy, Reason::Busy)
            }
            (Ok(_), Ok((_, bytes))) if *offset > bytes => refuse(Refusal::BadRequest, Reason::Invalid),
            (Ok(_place), Ok((file, bytes))) => {
                tracing::info!(%machine, %digest, offset, bytes, "sending a file");
                connection.set_send_window(WINDOW);
                return self.pass_on(file, bytes, bytes - offset, send).await;
            }
        };
        stream::write(send, &refused).await
    }

    /// The file, standing where it is to be read from, and its length.
    async fn open(&self, digest: &Digest, offset: u64) -> io::Result<(File, u64)> {
        let [folder, disks] = self.folders.each_ref().map(|folder| folder.join(digest.to_string()));
        let mut file = match File::open(folder).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => File::open(disks).await?,
            file => file?,
        };
        let bytes = file.metadata().await?.len();
        file.seek(SeekFrom::Start(offset.min(bytes))).await?;
        Ok((file, bytes))
    }

    async fn pass_on(&self, file: File, bytes: u64, left: u64, send: &mut SendStream) -> Result<(), StreamError> {
        // Answers to other requests go first.
        let _ = send.set_priority(-1);
        stream::send_part(send, &frame::encode(&Answer::File { bytes })?).await?;
        let (mut file, mut chunk) = (file.take(left), vec![0; CHUNK]);
        loop {
            match file.read(&mut chunk).await {
                Ok(0) => return send.finish().map_err(|_| StreamError::Reset),
                Ok(count) => stream::send_part(send, &chunk[..count]).await?,
                Err(error) => {
                    tracing::error!(%error, "a file could not be read to its end");
                    let _ = send.reset(VarInt::from_u32(0));
                    return Err(StreamError::Reset);
                }
            }
        }
    }
}
