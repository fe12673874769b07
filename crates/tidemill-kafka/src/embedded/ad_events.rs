//! The deterministic stream of ad events that the quickstart and the benchmarks read.

use crate::fetch::varint::put_varint;

/// The schema of [`AdEvents::write_avro`].
pub const AVRO_SCHEMA: &str = r#"{"type": "record", "name": "AdEvent", "fields": [
    {"name": "user_id", "type": "string"},
    {"name": "page_id", "type": "string"},
    {"name": "ad_id", "type": "string"},
    {"name": "ad_type", "type": "string"},
    {"name": "event_type", "type": "string"},
    {"name": "event_time", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    {"name": "ip_address", "type": "string"}
]}"#;

const USERS: u64 = 100_000;
const PAGES: u64 = 1_000;
const ADS: u64 = 1_000;
const AD_TYPES: [&str; 5] = ["banner", "modal", "sponsored-search", "mail", "mobile"];
const EVENT_TYPES: [&str; 3] = ["view", "click", "purchase"];
/// 2024-01-01T00:00:00Z.
const START_MS: u64 = 1_704_067_200_000;
const EVENTS_PER_MS: u64 = 10;
const HEX: &[u8; 16] = b"0123456789abcdef";
/// Where the two digits of each byte of a uuid stand in its text.
const UUID_DIGITS: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];

/// Ad events numbered from 0: event `n` of a seed is the same on every machine and in every run.
///
/// A value is compact JSON of 215 bytes on average: `user_id` (one of 100,000 uuids), `page_id` (one of 1,000),
/// `ad_id` (`ad-0000`…`ad-0999`), `ad_type` (of 5), `event_type` (`view`, `click` and `purchase` alike), `event_time`
/// (milliseconds since 1970 UTC, from the start of 2024, ten events each) and `ip_address`. The key is the ad's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdEvents {
    seed: u64,
    with_seq: bool,
}

impl AdEvents {
    /// The stream of this seed.
    pub fn new(seed: u64) -> Self {
        Self { seed, with_seq: false }
    }

    /// Adds `"seq":n` to each value, which lets a proof tell every event from every other.
    pub fn with_seq(self) -> Self {
        Self { with_seq: true, ..self }
    }

    /// The number of different keys: ads are numbered from 0 to one below it.
    pub const fn ads() -> u16 {
        ADS as u16
    }

    /// The number of the ad that event `n` is about.
    pub fn ad(&self, n: u64) -> u16 {
        (self.draw(n, 0) % ADS) as u16
    }

    /// True where event `n` is a view.
    pub fn is_view(&self, n: u64) -> bool {
        self.event_type(n) == EVENT_TYPES[0]
    }

    /// Milliseconds since 1970 UTC at event `n`.
    pub fn time_ms(&self, n: u64) -> u64 {
        START_MS + n / EVENTS_PER_MS
    }

    /// The key of all events about an ad.
    pub fn key(ad: u16) -> [u8; 7] {
        let mut key = *b"ad-0000";
        let mut rest = ad;
        for digit in key.iter_mut().skip(3).rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        key
    }

    /// Appends the value of event `n`.
    pub fn write_value(&self, n: u64, value: &mut Vec<u8>) {
        let pick = self.draw(n, 1);
        value.extend_from_slice(br#"{"user_id":""#);
        self.write_uuid(2, pick % USERS, value);
        value.extend_from_slice(br#"","page_id":""#);
        self.write_uuid(3, (pick >> 32) % PAGES, value);
        value.extend_from_slice(br#"","ad_id":""#);
        value.extend_from_slice(&Self::key(self.ad(n)));
        let kinds = self.draw(n, 4);
        value.extend_from_slice(br#"","ad_type":""#);
        value.extend_from_slice(AD_TYPES[(kinds % AD_TYPES.len() as u64) as usize].as_bytes());
        value.extend_from_slice(br#"","event_type":""#);
        value.extend_from_slice(self.event_type(n).as_bytes());
        value.extend_from_slice(br#"","event_time":"#);
        write_number(self.time_ms(n), value);
        value.extend_from_slice(br#","ip_address":""#);
        write_address(kinds, value);
        value.push(b'"');
        if self.with_seq {
            value.extend_from_slice(br#","seq":"#);
            write_number(n, value);
        }
        value.push(b'}');
    }

    /// Appends event `n` in Avro's binary encoding, without a header and a sequence number.
    pub fn write_avro(&self, n: u64, value: &mut Vec<u8>) {
        const UUID_BYTES: i64 = 36;
        let pick = self.draw(n, 1);
        let kinds = self.draw(n, 4);
        put_varint(value, UUID_BYTES);
        self.write_uuid(2, pick % USERS, value);
        put_varint(value, UUID_BYTES);
        self.write_uuid(3, (pick >> 32) % PAGES, value);
        for text in [
            &Self::key(self.ad(n))[..],
            AD_TYPES[(kinds % AD_TYPES.len() as u64) as usize].as_bytes(),
            self.event_type(n).as_bytes(),
        ] {
            put_varint(value, text.len() as i64);
            value.extend_from_slice(text);
        }
        put_varint(value, self.time_ms(n) as i64);
        // An address has 15 bytes at most, whose number takes one byte.
        let at = value.len();
        value.push(0);
        write_address(kinds, value);
        value[at] = 2 * (value.len() - at - 1) as u8;
    }

    fn event_type(&self, n: u64) -> &'static str {
        EVENT_TYPES[(self.draw(n, 5) % EVENT_TYPES.len() as u64) as usize]
    }

    /// One random number per (seed, event, purpose).
    fn draw(&self, n: u64, purpose: u64) -> u64 {
        mix(mix(self.seed ^ purpose.wrapping_mul(0xd6e8_feb8_6659_fd93)).wrapping_add(n))
    }

    /// The uuid, in its usual text form, of the user or page with this index.
    fn write_uuid(&self, purpose: u64, index: u64, value: &mut Vec<u8>) {
        let high = self.draw(index, purpose << 8).to_be_bytes();
        let low = self.draw(index, (purpose << 8) + 1).to_be_bytes();
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&high);
        bytes[8..].copy_from_slice(&low);
        // Version 4, variant 1.
        bytes[6] = 0x40 | (bytes[6] & 0x0f);
        bytes[8] = 0x80 | (bytes[8] & 0x3f);
        let mut text = [b'-'; 36];
        for (at, byte) in UUID_DIGITS.into_iter().zip(bytes) {
            text[at] = HEX[usize::from(byte >> 4)];
            text[at + 1] = HEX[usize::from(byte & 0x0f)];
        }
        value.extend_from_slice(&text);
    }
}

/// 100 random bytes per record: the other stream of the benchmarks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RandomBytes {
    seed: u64,
}

impl RandomBytes {
    /// The stream of this seed.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// Appends the 100 bytes of record `n`.
    pub fn write_value(&self, n: u64, value: &mut Vec<u8>) {
        let end = value.len() + 100;
        let base = mix(self.seed).wrapping_add(n.wrapping_mul(13));
        for word in 0..13 {
            value.extend_from_slice(&mix(base.wrapping_add(word)).to_le_bytes());
        }
        value.truncate(end);
    }
}

/// The finaliser of SplitMix64: every input bit moves every output bit.
fn mix(input: u64) -> u64 {
    let mut z = input.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Four numbers with dots between them.
fn write_address(kinds: u64, value: &mut Vec<u8>) {
    for (at, octet) in kinds.to_be_bytes()[..4].iter().enumerate() {
        if at > 0 {
            value.push(b'.');
        }
        write_number(u64::from(*octet), value);
    }
}

fn write_number(number: u64, value: &mut Vec<u8>) {
    value.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn value(events: AdEvents, n: u64) -> String {
        let mut value = Vec::new();
        events.write_value(n, &mut value);
        String::from_utf8(value).unwrap()
    }

    #[test]
    fn an_event_depends_on_seed_and_number_alone() {
        assert_eq!(
            value(AdEvents::new(1), 12_345),
            concat!(
                r#"{"user_id":"46a12fbd-3a1c-4c6e-b2f6-1251fb07332e","page_id":"171dcf17-b77d-457c-a857-a05b27f7be04","#,
                r#""ad_id":"ad-0380","ad_type":"modal","event_type":"view","event_time":1704067201234,"#,
                r#""ip_address":"10.223.0.197"}"#
            )
        );
        assert_ne!(value(AdEvents::new(1), 7), value(AdEvents::new(2), 7));
    }

    #[test]
    fn values_are_json_of_215_bytes_on_average_in_the_stated_domains() {
        let events = AdEvents::new(42);
        let mut bytes = 0;
        let mut kinds = BTreeMap::<String, u32>::new();
        let mut pages = BTreeSet::new();
        for n in 0..30_000 {
            let text = value(events, n);
            bytes += text.len();
            let object: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(object.as_object().unwrap().len(), 7);
            assert_eq!(
                object["ad_id"].as_str().unwrap().as_bytes(),
                AdEvents::key(events.ad(n))
            );
            assert_eq!(object["event_time"], 1_704_067_200_000_u64 + n / 10);
            assert_eq!(object["event_type"] == "view", events.is_view(n));
            uuid::Uuid::parse_str(object["user_id"].as_str().unwrap()).unwrap();
            pages.insert(object["page_id"].to_string());
            *kinds.entry(object["event_type"].to_string()).or_default() += 1;
        }
        let average = bytes as f64 / 30_000.0;
        assert!((214.0..216.0).contains(&average), "{average}");
        assert_eq!(pages.len(), 1_000);
        assert_eq!(kinds.len(), 3);
        assert!(kinds.values().all(|count| (9_500..10_500).contains(count)), "{kinds:?}");
    }

    #[test]
    fn a_sequence_number_is_added_only_on_demand() {
        let object: serde_json::Value = serde_json::from_str(&value(AdEvents::new(1).with_seq(), 99)).unwrap();
        assert_eq!(object["seq"], 99);
        assert!(!value(AdEvents::new(1), 99).contains("seq"));
    }

    #[test]
    fn avro_and_json_are_the_same_events() {
        use arrow::array::BinaryViewArray;
        use arrow::util::display::array_value_to_string;
        use tidemill_engine::format::{AvroFormat, AvroHeader, Format};
        use tidemill_engine::source::RawRows;

        let events = AdEvents::new(42);
        let avro = |n| {
            let mut value = Vec::new();
            events.write_avro(n, &mut value);
            value
        };
        let count = 1_000;
        let rows = RawRows {
            offsets: (0..count).map(Some).collect(),
            keys: None,
            values: Some(BinaryViewArray::from_iter_values((0..count as u64).map(avro))),
            timestamps: None,
            headers: None,
            position: count,
            bytes: 0,
        };
        let (format, columns) = AvroFormat::new(AVRO_SCHEMA, AvroHeader::Told).unwrap();
        let all: Vec<usize> = (0..columns.fields().len()).collect();
        let decoded = format.decoder(&all).decode(&rows);
        assert!(decoded.bad.is_none());
        for n in 0..count as usize {
            let mut object: serde_json::Value = serde_json::from_str(&value(events, n as u64)).unwrap();
            let millis = object["event_time"].as_i64().unwrap();
            let moment = array_value_to_string(&arrow::array::TimestampMillisecondArray::from(vec![millis]), 0);
            object["event_time"] = format!("{}Z", moment.unwrap()).into();
            for (column, field) in decoded.columns.iter().zip(columns.fields()) {
                let text = array_value_to_string(column, n).unwrap();
                assert_eq!(object[field.name()], text, "event {n}");
            }
        }
    }

    #[test]
    fn random_bytes_are_100_and_repeatable() {
        let (mut first, mut again) = (Vec::new(), Vec::new());
        RandomBytes::new(3).write_value(5, &mut first);
        RandomBytes::new(3).write_value(5, &mut again);
        assert_eq!(first.len(), 100);
        assert_eq!(first, again);
        RandomBytes::new(3).write_value(6, &mut again);
        assert_ne!(first[..92], again[100..192]);
    }
}
