//! Times and durations as a person reads them.

use std::fmt::Display;
use std::time::Duration;

use chrono::{DateTime, TimeZone, Utc};

/// A batch time, in milliseconds since 1970 UTC, in a time zone: `yyyy/MM/dd HH:mm:ss`, with milliseconds where batches are less than
/// a second apart, and without the date where it is not wanted.
///
/// ```
/// let text = tidemill::shown::batch_time(1_500, std::time::Duration::from_secs(1), true, &chrono::Utc);
/// assert_eq!(text, "1970/01/01 00:00:01");
/// ```
pub fn batch_time<Z: TimeZone<Offset: Display>>(time_ms: i64, interval: Duration, with_date: bool, zone: &Z) -> String {
    let date = if with_date { "%Y/%m/%d " } else { "" };
    let millis = if interval < Duration::from_secs(1) { "%.3f" } else { "" };
    let time = DateTime::<Utc>::from_timestamp_millis(time_ms).unwrap_or_default();
    time.with_timezone(zone)
        .format(&format!("{date}%H:%M:%S{millis}"))
        .to_string()
}

/// A duration in one unit: `80 ms`, `0.3 s`, `42 s`, `1.5 min`, `30 min`, `2.0 h`.
///
/// ```
/// let text = tidemill::shown::short_duration(std::time::Duration::from_secs(90));
/// assert_eq!(text, "1.5 min");
/// ```
pub fn short_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let seconds = duration.as_secs_f64();
    match millis {
        0..100 => format!("{millis} ms"),
        100..1_000 => format!("{seconds:.1} s"),
        // Halves are rounded up, as a person does.
        1_000..60_000 => format!("{} s", seconds.round()),
        60_000..600_000 => format!("{:.1} min", seconds / 60.0),
        600_000..3_600_000 => format!("{} min", (seconds / 60.0).round()),
        _ => format!("{:.1} h", seconds / 3600.0),
    }
}
