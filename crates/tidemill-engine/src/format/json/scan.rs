//! Finding where things end in JSON text, sixteen bytes at a time, without judging more than that.

/// Where a string ends, and what stands in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StringEnd {
    /// Index of the closing quote; `usize::MAX` where there is none.
    pub(super) close: usize,
    /// True where a backslash stands in it.
    pub(super) escaped: bool,
    /// True where every byte is ASCII.
    pub(super) ascii: bool,
}

/// What some bytes hold, a bit for each; the first byte is the lowest bit.
#[derive(Debug, Clone, Copy)]
struct Marks {
    /// Quotes and backslashes, right up to the first of them.
    ends: u32,
    /// Bytes beyond ASCII.
    high: u32,
}

const STEP: usize = 16;

/// The first index from `at` that holds no white space.
#[inline(always)]
pub(super) fn skip_space(bytes: &[u8], at: usize) -> usize {
    match bytes.get(at) {
        Some(byte) if *byte > b' ' => at,
        _ => skip_spaces(bytes, at),
    }
}

fn skip_spaces(bytes: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\t' | b'\n' | b'\r') = bytes.get(at) {
        at += 1;
    }
    at
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
#[expect(
    unsafe_code,
    reason = "the portable way takes a multiple of the instructions on the hottest path there is"
)]
fn marks(chunk: &[u8; STEP]) -> Marks {
    use std::arch::x86_64::{_mm_cmpeq_epi8, _mm_loadu_si128, _mm_movemask_epi8, _mm_or_si128, _mm_set1_epi8};
    // SAFETY: every x86_64 has SSE2; the load needs no alignment and reads the 16 bytes of the array.
    let (ends, high) = unsafe {
        let text = _mm_loadu_si128(chunk.as_ptr().cast());
        let quotes = _mm_cmpeq_epi8(text, _mm_set1_epi8(b'"'.cast_signed()));
        let backslashes = _mm_cmpeq_epi8(text, _mm_set1_epi8(b'\\'.cast_signed()));
        (
            _mm_movemask_epi8(_mm_or_si128(quotes, backslashes)),
            _mm_movemask_epi8(text),
        )
    };
    Marks {
        ends: ends.cast_unsigned(),
        high: high.cast_unsigned(),
    }
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn marks(chunk: &[u8; STEP]) -> Marks {
    portable_marks(chunk)
}

#[cfg(any(test, not(target_arch = "x86_64")))]
fn portable_marks(chunk: &[u8; STEP]) -> Marks {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    // The high bit of the first byte that equals `byte`, and maybe of later ones.
    let equal = |word: u64, byte: u8| {
        let zero_where_equal = word ^ (ONES * u64::from(byte));
        zero_where_equal.wrapping_sub(ONES) & !zero_where_equal & HIGHS
    };
    let gather = |highs: u64| ((highs >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56) as u32;
    let whole = u128::from_le_bytes(*chunk);
    let (low, high) = (whole as u64, (whole >> 64) as u64);
    let ends = |word| gather(equal(word, b'"') | equal(word, b'\\'));
    Marks {
        ends: ends(low) | ends(high) << 8,
        high: gather(low & HIGHS) | gather(high & HIGHS) << 8,
    }
}

/// The marks of up to sixteen bytes from `at`, which is below the length; none for what lies beyond the end.
#[inline(always)]
fn marks_from(bytes: &[u8], at: usize) -> Marks {
    match bytes[at..].first_chunk() {
        Some(chunk) => marks(chunk),
        None => last_marks(bytes, at),
    }
}

#[inline(always)]
fn last_marks(bytes: &[u8], at: usize) -> Marks {
    match bytes.last_chunk() {
        // An overlapping look, moved down.
        Some(chunk) => {
            let before = at + STEP - bytes.len();
            let Marks { ends, high } = marks(chunk);
            // The portable marks are right only up to the first of the whole chunk: what is moved out may hide it.
            if cfg!(target_arch = "x86_64") || ends & ((1 << before) - 1) == 0 {
                return Marks {
                    ends: ends >> before,
                    high: high >> before,
                };
            }
            padded_marks(&bytes[at..])
        }
        None => padded_marks(&bytes[at..]),
    }
}

fn padded_marks(rest: &[u8]) -> Marks {
    let mut chunk = [0; STEP];
    chunk[..rest.len()].copy_from_slice(rest);
    marks(&chunk)
}

/// Finds the end of the string whose first byte, after the opening quote, is at `start`. Escapes are stepped over, not
/// judged. `close` is `usize::MAX` where the string does not end.
#[inline(always)]
pub(super) fn string_end(bytes: &[u8], start: usize) -> StringEnd {
    let mut at = start;
    let mut high = 0;
    let mut escaped = false;
    while at < bytes.len() {
        let marks = marks_from(bytes, at);
        if marks.ends == 0 {
            high |= marks.high;
            at += STEP;
            continue;
        }
        let before = marks.ends.trailing_zeros();
        high |= marks.high & ((1 << before) - 1);
        at += before as usize;
        if bytes[at] == b'"' {
            return StringEnd {
                close: at,
                escaped,
                ascii: high == 0,
            };
        }
        escaped = true;
        at += 2;
    }
    StringEnd {
        close: usize::MAX,
        escaped,
        ascii: high == 0,
    }
}

/// Finds the end of any value that begins at `at`: the index after it. Brackets are counted, nothing else is looked at.
#[inline(always)]
pub(super) fn value_end(bytes: &[u8], at: usize) -> Option<usize> {
    match bytes.get(at)? {
        b'"' => match string_end(bytes, at + 1).close {
            usize::MAX => None,
            close => Some(close + 1),
        },
        b'{' | b'[' => nested_end(bytes, at),
        _ => {
            let length = bytes[at..].iter().take_while(|byte| is_literal(**byte)).count();
            (length > 0).then_some(at + length)
        }
    }
}

fn nested_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    // A count instead of a stack: depth costs nothing, whatever the record holds.
    let mut depth = 0usize;
    loop {
        match bytes.get(at)? {
            b'"' => at = string_end(bytes, at + 1).close,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
        // A string that does not end leaves `at` beyond everything.
        at = at.saturating_add(1);
    }
}

#[inline(always)]
fn is_literal(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plain_string_end(bytes: &[u8], start: usize) -> StringEnd {
        let mut at = start;
        let (mut escaped, mut ascii) = (false, true);
        while at < bytes.len() {
            match bytes[at] {
                b'"' => {
                    return StringEnd {
                        close: at,
                        escaped,
                        ascii,
                    };
                }
                b'\\' => {
                    escaped = true;
                    at += 1;
                }
                byte => ascii &= byte.is_ascii(),
            }
            at += 1;
        }
        StringEnd {
            close: usize::MAX,
            escaped,
            ascii,
        }
    }

    proptest! {
        #[test]
        fn strings_end_where_a_plain_loop_says(
            bytes in prop::collection::vec(prop::sample::select(&b"a\"\\\x80\x22\x5c\xffbcdefgh"[..]), 0..60),
            start in 0usize..60,
        ) {
            let start = start.min(bytes.len());
            prop_assert_eq!(string_end(&bytes, start), plain_string_end(&bytes, start));
        }

        #[test]
        fn portable_marks_agree_up_to_the_first(bytes in prop::collection::vec(prop::sample::select(&b"a\"\\#]!\x80\x22\x5c\xff\0\x01\xa2\xdc"[..]), 16)) {
            let chunk: [u8; 16] = bytes.try_into().unwrap();
            let (ours, portable) = (marks(&chunk), portable_marks(&chunk));
            prop_assert_eq!(ours.ends.trailing_zeros(), portable.ends.trailing_zeros());
            prop_assert_eq!(ours.high, portable.high);
        }
    }

    #[test]
    fn strings_end_at_every_length_and_place() {
        for lead in 0..20 {
            for length in 0..40 {
                let text = format!("{}{}\"", "x".repeat(lead), "y".repeat(length));
                let end = string_end(text.as_bytes(), lead);
                assert_eq!((end.close, end.escaped, end.ascii), (lead + length, false, true));
                assert_eq!(string_end(&text.as_bytes()[..lead + length], lead).close, usize::MAX);
            }
        }
    }

    #[test]
    fn values_end_where_they_end() {
        let end = |text: &str| value_end(text.as_bytes(), 0);
        assert_eq!(end("12,"), Some(2));
        assert_eq!(end("-1.5e+3}"), Some(7));
        assert_eq!(end(r#""a\"b",1"#), Some(6));
        assert_eq!(end(r#"{"a":[1,"]}",{}]} ,"#), Some(17));
        assert_eq!(end("[]"), Some(2));
        for open in ["", "\"abc", "[1,2", "{\"a\":\"}", ",", "}", ":1"] {
            assert_eq!(end(open), None, "{open}");
        }
    }

    #[test]
    fn depth_costs_no_stack() {
        let deep = "[".repeat(1_000_000) + &"]".repeat(1_000_000);
        assert_eq!(value_end(deep.as_bytes(), 0), Some(2_000_000));
    }
}
