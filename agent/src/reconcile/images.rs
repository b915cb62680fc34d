//! The step of a plan that writes a disk image: whichever session is up fetches it (`contact::talk`), and what comes is
//! written while it comes, as fast as the disk takes it.

use std::io::{self, Read};

use muster_protocol::Digest;
use muster_protocol::hello::Reason;
use muster_protocol::tools::Pinned;
use tokio::sync::mpsc;

use super::Reconciler;
use super::apply::{Begun, overtaken};
use crate::machine::why_not;
use crate::outbox::{Came, Fetch, Outbox, Pipe};
use crate::plan::storage::Step;

/// Pieces that wait for the disk.
const WAITING: usize = 16;

impl Reconciler {
    /// Errors: what is told of it, and in one word.
    pub(super) async fn write_image(&self, step: Step, digest: Digest, begun: Begun) -> Result<(), (Reason, String)> {
        self.set_progress(begun.at(0));
        let (send, receive) = mpsc::channel(WAITING);
        // How long it is, its controller says.
        let fetch = Fetch { pipe: Some(Pipe(send)), ..Fetch::begin(Pinned { digest, bytes: 0 }) };
        self.outbox.send_modify(|out| out.fetch = Some(fetch));
        if self.state().is_overtaken {
            self.outbox.send_modify(Outbox::overtake);
        }
        let mut source = Pieces { receive, came: 0, piece: Vec::new(), used: 0 };
        let writing = self.blocking(move |machine| machine.write_image(&step, &mut source, &mut |_| {}));
        tokio::pin!(writing);
        // Both arms are cancel-safe: what is written goes on, and what comes is in the outbox.
        let (done, came) = tokio::select! {
            done = &mut writing => {
                self.outbox.send_modify(|out| out.fetch = None);
                (done, Came::All)
            }
            came = self.await_pieces(&begun) => {
                self.outbox.send_modify(|out| out.fetch = None);
                // Without an end it is given up where it is.
                (writing.await, came)
            }
        };
        let failed = |why: String| Err((Reason::StepFailed, why));
        match (done, came) {
            (Ok(()), _) => Ok(()),
            (Err(_), Came::Overtaken) => Err(overtaken()),
            (Err(_), Came::Never(why)) => failed(format!("{}: {why}", begun.step())),
            (Err(error), _) => failed(why_not(begun.step(), &error)),
        }
    }
}

/// What comes, in the order in which it is read.
struct Pieces {
    receive: mpsc::Receiver<(u64, Vec<u8>)>,
    /// Bytes that came, from the beginning.
    came: u64,
    piece: Vec<u8>,
    used: usize,
}

impl Read for Pieces {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.used == self.piece.len() {
            let Some((at, piece)) = self.receive.blocking_recv() else { return Ok(0) };
            // What came in a session that was lost may come again.
            let Some(skip) = self.came.checked_sub(at) else {
                return Err(io::Error::other("a part of it is missing"));
            };
            self.used = piece.len().min(skip as usize);
            self.came = self.came.max(at + piece.len() as u64);
            self.piece = piece;
        }
        let count = out.len().min(self.piece.len() - self.used);
        out[..count].copy_from_slice(&self.piece[self.used..self.used + count]);
        self.used += count;
        Ok(count)
    }
}
