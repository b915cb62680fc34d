//! NVMe drives that erase themselves: Sanitize, or Format NVM with a secure erase.
//!
//! Called by `wipe`. Numbers are those of the NVM Express Base Specification 2.0 and NVM Command Set Specification 1.0.
//! A command that would reach further than the one namespace is not given: another namespace is another disk.

use std::fs::File;
use std::io;
use std::time::Duration;

use crate::linux::drive::nvme::{Command, GET_LOG_PAGE, IDENTIFIED, identify};

const FORMAT: u8 = 0x80;
const SANITIZE: u8 = 0x84;

/// Of the log of sanitize operations, what is looked at.
const SANITIZE_LOG: usize = 20;
const SANITIZE_LOG_PAGE: u32 = 0x81;
/// A drive of 16 TB that overwrites its flash to format it needs hours.
const PATIENCE: Duration = Duration::from_secs(24 * 60 * 60);
const LOOKS_EVERY: Duration = Duration::from_secs(1);

/// What a drive can do to itself without touching another namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Sanitize, with this action (Sanitize command, CDW10).
    Sanitize(u32),
    /// Format NVM with user data erase, in the format that it has: CDW10.
    Format(u32),
}

const BLOCK_ERASE: u32 = 2;
const CRYPTO_ERASE: u32 = 4;

/// How a sanitize operation stands, by its log page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sanitized {
    /// 0 to 100.
    Running(u8),
    Done,
    Failed,
}

/// Has the drive erase this namespace, and answers by what; `None` where it cannot, or would erase others as well. Takes
/// seconds to hours.
///
/// Errors: it began and failed, or does not answer.
pub(super) fn erase(device: &File, namespace: u32, progress: &mut dyn FnMut(u8)) -> io::Result<Option<&'static str>> {
    let controller = identify(device, 1, 0)?;
    let which = if manages_namespaces(&controller) { 0x10 } else { 0x02 };
    let is_alone = namespaces(&identify(device, which, 0)?) == [namespace];
    match way(&controller, &identify(device, 0, namespace)?, is_alone) {
        None => Ok(None),
        Some(Way::Sanitize(action)) => {
            // A sanitize operation that the power cut goes on by itself, and another one is refused meanwhile.
            if !matches!(sanitized(device)?, Sanitized::Running(_)) {
                Command::new(SANITIZE, 0).with(action).give(device)?;
            }
            loop {
                match sanitized(device)? {
                    Sanitized::Running(percent) => progress(percent),
                    Sanitized::Done => break,
                    Sanitized::Failed => return Err(io::Error::other("the drive says that its sanitizing failed")),
                }
                std::thread::sleep(LOOKS_EVERY);
            }
            Ok(Some(if action == BLOCK_ERASE { "NVMe sanitize, block erase" } else { "NVMe sanitize, crypto erase" }))
        }
        Some(Way::Format(format)) => {
            Command::new(FORMAT, namespace).with(format).within(PATIENCE).give(device)?;
            Ok(Some("NVMe format, user data erase"))
        }
    }
}

/// Bit 3 of the optional admin commands: namespaces may be allocated that no controller has.
fn manages_namespaces(controller: &[u8; IDENTIFIED]) -> bool {
    optional_commands(controller) & (1 << 3) != 0
}

fn optional_commands(controller: &[u8; IDENTIFIED]) -> u16 {
    u16::from_le_bytes([controller[256], controller[257]])
}

/// Ends with the first zero.
fn namespaces(list: &[u8; IDENTIFIED]) -> Vec<u32> {
    let ids = list.chunks_exact(4).map(|id| u32::from_le_bytes([id[0], id[1], id[2], id[3]]));
    ids.take_while(|id| *id != 0).collect()
}

fn way(controller: &[u8; IDENTIFIED], namespace: &[u8; IDENTIFIED], is_alone: bool) -> Option<Way> {
    let sanitizes = controller[328];
    let format = controller[524];
    let (formats_all, erases_all) = (format & 1 != 0, format & 2 != 0);
    if is_alone && sanitizes & 2 != 0 {
        return Some(Way::Sanitize(BLOCK_ERASE));
    }
    if is_alone && sanitizes & 1 != 0 {
        return Some(Way::Sanitize(CRYPTO_ERASE));
    }
    let can_format = optional_commands(controller) & (1 << 1) != 0 && (is_alone || !formats_all && !erases_all);
    can_format.then(|| {
        let (formatted, protected) = (u32::from(namespace[26]), u32::from(namespace[29]));
        let (index, extended, upper) = (formatted & 0xf, formatted >> 4 & 1, formatted >> 5 & 3);
        let (protection, first) = (protected & 7, protected >> 3 & 1);
        const USER_DATA_ERASE: u32 = 1;
        Way::Format(index | extended << 4 | protection << 5 | first << 8 | USER_DATA_ERASE << 9 | upper << 12)
    })
}

fn sanitized(device: &File) -> io::Result<Sanitized> {
    let mut log = [0; SANITIZE_LOG];
    // Double words to read, less one, in the upper half.
    let size = (SANITIZE_LOG as u32 / 4 - 1) << 16;
    Command::new(GET_LOG_PAGE, u32::MAX).with(SANITIZE_LOG_PAGE | size).read(device, &mut log)?;
    Ok(told(&log))
}

fn told(log: &[u8; SANITIZE_LOG]) -> Sanitized {
    let progress = u32::from(u16::from_le_bytes([log[0], log[1]]));
    match log[2] & 7 {
        2 => Sanitized::Running((progress * 100 / 65536) as u8),
        3 => Sanitized::Failed,
        // Never, or done with or without deallocation.
        _ => Sanitized::Done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn controller(commands: u8, sanitizes: u8, format: u8) -> [u8; IDENTIFIED] {
        let mut answer = [0; IDENTIFIED];
        (answer[256], answer[328], answer[524]) = (commands, sanitizes, format);
        answer
    }

    #[test]
    fn a_drive_erases_itself_by_the_most_thorough_way_that_touches_no_other_namespace() {
        let mut namespace = [0; IDENTIFIED];
        (namespace[26], namespace[29]) = (0b0101_0011, 0b1010);
        let format = Some(Way::Format(3 | 1 << 4 | 2 << 5 | 1 << 8 | 1 << 9 | 2 << 12));
        let (block, crypto) = (Some(Way::Sanitize(BLOCK_ERASE)), Some(Way::Sanitize(CRYPTO_ERASE)));
        for (commands, sanitizes, all, alone, among_others) in [
            (0, 0, 0, None, None),
            (2, 0, 0, format, format),
            (2, 0, 1, format, None),
            (2, 0, 2, format, None),
            (2, 3, 0, block, format),
            (2, 1, 0, crypto, format),
            (0, 2, 0, block, None),
            // Overwriting alone: the same can be done from here.
            (0, 4, 0, None, None),
        ] {
            let controller = controller(commands, sanitizes, all);
            assert_eq!(way(&controller, &namespace, true), alone, "{commands} {sanitizes} {all}");
            assert_eq!(way(&controller, &namespace, false), among_others, "{commands} {sanitizes} {all}");
        }
    }

    #[test]
    fn namespaces_end_with_the_first_zero() {
        let mut list = [0; IDENTIFIED];
        (list[0], list[5], list[12]) = (1, 2, 9);
        assert_eq!(namespaces(&list), [1, 0x200]);
        assert_eq!(namespaces(&[0xff; IDENTIFIED]).len(), 1024);
    }

    #[test]
    fn a_log_tells_how_far_a_sanitize_operation_is() {
        let log = |progress: u16, status: u8| {
            let mut log = [0; SANITIZE_LOG];
            log[..2].copy_from_slice(&progress.to_le_bytes());
            log[2] = status;
            told(&log)
        };
        assert_eq!(log(0x8000, 2), Sanitized::Running(50));
        assert_eq!(log(0xffff, 2), Sanitized::Running(99));
        assert_eq!([0, 1, 4].map(|status| log(0xffff, status)), [Sanitized::Done; 3]);
        assert_eq!(log(0xffff, 3), Sanitized::Failed);
    }
}
