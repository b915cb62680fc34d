//! NVMe admin commands that the kernel passes through, and the log in which NVMe drives tell of their health.
//!
//! Called by `drive` and by `wipe`. Numbers are those of the NVM Express Base Specification 2.0; the request is the Linux
//! kernel's, include/uapi/linux/nvme_ioctl.h.

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::time::Duration;

use muster_protocol::inventory::health::{Readings, Verdict};
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl};

/// `_IOWR('N', 0x41, struct nvme_passthru_cmd)`.
const ADMIN_COMMAND: Opcode = 0xc048_4e41;

/// Opcode of Get Log Page.
pub const GET_LOG_PAGE: u8 = 0x02;
const IDENTIFY: u8 = 0x06;

/// Bytes that Identify answers.
pub const IDENTIFIED: usize = 4096;
/// SMART / Health Information.
const HEALTH_PAGE: u32 = 0x02;
/// Its bytes.
pub const HEALTH: usize = 512;
/// Of its critical warnings, the one that passes with the heat.
const HOT: u8 = 1 << 1;
/// Degrees Celsius are Kelvin less this.
const KELVIN: i32 = 273;

/// Asks a drive how it is.
pub(super) fn read(device: &File) -> io::Result<Readings> {
    let mut log = [0; HEALTH];
    // Double words to read, less one, in the upper half.
    let size = (HEALTH as u32 / 4 - 1) << 16;
    Command::new(GET_LOG_PAGE, u32::MAX).with(HEALTH_PAGE | size).read(device, &mut log)?;
    let critical = identify(device, 1, 0).map(|c| u16::from_le_bytes([c[268], c[269]])).unwrap_or_default();
    Ok(health(&log, critical))
}

/// What the log of a drive tells, and its critical temperature in Kelvin, 0 where it has none.
pub fn health(log: &[u8; HEALTH], critical_kelvin: u16) -> Readings {
    let celsius = |kelvin: u16| (kelvin != 0).then(|| (i32::from(kelvin) - KELVIN) as i16);
    // 16 bytes each, of which nobody ever saw the upper half.
    let count = |at: usize| {
        let bytes: [u8; 16] = log[at..at + 16].try_into().expect("16 bytes are 16 bytes");
        Some(u32::try_from(u128::from_le_bytes(bytes)).unwrap_or(u32::MAX))
    };
    let critical = log[0];
    Readings {
        verdict: if critical & !HOT == 0 { Verdict::Good } else { Verdict::Failing },
        critical,
        temperature_c: celsius(u16::from_le_bytes([log[1], log[2]])),
        critical_c: celsius(critical_kelvin),
        spare_percent: Some(log[3]),
        spare_threshold: Some(log[4]),
        used_percent: Some(log[5]),
        hours: count(128),
        unsafe_shutdowns: count(144),
        media_errors: count(160),
        ..Readings::default()
    }
}

/// Identify, of this kind.
pub fn identify(device: &File, what: u32, namespace: u32) -> io::Result<[u8; IDENTIFIED]> {
    let mut answer = [0; IDENTIFIED];
    Command::new(IDENTIFY, namespace).with(what).read(device, &mut answer)?;
    Ok(answer)
}

/// `struct nvme_passthru_cmd`.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Command {
    opcode: u8,
    flags: u8,
    reserved: u16,
    namespace: u32,
    words2: [u32; 2],
    metadata: u64,
    data: u64,
    metadata_bytes: u32,
    data_bytes: u32,
    words10: [u32; 6],
    timeout_ms: u32,
    result: u32,
}

impl Command {
    /// One for this namespace.
    pub fn new(opcode: u8, namespace: u32) -> Self {
        Self { opcode, namespace, ..Self::default() }
    }

    /// CDW10.
    pub fn with(mut self, word: u32) -> Self {
        self.words10[0] = word;
        self
    }

    /// How long the drive has; else as long as the kernel gives its own commands.
    pub fn within(mut self, patience: Duration) -> Self {
        self.timeout_ms = u32::try_from(patience.as_millis()).unwrap_or(u32::MAX);
        self
    }

    /// Gives one that answers nothing but how it went.
    pub fn give(self, device: &File) -> io::Result<()> {
        self.read(device, &mut [])
    }

    /// Gives one that answers bytes.
    #[allow(unsafe_code)]
    pub fn read(mut self, device: &File, answer: &mut [u8]) -> io::Result<()> {
        (self.data, self.data_bytes) = (answer.as_mut_ptr() as u64, answer.len() as u32);
        let opcode = self.opcode;
        // SAFETY: the struct is laid out as the kernel's; the kernel writes `data_bytes` bytes at `data` at most, and
        // `answer` outlives the call.
        match unsafe { ioctl(device, Passed(self)) }? {
            0 => Ok(()),
            status => Err(io::Error::other(format!("the drive refuses command {opcode:#04x} with status {status:#x}"))),
        }
    }
}

/// As an updater, and the request's own answer counts: it is the drive's status.
struct Passed(Command);

#[allow(unsafe_code)]
// SAFETY: the pointer is to the struct that the opcode takes, and the output is the returned number itself.
unsafe impl Ioctl for Passed {
    type Output = IoctlOutput;

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        ADMIN_COMMAND
    }

    fn as_ptr(&mut self) -> *mut c_void {
        (&raw mut self.0).cast()
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> rustix::io::Result<IoctlOutput> {
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_as_large_as_the_kernels() {
        assert_eq!(size_of::<Command>(), 72);
        assert_eq!(ADMIN_COMMAND >> 16 & 0x3fff, 72);
    }

    #[test]
    fn a_health_log_is_read_as_it_is_laid_out() {
        let mut log = [0; HEALTH];
        log[..6].copy_from_slice(&[0x02, 0x43, 0x01, 97, 10, 3]);
        (log[128], log[129], log[144], log[160]) = (0x10, 0x27, 5, 6);
        let readings = health(&log, 358);
        let expected = Readings {
            verdict: Verdict::Good,
            critical: 2,
            temperature_c: Some(50),
            critical_c: Some(85),
            hours: Some(10_000),
            used_percent: Some(3),
            spare_percent: Some(97),
            spare_threshold: Some(10),
            media_errors: Some(6),
            unsafe_shutdowns: Some(5),
            ..Readings::default()
        };
        assert_eq!(readings, expected);
        for bit in [0, 2, 3, 4, 5] {
            log[0] = 1 << bit;
            assert_eq!(health(&log, 0).verdict, Verdict::Failing, "bit {bit}");
        }
        let readings = health(&[0xff; HEALTH], u16::MAX);
        assert_eq!((readings.hours, readings.verdict), (Some(u32::MAX), Verdict::Failing));
    }
}
