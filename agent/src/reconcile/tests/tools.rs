//! Plans whose storage steps run programs that have to be fetched first.

use muster_protocol::tools::Pinned;

use super::*;
use crate::outbox::{Came, Fetch};
use crate::plan::{TOOLS_NEED, Tools};

const TOOLS: &[u8] = b"programs";

fn pinned() -> Pinned {
    Pinned { digest: Digest::of(TOOLS), bytes: TOOLS.len() as u64 }
}

/// A machine that has to fetch them, and has this much room beside what they take themselves.
fn lab(room: u64) -> Lab {
    let lab = Lab::new();
    lab.answer_confirmations();
    lab.machine.set_tools(Tools::Away { pinned: pinned(), free_bytes: TOOLS.len() as u64 + room });
    lab
}

impl Lab {
    /// Waits until they are asked for, and lets this become of them.
    async fn fetched(&self, change: impl FnOnce(&mut Fetch)) {
        let mut outbox = self.outbox.subscribe();
        let wanted = |out: &Outbox| out.fetch.as_ref().is_some_and(|fetch| fetch.pinned == pinned());
        drop(outbox.wait_for(wanted).await.expect("the outbox lives"));
        self.outbox.send_modify(|out| change(out.fetch.as_mut().expect("it is waited for")));
    }

    fn sent(&self, bytes: &[u8]) -> impl FnOnce(&mut Fetch) {
        self.machine.keep_tools(0, bytes).expect("kept");
        let got = bytes.len() as u64;
        move |fetch| (fetch.got, fetch.came) = (got, Came::All)
    }

    async fn shown(&self, desired: &Desired) -> muster_protocol::to_agent::Plan {
        match self.reconciler.plan(desired.clone()).await {
            Answer::Planned(plan) => plan,
            other => panic!("{other:?}"),
        }
    }

    fn is_untouched(&self) -> bool {
        self.machine.observe().expect("observes").disks.iter().all(|disk| disk.contents == Contents::Blank)
    }
}

#[tokio::test(start_paused = true)]
async fn what_storage_needs_is_fetched_before_anything_is_written_and_once() {
    let lab = lab(TOOLS_NEED);
    let plan = lab.shown(&storage()).await;
    assert_eq!(plan.steps[0].action, "fetch the storage tools from the controller, 8 B in memory");
    assert_eq!(plan.steps[0].impact, muster_protocol::to_agent::Impact::None);
    assert_eq!(lab.apply(1, &storage()).await, Answer::Accepted);
    assert!(lab.is_untouched());
    lab.fetched(lab.sent(TOOLS)).await;
    assert_eq!(lab.settled().await, Progress::Confirmed { generation: Generation(1) });
    assert!(!lab.is_untouched());
    assert_eq!(lab.outbox.borrow().fetch, None);

    let mut other = storage();
    other.storage.as_mut().expect("storage").filesystems[0].label = "other".into();
    other.storage.as_mut().expect("storage").filesystems[0].existing = desired::Existing::Replace;
    let again = lab.shown(&other).await;
    assert!(!again.steps.iter().any(|step| step.action.contains("fetch")), "they are here: {again:?}");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_fetched_for_what_needs_no_tools() {
    let lab = lab(0);
    assert_eq!(lab.shown(&network(GATEWAY)).await.steps.iter().filter(|step| step.action.contains("fetch")).count(), 0);
    let mut bare = storage();
    bare.storage.as_mut().expect("storage").filesystems.clear();
    assert!(!lab.shown(&bare).await.steps.is_empty(), "tables are written by the agent itself");
    assert_eq!(lab.apply(1, &bare).await, Answer::Accepted);
    assert_eq!(lab.settled().await, Progress::Confirmed { generation: Generation(1) });
}

#[tokio::test(start_paused = true)]
async fn a_plan_is_the_same_one_whether_its_tools_are_here_or_not() {
    let lab = lab(TOOLS_NEED);
    let away = lab.shown(&storage()).await;
    lab.machine.set_tools(Tools::Here);
    let here = lab.shown(&storage()).await;
    assert_eq!((away.digest, &away.steps[1..]), (here.digest, &here.steps[..]), "a permit for one is for both");
}

#[tokio::test(start_paused = true)]
async fn other_tools_than_those_that_booted_are_refused_and_nothing_is_written() {
    let lab = lab(TOOLS_NEED);
    assert_eq!(lab.apply(1, &storage()).await, Answer::Accepted);
    lab.fetched(lab.sent(b"PROGRAMS")).await;
    let outcome = lab.settled().await;
    assert!(
        why(&outcome).contains("cannot use tools") && why(&outcome).ends_with("nothing was written"),
        "{outcome:?}"
    );
    assert!(lab.is_untouched());
    // With the right ones it goes on.
    assert_eq!(lab.apply(2, &storage()).await, Answer::Accepted);
    lab.fetched(lab.sent(TOOLS)).await;
    assert_eq!(lab.settled().await, Progress::Confirmed { generation: Generation(2) });
}

#[tokio::test(start_paused = true)]
async fn tools_that_the_controller_does_not_have_or_never_sends_are_given_up_and_nothing_is_written() {
    let lab = lab(TOOLS_NEED);
    assert_eq!(lab.apply(1, &storage()).await, Answer::Accepted);
    lab.fetched(|fetch| fetch.came = Came::Never("reboot it".into())).await;
    let outcome = lab.settled().await;
    assert!(
        why(&outcome).contains("from the controller, 8 B in memory: reboot it; nothing was written"),
        "{outcome:?}"
    );

    assert_eq!(lab.apply(2, &storage()).await, Answer::Accepted);
    lab.fetched(|fetch| (fetch.got, fetch.trouble) = (3, "no answer".into())).await;
    let outcome = lab.settled().await;
    assert!(why(&outcome).contains("nothing came for 180 s: no answer"), "{outcome:?}");
    assert!(lab.is_untouched());
}

#[tokio::test(start_paused = true)]
async fn what_is_fetched_for_a_plan_that_is_overtaken_is_not_waited_for() {
    let lab = lab(TOOLS_NEED);
    assert_eq!(lab.apply(1, &storage()).await, Answer::Accepted);
    lab.fetched(|fetch| fetch.got = 1).await;
    assert!(matches!(lab.apply(2, &network(GATEWAY)).await, Answer::Refused(Refusal::Busy(_))));
    let outcome = lab.settled().await;
    assert!(matches!(outcome, Progress::Reverted { reason: Reason::Interrupted, .. }), "{outcome:?}");
    assert!(lab.is_untouched());
}

#[tokio::test(start_paused = true)]
async fn a_machine_without_room_for_the_tools_is_told_so_beforehand() {
    let lab = lab(TOOLS_NEED - (1 << 20));
    let refused = lab.apply(1, &storage()).await;
    let Answer::Refused(Refusal::Impossible(why)) = refused else { panic!("{refused:?}") };
    assert!(why.starts_with("storage: the storage tools need 32.0 MiB of memory, and 31.0 MiB are free"), "{why}");
    assert_eq!(lab.outbox.borrow().fetch, None);
}
