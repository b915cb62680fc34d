//! Bare writes to a file, each made durable: what no acknowledgement can be faster than.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::took::Took;

/// What is written.
#[derive(Debug, Deserialize)]
pub struct Writes {
    /// Where.
    file: PathBuf,
    /// Bytes of each.
    bytes: usize,
    /// For how long.
    seconds: f64,
}

/// Writes one record after the other, each with its fdatasync.
pub fn run(writes: &Writes) -> Result<Took> {
    let mut file = create(&writes.file)?;
    let record = vec![0x5a; writes.bytes];
    let end = Instant::now() + Duration::from_secs_f64(writes.seconds);
    let mut all = Vec::new();
    while Instant::now() < end {
        let began = Instant::now();
        file.write_all(&record)?;
        file.sync_data()?;
        all.push(began.elapsed());
    }
    Ok(Took::of(all))
}

/// A file that grows, as the database does.
pub fn create(path: &Path) -> Result<File> {
    File::create(path).with_context(|| format!("creating {}", path.display()))
}
