//! What is stored, one struct per kind. Times are milliseconds since 1970 UTC.
//!
//! Frozen once released: see `Stored` in [`super::state`].

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use muster_ipxe::param::BootUrl;
use muster_protocol::desired::{Desired, Permit};
use muster_protocol::enroll::Identity;
use muster_protocol::hello::Progress;
use muster_protocol::inventory::Inventory;
use muster_protocol::to_agent::WipeLevel;
use muster_protocol::{BootId, Digest, Generation, Mac, MachineId, OperationId};
use serde::{Deserialize, Serialize};

use super::Facts;
pub use super::enrollment::told::Told;
pub use super::machine::health::{DriveKey, DriveRecord};
use super::operation::drift::Drifting;
pub use super::operation::record::{Decommission, Operation, OperationKind, OperationState, OperationStep};

/// One physical box.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Chosen at first enrollment.
    pub id: MachineId,
    /// For people; unique among machines that are not retired.
    pub name: String,
    /// Code of its location, from the medium it booted from.
    pub location: String,
    /// Operators' own words.
    pub labels: BTreeMap<String, String>,
    /// Where it is in its life.
    pub lifecycle: Lifecycle,
    /// An operator's wish to leave it out.
    pub maintenance: Maintenance,
    /// What it said of itself at its last enrollment.
    pub identity: Identity,
    /// Shown on its console while it is pending.
    pub claim: String,
    /// Which machines it may be, likeliest first: an operator must say. Empty where there is no doubt.
    pub doubt: Vec<MachineId>,
    /// Where its first enrollment came from, as [`crate::source::whole`] says it; `None` for what no agent asked for.
    pub source: Option<IpAddr>,
    /// How often its enrollments went into the audit log lately.
    pub told: Told,
    /// The ISO that it last booted from, by its id; empty where it came without one.
    pub iso: String,
    /// Whether it last came with an operator's ticket: then its location is more than a claim.
    pub invited: bool,
    /// SHA-256 of the public key (SubjectPublicKeyInfo, DER) whose certificates are in force; zeros for none. A renewed
    /// certificate is for the same key, so that renewing needs no write and loses nothing in a crash.
    pub certificate: Digest,
    /// The CAs that its agent was told of in this boot and has kept; empty where it knows what its boot script said.
    pub trusts: Vec<Digest>,
    /// First enrollment.
    pub created_unix_ms: u64,
    /// The last boot that said hello.
    pub boot: Option<BootId>,
    /// The highest generation ever given to it.
    pub generation: Generation,
    /// How the newest generation that came to an end ended; `Idle` where none did.
    pub outcome: Progress,
    /// Changes of its network that nobody asked it for, and what it is to do about them.
    pub drift: Drifting,
    /// Grows with every change of this record; for ETags.
    pub version: u64,
}

/// Where a machine is in its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lifecycle {
    /// Waits for approval.
    Pending,
    /// An operator said no.
    Rejected,
    /// Approved and free.
    Available,
    /// Somebody has it.
    Leased {
        /// Which lease.
        lease: String,
    },
    /// Its lease ended; it is being wiped.
    Cleaning {
        /// The work.
        operation: OperationId,
    },
    /// Out of the fleet; enrolls no more.
    Retired,
}

impl Lifecycle {
    /// Whether somebody let it in, and nobody put it out.
    pub fn is_in(&self) -> bool {
        matches!(self, Self::Available | Self::Leased { .. } | Self::Cleaning { .. })
    }
}

/// An operator's wish to leave a machine out of leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Maintenance {
    /// In use.
    Off,
    /// Left out.
    On,
}

/// What a machine is made of, as it last said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineInventory {
    /// Whose.
    pub machine: MachineId,
    /// When it came.
    pub at_unix_ms: u64,
    /// The whole of it.
    pub inventory: Inventory,
    /// The NIC that carries its session, by its permanent MAC; `None` where it was never said.
    pub primary: Option<Mac>,
}

/// What a machine should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredState {
    /// Whose.
    pub machine: MachineId,
    /// Which one of the machine's.
    pub generation: Generation,
    /// The whole of it.
    pub desired: Desired,
    /// What may be destroyed on the way.
    pub permit: Option<Permit>,
    /// [`Digest::of_value`] of `desired`.
    pub digest: Digest,
    /// The operation that follows it.
    pub operation: OperationId,
}

/// A site.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Location {
    /// Short and stable: `ber1`.
    pub code: String,
    /// For people.
    pub name: String,
    /// Where it is on earth.
    pub geographic: Geographic,
    /// Short form for maps, such as `BER`.
    pub abbreviation: String,
    /// Availability zones.
    pub zones: Vec<String>,
    /// How thoroughly disks of machines here are wiped after a lease.
    pub wipe: WipeLevel,
    /// What machines start while they are leased, in the agent's place; `None` where they go on with the agent.
    pub boot_target: Option<BootUrl>,
    /// OpenSSH public keys that leased machines here are told of.
    pub ssh_keys: Vec<String>,
    /// What they are told beside that, for the first boot of whatever they start; may hold secrets.
    pub user_data: String,
    /// Operators' own words.
    pub annotations: BTreeMap<String, String>,
}

/// Where a location is on earth. Angles are in millionths of a degree, so that records compare.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Geographic {
    /// North is positive.
    pub latitude_micro: i32,
    /// East is positive.
    pub longitude_micro: i32,
    /// City.
    pub city: String,
    /// State or province.
    pub state: String,
    /// Country.
    pub country: String,
    /// Region, such as `europe`.
    pub region: String,
}

/// Leave to enroll once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// Of the ticket; the ticket itself is not stored.
    pub digest: Digest,
    /// Where the machine that asked is.
    pub location: String,
    /// The ISO whose credential it showed; empty where it showed none.
    pub iso: String,
    /// Whether a machine that is not in may join with it.
    pub joins: bool,
    /// The machine whose network is handed out with it, where it was asked for in the name of one.
    pub hands: Option<MachineId>,
    /// Who may use it.
    pub bound: TicketBound,
    /// Good until.
    pub expires_unix_ms: u64,
}

/// Who may use a ticket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TicketBound {
    /// The machine with this UUID, or where it has none, with one of these MACs.
    Machine {
        /// SMBIOS UUID.
        uuid: Option<[u8; 16]>,
        /// MACs that the boot script was asked with.
        macs: Vec<Mac>,
    },
    /// Whoever holds it: made by an operator for an agent that runs as a process.
    Bearer,
}

/// A site's boot medium and the credential that it carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Iso {
    /// The first 12 hex digits of the credential's digest; the medium shows it when it boots.
    pub id: String,
    /// Code of the location that it is for.
    pub location: String,
    /// Where its machines reach the controller.
    pub controllers: Vec<String>,
    /// Where it was written, on the host that built it.
    pub file: String,
    /// Size.
    pub bytes: u64,
    /// SHA-256 of the whole medium.
    pub sha256: Digest,
    /// SHA-256 of the site credential; the credential itself is on the medium alone.
    pub credential: Digest,
    /// The CA that a sealed medium pins, by the SHA-256 of its certificate; `None` for one that asks over the network.
    pub sealed: Option<Digest>,
    /// The boot CA that another one pins for its UEFI machines, in the same way.
    pub boot_ca: Option<Digest>,
    /// Built.
    pub created_unix_ms: u64,
    /// Since when it lets nobody join.
    pub revoked_unix_ms: Option<u64>,
}

impl Iso {
    /// Whether it lets machines join.
    pub fn is_good(&self) -> bool {
        self.revoked_unix_ms.is_none()
    }
}

/// A rule by which machines are approved without an operator's hand. All of its conditions must hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// For people; unique.
    pub name: String,
    /// Only machines at the location with this code; everywhere where empty.
    pub location: String,
    /// Only machines that are one of these; any where empty.
    pub hardware: Vec<Hardware>,
    /// Only machines that came with such an ISO.
    pub iso: IsoRule,
    /// Approves at most so many machines.
    pub machines: Option<u32>,
    /// Approves nobody after this time.
    pub until_unix_ms: Option<u64>,
    /// Has approved so many.
    pub approved: u32,
    /// Made.
    pub created_unix_ms: u64,
}

/// Something that names one machine's hardware.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hardware {
    /// System or board serial.
    Serial(String),
    /// SMBIOS UUID.
    Uuid([u8; 16]),
    /// MAC of one of its NICs.
    Mac(Mac),
}

/// Which ISOs a policy asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum IsoRule {
    /// None is needed.
    Unasked,
    /// Any whose credential is good.
    Any,
    /// The one with this id.
    Only(String),
}

/// An operator's token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Public part, eight hex digits.
    pub id: String,
    /// Whose, or what for.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// SHA-256 of the secret part.
    pub secret: Digest,
    /// Made.
    pub created_unix_ms: u64,
    /// Good until, for ever where absent.
    pub expires_unix_ms: Option<u64>,
}

/// What a token may do; each role may do what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Read.
    Viewer,
    /// Change machines, addresses, locations.
    Operator,
    /// Tokens and credentials as well.
    Admin,
}

/// A request that named itself and was carried out; see [`super::answered`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// Of the asker and its Idempotency-Key.
    pub key: Digest,
    /// Of what was asked.
    pub request: Digest,
    /// What came of it.
    pub subject: String,
    /// When.
    pub at_unix_ms: u64,
}

/// One line of the change feed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Grows by one.
    pub seq: u64,
    /// When.
    pub at_unix_ms: u64,
    /// Stable and dotted: `machine.approved`.
    pub kind: String,
    /// Which machine, operation, ….
    pub subject: String,
    /// For people.
    pub text: String,
}

/// One line of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Grows by one.
    pub seq: u64,
    /// When.
    pub at_unix_ms: u64,
    /// Who.
    pub who: String,
    /// From which address and port, empty for the controller itself.
    pub from: String,
    /// The request's id, empty for the controller itself.
    pub request: String,
    /// Stable and dotted, as in the change feed.
    pub action: String,
    /// On what.
    pub subject: String,
    /// What it was; nothing where it was not.
    pub before: Facts,
    /// What it is; nothing where it is no more.
    pub after: Facts,
    /// What came of it.
    pub result: AuditResult,
    /// SHA-256 of the entry before, as [`super::audit::Line`] writes it; zeros in the first.
    pub previous: Digest,
}

/// What came of a change that somebody asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AuditResult {
    /// It was made.
    Done,
    /// It was not.
    Refused {
        /// In the words of the answer.
        why: String,
    },
}

/// Where the audit log ends; one record, written with every entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditHead {
    /// The newest entry.
    pub seq: u64,
    /// SHA-256 of its line.
    pub digest: Digest,
}

/// Addresses that may be handed out at one location. Network and broadcast address are never handed out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// Its prefix, without host bits; overlaps with no other subnet.
    pub net: IpNet,
    /// Code of the location where it is on the wire.
    pub location: String,
    /// The router of those who get an address from it; `None` for a network that leads nowhere else.
    pub gateway: Option<IpAddr>,
    /// Resolvers of those who get an address from it.
    pub nameservers: Vec<IpAddr>,
    /// What is never handed out, besides the gateway.
    pub reserved: Vec<AddressRange>,
    /// Which of its addresses stand for public ones. Where there are any, leases and pools get no others.
    pub nat: Vec<NatRange>,
    /// How many bits the prefix of one pool of Cycle's has, for IPv6; `None` for single addresses.
    pub block: Option<u8>,
    /// For how many seconds an address that was given back is nobody's.
    pub quarantine_s: u32,
}

/// Private addresses and the public ones that some router translates to them, one to one and in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatRange {
    /// Within the subnet: what machines have.
    pub private: IpNet,
    /// As long, and in no subnet: what the world sees.
    pub public: IpNet,
}

/// Addresses from `first` to `last`, both included; both of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressRange {
    /// Lowest.
    pub first: IpAddr,
    /// Highest.
    pub last: IpAddr,
}

/// Addresses in somebody's hands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// What was handed out: one address as /32 or /128, or a block of IPv6. Where pairs translate it, the private one.
    pub block: IpNet,
    /// The subnet it is from.
    pub subnet: IpNet,
    /// Who has it.
    pub holder: AddressHolder,
    /// Since when.
    pub since_unix_ms: u64,
}

/// Who has an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AddressHolder {
    /// A machine, for itself, until its disks and its memory are clean again.
    Machine {
        /// Which one.
        machine: MachineId,
        /// For which lease.
        lease: String,
    },
    /// A pool of Cycle's, until Cycle releases it.
    Pool {
        /// Whose.
        hub: String,
        /// Cycle's id of the pool, empty where it gave none.
        pool: String,
        /// The lease that it was asked for.
        lease: String,
        /// Names this handing-out: another one of the same address has another name. 128 random bits in hex.
        assignment: String,
    },
    /// A machine, at an operator's word, until an operator takes it back or the machine is retired.
    Assigned {
        /// Which one.
        machine: MachineId,
    },
    /// Nobody: it was given back, and others may still take it for whoever had it.
    Quarantine {
        /// Until when.
        until_unix_ms: u64,
    },
}

/// What an operator says of a server model; the rest comes from the hardware. Empty texts leave it to the hardware.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelCard {
    /// [`super::model::Hardware::id`].
    pub id: String,
    /// For people.
    pub name: String,
    /// For people.
    pub description: String,
    /// First of the two words that Cycle groups models by.
    pub category: String,
    /// Second of them.
    pub class: String,
    /// Thousandths of a dollar.
    pub hourly_mils: u64,
    /// Thousandths of a dollar.
    pub monthly_mils: u64,
}

/// What a hub of Cycle's shows to use the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// Public part, Cycle's `api_key`.
    pub key: String,
    /// Who holds it. Credentials of one hub see the same leases, so that they can be exchanged.
    pub hub: String,
    /// Which of Cycle's hubs may use it.
    pub good_for: HubRule,
    /// Which locations it is for.
    pub places: PlaceRule,
    /// SHA-256 of the secret part.
    pub secret: Digest,
    /// Made.
    pub created_unix_ms: u64,
}

/// Which of Cycle's hubs may use a credential.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HubRule {
    /// Whoever has the secret.
    Any,
    /// The hub with this id of Cycle's; a call that names another one, or none, is refused.
    Only(String),
}

/// Which locations a credential is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PlaceRule {
    /// All of them.
    Anywhere,
    /// Those with these codes: what is elsewhere is not shown, nor touched.
    Only(Vec<String>),
}

impl PlaceRule {
    /// Whether it is for the location of this code.
    pub fn allows(&self, code: &str) -> bool {
        match self {
            Self::Anywhere => true,
            Self::Only(codes) => codes.iter().any(|allowed| allowed == code),
        }
    }
}

/// A machine in a hub's hands, a "server" in Cycle's words. Its record goes when it has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Cycle's `server_id`: opaque, never used again.
    pub id: String,
    /// Whose.
    pub hub: String,
    /// Cycle's own id of the server, empty where it gave none; with `hub` the key that makes a repeated order one order.
    pub cycle_server: String,
    /// Chosen by Cycle, may be empty.
    pub hostname: String,
    /// The ordered model.
    pub model: String,
    /// The ordered location.
    pub location: String,
    /// The ordered zone, empty for any.
    pub zone: String,
    /// When it was ordered.
    pub created_unix_ms: u64,
    /// Machines that could not be prepared for it.
    pub tried: Vec<MachineId>,
    /// How far it is.
    pub state: LeaseState,
}

/// How far a lease is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LeaseState {
    /// A machine could not be prepared; the next one is about to be chosen.
    Seeking {
        /// Why not that one.
        why: String,
    },
    /// A machine is being prepared.
    Preparing {
        /// Which one, with what it will be.
        seat: Seat,
        /// The work.
        operation: OperationId,
    },
    /// The machine is in the hub's hands.
    Ready {
        /// Which one; does not change any more.
        seat: Seat,
    },
    /// No machine could be prepared.
    Failed {
        /// For whoever ordered.
        why: String,
    },
    /// The hub gave it back; the machine is being cleaned.
    Ending {
        /// Which one.
        machine: MachineId,
    },
}

/// What a hub is told of the machine it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seat {
    /// Which one.
    pub machine: MachineId,
    /// SMBIOS UUID, where it has one.
    pub uuid: Option<[u8; 16]>,
    /// Permanent MAC of its primary NIC.
    pub mac: Mac,
    /// Its own addresses, IPv4 first.
    pub addresses: Vec<IpAddr>,
}
