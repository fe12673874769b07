//! Dates and times in text: `2024-05-06`, `2024-05-06T07:08:09.123Z`, `2024-05-06 07:08+02:00`.

const NANOS: i128 = 1_000_000_000;

/// Days since 1970-01-01 of `YYYY-MM-DD`.
pub(super) fn date(text: &[u8]) -> Option<i32> {
    let text: &[u8; 10] = text.try_into().ok()?;
    if text[4] != b'-' || text[7] != b'-' {
        return None;
    }
    let year = i32::try_from(digits(&text[..4])?).ok()?;
    let month = i32::try_from(digits(&text[5..7])?).ok()?;
    let day = i32::try_from(digits(&text[8..])?).ok()?;
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let month_days = match month {
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=month_days).contains(&day) {
        return None;
    }
    // Years are counted from March, so that the leap day is the last of its year.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    Some(365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year - 719_468)
}

/// Nanoseconds since 1970 UTC of an ISO 8601 / RFC 3339 text. UTC where it names no zone, midnight where it has no time;
/// digits beyond nanoseconds are dropped; a leap second is the next minute's first.
pub(super) fn nanos(text: &[u8]) -> Option<i128> {
    let (day, rest) = text.split_at_checked(10)?;
    let seconds = i128::from(date(day)?) * 86_400;
    let Some((separator, rest)) = rest.split_first() else {
        return Some(seconds * NANOS);
    };
    if !matches!(separator, b'T' | b't' | b' ') {
        return None;
    }
    let (hour, rest) = two_digits(rest, 23)?;
    let (minute, mut rest) = two_digits(rest.strip_prefix(b":")?, 59)?;
    let mut time = i128::from(hour) * 3600 + i128::from(minute) * 60;
    let mut fraction = 0;
    if let Some(after) = rest.strip_prefix(b":") {
        let (second, after) = two_digits(after, 60)?;
        time += i128::from(second);
        (fraction, rest) = fraction_nanos(after)?;
    }
    let zone = zone_seconds(rest)?;
    Some((seconds + time - i128::from(zone)) * NANOS + i128::from(fraction))
}

fn fraction_nanos(text: &[u8]) -> Option<(u32, &[u8])> {
    let Some(text) = text.strip_prefix(b".") else {
        return Some((0, text));
    };
    let length = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (fraction, rest) = text.split_at(length);
    let padded = fraction
        .iter()
        .map(|byte| u32::from(byte - b'0'))
        .chain(std::iter::repeat(0))
        .take(9);
    (length > 0).then(|| (padded.fold(0, |value, digit| value * 10 + digit), rest))
}

fn zone_seconds(text: &[u8]) -> Option<i64> {
    let (sign, text) = match text.split_first() {
        None => return Some(0),
        Some((b'Z' | b'z', [])) => return Some(0),
        Some((b'+', rest)) => (1, rest),
        Some((b'-', rest)) => (-1, rest),
        Some(_) => return None,
    };
    let (hours, text) = two_digits(text, 23)?;
    let text = text.strip_prefix(b":").unwrap_or(text);
    let (minutes, text) = if text.is_empty() {
        (0, text)
    } else {
        two_digits(text, 59)?
    };
    text.is_empty()
        .then(|| sign * (i64::from(hours) * 3600 + i64::from(minutes) * 60))
}

fn two_digits(text: &[u8], max: u32) -> Option<(u32, &[u8])> {
    let (pair, rest) = text.split_at_checked(2)?;
    let value = digits(pair)?;
    (value <= max).then_some((value, rest))
}

fn digits(text: &[u8]) -> Option<u32> {
    text.iter().try_fold(0, |value, byte| {
        byte.is_ascii_digit().then(|| value * 10 + u32::from(byte - b'0'))
    })
}

#[cfg(test)]
mod tests {
    use arrow::array::types::Date32Type;
    use arrow::compute::kernels::cast_utils::{Parser, string_to_timestamp_nanos};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn dates_are_counted_from_1970() {
        for (text, days) in [
            ("1970-01-01", 0),
            ("1969-12-31", -1),
            ("2000-02-29", 11_016),
            ("2024-12-31", 20_088),
            ("0000-01-01", -719_528),
            ("9999-12-31", 2_932_896),
        ] {
            assert_eq!(date(text.as_bytes()), Some(days), "{text}");
        }
        for text in [
            "2023-02-29",
            "1900-02-29",
            "2024-13-01",
            "2024-00-01",
            "2024-04-31",
            "2024-1-01",
            "24-01-01",
            "2024/01/01",
            "",
        ] {
            assert_eq!(date(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn times_are_utc_unless_they_name_a_zone() {
        let at = |text: &str| nanos(text.as_bytes());
        let base = string_to_timestamp_nanos("2024-05-06T07:08:09Z").unwrap().into();
        assert_eq!(at("2024-05-06T07:08:09Z"), Some(base));
        assert_eq!(at("2024-05-06 07:08:09"), Some(base));
        assert_eq!(at("2024-05-06t07:08:09z"), Some(base));
        assert_eq!(at("2024-05-06T09:08:09+02:00"), Some(base));
        assert_eq!(at("2024-05-06T01:38:09-0530"), Some(base));
        assert_eq!(at("2024-05-06T09:08:09+02"), Some(base));
        assert_eq!(at("2024-05-06T07:08"), Some(base - 9 * NANOS));
        assert_eq!(at("2024-05-06T07:08:09.5Z"), Some(base + 500_000_000));
        assert_eq!(at("2024-05-06T07:08:09.1234567899"), Some(base + 123_456_789));
        assert_eq!(at("2024-05-06"), Some(base - (7 * 3600 + 8 * 60 + 9) * NANOS));
        assert_eq!(at("2016-12-31T23:59:60Z"), at("2017-01-01T00:00:00Z"));
        for text in [
            "2024-05-06T",
            "2024-05-06X07:08:09",
            "2024-05-06T24:00:00",
            "2024-05-06T07",
            "2024-05-06T07:60",
            "2024-05-06T07:08:",
            "2024-05-06T07:08:61",
            "2024-05-06T07:08:09.",
            "2024-05-06T07:08:09ZZ",
            "2024-05-06T07:08:09+2",
            "2024-05-06T07:08:09 UTC",
            "now",
            "",
        ] {
            assert_eq!(at(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn dates_agree_with_arrow(year in 1i32..10_000, month in 0u32..14, day in 0u32..33) {
            let text = format!("{year:04}-{month:02}-{day:02}");
            prop_assert_eq!(date(text.as_bytes()), Date32Type::parse(&text));
        }

        #[test]
        fn times_agree_with_arrow(year in 1700i32..2200, month in 1u32..13, day in 1u32..29, second in 0u32..86_400, nano in 0u32..1_000_000_000, zone in -1439i32..1440) {
            let (h, m, s) = (second / 3600, second / 60 % 60, second % 60);
            let sign = if zone < 0 { '-' } else { '+' };
            let text = format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{nano:09}{sign}{:02}:{:02}", zone.abs() / 60, zone.abs() % 60);
            prop_assert_eq!(nanos(text.as_bytes()), Some(string_to_timestamp_nanos(&text).unwrap().into()), "{}", text);
        }
    }
}
