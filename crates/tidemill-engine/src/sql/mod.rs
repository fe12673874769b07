//! SQL lowered once into a template plan; per batch only its ranges change.

pub mod dead_letters;
pub mod functions;
mod octet_length;
pub mod read;
pub mod reference;
pub mod scan_run;
mod slice_read;
pub mod table;
pub mod template;
