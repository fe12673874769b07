//! Durations, sizes and moments as people write them.

use std::time::Duration;

use chrono::DateTime;

/// `5ms`, `1s`, `2m`, `1h`, `1d`; a fraction is allowed.
///
/// # Errors
/// A sentence that says what is expected.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        _ => {
            return Err(format!(
                "\"{text}\" is no duration; write it as \"500ms\", \"1s\", \"5m\" or \"2h\""
            ));
        }
    };
    let number: f64 = number
        .parse()
        .map_err(|_| format!("\"{text}\" is no duration; write it as \"500ms\" or \"1s\""))?;
    Duration::try_from_secs_f64(number * seconds).map_err(|_| format!("\"{text}\" is out of range"))
}

/// `64KiB`, `256MiB`, `1GiB`, `100MB`, `4096`, in bytes.
///
/// # Errors
/// A sentence that says what is expected.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let factor: u64 = match unit {
        "" | "B" => 1,
        "KB" => 1_000,
        "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "MiB" => 1 << 20,
        "GB" => 1_000_000_000,
        "GiB" => 1 << 30,
        _ => {
            return Err(format!(
                "\"{text}\" is no size; write it as \"64KiB\", \"256MiB\" or \"1GiB\""
            ));
        }
    };
    let number: u64 = number
        .parse()
        .map_err(|_| format!("\"{text}\" is no size; write it as \"256MiB\""))?;
    number
        .checked_mul(factor)
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| format!("\"{text}\" is out of range"))
}

/// A moment as RFC 3339 has it, in milliseconds since 1970 UTC.
///
/// # Errors
/// A sentence that says what is expected.
pub(crate) fn moment(text: &str) -> Result<i64, String> {
    DateTime::parse_from_rfc3339(text)
        .map(|moment| moment.timestamp_millis())
        .map_err(|error| {
            format!("\"{text}\" is no moment ({error}); write it as \"2026-01-31T08:00:00Z\", with the offset from UTC")
        })
}

fn split(text: &str) -> (&str, &str) {
    let at = text
        .find(|letter: char| letter.is_ascii_alphabetic())
        .unwrap_or(text.len());
    (text[..at].trim(), text[at..].trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read() {
        assert_eq!(duration("5ms"), Ok(Duration::from_millis(5)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1_500)));
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7_200)));
        assert_eq!(size("1GiB"), Ok(1 << 30));
        assert_eq!(size("4096"), Ok(4096));
        for bad in ["", "5", "s", "5 parsecs", "-1s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        for bad in ["", "1.5MiB", "0", "MiB", "99999999999GiB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
