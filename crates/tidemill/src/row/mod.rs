//! Values of a program as rows of columns, and back.

pub(crate) mod decoder;
pub(crate) mod encoder;
mod fraction;
