//! The values of an enum as views.

use super::fault::Why;
use crate::format::record::Side;
use crate::format::views::Views;

/// Values of an enum. Each symbol is made a view once per step.
#[derive(Debug)]
pub(super) struct Symbols {
    pub(super) views: Views,
    symbols: Vec<String>,
    made: Vec<Option<u128>>,
}

impl Symbols {
    pub(super) fn new(symbols: &[String]) -> Self {
        Self {
            views: Views::default(),
            symbols: symbols.to_vec(),
            made: vec![None; symbols.len()],
        }
    }

    /// Forgets the views, which point into what the rows so far are made of.
    pub(super) fn forget(&mut self) {
        self.made.fill(None);
    }

    /// Adds the symbol with this number.
    pub(super) fn push(&mut self, at: i32, side: &mut Side) -> Result<(), Why> {
        let at = usize::try_from(at).map_err(|_negative| Why::Symbol)?;
        match self.made.get(at) {
            None => return Err(Why::Symbol),
            Some(Some(view)) => self.views.push_again(*view),
            Some(None) => {
                push_text(&mut self.views, &self.symbols[at], side)?;
                self.made[at] = self.views.last();
            }
        }
        Ok(())
    }
}

/// Adds text that does not stand in the record.
pub(super) fn push_text(views: &mut Views, text: &str, side: &mut Side) -> Result<(), Why> {
    let from = side.text.len();
    if i32::try_from(from + text.len()).is_err() {
        return Err(Why::TooLong);
    }
    side.text.extend_from_slice(text.as_bytes());
    if views.push_side(side, from) {
        side.text.truncate(from);
    }
    Ok(())
}
