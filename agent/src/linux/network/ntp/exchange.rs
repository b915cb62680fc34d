//! One round: a question to each server, and the answers that come in time.
//!
//! A socket of its own for each question, closed afterwards: its port is drawn by the kernel and its peer is fixed.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::clock::Clock;
use super::packet::{self, Answer, LENGTH, Refused};
use crate::{random, warn};

const PORT: u16 = 123;
/// An answer that takes longer says little.
const PATIENCE: Duration = Duration::from_secs(3);

struct Question<'a> {
    server: &'a str,
    socket: UdpSocket,
    nonce: u64,
    sent_unix_ns: i64,
    sent_at: Instant,
}

/// Asks all of them. Blocks for seconds, and for longer where names are not found.
pub(super) fn ask(servers: &[String], clock: &dyn Clock) -> Vec<(String, Answer)> {
    // Names first: what takes long must not come between a question and its answer.
    let found: Vec<(&String, SocketAddr)> = servers.iter().filter_map(|server| Some((server, find(server)?))).collect();
    let mut open: Vec<Question> = Vec::new();
    for (server, address) in found {
        match send(server, address, clock) {
            Ok(question) => open.push(question),
            Err(error) => warn!("could not ask {server} what time it is: {error}"),
        }
    }
    let deadline = Instant::now() + PATIENCE;
    let mut answers = Vec::new();
    while !open.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        let wait = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let mut fds: Vec<_> = open.iter().map(|question| PollFd::new(&question.socket, PollFlags::IN)).collect();
        if left.is_zero() || poll(&mut fds, Some(&wait)).is_err_and(|error| error != rustix::io::Errno::INTR) {
            break;
        }
        open.retain(|question| match question.hear() {
            None => true,
            Some(Ok(answer)) => {
                answers.push((question.server.to_owned(), answer));
                false
            }
            Some(Err(why)) => {
                warn!("{} says {why}", question.server);
                false
            }
        });
    }
    answers
}

fn find(server: &str) -> Option<SocketAddr> {
    let found = (server, PORT).to_socket_addrs();
    match found.map(|mut addresses| addresses.next()) {
        Ok(first) => first,
        Err(error) => {
            warn!("could not find the NTP server {server}: {error}");
            None
        }
    }
}

fn send<'a>(server: &'a str, address: SocketAddr, clock: &dyn Clock) -> std::io::Result<Question<'a>> {
    let any = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.connect(address)?;
    socket.set_nonblocking(true)?;
    let nonce = u64::from_ne_bytes(random::bytes());
    let bytes = packet::question(nonce);
    let (sent_unix_ns, sent_at) = (clock.read().unix_ns, Instant::now());
    socket.send(&bytes)?;
    Ok(Question { server, socket, nonce, sent_unix_ns, sent_at })
}

impl Question<'_> {
    /// What its server says; `None` as long as it says nothing. What answers something else is passed over: somebody else
    /// may have sent it.
    fn hear(&self) -> Option<Result<Answer, Refused>> {
        let mut buffer = [0; 2 * LENGTH];
        loop {
            // An error is nobody there, or nothing there yet; both may change.
            let len = self.socket.recv(&mut buffer).ok()?;
            match packet::read(&buffer[..len], self.nonce, self.sent_unix_ns, self.sent_at.elapsed()) {
                Err(Refused::NotAsked | Refused::Malformed) => {}
                result => return Some(result),
            }
        }
    }
}
