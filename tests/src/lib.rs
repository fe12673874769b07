//! Drives the binary `tidemill` against real servers, as a user would, and judges from outside what came out.
//!
//! - [`servers`]: where Kafka, PostgreSQL and the binary are; all of them must be there, nothing is skipped
//! - [`own_server`]: a server of one test's own, to be killed and started again
//! - [`token_endpoint`]: an OpenID provider for the brokers' clients
//! - [`lossy_proxy`]: a way to the database that loses the answer to a COMMIT
//! - [`small_disk`]: a file system to be filled up
//! - [`java`]: the programs of `tests/java`, which share no code with Tidemill
//! - [`pipeline`]: a pipeline file in a folder of its own; start, kill, freeze, wait
//! - [`target`]: a fresh sink of each exactly-once kind, and its rows as an outside reader sees them
//! - [`oracle`]: lost, doubled, reordered, aborted-but-visible
//! - [`onlooker`]: the oracle at every moment, while the pipeline works and is killed
//! - [`case`]: these together: one identity pipeline with its truth
//! - [`records`]: records of any bytes
//! - [`proxy`]: between client and broker, to lose, delay and hold back
//! - [`chance`]: numbers from a printed seed

pub mod case;
pub mod chance;
pub mod java;
pub mod lossy_proxy;
pub mod onlooker;
pub mod oracle;
pub mod own_server;
pub mod pipeline;
pub mod proxy;
pub mod records;
pub mod s3;
pub mod servers;
pub mod small_disk;
pub mod target;
pub mod token_endpoint;
