//! ATA drives that erase themselves: the security feature set's SECURITY ERASE UNIT.
//!
//! Called by `wipe`. Commands and states are those of ACS-4, clause 4.18. An erase needs a password on the drive, and a drive
//! whose power is cut on the way stays locked with it: so it is always the same one, which anybody may know. It guards
//! nothing; the next wipe takes it off, and so does `hdparm --user-master u --security-unlock muster`.

use std::io;
use std::time::Duration;

use crate::linux::drive::ata::{Ata, Command, Identity, SECTOR, identify};
use crate::linux::drive::scsi::Data;

/// Filled up with zeros, as hdparm does it.
const PASSWORD: &[u8] = b"muster";

const SET_PASSWORD: u8 = 0xf1;
const UNLOCK: u8 = 0xf2;
const ERASE_PREPARE: u8 = 0xf3;
const ERASE_UNIT: u8 = 0xf4;
const DISABLE_PASSWORD: u8 = 0xf6;

/// In the first word of what ERASE UNIT carries.
const ENHANCED: u16 = 1 << 1;

/// A drive that says 508 minutes may mean more, and one that says nothing means anything.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// What came of asking a drive to erase itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Erased {
    /// By this.
    By(&'static str),
    /// It was not, and is as it was: for the receipt of what is done instead.
    Not(&'static str),
}

/// Has a drive erase all of itself. Takes seconds to hours, in which it does nothing else.
///
/// Errors: it does not answer, or it began and failed and stays locked by our password.
pub(super) fn erase(drive: &dyn Ata) -> io::Result<Erased> {
    let found = identify(drive)?;
    let security = Security::of(&found);
    if !security.is_supported {
        return Ok(Erased::Not("overwritten"));
    }
    if security.is_frozen {
        return Ok(Erased::Not("overwritten: its firmware has frozen ATA secure erase"));
    }
    // Where one is set already it may be ours, and then this is refused and the erase is not.
    let had_one = security.is_enabled;
    if !had_one {
        send(drive, SET_PASSWORD, 0, &found)?;
    }
    let (word, method) = match security.is_enhanced {
        true => (ENHANCED, "ATA secure erase, enhanced"),
        false => (0, "ATA secure erase"),
    };
    let done = prepare_and_erase(drive, word, &found);
    let after = Security::of(&identify(drive)?);
    match done {
        Ok(()) if !after.is_enabled => Ok(Erased::By(method)),
        Ok(()) => send(drive, DISABLE_PASSWORD, 0, &found).map(|()| Erased::By(method)),
        Err(_) if had_one && !after.is_locked => Ok(Erased::Not("overwritten: it has a password that is not ours")),
        Err(error) => {
            // What it could not do must not leave it locked at its next start.
            send(drive, DISABLE_PASSWORD, 0, &found)
                .map_err(|left| io::Error::other(format!("{error}; and it keeps the password \"muster\": {left}")))?;
            Ok(Erased::Not("overwritten: the drive refuses ATA secure erase"))
        }
    }
}

/// Takes our password off a drive that lost its power while it erased itself; others are left alone. Answers whether there was
/// one.
///
/// Errors: it is locked, and not by us.
pub(super) fn release(drive: &dyn Ata) -> io::Result<bool> {
    // One that does not answer this is no ATA drive.
    let Ok(found) = identify(drive) else { return Ok(false) };
    let security = Security::of(&found);
    if !security.is_supported || !security.is_locked {
        return Ok(false);
    }
    if security.is_expired {
        let why = "it is locked, and takes no password before its power was off: too many were tried";
        return Err(io::Error::other(why));
    }
    let unlocked = send(drive, UNLOCK, 0, &found).and_then(|()| send(drive, DISABLE_PASSWORD, 0, &found));
    // Some go on to want the erase that was cut off, and nothing else.
    unlocked.or_else(|_| prepare_and_erase(drive, 0, &found)).map_err(|error| {
        let why = "it is locked by a password that is not ours; whoever set it can take it off with hdparm";
        io::Error::other(format!("{why} ({error})"))
    })?;
    Ok(true)
}

fn prepare_and_erase(drive: &dyn Ata, word: u16, found: &Identity) -> io::Result<()> {
    drive.give(&Command::new(ERASE_PREPARE), Data::None)?;
    send(drive, ERASE_UNIT, word, found)
}

/// A command that carries the password; of it the user's, at the level at which a master could take it off.
fn send(drive: &dyn Ata, number: u8, word: u16, found: &Identity) -> io::Result<()> {
    let mut block = [0; SECTOR];
    block[..2].copy_from_slice(&word.to_le_bytes());
    block[2..2 + PASSWORD.len()].copy_from_slice(PASSWORD);
    let mut command = Command { count: 1, ..Command::new(number) };
    if number == ERASE_UNIT {
        command.within = patience(found.word(if word & ENHANCED == 0 { 89 } else { 90 }));
    }
    drive.give(&command, Data::Out(&block)).map(|_| ())
}

/// Twice what the drive reckons with: units of two minutes, in 15 bits where the highest is set, else in 8.
fn patience(word: u16) -> Duration {
    let units = if word & 0x8000 == 0 { word & 0xff } else { word & 0x7fff };
    match units {
        0 | 255 | 0x7fff => LONGEST,
        units => LONGEST.min(Duration::from_secs(u64::from(units) * 2 * 60 * 2 + 3600)),
    }
}

/// Word 128 of IDENTIFY DEVICE, and word 82's word on whether there is anything to it.
struct Security {
    is_supported: bool,
    is_enabled: bool,
    is_locked: bool,
    is_frozen: bool,
    is_expired: bool,
    is_enhanced: bool,
}

impl Security {
    fn of(found: &Identity) -> Self {
        let bit = |n: u16| found.word(128) >> n & 1 == 1;
        Self {
            is_supported: bit(0) && found.word(82) & 2 != 0,
            is_enabled: bit(1),
            is_locked: bit(2),
            is_frozen: bit(3),
            is_expired: bit(4),
            is_enhanced: bit(5),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::linux::drive::ata::Registers;

    /// A drive with the security feature set, as ACS-4 lays its states out. QEMU's have none.
    #[derive(Debug, Clone)]
    struct Simulated {
        supported: bool,
        enhanced: bool,
        password: Option<[u8; 32]>,
        locked: bool,
        frozen: bool,
        prepared: bool,
        tries: u8,
        /// Some want the erase that was cut off, and take no UNLOCK before.
        insists: bool,
        half: bool,
        refuses_erase: bool,
        has_data: bool,
        given: Vec<u8>,
        /// The power goes at this command, counted from 0, before it does anything or after.
        cut: Option<(usize, bool)>,
    }

    impl Simulated {
        fn new() -> RefCell<Self> {
            RefCell::new(Self {
                supported: true,
                enhanced: true,
                password: None,
                locked: false,
                frozen: false,
                prepared: false,
                tries: 5,
                insists: false,
                half: false,
                refuses_erase: false,
                has_data: true,
                given: Vec::new(),
                cut: None,
            })
        }

        fn with(mut self, password: &[u8], locked: bool) -> RefCell<Self> {
            self.password = Some(padded(password));
            self.locked = locked;
            RefCell::new(self)
        }

        fn lose_power(&mut self) {
            (self.locked, self.frozen, self.prepared, self.tries) = (self.password.is_some(), false, false, 5);
        }

        fn is_good(&mut self, given: &[u8; 32]) -> io::Result<()> {
            match self.password {
                Some(password) if password == *given && self.tries > 0 => Ok(()),
                _ => {
                    self.tries = self.tries.saturating_sub(1);
                    aborted()
                }
            }
        }

        fn command(&mut self, number: u8, word: u16, password: &[u8; 32]) -> io::Result<()> {
            let prepared = std::mem::take(&mut self.prepared);
            if !self.supported || self.frozen {
                return aborted();
            }
            match number {
                SET_PASSWORD if !self.locked => self.password = Some(*password),
                UNLOCK if self.insists && self.half => return aborted(),
                UNLOCK => {
                    self.is_good(password)?;
                    self.locked = false;
                }
                ERASE_PREPARE => self.prepared = true,
                ERASE_UNIT if prepared && !self.refuses_erase && (word & ENHANCED == 0 || self.enhanced) => {
                    self.is_good(password)?;
                    (self.has_data, self.half, self.password, self.locked) = (false, false, None, false);
                }
                DISABLE_PASSWORD if !self.locked => {
                    self.is_good(password)?;
                    self.password = None;
                }
                _ => return aborted(),
            }
            Ok(())
        }
    }

    fn padded(password: &[u8]) -> [u8; 32] {
        let mut padded = [0; 32];
        padded[..password.len()].copy_from_slice(password);
        padded
    }

    fn aborted<T>() -> io::Result<T> {
        Err(io::Error::other("aborted"))
    }

    impl Ata for RefCell<Simulated> {
        fn give(&self, command: &Command, data: Data<'_>) -> io::Result<Registers> {
            let drive = &mut *self.borrow_mut();
            let place = drive.given.len();
            drive.given.push(command.number);
            let cut = drive.cut.filter(|(at, _)| *at == place).map(|(_, after)| after);
            if cut == Some(false) {
                if command.number == ERASE_UNIT && drive.prepared {
                    drive.half = true;
                }
                drive.lose_power();
                return aborted();
            }
            match data {
                Data::In(bytes) => {
                    let words = [
                        (82, u16::from(drive.supported) << 1),
                        (89, 20),
                        (
                            128,
                            u16::from(drive.supported)
                                | u16::from(drive.password.is_some()) << 1
                                | u16::from(drive.locked) << 2
                                | u16::from(drive.frozen) << 3
                                | u16::from(drive.tries == 0) << 4
                                | u16::from(drive.enhanced) << 5,
                        ),
                    ];
                    for (n, word) in words {
                        bytes[2 * n..2 * n + 2].copy_from_slice(&u16::to_le_bytes(word));
                    }
                }
                Data::Out(bytes) => {
                    let password = bytes[2..34].try_into().expect("32 bytes");
                    drive.command(command.number, u16::from_le_bytes([bytes[0], bytes[1]]), &password)?;
                }
                Data::None => drive.command(command.number, 0, &[0; 32])?,
            }
            if cut == Some(true) {
                drive.lose_power();
                return aborted();
            }
            Ok(Registers::default())
        }
    }

    #[test]
    fn a_drive_erases_itself_by_the_most_thorough_way_that_it_has_and_keeps_no_password() {
        for (enhanced, method) in [(true, "ATA secure erase, enhanced"), (false, "ATA secure erase")] {
            let drive = Simulated::new();
            drive.borrow_mut().enhanced = enhanced;
            assert_eq!(erase(&drive).expect("erased"), Erased::By(method));
            let drive = drive.borrow();
            assert!(!drive.has_data && drive.password.is_none());
            assert_eq!(drive.given, [0xec, SET_PASSWORD, ERASE_PREPARE, ERASE_UNIT, 0xec]);
        }
    }

    #[test]
    fn a_drive_that_cannot_or_may_not_is_left_as_it_was_and_the_receipt_says_why() {
        let drive = Simulated::new();
        drive.borrow_mut().supported = false;
        assert_eq!(erase(&drive).expect("asked"), Erased::Not("overwritten"));
        let drive = Simulated::new();
        drive.borrow_mut().frozen = true;
        let frozen = Erased::Not("overwritten: its firmware has frozen ATA secure erase");
        assert_eq!((erase(&drive).expect("asked"), drive.borrow().given.len()), (frozen, 1));
        let drive = Simulated::new();
        drive.borrow_mut().refuses_erase = true;
        assert_eq!(erase(&drive).expect("asked"), Erased::Not("overwritten: the drive refuses ATA secure erase"));
        assert!(drive.borrow().password.is_none() && drive.borrow().has_data, "nothing locks it at its next start");
        let drive = Simulated::new().into_inner().with(b"somebody", false);
        assert_eq!(erase(&drive).expect("asked"), Erased::Not("overwritten: it has a password that is not ours"));
        assert_eq!(drive.borrow().password, Some(padded(b"somebody")));
    }

    #[test]
    fn wherever_the_power_is_cut_the_next_wipe_unlocks_the_drive_and_erases_it() {
        for insists in [false, true] {
            for (at, after) in (0..5).flat_map(|at| [(at, false), (at, true)]) {
                let drive = Simulated::new();
                drive.borrow_mut().insists = insists;
                drive.borrow_mut().cut = Some((at, after));
                assert!(erase(&drive).is_err(), "the power went at {at}");
                (drive.borrow_mut().cut, drive.borrow_mut().given) = (None, Vec::new());
                assert_eq!(release(&drive).expect("released"), drive.borrow().given.len() > 1, "{at} {after}");
                assert!(!drive.borrow().locked);
                assert_eq!(erase(&drive).expect("erased"), Erased::By("ATA secure erase, enhanced"), "{at} {after}");
                assert!(!drive.borrow().has_data && drive.borrow().password.is_none());
            }
        }
    }

    #[test]
    fn the_power_may_be_cut_again_while_a_drive_is_unlocked() {
        for insists in [false, true] {
            for (at, after) in (0..5).flat_map(|at| [(at, false), (at, true)]) {
                let drive = Simulated::new().into_inner().with(PASSWORD, true);
                (drive.borrow_mut().insists, drive.borrow_mut().half) = (insists, insists);
                drive.borrow_mut().cut = Some((at, after));
                let _ = release(&drive);
                (drive.borrow_mut().cut, drive.borrow_mut().given) = (None, Vec::new());
                release(&drive).expect("released");
                assert_eq!(erase(&drive).expect("erased"), Erased::By("ATA secure erase, enhanced"), "{at} {after}");
            }
        }
    }

    #[test]
    fn a_drive_that_somebody_else_has_locked_stays_locked_and_is_said_so() {
        let drive = Simulated::new().into_inner().with(b"somebody", true);
        let error = release(&drive).expect_err("locked").to_string();
        assert!(error.contains("a password that is not ours"), "{error}");
        assert!(drive.borrow().locked && drive.borrow().has_data);
        drive.borrow_mut().tries = 0;
        drive.borrow_mut().given.clear();
        let error = release(&drive).expect_err("locked").to_string();
        assert!(error.contains("before its power was off"), "{error}");
        assert_eq!(drive.borrow().given.len(), 1, "no further password is tried");
        // Nothing to release.
        assert!(!release(&Simulated::new()).expect("asked"));
    }

    #[test]
    fn a_drive_has_twice_the_time_that_it_reckons_with() {
        assert_eq!(patience(30), Duration::from_secs(2 * 3600 + 3600));
        assert_eq!(patience(0x8000 | 300), Duration::from_secs(20 * 3600 + 3600));
        assert_eq!([0, 255, 0xffff, 0x8000 | 900].map(patience), [LONGEST; 4]);
    }
}
