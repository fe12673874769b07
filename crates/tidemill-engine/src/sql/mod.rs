//! SQL lowered once into a template plan; per batch only its ranges change.

pub mod dead_letters;
mod from_engine;
pub mod functions;
mod octet_length;
mod provider;
pub mod read;
pub mod reference;
pub mod running;
pub mod same_for_all;
pub mod scan_run;
mod slice_read;
pub mod table;
pub mod template;
