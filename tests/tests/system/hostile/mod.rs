//! Hostile peers on the agents' port of a real controller, while honest machines are online: they notice nothing, the
//! controller's memory stays within what is promised, and every refusal is counted by its reason.

mod certificates;
mod handshakes;
mod streams;

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use muster_protocol::Mac;
use muster_protocol::enroll::Identity;
use muster_protocol::hello::{Hello, Progress};
use muster_protocol::to_controller::{Answer, Call};
use muster_protocol::{ALPN_SESSION, BootId, Digest};
use muster_tests::controller::Controller;
use muster_tests::eventually;
use muster_tests::lab::{LOCATION, SOON, text};
use muster_tests::peer::{Own, Peer};
use muster_tests::simulated::Machines;
use serde_json::{Value, json};

use crate::fleet::{is_online, start, until};

/// How many honest machines.
const HONEST: u16 = 20;

/// The most that a hostile peer may make the controller hold.
const HELD: u64 = 256 * 1024;

/// What a debug build's controller may take for the test's own questions.
const OWN: u64 = 4 << 20;

/// See the module.
struct Siege {
    controller: Controller,
    machines: Machines,
    honest: Vec<Value>,
    ca_pem: Vec<u8>,
    before: u64,
}

impl Siege {
    /// A controller whose machines are approved and online.
    fn open(name: &str) -> Result<Self> {
        let controller = start(name)?;
        let machines = Machines::plug(HONEST, LOCATION)?;
        let pending = until(&controller, SOON, "all are online", HONEST, |machine| {
            is_online(machine) && machine["lifecycle"] == "pending"
        })?;
        for machine in &pending {
            let path = format!("/api/v1/machines/{}/approve", text(machine, "/id")?);
            controller.api()?.post(&path, &json!({}))?;
        }
        let honest = until(&controller, SOON, "all are available", HONEST, |machine| {
            is_online(machine) && machine["lifecycle"] == "available"
        })?;
        let ca_pem = controller.ca_pem()?;
        let mut siege = Self { controller, machines, honest, ca_pem, before: 0 };
        // Whatever is made at first use is there from now on.
        siege.stands()?;
        siege.before = siege.controller.watch_memory()?;
        Ok(siege)
    }

    fn address(&self) -> SocketAddr {
        self.controller.agents()
    }

    /// Every honest machine is in the session that it was in before, and answers.
    fn stands(&self) -> Result<()> {
        let api = self.controller.api()?;
        for before in &self.honest {
            let id = text(before, "/id")?;
            let now = api.get(&format!("/api/v1/machines/{id}"))?;
            ensure!(now["presence"]["since"] == before["presence"]["since"], "its session ended: {now}");
            ensure!(now["presence"]["boot"] == before["presence"]["boot"], "it booted: {now}");
            api.get(&format!("/api/v1/machines/{id}/observed")).context("it answers")?;
        }
        ensure!(self.machines.all().iter().all(|machine| machine.machine.powered().is_empty()), "nobody was rebooted");
        Ok(())
    }

    /// `peers` took no more memory than is promised.
    fn held_little(&self, peers: u64) -> Result<()> {
        let most = self.controller.most_memory()?;
        let (grew, bound) = (most.saturating_sub(self.before), peers * HELD + OWN);
        ensure!(grew <= bound, "{peers} peers took {grew} bytes; {bound} is the most they may");
        Ok(())
    }

    /// Waits until so many were refused for this reason, and no more.
    fn refused(&self, door: &str, reason: &str, times: u64) -> Result<()> {
        eventually(SOON, &format!("{times} are refused at {door} for {reason}"), || {
            let found = self.controller.refusals(door, reason)?;
            ensure!(found >= times, "{found} are");
            Ok(())
        })?;
        let found = self.controller.refusals(door, reason)?;
        ensure!(found == times, "{found} were refused at {door} for {reason}, and not {times}");
        Ok(())
    }

    /// A hostile box that somebody gave a ticket to: a machine of its own, which nobody has approved.
    fn enroll(&self, number: u16) -> Result<Own> {
        let ticket = self.controller.api()?.post("/api/v1/tickets", &json!({ "location": LOCATION }))?;
        let [high, low] = number.to_be_bytes();
        let identity = Identity {
            uuid: Some([high, low, 0xba, 0xd0, 1, 1, 0x41, 1, 0x81, 1, 1, 1, 1, 1, 1, 1]),
            macs: vec![Mac::from_bytes([0x02, 0xba, 0xd0, 0, high, low])],
            ..Identity::default()
        };
        Own::enroll(self.address(), &self.ca_pem, text(&ticket, "/ticket")?.parse()?, identity)
    }

    /// Its session, welcomed.
    fn session(&self, own: &Own) -> Result<Peer> {
        let peer = Peer::connect_as(self.address(), &self.ca_pem, ALPN_SESSION, Some(own))?;
        let hello = Hello {
            versions: vec![1],
            boot: BootId::from_bytes([6; 16]),
            agent: "hostile".into(),
            inventory: Digest::from_bytes([0; 32]),
            progress: Progress::Idle,
        };
        let answer: Answer = peer.ask(&Call::Hello(hello))?;
        ensure!(matches!(answer, Answer::Welcome(_)), "{answer:?}");
        Ok(peer)
    }
}
