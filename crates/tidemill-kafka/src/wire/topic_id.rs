//! Topic ids in their usual text form: 22 characters of URL-safe base64 without padding.

use uuid::Uuid;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const CHARACTERS: usize = 22;

/// The text form.
pub(crate) fn to_text(id: Uuid) -> String {
    // 128 bits are 21 groups of six and one of two, which is padded with zeros.
    let bits = id.as_u128();
    let group = |index: usize| match index {
        21 => (bits << 4) as usize & 0x30,
        index => (bits >> (122 - 6 * index)) as usize & 0x3f,
    };
    (0..CHARACTERS)
        .map(|index| char::from(ALPHABET[group(index)]))
        .collect()
}

/// The id of a text form; `None` where it is none.
#[cfg(test)]
pub(crate) fn from_text(text: &str) -> Option<Uuid> {
    let text = text.as_bytes();
    if text.len() != CHARACTERS {
        return None;
    }
    let mut bits = 0u128;
    for (index, character) in text.iter().enumerate() {
        let group = ALPHABET.iter().position(|known| known == character)? as u128;
        bits = if index == 21 {
            bits << 2 | group >> 4
        } else {
            bits << 6 | group
        };
    }
    Some(Uuid::from_u128(bits))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_form_is_that_of_kafka() {
        let id = Uuid::parse_str("fbffffff-ffff-ffff-ffff-ffffffffffff").unwrap();
        assert_eq!(to_text(id), "-____________________w");
        assert_eq!(to_text(Uuid::from_u128(1)), "AAAAAAAAAAAAAAAAAAAAAQ");
    }

    proptest! {
        #[test]
        fn ids_come_back(bits: u128) {
            let id = Uuid::from_u128(bits);
            prop_assert_eq!(from_text(&to_text(id)), Some(id));
        }
    }
}
