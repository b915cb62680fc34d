//! How netplan writes what the kernel keeps as a number: words, times with and without a unit, truth values.
//!
//! One table for both ways: [`super::network`] reads by it and [`super::render`] writes by it.

use muster_protocol::desired::{BondOption, BridgeOption};
use serde_json::{Value, json};

/// How a number is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// As a number.
    Count,
    /// As a truth value, 0 or 1.
    Truth,
    /// As one of these words, counted from 0.
    Words(&'static [&'static str]),
    /// As a time.
    Time {
        /// What a number without a unit counts, in ms.
        plain: u32,
        /// What the kernel counts, in ms.
        step: u32,
    },
}

const MILLISECONDS: Form = Form::Time { plain: 1, step: 1 };
/// A bridge's times, counted in ticks of `USER_HZ`.
const TICKS: Form = Form::Time { plain: 1_000, step: 10 };

/// Units of time and their length in ms.
const UNITS: [(&str, u64); 6] =
    [("ms", 1), ("s", 1_000), ("sec", 1_000), ("m", 60_000), ("min", 60_000), ("h", 3_600_000)];

/// How netplan writes a bond's option.
pub(crate) fn bond(option: BondOption) -> Form {
    match option {
        BondOption::MiiMonitorInterval | BondOption::UpDelay | BondOption::DownDelay | BondOption::ArpInterval => {
            MILLISECONDS
        }
        BondOption::LearnPacketInterval => Form::Time { plain: 1_000, step: 1_000 },
        BondOption::MinLinks | BondOption::GratuitousArp | BondOption::ResendIgmp | BondOption::PacketsPerMember => {
            Form::Count
        }
        BondOption::AllMembersActive => Form::Truth,
        BondOption::LacpRate => Form::Words(&["slow", "fast"]),
        BondOption::AdSelect => Form::Words(&["stable", "bandwidth", "count"]),
        BondOption::TransmitHashPolicy => Form::Words(&["layer2", "layer3+4", "layer2+3", "encap2+3", "encap3+4"]),
        BondOption::ArpValidate => Form::Words(&["none", "active", "backup", "all"]),
        BondOption::ArpAllTargets => Form::Words(&["any", "all"]),
        BondOption::FailOverMac => Form::Words(&["none", "active", "follow"]),
        BondOption::PrimaryReselect => Form::Words(&["always", "better", "failure"]),
    }
}

/// How netplan writes a bridge's option.
pub(crate) fn bridge(option: BridgeOption) -> Form {
    match option {
        BridgeOption::Stp => Form::Truth,
        BridgeOption::Priority => Form::Count,
        BridgeOption::ForwardDelay | BridgeOption::HelloTime | BridgeOption::MaxAge | BridgeOption::AgeingTime => TICKS,
    }
}

impl Form {
    /// What would be right, for a problem.
    pub(crate) fn expected(self) -> String {
        match self {
            Self::Count => "a number".into(),
            Self::Truth => "true or false".into(),
            Self::Words(words) => format!("one of {}", words.join(", ")),
            Self::Time { plain: 1, .. } => "a number of milliseconds, or a time such as 100ms or 1s".into(),
            Self::Time { step: 10, .. } => {
                "a number of seconds, or a time such as 4s or 500ms, in steps of 10ms".into()
            }
            Self::Time { .. } => "a whole number of seconds, such as 2 or 2s".into(),
        }
    }

    /// The number that is meant; `None` where the text is none of this form.
    pub(crate) fn read(self, text: &str) -> Option<u32> {
        match self {
            Self::Count => digits(text)?.try_into().ok(),
            Self::Truth => truth(text).map(u32::from),
            Self::Words(words) => words.iter().position(|word| *word == text)?.try_into().ok(),
            Self::Time { plain, step } => {
                let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
                let (number, unit) = text.split_at(end);
                let ms = match unit {
                    "" => u64::from(plain),
                    unit => UNITS.iter().find(|(name, _)| *name == unit)?.1,
                };
                let ms = digits(number)?.checked_mul(ms)?;
                let step = u64::from(step);
                if ms.is_multiple_of(step) { (ms / step).try_into().ok() } else { None }
            }
        }
    }

    /// The number as it can be read again.
    pub(crate) fn write(self, value: u32) -> Value {
        match self {
            Self::Count => json!(value),
            Self::Truth => json!(value == 1),
            // A number without a word is out of range, and no checked value is.
            Self::Words(words) => words.get(value as usize).map_or_else(|| json!(value), |word| json!(word)),
            Self::Time { plain, step } => {
                let ms = u64::from(value) * u64::from(step);
                let plain = u64::from(plain);
                if ms.is_multiple_of(plain) { json!(ms / plain) } else { json!(format!("{ms}ms")) }
            }
        }
    }
}

/// Digits and nothing else: `FromStr` also reads `+5`.
fn digits(text: &str) -> Option<u64> {
    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// A truth value in any of YAML 1.1's words, which netplan and Butane both read.
pub(crate) fn truth(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "y" => Some(true),
        "false" | "no" | "off" | "n" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_as_the_same_number() {
        let bonds = BondOption::ALL.map(|option| (option.name(), bond(option), option.range()));
        let bridges = BridgeOption::ALL.map(|option| (option.name(), bridge(option), option.range()));
        for (name, form, range) in bonds.into_iter().chain(bridges) {
            let (start, end) = range.into_inner();
            for value in [start, start + 1, start.midpoint(end), end] {
                let text = match form.write(value) {
                    Value::String(text) => text,
                    other => other.to_string(),
                };
                assert_eq!(form.read(&text), Some(value), "{name}: {text}");
            }
            assert!(!form.expected().is_empty());
        }
    }

    #[test]
    fn every_number_of_a_word_has_one() {
        for option in BondOption::ALL {
            if let Form::Words(words) = bond(option) {
                assert_eq!(words.len() as u32, option.range().end() + 1, "{}", option.name());
            }
        }
    }

    #[test]
    fn a_time_counts_what_its_unit_says() {
        for (form, text, value) in [
            (MILLISECONDS, "100", Some(100)),
            (MILLISECONDS, "100ms", Some(100)),
            (MILLISECONDS, "1s", Some(1_000)),
            (MILLISECONDS, "2min", Some(120_000)),
            (TICKS, "4", Some(400)),
            (TICKS, "500ms", Some(50)),
            (TICKS, "5ms", None),
            (TICKS, "1m", Some(6_000)),
            (bond(BondOption::LearnPacketInterval), "2", Some(2)),
            (bond(BondOption::LearnPacketInterval), "2000ms", Some(2)),
            (bond(BondOption::LearnPacketInterval), "1500ms", None),
            (MILLISECONDS, "", None),
            (MILLISECONDS, "ms", None),
            (MILLISECONDS, "+1", None),
            (MILLISECONDS, "-1", None),
            (MILLISECONDS, "1.5s", None),
            (MILLISECONDS, "1 s", None),
            (MILLISECONDS, "9999999999", None),
            (MILLISECONDS, "99999999999999999999h", None),
        ] {
            assert_eq!(form.read(text), value, "{text} as {form:?}");
        }
    }
}
