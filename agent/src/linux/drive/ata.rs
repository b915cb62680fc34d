//! ATA commands: to drives on the kernel's own ATA, and through SAT to those behind host adapters and USB bridges.
//!
//! Called by `drive` and by `wipe`. Commands are those of ACS-4, their way to the drive is T10 SAT-4's ATA PASS-THROUGH (16).

use std::fs::File;
use std::io;
use std::time::Duration;

use super::scsi::{self, Data, SENSE};

/// Bytes that most commands carry.
pub const SECTOR: usize = 512;
/// What a drive takes at most to answer; those that take longer say so.
pub const PATIENCE: Duration = Duration::from_secs(20);

const IDENTIFY: u8 = 0xec;
const CHECK_POWER_MODE: u8 = 0xe5;
const SMART: u8 = 0xb0;
const READ_LOG_EXT: u8 = 0x2f;
const READ_DATA: u16 = 0xd0;
const READ_THRESHOLDS: u16 = 0xd1;
const RETURN_STATUS: u16 = 0xda;
/// In the LBA of SMART's commands, and of an answer that all is well.
const SMART_KEY: u32 = 0x00c2_4f00;
/// The same of an answer that a threshold is exceeded.
const SMART_EXCEEDED: u32 = 0x002c_f400;
/// The log of device statistics.
const STATISTICS: u8 = 0x04;

/// Bits of a drive's status.
const ERROR: u8 = 0x01;
const FAULT: u8 = 0x20;

/// A command's registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Command {
    /// Its number.
    pub number: u8,
    /// Feature.
    pub feature: u16,
    /// Sectors, or what the command makes of it.
    pub count: u8,
    /// Block, or what the command makes of it.
    pub lba: u32,
    /// Whether its registers have the 48 bits' width.
    pub extended: bool,
    /// How long the drive has.
    pub within: Duration,
}

impl Command {
    /// One that needs nothing beside its number.
    pub fn new(number: u8) -> Self {
        Self { number, feature: 0, count: 0, lba: 0, extended: false, within: PATIENCE }
    }
}

/// A drive's registers after a command.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Registers {
    /// Count.
    pub count: u8,
    /// The lower 24 bits of the LBA.
    pub lba: u32,
    /// Why it was refused.
    pub error: u8,
    /// Whether it was.
    pub status: u8,
}

/// Whoever takes ATA commands: a drive, or a test's.
pub trait Ata {
    /// Gives a command, and answers the registers after one that carries nothing.
    ///
    /// Errors: it did not arrive, or the drive refuses it.
    fn give(&self, command: &Command, data: Data<'_>) -> io::Result<Registers>;
}

impl Ata for File {
    fn give(&self, command: &Command, data: Data<'_>) -> io::Result<Registers> {
        let block = pass_through(command, &data);
        let sense = scsi::give(self, &block, data, command.within)?;
        outcome(command, &sense)
    }
}

/// SAT-4, ATA PASS-THROUGH (16).
fn pass_through(command: &Command, data: &Data<'_>) -> [u8; 16] {
    // Protocol; then whose length is in the count, in blocks, and which way: or that the registers are wanted.
    let (protocol, flags) = match data {
        Data::None => (3, 0x20),
        Data::In(_) => (4, 0x0e),
        Data::Out(_) => (5, 0x06),
    };
    let [_, high, mid, low] = command.lba.to_be_bytes();
    let [feature_high, feature] = command.feature.to_be_bytes();
    let extended = u8::from(command.extended);
    let (count, number) = (command.count, command.number);
    [0x85, protocol << 1 | extended, flags, feature_high, feature, 0, count, 0, low, 0, mid, 0, high, 0, number, 0]
}

fn outcome(command: &Command, sense: &[u8; SENSE]) -> io::Result<Registers> {
    let refused = |why: String| Err(io::Error::other(format!("command {:#04x}: {why}", command.number)));
    match registers(sense) {
        Some(Registers { status, error, .. }) if status & (ERROR | FAULT) != 0 => {
            refused(format!("the drive refuses it with status {status:#04x}, error {error:#04x}"))
        }
        Some(registers) => Ok(registers),
        None if sense[0] == 0 => Ok(Registers::default()),
        None => refused("it does not reach the drive".into()),
    }
}

/// The registers in sense data: of the descriptor format's ATA Status Return, or of the fixed format (SAT-4, 12.2).
fn registers(sense: &[u8; SENSE]) -> Option<Registers> {
    let lba = |low: u8, mid: u8, high: u8| u32::from_be_bytes([0, high, mid, low]);
    match sense[0] & 0x7f {
        0x72 | 0x73 if sense[8] == 0x09 => {
            let d = &sense[8..];
            Some(Registers { error: d[3], count: d[5], lba: lba(d[7], d[9], d[11]), status: d[13] })
        }
        // ATA pass-through information available; other sense data has something else there.
        0x70 | 0x71 if (sense[12], sense[13]) == (0, 0x1d) => Some(Registers {
            error: sense[3],
            status: sense[4],
            count: sense[6],
            lba: lba(sense[9], sense[10], sense[11]),
        }),
        _ => None,
    }
}

/// What a drive says of itself: IDENTIFY DEVICE.
pub fn identify(drive: &dyn Ata) -> io::Result<Identity> {
    let mut data = [0; SECTOR];
    drive.give(&Command { count: 1, ..Command::new(IDENTIFY) }, Data::In(&mut data))?;
    Ok(Identity(data))
}

/// IDENTIFY DEVICE data.
#[derive(Debug, Clone, Copy)]
pub struct Identity(pub [u8; SECTOR]);

impl Identity {
    /// One of its 256 words; 0 beyond them.
    pub fn word(&self, n: usize) -> u16 {
        match self.0.get(2 * n..2 * n + 2) {
            Some(&[low, high]) => u16::from_le_bytes([low, high]),
            _ => 0,
        }
    }

    /// SMART is there and on.
    pub fn is_smart(&self) -> bool {
        self.word(82) & self.word(85) & 1 == 1 && self.word(82) != 0xffff
    }

    /// General purpose logging; the word is good where its upper bits are 01.
    fn has_logs(&self) -> bool {
        self.word(87) & 0xc020 == 0x4020
    }

    /// A nominal rate of 1 is for what does not spin.
    fn spins(&self) -> bool {
        self.word(217) != 1
    }
}

/// Whether a drive stands still. It is not woken by being asked.
pub(super) fn is_asleep(drive: &dyn Ata) -> bool {
    // Standby, and active with nothing but its cache.
    drive.give(&Command::new(CHECK_POWER_MODE), Data::None).is_ok_and(|found| matches!(found.count, 0x00 | 0x01 | 0x40))
}

/// Asks a drive how it is; `None` for one that tells nothing.
pub(super) fn read(drive: &dyn Ata) -> Option<super::Readings> {
    use super::smart;
    let identity = identify(drive).ok()?;
    let mut readings = super::Readings::default();
    if identity.is_smart() {
        let smart = |feature, count| Command { feature, count, lba: SMART_KEY, ..Command::new(SMART) };
        let sector = |feature| {
            let mut data = [0; SECTOR];
            drive.give(&smart(feature, 1), Data::In(&mut data)).map(|_| data).ok()
        };
        let status = drive.give(&smart(RETURN_STATUS, 0), Data::None).map(|registers| registers.lba & 0x00ff_ff00).ok();
        if let Some(data) = sector(READ_DATA) {
            let thresholds = sector(READ_THRESHOLDS).unwrap_or([0; SECTOR]);
            smart::attributes(&data, &thresholds, identity.spins(), &mut readings);
        }
        readings.verdict = match status {
            Some(SMART_EXCEEDED) => super::Verdict::Failing,
            Some(SMART_KEY) if readings.verdict == super::Verdict::Unknown => super::Verdict::Good,
            _ => readings.verdict,
        };
    }
    if identity.has_logs() {
        let page = |page: u8| {
            let mut data = [0; SECTOR];
            // The page's number is in the second byte of the LBA, the log's in the first.
            let lba = u32::from(page) << 8 | u32::from(STATISTICS);
            let command = Command { count: 1, lba, extended: true, ..Command::new(READ_LOG_EXT) };
            drive.give(&command, Data::In(&mut data)).map(|_| data).ok()
        };
        let all = page(0).map(|list| smart::pages(&list)).unwrap_or_default();
        for number in all {
            if let Some(data) = page(number) {
                smart::statistics(number, &data, &mut readings);
            }
        }
    }
    (readings != super::Readings::default()).then_some(readings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_passed_through_as_sat_lays_them_out() {
        let smart = Command { feature: RETURN_STATUS, lba: SMART_KEY, ..Command::new(SMART) };
        assert_eq!(
            pass_through(&smart, &Data::None),
            [0x85, 6, 0x20, 0, 0xda, 0, 0, 0, 0, 0, 0x4f, 0, 0xc2, 0, 0xb0, 0]
        );
        let log = Command { count: 1, lba: 0x0504, extended: true, ..Command::new(READ_LOG_EXT) };
        assert_eq!(pass_through(&log, &Data::In(&mut [])), [0x85, 9, 0x0e, 0, 0, 0, 1, 0, 4, 0, 5, 0, 0, 0, 0x2f, 0]);
        assert_eq!(pass_through(&Command { count: 1, ..Command::new(0xf1) }, &Data::Out(&[]))[1..3], [10, 6]);
    }

    #[test]
    fn a_drives_registers_are_read_from_either_format_of_sense_data() {
        let command = Command::new(SMART);
        let mut sense = [0; SENSE];
        assert_eq!(outcome(&command, &sense).expect("done"), Registers::default());
        sense[..4].copy_from_slice(&[0x72, 1, 0, 0x1d]);
        sense[7] = 14;
        sense[8..22].copy_from_slice(&[9, 12, 0, 0, 0, 0, 0, 0, 0, 0xf4, 0, 0x2c, 0, 0x50]);
        assert_eq!(outcome(&command, &sense).expect("done").lba, SMART_EXCEEDED);
        // Aborted.
        (sense[11], sense[21]) = (4, 0x51);
        let error = outcome(&command, &sense).expect_err("refused").to_string();
        assert!(error.contains("command 0xb0: the drive refuses it with status 0x51, error 0x04"), "{error}");

        let mut sense = [0; SENSE];
        sense[0] = 0x70;
        (sense[3], sense[4], sense[6]) = (0, 0x50, 0xff);
        (sense[9], sense[10], sense[11]) = (0, 0x4f, 0xc2);
        (sense[12], sense[13]) = (0, 0x1d);
        let found = outcome(&command, &sense).expect("done");
        assert_eq!((found.count, found.lba), (0xff, SMART_KEY));
        // Invalid command operation code: whoever it was, it was no drive.
        (sense[12], sense[13]) = (0x20, 0);
        assert!(outcome(&command, &sense).is_err());
    }
}
