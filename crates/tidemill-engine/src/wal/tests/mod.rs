//! What the log promises, as a whole.

mod conformance;
