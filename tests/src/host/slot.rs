//! A place on this computer: an emulated machine keeps a processor busy, so no more tests boot machines at one time than
//! there are processors, however many threads and processes run tests.

use std::fs::{File, TryLockError};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::{eventually, scratch};

/// Longer than all tests together.
const DEADLINE: Duration = Duration::from_secs(3600);

/// Held while a test boots machines.
#[derive(Debug)]
pub struct Slot {
    // The lock goes with the file, at the latest when the process ends.
    _lock: File,
}

impl Slot {
    /// Waits for a place.
    pub fn take() -> Result<Self> {
        let folder = scratch::build().join("tests");
        std::fs::create_dir_all(&folder)?;
        let places = std::thread::available_parallelism().map_or(1, usize::from);
        let files = (0..places)
            .map(|n| File::create(folder.join(format!(".slot-{n}"))).context("making a slot's file"))
            .collect::<Result<Vec<_>>>()?;
        let taken = eventually(DEADLINE, "a place to boot a machine at", || {
            for (n, file) in files.iter().enumerate() {
                match file.try_lock() {
                    Ok(()) => return Ok(n),
                    Err(TryLockError::WouldBlock) => {}
                    Err(TryLockError::Error(e)) => return Err(e.into()),
                }
            }
            bail!("all {places} are taken")
        })?;
        let lock = files.into_iter().nth(taken).context("one of the files was locked")?;
        Ok(Self { _lock: lock })
    }
}
