//! Bare writes to files, each made durable: what no acknowledgement can be faster than.

use std::fs::File;
use std::io::Write;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::took::Took;

/// What is written.
#[derive(Debug, Deserialize)]
pub struct Writes {
    /// Where; a number is added where several write.
    file: PathBuf,
    /// Loops at one time, each with a file of its own.
    loops: usize,
    /// Bytes of each.
    bytes: usize,
    /// For how long.
    seconds: f64,
}

/// Has each loop write one record after the other, each with its fdatasync.
pub fn run(writes: &Writes) -> Result<Took> {
    let path = |number: usize| match number {
        0 => writes.file.clone(),
        _ => writes.file.with_added_extension(number.to_string()),
    };
    let files = (0..writes.loops).map(|number| create(&path(number))).collect::<Result<Vec<_>>>()?;
    let end = Instant::now() + Duration::from_secs_f64(writes.seconds);
    let all = thread::scope(|scope| {
        let loops: Vec<_> =
            files.into_iter().map(|file| scope.spawn(|| write_until(end, file, writes.bytes))).collect();
        let all = loops.into_iter().map(|one| one.join().unwrap_or_else(|panic| resume_unwind(panic)));
        all.collect::<Result<Vec<_>>>()
    })?;
    Ok(Took::of(all.concat()))
}

fn write_until(end: Instant, mut file: File, bytes: usize) -> Result<Vec<Duration>> {
    let record = vec![0x5a; bytes];
    let mut all = Vec::new();
    while Instant::now() < end {
        let began = Instant::now();
        file.write_all(&record)?;
        file.sync_data()?;
        all.push(began.elapsed());
    }
    Ok(all)
}

/// A file that grows, as the database does.
pub fn create(path: &Path) -> Result<File> {
    File::create(path).with_context(|| format!("creating {}", path.display()))
}
