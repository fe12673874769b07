//! Errors on their way through DataFusion.

use std::sync::Arc;

use datafusion::common::DataFusionError;

use crate::error::{Error, Kind};

/// An error of our own that travelled through DataFusion comes out as it went in.
pub(crate) fn from_engine(error: DataFusionError) -> Error {
    match error {
        DataFusionError::External(inner) => match inner.downcast::<Error>() {
            Ok(ours) => *ours,
            Err(other) => Error::with_source(Kind::Data, "the query failed", other),
        },
        DataFusionError::Context(_, inner) => from_engine(*inner),
        DataFusionError::Shared(shared) => match Arc::try_unwrap(shared) {
            Ok(inner) => from_engine(inner),
            Err(shared) => from_shared(&shared),
        },
        DataFusionError::ArrowError(inner, _) => match *inner {
            arrow::error::ArrowError::ExternalError(inner) => from_engine(DataFusionError::External(inner)),
            other => Error::with_source(Kind::Data, "the query failed", other),
        },
        other => Error::with_source(Kind::Data, "the query failed", other),
    }
}

/// The same for an error that several slices hold: kind and text are taken over.
fn from_shared(error: &DataFusionError) -> Error {
    match error {
        DataFusionError::External(inner) => match inner.downcast_ref::<Error>() {
            Some(ours) => Error::new(ours.kind(), ours.chain()),
            None => Error::new(Kind::Data, inner.to_string()),
        },
        DataFusionError::Context(_, inner) => from_shared(inner),
        DataFusionError::Shared(inner) => from_shared(inner),
        other => Error::new(Kind::Data, other.to_string()),
    }
}
