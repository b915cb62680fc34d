//! What must outlive the agent's process so that a restarted one neither goes back a generation nor leaves a change
//! half done: which generation was accepted, how far it is, and what the network was before.

use muster_protocol::desired::Desired;
use muster_protocol::hello::Progress;
use muster_protocol::observed;
use muster_protocol::{BootId, Digest, Generation};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::keep::Keep;
use crate::plan::network::BootNic;

/// Where [`Kept`] lies.
pub const NAME: &str = "reconcile";

/// What is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The generation rule's memory.
    pub accepted: Option<(Generation, Digest)>,
    /// How far it is.
    pub progress: Progress,
    /// The desired state that was confirmed last: what is in force unless a change is under way.
    pub confirmed: Option<Desired>,
    /// The network as it was, while steps change it. `Some` means: undo.
    pub before: Option<observed::Network>,
    /// What an undoing that did not hold was to lead back to, until the controller answers by whatever there is.
    pub stranded: Option<observed::Network>,
    /// What led home instead, once something did.
    pub home: Option<observed::Network>,
    /// NICs as they were seen first in this boot: by those names they are known again after the next one.
    pub nics: Vec<BootNic>,
    /// How many permits to destroy were used in this boot: each of them was good once.
    pub permits_used: u32,
    /// A session came about with the network as it boots: another one that was handed is not tried any more.
    pub home_as_it_boots: bool,
}

/// A new form is a new variant.
#[derive(Serialize, Deserialize)]
enum Form<T> {
    V1 { boot: BootId, kept: T },
}

/// What was kept under this name in this boot. Of another boot nothing is true any more: addresses and mounts went with it.
pub fn load<T: DeserializeOwned + Default>(keep: &Keep, name: &'static str, boot: BootId) -> T {
    match keep.read(name).map(|bytes| postcard::from_bytes(&bytes)) {
        Some(Ok(Form::V1 { boot: of, kept })) if of == boot => kept,
        Some(Ok(_)) | None => T::default(),
        Some(Err(_)) => {
            crate::warn!("what was kept of \"{name}\" cannot be read; starting afresh");
            T::default()
        }
    }
}

/// Keeps it. A failure is logged: the machine goes on, only a crash from now on would forget it.
pub fn save<T: Serialize>(keep: &Keep, name: &'static str, boot: BootId, kept: &T) {
    let form = Form::V1 { boot, kept };
    let written = postcard::to_stdvec(&form).map_err(std::io::Error::other).and_then(|bytes| keep.write(name, &bytes));
    if let Err(error) = written {
        crate::warn!("could not keep \"{name}\": {error}");
    }
}
