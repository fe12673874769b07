//! Section 19: listeners and what is made of their events. LIS-06 is a test of the bus.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use arrow::array::timezone::Tz;

use super::SECOND;
use crate::shown::{batch_time, short_duration};
use crate::testing::{Harness, Input};
use crate::{BatchInfo, Kind, OutputInfo, Progress, StreamingContext, StreamingListener};

/// What a listener heard, in order.
#[derive(Debug, Clone, PartialEq)]
enum Heard {
    Submitted(BatchInfo),
    Started(BatchInfo),
    Completed(BatchInfo),
    OutputStarted(OutputInfo),
    OutputCompleted(OutputInfo),
}

#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Vec<Heard>>>);

impl Recorder {
    fn note(&self, heard: Heard) {
        self.0.lock().unwrap().push(heard);
    }

    fn heard(&self) -> Vec<Heard> {
        self.0.lock().unwrap().clone()
    }
}

impl StreamingListener for Recorder {
    fn batch_submitted(&self, batch: &BatchInfo) {
        self.note(Heard::Submitted(batch.clone()));
    }

    fn batch_started(&self, batch: &BatchInfo) {
        self.note(Heard::Started(batch.clone()));
    }

    fn batch_completed(&self, batch: &BatchInfo) {
        self.note(Heard::Completed(batch.clone()));
    }

    fn output_started(&self, output: &OutputInfo) {
        self.note(Heard::OutputStarted(output.clone()));
    }

    fn output_completed(&self, output: &OutputInfo) {
        self.note(Heard::OutputCompleted(output.clone()));
    }
}

/// What is heard of a program that has so many batches, and what ended it, where anything did.
fn heard(batches: u32, declare: impl Fn(&StreamingContext)) -> (Vec<Heard>, crate::Result<()>) {
    let harness = Harness::new(SECOND);
    let recorder = Recorder::default();
    let run = harness
        .start(|context| {
            context.add_listener(recorder.clone());
            declare(context);
            Ok(())
        })
        .unwrap();
    let ended = run.batches(batches).and_then(|()| run.stop().map(drop));
    (recorder.heard(), ended)
}

#[test]
fn lis_01_every_batch_is_submitted_started_and_completed() {
    let (heard, ended) = heard(4, |context| {
        Input::of([[1], [2], [3], [4]])
            .stream(context)
            .foreach_batch(|_values, _batch| {});
    });
    ended.unwrap();
    let mut submitted = Vec::new();
    let mut started = Vec::new();
    let mut completed = Vec::new();
    let mut order = Vec::new();
    for one in heard {
        let (kind, list, batch) = match one {
            Heard::Submitted(batch) => ("submitted", &mut submitted, batch),
            Heard::Started(batch) => ("started", &mut started, batch),
            Heard::Completed(batch) => ("completed", &mut completed, batch),
            _ => continue,
        };
        order.push((batch.batch_id, kind));
        list.push(batch);
    }
    let expected: Vec<_> = (1..=4)
        .flat_map(|batch| ["submitted", "started", "completed"].map(|kind| (batch, kind)))
        .collect();
    assert_eq!(order, expected);
    let one_record = BTreeMap::from([("stream_0".to_owned(), 1)]);
    let mut last_ms = 0;
    for (number, ((submitted, started), completed)) in submitted.iter().zip(&started).zip(&completed).enumerate() {
        let time_ms = 1_000 * (i64::try_from(number).unwrap() + 1);
        for batch in [submitted, started, completed] {
            assert_eq!(batch.batch_time_ms, time_ms);
            assert_eq!(batch.inputs, one_record);
            assert_eq!(batch.submitted_ms, submitted.submitted_ms);
        }
        let delays = |batch: &BatchInfo| {
            let delays = [batch.scheduling_delay(), batch.processing_delay(), batch.total_delay()];
            delays.map(|delay| delay.is_some())
        };
        assert_eq!(delays(submitted), [false; 3]);
        assert_eq!(delays(started), [true, false, false]);
        assert_eq!(delays(completed), [true; 3]);
        assert_eq!(completed.started_ms, started.started_ms);
        let times = [
            completed.submitted_ms,
            completed.started_ms.unwrap(),
            completed.ended_ms.unwrap(),
        ];
        for time_ms in times {
            assert!(time_ms >= last_ms, "{times:?} after {last_ms}");
            last_ms = time_ms;
        }
    }
}

#[test]
fn lis_03_outputs_are_told_in_order() {
    let (heard, ended) = heard(1, |context| {
        let stream = Input::of([[1]]).stream(context);
        for _ in 0..3 {
            stream.clone().foreach_batch(|_values, _batch| {});
        }
    });
    ended.unwrap();
    let told: Vec<_> = heard
        .into_iter()
        .filter_map(|heard| match heard {
            Heard::OutputStarted(output) => Some(("started", output.id)),
            Heard::OutputCompleted(output) => Some(("completed", output.id)),
            _ => None,
        })
        .collect();
    let expected: Vec<_> = (0..3).flat_map(|id| [("started", id), ("completed", id)]).collect();
    assert_eq!(told, expected);
}

/// The failures of a batch by output, where the closures of these fail, and what ended the program.
fn failures(failing: &'static [usize]) -> (BTreeMap<usize, String>, crate::Error) {
    let (heard, ended) = heard(1, |context| {
        let stream = Input::of([[1]]).stream(context);
        for id in 0..2 {
            stream.clone().foreach_batch(move |_values, _batch| {
                if failing.contains(&id) {
                    return Err(format!("output {id} fails"));
                }
                Ok(())
            });
        }
    });
    let error = ended.unwrap_err();
    let completed: Vec<BatchInfo> = heard
        .into_iter()
        .filter_map(|heard| match heard {
            Heard::Completed(batch) => Some(batch),
            _ => None,
        })
        .collect();
    assert_eq!(completed.len(), 1);
    assert_eq!(completed[0].outputs.len(), 2, "both outputs ran");
    let outputs = completed[0].outputs.values();
    let failed = outputs.filter_map(|output| Some((output.id, output.failure.clone()?)));
    (failed.collect(), error)
}

#[test]
fn lis_04_failures_are_told_by_output_and_the_wait_ends_with_the_first() {
    for failing in [&[0][..], &[0, 1], &[1]] {
        let (told, error) = failures(failing);
        assert_eq!(told.keys().copied().collect::<Vec<_>>(), failing);
        for (id, text) in &told {
            assert!(text.contains(&format!("output {id} fails")), "{text}");
        }
        assert_eq!(error.kind(), Kind::UserCode);
        let first = format!("output {} fails", failing[0]);
        assert!(error.chain().contains(&first), "{}", error.chain());
    }
}

struct Stopping {
    context: Arc<OnceLock<Arc<StreamingContext>>>,
    answers: Arc<Mutex<Vec<crate::Result<()>>>>,
}

impl StreamingListener for Stopping {
    fn batch_completed(&self, _batch: &BatchInfo) {
        let context = self.context.wait();
        let mut answers = self.answers.lock().unwrap();
        answers.push(context.stop());
        answers.push(context.await_termination().map(drop));
    }
}

#[test]
fn lis_05_stopping_in_a_listener_is_an_error_there() {
    let place = tempfile::tempdir().unwrap();
    let (known, answers) = (Arc::new(OnceLock::new()), Arc::default());
    let recorder = Recorder::default();
    let context = StreamingContext::builder("listening", Duration::from_millis(20))
        .checkpoint(place.path())
        .get_or_create(|context| {
            context.add_listener(Stopping {
                context: Arc::clone(&known),
                answers: Arc::clone(&answers),
            });
            let queue = crate::Queue::<i32>::default();
            context.queue_stream(&queue).foreach_batch(|_values, _batch| {});
            Ok(())
        })
        .unwrap();
    let context = Arc::new(context);
    context.start().unwrap();
    context.add_listener(recorder.clone());
    assert!(known.set(Arc::clone(&context)).is_ok());
    let deadline = Duration::from_secs(60);
    while answers.lock().unwrap().is_empty() {
        let still = context.await_termination_or_timeout(Duration::from_millis(10)).unwrap();
        assert_eq!(still, None, "it was stopped");
    }
    context.stop().unwrap();
    assert!(context.await_termination_or_timeout(deadline).unwrap().is_some());
    for answer in answers.lock().unwrap().iter() {
        let error = answer.as_ref().unwrap_err();
        assert_eq!(error.kind(), Kind::Config);
        assert!(error.chain().contains("in a listener"));
    }
}

fn batch(time_ms: i64, records: &[u64]) -> BatchInfo {
    let inputs = records.iter().enumerate();
    BatchInfo {
        batch_id: u64::try_from(time_ms).unwrap(),
        batch_time_ms: time_ms,
        inputs: inputs
            .map(|(stream, records)| (format!("stream_{stream}"), *records))
            .collect(),
        submitted_ms: 1_000,
        started_ms: None,
        ended_ms: None,
        outputs: BTreeMap::new(),
    }
}

#[test]
fn lis_07_records_are_received_at_the_start_and_processed_at_the_end() {
    let mut progress = Progress::retaining(100);
    let mut batch = batch(1_000, &[300, 300]);
    let counts = |progress: &Progress| {
        let batches = [progress.unprocessed_batches(), progress.completed().len()];
        let total = progress.batches_completed();
        (
            batches,
            progress.records_received(),
            progress.records_processed(),
            total,
        )
    };
    progress.batch_submitted(&batch);
    assert_eq!(counts(&progress), ([1, 0], 0, 0, 0));
    assert_eq!([progress.waiting().len(), progress.running().len()], [1, 0]);
    batch.started_ms = Some(2_000);
    progress.batch_started(&batch);
    assert_eq!(counts(&progress), ([1, 0], 600, 0, 0));
    assert_eq!([progress.waiting().len(), progress.running().len()], [0, 1]);
    batch.ended_ms = Some(3_000);
    progress.batch_completed(&batch);
    assert_eq!(counts(&progress), ([0, 1], 600, 600, 1));
    assert_eq!(progress.completed().next(), Some(&batch));
}

#[test]
fn lis_08_no_more_completed_batches_are_kept_than_asked_for() {
    let mut progress = Progress::retaining(1_000);
    for time_ms in 1..=1_010 {
        progress.batch_submitted(&batch(time_ms, &[1]));
        progress.batch_started(&batch(time_ms, &[1]));
        progress.batch_completed(&batch(time_ms, &[1]));
    }
    assert_eq!(progress.completed().len(), 1_000);
    assert_eq!(progress.completed().next().unwrap().batch_time_ms, 11);
    assert_eq!(progress.batches_completed(), 1_010);
}

fn output(batch_time_ms: i64, ended_ms: Option<i64>) -> OutputInfo {
    OutputInfo {
        batch_time_ms,
        id: 0,
        name: "output-000".to_owned(),
        started_ms: 1_000,
        ended_ms,
        failure: None,
    }
}

#[test]
fn lis_09_outputs_of_batches_long_gone_are_let_go() {
    let mut progress = Progress::retaining(10);
    for time_ms in 1..=1_000 {
        progress.batch_submitted(&batch(time_ms, &[1]));
        progress.batch_started(&batch(time_ms, &[1]));
        progress.batch_completed(&batch(time_ms, &[1]));
        // The event comes long after the batch has ended.
        progress.output(&output(time_ms - 100, None));
        let known = progress.waiting().len() + progress.running().len() + progress.completed().len();
        assert!(progress.batches_with_outputs() <= known + 10);
    }
    progress.output(&output(1_000, Some(2_000)));
    let outputs: Vec<_> = progress.outputs(1_000).collect();
    assert_eq!(outputs, [&output(1_000, Some(2_000))]);
    assert_eq!(progress.outputs(1).count(), 0);
}

#[test]
fn lis_11_batch_times_show_milliseconds_where_batches_are_short() {
    let zone: Tz = "America/Los_Angeles".parse().unwrap();
    let shown =
        |interval_ms, with_date| batch_time(1_431_637_480_452, Duration::from_millis(interval_ms), with_date, &zone);
    assert_eq!(shown(1_000, true), "2015/05/14 14:04:40");
    assert_eq!(shown(999, true), "2015/05/14 14:04:40.452");
    assert_eq!(shown(1_000, false), "14:04:40");
    assert_eq!(shown(999, false), "14:04:40.452");
}

#[test]
fn lis_12_short_durations_have_one_unit() {
    let shown =
        [99, 100, 1_500, 59_400, 90_000, 600_000, 5_400_000].map(|ms| short_duration(Duration::from_millis(ms)));
    assert_eq!(shown, ["99 ms", "0.1 s", "2 s", "59 s", "1.5 min", "10 min", "1.5 h"]);
}
