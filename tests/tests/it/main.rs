//! The binary against real servers. `scripts/test integration` and `scripts/test crash` run these.

mod crash;
mod hard_topics;
mod storm;
mod two_drivers;
