//! Tells whoever waits that the network changed, by anybody's hand.
//!
//! What changed is not told: the reconcile loop looks at everything anyway, and its own changes are among them.

use std::io;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use tokio::sync::Notify;

use super::netlink::Watch;

/// One change seldom comes alone: those of this time are told as one. It is also how often a machine can be kept busy
/// whose network never rests.
const GATHER: Duration = Duration::from_millis(100);

/// Listens in the calling thread's network namespace from now on. The notice keeps until somebody waits for it, so nothing
/// that changes between two looks is missed. Ends by itself, at the next change, once nobody has the notice any more.
pub(super) fn changes() -> io::Result<Arc<Notify>> {
    let watch = Watch::everything()?;
    let changed = Arc::new(Notify::new());
    let told = Arc::downgrade(&changed);
    thread::Builder::new().name("network-watch".to_owned()).spawn(move || listen(&watch, &told))?;
    Ok(changed)
}

fn listen(watch: &Watch, told: &Weak<Notify>) {
    loop {
        // Interrupted or failed: nothing was heard, or it is said again.
        let _ = poll(&mut [PollFd::from_borrowed_fd(rustix::fd::AsFd::as_fd(watch), PollFlags::IN)], None);
        thread::sleep(GATHER);
        let heard = watch.heard();
        match told.upgrade() {
            None => return,
            Some(told) if heard => told.notify_one(),
            Some(_) => {}
        }
    }
}
