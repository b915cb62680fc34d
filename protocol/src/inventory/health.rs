//! How drives say that they are.
//!
//! Beside the inventory and not in it: it changes every hour, and an inventory travels when its digest does.

use serde::{Deserialize, Serialize};

use crate::bounded::{self, at_most};
use crate::ids::DiskId;

/// What all drives of a machine that tell of their health said when they were asked last. A whole report.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// By kernel name, at most [`bounded::DISKS`]. Drives that tell nothing of it, virtual ones for one, are not here.
    #[serde(deserialize_with = "at_most::<{ bounded::DISKS }, _, _>")]
    pub drives: Vec<Drive>,
}

/// One drive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drive {
    /// Which one.
    pub disk: DiskId,
    /// Kernel name in this boot, such as `sda`; at most 32 bytes.
    pub name: String,
    /// What it said.
    pub said: Said,
}

/// What a drive said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Said {
    /// Its disks stand still. It was not woken for this.
    Asleep,
    /// This.
    Told(Readings),
}

/// What a drive measures of itself; absent is what it does not tell. Counters are over its whole life, and those that are
/// larger than a `u32` are the largest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readings {
    /// Its own verdict.
    pub verdict: Verdict,
    /// For NVMe the critical warnings of its health log (NVM Express Base Specification, log page 02h, byte 0), else 0.
    pub critical: u8,
    /// Degrees Celsius.
    pub temperature_c: Option<i16>,
    /// The temperature at which it says that it is too hot, in degrees Celsius.
    pub critical_c: Option<i16>,
    /// Hours with power.
    pub hours: Option<u32>,
    /// Of the writing that its maker reckons with, what is used up, in percent; may be more than 100.
    pub used_percent: Option<u8>,
    /// Of its spare blocks, what is left, in percent.
    pub spare_percent: Option<u8>,
    /// Where less than this is left, in percent, it calls that critical.
    pub spare_threshold: Option<u8>,
    /// Sectors that spare ones took the place of.
    pub reallocated: Option<u32>,
    /// Sectors that could not be read and wait to be written.
    pub pending: Option<u32>,
    /// Sectors that could not be corrected.
    pub uncorrectable: Option<u32>,
    /// Errors of the medium that were not corrected.
    pub media_errors: Option<u32>,
    /// How often it lost power without being told before.
    pub unsafe_shutdowns: Option<u32>,
}

/// A drive's own verdict of itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// It says none.
    #[default]
    Unknown,
    /// It expects no failure.
    Good,
    /// It expects to fail soon.
    Failing,
}
