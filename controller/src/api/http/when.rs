//! Times as people write them: a moment (`2026-11-21T07:15:04Z`, `2026-11-21`), or how far it is from now (`90d`, `12h`).

use super::problem::Problem;
use crate::api::view::Time;

/// What a time may look like, for refusals.
pub const EXPECTED: &str = "a span like 12h or 90d, a date, or a time like 2026-11-21T07:15:04Z";

/// The longest span: a hundred years.
const SPAN_LIMIT_MS: u64 = 36_525 * DAY_MS;

const DAY_MS: u64 = 24 * 3600 * 1000;

/// A number and `s`, `m`, `h`, `d` or `w`, in milliseconds.
pub fn span_ms(text: &str) -> Option<u64> {
    let unit = text.chars().next_back()?;
    let ms = match unit {
        's' => 1000,
        'm' => 60 * 1000,
        'h' => 3600 * 1000,
        'd' => DAY_MS,
        'w' => 7 * DAY_MS,
        _ => return None,
    };
    let number = &text[..text.len() - 1];
    let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let count: u64 = if digits { number.parse().ok()? } else { return None };
    count.checked_mul(ms).filter(|span| *span <= SPAN_LIMIT_MS)
}

/// A span in whole seconds, for options of commands.
pub fn seconds(text: &str) -> Result<u64, String> {
    span_ms(text).map(|ms| ms / 1000).ok_or_else(|| "write a span like 30s, 5m or 1h".to_owned())
}

/// RFC 3339, or a date for its first moment in UTC.
fn moment(text: &str) -> Option<Time> {
    Time::parse(text).or_else(|| Time::parse(&format!("{text}T00:00:00Z")))
}

/// A moment, or so long before now.
pub fn past(field: &str, text: &str, now_unix_ms: u64) -> Result<Time, Problem> {
    let found = span_ms(text).map(|span| Time(now_unix_ms.saturating_sub(span))).or_else(|| moment(text));
    found.ok_or_else(|| wrong(field, text))
}

/// A moment, or so long after now.
pub fn future(field: &str, text: &str, now_unix_ms: u64) -> Result<Time, Problem> {
    let found = span_ms(text).map(|span| Time(now_unix_ms.saturating_add(span))).or_else(|| moment(text));
    found.ok_or_else(|| wrong(field, text))
}

fn wrong(field: &str, text: &str) -> Problem {
    let text: String = text.chars().take(80).collect();
    Problem::invalid(field, format!("must be {EXPECTED}, and is {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_dates_and_times_are_read() {
        let now = 10 * DAY_MS;
        assert_eq!(["0s", "90s", "2m", "12h", "7d", "1w"].map(|t| span_ms(t).map(|ms| ms / 1000)), {
            [Some(0), Some(90), Some(120), Some(43_200), Some(604_800), Some(604_800)]
        });
        assert_eq!(past("since", "2d", now), Ok(Time(8 * DAY_MS)));
        assert_eq!(future("expires", "2d", now), Ok(Time(12 * DAY_MS)));
        assert_eq!(future("expires", "1970-01-03", now), Ok(Time(2 * DAY_MS)));
        assert_eq!(past("since", "1970-01-03T01:00:00+01:00", now), Ok(Time(2 * DAY_MS)));
        for wrong in
            ["", "d", "-1d", "+1d", "1.5h", "1y", "99999999d", "99999999999999999999d", "soon", "2026-13-01", "1ä"]
        {
            assert!(past("since", wrong, now).is_err(), "{wrong}");
        }
    }
}
