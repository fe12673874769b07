//! The numbers of variable length in records: a cursor that reads them, and functions that write them.

/// Reads forward through bytes; every read is checked against the end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cursor<'a> {
    data: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    /// Starts at the first byte of `data`.
    pub(crate) fn new(data: &'a [u8]) -> Self {
        Self { data, at: 0 }
    }

    /// Bytes read so far.
    #[inline(always)]
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// True at the end.
    #[inline(always)]
    pub(crate) fn is_done(&self) -> bool {
        self.at == self.data.len()
    }

    /// Bytes left.
    pub(crate) fn left(&self) -> usize {
        self.data.len() - self.at
    }

    /// Passes over `count` bytes, giving where they start.
    #[inline(always)]
    pub(crate) fn skip(&mut self, count: usize) -> Option<usize> {
        let start = self.at;
        if count > self.data.len() - start {
            return None;
        }
        self.at = start + count;
        Some(start)
    }

    /// The next `count` bytes.
    #[inline(always)]
    pub(crate) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let start = self.skip(count)?;
        self.data.get(start..start + count)
    }

    /// A zigzag number of up to 32 bits.
    #[inline(always)]
    pub(crate) fn varint(&mut self) -> Option<i32> {
        let first = *self.data.get(self.at)?;
        if first < 0x80 {
            self.at += 1;
            return Some(unzigzag(u64::from(first)) as i32);
        }
        let second = *self.data.get(self.at + 1)?;
        if second < 0x80 {
            self.at += 2;
            return Some(unzigzag(u64::from(first & 0x7f) | u64::from(second) << 7) as i32);
        }
        i32::try_from(self.long_number(5)?).ok()
    }

    /// A zigzag number of up to 64 bits.
    #[inline(always)]
    pub(crate) fn varlong(&mut self) -> Option<i64> {
        let first = *self.data.get(self.at)?;
        if first < 0x80 {
            self.at += 1;
            return Some(unzigzag(u64::from(first)));
        }
        self.long_number(10)
    }

    /// A length: -1 is "none", below that is damage.
    #[inline(always)]
    pub(crate) fn length(&mut self) -> Option<Option<usize>> {
        match self.varint()? {
            -1 => Some(None),
            length => usize::try_from(length).ok().map(Some),
        }
    }

    #[inline(never)]
    fn long_number(&mut self, bytes_max: usize) -> Option<i64> {
        let mut value = 0u64;
        for (index, byte) in self.data.get(self.at..)?.iter().take(bytes_max).enumerate() {
            value |= u64::from(byte & 0x7f).checked_shl(7 * index as u32)?;
            if *byte < 0x80 {
                self.at += index + 1;
                return Some(unzigzag(value));
            }
        }
        None
    }
}

/// Appends a zigzag number.
#[inline]
pub(crate) fn put_varint(data: &mut Vec<u8>, value: i64) {
    let mut rest = zigzag(value);
    while rest >= 0x80 {
        data.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    data.push(rest as u8);
}

/// The bytes of a zigzag number.
#[inline]
pub(crate) fn varint_bytes(value: i64) -> usize {
    let bits = 64 - (zigzag(value) | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

#[inline(always)]
fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

#[inline(always)]
fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_come_back(value: i64, small in -100_000i32..100_000) {
            let mut data = Vec::new();
            put_varint(&mut data, value);
            prop_assert_eq!(data.len(), varint_bytes(value));
            put_varint(&mut data, i64::from(small));
            let mut cursor = Cursor::new(&data);
            prop_assert_eq!(cursor.varlong(), Some(value));
            prop_assert_eq!(cursor.varint(), Some(small));
            prop_assert!(cursor.is_done());
        }

        #[test]
        fn any_bytes_are_read_or_refused(data: Vec<u8>) {
            let mut cursor = Cursor::new(&data);
            while cursor.varint().is_some() {}
            while cursor.length().is_some() {}
            prop_assert!(cursor.at() <= data.len());
        }
    }

    #[test]
    fn a_number_without_end_is_refused() {
        assert_eq!(Cursor::new(&[0xff; 20]).varlong(), None);
        assert_eq!(Cursor::new(&[0x80, 0x80, 0x80, 0x80, 0x7f]).varint(), None);
        assert_eq!(Cursor::new(&[0x80]).varint(), None);
    }
}
