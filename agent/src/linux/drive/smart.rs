//! What ATA drives measure of themselves: SMART's attributes, and the log of device statistics. Pure.
//!
//! Attributes are each maker's own; read are those on which makers agree. Statistics are ACS-4's, and count for more.

use muster_protocol::inventory::health::{Readings, Verdict};

/// Pages of the log of device statistics that are read.
const GENERAL: u8 = 1;
const ROTATING: u8 = 3;
const ERRORS: u8 = 4;
const TEMPERATURE: u8 = 5;
const SOLID_STATE: u8 = 7;

/// Notes what SMART READ DATA and its thresholds tell. Data whose checksum is wrong is none.
pub fn attributes(data: &[u8], thresholds: &[u8], spins: bool, readings: &mut Readings) {
    let is_whole = |data: &[u8]| data.len() == 512 && data.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)) == 0;
    if !is_whole(data) || data.iter().all(|byte| *byte == 0) {
        return;
    }
    // From byte 2 on, 30 entries of 12 bytes: number, flags, value, worst value, raw value; or number and threshold.
    let entries = |data: &'_ [u8]| -> Vec<[u8; 12]> {
        let all = data.get(2..362).unwrap_or_default().chunks_exact(12);
        let is_one = |entry: &[u8; 12]| !matches!(entry[0], 0 | 0xff);
        all.filter_map(|entry| entry.try_into().ok()).filter(is_one).collect()
    };
    let limits = if is_whole(thresholds) { entries(thresholds) } else { Vec::new() };
    if !limits.is_empty() {
        readings.verdict = Verdict::Good;
    }
    for [number, flags, _, value, _, raw @ ..] in entries(data) {
        let count = u32::from_le_bytes([raw[0], raw[1], raw[2], raw[3]]);
        let left = (!spins && value <= 100).then(|| 100 - value);
        match number {
            5 => readings.reallocated = Some(count),
            9 => readings.hours = Some(count),
            174 | 192 => readings.unsafe_shutdowns = readings.unsafe_shutdowns.or(Some(count)),
            // Wear leveling, life left, media wearout: of the first that is there.
            177 | 202 | 231 | 233 => readings.used_percent = readings.used_percent.or(left),
            187 => readings.media_errors = Some(count),
            // Above it are the lowest and the highest.
            190 => readings.temperature_c = readings.temperature_c.or(Some(i16::from(raw[0] as i8))),
            194 => readings.temperature_c = Some(i16::from(raw[0] as i8)),
            197 => readings.pending = Some(count),
            198 => readings.uncorrectable = Some(count),
            _ => {}
        }
        // Of those that foretell a failure.
        let limit = limits.iter().find(|limit| limit[0] == number).map_or(0, |limit| limit[1]);
        if flags & 1 == 1 && (1..=limit).contains(&value) && limit < 254 {
            readings.verdict = Verdict::Failing;
        }
    }
}

/// Which pages of device statistics a drive has, of those that are read.
pub fn pages(list: &[u8]) -> Vec<u8> {
    let count = list.get(8).copied().unwrap_or_default();
    let all = list.get(9..9 + usize::from(count)).unwrap_or_default();
    let read = [GENERAL, ROTATING, ERRORS, TEMPERATURE, SOLID_STATE];
    read.into_iter().filter(|page| all.contains(page)).collect()
}

/// Notes what a page of device statistics tells.
pub fn statistics(page: u8, data: &[u8], readings: &mut Readings) {
    if data.get(2) != Some(&page) {
        return;
    }
    // Eight bytes: the value, and in the last of them that it is supported and valid.
    let at = |at: usize| match data.get(at..at + 8) {
        Some(&[a, b, c, d, .., flags]) if flags & 0xc0 == 0xc0 => Some(u32::from_le_bytes([a, b, c, d])),
        _ => None,
    };
    let degrees = |offset: usize| at(offset).map(|value| i16::from(value as u8 as i8));
    let told = |into: &mut Option<u32>, value: Option<u32>| *into = value.or(*into);
    match page {
        GENERAL => told(&mut readings.hours, at(16)),
        ROTATING => {
            told(&mut readings.reallocated, at(32));
            told(&mut readings.pending, at(56));
        }
        ERRORS => told(&mut readings.media_errors, at(8)),
        TEMPERATURE => {
            readings.temperature_c = degrees(8).or(readings.temperature_c);
            readings.critical_c = degrees(88).or(readings.critical_c);
        }
        SOLID_STATE => readings.used_percent = at(8).map(|used| used.min(255) as u8).or(readings.used_percent),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Entries of 12 bytes with the checksum that goes with them.
    fn sector(entries: &[[u8; 12]]) -> [u8; 512] {
        let mut data = [0; 512];
        data[0] = 1;
        for (n, entry) in entries.iter().enumerate() {
            data[2 + 12 * n..14 + 12 * n].copy_from_slice(entry);
        }
        data[511] = 0_u8.wrapping_sub(data.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte)));
        data
    }

    fn attribute(number: u8, flags: u8, value: u8, raw: [u8; 6]) -> [u8; 12] {
        [number, flags, 0, value, value, raw[0], raw[1], raw[2], raw[3], raw[4], raw[5], 0]
    }

    fn limit(number: u8, threshold: u8) -> [u8; 12] {
        [number, threshold, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    }

    #[test]
    fn attributes_on_which_makers_agree_are_read() {
        let data = sector(&[
            attribute(5, 3, 100, [8, 1, 0, 0, 0, 0]),
            attribute(9, 0x32, 97, [0x10, 0x27, 0, 0, 9, 9]),
            attribute(190, 0x22, 69, [31, 0, 20, 40, 0, 0]),
            attribute(192, 0x32, 100, [17, 0, 0, 0, 0, 0]),
            attribute(197, 0x12, 100, [2, 0, 0, 0, 0, 0]),
            attribute(198, 0x10, 100, [1, 0, 0, 0, 0, 0]),
            attribute(187, 0x32, 100, [3, 0, 0, 0, 0, 0]),
            attribute(177, 0x13, 93, [99, 0, 0, 0, 0, 0]),
        ]);
        let mut readings = Readings::default();
        attributes(&data, &sector(&[limit(5, 36), limit(9, 0)]), false, &mut readings);
        let expected = Readings {
            verdict: Verdict::Good,
            temperature_c: Some(31),
            hours: Some(10_000),
            used_percent: Some(7),
            reallocated: Some(264),
            pending: Some(2),
            uncorrectable: Some(1),
            media_errors: Some(3),
            unsafe_shutdowns: Some(17),
            ..Readings::default()
        };
        assert_eq!(readings, expected);
        let mut spinning = Readings::default();
        attributes(&data, &[0; 512], true, &mut spinning);
        assert_eq!((spinning.used_percent, spinning.verdict), (None, Verdict::Unknown));
    }

    #[test]
    fn an_attribute_at_its_threshold_foretells_a_failure_only_where_it_is_one_that_does() {
        let verdict = |flags, value, threshold| {
            let mut readings = Readings::default();
            let data = sector(&[attribute(5, flags, value, [0; 6])]);
            attributes(&data, &sector(&[limit(5, threshold)]), true, &mut readings);
            readings.verdict
        };
        assert_eq!(verdict(3, 36, 36), Verdict::Failing);
        assert_eq!(verdict(3, 37, 36), Verdict::Good);
        assert_eq!(verdict(2, 36, 36), Verdict::Good, "it is of age, and not of failing");
        assert_eq!(verdict(3, 0, 36), Verdict::Good, "a value of 0 is none");
        assert_eq!(verdict(3, 1, 0), Verdict::Good, "a threshold of 0 never fails");
    }

    #[test]
    fn data_with_a_wrong_checksum_or_length_is_none() {
        let mut data = sector(&[attribute(5, 3, 1, [9; 6])]);
        data[100] = 1;
        for data in [&data[..], &[], &[0; 512], &[0xff; 512], &data[..300]] {
            let mut readings = Readings::default();
            attributes(data, data, true, &mut readings);
            assert_eq!(readings, Readings::default());
        }
    }

    #[test]
    fn statistics_count_for_more_than_attributes_where_they_are_valid() {
        let page = |page: u8, values: &[(usize, u32, u8)]| {
            let mut data = [0; 512];
            data[2] = page;
            for (at, value, flags) in values {
                data[*at..at + 4].copy_from_slice(&value.to_le_bytes());
                data[at + 7] = *flags;
            }
            data
        };
        let mut readings = Readings { hours: Some(600_000), reallocated: Some(1), ..Readings::default() };
        statistics(GENERAL, &page(1, &[(16, 10_000, 0xc0)]), &mut readings);
        statistics(ROTATING, &page(3, &[(32, 5, 0x80), (56, 4, 0xc0)]), &mut readings);
        statistics(ERRORS, &page(4, &[(8, 6, 0xe0)]), &mut readings);
        statistics(TEMPERATURE, &page(5, &[(8, 0xfb, 0xc0), (88, 60, 0xc0)]), &mut readings);
        statistics(SOLID_STATE, &page(7, &[(8, 104, 0xc0)]), &mut readings);
        let expected = Readings {
            temperature_c: Some(-5),
            critical_c: Some(60),
            hours: Some(10_000),
            used_percent: Some(104),
            reallocated: Some(1),
            pending: Some(4),
            media_errors: Some(6),
            ..Readings::default()
        };
        assert_eq!(readings, expected);
        statistics(GENERAL, &page(2, &[(16, 1, 0xc0)]), &mut readings);
        assert_eq!(readings, expected, "another page than the one that was asked for");
        let mut list = [0; 512];
        (list[8], list[9], list[10], list[11], list[12]) = (3, 0, 5, 6, 7);
        assert_eq!(pages(&list), [TEMPERATURE], "the fourth is beyond their number");
        assert_eq!(pages(&[0xff; 16]), [0; 0]);
    }
}
