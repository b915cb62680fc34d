//! Ctrl-C while something is followed: what was begun goes on without us, and whoever stops looking is told so.
//! And while something is tried that has to be undone first: then it is only noted.

use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{io, thread};

use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};

use crate::words::visible;

/// As shells have it: 128 and the number of SIGINT.
pub const EXIT_CODE: u8 = 130;

/// What goes on, and how to see more of it; empty while nothing is followed.
static GOES_ON: Mutex<String> = Mutex::new(String::new());

/// Something is followed for as long as this is there.
#[must_use = "nothing is followed any more when this is dropped"]
pub struct Followed(());

/// Says this from now on when the command is interrupted, and ends it with code 130.
pub fn says(goes_on: String) -> Followed {
    static LISTENS: std::sync::Once = std::sync::Once::new();
    *said() = goes_on;
    // Where nobody can listen, the command ends as every other one does.
    LISTENS.call_once(|| listen().unwrap_or_default());
    Followed(())
}

impl Drop for Followed {
    fn drop(&mut self) {
        said().clear();
    }
}

fn said() -> MutexGuard<'static, String> {
    GOES_ON.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Becomes true when the command is interrupted or told to end (SIGINT, SIGTERM), once and for ever. From the return on
/// neither of them ends it.
pub fn noted() -> &'static AtomicBool {
    static NOTED: AtomicBool = AtomicBool::new(false);
    // Where nobody can listen, the command ends as every other one does.
    let _ = note(&NOTED);
    &NOTED
}

fn note(noted: &'static AtomicBool) -> io::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
    let (mut interrupts, mut ends) = {
        let _entered = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    let wait = async move {
        // Both arms are cancel-safe.
        tokio::select! {
            _ = interrupts.recv() => {}
            _ = ends.recv() => {}
        }
    };
    thread::Builder::new().name("interrupts".into()).spawn(move || {
        runtime.block_on(wait);
        noted.store(true, Ordering::Relaxed);
        eprintln!("\nmuster: interrupted; what was taken is given back first");
        // The runtime stays, since with it the signals would go unheard, and be lost on nobody.
        runtime.block_on(std::future::pending::<()>());
    })?;
    Ok(())
}

/// From the return on nothing is missed.
fn listen() -> io::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
    let mut interrupts = {
        let _entered = runtime.enter();
        signal(SignalKind::interrupt())?
    };
    thread::Builder::new().name("interrupts".into()).spawn(move || {
        if runtime.block_on(interrupts.recv()).is_some() {
            let goes_on = said();
            if !goes_on.is_empty() {
                eprintln!("\nmuster: {}", visible(&goes_on));
            }
            process::exit(EXIT_CODE.into());
        }
    })?;
    Ok(())
}
