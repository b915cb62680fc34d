//! One machine, booted by QEMU, and networks that are pushed to it: right ones until they are confirmed, wrong ones until it
//! is in contact again.
//!
//! The seats, networks and addresses are the [ground](muster_tests::ground)'s, on which the tests push as well. While a push is
//! under way somebody asks the machine without a pause what its network is: the longest time without an answer is how long it
//! was away for its operator, and the median of the same question in peace is the floor.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use muster_protocol::VlanTag;
use muster_tests::ground::{Ground, Seat};
use muster_tests::http::Http;
use muster_tests::lab::{CONFIRM_WITHIN, text};
use muster_tests::switch::{Fault, Lost};

use super::row;
use super::took::{Took, median, milliseconds, phases, seconds, spread};

/// How often each is pushed.
const RUNS: usize = 5;

/// How often the floor is measured.
const ASKED: usize = 50;

const STATIC: &str = "one: {addresses: [10.N.1.50/24], routes: [{to: default, via: 10.N.1.1}]}";
const OTHER: &str = "one: {addresses: [10.N.1.51/24], routes: [{to: default, via: 10.N.1.1}]}";
const DHCP: &str = "one: {dhcp4: true}";
const VLAN: &str =
    "vlans: {office: {id: 42, link: one, addresses: [10.N.42.50/24], routes: [{to: default, via: 10.N.42.1}]}}";
const NO_GATEWAY: &str = "one: {addresses: [10.N.1.50/24], routes: [{to: default, via: 10.N.1.99}]}";
const NO_VLAN: &str =
    "vlans: {office: {id: 43, link: one, addresses: [10.N.43.50/24], routes: [{to: default, via: 10.N.43.1}]}}";

/// Boots it, and pushes all of them.
pub fn measure() -> Result<()> {
    let ground = Ground::open("bench-pushes", 1)?;
    let bench = Bench { seat: &ground.seats[0], ground: &ground, api: ground.lab.controller.api()? };
    let floor = bench.floor()?;

    let beside = |floor| format!("asked what its network is, it answers in {}", milliseconds(floor));
    bench.right("an address beside the old one", STATIC, OTHER, &beside(floor))?;
    bench.right("from DHCP to a static address in a VLAN", DHCP, VLAN, &beside(floor))?;
    let window = format!("{} to confirm within", seconds(CONFIRM_WITHIN));
    bench.wrong("a gateway that is nobody's", STATIC, NO_GATEWAY, None, &window)?;
    bench.wrong("a VLAN that nobody carries", STATIC, NO_VLAN, None, &window)?;
    let firewall = Fault { vlan: VlanTag::try_from(42)?, lost: Lost::Udp(8443) };
    bench.wrong("a VLAN behind a firewall", STATIC, VLAN, Some(firewall), &window)
}

struct Bench<'a> {
    ground: &'a Ground,
    seat: &'a Seat,
    api: Http,
}

impl Bench<'_> {
    fn right(&self, name: &str, from: &str, to: &str, beside: &str) -> Result<()> {
        let (mut all, mut silent) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            self.stand(from)?;
            let (took, silence) = self.watched(to)?;
            ensure!(took.undone.is_none(), "{name} was undone: {:?}", took.undone);
            all.push(took);
            silent.push(silence);
        }
        let whole = spread(all.iter().map(Took::whole).collect());
        let measured = format!("{whole}: {}; longest silence {}", phases(&all), spread(silent));
        row(&format!("right push to confirmed: {name}"), &measured, beside);
        Ok(())
    }

    fn wrong(&self, name: &str, from: &str, to: &str, fault: Option<Fault>, beside: &str) -> Result<()> {
        let (mut all, mut silent) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            self.stand(from)?;
            self.seat.switch.set_faults(fault.as_slice());
            let watched = self.watched(to);
            self.seat.switch.set_faults(&[]);
            let (took, silence) = watched?;
            ensure!(took.undone.is_some(), "{name} was kept");
            all.push(took);
            silent.push(silence);
        }
        let whole = spread(all.iter().map(Took::whole).collect());
        let late = all.iter().map(|took| took.whole().saturating_sub(CONFIRM_WITHIN)).collect();
        let reason = all[0].undone.clone().unwrap_or_default();
        let measured = format!(
            "{whole}, after the deadline {}: {}; longest silence {}; {reason}",
            spread(late),
            phases(&all),
            spread(silent)
        );
        row(&format!("wrong push to contact: {name}"), &measured, beside);
        Ok(())
    }

    /// Gives it what it is to have before.
    fn stand(&self, line: &str) -> Result<()> {
        let asked = self.seat.push(&self.ground.lab, &self.document(line))?;
        let took = Took::follow(&self.api, text(&asked, "/id")?)?;
        ensure!(took.undone.is_none(), "{line}: {:?}", took.undone);
        Ok(())
    }

    /// Pushes, and answers for how long at most the machine did not answer meanwhile.
    fn watched(&self, line: &str) -> Result<(Took, Duration)> {
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let watch = scope.spawn(|| {
                let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
                // Once more after the end: a silence ends with an answer.
                let mut is_last = false;
                while !is_last {
                    is_last = is_over.load(Ordering::Relaxed);
                    if self.ask().is_ok() {
                        longest = longest.max(last.elapsed());
                        last = Instant::now();
                    }
                }
                longest
            });
            let asked = self.seat.push(&self.ground.lab, &self.document(line));
            let took = asked.and_then(|asked| Took::follow(&self.api, text(&asked, "/id")?));
            is_over.store(true, Ordering::Relaxed);
            let longest = watch.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            Ok((took?, longest))
        })
    }

    fn ask(&self) -> Result<()> {
        self.api.get(&format!("/api/v1/machines/{}/observed", self.seat.id)).map(drop)
    }

    /// How long a question takes there and back, with nothing else to do.
    fn floor(&self) -> Result<Duration> {
        let mut all = Vec::new();
        for _ in 0..ASKED {
            let began = Instant::now();
            self.ask()?;
            all.push(began.elapsed());
        }
        Ok(median(all))
    }

    /// All three NICs are in it; what is not said of one is nothing.
    fn document(&self, line: &str) -> String {
        let mut document = "network:\n  version: 2\n  ethernets:\n".to_owned();
        for (port, id) in [(1, "one"), (2, "two"), (3, "three")] {
            let select = format!("match: {{macaddress: \"{}\"}}", self.seat.mac(port));
            let said = line.strip_prefix(&format!("{id}: {{")).map_or("}".to_owned(), |rest| format!(", {rest}"));
            document.push_str(&format!("    {id}: {{{select}{said}\n"));
        }
        if line.starts_with("vlans:") {
            document.push_str(&format!("  {line}\n"));
        }
        self.seat.fill(&document)
    }
}
