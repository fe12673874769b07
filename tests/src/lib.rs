//! Drives the binary `tidemill` against real servers, as a user would, and judges from outside what came out.
//!
//! - [`servers`]: where Kafka, PostgreSQL and the binary are; all of them must be there, nothing is skipped
//! - [`java`]: the programs of `tests/java`, which share no code with Tidemill
//! - [`pipeline`]: a pipeline file in a folder of its own; start, kill, freeze, wait
//! - [`target`]: a fresh sink of each exactly-once kind, and its rows as an outside reader sees them
//! - [`oracle`]: lost, doubled, reordered, aborted-but-visible
//! - [`onlooker`]: the oracle at every moment, while the pipeline works and is killed
//! - [`case`]: these together: one identity pipeline with its truth
//! - [`proxy`]: between client and broker, to lose, delay and hold back
//! - [`chance`]: numbers from a printed seed

pub mod case;
pub mod chance;
pub mod java;
pub mod onlooker;
pub mod oracle;
pub mod pipeline;
pub mod proxy;
pub mod servers;
pub mod target;
