//! The machine's TPM 2.0: the name of its endorsement key, by which the machine is known, and keys of encrypted volumes
//! ([`volume_key`]).
//!
//! For its name it is asked once at the agent's start, in a thread of its own, because a TPM may take seconds to answer and a broken one never
//! does; meanwhile the network comes up. A machine without a TPM waits for nothing.
//! The key is told and not proven: whether the TPM really has it is a question that the controller would have to put.

mod endorsement;
#[cfg(test)]
mod tests;
mod volume;
mod wire;

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use muster_protocol::enroll::Tpm;
use muster_protocol::{Digest, DiskKey};

pub use endorsement::{Exchange, learn};
pub use volume::derive;

/// The kernel's resource manager, which shares the TPM among programs; there for every TPM 2.0 and for no older one.
pub const DEVICE: &str = "/dev/tpmrm0";

/// From the agent's start until an enrollment goes on without the key.
pub const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// The longest answer that the kernel hands out (its TPM_BUFSIZE).
const ANSWER: usize = 4096;

/// Why a TPM has told no key.
#[derive(Debug, thiserror::Error)]
pub enum TpmError {
    /// The kernel, on the way there or back.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The TPM (TPM_RC; Part 2, 6.6).
    #[error("it refused with code {code:#x}")]
    Refused {
        /// As it came.
        code: u32,
    },
    /// What was read is no endorsement key of the kind that was asked for.
    #[error("it has another key there")]
    Foreign,
    /// This is no answer to what was asked.
    #[error("its answer is malformed")]
    Malformed,
}

impl TpmError {
    /// Whether it will be the same the next time: a warning (bits 7, 8 and 11 of the code; Part 2, 6.6.3) says that the TPM
    /// is busy or lacks something now.
    fn is_final(&self) -> bool {
        match self {
            Self::Refused { code } => code & 0x980 != 0x900,
            Self::Foreign => true,
            Self::Io(_) | Self::Malformed => false,
        }
    }
}

/// A question to the TPM, and its answer once that is there.
pub struct Asked {
    answer: Arc<(Mutex<Option<Tpm>>, Condvar)>,
    until: Instant,
}

impl Asked {
    /// Asks the TPM at `device`, where there is one.
    pub fn begin(device: &'static str) -> Self {
        if !Path::new(device).exists() {
            return Self::answered(Tpm::Absent);
        }
        Self::with(ANSWERS_WITHIN, move || match ask(device) {
            Ok(key) => Tpm::Claimed { key },
            Err(error) => {
                crate::warn!("the TPM did not tell its endorsement key: {error}");
                Tpm::Silent
            }
        })
    }

    fn answered(answer: Tpm) -> Self {
        Self { answer: Arc::new((Mutex::new(Some(answer)), Condvar::new())), until: Instant::now() }
    }

    fn with(within: Duration, ask: impl FnOnce() -> Tpm + Send + 'static) -> Self {
        let answer = Arc::new((Mutex::new(None), Condvar::new()));
        let theirs = answer.clone();
        let started = thread::Builder::new().stack_size(128 * 1024).spawn(move || {
            let told = ask();
            *theirs.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(told);
            theirs.1.notify_all();
        });
        match started {
            Ok(_) => Self { answer, until: Instant::now() + within },
            Err(error) => {
                crate::warn!("no thread to ask the TPM: {error}");
                Self::answered(Tpm::Silent)
            }
        }
    }

    /// What it says, waited for until its time is over; later, what it has said by then.
    pub fn answer(&self) -> Tpm {
        let (answer, told) = &*self.answer;
        let answer = answer.lock().unwrap_or_else(PoisonError::into_inner);
        let left = self.until.saturating_duration_since(Instant::now());
        let waited = told.wait_timeout_while(answer, left, |answer| answer.is_none());
        let (answer, _) = waited.unwrap_or_else(PoisonError::into_inner);
        answer.unwrap_or(Tpm::Silent)
    }
}

fn ask(device: &str) -> Result<Digest, TpmError> {
    with_device(device, learn)
}

/// The key of the encrypted volume with this UUID in its header, derived by this machine's TPM. May take seconds.
pub fn volume_key(uuid: &[u8; 16]) -> Result<DiskKey, TpmError> {
    with_device(DEVICE, |exchange| derive(exchange, uuid))
}

/// Asks over the kernel's device: a command is written whole, and its answer read whole.
fn with_device<T>(device: &str, ask: impl FnOnce(Exchange<'_>) -> Result<T, TpmError>) -> Result<T, TpmError> {
    let mut device = OpenOptions::new().read(true).write(true).open(device)?;
    ask(&mut |command| {
        device.write_all(command)?;
        let mut answer = vec![0; ANSWER];
        let length = device.read(&mut answer)?;
        answer.truncate(length);
        Ok(answer)
    })
}
