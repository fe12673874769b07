//! The text of JSON strings: checked in place where it has no escapes, written out where it has.

use super::fault::Why;
use super::scan::{StringEnd, string_end};

/// A string in a record: as it stands there, or to be written out without its escapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct JsonString<'a> {
    /// What stands between the quotes.
    pub(super) raw: &'a [u8],
    /// True where `raw` holds escapes.
    pub(super) escaped: bool,
    /// The index after the closing quote.
    pub(super) end: usize,
}

impl<'a> JsonString<'a> {
    /// The string whose opening quote is at `at`. What is returned is valid UTF-8.
    #[inline(always)]
    pub(super) fn at(bytes: &'a [u8], at: usize) -> Result<Self, Why> {
        let StringEnd { close, escaped, ascii } = string_end(bytes, at + 1);
        let Some(raw) = bytes.get(at + 1..close) else {
            return Err(Why::Truncated);
        };
        if !ascii && std::str::from_utf8(raw).is_err() {
            return Err(Why::Utf8);
        }
        Ok(Self {
            raw,
            escaped,
            end: close + 1,
        })
    }

    /// The text; `scratch` is where it is written out if it must be.
    pub(super) fn text<'b>(&self, scratch: &'b mut Vec<u8>) -> Result<&'b [u8], Why>
    where
        'a: 'b,
    {
        if !self.escaped {
            return Ok(self.raw);
        }
        scratch.clear();
        unescape(self.raw, scratch)?;
        Ok(scratch)
    }
}

/// Appends `raw`, which is valid UTF-8, to `out` with its escapes replaced. On an error `out` holds a part of it.
pub(super) fn unescape(raw: &[u8], out: &mut Vec<u8>) -> Result<(), Why> {
    let mut rest = raw;
    while let Some(backslash) = memchr::memchr(b'\\', rest) {
        out.extend_from_slice(&rest[..backslash]);
        let (escape, after) = rest[backslash + 1..].split_first().ok_or(Why::Escape)?;
        rest = after;
        let byte = match escape {
            b'"' | b'\\' | b'/' => *escape,
            b'n' => b'\n',
            b't' => b'\t',
            b'r' => b'\r',
            b'b' => 8,
            b'f' => 12,
            b'u' => {
                let (letter, after) = letter(rest).ok_or(Why::Escape)?;
                rest = after;
                out.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
                continue;
            }
            _ => return Err(Why::Escape),
        };
        out.push(byte);
    }
    out.extend_from_slice(rest);
    Ok(())
}

/// The character of `\uXXXX`, or of two that form a surrogate pair, after its first `\u`. A lone surrogate is none.
fn letter(text: &[u8]) -> Option<(char, &[u8])> {
    let (first, rest) = unit(text)?;
    if !(0xD800..0xDC00).contains(&first) {
        return char::from_u32(first).map(|letter| (letter, rest));
    }
    let (second, rest) = unit(rest.strip_prefix(b"\\u")?)?;
    let low = second.checked_sub(0xDC00).filter(|low| *low < 0x400)?;
    char::from_u32(0x10000 + ((first - 0xD800) << 10) + low).map(|letter| (letter, rest))
}

fn unit(text: &[u8]) -> Option<(u32, &[u8])> {
    let (digits, rest) = text.split_first_chunk::<4>()?;
    let unit = digits
        .iter()
        .try_fold(0, |unit, digit| Some(unit * 16 + char::from(*digit).to_digit(16)?))?;
    Some((unit, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(json: &[u8]) -> Result<String, Why> {
        let string = JsonString::at(json, 0)?;
        let mut scratch = Vec::new();
        Ok(String::from_utf8(string.text(&mut scratch)?.to_vec()).unwrap())
    }

    #[test]
    fn escapes_are_replaced() {
        assert_eq!(read(br#""a\"b\\c\/d\n\t\r\b\f""#).unwrap(), "a\"b\\c/d\n\t\r\u{8}\u{c}");
        assert_eq!(
            read(br#""\u0041\u00e9\u20AC\uD83D\uDE00""#).unwrap(),
            "A\u{e9}\u{20ac}\u{1f600}"
        );
        assert_eq!(read("\"\u{e9}\\n\"".as_bytes()).unwrap(), "\u{e9}\n");
    }

    #[test]
    fn what_is_no_text_is_refused() {
        for json in [
            r#""\x""#,
            r#""\u12""#,
            r#""\u12g4""#,
            r#""\uD83D""#,
            r#""\uD83Dx""#,
            r#""\uD83D\u0041""#,
            r#""\uDE00""#,
        ] {
            assert_eq!(read(json.as_bytes()), Err(Why::Escape), "{json}");
        }
        assert_eq!(read(b"\"\xff\""), Err(Why::Utf8));
        assert_eq!(read(b"\"abc"), Err(Why::Truncated));
        assert_eq!(read(b"\"abc\\\""), Err(Why::Truncated));
    }

    proptest! {
        #[test]
        fn what_serde_writes_is_read_back(text: String) {
            let json = serde_json::to_vec(&text).unwrap();
            prop_assert_eq!(read(&json).unwrap(), text);
        }

        #[test]
        fn escapes_agree_with_serde(parts in prop::collection::vec(prop::sample::select(vec!["\\uD83D", "\\uDE00", "\\u00e9", "\\n", "\\\\", "x", "\\u", "00"]), 0..8)) {
            let json = format!("\"{}\"", parts.concat());
            let ours = read(json.as_bytes()).ok();
            prop_assert_eq!(ours, serde_json::from_str::<String>(&json).ok(), "{}", json);
        }
    }
}
