//! The segments that a log has, oldest first.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Sequence;
use super::segment::SegmentName;

/// Shared between the thread that makes segments and whoever removes them.
#[derive(Debug)]
pub(super) struct Kept {
    // A leaf lock, held to look and to note.
    segments: Mutex<Vec<SegmentName>>,
    /// What older drivers wrote after this one had looked.
    strays: Vec<SegmentName>,
    /// The first sequence of this epoch.
    own_first: Sequence,
}

impl Kept {
    pub(super) fn new(segments: Vec<SegmentName>, strays: Vec<SegmentName>, own_first: Sequence) -> Self {
        Self {
            segments: Mutex::new(segments),
            strays,
            own_first,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<SegmentName>> {
        self.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a new one, which is the newest.
    pub(super) fn add(&self, segment: SegmentName) {
        self.lock().push(segment);
    }

    /// Those whose records all lie below `position`, oldest first; never the newest. Strays among them once nothing of any
    /// older epoch is needed: a driver that lost its epoch before it looked takes for a stray what its successor counts on,
    /// but it settles no batch, so it never comes so far.
    pub(super) fn below(&self, position: Sequence) -> Vec<SegmentName> {
        let segments = self.lock();
        let ends = segments.iter().zip(segments.iter().skip(1));
        let below = ends.take_while(|(_, next)| next.first <= position);
        let strays = self.strays.iter().filter(|_| position > self.own_first);
        strays.chain(below.map(|(segment, _)| segment)).copied().collect()
    }

    /// Forgets one that was removed.
    pub(super) fn removed(&self, segment: SegmentName) {
        self.lock().retain(|kept| *kept != segment);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_stays_and_so_does_what_reaches_over_the_position() {
        let segment = |first| SegmentName {
            epoch: 1,
            first,
            attempt: 0,
        };
        let kept = Kept::new([0, 10, 20].map(segment).to_vec(), Vec::new(), 0);
        assert_eq!(kept.below(9), []);
        assert_eq!(kept.below(10), [segment(0)]);
        assert_eq!(kept.below(1_000), [segment(0), segment(10)]);
        kept.removed(segment(0));
        assert_eq!(kept.below(25), [segment(10)]);
    }

    #[test]
    fn strays_go_when_nothing_of_an_older_epoch_is_needed() {
        let segment = |epoch, first| SegmentName {
            epoch,
            first,
            attempt: 0,
        };
        let kept = Kept::new(vec![segment(1, 0), segment(2, 10)], vec![segment(1, 8)], 10);
        assert_eq!(kept.below(10), [segment(1, 0)]);
        assert_eq!(kept.below(11), [segment(1, 8), segment(1, 0)]);
    }
}
