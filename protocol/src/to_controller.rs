//! What an agent tells a controller: one stream each, one answer each.

use serde::{Deserialize, Serialize};

use crate::bounded::{self, at_most};
use crate::drift::Drift;
use crate::frame::Message;
use crate::hello::{Hello, Progress, Times, Welcome};
use crate::ids::{Digest, DiskId, Generation, OperationId};
use crate::inventory::health::{self, Health};
use crate::inventory::{self, Inventory};
use crate::secret::DiskKey;

/// A request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Call {
    /// The first stream of every session, and only the first.
    Hello(Hello),
    /// The whole inventory: when asked for by [`Welcome`], and again whenever it changes.
    Inventory(Box<Inventory>),
    /// How far the machine is with its desired state; sent at each change.
    Progress(Progress),
    /// "I reach you over the new configuration": what the agent needs an answer to before it keeps a change.
    Confirm {
        /// The generation in force on the machine.
        generation: Generation,
        /// [`Digest::of_value`] of its [`crate::desired::Desired`].
        desired: Digest,
        /// How long it took up to now.
        times: Times,
    },
    /// How far a wipe is.
    Work {
        /// From [`crate::to_agent::Wipe`].
        operation: OperationId,
        /// How far.
        state: Work,
    },
    /// A new certificate for the same key, before this one ends.
    Renew {
        /// Certificate signing request in DER (RFC 2986).
        #[serde(deserialize_with = "at_most::<{ bounded::CSR_BYTES }, _, _>")]
        csr: Vec<u8>,
    },
    /// "I reach you over the way that I shall have": changes nothing, and is repeated to see that the way holds.
    /// The first request of a connection may be this instead of a hello. Such a connection is a proof and no session: it
    /// takes the place of none, [`PROOF_REQUESTS`] of this and of [`Call::Confirm`] are answered on it, and it ends after
    /// [`PROOF_SECONDS`].
    Prove {
        /// The generation that is to be.
        generation: Generation,
    },
    /// Somebody changed the network, or what was told of that is out of date. Told once in every session in whose boot
    /// there was any, and at each change.
    Drift(Drift),
    /// A file of the controller's, by its contents: what an image left out, so that every boot need not carry it. Bytes
    /// follow [`Answer::File`] on the stream, from `offset` to the file's end. One at a time: a second one ends the first.
    /// A stream that ends early is no error of the session; the rest is asked for by its offset.
    Fetch {
        /// SHA-256 of the whole file.
        digest: Digest,
        /// The first byte that is wanted, at most the file's length.
        offset: u64,
    },
    /// How the machine's drives say that they are: once in every session, and at each change.
    Health(Health),
    /// The key of an encrypted volume that the machine's desired state describes, and whose key is the controller's.
    /// Asking again is answered with the same key.
    Key {
        /// What the volume is called in the desired state.
        name: String,
        /// UUID in its header, in the byte order in which it is printed.
        uuid: [u8; 16],
        /// What for.
        use_for: KeyUse,
    },
}

/// What a key is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyUse {
    /// The volume is about to be made: a key is made as well, unless there is one.
    Make,
    /// It is there. A key that was made now would not open it.
    Open,
}

/// The most requests of a connection that proves a way.
pub const PROOF_REQUESTS: usize = 64;
/// The longest life of a connection that proves a way, in seconds.
pub const PROOF_SECONDS: u64 = 60;

impl Message for Call {
    // An inventory with every list full has about 54 KiB, and a store takes no larger value.
    const LIMIT: usize = 64 * 1024;
}

/// How far a piece of work is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Work {
    /// At it.
    Running {
        /// 0 to 100.
        percent: u8,
        /// In words.
        step: String,
    },
    /// Done, with proof.
    Done {
        /// One per disk.
        #[serde(deserialize_with = "at_most::<{ bounded::DISKS }, _, _>")]
        receipts: Vec<WipeReceipt>,
    },
    /// Given up.
    Failed {
        /// For the operator.
        why: String,
    },
}

/// What was done to one disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WipeReceipt {
    /// Which one.
    pub disk: DiskId,
    /// In words: `overwritten`, `discarded`, `NVMe format`, ….
    pub method: String,
    /// Bytes of the disk.
    pub size_bytes: u64,
    /// Bytes that were destroyed: all, or those that signatures lie in.
    pub bytes: u64,
    /// Bytes read back and found to be zero.
    pub verified_bytes: u64,
    /// How long it took.
    pub milliseconds: u64,
}

/// The controller's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// To [`Call::Hello`].
    Welcome(Welcome),
    /// Heard and, where it matters, durable.
    Accepted,
    /// To [`Call::Renew`]: the chain in DER, leaf first, CA last.
    Renewed {
        /// DER.
        certificates: Vec<Vec<u8>>,
    },
    /// No.
    Refused(Refusal),
    /// To [`Call::Fetch`]: what was asked for of the file follows.
    File {
        /// The length of the whole file.
        bytes: u64,
    },
    /// To [`Call::Key`]. It is durable on the controller.
    Key(DiskKey),
}

impl Message for Answer {
    const LIMIT: usize = 16 * 1024;
}

/// Why a controller refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// None of the offered versions is spoken here.
    #[error("the controller speaks none of the offered protocol versions")]
    Version,
    /// Something else came first.
    #[error("the first message of a session must be a hello")]
    HelloFirst,
    /// A hello came again.
    #[error("a session says hello once")]
    HelloAgain,
    /// The machine is unknown here, or was removed.
    #[error("this machine is not known here any more; boot it again to enroll")]
    UnknownMachine,
    /// The confirmed state is not the one that is desired now.
    #[error("another generation is desired by now")]
    Outdated,
    /// The signing request is not valid.
    #[error("the certificate signing request is not valid")]
    BadRequest,
    /// Try again later.
    #[error("the controller cannot do this now; try again")]
    Busy,
    /// There is no file of these contents.
    #[error("the controller has no such file")]
    NoSuchFile,
    /// The desired state has no encrypted volume of this name whose key is the controller's.
    #[error("the machine's document has no such encrypted volume whose key is the controller's")]
    NotDesired,
    /// It has no key of a volume that is there.
    #[error(
        "the controller has no key of this volume: it was made for another machine or by another controller, or the \
         controller's database is older than the volume; give the document `wipe_volume: true` to make it anew, or restore \
         the database"
    )]
    NoSuchKey,
    /// A machine has as many keys as it may have.
    #[error("the controller keeps as many keys for this machine as it does for one; have all of its disks wiped first")]
    TooManyKeys,
}

/// The most memory that a decoded [`Call`] takes: the fullest inventory, with the heap's own room for texts left out.
pub const MEMORY: usize = Call::LIMIT
    + bounded::DISKS * size_of::<inventory::Disk>()
    + bounded::ARRAYS * size_of::<inventory::Array>()
    + bounded::DIMMS * size_of::<inventory::Dimm>()
    + bounded::NICS * (size_of::<inventory::Nic>() + bounded::NIC_ADDRESSES * size_of::<ipnet::IpNet>())
    + bounded::NICS * size_of::<String>()
    + bounded::LINKS * (size_of::<inventory::Link>() + bounded::LINK_ADDRESSES * size_of::<ipnet::IpNet>())
    + bounded::FLAGS * size_of::<String>()
    + size_of::<Inventory>();

// A health report with every list full takes less.
const _: () = assert!(bounded::DISKS * size_of::<health::Drive>() <= bounded::DISKS * size_of::<inventory::Disk>());
