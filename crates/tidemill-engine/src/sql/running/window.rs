//! Windows by batch time, and the panes that their groups are kept in.

use tidemill_core::next_batch::window_end_after;

/// A window over the batches of the last while. One ends at every multiple of the slide, counted from 1970 UTC; that which ends at
/// `E` has the batches of `(E − length, E]`. With a slide above the length some batches are in none. Both lengths are multiples of the
/// interval, and thereby of more than a millisecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Milliseconds that it goes back.
    pub length_ms: i64,
    /// Milliseconds from the end of one to the end of the next.
    pub slide_ms: i64,
}

impl Window {
    /// True where one ends with the batch of this time.
    pub(super) fn ends_at(self, time_ms: i64) -> bool {
        self.first_end_after(time_ms - 1) == time_ms
    }

    /// The first time that the next window after the batch of this time has.
    pub(super) fn next_begins_at(self, time_ms: i64) -> i64 {
        self.first_end_after(time_ms) - self.length_ms + 1
    }

    fn first_end_after(self, time_ms: i64) -> i64 {
        window_end_after(time_ms, self.slide_ms)
    }

    /// The last time of the pane that the batch of this time is kept in: batches that are in the same windows share one. A batch
    /// in which a window ends has one of its own, so that this window is what was kept before and what the batch brings.
    pub(super) fn pane(self, time_ms: i64) -> i64 {
        if self.ends_at(time_ms) {
            return time_ms;
        }
        window_end_after(time_ms - 1, common_divisor(self.length_ms, self.slide_ms)) - 1
    }
}

fn common_divisor(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For windows of all lengths and slides: which batches each one has, by what is kept of each.
    #[test]
    fn panes_tell_the_batches_of_every_window() {
        for (length_ms, slide_ms) in [(300, 60), (60, 60), (90, 60), (50, 20), (20, 50), (10, 10), (130, 40)] {
            let window = Window { length_ms, slide_ms };
            for end in (slide_ms..5 * slide_ms).step_by(usize::try_from(slide_ms).expect("positive")) {
                assert!(window.ends_at(end));
                for time in (1..=end).filter(|time| time % 5 == 0) {
                    let (from, pane) = (end - length_ms + 1, window.pane(time));
                    assert_eq!(
                        (from..=end).contains(&pane),
                        (from..=end).contains(&time),
                        "{time} in {end}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_batch_in_which_a_window_ends_shares_its_pane_with_none() {
        let window = Window {
            length_ms: 90,
            slide_ms: 60,
        };
        let panes: Vec<i64> = [1, 29, 30, 31, 59, 60, 61, 89, 90, 119, 120]
            .map(|time| window.pane(time))
            .to_vec();
        assert_eq!(panes, [29, 29, 29, 59, 59, 60, 89, 89, 89, 119, 120]);
    }

    /// What is left after a batch is what the next window has of it.
    #[test]
    fn what_no_later_window_has_is_left_behind() {
        let tumbling = Window {
            length_ms: 60,
            slide_ms: 60,
        };
        assert_eq!((tumbling.next_begins_at(59), tumbling.next_begins_at(60)), (1, 61));
        let apart = Window {
            length_ms: 20,
            slide_ms: 50,
        };
        assert!(apart.pane(29) < apart.next_begins_at(29), "in no window");
        assert!(apart.pane(31) >= apart.next_begins_at(31));
    }
}
