//! SQL lowered once into a template plan; per batch only its ranges change.

pub mod dead_letters;
mod from_engine;
pub mod functions;
mod in_order;
mod octet_length;
mod provider;
pub mod read;
pub mod reference;
pub mod row_tables;
pub mod running;
pub mod same_for_all;
pub mod scan_run;
mod session;
mod slice_read;
pub mod table;
pub mod template;
