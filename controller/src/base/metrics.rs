//! What the controller counts, for `GET /metrics`; above all its refusals, by door and reason.
//!
//! [`Reason`] is closed and nothing that a peer sends becomes a label, so that no stranger can make the list long.
//! Whoever refuses counts: [`Metrics::refused`]. Reading is the business of `server`.

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::Response;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

macro_rules! labels {
    ($(#[$doc:meta])* $name:ident { $($(#[$inner:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$inner])* $variant,)*
        }

        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// As it is written in the metrics.
            pub const fn text(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }
        }

        impl EncodeLabelValue for $name {
            fn encode(&self, encoder: &mut LabelValueEncoder) -> Result<(), std::fmt::Error> {
                EncodeLabelValue::encode(&self.text(), encoder)
            }
        }
    };
}

labels! {
    /// Where somebody was refused.
    Door {
        /// The agents' port: handshakes and sessions.
        Agents = "agents",
        /// The agents' port, before there is a certificate.
        Enroll = "enroll",
        /// HTTP for machines that boot.
        Boot = "boot",
        /// HTTPS, and on it the operators' API.
        Api = "api",
        /// On HTTPS, what Cycle calls.
        Ial = "ial",
    }
}

labels! {
    /// Why.
    Reason {
        /// The handshake offers none of our protocols (ALPN).
        WrongAlpn = "wrong_alpn",
        /// A session without a certificate.
        NoCertificate = "no_certificate",
        /// A certificate of another CA.
        UnknownCa = "unknown_ca",
        /// A certificate that has ended, or has not begun.
        CertificateExpired = "certificate_expired",
        /// A certificate that is damaged, for another use, or without its key.
        BadCertificate = "bad_certificate",
        /// The machine has a newer certificate than this one.
        Superseded = "superseded",
        /// The machine is not known here.
        UnknownMachine = "unknown_machine",
        /// An operator keeps the machine out.
        Rejected = "rejected",
        /// The machine was retired.
        Retired = "retired",
        /// A handshake that was begun and not finished in time.
        HandshakeTimeout = "handshake_timeout",
        /// A handshake that failed otherwise.
        HandshakeFailed = "handshake_failed",
        /// Many handshakes are under way: the peer was asked to prove its address. An honest one does, and comes in.
        Retry = "retry",
        /// Every place is taken, or all that one address gets; or another took its place, which it had held for long.
        TooMany = "too_many",
        /// Too often from this address.
        RateLimited = "rate_limited",
        /// The controller had no room for it, or could not do it; the same may work later.
        Busy = "busy",
        /// A session that does not begin with a hello.
        HelloMissing = "hello_missing",
        /// The hello did not come in time.
        HelloLate = "hello_late",
        /// A second hello.
        HelloAgain = "hello_again",
        /// A connection that proves a way, and on which something else was asked.
        ProofMisused = "proof_misused",
        /// One that asked too often, or lasted too long.
        ProofOver = "proof_over",
        /// No common version.
        Version = "version",
        /// A frame or body that is announced, or is, larger than its kind allows.
        TooLarge = "too_large",
        /// What is not a message.
        Malformed = "malformed",
        /// Bytes after the message.
        Leftover = "leftover",
        /// A stream that ended within its message.
        Unfinished = "unfinished",
        /// A request that was begun and not finished in time.
        Timeout = "timeout",
        /// A message whose contents cannot be: a bad signing request, an impossible inventory, a wrong value.
        Invalid = "invalid",
        /// A ticket that nobody was given, or that was used.
        TicketUnknown = "ticket_unknown",
        /// A ticket after its time.
        TicketExpired = "ticket_expired",
        /// A ticket of another machine.
        TicketForeign = "ticket_foreign",
        /// An ISO that was revoked, or is not known here.
        IsoRevoked = "iso_revoked",
        /// A new machine without an ISO's credential, where one is asked for.
        IsoMissing = "iso_missing",
        /// As many machines wait for approval as there may be.
        PendingFull = "pending_full",
        /// What looks like a machine that may be on its way back, right after the controller's start.
        Awaited = "awaited",
        /// A request without a token.
        TokenMissing = "token_missing",
        /// A token that nobody can read, or is shown as it should not be.
        TokenMalformed = "token_malformed",
        /// A token that nobody was given, or that was revoked.
        TokenUnknown = "token_unknown",
        /// A token after its time.
        TokenExpired = "token_expired",
        /// No credential, or a wrong one.
        Unauthenticated = "unauthenticated",
        /// A good one that may not do this.
        Forbidden = "forbidden",
        /// There is nothing there.
        NotFound = "not_found",
        /// The present state does not allow it.
        Conflict = "conflict",
    }
}

impl Reason {
    /// The reason of a refusal over HTTP, by its status; `None` for what is no refusal.
    pub fn of_status(status: StatusCode) -> Option<Self> {
        match status.as_u16() {
            401 => Some(Self::Unauthenticated),
            403 => Some(Self::Forbidden),
            404 => Some(Self::NotFound),
            408 => Some(Self::Timeout),
            409 | 412 => Some(Self::Conflict),
            413 | 414 | 431 => Some(Self::TooLarge),
            422 => Some(Self::Invalid),
            429 => Some(Self::RateLimited),
            400..=499 => Some(Self::Malformed),
            503 | 507 => Some(Self::Busy),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refused {
    door: Door,
    reason: Reason,
}

/// The counters; clones are the same ones.
#[derive(Debug, Clone)]
pub struct Metrics {
    refusals: Family<Refused, Counter>,
    enrollments: Counter,
    outcomes: Family<[(&'static str, &'static str); 2], Counter>,
    phases: Family<[(&'static str, &'static str); 1], Histogram>,
    drift: Family<[(&'static str, &'static str); 1], Counter>,
}

/// Upper ends of what a phase of a change may take, in seconds.
const PHASE_SECONDS: [f64; 9] = [0.01, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0];

impl Default for Metrics {
    fn default() -> Self {
        Self {
            refusals: Family::default(),
            enrollments: Counter::default(),
            outcomes: Family::default(),
            phases: Family::new_with_constructor(|| Histogram::new(PHASE_SECONDS)),
            drift: Family::default(),
        }
    }
}

impl Metrics {
    /// Somebody was refused.
    pub fn refused(&self, door: Door, reason: Reason) {
        self.refusals.get_or_create(&Refused { door, reason }).inc();
    }

    /// How often that happened since the controller started.
    pub fn refusals(&self, door: Door, reason: Reason) -> u64 {
        self.refusals.get(&Refused { door, reason }).map_or(0, |counter| counter.get())
    }

    /// A machine enrolled.
    pub fn enrolled(&self) {
        self.enrollments.inc();
    }

    /// A machine came out of a change of its configuration: how, why in one word, and what each phase took in
    /// milliseconds. Phases of none are not counted. All words are ours, and few.
    pub fn came_out(
        &self,
        outcome: &'static str,
        reason: &'static str,
        phases: impl IntoIterator<Item = (&'static str, u32)>,
    ) {
        self.outcomes.get_or_create(&[("outcome", outcome), ("reason", reason)]).inc();
        for (phase, ms) in phases.into_iter().filter(|(_, ms)| *ms > 0) {
            self.phases.get_or_create(&[("phase", phase)]).observe(f64::from(ms) / 1000.0);
        }
    }

    /// How often changes came out like this since the controller started.
    pub fn outcomes(&self, outcome: &'static str, reason: &'static str) -> u64 {
        self.outcomes.get(&[("outcome", outcome), ("reason", reason)]).map_or(0, |counter| counter.get())
    }

    /// A machine told of a change of its network that nobody had asked it for, and what became of it.
    pub fn drifted(&self, outcome: &'static str) {
        self.drift.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// How often such changes came out like this since the controller started.
    pub fn drifts(&self, outcome: &'static str) -> u64 {
        self.drift.get(&[("outcome", outcome)]).map_or(0, |counter| counter.get())
    }

    /// Counts what `router` refuses: by the [`Reason`] in a response's extensions, else by its status.
    pub fn count(&self, door: Door, router: Router) -> Router {
        async fn counted(State((metrics, door)): State<(Metrics, Door)>, ask: Request, next: Next) -> Response {
            let response = next.run(ask).await;
            let said = response.extensions().get::<Reason>().copied();
            if let Some(reason) = said.or_else(|| Reason::of_status(response.status())) {
                metrics.refused(door, reason);
            }
            response
        }
        router.layer(middleware::from_fn_with_state((self.clone(), door), counted))
    }

    /// A registry that shows the counters, for others to add to.
    pub fn registry(&self) -> Registry {
        let mut registry = Registry::default();
        registry.register("muster_refusals", "What was refused, where and why", self.refusals.clone());
        registry.register("muster_enrollments", "Certificates given to machines that booted", self.enrollments.clone());
        let outcomes = "How machines came out of changes of their configuration, and why they were not kept";
        registry.register("muster_outcomes", outcomes, self.outcomes.clone());
        let drift = "Changes of machines' networks that nobody had asked them for, and what became of them";
        registry.register("muster_network_drift", drift, self.drift.clone());
        let phases = "How long the phases of these changes took, by the machines' clocks";
        registry.register_with_unit("muster_change_phase", phases, Unit::Seconds, self.phases.clone());
        registry
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_in_the_operators_guide() {
        let guide = include_str!("../../../docs/operating.md");
        for text in Door::ALL.iter().map(|door| door.text()).chain(Reason::ALL.iter().map(|reason| reason.text())) {
            assert!(guide.contains(&format!("`{text}`")), "{text} is not in docs/operating.md");
        }
    }

    #[test]
    fn a_refusal_is_written_by_door_and_reason() {
        let metrics = Metrics::default();
        metrics.refused(Door::Enroll, Reason::TicketUnknown);
        metrics.refused(Door::Enroll, Reason::TicketUnknown);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &metrics.registry()).expect("a text takes everything");
        assert!(text.contains("muster_refusals_total{door=\"enroll\",reason=\"ticket_unknown\"} 2\n"), "{text}");
        assert_eq!(metrics.refusals(Door::Enroll, Reason::TicketUnknown), 2);
        assert_eq!(metrics.refusals(Door::Agents, Reason::TicketUnknown), 0);
    }

    #[test]
    fn how_changes_come_out_is_written_by_outcome_reason_and_phase() {
        let metrics = Metrics::default();
        metrics.came_out("confirmed", "", [("make", 1_500), ("switch", 0)]);
        metrics.came_out("reverted", "no-gateway", [("make", 500), ("switch", 40)]);
        metrics.drifted("repaired");
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &metrics.registry()).expect("a text takes everything");
        for line in [
            "muster_outcomes_total{outcome=\"confirmed\",reason=\"\"} 1\n",
            "muster_outcomes_total{outcome=\"reverted\",reason=\"no-gateway\"} 1\n",
            "muster_network_drift_total{outcome=\"repaired\"} 1\n",
            "muster_change_phase_seconds_sum{phase=\"make\"} 2.0\n",
            "muster_change_phase_seconds_count{phase=\"make\"} 2\n",
            "muster_change_phase_seconds_bucket{le=\"0.5\",phase=\"make\"} 1\n",
            "muster_change_phase_seconds_count{phase=\"switch\"} 1\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
    }
}
