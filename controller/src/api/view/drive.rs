//! How a drive is.

use muster_protocol::inventory::health::{Readings, Verdict};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Time;
use crate::fleet::State;
use crate::fleet::machine::health::{Sample, is_there};
use crate::fleet::record::DriveRecord;

/// What a drive says of its health, and what of that somebody should look at. Absent is what it does not tell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Drive)]
pub struct DriveView {
    /// What to call it in documents and permits.
    pub disk: String,
    /// Its kernel name when it told. For people only.
    pub name: String,
    /// Whether the machine still has it.
    pub present: bool,
    /// When it told what it told last; the same again is no news, and a drive that stands still is not woken.
    #[schema(value_type = String, format = DateTime)]
    pub at: Time,
    /// Its own verdict: `good`, `failing` or `unknown`.
    pub verdict: String,
    /// Each in one word: `failing`, `spare`, `hot`, `unreliable`, `read-only`, `backup`, `worn`, or what has grown within seven
    /// days: `reallocated`, `pending`, `uncorrectable`, `media-errors`.
    pub warnings: Vec<String>,
    /// Degrees Celsius.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature_c: Option<i16>,
    /// The temperature at which it says that it is too hot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub critical_c: Option<i16>,
    /// Hours with power.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hours: Option<u32>,
    /// Of the writing that its maker reckons with, what is used up; may be more than 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_percent: Option<u8>,
    /// Of its spare blocks, what is left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spare_percent: Option<u8>,
    /// Where less is left, it calls that critical.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spare_threshold: Option<u8>,
    /// Sectors that spare ones took the place of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reallocated: Option<u32>,
    /// Sectors that could not be read and wait to be written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<u32>,
    /// Sectors that could not be corrected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uncorrectable: Option<u32>,
    /// Errors of the medium that were not corrected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_errors: Option<u32>,
    /// How often it lost power without being told before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsafe_shutdowns: Option<u32>,
    /// What it told last on each of the last 90 days on which it told anything, oldest first; only where drives are asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trend: Vec<SampleView>,
}

/// What a drive told last on one day; counters that it does not tell are 0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = DriveSample)]
pub struct SampleView {
    /// `2026-11-21`, UTC.
    pub day: String,
    /// Degrees Celsius.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature_c: Option<i16>,
    /// Wear.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_percent: Option<u8>,
    /// Spare blocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spare_percent: Option<u8>,
    /// Reallocated sectors.
    pub reallocated: u32,
    /// Pending sectors.
    pub pending: u32,
    /// Uncorrectable sectors.
    pub uncorrectable: u32,
    /// Errors of the medium.
    pub media_errors: u32,
}

/// A verdict as the API writes it.
pub fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Unknown => "unknown",
        Verdict::Good => "good",
        Verdict::Failing => "failing",
    }
}

impl DriveView {
    /// Without its trend.
    pub fn short(state: &State, drive: &DriveRecord) -> Self {
        let Readings {
            verdict: own,
            critical: _,
            temperature_c,
            critical_c,
            hours,
            used_percent,
            spare_percent,
            spare_threshold,
            reallocated,
            pending,
            uncorrectable,
            media_errors,
            unsafe_shutdowns,
        } = drive.readings;
        Self {
            disk: drive.key.disk.clone(),
            name: drive.name.clone(),
            present: is_there(state, drive),
            at: Time(drive.at_unix_ms),
            verdict: verdict(own).into(),
            warnings: drive.warnings.iter().map(|warning| warning.word().to_owned()).collect(),
            temperature_c,
            critical_c,
            hours,
            used_percent,
            spare_percent,
            spare_threshold,
            reallocated,
            pending,
            uncorrectable,
            media_errors,
            unsafe_shutdowns,
            trend: Vec::new(),
        }
    }

    /// All that is known.
    pub fn whole(state: &State, drive: &DriveRecord) -> Self {
        Self { trend: drive.trend.iter().map(Into::into).collect(), ..Self::short(state, drive) }
    }
}

impl From<&Sample> for SampleView {
    fn from(sample: &Sample) -> Self {
        let Sample { day, temperature_c, used_percent, spare_percent, counters } = *sample;
        let [reallocated, pending, uncorrectable, media_errors] = counters;
        let mut day = Time(u64::from(day) * 24 * 60 * 60 * 1000).text();
        day.truncate(10);
        Self { day, temperature_c, used_percent, spare_percent, reallocated, pending, uncorrectable, media_errors }
    }
}
