//! Finding where things end in JSON text, eight bytes at a time, without judging more than that.

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// Where a string ends, and what stands in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StringEnd {
    /// Index of the closing quote.
    pub(super) close: usize,
    /// True where a backslash stands in it.
    pub(super) escaped: bool,
    /// True where every byte is ASCII.
    pub(super) ascii: bool,
}

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

/// The high bit of the first byte in `word` that equals `byte`, and maybe of later ones; 0 where none does.
#[inline(always)]
fn first_equal(word: u64, byte: u8) -> u64 {
    let zero_where_equal = word ^ (ONES * u64::from(byte));
    zero_where_equal.wrapping_sub(ONES) & !zero_where_equal & HIGHS
}

/// Eight bytes from `at`; zeros stand for what lies beyond the end. `at` is at most the length.
#[inline(always)]
fn word(bytes: &[u8], at: usize) -> u64 {
    match bytes[at..].first_chunk::<8>() {
        Some(chunk) => u64::from_le_bytes(*chunk),
        None => last_word(bytes, at),
    }
}

#[inline(always)]
fn last_word(bytes: &[u8], at: usize) -> u64 {
    let missing = at + 8 - bytes.len();
    match bytes.last_chunk::<8>() {
        // An overlapping load, moved down; in two steps, since a shift by the whole width is not one.
        Some(chunk) => u64::from_le_bytes(*chunk) >> (4 * missing) >> (4 * missing),
        None => {
            let mut chunk = [0; 8];
            chunk[..bytes.len() - at].copy_from_slice(&bytes[at..]);
            u64::from_le_bytes(chunk)
        }
    }
}

/// Finds the end of the string whose first byte, after the opening quote, is at `start`. Escapes are stepped over, not judged.
#[inline(always)]
pub(super) fn string_end(bytes: &[u8], start: usize) -> Option<StringEnd> {
    let mut at = start;
    let mut high = 0;
    let mut escaped = false;
    while at < bytes.len() {
        let word = word(bytes, at);
        let marks = first_equal(word, b'"') | first_equal(word, b'\\');
        if marks == 0 {
            high |= word;
            at += 8;
            continue;
        }
        let before = marks.trailing_zeros() & !7;
        high |= word & ((1 << before) - 1);
        at += before as usize / 8;
        if bytes[at] == b'"' {
            return Some(StringEnd {
                close: at,
                escaped,
                ascii: high & HIGHS == 0,
            });
        }
        escaped = true;
        at += 2;
    }
    None
}

/// Finds the end of any value that begins at `at`: the index after it. Brackets are counted, nothing else is looked at.
#[inline(always)]
pub(super) fn value_end(bytes: &[u8], at: usize) -> Option<usize> {
    match bytes.get(at)? {
        b'"' => string_end(bytes, at + 1).map(|end| end.close + 1),
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
            b'"' => at = string_end(bytes, at + 1)?.close,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
        at += 1;
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

    fn plain_string_end(bytes: &[u8], start: usize) -> Option<StringEnd> {
        let mut at = start;
        let (mut escaped, mut ascii) = (false, true);
        while at < bytes.len() {
            match bytes[at] {
                b'"' => {
                    return Some(StringEnd {
                        close: at,
                        escaped,
                        ascii,
                    });
                }
                b'\\' => {
                    escaped = true;
                    at += 1;
                }
                byte => ascii &= byte.is_ascii(),
            }
            at += 1;
        }
        None
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
    }

    #[test]
    fn strings_end_at_every_length_and_place() {
        for lead in 0..20 {
            for length in 0..40 {
                let text = format!("{}{}\"", "x".repeat(lead), "y".repeat(length));
                let end = string_end(text.as_bytes(), lead).unwrap();
                assert_eq!((end.close, end.escaped, end.ascii), (lead + length, false, true));
                assert_eq!(string_end(&text.as_bytes()[..lead + length], lead), None);
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
