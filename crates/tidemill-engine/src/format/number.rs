//! JSON numbers, exactly.

/// The index after the number that begins at `at`, by JSON's grammar, and whether it has neither fraction nor exponent.
pub(super) fn number_end(bytes: &[u8], at: usize) -> Option<(usize, bool)> {
    let digits = |from: usize| bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut end = at + usize::from(bytes.get(at) == Some(&b'-'));
    if end > bytes.len() {
        return None;
    }
    let whole = digits(end);
    if whole == 0 || (whole > 1 && bytes[end] == b'0') {
        return None;
    }
    end += whole;
    let mut plain = true;
    if bytes.get(end) == Some(&b'.') {
        let fraction = digits(end + 1);
        if fraction == 0 {
            return None;
        }
        end += 1 + fraction;
        plain = false;
    }
    if let Some(b'e' | b'E') = bytes.get(end) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        let exponent = digits(end + 1 + sign);
        if exponent == 0 {
            return None;
        }
        end += 1 + sign + exponent;
        plain = false;
    }
    Some((end, plain))
}

/// A number that was read as an integer, with the index after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Integer {
    /// An integral number.
    Value(i128, usize),
    /// No number at all.
    NoNumber,
    /// A number with a fraction, or beyond 128 bits.
    NotRepresentable,
}

/// The number at `at` where it is written as up to 18 digits and perhaps a sign, as nearly all are.
#[inline(always)]
pub(super) fn short_integer(bytes: &[u8], at: usize) -> Option<(i64, usize)> {
    let negative = bytes.get(at) == Some(&b'-');
    let first = at + usize::from(negative);
    let mut end = first;
    let mut magnitude = 0;
    if let Some(value) = bytes
        .get(end..)
        .and_then(|rest| rest.first_chunk())
        .and_then(eight_digits)
    {
        magnitude = value;
        end += 8;
    }
    while let Some(byte) = bytes.get(end)
        && byte.is_ascii_digit()
    {
        if end - first == 18 {
            return None;
        }
        magnitude = magnitude * 10 + i64::from(byte - b'0');
        end += 1;
    }
    if end == first || matches!(bytes.get(end), Some(b'.' | b'e' | b'E')) || (bytes[first] == b'0' && end - first > 1) {
        return None;
    }
    Some((if negative { -magnitude } else { magnitude }, end))
}

/// Reads the number at `at`. `1.0` and `1e3` are integral numbers too.
pub(super) fn integer(bytes: &[u8], at: usize) -> Integer {
    match number_end(bytes, at) {
        None => Integer::NoNumber,
        Some((end, _)) => match scaled(&bytes[at..end], 0, Rest::Refuse) {
            Some(value) => Integer::Value(value, end),
            None => Integer::NotRepresentable,
        },
    }
}

/// The value of eight digits, if they are that.
#[inline(always)]
fn eight_digits(chunk: &[u8; 8]) -> Option<i64> {
    let word = u64::from_le_bytes(*chunk);
    let digits = word ^ 0x3030_3030_3030_3030;
    // A byte is a digit if it is below 10 now: neither it nor it plus 0x76 has its high bit set.
    if (digits | digits.wrapping_add(0x7676_7676_7676_7676)) & 0x8080_8080_8080_8080 != 0 {
        return None;
    }
    let pairs = (digits.wrapping_mul(10)).wrapping_add(digits >> 8) & 0x00FF_00FF_00FF_00FF;
    let fours = pairs.wrapping_mul(100).wrapping_add(pairs >> 16) & 0x0000_FFFF_0000_FFFF;
    Some((fours.wrapping_mul(10_000).wrapping_add(fours >> 32) & 0xFFFF_FFFF) as i64)
}

/// What to do with digits beyond the scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    /// Refuse the number unless they are zeros.
    Refuse,
    /// Round half away from zero.
    Round,
}

/// The number `text` (which is one by [`number_end`]) times 10^`scale`.
pub(super) fn scaled(text: &[u8], scale: i64, rest: Rest) -> Option<i128> {
    let negative = text.first() == Some(&b'-');
    let text = &text[usize::from(negative)..];
    let mantissa_end = text
        .iter()
        .position(|byte| matches!(byte, b'e' | b'E'))
        .unwrap_or(text.len());
    let (mantissa, exponent) = text.split_at(mantissa_end);
    let point = mantissa.iter().position(|byte| *byte == b'.').unwrap_or(mantissa.len());
    let digits = || {
        mantissa
            .iter()
            .filter(|byte| **byte != b'.')
            .map(|byte| i128::from(byte - b'0'))
    };
    if digits().all(|digit| digit == 0) {
        return Some(0);
    }
    // How many digits count for the scaled number, from the first; below 0 where it is smaller than a tenth.
    let kept = i64::try_from(point)
        .ok()?
        .checked_add(exponent_of(exponent))?
        .checked_add(scale)?;
    let mut value = 0i128;
    let mut index = 0i64;
    for digit in digits() {
        if index >= kept {
            match rest {
                Rest::Refuse if digit != 0 => return None,
                Rest::Round if index == kept && digit >= 5 => value = value.checked_add(1)?,
                _ => {}
            }
        } else {
            value = value.checked_mul(10)?.checked_add(digit)?;
        }
        index += 1;
    }
    let zeros = u32::try_from((kept - index).max(0)).ok()?;
    let value = value.checked_mul(10i128.checked_pow(zeros)?)?;
    Some(if negative { -value } else { value })
}

/// The exponent after `e`, clamped to what can still matter.
fn exponent_of(text: &[u8]) -> i64 {
    let Some((_, text)) = text.split_first() else { return 0 };
    let negative = text.first() == Some(&b'-');
    let digits = text.iter().filter(|byte| byte.is_ascii_digit());
    let value = digits.fold(0i64, |value, digit| (value * 10 + i64::from(digit - b'0')).min(1 << 40));
    if negative { -value } else { value }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Both ways, which must agree where the short one has an answer.
    fn read(text: &str) -> Integer {
        let found = integer(text.as_bytes(), 0);
        if let Some((value, end)) = short_integer(text.as_bytes(), 0) {
            assert_eq!(found, Integer::Value(i128::from(value), end), "{text}");
        }
        found
    }

    #[test]
    fn numbers_follow_the_grammar() {
        for (text, end) in [
            ("0", 1),
            ("-0,", 2),
            ("10", 2),
            ("1.5}", 3),
            ("1e9", 3),
            ("1E-9 ", 4),
            ("-12.50e+07", 10),
        ] {
            assert_eq!(number_end(text.as_bytes(), 0).map(|n| n.0), Some(end), "{text}");
        }
        for text in [
            "", "-", "+1", "01", "-00", ".5", "1.", "1.e3", "1e", "1e+", "NaN", "Infinity", "\"1\"",
        ] {
            assert_eq!(number_end(text.as_bytes(), 0), None, "{text}");
        }
    }

    #[test]
    fn integers_are_integral_numbers_in_any_spelling() {
        for (text, value) in [
            ("0", 0),
            ("-0", 0),
            ("7", 7),
            ("-7", -7),
            ("12345678", 12_345_678),
            ("1700000000000", 1_700_000_000_000),
            ("9223372036854775807", i128::from(i64::MAX)),
            ("-9223372036854775808", i128::from(i64::MIN)),
            ("18446744073709551615", i128::from(u64::MAX)),
            ("9999999999999999999", 9_999_999_999_999_999_999),
            ("1.0", 1),
            ("1e3", 1000),
            ("1.25e2", 125),
            ("1200e-2", 12),
            ("0e999999999999999", 0),
        ] {
            assert_eq!(read(text), Integer::Value(value, text.len()), "{text}");
            assert_eq!(read(&format!("{text},1")), Integer::Value(value, text.len()), "{text}");
        }
        for text in ["1.5", "1e-1", "1e999999999999999999999", "1e39", "12e-99999999999"] {
            assert_eq!(read(text), Integer::NotRepresentable, "{text}");
        }
        for text in ["", "-", "x", "01", "007", "00000001", "\"1\"", "true", "1.", "--1"] {
            assert_eq!(read(text), Integer::NoNumber, "{text}");
        }
    }

    #[test]
    fn scaled_numbers_round_half_away_from_zero() {
        for (text, scale, value) in [
            ("1.005", 2, 101),
            ("-1.005", 2, -101),
            ("1.004", 2, 100),
            ("0.30000000000000004", 2, 30),
            ("0.5", 0, 1),
            ("0.05", 0, 0),
            ("0.05", 1, 1),
            ("9.99", 1, 100),
            ("5e-1", 0, 1),
            ("5e-2", 0, 0),
            ("4e-99999", 5, 0),
            ("123", 2, 12_300),
            ("1.5e3", 1, 15_000),
        ] {
            assert_eq!(
                scaled(text.as_bytes(), scale, Rest::Round),
                Some(value),
                "{text} to {scale}"
            );
        }
        assert_eq!(scaled(b"1e39", 0, Rest::Round), None);
    }

    proptest! {
        #[test]
        fn every_i64_is_read_back(value: i64) {
            let text = value.to_string();
            prop_assert_eq!(read(&text), Integer::Value(i128::from(value), text.len()));
            let short = value / 1000;
            prop_assert_eq!(short_integer(format!("{short},").as_bytes(), 0), Some((short, short.to_string().len())));
        }

        #[test]
        fn eight_digits_are_digits(bytes in prop::collection::vec(prop::sample::select(&b"0123456789/:\xb0\x10"[..]), 8)) {
            let chunk: [u8; 8] = bytes.try_into().unwrap();
            let plain = std::str::from_utf8(&chunk).ok().filter(|t| t.bytes().all(|b| b.is_ascii_digit()));
            prop_assert_eq!(eight_digits(&chunk), plain.map(|text| text.parse().unwrap()));
        }

        #[test]
        fn eight_digits_that_are_digits(value in 0i64..100_000_000) {
            let text = format!("{value:08}");
            prop_assert_eq!(eight_digits(text.as_bytes().first_chunk().unwrap()), Some(value));
        }
    }
}
