//! Outputs that write rows exactly once: the sinks of the pipeline file at the end of a stream.

#[cfg(feature = "file")]
mod files;
mod kafka;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(all(test, feature = "file"))]
mod tests;

use std::fmt::{self, Debug};
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use serde::Serialize;
use tidemill_engine::error::Result;
use tidemill_engine::format::parse_columns;
use tidemill_engine::job::Job;
use tidemill_engine::sink::Sink;

use crate::dstream::DStream;
use crate::output::{OutputSettings, Parts, StreamJob};
use crate::row::encoder::RowEncoder;

#[cfg(feature = "file")]
pub use files::Files;
pub use kafka::KafkaTopic;
#[cfg(feature = "postgres")]
pub use postgres::PostgresTable;

/// What a program said of a sink.
pub(crate) trait SinkSettings: Debug + Send {
    /// The columns as they were declared; empty where they were not.
    fn columns(&self) -> &str;

    /// What does not fit together, beyond what stands in the way of making the sink.
    fn problems(&self, schema: &Schema) -> Vec<String>;

    /// The sink `name` of the application; it is connected to nothing yet.
    fn open(&self, app: &str, name: &str) -> Result<Box<dyn Sink>>;
}

/// The declared columns, with all that is wrong with them and the sink.
pub(crate) fn checked(sink: &impl SinkSettings, name: &str) -> (SchemaRef, Vec<String>) {
    let mut problems = Vec::new();
    let schema = if sink.columns().is_empty() {
        problems.push("the columns are missing, for example .columns(\"ad_id VARCHAR, views BIGINT\")".to_owned());
        None
    } else {
        parse_columns(sink.columns())
            .map_err(|error| problems.push(error.chain()))
            .ok()
    };
    if let Some(schema) = &schema {
        problems.extend(sink.problems(schema));
    }
    problems.extend(sink.open("", name).err().map(|error| error.chain()));
    (schema.unwrap_or_else(|| Arc::new(Schema::empty())), problems)
}

/// Names a column that is not declared, or is named twice.
fn unfit_columns(what: &str, named: &[String], schema: &Schema) -> Vec<String> {
    let known: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    let unfit = |(at, column): (usize, &String)| {
        if named[..at].contains(column) {
            Some(format!("{what} names column {column} twice"))
        } else if known.contains(&column.as_str()) {
            None
        } else {
            Some(format!(
                "{what}: column {column} is not among the columns {}",
                known.join(", ")
            ))
        }
    };
    named.iter().enumerate().filter_map(unfit).collect()
}

/// A sink at the end of a stream.
pub(crate) struct Written<T, S> {
    pub(crate) stream: DStream<T>,
    pub(crate) schema: SchemaRef,
    pub(crate) sink: S,
}

impl<T, S: Debug> Debug for Written<T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Written")
            .field("stream", &self.stream)
            .field("sink", &self.sink)
            .finish_non_exhaustive()
    }
}

impl<T: Serialize + Send + 'static, S: SinkSettings> Parts for Written<T, S> {
    fn parts(self: Box<Self>, settings: &OutputSettings) -> Result<(Box<dyn Job>, Box<dyn Sink>)> {
        let sink = self.sink.open(&settings.app, &settings.name)?;
        let encoder = Arc::new(RowEncoder::new(self.schema));
        let job = StreamJob::new(self.stream, settings.clone(), encoder);
        Ok((Box::new(job), sink))
    }

    fn held(&self) -> Box<dyn Send> {
        Box::new(self.stream.clone())
    }
}
