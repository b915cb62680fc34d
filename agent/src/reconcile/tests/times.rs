//! How long a change took and how far it is, as it is recorded, against the clock. Time is paused: it goes on by a word of the
//! test while a step hangs.

use super::*;
use muster_protocol::hello::Times;
use muster_protocol::to_controller::Call;
use tokio::time::{Instant, advance, sleep};

/// A step of each half of the switch to [`network`], and what its verification looks for.
const MAKES: &str = "add address 10.0.5.7/24";
const SWITCHES: &str = "remove route 0.0.0.0/0 via 10.77.0.1";

fn hang(steps: &[&str]) -> Faults {
    Faults { hang: steps.iter().map(|step| (*step).to_owned()).collect(), ..Faults::default() }
}

fn refuse(step: &str) -> Faults {
    Faults { refuse: vec![step.to_owned()], ..Faults::default() }
}

impl Lab {
    /// The step that hangs takes so many seconds, and goes on with these faults.
    async fn takes(&self, step: &str, seconds: u64, then: Faults) {
        let at_it = |out: &Outbox| matches!(&out.progress, Progress::Applying { step: at, .. } if at.contains(step));
        self.outbox.subscribe().wait_for(at_it).await.expect("the outbox lives");
        advance(Duration::from_secs(seconds)).await;
        self.machine.set_faults(then);
    }

    /// The controller answers the next proof after so many seconds. Answers what it is asked to take note of then.
    async fn answers_after(&self, seconds: u64) -> Option<Call> {
        let mut outbox = self.outbox.subscribe();
        outbox.wait_for(|out| out.waiting_proof().is_some()).await.expect("the outbox lives");
        sleep(Duration::from_secs(seconds)).await;
        let mut asked = None;
        self.outbox.send_modify(|out| {
            let proof = out.proof.as_mut().expect("it is asked for");
            (asked, proof.answer) = (proof.confirmation(), Proven::Yes);
        });
        asked
    }
}

/// By phase, in seconds: make, prove beside, switch, verify, prove, revert. The clock says what they are together.
fn phases(times: Times, began: Instant) -> [u32; 6] {
    let Times { make_ms, prove_beside_ms, switch_ms, verify_ms, prove_ms, revert_ms } = times;
    let all = [make_ms, prove_beside_ms, switch_ms, verify_ms, prove_ms, revert_ms].map(|ms| ms / 1000);
    assert_eq!(u64::from(all.iter().sum::<u32>()), began.elapsed().as_secs(), "{times:?}");
    all
}

fn undone(outcome: Progress) -> Times {
    match outcome {
        Progress::Reverted { times, .. } => times,
        _ => panic!("it was not undone: {outcome:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_that_is_confirmed_took_as_long_as_all_of_its_phases_the_proof_that_confirms_it_included() {
    let lab = Lab::new();
    lab.machine.set_faults(hang(&[MAKES, SWITCHES]));
    let began = Instant::now();
    assert_eq!(lab.apply(1, &network(GATEWAY)).await, Answer::Accepted);
    lab.takes(MAKES, 7, hang(&[SWITCHES])).await;
    assert_eq!(lab.answers_after(3).await, None, "it is only to answer");
    lab.takes(SWITCHES, 5, Faults::default()).await;
    let confirm = lab.answers_after(2).await;
    assert_eq!(lab.settled().await, Progress::Confirmed { generation: Generation(1) });
    let Some(Call::Confirm { times, .. }) = confirm else { panic!("{confirm:?}") };
    assert_eq!(phases(times, began), [7, 3, 5, 0, 2, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_change_that_fails_took_as_long_as_what_was_begun_of_it() {
    for (fails, expected) in
        [("make", [7, 0, 0, 0, 0, 0]), ("switch", [0, 3, 5, 0, 0, 0]), ("prove beside", [0, 20, 0, 0, 0, 0])]
    {
        let lab = Lab::new();
        let began = Instant::now();
        let (step, seconds) = if fails == "make" { (MAKES, 7) } else { (SWITCHES, 5) };
        lab.machine.set_faults(hang(&[step]));
        assert_eq!(lab.apply(1, &network(GATEWAY)).await, Answer::Accepted);
        if fails == "switch" {
            lab.answers_after(3).await;
        }
        if fails != "prove beside" {
            lab.takes(step, seconds, refuse(step)).await;
        }
        assert_eq!(phases(undone(lab.settled().await), began), expected, "{fails}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_that_is_switched_to_and_given_up_took_as_long_as_reading_back_the_proof_and_the_undoing() {
    let lab = Lab::new();
    let began = Instant::now();
    lab.apply(1, &network(GATEWAY)).await;
    lab.answers_after(3).await;
    // Nobody answers the last question.
    assert_eq!(phases(undone(lab.settled().await), began), [0, 3, 0, 0, 20, 0]);

    let lab = Lab::new();
    let began = Instant::now();
    lab.machine.set_faults(Faults { ignore: vec![SWITCHES.to_owned()], ..Faults::default() });
    lab.apply(1, &network(GATEWAY)).await;
    lab.answers_after(3).await;
    let undoes = |out: &Outbox| matches!(&out.progress, Progress::Applying { step, .. } if step.contains("undoing"));
    lab.machine.set_faults(Faults { ignore: vec![SWITCHES.to_owned()], ..refuse("remove address 10.0.5.7/24") });
    lab.outbox.subscribe().wait_for(undoes).await.expect("the outbox lives");
    sleep(Duration::from_secs(4)).await;
    lab.machine.set_faults(Faults::default());
    assert_eq!(phases(undone(lab.settled().await), began), [0, 3, 0, 10, 0, 4]);
}

#[tokio::test(start_paused = true)]
async fn storage_that_fails_took_its_time_too() {
    let lab = Lab::new();
    lab.machine.set_faults(hang(&["make ext4"]));
    let began = Instant::now();
    lab.apply(1, &storage()).await;
    lab.takes("make ext4", 7, refuse("make ext4")).await;
    assert_eq!(phases(undone(lab.settled().await), began), [7, 0, 0, 0, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn how_far_a_change_is_never_runs_backwards() {
    let lab = Lab::new();
    let (mut outbox, told) = (lab.outbox.subscribe(), Arc::new(Mutex::new(Vec::new())));
    let listening = tokio::spawn({
        let told = told.clone();
        async move {
            while outbox.changed().await.is_ok() {
                if let Progress::Applying { percent, step, .. } = &outbox.borrow_and_update().progress {
                    told.lock().expect("no test panics with it").push((*percent, step.clone()));
                }
            }
        }
    });
    lab.answer_confirmations();
    lab.apply(1, &network(GATEWAY)).await;
    lab.settled().await;
    listening.abort();
    let told = told.lock().expect("no test panics with it");
    assert!(told.iter().any(|(_, step)| step.contains("beside the present way")), "{told:?}");
    assert!(told.is_sorted_by_key(|(percent, _)| *percent), "{told:?}");
}
