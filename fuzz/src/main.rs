//! Fuzz targets: bytes that come from elsewhere must give a value or an error, within their bounds.
//!
//! `scripts/fuzz` builds this with the coverage that libFuzzer needs and runs it, once per target. The target is named by
//! `TIDEMILL_FUZZ_TARGET`; sound inputs to begin with are written to the folder `TIDEMILL_FUZZ_SEEDS`.

#![no_main]

mod formats;
#[path = "../../crates/tidemill-cli/src/settings/mod.rs"]
#[expect(dead_code, reason = "read, and then of no use here")]
mod settings;
mod targets;

use std::sync::OnceLock;

use targets::Target;

static CHOSEN: OnceLock<fn(&[u8])> = OnceLock::new();

fn choose() -> Target {
    let name = std::env::var("TIDEMILL_FUZZ_TARGET").unwrap_or_default();
    let found = targets::ALL.iter().find(|target| target.name == name);
    match found {
        Some(target) => *target,
        None => {
            let known: Vec<&str> = targets::ALL.iter().map(|target| target.name).collect();
            panic!("TIDEMILL_FUZZ_TARGET={name} is none of {}", known.join(" "));
        }
    }
}

libfuzzer_sys::fuzz_target!(
    init: {
        let target = choose();
        if let Some(folder) = std::env::var_os("TIDEMILL_FUZZ_SEEDS") {
            for (number, seed) in target.seeds().into_iter().enumerate() {
                let path = std::path::Path::new(&folder).join(format!("seed-{number}"));
                std::fs::write(path, seed).expect("a seed is written");
            }
        }
        CHOSEN.get_or_init(|| target.run);
    },
    |data: &[u8]| {
        if let Some(run) = CHOSEN.get() {
            run(data);
        }
    }
);
