//! Before a step that makes or opens an encrypted volume whose key is the controller's: to have that key.
//!
//! Whichever session is up asks (`contact::talk`) and hands the key to the machine; here is waited, and given up.

use std::time::Duration;

use muster_protocol::desired::Key;
use muster_protocol::hello::Reason;
use muster_protocol::to_controller::KeyUse;
use tokio::time::timeout;

use super::Reconciler;
use super::apply::{Begun, overtaken};
use crate::machine::why_not;
use crate::outbox::{Came, Outbox, Wish};
use crate::plan::storage::{Header, KeyFor, Step};
use crate::random;

/// Without an answer for so long, it is given up: whoever waits is to know, and may ask again.
const SILENCE: Duration = Duration::from_secs(180);

impl Reconciler {
    /// Sees to it that the machine has the key that a step needs. Nothing but making a volume makes a key: one that is to be
    /// opened is looked at first, and the key is asked for by what its header says.
    pub(super) async fn have_key(&self, step: &Step, begun: &Begun) -> Result<(), (Reason, String)> {
        let Some((name, Key::Controller, key_for)) = step.key() else { return Ok(()) };
        let (uuid, use_for) = match key_for {
            KeyFor::Making(uuid) => (uuid.unwrap_or_else(random::uuid), KeyUse::Make),
            // It is opened with the key that it was made with.
            KeyFor::Opening(Header::Made) => return Ok(()),
            KeyFor::Opening(Header::Seen(_) | Header::Unseen { .. }) => {
                let step = step.clone();
                let found = self.blocking(move |machine| machine.header(&step)).await;
                let failed = |error| (Reason::StepFailed, why_not(begun.step(), &error));
                (found.map_err(failed)?, KeyUse::Open)
            }
        };
        self.obtain_key(name, uuid, use_for, begun).await
    }

    /// Errors: what is told of it, and in one word.
    async fn obtain_key(
        &self,
        name: &str,
        uuid: [u8; 16],
        use_for: KeyUse,
        begun: &Begun,
    ) -> Result<(), (Reason, String)> {
        self.set_progress(begun.at(0));
        let wish = Wish { name: name.to_owned(), uuid, use_for, came: Came::Waiting, trouble: String::new() };
        self.outbox.send_modify(|out| out.key = Some(wish));
        if self.state().is_overtaken {
            self.outbox.send_modify(Outbox::overtake);
        }
        let mut outbox = self.outbox.subscribe();
        let is_over = |out: &Outbox| out.key.as_ref().is_none_or(|wish| wish.came != Came::Waiting);
        let waited = timeout(SILENCE, outbox.wait_for(is_over)).await.map(drop);
        let mut wish = None;
        self.outbox.send_modify(|out| wish = out.key.take());
        let failed = |why: String| Err((Reason::StepFailed, format!("{}: its key: {why}", begun.step())));
        match wish.map(|wish| (wish.came, wish.trouble)) {
            Some((Came::All, _)) => Ok(()),
            Some((Came::Never(why), _)) => failed(why),
            Some((Came::Overtaken, _)) => Err(overtaken()),
            Some((Came::Waiting, trouble)) if waited.is_err() => {
                let trouble = if trouble.is_empty() { trouble } else { format!(": {trouble}") };
                failed(format!("the controller did not answer for {} s{trouble}", SILENCE.as_secs()))
            }
            Some((Came::Waiting, _)) | None => failed("nobody asks for it any more".into()),
        }
    }
}
