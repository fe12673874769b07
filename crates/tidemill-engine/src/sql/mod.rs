//! SQL lowered once into a template plan; per batch only its ranges change.

pub mod functions;
mod octet_length;
pub mod read;
pub mod table;
pub mod template;
