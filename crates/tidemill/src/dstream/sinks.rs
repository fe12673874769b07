//! Ends of streams whose rows are written exactly once.

use std::sync::Arc;

use serde::Serialize;

use super::DStream;
use crate::output::Declared;
#[cfg(feature = "file")]
use crate::sink::Files;
use crate::sink::KafkaTopic;
#[cfg(feature = "postgres")]
use crate::sink::PostgresTable;
use crate::sink::{SinkSettings, Written, checked};

/// A value becomes a row by serde: a struct or a map gives the columns by name, a tuple by place. A field that no column is declared
/// for, text where a number belongs, a number beyond its type, a fraction in a column of whole numbers or nothing where the column is NOT NULL stops the stream naming the
/// column; numbers give timestamps in the column's unit. The ledger
/// lies with the rows: after a crash a batch is not written again where it was committed.
impl<T: Serialize + Send + 'static> DStream<T> {
    /// Writes the values of each batch into files, exactly once for readers that go by the manifests.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tidemill::Files;
    /// use tidemill::testing::{Harness, Input};
    ///
    /// let harness = Harness::new(Duration::from_secs(1));
    /// let words = Input::of([vec!["a", "b", "a"]]);
    /// let counts = Files::new(harness.folder().join("counts")).columns("word VARCHAR, count BIGINT").json();
    /// let run = harness.start(|context| {
    ///     words.stream(context).map(str::to_owned).count_by_value().to_files(counts);
    ///     Ok(())
    /// })?;
    /// run.batches(1)?;
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[cfg(feature = "file")]
    pub fn to_files(self, files: Files) {
        self.written("to_files", files);
    }

    /// Writes the values of each batch into a table, in one transaction with the ledger.
    ///
    /// ```no_run
    /// # use tidemill::prelude::*;
    /// # use tidemill::PostgresTable;
    /// # fn declare(words: DStream<String>) {
    /// words.count_by_value().to_postgres(
    ///     PostgresTable::new("postgres://localhost/shop", "words").columns("word VARCHAR NOT NULL, count BIGINT").upsert(["word"]),
    /// );
    /// # }
    /// ```
    #[cfg(feature = "postgres")]
    pub fn to_postgres(self, table: PostgresTable) {
        self.written("to_postgres", table);
    }

    /// Writes the values of each batch into a topic, in one transaction with the ledger.
    ///
    /// ```no_run
    /// # use tidemill::prelude::*;
    /// # use tidemill::KafkaTopic;
    /// # fn declare(words: DStream<String>) {
    /// words.count_by_value().to_kafka(KafkaTopic::new("localhost:9092", "words").columns("word VARCHAR, count BIGINT").key("word"));
    /// # }
    /// ```
    pub fn to_kafka(self, topic: KafkaTopic) {
        self.written("to_kafka", topic);
    }

    fn written(self, what: &str, sink: impl SinkSettings + 'static) {
        let graph = Arc::clone(&self.graph);
        graph.output(|name| {
            let (schema, problems) = checked(&sink, &name);
            for problem in problems {
                self.graph.problem(format!("{name}, {what}: {problem}"));
            }
            Declared {
                name,
                stream: Arc::clone(&self.stream),
                parts: Box::new(Written {
                    stream: self,
                    schema,
                    sink,
                }),
            }
        });
    }
}
