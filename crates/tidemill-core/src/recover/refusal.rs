//! Why a pipeline may not start, and the way out of it.

use crate::plan::BatchId;

/// Why the pipeline may not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// X8.
    #[error(
        "sink {sink} belongs to another application of the same name: its uuid is {theirs}, this checkpoint's is {ours}. If \
         the checkpoint was moved, point `checkpoint` to it again; if it was lost, `tidemill checkpoint rebuild FILE`; to take the \
         sink over and leave its positions behind, `tidemill run FILE --adopt {sink}`; else choose another name"
    )]
    Foreign {
        /// The sink.
        sink: String,
        /// The uuid in the sink.
        theirs: String,
        /// The uuid in the checkpoint.
        ours: String,
    },
    /// X9: the plan log names the sink, but the sink remembers nothing.
    #[error(
        "sink {sink} was written up to batch {batch}, but holds no ledger now ({target}): it was emptied or is another \
         place. Restore it, or begin it anew after that batch with `tidemill run FILE --new-target {sink}`"
    )]
    LedgerMissing {
        /// The sink.
        sink: String,
        /// The last batch planned for it.
        batch: BatchId,
        /// Where the sink points.
        target: String,
    },
    /// X9.
    #[error(
        "sink {sink} pointed to {was}, now it points to {now}: its ledger stays behind. Point it back, or begin anew there \
         after the last batch with `tidemill run FILE --new-target {sink}`"
    )]
    TargetChanged {
        /// The sink.
        sink: String,
        /// The target in the last plan.
        was: String,
        /// The target in the pipeline file.
        now: String,
    },
    /// X9: whether the old place holds the last batch can't be asked any more.
    #[error(
        "sink {sink} was pointed elsewhere ({was} before) while batch {batch} is not settled in it. Point it back until one run \
         with --until-caught-up ended well; if that place is gone, give the batch up there with `tidemill run FILE \
         --new-target {sink} --drop-sink {sink}`"
    )]
    MovedUnsettled {
        /// The sink.
        sink: String,
        /// The unsettled batch.
        batch: BatchId,
        /// Where it pointed.
        was: String,
    },
    /// X9.
    #[error(
        "sink {sink} is no longer in the file, but batch {batch} is not settled in it. Put it back until one run \
         with --until-caught-up ended well; if it was renamed, `tidemill run FILE --rename-sink {sink}=NEW`; to give the batch \
         up there, `tidemill run FILE --drop-sink {sink}`"
    )]
    GoneUnsettled {
        /// The sink.
        sink: String,
        /// The unsettled batch.
        batch: BatchId,
    },
    /// X10: a backup was restored.
    #[error(
        "sink {sink} stands at batch {ledger}, but the checkpoint saw batch {settled} committed in it: an older copy of the \
         sink was restored. Going on would leave its rows out. Restore the newer copy, or give the sink a new name to begin it \
         after batch {settled}, without the rows between"
    )]
    SinkBehind {
        /// The sink.
        sink: String,
        /// The newest batch in the sink's ledger.
        ledger: BatchId,
        /// The newest batch settled.
        settled: BatchId,
    },
    /// X7.
    #[error("sink {sink} holds another plan of batch {batch} (hash {theirs}) than the plan log (hash {ours})")]
    Diverged {
        /// The sink.
        sink: String,
        /// The batch.
        batch: BatchId,
        /// The hash in the sink.
        theirs: String,
        /// The hash in the plan log.
        ours: String,
    },
    /// Sinks may differ by one batch only.
    #[error(
        "sink {sink} stands at batch {ledger}, another sink at batch {newest}: more than one apart, a ledger was changed from outside"
    )]
    Apart {
        /// The sink.
        sink: String,
        /// The newest batch in its ledger.
        ledger: BatchId,
        /// The newest batch anywhere.
        newest: BatchId,
    },
    /// The queries changed while a batch is unsettled.
    #[error(
        "the queries were changed while batch {batch} is not settled. Run the old file once with --until-caught-up, then change it"
    )]
    ChangedUnsettled {
        /// The unsettled batch.
        batch: BatchId,
    },
    /// X12.
    #[error(
        "the reference table {table} was changed while batch {batch} is not settled. Put its old files back, run once with \
         --until-caught-up, then change it"
    )]
    TableChanged {
        /// The table.
        table: String,
        /// The unsettled batch.
        batch: BatchId,
    },
    /// A way out was asked for where nothing is in the way.
    #[error("{flag} {sink} does not apply: {why}. Run without it")]
    NotApplicable {
        /// The flag, as typed.
        flag: &'static str,
        /// The sink it names.
        sink: String,
        /// Why it does not apply.
        why: String,
    },
    /// The checkpoint contradicts itself.
    #[error("the checkpoint is damaged: batch {settled} has a commit record, but the newest plan is {plan}")]
    Damaged {
        /// The newest batch with a commit record.
        settled: BatchId,
        /// The newest plan, in words.
        plan: String,
    },
}

impl Refusal {
    /// True where data would be lost (exit 4), false where the configuration is at fault (exit 2).
    pub fn is_loss(&self) -> bool {
        matches!(
            self,
            Self::SinkBehind { .. } | Self::Apart { .. } | Self::Diverged { .. } | Self::LedgerMissing { .. }
        )
    }
}
