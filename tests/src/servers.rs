//! Where the servers are. `scripts/servers start` starts them and prints the variables read here.

use std::env;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// The broker's `host:port`, from `TIDEMILL_TEST_KAFKA`.
///
/// # Panics
/// Where it isn't set.
pub fn kafka() -> String {
    required("TIDEMILL_TEST_KAFKA")
}

/// The database's URL, with a superuser's name and password, from `TIDEMILL_TEST_POSTGRES`.
///
/// # Panics
/// Where it isn't set.
pub fn postgres() -> String {
    required("TIDEMILL_TEST_POSTGRES")
}

/// What is known of the S3 gateway, from the variable `name`; see [`S3`](crate::s3::S3).
///
/// # Panics
/// Where it isn't set.
pub(crate) fn s3(name: &str) -> String {
    required(name)
}

/// The class path of the programs in `tests/java`, from `TIDEMILL_TEST_JAVA_CP`.
///
/// # Panics
/// Where it isn't set.
pub fn java_class_path() -> String {
    required("TIDEMILL_TEST_JAVA_CP")
}

/// The classes of these programs as a JVM has them after loading. One that finds no such file loads them again.
///
/// # Panics
/// Where `TIDEMILL_TEST_JAVA_CP` isn't set.
pub fn java_archive() -> PathBuf {
    let class_path = java_class_path();
    let tools = class_path.split(':').next().unwrap_or_default();
    PathBuf::from(tools).with_extension("jsa")
}

/// A Python with DuckDB and pyarrow, from `TIDEMILL_TEST_PYTHON`.
///
/// # Panics
/// Where it isn't set.
pub fn python() -> String {
    required("TIDEMILL_TEST_PYTHON")
}

/// The binary under test, built with the feature `fault-injection`, from `TIDEMILL_TEST_BIN`.
///
/// # Panics
/// Where it isn't set or is no file.
pub fn binary() -> PathBuf {
    let path = PathBuf::from(required("TIDEMILL_TEST_BIN"));
    assert!(path.is_file(), "TIDEMILL_TEST_BIN={} is no file", path.display());
    path
}

fn required(name: &str) -> String {
    match env::var(name) {
        Ok(value) if !value.is_empty() => value,
        _ => panic!(
            "{name} is not set. Run the tests through scripts/test, or first: eval \"$(scripts/servers start)\", and \
             TIDEMILL_TEST_BIN=path of a tidemill built with --features fault-injection"
        ),
    }
}

/// A name that no other test and no earlier run on the same servers has: `[a-z0-9-]`, at most 40 characters for a
/// `prefix` of 15.
///
/// # Panics
/// Where the clock stands before 1970.
pub fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let since_1970 = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("the clock is past 1970");
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!(
        "{prefix}-{:x}-{:x}-{number}",
        since_1970.as_millis() & 0xffff_ffff,
        std::process::id()
    )
}
