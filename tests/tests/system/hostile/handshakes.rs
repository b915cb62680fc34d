//! Handshakes that are begun and not finished.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Result, ensure};
use muster_tests::eventually;
use muster_tests::lab::{LOCATION, SOON};
use muster_tests::peer::STRANGER;
use muster_tests::simulated::Machines;
use muster_tests::stalled::{Beginning, Heard};
use serde_json::Value;

use super::Siege;

/// Peers that are between their first packet and their hello, at most.
const PLACES: u64 = 1024;

/// One that has held its place for a second gives way within this.
const GIVES_WAY: Duration = Duration::from_secs(5);

/// A handshake that stalls is given up within this.
const GIVEN_UP: Duration = Duration::from_secs(40);

impl Siege {
    fn handshakes(&self) -> Result<u64> {
        self.controller.metric("muster_handshakes_in_progress")
    }

    /// A machine that boots now comes in: not one of the others, whose number is given to none.
    fn lets_in(&self, number: u16) -> Result<()> {
        let _newcomer = Machines::plug_from(number, 1, LOCATION)?;
        eventually(SOON, "a machine that boots meanwhile is online", || {
            let list = self.controller.api()?.get("/api/v1/machines?limit=1000")?;
            let online = |machine: &&Value| machine["presence"]["state"] == "online";
            let machines = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
            ensure!(machines.iter().filter(online).count() == self.honest.len() + 1, "not yet");
            Ok(())
        })
    }
}

#[test]
fn thousands_of_half_open_handshakes_keep_nobody_out_take_little_memory_and_are_given_up() -> Result<()> {
    const COUNT: u16 = 4_000;
    let siege = Siege::open("hostile-half-open")?;
    let beginning = Beginning::new(siege.address(), &siege.ca_pem)?;
    let (mut served, mut asked, mut most) = (0_u64, 0_u64, 0);
    for n in 0..COUNT {
        // Each from an address of its own, as if they were forged.
        let [high, low] = n.to_be_bytes();
        let stalled = beginning.begin(Ipv4Addr::new(127, 1, high, low))?;
        match stalled.hear()? {
            Heard::Handshake => served += 1,
            Heard::Retry => asked += 1,
            Heard::Nothing => {}
        }
        if n % 500 == 499 {
            most = most.max(siege.handshakes()?);
            siege.stands()?;
        }
    }
    // In the middle of it.
    siege.lets_in(100)?;
    ensure!(served + asked == u64::from(COUNT), "each is answered at once: {served} served, {asked} asked");
    ensure!(asked > u64::from(COUNT) / 2, "most have to prove their addresses: {asked}");
    ensure!((1..=PLACES / 4).contains(&most), "those who claim an address get a quarter of the places: {most}");
    siege.held_little(PLACES / 4)?;
    ensure!(siege.controller.refusals("agents", "retry")? >= asked, "they are counted");
    eventually(GIVEN_UP, "all are given up", || {
        let left = siege.handshakes()?;
        ensure!(left == 0, "{left} are not");
        Ok(())
    })?;
    let late = siege.controller.refusals("agents", "handshake_timeout")?;
    ensure!(late >= served, "{late} of {served} are counted");
    siege.stands()
}

#[test]
fn one_source_that_proves_its_address_gets_half_of_the_places_and_keeps_nobody_out() -> Result<()> {
    let siege = Siege::open("hostile-one-source")?;
    let beginning = Beginning::new(siege.address(), &siege.ca_pem)?;
    let mut most = 0;
    let mut held = Vec::new();
    for n in 0..900 {
        let mut stalled = beginning.begin(STRANGER)?;
        stalled.prove()?;
        held.push(stalled);
        if n % 100 == 99 {
            most = most.max(siege.handshakes()?);
        }
    }
    siege.lets_in(100)?;
    // Sooner than any of them is given up: the first one gives way.
    let neighbor = || siege.enroll(200).map(drop);
    eventually(GIVES_WAY, "a machine at the same address enrolls", neighbor)?;
    siege.stands()?;
    ensure!(most > PLACES / 4, "it took more than those who prove nothing: {most}");
    ensure!(most <= PLACES / 2, "and left room for others: {most}");
    ensure!(siege.controller.refusals("agents", "too_many")? > 0, "the rest was refused");
    siege.held_little(PLACES / 2)
}
