//! How drives are: what machines tell of it, what of that is kept, and what of it is news.
//!
//! Called by the sessions inside [`crate::fleet::Fleet::change`]. All of it is durable: the newest readings, one sample a day,
//! and the warnings that stand. What is told again and is the same is not written again.

use std::fmt;

use muster_protocol::inventory::health::{Drive, Health, Readings, Said, Verdict};
use muster_protocol::{DiskId, MachineId, bounded};
use serde::{Deserialize, Serialize};

use crate::fleet::record::Machine;
use crate::fleet::state::StoredKey;
use crate::fleet::{Draft, Refusal, State};

/// Days of which a sample is kept, and days after which a drive that is not there any more is forgotten.
pub const DAYS: usize = 90;
/// What was counted within so many days is growing.
const LATELY_DAYS: u32 = 7;
/// Drives of which one report makes events; of more it makes one that counts them.
const TOLD: usize = 32;
/// Drives that are new in one report, and those that are forgotten with it: what one change writes has a limit, and the rest
/// is told again.
const AT_ONCE: usize = 64;
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// Which drive of which machine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DriveKey {
    /// Whose.
    pub machine: MachineId,
    /// Its name in documents, as text.
    pub disk: String,
}

impl StoredKey for DriveKey {
    fn bytes(&self) -> Vec<u8> {
        [self.machine.as_bytes(), self.disk.as_bytes()].concat()
    }
    fn text(&self) -> Vec<u8> {
        format!("{} of {}", self.disk, self.machine).into_bytes()
    }
}

/// What is known of a drive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriveRecord {
    /// Which one.
    pub key: DriveKey,
    /// Its kernel name when it told.
    pub name: String,
    /// When it told what it told last; the same again is no news.
    pub at_unix_ms: u64,
    /// That.
    pub readings: Readings,
    /// One of each day on which it told anything, the newest last, at most [`DAYS`].
    pub trend: Vec<Sample>,
    /// What somebody should look at.
    pub warnings: Vec<Warning>,
}

/// What a drive told last on one day; 0 stands for what it does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Days since 1970 UTC.
    pub day: u32,
    /// Degrees Celsius.
    pub temperature_c: Option<i16>,
    /// Wear in percent.
    pub used_percent: Option<u8>,
    /// Spare blocks in percent.
    pub spare_percent: Option<u8>,
    /// By [`Counter`], in its order.
    pub counters: [u32; 4],
}

/// What only grows, and should not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Counter {
    /// Sectors that spare ones took the place of.
    Reallocated,
    /// Sectors that wait to be written.
    Pending,
    /// Sectors that could not be corrected.
    Uncorrectable,
    /// Errors of the medium.
    MediaErrors,
}

const COUNTERS: [Counter; 4] = [Counter::Reallocated, Counter::Pending, Counter::Uncorrectable, Counter::MediaErrors];

/// Something that somebody should look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Warning {
    /// The drive expects to fail.
    Failing,
    /// Fewer spare blocks are left than it needs.
    Spare,
    /// It is too hot by its own limit.
    Hot,
    /// It calls itself unreliable.
    Unreliable,
    /// It takes no more writes.
    ReadOnly,
    /// Its cache would not survive a power cut.
    Backup,
    /// It was written to more than its maker reckons with.
    Worn,
    /// This has grown in the last days.
    Growing(Counter),
}

impl Warning {
    /// As metrics and the API write it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Failing => "failing",
            Self::Spare => "spare",
            Self::Hot => "hot",
            Self::Unreliable => "unreliable",
            Self::ReadOnly => "read-only",
            Self::Backup => "backup",
            Self::Worn => "worn",
            Self::Growing(Counter::Reallocated) => "reallocated",
            Self::Growing(Counter::Pending) => "pending",
            Self::Growing(Counter::Uncorrectable) => "uncorrectable",
            Self::Growing(Counter::MediaErrors) => "media-errors",
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Failing => "it expects to fail",
            Self::Spare => "its spare blocks are running out",
            Self::Hot => "it is too hot",
            Self::Unreliable => "it calls itself unreliable",
            Self::ReadOnly => "it takes no more writes",
            Self::Backup => "its cache would not survive a power cut",
            Self::Worn => "it is worn out",
            Self::Growing(Counter::Reallocated) => "its reallocated sectors grow",
            Self::Growing(Counter::Pending) => "its pending sectors grow",
            Self::Growing(Counter::Uncorrectable) => "its uncorrectable sectors grow",
            Self::Growing(Counter::MediaErrors) => "its media errors grow",
        })
    }
}

impl Counter {
    fn of(self, readings: &Readings) -> Option<u32> {
        match self {
            Self::Reallocated => readings.reallocated,
            Self::Pending => readings.pending,
            Self::Uncorrectable => readings.uncorrectable,
            Self::MediaErrors => readings.media_errors,
        }
    }
}

/// The drives of a machine that ever told anything and are not forgotten, by their names.
pub fn drives(state: &State, machine: MachineId) -> impl Iterator<Item = &DriveRecord> {
    let before = DriveKey { machine, disk: String::new() };
    state.drives.after(&before).take_while(move |drive| drive.key.machine == machine)
}

/// Whether a machine's inventory has this drive.
pub fn is_there(state: &State, drive: &DriveRecord) -> bool {
    let inventory = state.inventories.get(&drive.key.machine).map(|record| &record.inventory);
    let named = |disk: DiskId| disk.to_string() == drive.key.disk;
    inventory.is_some_and(|inventory| inventory.disks.iter().filter_map(|disk| disk.id()).any(named))
}

/// Forgets all drives of a machine.
pub fn forget(draft: &mut Draft, machine: MachineId) {
    let all: Vec<_> = drives(draft.state(), machine).map(|drive| drive.key.clone()).collect();
    all.iter().for_each(|key| draft.delete::<DriveRecord>(key));
}

/// Takes note of what a machine's drives say, with an event for each whose warnings are others than before.
pub fn told(draft: &mut Draft, id: MachineId, health: Health) -> Result<(), Refusal> {
    let machine = draft.need::<Machine>(&id)?;
    let now = draft.now_unix_ms();
    let mut there = Vec::new();
    let mut texts = Vec::new();
    let mut new = 0;
    for Drive { disk, mut name, said } in health.drives {
        let key = DriveKey { machine: id, disk: disk.to_string() };
        there.push(key.disk.clone());
        let Said::Told(readings) = said else { continue };
        name.truncate(name.floor_char_boundary(32));
        let before = draft.get::<DriveRecord>(&key).cloned();
        if before.is_none() {
            new += 1;
            if new > AT_ONCE {
                continue;
            }
        }
        let record = next(before.as_ref(), key, name, readings, now);
        if before.as_ref() != Some(&record) {
            let was = before.as_ref().map_or(&[][..], |before| &before.warnings);
            texts.extend(news(&record, was));
            draft.put(record);
        }
    }
    let more = texts.len().saturating_sub(TOLD);
    let more = (more > 0).then(|| format!("{more} more drives have other warnings than before"));
    for text in texts.into_iter().take(TOLD).chain(more) {
        draft.event("machine.disk", id, format!("{}: {text}", machine.name));
    }
    // What is gone is remembered for a while, and not without end.
    let excess = drives(draft.state(), id).count().saturating_sub(bounded::DISKS);
    let mut gone: Vec<_> = drives(draft.state(), id).filter(|drive| !there.contains(&drive.key.disk)).collect();
    gone.sort_by_key(|drive| drive.at_unix_ms);
    let is_old = |drive: &DriveRecord| now.saturating_sub(drive.at_unix_ms) > DAYS as u64 * DAY_MS;
    let forgotten =
        gone.into_iter().enumerate().filter(|(place, drive)| *place < excess || is_old(drive)).take(AT_ONCE);
    let forgotten: Vec<_> = forgotten.map(|(_, drive)| drive.key.clone()).collect();
    forgotten.iter().for_each(|key| draft.delete::<DriveRecord>(key));
    Ok(())
}

/// The record of a drive that says this now. The same as before where it says nothing new.
fn next(before: Option<&DriveRecord>, key: DriveKey, name: String, readings: Readings, now: u64) -> DriveRecord {
    let day = u32::try_from(now / DAY_MS).unwrap_or(u32::MAX);
    let mut trend = before.map(|before| before.trend.clone()).unwrap_or_default();
    let sample = Sample {
        day,
        temperature_c: readings.temperature_c,
        used_percent: readings.used_percent,
        spare_percent: readings.spare_percent,
        counters: COUNTERS.map(|counter| counter.of(&readings).unwrap_or_default()),
    };
    // A clock that was set back does not make the trend run backwards.
    while trend.last().is_some_and(|last| last.day >= day) {
        trend.pop();
    }
    trend.push(sample);
    if trend.len() > DAYS {
        trend.remove(0);
    }
    let warnings = warnings(&readings, &trend, day);
    let same =
        before.filter(|b| (&b.readings, &b.trend, &b.warnings, &b.name) == (&readings, &trend, &warnings, &name));
    let at_unix_ms = same.map_or(now, |before| before.at_unix_ms);
    DriveRecord { key, name, at_unix_ms, readings, trend, warnings }
}

fn warnings(readings: &Readings, trend: &[Sample], today: u32) -> Vec<Warning> {
    let critical = |bit: u8| readings.critical >> bit & 1 == 1;
    let below = readings.spare_percent.zip(readings.spare_threshold).is_some_and(|(left, limit)| left < limit);
    let limit = readings.temperature_c.zip(readings.critical_c);
    let facts = [
        (readings.verdict == Verdict::Failing, Warning::Failing),
        (critical(0) || below, Warning::Spare),
        (critical(1) || limit.is_some_and(|(is, limit)| is >= limit), Warning::Hot),
        (critical(2), Warning::Unreliable),
        (critical(3) || critical(5), Warning::ReadOnly),
        (critical(4), Warning::Backup),
        (readings.used_percent.is_some_and(|used| used >= 100), Warning::Worn),
    ];
    let lately = || trend.iter().filter(|sample| sample.day.saturating_add(LATELY_DAYS) > today);
    let grows = COUNTERS.iter().enumerate().filter(|(place, counter)| {
        let least = lately().map(|sample| sample.counters[*place]).min();
        counter.of(readings).zip(least).is_some_and(|(now, least)| now > least)
    });
    let grows = grows.map(|(_, counter)| Warning::Growing(*counter));
    facts.into_iter().filter_map(|(holds, warning)| holds.then_some(warning)).chain(grows).collect()
}

/// What is other than it was, in one line; nothing where the same warnings stand.
fn news(now: &DriveRecord, was: &[Warning]) -> Option<String> {
    let listed = |list: Vec<&Warning>| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let new = listed(now.warnings.iter().filter(|warning| !was.contains(warning)).collect());
    let over = listed(was.iter().filter(|warning| !now.warnings.contains(warning)).collect());
    let over = if over.is_empty() { over } else { format!("no longer: {over}") };
    let parts: Vec<String> = [new, over].into_iter().filter(|part| !part.is_empty()).collect();
    (!parts.is_empty()).then(|| format!("the disk {} ({}): {}", now.key.disk, now.name, parts.join("; ")))
}

impl DriveRecord {
    /// What somebody should look at, in one line; `None` where there is nothing.
    pub fn trouble(&self) -> Option<String> {
        let words: Vec<String> = self.warnings.iter().map(ToString::to_string).collect();
        (!words.is_empty()).then(|| format!("{} ({}): {}", self.key.disk, self.name, words.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::draft::tests::draft;
    use crate::fleet::enrollment::tests::enrolled;
    use crate::fleet::state::{read_value, stored_value};
    use muster_protocol::enroll::Identity;

    const START: u64 = 1_795_245_304_000;

    fn record(before: Option<&DriveRecord>, readings: Readings, day: u64) -> DriveRecord {
        let key = DriveKey { machine: MachineId::from_bytes([1; 16]), disk: "serial:A".into() };
        next(before, key, "sda".into(), readings, START + day * DAY_MS)
    }

    fn good() -> Readings {
        Readings { verdict: Verdict::Good, temperature_c: Some(30), critical_c: Some(70), ..Readings::default() }
    }

    #[test]
    fn each_warning_has_its_reason_and_a_drive_that_is_well_has_none() {
        assert_eq!(record(None, good(), 0).warnings, []);
        for (readings, warning) in [
            (Readings { verdict: Verdict::Failing, ..good() }, Warning::Failing),
            (Readings { critical: 1, ..good() }, Warning::Spare),
            (Readings { spare_percent: Some(9), spare_threshold: Some(10), ..good() }, Warning::Spare),
            (Readings { critical: 2, ..good() }, Warning::Hot),
            (Readings { temperature_c: Some(70), ..good() }, Warning::Hot),
            (Readings { critical: 4, ..good() }, Warning::Unreliable),
            (Readings { critical: 8, ..good() }, Warning::ReadOnly),
            (Readings { critical: 16, ..good() }, Warning::Backup),
            (Readings { critical: 32, ..good() }, Warning::ReadOnly),
            (Readings { used_percent: Some(100), ..good() }, Warning::Worn),
        ] {
            assert_eq!(record(None, readings, 0).warnings, [warning]);
        }
        let spare = Readings { spare_percent: Some(10), spare_threshold: Some(10), ..good() };
        assert_eq!(record(None, spare, 0).warnings, []);
    }

    #[test]
    fn what_grows_is_a_warning_until_it_has_not_grown_for_a_week() {
        let with = |reallocated| Readings { reallocated: Some(reallocated), ..good() };
        let first = record(None, with(8), 0);
        assert_eq!(first.warnings, [], "what it had when it was first asked says nothing of now");
        let grown = record(Some(&first), with(9), 1);
        assert_eq!(grown.warnings, [Warning::Growing(Counter::Reallocated)]);
        let still = record(Some(&grown), with(9), 6);
        assert_eq!(still.warnings.len(), 1);
        let over = record(Some(&still), with(9), 7);
        assert_eq!(over.warnings, []);
        assert_eq!(
            news(&over, &still.warnings).as_deref(),
            Some("the disk serial:A (sda): no longer: its reallocated sectors grow")
        );
    }

    #[test]
    fn a_trend_has_one_sample_a_day_for_ninety_days_and_never_runs_backwards() {
        let mut last = record(None, good(), 0);
        assert_eq!(record(Some(&last), good(), 0), last, "the same again is nothing new");
        for day in 1..200 {
            last = record(Some(&last), good(), day);
        }
        let days: Vec<u32> = last.trend.iter().map(|sample| sample.day).collect();
        assert_eq!(days.len(), DAYS);
        assert!(days.windows(2).all(|pair| pair[0] + 1 == pair[1]));
        let warmer = record(Some(&last), Readings { temperature_c: Some(31), ..good() }, 199);
        assert_eq!((warmer.trend.len(), warmer.trend[89].temperature_c), (DAYS, Some(31)));
        let back = record(Some(&last), good(), 150);
        assert_eq!(back.trend.last().map(|sample| sample.day), Some(days[40]));
    }

    #[test]
    fn warnings_are_told_when_they_appear_and_when_they_go_and_only_then() {
        let mut draft = draft();
        let id = enrolled(&mut draft, Identity::default());
        let health = |readings: Readings| Health {
            drives: vec![Drive {
                disk: "serial:A".parse().expect("an id"),
                name: "sda".into(),
                said: Said::Told(readings),
            }],
        };
        let failing = || Readings { verdict: Verdict::Failing, critical: 4, ..good() };
        let asleep = Health {
            drives: vec![Drive { disk: "serial:A".parse().expect("an id"), name: "sda".into(), said: Said::Asleep }],
        };
        for health in [health(good()), health(failing()), health(failing()), asleep, health(good())] {
            told(&mut draft, id, health).expect("told");
        }
        let events: Vec<_> =
            draft.state().events.iter().filter(|e| e.kind == "machine.disk").map(|e| &e.text).collect();
        assert_eq!(events.len(), 2, "{events:?}");
        let first = ": the disk serial:A (sda): it expects to fail, it calls itself unreliable";
        assert!(events[0].ends_with(first), "{events:?}");
        assert!(events[1].ends_with(": no longer: it expects to fail, it calls itself unreliable"), "{events:?}");
        assert_eq!(drives(draft.state(), id).count(), 1);
        forget(&mut draft, id);
        assert_eq!(drives(draft.state(), id).count(), 0);
    }

    #[test]
    fn drives_that_come_and_go_without_end_take_no_more_room_than_a_machine_may_have() {
        let mut draft = draft();
        let id = enrolled(&mut draft, Identity::default());
        for round in 0..9 {
            let drive = |n: usize| Drive {
                disk: format!("serial:{round}-{n}").parse().expect("an id"),
                name: "sda".into(),
                said: Said::Told(Readings { verdict: Verdict::Failing, ..good() }),
            };
            told(&mut draft, id, Health { drives: (0..bounded::DISKS).map(drive).collect() }).expect("told");
            assert_eq!(drives(draft.state(), id).count(), (AT_ONCE * (round + 1)).min(bounded::DISKS));
        }
        assert_eq!(draft.state().events.iter().filter(|e| e.kind == "machine.disk").count(), 9 * (TOLD + 1));
    }

    /// If this fails, do not change it: a released controller's database is read for ever.
    #[test]
    fn a_drive_in_the_store() {
        let mut drive = record(None, Readings { reallocated: Some(300), ..good() }, 0);
        drive.warnings = vec![Warning::Growing(Counter::Pending)];
        let value = stored_value(&drive);
        let hex: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
        let key = format!("00 {} 08 {}", "01".repeat(16), "73657269616c3a41");
        let readings = "01 00 013c 018c01 00 00 00 00 01ac02 00 00 00 00";
        let expected = format!("{key} 03 736461 c0d1d5e79f34 {readings} 01 aaa201 013c 00 00 ac02 00 00 00 01 0701");
        assert_eq!(hex, expected.replace(' ', ""));
        assert_eq!(read_value::<DriveRecord>(&value), Some(drive));
    }
}
