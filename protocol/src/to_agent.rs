//! What a controller asks of an agent: one stream each, one answer each.
//!
//! Nothing long is awaited on a stream.
//! An agent answers [`Answer::Accepted`] once it has taken the work on, and tells how it goes with
//! [`crate::to_controller::Call::Progress`] and [`crate::to_controller::Call::Work`], over whichever session is up then:
//! the very work asked for may cut this one.

use serde::{Deserialize, Serialize};

use crate::bounded::{self, at_most};
use crate::desired::{Desired, Permit, Problem};
use crate::frame::Message;
use crate::ids::{BootId, Digest, DiskId, Generation, OperationId};
use crate::observed::{self, Observed};

/// A request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Call {
    /// What would `Apply` do? Changes nothing.
    Plan(Desired),
    /// Make it so. Follows the generation rule: older is refused, equal and same is accepted and nothing happens,
    /// equal and different is refused, newer is applied.
    Apply(Apply),
    /// Tell what the kernel says now.
    Observe,
    /// Reboot or power off. Acknowledged before it acts, and acts at most once.
    Power(Power),
    /// Destroy what these disks carry. Repeating it with the same operation while it runs starts nothing new.
    Wipe(Wipe),
    /// Believe controllers of these CAs and of no other, until the end of this boot. Accepted once it is kept.
    Trust {
        /// SHA-256 of their certificates in DER, 1 to [`CAS`]. Certificates of agents are signed by the first from now on:
        /// an agent that has one of another asks for a new one at once.
        cas: Vec<Digest>,
    },
}

/// The most CAs that are trusted at once: one, and the one before it while machines leave it, with room to spare.
pub const CAS: usize = 4;

impl Message for Call {
    const LIMIT: usize = 64 * 1024;
}

/// Arguments of [`Call::Apply`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Apply {
    /// Orders it among the machine's desired states.
    pub generation: Generation,
    /// The whole of it.
    pub desired: Desired,
    /// What may be destroyed on the way.
    pub permit: Option<Permit>,
    /// Seconds to prove, after the change, that the controller is reached; 5 to 300. Then it is undone.
    pub confirm_within_s: u16,
}

/// Arguments of [`Call::Power`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Power {
    /// A second request with the same id does not act.
    pub operation: OperationId,
    /// The boot that is meant to end; another one refuses.
    pub boot: BootId,
    /// What to do.
    pub action: PowerAction,
}

/// What can be done to a running machine from inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PowerAction {
    /// Start again, through the firmware.
    Reboot,
    /// Stay off.
    Off,
}

/// Arguments of [`Call::Wipe`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wipe {
    /// Names the work in [`crate::to_controller::Call::Work`].
    pub operation: OperationId,
    /// The disks that lose everything.
    pub disks: Vec<DiskId>,
    /// How thoroughly.
    pub level: WipeLevel,
}

/// How thoroughly disks are wiped. What a disk cannot do itself is done by overwriting it: a level is what holds afterwards
/// at least.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WipeLevel {
    /// Nobody recognizes what was there: both ends of the disk and of each partition are zeroed. The data stays.
    Signatures,
    /// All of it reads as zeros: discarded where the disk guarantees that, else overwritten.
    Quick,
    /// All of it is overwritten with zeros.
    #[default]
    Full,
    /// The disk erases itself, blocks included that it has set aside (NVMe sanitize or format, ATA security erase); then it
    /// reads as zeros. Overwritten where it has none of these.
    Secure,
}

/// An agent's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// To [`Call::Plan`].
    Planned(Plan),
    /// Taken on; the rest is told later.
    Accepted,
    /// To [`Call::Observe`].
    Observed(Box<Observed>),
    /// No, and nothing was changed.
    Refused(Refusal),
}

impl Message for Answer {
    const LIMIT: usize = 128 * 1024;
}

/// Why an agent refuses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// A newer generation was accepted before.
    #[error("generation {offered} is older than {current}, which this machine has")]
    Outdated {
        /// What was offered.
        offered: Generation,
        /// What the machine has.
        current: Generation,
    },
    /// The same generation with another body was accepted before.
    #[error("generation {generation} was accepted before with different contents")]
    Conflict {
        /// Which one.
        generation: Generation,
    },
    /// The desired state is not well formed.
    #[error("the desired state has {} problem(s), first: {}", .0.len(), .0.first().map(ToString::to_string).unwrap_or_default())]
    Invalid(#[serde(deserialize_with = "at_most::<1024, _, _>")] Vec<Problem>),
    /// The desired state does not fit this machine.
    #[error("{0}")]
    Impossible(String),
    /// The plan destroys, and no permit names it.
    #[error(
        "the plan destroys what is on {0} and was not permitted; look at it with muster plan, then permit it with \
         muster apply --permit-destroy={0}",
        disks.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    )]
    PermitNeeded {
        /// The disks that would lose what they carry.
        #[serde(deserialize_with = "at_most::<{ bounded::DISKS }, _, _>")]
        disks: Vec<DiskId>,
        /// The plan that would do it.
        plan: Digest,
    },
    /// The agent only observes: it was not started to manage this.
    #[error("this agent only observes; start it with --manage to let it change the machine")]
    ObserveOnly,
    /// Other work is under way.
    #[error("the machine is busy: {0}")]
    Busy(String),
    /// The request names a boot that has ended.
    #[error("the request is for another boot of this machine")]
    OtherBoot,
    /// The machine is not approved.
    #[error("the machine is not approved")]
    Pending,
    /// The plan destroys, and the permit is for another one.
    #[error(
        "the plan destroys what is on {0}, and the permit is not for this plan: it was used before, or given for another \
         machine, or before this one booted, or the document or the disks have changed since; look at it with muster \
         plan, then permit it with muster apply --permit-destroy={0}",
        disks.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    )]
    PermitVoid {
        /// The disks that would lose what they carry.
        #[serde(deserialize_with = "at_most::<{ bounded::DISKS }, _, _>")]
        disks: Vec<DiskId>,
        /// The plan that would do it.
        plan: Digest,
    },
}

/// What an agent would do, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Empty where the machine is already as desired.
    #[serde(deserialize_with = "at_most::<4096, _, _>")]
    pub steps: Vec<Step>,
    /// What an operator should know although all can be as desired, one line each: disks that are missing.
    #[serde(deserialize_with = "at_most::<{ bounded::DISKS }, _, _>")]
    pub notices: Vec<String>,
    /// Names this plan in a [`Permit`]: covers the steps, which disks they touch, what those carry and, where anything is
    /// lost, the machine's boot and how many permits were used in it. So a permit is good once, on one machine.
    pub digest: Digest,
}

/// One step of a plan, for people and for permits; the agent's own form of it stays in the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// One line, imperative: `add address 192.0.2.7/24 to eth0`.
    pub action: String,
    /// What it costs.
    pub impact: Impact,
}

/// What a step costs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Impact {
    /// Nobody notices.
    None,
    /// Addresses or routes go, and whoever talks over them with them.
    AddressesChange,
    /// A link goes away for seconds, and all that is on it.
    LinkDrops,
    /// The machine may lose its way to the controller, which is why the step is confirmed or undone.
    ControlPath,
    /// What these disks carry is lost, or a part of it.
    Destroys(#[serde(deserialize_with = "at_most::<{ bounded::DISKS }, _, _>")] Vec<DiskId>),
}

/// The most memory that a decoded [`Answer`] takes: what is in its lists is at most eight times as large as on the wire.
pub const ANSWER_MEMORY: usize = 8 * Answer::LIMIT
    + bounded::DISKS * size_of::<observed::Disk>()
    + bounded::ARRAYS * (size_of::<observed::Array>() + bounded::ARRAY_MEMBERS * size_of::<observed::ArrayMember>());
