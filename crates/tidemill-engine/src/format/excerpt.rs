//! The part of a bad record that a reason shows.

/// How much of a record a reason shows.
pub(super) const EXCERPT_CHARS_MAX: usize = 120;

/// The record around the byte `at`, on one line.
pub(super) fn excerpt(record: &[u8], at: usize) -> String {
    const LEAD: usize = EXCERPT_CHARS_MAX / 3;
    // Four bytes a character at most, so that a huge record is not read through for its excerpt.
    let from = if record.len() <= EXCERPT_CHARS_MAX {
        0
    } else {
        at.min(record.len()).saturating_sub(LEAD)
    };
    let until = record.len().min(from + 4 * EXCERPT_CHARS_MAX);
    let text = String::from_utf8_lossy(&record[from..until]);
    let shown: String = text
        .chars()
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .take(EXCERPT_CHARS_MAX)
        .collect();
    let lead = if from > 0 { "…" } else { "" };
    let tail = if until < record.len() || shown.chars().count() < text.chars().count() {
        "…"
    } else {
        ""
    };
    format!("{lead}{shown}{tail}")
}

/// The bytes around the byte `at`, in hexadecimal.
pub(super) fn hex_excerpt(record: &[u8], at: usize) -> String {
    const BYTES_MAX: usize = EXCERPT_CHARS_MAX / 3;
    let from = if record.len() <= BYTES_MAX {
        0
    } else {
        at.min(record.len()).saturating_sub(BYTES_MAX / 2)
    };
    let until = record.len().min(from + BYTES_MAX);
    let bytes: Vec<String> = record[from..until].iter().map(|byte| format!("{byte:02x}")).collect();
    let lead = if from > 0 { "…" } else { "" };
    let tail = if until < record.len() { "…" } else { "" };
    format!("{lead}{}{tail}", bytes.join(" "))
}
