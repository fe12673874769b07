//! Which kept groups a batch has to do with.

use super::window::Window;

/// Bytes of a pane's time before the group in a key.
pub(super) const PANE_BYTES: usize = 8;

/// Where the groups of one batch are kept, and which kept ones it gives and forgets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reach {
    /// Leads the keys of the batch's groups: nothing where there is one range of batches, the stream.
    pub(super) pane: Vec<u8>,
    /// Kept groups from this key on are given beside the batch's own; `None` where the batch gives no row at all.
    pub(super) given_from: Option<Vec<u8>>,
    /// Kept groups before this key are forgotten with the batch.
    pub(super) kept_from: Vec<u8>,
}

impl Reach {
    /// Of the batch of this time, over a window or over the whole stream.
    pub(super) fn of(window: Option<Window>, time_ms: i64) -> Self {
        let Some(window) = window else {
            return Self {
                pane: Vec::new(),
                given_from: Some(Vec::new()),
                kept_from: Vec::new(),
            };
        };
        Self {
            pane: key(window.pane(time_ms)),
            given_from: window.ends_at(time_ms).then(|| key(time_ms - window.length_ms + 1)),
            kept_from: key(window.next_begins_at(time_ms)),
        }
    }

    /// False where no later window has the batch.
    pub(super) fn keeps(&self) -> bool {
        self.pane >= self.kept_from
    }
}

/// Times as bytes that sort as they do.
fn key(time_ms: i64) -> Vec<u8> {
    let bytes: [u8; PANE_BYTES] = u64::try_from(time_ms).unwrap_or(0).to_be_bytes();
    bytes.to_vec()
}
