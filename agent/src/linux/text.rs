//! Texts that come from firmware, disks and sysfs, made fit for reports.
//!
//! Called by everything that reads hardware.

/// Bytes that a text in an inventory may have.
const LIMIT: usize = 128;

/// Trims blanks, zeros and control characters, and cuts to 128 bytes on a character's boundary.
pub fn clean(text: &str) -> String {
    clean_to(text, LIMIT)
}

/// The same with another limit.
pub fn clean_to(text: &str, limit: usize) -> String {
    let visible: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let trimmed = visible.trim();
    let cut = (0..=limit.min(trimmed.len())).rev().find(|&at| trimmed.is_char_boundary(at)).unwrap_or(0);
    trimmed[..cut].trim_end().to_owned()
}

/// The same for bytes that end at their first zero; what is no UTF-8 is replaced.
pub fn clean_bytes(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    clean(&String::from_utf8_lossy(&bytes[..end]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_trimmed_and_cut_between_characters() {
        assert_eq!(clean("  QEMU\tHARDDISK \n"), "QEMU HARDDISK");
        assert_eq!(clean_bytes(b"S/N 1\0garbage"), "S/N 1");
        assert_eq!(clean_bytes(&[0xff, b'a']), "\u{fffd}a");
        assert_eq!(clean(&"ä".repeat(100)), "ä".repeat(64));
        assert_eq!(clean(&format!("x{}", "ä".repeat(100))).len(), 127);
        assert_eq!(clean(""), "");
    }
}
