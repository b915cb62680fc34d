//! Which steps need the key of an encrypted volume, and of which header it is the key.

use muster_protocol::MachineId;
use muster_protocol::desired::{Key, UNFINISHED_LAYER};
use muster_protocol::observed::{Contents, Headers, Luks};
use serde::Serialize;

use super::{Device, Step, Target, in_words};

/// The LUKS2 header that is opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Header {
    /// An earlier step of the same plan makes it.
    Made,
    /// The plan saw it; the UUID that it has.
    Seen(String),
    /// What it lies in did not run when the plan was made. It has to be like this.
    Unseen {
        /// Empty for none.
        label: String,
        /// Any, where the document says none.
        uuid: Option<[u8; 16]>,
    },
}

/// What is done to a volume, and needs its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyFor<'a> {
    /// It is made, with this UUID where the document says one.
    Making(Option<[u8; 16]>),
    /// It is opened.
    Opening(&'a Header),
}

impl Step {
    /// The volume whose key the step needs: what it is called, where the key comes from, and what for.
    pub fn key(&self) -> Option<(&str, Key, KeyFor<'_>)> {
        match self {
            Self::MakeLuks { luks, .. } => Some((&luks.name, luks.key, KeyFor::Making(luks.uuid))),
            Self::Open { luks: Target { device: Device::Luks { name }, .. }, header, key, .. } => {
                Some((name, *key, KeyFor::Opening(header)))
            }
            _ => None,
        }
    }
}

impl Header {
    /// The header in what a device carries.
    ///
    /// Errors: it is not this one; what is there instead, in words.
    pub fn of<'c>(&self, carried: &'c Contents) -> Result<&'c Luks, String> {
        let Contents::Luks(found) = carried else { return Err(self.but(in_words(carried, &[]))) };
        let differs = match self {
            Self::Made => None,
            Self::Seen(uuid) => (found.uuid != *uuid).then(|| "another one".to_owned()),
            Self::Unseen { label, uuid } => differs(label, *uuid, found),
        };
        differs.map_or(Ok(&**found), |why| Err(self.but(format!("{}: {why}", in_words(carried, &[])))))
    }

    fn but(&self, found: String) -> String {
        match self {
            Self::Made | Self::Seen(_) => found,
            Self::Unseen { .. } => format!("{found}; this could not be seen before it ran, so apply again"),
        }
    }
}

/// The first way in which a header contradicts the document.
pub(super) fn differs(label: &str, uuid: Option<[u8; 16]>, found: &Luks) -> Option<String> {
    let uuid = uuid.map(|uuid| MachineId::from_bytes(uuid).to_string());
    if found.version != 2 {
        Some("its version is not 2".to_owned())
    } else if found.headers == Headers::Damaged {
        Some("it cannot be opened".to_owned())
    } else if found.subsystem == UNFINISHED_LAYER {
        Some("it was never finished".to_owned())
    } else if found.label != label {
        Some(format!("its label is not {label:?}"))
    } else {
        uuid.filter(|uuid| *uuid != found.uuid).map(|uuid| format!("its UUID is not {uuid}"))
    }
}
