//! A broker inside the process and a stream to feed it with: for the quickstart, examples and fast tests.
//!
//! What the broker can't do is listed at [`EmbeddedBroker`](broker::EmbeddedBroker); real servers carry the claims.

pub mod ad_events;
pub mod broker;
pub(crate) mod client_error;
pub mod feed;
