//! What a machine's firmware starts, as far as an installed system needs it.

use serde::{Deserialize, Serialize};

use crate::bounded::at_most;

/// Whether a machine's firmware can be told what to start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Firmware {
    /// A BIOS: it has no entries.
    #[default]
    Bios,
    /// UEFI that does not let its variables be read and written.
    Closed {
        /// Why not, in the kernel's words.
        why: String,
    },
    /// UEFI with variables.
    Uefi(BootOrder),
}

/// What UEFI starts, in which order (UEFI specification 2.10, 3.3).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootOrder {
    /// The entry that this boot began with; `None` where the firmware does not tell.
    pub current: Option<u16>,
    /// Numbers of entries, the first one first.
    #[serde(deserialize_with = "at_most::<128, _, _>")]
    pub order: Vec<u16>,
    /// All that there are, by number; not all of them need to be in the order.
    #[serde(deserialize_with = "at_most::<256, _, _>")]
    pub entries: Vec<BootEntry>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootEntry {
    /// The four digits of its variable.
    pub number: u16,
    /// What the variable holds where the entry is of an agent's making; empty for those of others.
    #[serde(deserialize_with = "at_most::<512, _, _>")]
    pub option: Vec<u8>,
}
