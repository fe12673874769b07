//! The records of one range as rows: decoded, the bad ones stopped at, left out, or taken instead.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, RecordBatch, RecordBatchOptions, StringViewArray};
use arrow::compute::filter_record_batch;
use futures::StreamExt;
use tidemill_core::commit::SliceReport;
use tidemill_core::plan::RangePlan;

use super::dead_letters::{self, DeadLetter};
use super::scan_run::ScanRun;
use super::table::{Column, MetadataColumn, OnBadRecord, Take};
use crate::error::{Error, Kind};
use crate::failpoint;
use crate::format::{BadRecords, Decoded, Decoder};
use crate::source::{RangeStream, RawRows};

/// The records of one range, on their way to rows.
pub(super) struct SliceRead {
    stream: RangeStream,
    decoder: Box<dyn Decoder>,
    report: SliceReport,
    rows_next: RowsNext,
}

/// Which rows of a slice come next, as the failpoints name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RowsNext {
    First,
    /// Some were handed on; the middle has not been passed.
    UpToMiddle,
    BeyondMiddle,
}

impl fmt::Debug for SliceRead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SliceRead")
            .field("report", &self.report)
            .finish_non_exhaustive()
    }
}

impl SliceRead {
    pub(super) fn new(stream: RangeStream, decoder: Box<dyn Decoder>, range: RangePlan) -> Self {
        Self {
            stream,
            decoder,
            report: SliceReport::of(range),
            rows_next: RowsNext::First,
        }
    }

    pub(super) fn into_report(self) -> SliceReport {
        self.report
    }

    /// The next rows, `None` at the range's end.
    pub(super) async fn next(&mut self, run: &ScanRun) -> Result<Option<RecordBatch>, Error> {
        loop {
            let Some(raw) = self.stream.next().await else {
                return Ok(None);
            };
            let raw = raw?;
            self.report.reached = self.report.reached.max(raw.position);
            if raw.offsets.is_empty() {
                continue;
            }
            self.pass_failpoints();
            return self.decode(run, &raw).map(Some);
        }
    }

    /// The middle is passed once per slice, by rows that are not its first, leave more than half of its range read, and
    /// are not its last.
    fn pass_failpoints(&mut self) {
        let SliceReport { range, reached, .. } = &self.report;
        match self.rows_next {
            RowsNext::First => {
                failpoint::pass("read.first-rows");
                self.rows_next = RowsNext::UpToMiddle;
            }
            RowsNext::UpToMiddle if reached - range.from > range.until - reached && *reached < range.until => {
                failpoint::pass("read.middle-rows");
                self.rows_next = RowsNext::BeyondMiddle;
            }
            RowsNext::UpToMiddle | RowsNext::BeyondMiddle => {}
        }
    }

    fn decode(&mut self, run: &ScanRun, raw: &RawRows) -> Result<RecordBatch, Error> {
        let decoded = self.decoder.decode(raw);
        self.report.records_in += raw.offsets.len() as u64;
        self.report.bytes += raw.bytes;
        match &run.take {
            Take::Records(columns) => self.records(run, columns, raw, decoded),
            Take::DeadLetters(columns) => self.dead_letters(run, columns, raw, decoded.bad),
        }
    }

    fn records(
        &mut self,
        run: &ScanRun,
        columns: &[Column],
        raw: &RawRows,
        decoded: Decoded,
    ) -> Result<RecordBatch, Error> {
        let mut values = decoded.columns.into_iter();
        let columns = columns
            .iter()
            .map(|column| match column {
                Column::Value(_) => values
                    .next()
                    .ok_or_else(|| Error::new(Kind::Bug, "a decoder gave too few columns")),
                Column::Metadata(column) => metadata(*column, &self.report.range, raw),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(raw.offsets.len()));
        let rows = RecordBatch::try_new_with_options(Arc::clone(&run.schema), columns, &options)
            .map_err(|error| Error::with_source(Kind::Bug, "put columns together", error))?;
        let Some(bad) = decoded.bad else { return Ok(rows) };
        let count = bad.count as u64;
        match run.table.on_bad_record {
            OnBadRecord::Stop => return Err(self.stopped(run, raw, &bad)),
            OnBadRecord::Skip => self.report.skipped += count,
            OnBadRecord::DeadLetter => self.report.dead_lettered += count,
        }
        filter_record_batch(&rows, &bad.keep)
            .map_err(|error| Error::with_source(Kind::Bug, "leave bad records out", error))
    }

    fn stopped(&self, run: &ScanRun, raw: &RawRows, bad: &BadRecords) -> Error {
        Error::new(
            Kind::Data,
            format!(
                "bad record in source {} at {} offset {}: {}. Mend the producer and start the source behind it, or set \
                 on_bad_record = \"skip\" or {{ dead_letter = {{ topic = \"…\" }} }}",
                run.table.name,
                self.report.range.partition,
                raw.offsets.value(bad.first_row),
                bad.first_reason
            ),
        )
    }

    /// Only the bad records, each with its own reason: that is asked for by reading it alone.
    fn dead_letters(
        &mut self,
        run: &ScanRun,
        columns: &[usize],
        raw: &RawRows,
        bad: Option<BadRecords>,
    ) -> Result<RecordBatch, Error> {
        let Some(bad) = bad else {
            return Ok(RecordBatch::new_empty(Arc::clone(&run.schema)));
        };
        self.report.dead_lettered += bad.count as u64;
        let letters: Vec<DeadLetter> = (0..raw.offsets.len())
            .filter(|row| !bad.keep.value(*row))
            .map(|row| {
                let alone = raw.row(row);
                let reason = self.decoder.decode(&alone).bad.map(|bad| bad.first_reason);
                DeadLetter {
                    record: alone,
                    reason: reason.unwrap_or_else(|| bad.first_reason.clone()),
                }
            })
            .collect();
        dead_letters::rows(&run.table.name, &self.report.range.partition, &letters)
            .and_then(|rows| rows.project(columns))
            .map_err(|error| Error::with_source(Kind::Bug, "put dead letters together", error))
    }
}

fn metadata(column: MetadataColumn, range: &RangePlan, raw: &RawRows) -> Result<ArrayRef, Error> {
    let rows = raw.offsets.len();
    let missing = || Error::new(Kind::Bug, format!("the source did not give {}", column.name()));
    Ok(match column {
        MetadataColumn::Topic => Arc::new(StringViewArray::from_iter_values(std::iter::repeat_n(
            &range.partition.topic,
            rows,
        ))),
        MetadataColumn::Partition => Arc::new(Int32Array::from_value(range.partition.partition, rows)),
        MetadataColumn::Offset => Arc::new(raw.offsets.clone()),
        MetadataColumn::Timestamp => Arc::new(raw.timestamps.clone().ok_or_else(missing)?),
        MetadataColumn::Key => Arc::new(raw.keys.clone().ok_or_else(missing)?),
        MetadataColumn::Headers => Arc::new(raw.headers.clone().ok_or_else(missing)?),
    })
}
