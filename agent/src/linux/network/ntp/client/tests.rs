//! Rounds with made-up answers, in jumps of time.

use proptest::prelude::*;

use super::*;

const SECOND: i64 = 1_000_000_000;
/// 2026-11-22 00:00:00 UTC.
const NOW: i64 = 1_795_305_600 * SECOND;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn sample(offset_ms: i64, distance_ms: i64) -> Answer {
    Answer::Sample(Sample { offset_ns: offset_ms * 1_000_000, distance_ns: distance_ms * 1_000_000 })
}

/// A client, and the clock it keeps.
struct Scene {
    now: Instant,
    reading: Reading,
    client: Client,
}

impl Scene {
    /// A controller has just said what the clock says.
    fn new() -> Self {
        let now = Instant::now();
        let reading = Reading { unix_ns: NOW, raw: seconds(100) };
        let mut client = Client::new(now);
        assert_eq!(client.due(), None, "nobody has said what time it is");
        assert!(!client.hear(NOW, reading, now), "nobody keeps the clock yet");
        assert_eq!(client.due(), Some(now));
        Self { now, reading, client }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.reading.raw += time;
        self.reading.unix_ns += time.as_nanos() as i64;
    }

    /// Answers of servers a, b, c, …; then passes the time until the next round. Returns it with the verdict.
    fn round(&mut self, answers: &[Answer]) -> (Verdict, u64) {
        let named: Vec<_> = ('a'..).map(String::from).zip(answers.iter().copied()).collect();
        let verdict = self.client.judge(&named, self.reading, self.now);
        let pause = self.client.due().expect("a next round") - self.now;
        self.pass(pause);
        (verdict, pause.as_secs())
    }

    fn asks(&self, servers: &[&str]) -> usize {
        let servers: Vec<String> = servers.iter().map(|server| (*server).to_owned()).collect();
        self.client.willing(&servers, self.now).len()
    }
}

fn slew(offset_ms: i64, until_next: u64) -> Verdict {
    Verdict::Slew { offset_ns: offset_ms * 1_000_000, until_next: seconds(until_next) }
}

#[test]
fn a_clock_that_is_kept_is_looked_at_less_and_less_often() {
    let mut scene = Scene::new();
    let expected = [64, 128, 256, 512, 1024, 1024];
    let rounds: Vec<_> = expected.iter().map(|_| scene.round(&[sample(20, 30)])).collect();
    assert_eq!(rounds, expected.map(|pause| (slew(20, pause), pause)));
}

#[test]
fn a_clock_that_is_off_by_half_a_second_is_slewed_and_one_by_more_is_set() {
    let mut scene = Scene::new();
    assert_eq!(scene.round(&[sample(500, 1)]).0, slew(500, 64));
    assert_eq!(scene.round(&[sample(-501, 1)]), (Verdict::Step(-501_000_000), 64));
    assert_eq!(scene.round(&[sample(0, 1)]), (slew(0, 64), 64), "it is looked at again soon");
}

#[test]
fn servers_that_do_not_answer_are_asked_less_and_less_often() {
    let mut scene = Scene::new();
    let pauses: Vec<_> = (0..6).map(|_| scene.round(&[])).collect();
    assert_eq!(pauses, [128, 256, 512, 1024, 1024, 1024].map(|pause| (Verdict::Nothing, pause)));
    scene.client.restart(scene.now);
    assert_eq!(scene.client.due(), Some(scene.now), "other servers are asked at once");
}

#[test]
fn more_than_half_have_to_agree() {
    for (answers, verdict) in [
        (&[sample(10, 5), sample(12, 5)][..], Some(10)),
        (&[sample(10, 5), sample(200, 5)], None),
        (&[sample(10, 9), sample(12, 5), sample(99_000, 1)], Some(12)),
        (&[sample(10, 5), sample(100, 5), sample(200, 5)], None),
        (&[sample(-10, 5), sample(-8, 4), sample(300, 1), sample(302, 2)], None),
        (&[sample(-10, 5), sample(-8, 4), sample(-7, 3), sample(302, 2)], Some(-7)),
        (&[sample(0, 1_000), sample(40, 2)], Some(40)),
    ] {
        let found = Scene::new().round(answers).0;
        assert_eq!(found, verdict.map_or(Verdict::Nothing, |offset| slew(offset, 64)), "{answers:?}");
    }
}

#[test]
fn a_server_that_wants_peace_gets_it() {
    let mut scene = Scene::new();
    scene.round(&[Answer::Kiss(*b"RATE"), Answer::Kiss(*b"DENY"), sample(0, 1)]);
    let all = ["a", "b", "c"];
    assert_eq!(scene.asks(&all), 1);
    scene.pass(TOO_OFTEN);
    assert_eq!(scene.asks(&all), 2);
    scene.pass(NOT_WANTED);
    assert_eq!(scene.asks(&all), 3);
}

#[test]
fn servers_far_from_the_controllers_time_are_not_believed_and_the_clock_is_let_go() {
    let mut scene = Scene::new();
    assert_eq!(scene.round(&[sample(599_000, 1)]).0, Verdict::Step(599 * SECOND));
    let mut scene = Scene::new();
    assert_eq!(scene.round(&[sample(-3_600_000, 1)]), (Verdict::LetGo { apart_ns: -3_600 * SECOND }, 128));
    assert_eq!(scene.round(&[sample(i64::MAX / 1_000_000, 1)]).1, 256);
}

#[test]
fn what_the_leash_allows_counts_from_the_controllers_word_and_not_from_the_clock() {
    let mut scene = Scene::new();
    // Step by step, as a server would that wants to get far.
    let mut moved = 0;
    loop {
        let (verdict, _) = scene.round(&[sample(100_000, 1)]);
        let Verdict::Step(offset_ns) = verdict else { break };
        scene.reading.unix_ns += offset_ns;
        moved += offset_ns;
        assert!(moved <= 601 * SECOND);
    }
    assert_eq!(moved, 600 * SECOND);
    // A day later quartz may have drifted, and no further.
    scene.pass(seconds(86_400));
    assert_eq!(scene.round(&[sample(17_000, 1)]).0, Verdict::Step(17 * SECOND));
    assert!(matches!(scene.round(&[sample(19_000, 1)]).0, Verdict::LetGo { .. }));
}

#[test]
fn a_controllers_word_sets_a_clock_that_nobody_keeps_or_that_is_far_off() {
    let mut scene = Scene::new();
    scene.round(&[sample(0, 1)]);
    let (reading, now) = (scene.reading, scene.now);
    assert!(scene.client.hear(reading.unix_ns + 5 * SECOND, reading, now), "NTP knows better");
    assert!(!scene.client.hear(reading.unix_ns + 700 * SECOND, reading, now), "it is not believed any more");
    scene.pass(seconds(3 * 3_600));
    let (reading, now) = (scene.reading, scene.now);
    assert!(!scene.client.hear(reading.unix_ns + 5 * SECOND, reading, now), "nobody has answered for hours");

    let mut scene = Scene::new();
    (0..6).for_each(|_| assert_eq!(scene.round(&[]).0, Verdict::Nothing));
    scene.client.judge(&[], scene.reading, scene.now);
    for _ in 0..2 {
        assert!(!scene.client.hear(scene.reading.unix_ns, scene.reading, scene.now));
        assert_eq!(scene.client.due(), Some(scene.now + SHORTEST), "servers are asked soon, but not each time");
    }
}

#[test]
fn a_clock_that_was_set_meanwhile_is_noticed() {
    let before = Reading { unix_ns: NOW, raw: seconds(1) };
    let after = |unix_ns| Reading { unix_ns, raw: seconds(4) };
    assert!(!after(NOW + 3 * SECOND).was_set_since(before));
    assert!(!after(NOW + 3 * SECOND + 2_000_000).was_set_since(before), "that is slewing");
    assert!(after(NOW + 4 * SECOND).was_set_since(before));
    assert!(after(0).was_set_since(before));
}

proptest! {
    /// Whatever servers say, the clock stays on the leash.
    #[test]
    fn no_servers_move_the_clock_off_the_leash(
        rounds in proptest::collection::vec(proptest::collection::vec((any::<i64>(), 0..i64::MAX, any::<bool>()), 0..5), 1..30),
    ) {
        let mut scene = Scene::new();
        let truth = |scene: &Scene| NOW + (scene.reading.raw - seconds(100)).as_nanos() as i64;
        for round in rounds {
            let near = |offset: i64, is_near: bool| if is_near { offset % (900 * SECOND) } else { offset };
            let answers: Vec<_> = round
                .into_iter()
                .map(|(offset, distance_ns, is_near)| Answer::Sample(Sample { offset_ns: near(offset, is_near), distance_ns }))
                .collect();
            match scene.round(&answers).0 {
                Verdict::Step(offset_ns) | Verdict::Slew { offset_ns, .. } => scene.reading.unix_ns += offset_ns,
                Verdict::LetGo { .. } | Verdict::Nothing => {}
            }
            let passed = scene.reading.raw - seconds(100);
            let leash = (LEASH + passed / DRIFT).as_nanos() as i64;
            prop_assert!((scene.reading.unix_ns - truth(&scene)).abs() <= leash);
        }
    }
}
