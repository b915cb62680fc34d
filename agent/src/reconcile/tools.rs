//! The first step of a plan whose storage steps run programs that are not here: to have them fetched, and to use them.
//!
//! Whichever session is up fetches (`contact::talk`); here is waited, and given up. Nothing of the plan was done before, so
//! nothing is undone.

use std::time::Duration;

use muster_protocol::hello::{Progress, Reason};
use muster_protocol::tools::Pinned;
use tokio::time::timeout;

use super::Reconciler;
use super::apply::{Begun, overtaken};
use crate::machine::chain;
use crate::outbox::{Came, Fetch, Outbox};

/// Without a single byte for so long, it is given up: whoever waits is to know, and may ask again.
const SILENCE: Duration = Duration::from_secs(180);

impl Reconciler {
    /// Errors: what is told of it, and in one word.
    pub(super) async fn fetch_tools(&self, pinned: Pinned, begun: Begun) -> Result<(), (Reason, String)> {
        self.set_progress(begun.at(0));
        self.outbox.send_modify(|out| out.fetch = Some(Fetch::begin(pinned)));
        if self.state().is_overtaken {
            self.outbox.send_modify(Outbox::overtake);
        }
        let came = self.await_pieces(&begun).await;
        self.outbox.send_modify(|out| out.fetch = None);
        let failed = |why: String| (Reason::StepFailed, format!("{}: {why}; nothing was written", begun.step()));
        match came {
            Came::All => {
                self.blocking(move |machine| machine.open_tools(&pinned)).await.map_err(|error| failed(chain(&error)))
            }
            Came::Never(why) => Err(failed(why)),
            Came::Waiting => Err(failed(format!("nothing came for {} s", SILENCE.as_secs()))),
            Came::Overtaken => Err(overtaken()),
        }
    }

    /// What came of it in the end.
    pub(super) async fn await_pieces(&self, begun: &Begun) -> Came {
        let mut outbox = self.outbox.subscribe();
        let (mut got, mut waited) = (0, 0);
        loop {
            let is_news = |fetch: &Fetch| (fetch.got, fetch.waited) != (got, waited) || fetch.came != Came::Waiting;
            let news = outbox.wait_for(|out| out.fetch.as_ref().is_none_or(is_news));
            let news = timeout(SILENCE, news).await.map(|out| out.ok().and_then(|out| out.fetch.clone()));
            match news {
                Ok(Some(fetch)) if fetch.came == Came::Waiting => {
                    (got, waited) = (fetch.got, fetch.waited);
                    self.tell_how_far(begun.at((got * 100 / fetch.pinned.bytes.max(1)) as u8));
                }
                Ok(fetch) => return fetch.map_or(Came::Waiting, |fetch| fetch.came),
                Err(_) => {
                    let trouble = self.outbox.borrow().fetch.as_ref().map(|fetch| fetch.trouble.clone());
                    let trouble = trouble.filter(|text| !text.is_empty());
                    let waited = |why| Came::Never(format!("nothing came for {} s: {why}", SILENCE.as_secs()));
                    return trouble.map_or(Came::Waiting, waited);
                }
            }
        }
    }

    fn tell_how_far(&self, now: Progress) {
        self.outbox.send_if_modified(|out| {
            let differs = out.progress != now;
            out.progress = now;
            differs
        });
    }
}
