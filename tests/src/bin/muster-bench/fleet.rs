//! A fleet of simulated machines, and one network that is pushed to all of them: a right one until all are confirmed, a wrong
//! one until all are in contact again.
//!
//! The agents are the real ones over real QUIC; their hardware is memory, and their packets need the right gateway
//! ([`Wire::Gateway`]) whenever they open a connection. Controller and machines share the computer, and so each other's
//! loopback: such a way is proven afterwards and never beside the present one.
//! The floor is the same road without a change: every machine is asked for the plan of the same document.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use muster_agent::sim::Wire;
use muster_tests::controller::Controller;
use muster_tests::http::Http;
use muster_tests::lab::{CONFIRM_WITHIN, LOCATION, text};
use muster_tests::simulated::Machines;
use muster_tests::{artifacts, eventually, namespace};
use serde_json::{Value, json};

use super::row;
use super::took::{Took, median, milliseconds, phases, seconds};

/// How many machines.
const COUNT: u16 = 500;

/// So many start at one time: of those that wait for approval one address has a quarter, and who is too much has to boot again.
const AT_ONCE: u16 = 125;

/// Operators' programs that push at one time.
const HANDS: usize = 8;

/// For some to start and be let in.
const ALL_IN: Duration = Duration::from_secs(300);

/// The only gateway that carries anything.
const GATEWAY: &str = "10.77.0.1";

/// Starts them, and pushes to all.
pub fn measure() -> Result<()> {
    let controller = start("bench-fleet", artifacts::muster()?)?;
    controller.muster(&["location", "add", LOCATION, "--name", "The bench"])?;
    let began = Instant::now();
    let api = controller.api()?;
    let (mut machines, mut all) = (Vec::new(), Vec::new());
    while all.len() < usize::from(COUNT) {
        let plugged = Machines::plug_from(all.len() as u16 + 1, AT_ONCE, LOCATION)?;
        for machine in plugged.all() {
            machine.machine.set_wire(Wire::Gateway(GATEWAY.parse()?));
        }
        all = let_in(&api, all.len() + usize::from(AT_ONCE))?;
        machines.push(plugged);
    }
    eprintln!("{COUNT} simulated machines are in after {}", seconds(began.elapsed()));

    let fleet = Fleet { api, all };
    let right = |n: usize| document(n, 100, GATEWAY);
    // Who was approved a moment ago is welcomed anew.
    eventually(ALL_IN, "all answer", || fleet.floor(right))?;
    let floor = fleet.floor(right)?;
    fleet.push("right push to confirmed", right, None, &floor)?;
    // What is proven in vain is undone at the deadline.
    fleet.push("wrong push to contact", |n| document(n, 100, "10.77.0.99"), Some(CONFIRM_WITHIN), &floor)?;
    fleet.floor(right).map(drop).context("all answer after the wrong push")
}

/// Its own address for each, in a network that holds the gateway.
fn document(n: usize, first: usize, gateway: &str) -> String {
    format!(
        "network:\n  ethernets:\n    eth0:\n      addresses: [10.77.{}.{}/16]\n      \
         routes: [{{to: default, via: {gateway}}}]\n",
        first + n / 200,
        2 + n % 200
    )
}

/// This build of the controller, in a network and a folder of its own, with simulated machines in mind.
pub fn start(folder: &str, program: PathBuf) -> Result<Controller> {
    namespace::enter()?;
    let folder = super::folder(folder)?;
    // Boot scripts are given only where there is an image; simulated machines load nothing.
    let images = folder.join("images");
    std::fs::create_dir_all(&images)?;
    for name in ["kernel", "initramfs"] {
        std::fs::write(images.join(name), name)?;
    }
    let confirm = CONFIRM_WITHIN.as_secs();
    let config = format!("[boot]\nimages = {images:?}\n[agents]\nconfirm_within = \"{confirm}s\"\n");
    Controller::start_program(program, &folder, &config)
}

/// The ids of all machines, once so many are in: whoever is there is approved.
pub fn let_in(api: &Http, count: usize) -> Result<Vec<String>> {
    eventually(ALL_IN, "all are available and online", || {
        let list = api.get("/api/v1/machines?limit=1000")?;
        let machines: Vec<&Value> = list["items"].as_array().into_iter().flatten().collect();
        for machine in machines.iter().filter(|machine| machine["lifecycle"] == "pending") {
            api.post(&format!("/api/v1/machines/{}/approve", text(machine, "/id")?), &json!({}))?;
        }
        let is_in = |machine: &&&Value| machine["lifecycle"] == "available" && machine["presence"]["state"] == "online";
        let there = machines.iter().filter(is_in).count();
        ensure!(there == count, "{there} of {} are", machines.len());
        machines.iter().map(|machine| Ok(text(machine, "/id")?.to_owned())).collect()
    })
}

struct Fleet {
    api: Http,
    /// Their ids.
    all: Vec<String>,
}

impl Fleet {
    /// Asks every machine for a plan, and says how long that took in all and each.
    fn floor(&self, document: impl Fn(usize) -> String + Sync) -> Result<String> {
        let began = Instant::now();
        let each = self.each(|n, id| {
            let began = Instant::now();
            self.api.post(&format!("/api/v1/machines/{id}/plan"), &json!({ "document": document(n) }))?;
            Ok(began.elapsed())
        })?;
        let whole = began.elapsed();
        Ok(format!("all asked for the plan of it {}, each {}", seconds(whole), milliseconds(median(each))))
    }

    /// Pushes to all, and waits until all have ended: kept where there is no deadline, undone otherwise.
    fn push(
        &self,
        name: &str,
        document: impl Fn(usize) -> String + Sync,
        deadline: Option<Duration>,
        floor: &str,
    ) -> Result<()> {
        let began = Instant::now();
        let operations = self.each(|n, id| {
            let asked = self.api.post(&format!("/api/v1/machines/{id}/apply"), &json!({ "document": document(n) }))?;
            Ok(text(&asked, "/id")?.to_owned())
        })?;
        let asked = began.elapsed();
        let went = self.each(|n, _| Took::follow(&self.api, &operations[n]))?;
        let is_right = |took: &&Took| took.undone.is_none() == deadline.is_none();
        ensure!(went.iter().all(|took| is_right(&took)), "{name}: {} went otherwise", {
            went.len() - went.iter().filter(is_right).count()
        });
        let first = went.iter().map(|took| took.began).min().context("there are machines")?;
        let last = went.iter().map(|took| took.ended).max().context("there are machines")?;
        let whole: Duration = (last - first).try_into()?;
        let each: Vec<_> = went.iter().map(Took::whole).collect();
        let worst = each.iter().max().copied().unwrap_or_default();
        let late = deadline.map(|deadline| format!(", after the deadline {}", seconds(worst.saturating_sub(deadline))));
        let measured = format!(
            "all {}, asked for within {}; each {}, worst {}{}: {}",
            seconds(whole),
            seconds(asked),
            seconds(median(each)),
            seconds(worst),
            late.unwrap_or_default(),
            phases(&went)
        );
        let window = deadline.map(|deadline| format!("{} to confirm within; ", seconds(deadline))).unwrap_or_default();
        row(&format!("{name}: {COUNT} simulated machines"), &measured, &format!("{window}{floor}"));
        Ok(())
    }

    /// Does something for each machine, so many at one time, and answers in their order.
    fn each<T: Send>(&self, part: impl Fn(usize, &str) -> Result<T> + Sync) -> Result<Vec<T>> {
        let (part, all) = (&part, &self.all);
        std::thread::scope(|scope| {
            let hand = |hand: usize| {
                let mine = move || {
                    let mine = all.iter().enumerate().skip(hand).step_by(HANDS);
                    mine.map(|(n, id)| Ok((n, part(n, id)?))).collect::<Result<Vec<_>>>()
                };
                scope.spawn(mine)
            };
            let hands: Vec<_> = (0..HANDS).map(hand).collect();
            let mut done = Vec::new();
            for hand in hands {
                done.extend(hand.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
            }
            done.sort_by_key(|(n, _)| *n);
            Ok(done.into_iter().map(|(_, one)| one).collect())
        })
    }
}
