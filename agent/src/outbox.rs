//! What the agent has to tell its controller, and which of it a session tells next.
//!
//! Written by `reconcile` (progress, work, proof), the inventory loop and `dial`; told by whichever session is up.
//! It holds states, not messages: what changed twice is told once, and what was never acknowledged is told again.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use muster_protocol::drift::Drift;
use muster_protocol::hello::{Progress, Times};
use muster_protocol::inventory::Inventory;
use muster_protocol::inventory::health::Health;
use muster_protocol::to_controller::{Answer, Call, KeyUse, Refusal, Work};
use muster_protocol::tools::Pinned;
use muster_protocol::{Digest, Generation, OperationId};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::plan::network::NewWay;

/// How many ended operations are remembered, so that a repeated request is answered with the result it had.
const REMEMBERED_WORK: usize = 16;

/// Everything there is to tell.
#[derive(Debug, Clone, Default)]
pub struct Outbox {
    /// How far the desired state is.
    pub progress: Progress,
    /// Operations, oldest first.
    work: Vec<(OperationId, Work, Told)>,
    /// What became of the network by other hands than ours.
    pub drift: Drift,
    /// What the machine is made of; `None` before the first look. Its digest, once it is to be told: before the controller
    /// was reached it lacks by what.
    pub inventory: Option<(Arc<Inventory>, Option<Digest>)>,
    /// How the drives say that they are.
    pub health: Arc<Health>,
    /// What the controller must be asked over a connection of its own.
    pub proof: Option<Proof>,
    /// What the session is to fetch from the controller.
    pub fetch: Option<Fetch>,
    /// The key that the session is to ask the controller for.
    pub key: Option<Wish>,
    /// How often the network became another one: what was begun before may be waiting for an answer that cannot come.
    pub changes: u64,
    /// The last of them after which a session was heard of.
    pub heard: u64,
    /// At which address of the controller the session is to go on; `None` once it does, or cannot.
    pub moves_to: Option<IpAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Not,
    Yes,
}

/// A way to the controller that is to be proven, by an exchange over a connection that is begun for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// Which generation is in force, or is to be.
    pub generation: Generation,
    /// What is asked.
    pub asked: Asked,
    /// How long the controller must go on to answer.
    pub soak: Duration,
    /// When the answer is of no use any more; `None` where it always is.
    pub deadline: Option<Instant>,
    /// What came of it.
    pub answer: Proven,
    /// Why the last attempt to reach the controller failed, empty before the first.
    pub trouble: String,
}

/// A file on its way here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    /// Which one; without a length until the controller has said it, where nothing else says it.
    pub pinned: Pinned,
    /// Where it goes; `None` for the tools, which the machine keeps.
    pub pipe: Option<Pipe>,
    /// How often whoever takes it was waited for: it is slow, and not dead.
    pub waited: u32,
    /// Bytes that are here, from its beginning.
    pub got: u64,
    /// Whether it is over.
    pub came: Came,
    /// Why the last attempt did not go on, empty while one does.
    pub trouble: String,
}

/// Takes bytes with the place of the first one, and is waited for where it cannot take more.
#[derive(Debug, Clone)]
pub struct Pipe(pub mpsc::Sender<(u64, Vec<u8>)>);

impl PartialEq for Pipe {
    fn eq(&self, other: &Self) -> bool {
        self.0.same_channel(&other.0)
    }
}

impl Eq for Pipe {}

/// What came of fetching.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Came {
    /// Not all yet.
    Waiting,
    /// All of it.
    All,
    /// It cannot be had, with the remedy.
    Never(String),
    /// What it is for is not desired any more.
    Overtaken,
}

impl Fetch {
    /// Nothing came yet.
    pub fn begin(pinned: Pinned) -> Self {
        Self { pinned, pipe: None, waited: 0, got: 0, came: Came::Waiting, trouble: String::new() }
    }
}

/// The key of an encrypted volume, asked for. The key itself goes to the machine and is never here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// What the volume is called.
    pub name: String,
    /// UUID in its header.
    pub uuid: [u8; 16],
    /// What for.
    pub use_for: KeyUse,
    /// Whether the machine has it.
    pub came: Came,
    /// Why the last attempt did not go on, empty before the first.
    pub trouble: String,
}

/// What a proof asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// Whether the controller answers over a way that stands beside the present one, and goes on to.
    Beside(NewWay),
    /// Whether it answers over the network as it is.
    Reach,
    /// Whether it answers over the network as it is, and takes note that it does.
    Confirm {
        /// Digest of the desired state that is in force.
        desired: Digest,
        /// How long it took up to the proof.
        times: Times,
        /// When the proof began.
        begun: Instant,
    },
}

impl Proof {
    /// What the controller is to take note of now that it has answered for long enough, with how long that took; `None`
    /// where it is only to answer.
    pub fn confirmation(&self) -> Option<Call> {
        let Asked::Confirm { desired, times, begun } = self.asked else { return None };
        let times = Times { prove_ms: milliseconds(begun), ..times };
        Some(Call::Confirm { generation: self.generation, desired, times })
    }
}

/// How long ago that was, as it is told.
pub fn milliseconds(since: Instant) -> u32 {
    u32::try_from(since.elapsed().as_millis()).unwrap_or(u32::MAX)
}

/// What came of asking for a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proven {
    /// Nothing yet.
    Waiting,
    /// The controller heard.
    Yes,
    /// The controller wants another generation by now: it heard and took no note of it, or has offered that one.
    Overtaken,
}

/// What one session has told already. Begins with what its hello said.
#[derive(Debug, Clone)]
pub struct Heard {
    /// [`Outbox::changes`] when its hello began.
    pub changes: u64,
    /// From the hello.
    pub progress: Progress,
    /// Digest of the inventory that the controller has; `None` where it wants it.
    pub inventory: Option<Digest>,
    /// Nothing at first: a hello says nothing of it, so each session tells once what there was in this boot.
    pub drift: Drift,
    /// The same.
    pub health: Arc<Health>,
}

impl Outbox {
    /// What is being fetched or proven is not desired any more. A way home is asked for all the same.
    pub fn overtake(&mut self) {
        let is_waiting = |proof: &&mut Proof| proof.answer == Proven::Waiting && proof.asked != Asked::Reach;
        if let Some(proof) = self.proof.as_mut().filter(is_waiting) {
            proof.answer = Proven::Overtaken;
        }
        if let Some(fetch) = &mut self.fetch {
            fetch.came = Came::Overtaken;
        }
        if let Some(wish) = &mut self.key {
            wish.came = Came::Overtaken;
        }
    }

    /// Where this operation stands, for answering a repeated request.
    pub fn work(&self, operation: &OperationId) -> Option<&Work> {
        self.work.iter().find(|(id, ..)| id == operation).map(|(_, work, _)| work)
    }

    /// Notes where an operation stands; it will be told, also if it was told before.
    pub fn set_work(&mut self, operation: OperationId, state: Work) {
        match self.work.iter_mut().find(|(id, ..)| *id == operation) {
            Some(entry) => *entry = (operation, state, Told::Not),
            None => self.work.push((operation, state, Told::Not)),
        }
        if self.work.len() > REMEMBERED_WORK {
            let forget = self.work.iter().position(|(_, work, told)| is_ended(work) && *told == Told::Yes);
            self.work.remove(forget.unwrap_or(0));
        }
    }

    /// Tells an operation again although it was told: the controller asked.
    pub fn repeat_work(&mut self, operation: &OperationId) {
        if let Some(entry) = self.work.iter_mut().find(|(id, ..)| id == operation) {
            entry.2 = Told::Not;
        }
    }

    /// What a session says next; `None` where the controller knows everything.
    ///
    /// What somebody waits for comes first: the inventory is the largest, and the one of which a controller may want no more
    /// for a while.
    pub fn next(&self, heard: &Heard) -> Option<Call> {
        if heard.progress != self.progress {
            return Some(Call::Progress(self.progress.clone()));
        }
        if let Some((operation, state, _)) = self.work.iter().find(|(.., told)| *told == Told::Not) {
            return Some(Call::Work { operation: *operation, state: state.clone() });
        }
        if heard.drift != self.drift {
            return Some(Call::Drift(self.drift.clone()));
        }
        let untold = self.inventory.as_ref().filter(|(_, digest)| digest.is_some_and(|d| heard.inventory != Some(d)));
        if let Some((inventory, _)) = untold {
            return Some(Call::Inventory(Box::new(Inventory::clone(inventory))));
        }
        // After the inventory, which says what these drives are.
        (heard.health != self.health).then(|| Call::Health(Health::clone(&self.health)))
    }

    /// The digest of the inventory that is to be told.
    pub fn inventory_digest(&self) -> Option<Digest> {
        self.inventory.as_ref().and_then(|(_, digest)| *digest)
    }

    /// The proof that waits for its answer.
    pub fn waiting_proof(&self) -> Option<&Proof> {
        self.proof.as_ref().filter(|proof| proof.answer == Proven::Waiting)
    }

    /// Notes that `call` was answered. What changed since it was sent is told again.
    /// A refusal counts as heard, or it would be repeated for ever; only "later" does not.
    pub fn answered(&mut self, heard: &mut Heard, call: Call, answer: &Answer) {
        if matches!(answer, Answer::Refused(Refusal::Busy)) {
            return;
        }
        match call {
            Call::Inventory(inventory) => heard.inventory = Some(inventory.digest()),
            Call::Progress(progress) => heard.progress = progress,
            Call::Drift(drift) => heard.drift = drift,
            Call::Health(health) => heard.health = Arc::new(health),
            Call::Work { operation, state } => {
                let told = |entry: &&mut (OperationId, Work, Told)| entry.0 == operation && entry.1 == state;
                if let Some(entry) = self.work.iter_mut().find(told) {
                    entry.2 = Told::Yes;
                }
            }
            Call::Hello(_)
            | Call::Renew { .. }
            | Call::Confirm { .. }
            | Call::Prove { .. }
            | Call::Fetch { .. }
            | Call::Key { .. } => {}
        }
    }

    /// Whether what is told next is one of many: worth thinning out.
    pub fn is_passing(call: &Call) -> bool {
        match call {
            Call::Progress(progress) => !progress.is_settled(),
            Call::Work { state, .. } => !is_ended(state),
            Call::Hello(_)
            | Call::Inventory(_)
            | Call::Confirm { .. }
            | Call::Prove { .. }
            | Call::Renew { .. }
            | Call::Drift(_)
            | Call::Health(_)
            | Call::Fetch { .. }
            | Call::Key { .. } => false,
        }
    }

    /// Where operations stand, for the console.
    pub fn works(&self) -> impl Iterator<Item = &Work> {
        self.work.iter().map(|(_, work, _)| work)
    }
}

fn is_ended(work: &Work) -> bool {
    !matches!(work, Work::Running { .. })
}

#[cfg(test)]
mod tests {
    use muster_protocol::inventory::health::{Drive, Readings, Said};

    use super::*;

    fn heard(outbox: &Outbox) -> Heard {
        let inventory = outbox.inventory_digest();
        let progress = outbox.progress.clone();
        Heard { changes: 0, progress, inventory, drift: Drift::default(), health: Arc::default() }
    }

    #[test]
    fn what_changed_while_it_was_told_is_told_again() {
        let mut outbox = Outbox::default();
        let mut heard = heard(&outbox);
        let applying = |percent| Progress::Applying { generation: Generation(1), percent, step: String::new() };
        outbox.progress = applying(10);
        let call = outbox.next(&heard).expect("something to say");
        outbox.progress = applying(20);
        outbox.answered(&mut heard, call, &Answer::Accepted);
        assert_eq!(outbox.next(&heard), Some(Call::Progress(applying(20))));
    }

    #[test]
    fn a_result_is_told_until_it_is_acknowledged_and_again_when_asked_for() {
        let mut outbox = Outbox::default();
        let mut heard = heard(&outbox);
        let operation = OperationId::from_bytes([1; 16]);
        outbox.set_work(operation, Work::Failed { why: "no such disk".into() });
        let call = outbox.next(&heard).expect("something to say");
        assert_eq!(outbox.next(&heard), Some(call.clone()), "another session tells it as well");
        outbox.answered(&mut heard, call.clone(), &Answer::Accepted);
        assert_eq!(outbox.next(&heard), None);
        outbox.repeat_work(&operation);
        assert_eq!(outbox.next(&heard), Some(call));
    }

    #[test]
    fn drift_is_told_in_every_session_of_a_boot_that_had_any() {
        let mut outbox = Outbox::default();
        let mut first = heard(&outbox);
        assert_eq!(outbox.next(&first), None);
        outbox.drift.number = 1;
        let call = outbox.next(&first).expect("something to say");
        outbox.answered(&mut first, call.clone(), &Answer::Accepted);
        assert_eq!(outbox.next(&first), None);
        assert_eq!(outbox.next(&heard(&outbox)), Some(call));
    }

    #[test]
    fn how_drives_are_is_told_in_every_session_and_when_it_is_another() {
        let drive = |said| Drive { disk: "serial:A".parse().expect("an id"), name: "sda".into(), said };
        let mut outbox = Outbox { health: Arc::new(Health { drives: vec![drive(Said::Asleep)] }), ..Outbox::default() };
        let mut first = heard(&outbox);
        let call = outbox.next(&first).expect("something to say");
        outbox.answered(&mut first, call.clone(), &Answer::Accepted);
        assert_eq!((outbox.next(&first), outbox.next(&heard(&outbox))), (None, Some(call)));
        outbox.health = Arc::new(Health { drives: vec![drive(Said::Told(Readings::default()))] });
        assert!(matches!(outbox.next(&first), Some(Call::Health(_))));
    }

    #[test]
    fn the_inventory_is_told_where_the_controller_has_another() {
        let inventory = Inventory::default();
        let digest = inventory.digest();
        let mut outbox = Outbox { inventory: Some((Arc::new(inventory), Some(digest))), ..Outbox::default() };
        let mut known = heard(&outbox);
        assert_eq!(outbox.next(&known), None);
        known.inventory = None;
        assert!(matches!(outbox.next(&known), Some(Call::Inventory(_))));
        outbox.inventory = outbox.inventory.map(|(inventory, _)| (inventory, None));
        assert_eq!(outbox.next(&known), None, "it lacks the way to the controller");
    }

    #[test]
    fn nothing_that_somebody_waits_for_comes_after_the_inventory() {
        let inventory = Inventory::default();
        let digest = inventory.digest();
        let mut outbox = Outbox { inventory: Some((Arc::new(inventory), Some(digest))), ..Outbox::default() };
        let mut heard = Heard { inventory: None, ..heard(&outbox) };
        let operation = OperationId::from_bytes([1; 16]);
        outbox.progress = Progress::Confirmed { generation: Generation(1) };
        outbox.drift.number = 1;
        outbox.set_work(operation, Work::Done { receipts: Vec::new() });
        let mut told = Vec::new();
        while let Some(call) = outbox.next(&heard) {
            outbox.answered(&mut heard, call.clone(), &Answer::Accepted);
            told.push(call);
        }
        assert!(
            matches!(told[..], [Call::Progress(_), Call::Work { .. }, Call::Drift(_), Call::Inventory(_)]),
            "{told:?}"
        );
    }

    #[test]
    fn results_do_not_pile_up() {
        let mut outbox = Outbox::default();
        for n in 0..100 {
            outbox.set_work(OperationId::from_bytes([n; 16]), Work::Done { receipts: Vec::new() });
        }
        assert_eq!(outbox.works().count(), REMEMBERED_WORK);
        assert!(outbox.work(&OperationId::from_bytes([99; 16])).is_some());
    }
}
