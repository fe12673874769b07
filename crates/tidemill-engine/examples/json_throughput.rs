//! Prints what reading JSON ad events costs in nanoseconds per record, arrays included, on one thread.
//!
//! `cargo run --release -p tidemill-engine --example json_throughput`

#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::error::Error;
use std::fmt::Write;
use std::hint::black_box;
use std::time::Instant;

use arrow::array::{BinaryViewBuilder, Int64Array};
use tidemill_engine::format::{Format, JsonFormat, parse_columns};
use tidemill_engine::source::RawRows;

const COLUMNS: &str = "user_id VARCHAR, page_id VARCHAR, ad_id VARCHAR, ad_type VARCHAR, event_type VARCHAR, \
                       event_time TIMESTAMP(3), ip_address VARCHAR";
const RECORDS: usize = 400_000;
/// About what one fetched record batch run gives a decoder at once.
const ROWS_PER_STEP: usize = 4096;
const ROUNDS: usize = 7;

fn main() -> Result<(), Box<dyn Error>> {
    let (steps, bytes) = events();
    println!(
        "{RECORDS} events of {:.0} bytes, {ROWS_PER_STEP} a step, median of {ROUNDS} rounds",
        bytes as f64 / RECORDS as f64
    );
    let format = JsonFormat::new(parse_columns(COLUMNS)?)?;
    for (name, wanted) in [
        ("3 of 7", vec![2, 4, 5]),
        ("first of 7", vec![0]),
        ("last of 7", vec![6]),
        ("all 7", (0..7).collect()),
        ("none", vec![]),
    ] {
        let mut decoder = format.decoder(&wanted);
        let mut rounds: Vec<f64> = (0..ROUNDS)
            .map(|_| {
                let begin = Instant::now();
                for step in &steps {
                    let decoded = black_box(decoder.decode(step));
                    assert!(decoded.bad.is_none(), "{:?}", decoded.bad);
                }
                begin.elapsed().as_nanos() as f64 / RECORDS as f64
            })
            .collect();
        rounds.sort_by(f64::total_cmp);
        println!("{name:>10}: {:6.1} ns/record", rounds[ROUNDS / 2]);
    }
    Ok(())
}

/// Compact ad events as a producer writes them, with their bytes in all.
fn events() -> (Vec<RawRows>, usize) {
    const AD_TYPES: [&str; 5] = ["banner", "modal", "sponsored-search", "mail", "mobile"];
    const EVENT_TYPES: [&str; 3] = ["view", "click", "purchase"];
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut draw = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut bytes = 0;
    let steps = (0..RECORDS / ROWS_PER_STEP + 1).map(|step| {
        let count = ROWS_PER_STEP.min(RECORDS - step * ROWS_PER_STEP);
        let mut values = BinaryViewBuilder::new().with_fixed_block_size(1 << 20);
        let mut event = String::new();
        for index in 0..count {
            let (a, b, c) = (draw(), draw(), draw());
            event.clear();
            let uuid = |n: u64| format!("{:08x}-{:04x}-4{:03x}-9{:03x}-{:012x}", n as u32, n >> 48, n >> 52, n >> 40 & 0xFFF, n >> 16);
            write!(
                event,
                r#"{{"user_id":"{}","page_id":"{}","ad_id":"ad-{:04}","ad_type":"{}","event_type":"{}","event_time":{},"ip_address":"{}.{}.{}.{}"}}"#,
                uuid(a % 100_000 * 0x9E37_79B9_7F4A),
                uuid(b % 1000 * 0x9E37_79B9_7F4A),
                c % 1000,
                AD_TYPES[(c >> 16) as usize % 5],
                EVENT_TYPES[(c >> 24) as usize % 3],
                1_700_000_000_000 + (step * ROWS_PER_STEP + index) as u64 / 10,
                a >> 40 & 255, a >> 48 & 255, b >> 40 & 255, b >> 48 & 255,
            )
            .expect("a String takes everything");
            bytes += event.len();
            values.append_value(event.as_bytes());
        }
        RawRows {
            offsets: Int64Array::from_iter_values(0..count as i64),
            keys: None,
            values: Some(values.finish()),
            timestamps: None,
            headers: None,
            position: count as i64,
        }
    });
    let steps = steps.collect();
    (steps, bytes)
}
