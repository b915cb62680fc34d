//! Which CAs this agent believes: the one that its boot script names, until a controller of it names others.
//!
//! Told in a session, which is how a fleet goes from one CA to the next without booting; kept through [`Keep`] like the
//! certificate, because a restarted agent reads the same boot script again. `tls` judges by it, `talk` changes it.

use std::io;

use muster_protocol::Digest;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::keep::Keep;

/// The name under which it is kept.
const NAME: &str = "trust";

/// The CAs that are believed.
#[derive(Debug)]
pub struct Trust {
    pinned: Digest,
    keep: Keep,
    told: watch::Sender<Vec<Digest>>,
}

/// What is kept. A new form is a new variant.
#[derive(Serialize, Deserialize)]
enum Kept {
    V1 { pinned: Digest, cas: Vec<Digest> },
}

impl Trust {
    /// `pinned` is the CA that the boot script names. What was told an agent with another one does not count.
    pub fn load(keep: Keep, pinned: Digest) -> Self {
        let kept = keep.read(NAME).and_then(|bytes| postcard::from_bytes(&bytes).ok());
        let told = match kept {
            Some(Kept::V1 { pinned: before, cas }) if before == pinned => cas,
            _ => Vec::new(),
        };
        Self { pinned, keep, told: watch::Sender::new(told) }
    }

    /// SHA-256 of the CAs' certificates; never empty.
    pub fn cas(&self) -> Vec<Digest> {
        let told = self.told.borrow();
        if told.is_empty() { vec![self.pinned] } else { told.clone() }
    }

    /// Keeps and follows what a controller says; `cas` is not empty.
    ///
    /// Errors: it cannot be kept, and nothing has changed.
    pub fn follow(&self, cas: Vec<Digest>) -> io::Result<()> {
        let kept = Kept::V1 { pinned: self.pinned, cas: cas.clone() };
        self.keep.write(NAME, &postcard::to_stdvec(&kept).map_err(io::Error::other)?)?;
        self.told.send_if_modified(|told| {
            let is_news = *told != cas;
            *told = cas;
            is_news
        });
        Ok(())
    }

    /// What was told, its first one being the CA that signs now; empty where nothing was.
    pub fn told(&self) -> watch::Receiver<Vec<Digest>> {
        self.told.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_survives_a_restart_and_another_boot_scripts_word_does_not_mix_with_it() {
        let [old, new, other] = [b"old", b"new", b"oth"].map(|name| Digest::of(name));
        let keep = Keep::memory();
        let trust = Trust::load(keep.clone(), old);
        assert_eq!(trust.cas(), [old]);
        trust.follow(vec![new, old]).expect("kept");
        assert_eq!(trust.cas(), [new, old]);
        let again = Trust::load(keep.clone(), old);
        assert_eq!(again.cas(), [new, old]);
        again.follow(vec![new]).expect("kept");
        assert_eq!(
            Trust::load(keep.clone(), old).cas(),
            [new],
            "the one that the script names is not believed any more"
        );
        assert_eq!(Trust::load(keep, other).cas(), [other]);
    }

    #[test]
    fn what_cannot_be_kept_is_not_followed() {
        let old = Digest::of(b"old");
        let trust = Trust::load(Keep::Folder("/dev/null/nowhere".into()), old);
        trust.follow(vec![Digest::of(b"new")]).expect_err("a folder in a file");
        assert_eq!(trust.cas(), [old]);
    }
}
