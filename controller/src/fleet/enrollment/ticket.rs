//! Boot tickets: made when a boot script is asked for, used up by one enrollment.
//!
//! A [`Grant`] says for whom, from where and how long.

use muster_protocol::MachineId;
use muster_protocol::enroll::{Identity, Refusal as Enrollment, Ticket as Secret};

use crate::fleet::record::{Ticket, TicketBound};
use crate::fleet::{Draft, Refusal, State};

/// The most tickets that may be open; asking for one more drops those that expire first.
const OPEN_LIMIT: usize = 10_000;

/// What a ticket is made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Code of the location where the machine stands; empty where nobody knows.
    pub location: String,
    /// The ISO whose credential was shown, by its id; empty for none.
    pub iso: String,
    /// Whether a machine that is not in may join with it.
    pub joins: bool,
    /// The machine whose network is handed out with it, where it was asked for in the name of one.
    pub hands: Option<MachineId>,
    /// Who may use it.
    pub bound: TicketBound,
    /// How long it is good from now on, in milliseconds.
    pub lifetime_ms: u64,
}

impl Grant {
    /// For whoever holds it, at a location.
    pub fn bearer(location: impl Into<String>, lifetime_ms: u64) -> Self {
        let (location, iso, bound) = (location.into(), String::new(), TicketBound::Bearer);
        Self { location, iso, joins: true, hands: None, bound, lifetime_ms }
    }
}

/// Makes a ticket. The answer is the only copy of the secret.
pub fn issue(draft: &mut Draft, grant: Grant) -> Result<Secret, Refusal> {
    let Grant { location, iso, joins, hands, bound, lifetime_ms } = grant;
    let expires_unix_ms = draft.now_unix_ms() + lifetime_ms;
    forget_expired(draft);
    let secret = Secret::from_bytes(draft.random());
    draft.put(Ticket { digest: secret.digest(), location, iso, joins, hands, bound, expires_unix_ms });
    Ok(secret)
}

/// Uses a ticket up.
///
/// Errors: as [`check`]. A foreign attempt leaves it good for its rightful holder, and an expired one goes with the next
/// [`issue`].
pub fn redeem(draft: &mut Draft, secret: &Secret, identity: &Identity) -> Result<Ticket, Refusal> {
    let ticket = check(draft.state(), secret, identity, draft.now_unix_ms())?.clone();
    draft.delete::<Ticket>(&ticket.digest);
    Ok(ticket)
}

/// The ticket, where this machine may use it now.
///
/// Errors: unknown or used, expired, bound to another machine.
pub fn check<'a>(
    state: &'a State,
    secret: &Secret,
    identity: &Identity,
    now_unix_ms: u64,
) -> Result<&'a Ticket, Enrollment> {
    let ticket = state.tickets.get(&secret.digest()).ok_or(Enrollment::TicketUnknown)?;
    if ticket.expires_unix_ms < now_unix_ms {
        return Err(Enrollment::TicketExpired);
    }
    if !is_for(&ticket.bound, identity) {
        return Err(Enrollment::TicketForeign);
    }
    Ok(ticket)
}

/// The machine whose network is handed out to whoever shows the ticket. It stays good.
///
/// Errors: unknown or used, expired.
pub fn hands(state: &State, secret: &Secret, now_unix_ms: u64) -> Result<Option<MachineId>, Enrollment> {
    let ticket = state.tickets.get(&secret.digest()).ok_or(Enrollment::TicketUnknown)?;
    if ticket.expires_unix_ms < now_unix_ms { Err(Enrollment::TicketExpired) } else { Ok(ticket.hands) }
}

/// Whether the machine may use it. A UUID that both sides have must agree, and so must one MAC.
/// iPXE names only the NICs that it has drivers for, so one is enough.
fn is_for(bound: &TicketBound, identity: &Identity) -> bool {
    match bound {
        TicketBound::Bearer => true,
        TicketBound::Machine { uuid, macs } => {
            let same_uuid = match (uuid, identity.uuid) {
                (Some(asked), Some(said)) => *asked == said,
                _ => true,
            };
            same_uuid && macs.iter().any(|mac| identity.macs.contains(mac))
        }
    }
}

fn forget_expired(draft: &mut Draft) {
    let now = draft.now_unix_ms();
    let tickets = &draft.state().tickets;
    let mut gone: Vec<_> = tickets.iter().filter(|t| t.expires_unix_ms < now).map(|t| t.digest).take(32).collect();
    if gone.is_empty()
        && tickets.len() >= OPEN_LIMIT
        && let Some(oldest) = tickets.iter().min_by_key(|t| t.expires_unix_ms)
    {
        gone.push(oldest.digest);
    }
    for digest in gone {
        draft.delete::<Ticket>(&digest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::draft::tests::draft;
    use muster_protocol::Mac;

    fn machine(uuid: u8, mac: u8) -> Identity {
        Identity { uuid: Some([uuid; 16]), macs: vec![Mac::from_bytes([mac; 6])], ..Identity::default() }
    }

    fn grant(to: &Identity) -> Grant {
        let bound = TicketBound::Machine { uuid: to.uuid, macs: to.macs.clone() };
        Grant { bound, ..Grant::bearer("ber1", 60_000) }
    }

    #[test]
    fn a_ticket_is_good_once() {
        let mut draft = draft();
        let me = machine(1, 1);
        let secret = issue(&mut draft, grant(&me)).expect("issued");
        assert_eq!(redeem(&mut draft, &secret, &me).expect("good").location, "ber1");
        assert_eq!(redeem(&mut draft, &secret, &me), Err(Enrollment::TicketUnknown.into()));
    }

    #[test]
    fn a_ticket_ends() {
        let mut draft = draft();
        let me = machine(1, 1);
        let secret = issue(&mut draft, grant(&me)).expect("issued");
        draft.advance_ms(60_001);
        assert_eq!(redeem(&mut draft, &secret, &me), Err(Enrollment::TicketExpired.into()));
    }

    #[test]
    fn a_ticket_is_no_use_to_another_machine_and_stays_good_for_its_own() {
        let mut draft = draft();
        let me = machine(1, 1);
        let secret = issue(&mut draft, grant(&me)).expect("issued");
        for thief in [machine(2, 1), machine(1, 2), machine(2, 2)] {
            assert_eq!(redeem(&mut draft, &secret, &thief), Err(Enrollment::TicketForeign.into()));
        }
        assert!(redeem(&mut draft, &secret, &me).is_ok());
    }
}
