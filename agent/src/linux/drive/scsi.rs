//! SCSI commands that the kernel passes through, and the log pages in which SCSI and SAS drives tell of their health.
//!
//! Called by `drive` and, beneath `ata`, by `wipe`. The request is the Linux kernel's, include/scsi/sg.h; log pages are those
//! of T10 SPC-5 and SBC-4.

use std::fs::File;
use std::io;
use std::time::Duration;

use muster_protocol::inventory::health::{Readings, Verdict};
use rustix::ioctl::{Opcode, Updater, ioctl};

const SG_IO: Opcode = 0x2285;
const DIRECTION_NONE: i32 = -1;
const DIRECTION_TO_DRIVE: i32 = -2;
const DIRECTION_FROM_DRIVE: i32 = -3;

const REQUEST_SENSE: u8 = 0x03;
const LOG_SENSE: u8 = 0x4d;
/// SCSI status: there is sense data.
const CHECK_CONDITION: u8 = 0x02;
/// Additional sense code of a drive in a low power condition.
const LOW_POWER: u8 = 0x5e;
/// Additional sense code of a drive that expects to fail.
const FAILURE_PREDICTED: u8 = 0x5d;

/// Bytes of sense data that are looked at.
pub const SENSE: usize = 32;
/// What a drive on a spun-up disk takes at most to answer; the kernel gives up after it.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a command carries.
pub enum Data<'a> {
    /// Nothing.
    None,
    /// Bytes from the drive.
    In(&'a mut [u8]),
    /// Bytes to the drive.
    Out(&'a [u8]),
}

/// `struct sg_io_hdr`.
#[repr(C)]
struct Request {
    interface: i32,
    direction: i32,
    command_bytes: u8,
    sense_bytes: u8,
    vectors: u16,
    data_bytes: u32,
    data: *mut u8,
    command: *const u8,
    sense: *mut u8,
    timeout_ms: u32,
    flags: u32,
    id: i32,
    user: *mut u8,
    status: u8,
    masked_status: u8,
    message_status: u8,
    sense_written: u8,
    host_status: u16,
    driver_status: u16,
    left: i32,
    duration_ms: u32,
    info: u32,
}

/// Gives a command. Answers its sense data, all zeros where the drive had nothing to say but that it is done.
///
/// Errors: it did not reach the drive, or the drive answered with another status than these.
#[allow(unsafe_code)]
pub fn give(device: &File, command: &[u8], data: Data<'_>, within: Duration) -> io::Result<[u8; SENSE]> {
    let mut sense = [0; SENSE];
    let (direction, pointer, bytes) = match data {
        Data::None => (DIRECTION_NONE, std::ptr::null_mut(), 0),
        Data::In(bytes) => (DIRECTION_FROM_DRIVE, bytes.as_mut_ptr(), bytes.len()),
        // The kernel reads it and no more: that is the direction.
        Data::Out(bytes) => (DIRECTION_TO_DRIVE, bytes.as_ptr().cast_mut(), bytes.len()),
    };
    let mut request = Request {
        interface: i32::from(b'S'),
        direction,
        command_bytes: command.len() as u8,
        sense_bytes: SENSE as u8,
        vectors: 0,
        data_bytes: bytes as u32,
        data: pointer,
        command: command.as_ptr(),
        sense: sense.as_mut_ptr(),
        timeout_ms: u32::try_from(within.as_millis()).unwrap_or(u32::MAX),
        flags: 0,
        id: 0,
        user: std::ptr::null_mut(),
        status: 0,
        masked_status: 0,
        message_status: 0,
        sense_written: 0,
        host_status: 0,
        driver_status: 0,
        left: 0,
        duration_ms: 0,
        info: 0,
    };
    // SAFETY: the struct is laid out as the kernel's; what its pointers lead to is as long as it says and outlives the call.
    unsafe { ioctl(device, Updater::<SG_IO, Request>::new(&mut request)) }?;
    match (request.host_status, request.status & 0x7e) {
        (0, 0 | CHECK_CONDITION) => Ok(sense),
        (host, status) => Err(io::Error::other(format!("no answer: host status {host:#x}, status {status:#x}"))),
    }
}

/// Whether a drive stands still. It is not woken by being asked.
pub(super) fn is_asleep(device: &File) -> bool {
    let mut sense = [0; SENSE];
    let asked = give(device, &[REQUEST_SENSE, 0, 0, 0, SENSE as u8, 0], Data::In(&mut sense), PATIENCE);
    asked.is_ok() && additional_sense(&sense) == LOW_POWER
}

/// SPC-5, 4.4: fixed format and descriptor format.
fn additional_sense(sense: &[u8; SENSE]) -> u8 {
    match sense[0] & 0x7f {
        0x70 | 0x71 => sense[12],
        0x72 | 0x73 => sense[2],
        _ => 0,
    }
}

/// Asks a drive for its log pages; what it does not have is not told.
pub(super) fn read(device: &File) -> Readings {
    let mut readings = Readings::default();
    for page in [INFORMATIONAL, TEMPERATURE, SOLID_STATE, BACKGROUND, READ_ERRORS] {
        let mut log = [0; 252];
        let command = [LOG_SENSE, 0, 0x40 | page, 0, 0, 0, 0, 0, log.len() as u8, 0];
        // Sense data instead of a page leaves the zeros, which are none.
        if give(device, &command, Data::In(&mut log), PATIENCE).is_ok() {
            log_page(page, &log, &mut readings);
        }
    }
    readings
}

const READ_ERRORS: u8 = 0x03;
const TEMPERATURE: u8 = 0x0d;
const SOLID_STATE: u8 = 0x11;
const BACKGROUND: u8 = 0x15;
const INFORMATIONAL: u8 = 0x2f;

/// Notes what a log page tells, if it is the one that was asked for.
pub fn log_page(page: u8, log: &[u8], readings: &mut Readings) {
    let Some((&[code, _, high, low], mut rest)) = log.split_first_chunk::<4>() else { return };
    let bytes = usize::from(u16::from_be_bytes([high, low]));
    if code & 0x3f != page || bytes == 0 {
        return;
    }
    rest = rest.get(..bytes).unwrap_or(rest);
    while let Some((&[high, low, _, bytes], after)) = rest.split_first_chunk::<4>() {
        let Some((value, after)) = after.split_at_checked(usize::from(bytes)) else { return };
        rest = after;
        let byte = |at: usize| value.get(at).copied();
        let degrees = |at: usize| byte(at).filter(|degrees| *degrees != 0xff).map(i16::from);
        match (page, u16::from_be_bytes([high, low])) {
            (INFORMATIONAL, 0) => {
                readings.verdict = match byte(0) {
                    Some(FAILURE_PREDICTED) => Verdict::Failing,
                    Some(_) => Verdict::Good,
                    None => Verdict::Unknown,
                };
                readings.temperature_c = readings.temperature_c.or(degrees(2).filter(|degrees| *degrees > 0));
            }
            (TEMPERATURE, 0) => readings.temperature_c = degrees(1),
            (TEMPERATURE, 1) => readings.critical_c = degrees(1),
            (SOLID_STATE, 1) => readings.used_percent = byte(3),
            (BACKGROUND, 0) => {
                readings.hours = value.first_chunk().map(|minutes| u32::from_be_bytes(*minutes) / 60);
            }
            (READ_ERRORS, 6) => {
                let sum = value.iter().fold(0_u64, |sum, byte| sum.saturating_mul(256).saturating_add((*byte).into()));
                readings.media_errors = Some(u32::try_from(sum).unwrap_or(u32::MAX));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_as_large_as_the_kernels() {
        assert_eq!(size_of::<Request>(), 88);
    }

    #[test]
    fn log_pages_tell_of_a_verdict_of_temperatures_of_wear_and_of_errors() {
        let mut readings = Readings::default();
        // Failure prediction threshold exceeded, 38 degrees.
        log_page(INFORMATIONAL, &[0x2f, 0, 0, 8, 0, 0, 3, 4, 0x5d, 0x10, 38, 0], &mut readings);
        assert_eq!((readings.verdict, readings.temperature_c), (Verdict::Failing, Some(38)));
        log_page(INFORMATIONAL, &[0x2f, 0, 0, 8, 0, 0, 3, 4, 0, 0, 0, 0], &mut readings);
        assert_eq!((readings.verdict, readings.temperature_c), (Verdict::Good, Some(38)));
        log_page(TEMPERATURE, &[0x0d, 0, 0, 12, 0, 0, 1, 2, 0, 41, 0, 1, 1, 2, 0, 68], &mut readings);
        assert_eq!((readings.temperature_c, readings.critical_c), (Some(41), Some(68)));
        log_page(SOLID_STATE, &[0x11, 0, 0, 8, 0, 1, 3, 4, 0, 0, 0, 7], &mut readings);
        log_page(BACKGROUND, &[0x15, 0, 0, 8, 0, 0, 3, 4, 0, 0, 0x0e, 0x10], &mut readings);
        assert_eq!((readings.used_percent, readings.hours), (Some(7), Some(60)));
        log_page(READ_ERRORS, &[3, 0, 0, 16, 0, 5, 2, 4, 0, 0, 0, 9, 0, 6, 2, 4, 0, 0, 1, 2], &mut readings);
        assert_eq!(readings.media_errors, Some(258));
    }

    #[test]
    fn what_is_no_such_page_tells_nothing() {
        for log in [&[][..], &[0; 252], &[0x0d, 0, 0xff, 0xff, 0, 0, 0, 200, 1], &[0x0d, 0, 0, 3, 0, 0, 0]] {
            for page in [INFORMATIONAL, TEMPERATURE, SOLID_STATE, BACKGROUND, READ_ERRORS] {
                let mut readings = Readings::default();
                log_page(page, log, &mut readings);
                assert_eq!(readings, Readings::default(), "{log:?}");
            }
        }
    }

    #[test]
    fn a_drive_that_stands_still_says_so_in_either_format() {
        let mut sense = [0; SENSE];
        (sense[0], sense[12]) = (0x70, LOW_POWER);
        assert_eq!(additional_sense(&sense), LOW_POWER);
        sense[0] = 0x72;
        assert_eq!(additional_sense(&sense), 0);
    }
}
