//! Prints what reading JSON ad events costs in nanoseconds per record, arrays included, on one thread.
//!
//! `cargo run --release -p tidemill-engine --example json_throughput`

#![expect(clippy::disallowed_methods, reason = "an example that measures")]
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::error::Error;
use std::fmt::Write;
use std::hint::black_box;
use std::sync::OnceLock;
use std::time::Instant;

use arrow::array::{BinaryViewBuilder, Int64Array};
use tidemill_engine::format::{Format, JsonFormat, parse_columns};
use tidemill_engine::source::RawRows;

const COLUMNS: &str = "user_id VARCHAR, page_id VARCHAR, ad_id VARCHAR, ad_type VARCHAR, event_type VARCHAR, \
                       event_time TIMESTAMP(3), ip_address VARCHAR";
/// Few enough to stay in the cache, as fetched records do that are decoded at once.
const RECORDS: usize = 16_384;
/// About what one response gives a decoder at once.
const ROWS_PER_STEP: usize = 4096;
const REPEATS: usize = 40;
const ROUNDS: usize = 9;

fn main() -> Result<(), Box<dyn Error>> {
    let (steps, bytes) = events();
    println!(
        "events of {:.0} bytes, {ROWS_PER_STEP} a step; CPU time, best and median of {ROUNDS} rounds",
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
        let mut rounds = [0.0; ROUNDS];
        for round in &mut rounds {
            let begin = cpu_nanos();
            for step in steps.iter().cycle().take(REPEATS * steps.len()) {
                let decoded = black_box(decoder.decode(step));
                assert!(decoded.bad.is_none(), "{:?}", decoded.bad);
            }
            *round = (cpu_nanos() - begin) as f64 / (REPEATS * RECORDS) as f64;
        }
        rounds.sort_by(f64::total_cmp);
        println!("{name:>10}: {:6.1} {:6.1} ns/record", rounds[0], rounds[ROUNDS / 2]);
    }
    Ok(())
}

/// What this thread has computed so far, where the system tells; else time as it passes.
fn cpu_nanos() -> u64 {
    static BEGIN: OnceLock<Instant> = OnceLock::new();
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let computed = text.split(' ').next().and_then(|nanos| nanos.parse().ok());
    computed.unwrap_or_else(|| BEGIN.get_or_init(Instant::now).elapsed().as_nanos() as u64)
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
    let steps = (0..RECORDS / ROWS_PER_STEP).map(|step| {
        let count = ROWS_PER_STEP;
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
            bytes: 0,
        }
    });
    let steps = steps.collect();
    (steps, bytes)
}
