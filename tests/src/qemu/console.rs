//! What a machine writes on its serial port: every line with the moment it came, and a copy in a file.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A handle to the lines; clones see the same ones.
#[derive(Clone)]
pub struct Console {
    shared: Arc<Shared>,
    path: PathBuf,
}

/// One line, cleaned of terminal codes.
#[derive(Debug, Clone)]
pub struct Line {
    /// When its end came.
    pub at: Instant,
    /// Without its end.
    pub text: String,
}

#[derive(Default)]
struct Shared {
    lines: Mutex<Lines>,
    grown: Condvar,
}

#[derive(Default)]
struct Lines {
    all: Vec<Line>,
    ended: bool,
}

impl Console {
    /// Reads `output` in a thread of its own until it ends, and copies it to `path`.
    pub(super) fn follow(output: impl Read + Send + 'static, path: &Path) -> Result<Self> {
        let mut copy = std::fs::File::create(path).with_context(|| format!("making {}", path.display()))?;
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(output);
            let mut raw = Vec::new();
            while reader.read_until(b'\n', &mut raw).is_ok_and(|count| count > 0) {
                // A full disk must not stop the machine.
                let _ = copy.write_all(&raw);
                theirs.lock().all.push(Line { at: Instant::now(), text: clean(&raw) });
                theirs.grown.notify_all();
                raw.clear();
            }
            theirs.lock().ended = true;
            theirs.grown.notify_all();
        });
        Ok(Self { shared, path: path.to_owned() })
    }

    /// The file with all of it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many lines there are; what comes later has a higher index.
    pub fn len(&self) -> usize {
        self.shared.lock().all.len()
    }

    /// Whether the machine has not said anything yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All lines from index `from` on.
    pub fn lines(&self, from: usize) -> Vec<Line> {
        self.shared.lock().all.get(from..).unwrap_or_default().to_vec()
    }

    /// Waits for a line that contains `text`, at index `from` or later.
    ///
    /// Errors: the deadline passed or the machine lost its power; with the last line seen.
    pub fn wait_for(&self, text: &str, from: usize, deadline: Duration) -> Result<Line> {
        let end = Instant::now() + deadline;
        let mut next = from;
        let mut lines = self.shared.lock();
        loop {
            if let Some(found) = lines.all.iter().skip(next).find(|line| line.text.contains(text)) {
                return Ok(found.clone());
            }
            // Whoever waits for something else waits in vain.
            if let Some(panic) = lines.all.iter().skip(next).find(|line| line.text.contains("Kernel panic")) {
                bail!("no console line with {text:?}: {}; all are in {}", panic.text, self.path.display());
            }
            next = next.max(lines.all.len());
            let left = end.saturating_duration_since(Instant::now());
            if lines.ended || left.is_zero() {
                let last = lines.all.last().map(|line| line.text.clone()).unwrap_or_default();
                let why =
                    if lines.ended { "the machine lost its power".into() } else { format!("{deadline:?} passed") };
                bail!(
                    "no console line with {text:?}: {why}; the last line is {last:?}, all are in {}",
                    self.path.display()
                );
            }
            lines = self.shared.grown.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Firmware and boot loaders paint their lines: escape sequences (ECMA-48 CSI) and control characters go.
fn clean(raw: &[u8]) -> String {
    let text = String::from_utf8_lossy(raw);
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character == '\u{1b}' {
            // ESC [ parameters, ended by a character from @ to ~; other sequences are one character long.
            if characters.next() == Some('[') {
                characters.by_ref().find(|c| ('@'..='~').contains(c));
            }
        } else if !character.is_control() {
            out.push(character);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_without_the_paint_of_its_boot_loader() -> Result<()> {
        let path = std::env::temp_dir().join(format!("muster-console-{}", std::process::id()));
        let console = Console::follow(&b"\x1b[2J\x1b[1;1HiPXE 1.0\r\n[    0.1] Linux\r\n"[..], &path)?;
        assert_eq!(console.wait_for("iPXE", 0, Duration::from_secs(5))?.text, "iPXE 1.0");
        assert!(console.wait_for("iPXE", 1, Duration::from_secs(5)).is_err());
        std::fs::remove_file(path)?;
        Ok(())
    }
}
