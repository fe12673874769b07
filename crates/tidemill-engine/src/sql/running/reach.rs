//! Which kept groups a batch has to do with.

use super::Scope;
use super::ttl::{Expiry, split};
use super::window::Window;
use crate::error::Result;
use crate::state::StateReader;

/// Bytes of a time in a key, as that of a pane before the group.
pub(super) const TIME_BYTES: usize = 8;

/// Where the groups of one batch are kept, and which kept ones it gives and forgets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reach {
    /// Leads the keys of the batch's groups: nothing where there is one range of batches, the stream.
    pub(super) pane: Vec<u8>,
    /// Kept groups from this key on are given beside the batch's own; `None` where the batch gives no row at all.
    pub(super) given_from: Option<Vec<u8>>,
    /// Kept groups before this key are forgotten with the batch.
    pub(super) kept_from: Vec<u8>,
    /// Which groups are too long without a record, where that is asked.
    pub(super) expiry: Option<Expiry>,
}

impl Reach {
    /// Of the batch of this time, over the state that the batch before left.
    ///
    /// # Errors
    /// Where that can't be read.
    pub(super) fn of(scope: Scope, time_ms: i64, before: Option<&StateReader>) -> Result<Self> {
        if let Some(window) = scope.window() {
            return Ok(Self::of_window(window, time_ms));
        }
        let expiry = scope.ttl().map(|ttl| Expiry::of(ttl, time_ms, before));
        Ok(Self {
            pane: Vec::new(),
            given_from: Some(Vec::new()),
            kept_from: Vec::new(),
            expiry: expiry.transpose()?,
        })
    }

    fn of_window(window: Window, time_ms: i64) -> Self {
        let key = |time_ms| time_bytes(time_ms).to_vec();
        Self {
            pane: key(window.pane(time_ms)),
            given_from: window.ends_at(time_ms).then(|| key(time_ms - window.length_ms + 1)),
            kept_from: key(window.next_begins_at(time_ms)),
            expiry: None,
        }
    }

    /// True where records of the batch go on from what is kept of their group.
    pub(super) fn goes_on_from(&self, kept: &[u8]) -> bool {
        self.expiry.is_none_or(|expiry| expiry.goes_on(split(kept).0))
    }

    /// False where no later window has the batch.
    pub(super) fn keeps(&self) -> bool {
        self.pane >= self.kept_from
    }
}

/// Times as bytes that sort as they do.
pub(super) fn time_bytes(time_ms: i64) -> [u8; TIME_BYTES] {
    u64::try_from(time_ms).unwrap_or(0).to_be_bytes()
}
