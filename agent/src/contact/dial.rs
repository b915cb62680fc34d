//! Reaches a controller, for ever: resolves, connects, enrolls where there is no certificate, opens sessions, waits, and
//! begins again.
//!
//! It moves frames and waits; what is said in a session is `talk`'s and `session`'s business.

use std::sync::Arc;
use std::time::Duration;

use muster_protocol::enroll::{Answer, Leave, Refusal, Request, Ticket};
use muster_protocol::hello::Standing;
use muster_protocol::to_agent::PowerAction;
use muster_protocol::{ALPN_ENROLL, ALPN_SESSION, close, to_controller};
use quinn::Connection;
use tokio::time::{Instant, sleep, timeout};

use super::backoff::Backoff;
use super::identity::{self, Credentials};
use super::quic::{self, QuicError};
use super::reach::{self, Trouble};
use super::session::Due;
use super::talk::{self, End, HelloError};
use crate::agent::{Agent, Contact};
use crate::machine;
use crate::options::WhenRefused;
use crate::random;

/// A session of this length was a success: the next wait begins small again.
const SUCCESS: Duration = Duration::from_secs(10);
/// Between two looks for a way to a controller.
const NO_ROUTE: Duration = Duration::from_millis(250);
/// Between attempts to enroll that can only succeed after somebody did something.
const REFUSED: Duration = Duration::from_secs(60);
/// A controller that has just started is believed that it needs so long.
const AWAITED: Duration = Duration::from_secs(300);

/// Why an agent ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// A power command was carried out.
    Power(PowerAction),
    /// The enrollment was refused for good ([`WhenRefused::End`]).
    Refused(Refusal),
    /// There is neither a certificate nor a ticket to get one with ([`WhenRefused::End`]).
    NoTicket,
}

/// What to do after an attempt.
enum Next {
    /// Go on without waiting.
    AtOnce,
    /// Wait and try again.
    Wait(Trouble),
    /// No more attempts.
    End(Ended),
}

struct Dialer<'a> {
    agent: &'a Arc<Agent>,
    own: Option<Credentials>,
    /// Kept between attempts to enroll: a repeated request is the same request.
    key: Option<Vec<u8>>,
    backoff: Backoff,
    certificate: Certificate,
    boot_again_at: Option<Instant>,
    /// The connection of the last session, which is still there, and the one with which it goes on.
    moved: Option<(Connection, Connection)>,
}

#[derive(PartialEq, Eq)]
enum Certificate {
    Usable,
    /// The controller did not accept it last time; a ticket may help.
    Refused,
}

/// Dials until the agent ends.
pub async fn dial(agent: &Arc<Agent>) -> Ended {
    let options = &agent.options;
    let mut dialer = Dialer {
        agent,
        own: Credentials::load(&options.keep, options.ca),
        key: None,
        backoff: Backoff::new(options.pace.backoff_first, options.pace.backoff_limit),
        certificate: Certificate::Usable,
        boot_again_at: None,
        moved: None,
    };
    loop {
        match dialer.attempt().await {
            Next::AtOnce => {}
            Next::End(ended) => return ended,
            Next::Wait(trouble) => dialer.wait(trouble).await,
        }
    }
}

impl Dialer<'_> {
    async fn attempt(&mut self) -> Next {
        // What was accepted while its session ended.
        let due = self.agent.session().take_due();
        if let Some(due) = due {
            return self.power_due(due).await;
        }
        let now = self.agent.clock.now();
        let own = self.own.clone().filter(|own| !own.has_ended(now));
        let may_enroll = self.agent.options.leave.is_some();
        match own {
            Some(own) if self.certificate == Certificate::Usable || !may_enroll => self.session(own).await,
            _ => self.enroll().await,
        }
    }

    /// Waits as long as it is wise to.
    async fn wait(&mut self, trouble: Trouble) {
        if matches!(trouble, Trouble::Overtaken) {
            return;
        }
        let text = trouble.to_string();
        self.agent.status.send_if_modified(|status| {
            let is_news = status.trouble != text;
            if is_news {
                crate::warn!("{text}");
                status.trouble.clone_from(&text);
            }
            is_news
        });
        // Nothing left the machine, so nobody is spared by waiting longer: it may be a second until the network is up.
        let mut delay = match &trouble {
            Trouble::Route(_) => NO_ROUTE,
            _ => self.backoff.next(u64::from_ne_bytes(random::bytes())),
        };
        delay += match &trouble {
            Trouble::Enrollment(Refusal::Busy) => Duration::ZERO,
            Trouble::Enrollment(Refusal::Awaited { seconds }) => Duration::from_secs((*seconds).into()).min(AWAITED),
            Trouble::Enrollment(_) => REFUSED,
            _ => Duration::ZERO,
        };
        if let Some(at) = self.boot_again_at {
            delay = delay.min(at.saturating_duration_since(Instant::now()));
        }
        let mut outbox = self.agent.outbox.subscribe();
        let changes = outbox.borrow_and_update().changes;
        // A network that is another one by now may be the one that leads there.
        if timeout(delay, outbox.wait_for(|out| out.changes != changes)).await.is_ok() {
            self.backoff.reset();
        }
    }

    async fn enroll(&mut self) -> Next {
        let agent = self.agent;
        // The key of an earlier certificate is as good, and whoever has neither need not ask.
        let spent = self.own.as_ref().map(|_| Leave::Ticket(Ticket::from_bytes([0; 32])));
        let Some(leave) = agent.options.leave.clone().or(spent) else {
            return match agent.options.refused {
                WhenRefused::End => Next::End(Ended::NoTicket),
                WhenRefused::BootAgain => Next::Wait(Trouble::NoTicket),
            };
        };
        // What the old certificate has opened is over with it.
        self.moved = None;
        // Whatever comes of it, the old certificate has its turn again afterwards.
        self.certificate = Certificate::Usable;
        agent.status.send_modify(|status| status.contact = Contact::Enrolling);
        let answer = match self.ask_to_enroll(leave).await {
            Ok(answer) => answer,
            Err(trouble) => return Next::Wait(trouble),
        };
        match answer {
            Answer::Enrolled { machine, certificates, time_unix_ms } => {
                self.set_clock(time_unix_ms).await;
                let key = self.key.take().unwrap_or_default();
                match Credentials::new(machine, key, certificates) {
                    Ok(own) => {
                        crate::info!("enrolled as machine {machine}");
                        self.adopt(own);
                        self.backoff.reset();
                        Next::AtOnce
                    }
                    Err(error) => Next::Wait(error.into()),
                }
            }
            Answer::Refused(refusal) => self.refused(refusal).await,
        }
    }

    async fn ask_to_enroll(&mut self, leave: Leave) -> Result<Answer, Trouble> {
        let key = match (&self.key, &self.own) {
            (Some(key), _) => key.clone(),
            // The controller knows the key of the last certificate, even where that has ended and the ticket is used up.
            (None, Some(own)) => self.key.insert(own.key.clone()).clone(),
            (None, None) => self.key.insert(identity::new_key()?).clone(),
        };
        let csr = identity::signing_request(&key)?;
        let identity = machine::blocking(&self.agent.machine, |machine| machine.identity()).await;
        let connection = reach::connect(self.agent, ALPN_ENROLL, None, None).await?;
        let answer = quic::ask(&connection, &Request { leave, csr, identity }).await;
        quic::end(&connection, close::DONE, "enrollment is over");
        Ok(answer?)
    }

    async fn refused(&mut self, refusal: Refusal) -> Next {
        let is_final = !refusal.is_passing();
        match self.agent.options.refused {
            WhenRefused::End if is_final => return Next::End(Ended::Refused(refusal)),
            WhenRefused::End | WhenRefused::BootAgain => {}
        }
        // A machine that never got in has nothing to lose by booting again, and gets a new ticket by it.
        // One that was in keeps what it has, and one that was told off by a person or for what it is gains nothing.
        if matches!(refusal, Refusal::TicketUnknown | Refusal::TicketExpired) && self.own.is_none() {
            let boot_again = self.agent.options.pace.boot_again;
            let spread = boot_again.mul_f64(f64::from(random::bytes::<1>()[0]) / 255.0);
            let at = *self.boot_again_at.get_or_insert(Instant::now() + boot_again + spread);
            if at <= Instant::now() {
                crate::warn!("booting again for a new ticket");
                return self.power(PowerAction::Reboot).await;
            }
        }
        Next::Wait(Trouble::Enrollment(refusal))
    }

    async fn session(&mut self, mut own: Credentials) -> Next {
        let agent = self.agent;
        let (before, connection) = match self.moved.take() {
            Some((before, connection)) => (Some(before), connection),
            None => {
                agent.status.send_modify(|status| {
                    status.contact = Contact::Dialing;
                    status.machine = Some(own.machine);
                });
                match reach::connect(agent, ALPN_SESSION, Some(&own), None).await {
                    Ok(connection) => (None, connection),
                    Err(trouble) => return Next::Wait(trouble),
                }
            }
        };
        let (welcome, heard) = match talk::hello(agent, &connection).await {
            Ok(welcomed) => welcomed,
            Err(error) => {
                quic::end(&connection, close::DONE, "no welcome");
                return Next::Wait(self.judge(error));
            }
        };
        // The controller has ended it by now, since this one took its place.
        drop(before);
        let here = Some(connection.remote_address().ip());
        // One that was begun anew at the former address has yet to move.
        agent.outbox.send_if_modified(|out| out.moves_to.take_if(|to| here == Some(*to)).is_some());
        self.set_clock(welcome.time_unix_ms).await;
        agent.session().welcomed(welcome.standing.clone());
        agent.reconciler.on_drift(welcome.on_drift);
        let address = connection.remote_address();
        crate::info!("in session with {address} as {}", welcome.name);
        agent.status.send_modify(|status| {
            status.contact = match welcome.standing {
                Standing::Pending { claim, awaits } => Contact::Pending { claim, awaits },
                Standing::Member => Contact::Online,
            };
            status.controller = address.to_string();
            status.name = welcome.name;
            status.trouble.clear();
        });
        let begun = Instant::now();
        let changes = heard.changes;
        let end = talk::converse(agent, &connection, heard, &mut own).await;
        self.own = Some(own);
        if begun.elapsed() >= SUCCESS {
            self.backoff.reset();
        }
        agent.status.send_modify(|status| status.contact = Contact::Dialing);
        match end {
            End::Moved(to) => {
                self.moved = Some((connection, to));
                Next::AtOnce
            }
            End::Lost(error) if talk::asks_for_a_new_hello(&error) => Next::AtOnce,
            // The network is another one: there is nothing to wait for.
            End::Lost(QuicError::Late) if changes != agent.outbox.borrow().changes => {
                self.backoff.reset();
                Next::AtOnce
            }
            End::Lost(error) => Next::Wait(self.judge(error.into())),
            End::Power(due) => self.power_due(due).await,
        }
    }

    /// Does what a power command asked for.
    async fn power_due(&self, due: Due) -> Next {
        let next = self.power(due.action).await;
        if matches!(next, Next::Wait(_)) {
            self.agent.session().power_failed(due);
        }
        next
    }

    async fn power(&self, action: PowerAction) -> Next {
        crate::info!("power: {action:?}");
        // The farewell is sent by QUIC's own task, which needs a moment of this thread.
        sleep(Duration::from_millis(50)).await;
        match machine::blocking(&self.agent.machine, move |machine| machine.power(action)).await {
            Ok(()) => Next::End(Ended::Power(action)),
            Err(error) => Next::Wait(Trouble::Power(error)),
        }
    }

    /// What an ended conversation says of the certificate.
    fn judge(&mut self, error: HelloError) -> Trouble {
        let why = match &error {
            HelloError::Quic(QuicError::Connection(error)) => quic::why_our_certificate_is_refused(error),
            HelloError::Refused(to_controller::Refusal::UnknownMachine) => {
                Some(to_controller::Refusal::UnknownMachine.to_string())
            }
            HelloError::Refused(_) | HelloError::Quic(_) | HelloError::Strange => None,
        };
        let Some(why) = why else { return error.into() };
        self.certificate = Certificate::Refused;
        Trouble::CertificateRefused(why)
    }

    fn adopt(&mut self, own: Credentials) {
        own.keep(&self.agent.options);
        self.certificate = Certificate::Usable;
        self.boot_again_at = None;
        self.agent.status.send_modify(|status| {
            status.machine = Some(own.machine);
            status.trouble.clear();
        });
        self.own = Some(own);
    }

    /// The controller's word counts from now on: for certificates, and for whatever else asks the machine for the time.
    async fn set_clock(&self, unix_ms: u64) {
        self.agent.clock.set(unix_ms);
        machine::blocking(&self.agent.machine, move |machine| machine.set_clock(unix_ms)).await;
    }
}
