//! Times and lengths of time in whole milliseconds, as batches count them.

/// The last time at or before `time_ms` that is a whole number of steps from zero time.
pub(crate) fn floor(time_ms: i64, step_ms: i64, zero_ms: i64) -> i64 {
    time_ms.saturating_sub(time_ms.saturating_sub(zero_ms).rem_euclid(step_ms))
}

/// Times from `from_ms` on in steps, before `end_ms`.
pub(crate) fn until(from_ms: i64, end_ms: i64, step_ms: i64) -> impl Iterator<Item = i64> {
    std::iter::successors(Some(from_ms), move |time_ms| time_ms.checked_add(step_ms))
        .take_while(move |time_ms| *time_ms < end_ms)
}

/// The same with `last_ms` itself.
pub(crate) fn through(from_ms: i64, last_ms: i64, step_ms: i64) -> impl Iterator<Item = i64> {
    until(from_ms, last_ms.saturating_add(1), step_ms)
}

/// True where a length is a whole number of others.
pub(crate) fn is_multiple(length_ms: i64, of_ms: i64) -> bool {
    length_ms % of_ms == 0
}
