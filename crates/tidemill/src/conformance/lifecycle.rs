//! Section 18: the life of a context.
//!
//! CTX-04, CTX-06 and CTX-16 depart: a context has no engine beneath it that could outlive it, several run in one process, and the
//! settings are always those of the program, not of the checkpoint.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;
use tidemill_engine::source::Source;

use super::{SECOND, Text};
use crate::source::memory::{MemorySource, Reach};
use crate::source::{Opens, SourceLimits};
use crate::testing::{Harness, Input, Output};
use crate::{Builder, ContextState, Kind, Queue, Result, StreamingContext};

/// No test waits longer for what must happen.
const LIMIT: Duration = Duration::from_secs(60);

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// A program by the machine's own clock.
    fn builder(&self) -> Builder {
        StreamingContext::builder("life", Duration::from_millis(20)).checkpoint(self.0.path().join("checkpoint"))
    }

    /// A program that does nothing much.
    fn idle(&self) -> StreamingContext {
        self.builder()
            .get_or_create(|context| {
                context
                    .queue_stream(&Queue::<i32>::default())
                    .foreach_batch(|_values, _batch| {});
                Ok(())
            })
            .unwrap()
    }
}

fn ended(context: &StreamingContext) -> bool {
    context.await_termination_or_timeout(LIMIT).unwrap().is_some()
}

#[test]
fn ctx_02_starting_and_stopping_twice_is_no_error() {
    let place = Place::new();
    let context = place.idle();
    assert_eq!(context.state(), ContextState::Initialized);
    context.start().unwrap();
    context.start().unwrap();
    assert_eq!(context.state(), ContextState::Active);
    context.stop().unwrap();
    context.stop().unwrap();
    assert!(ended(&context));
    assert_eq!(context.state(), ContextState::Stopped);
    assert_eq!(context.start().unwrap_err().kind(), Kind::Config);
}

#[test]
fn ctx_02_stopping_before_the_start_ends_it() {
    let place = Place::new();
    let context = place.idle();
    context.stop().unwrap();
    assert_eq!(context.state(), ContextState::Stopped);
    assert_eq!(context.start().unwrap_err().kind(), Kind::Config);
    // Theirs waits for ever.
    assert!(ended(&context));
}

/// Ours: the place of a context that was stopped is free for another one.
#[test]
fn ctx_04_after_a_stop_another_context_goes_on() {
    let place = Place::new();
    for _ in 0..2 {
        let context = place.idle();
        context.start().unwrap();
        context.stop().unwrap();
        assert!(ended(&context));
    }
}

/// Ours: they run beside each other.
#[test]
fn ctx_06_two_contexts_are_active_in_one_process() {
    let places = [Place::new(), Place::new()];
    let contexts = places.each_ref().map(Place::idle);
    contexts.iter().for_each(|context| context.start().unwrap());
    assert!(contexts.iter().all(|context| context.state() == ContextState::Active));
    contexts.iter().for_each(|context| context.stop().unwrap());
    assert!(contexts.iter().all(ended));
}

#[test]
fn ctx_07_without_a_checkpoint_a_stateful_stream_does_not_start() {
    let context = StreamingContext::builder("life", SECOND)
        .checkpoint("")
        .get_or_create(|context| {
            let words = context.queue_stream(&Queue::<(Text, i64)>::default());
            let counts = words.update_state_by_key(|values, _old: Option<i64>| Some(values.iter().sum()));
            counts.named("counts").foreach_batch(|_values, _batch| {});
            Ok(())
        })
        .unwrap();
    let error = context.start().unwrap_err();
    assert_eq!(error.kind(), Kind::Config);
    assert!(error.chain().contains("the state of counts"), "{}", error.chain());
    assert_eq!(context.state(), ContextState::Stopped);
    assert!(context.has_ended());
    assert!(ended(&context));
}

#[test]
fn ctx_10_waiting_ends_with_the_time_or_with_the_stop() {
    let place = Place::new();
    let context = place.idle();
    assert_eq!(context.await_termination().unwrap_err().kind(), Kind::Config);
    context.start().unwrap();
    let running = context
        .await_termination_or_timeout(Duration::from_millis(500))
        .unwrap();
    assert_eq!(running, None);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| context.await_termination_or_timeout(LIMIT));
        context.stop().unwrap();
        assert!(waiting.join().unwrap().unwrap().is_some());
    });
}

/// What ends a program whose closure fails, and how often that ran.
fn failure(declare: impl FnOnce(&StreamingContext, Arc<AtomicU32>)) -> (crate::Error, u32) {
    let place = Place::new();
    let runs = Arc::new(AtomicU32::new(0));
    let context = place
        .builder()
        .get_or_create(|context| {
            declare(context, Arc::clone(&runs));
            Ok(())
        })
        .unwrap();
    context.start().unwrap();
    let error = context.await_termination_or_timeout(LIMIT).unwrap_err();
    let again = context.await_termination().unwrap_err();
    assert_eq!(again.chain(), error.chain());
    assert_eq!(context.state(), ContextState::Stopped);
    (error, runs.load(Ordering::SeqCst))
}

#[track_caller]
fn is_told(error: &crate::Error, words: &[&str]) {
    assert_eq!(error.kind(), Kind::UserCode);
    let text = error.chain();
    assert!(words.iter().all(|word| text.contains(word)), "{text}");
}

#[test]
fn ctx_11_a_failing_task_ends_the_wait_with_its_text() {
    let (error, runs) = failure(|context, runs| {
        let queue = Queue::default();
        queue.push([7]);
        context
            .queue_stream(&queue)
            .foreach_partition(move |mut values, _task| {
                if values.next().is_some() {
                    runs.fetch_add(1, Ordering::SeqCst);
                    panic!("no sevens");
                }
            });
    });
    is_told(&error, &["batch", "queue/0 [0, 1)", "no sevens"]);
    assert_eq!(runs, 4);
}

#[test]
fn ctx_11_a_failing_transform_ends_the_wait_with_its_text() {
    let (error, runs) = failure(|context, runs| {
        let stream = context.queue_stream(&Queue::<i32>::default());
        let failing = stream.transform(move |_batch| -> std::result::Result<crate::Batch<i32>, String> {
            runs.fetch_add(1, Ordering::SeqCst);
            Err("no batch today".to_owned())
        });
        failing.foreach_batch(|_values, _batch| {});
    });
    is_told(&error, &["batch 1", "no batch today"]);
    assert_eq!(runs, 4);
}

#[test]
fn ctx_14_a_stop_right_after_the_start_ends_soon() {
    let place = Place::new();
    let context = place.idle();
    context.start().unwrap();
    context.stop().unwrap();
    assert!(
        context
            .await_termination_or_timeout(Duration::from_secs(30))
            .unwrap()
            .is_some()
    );
}

/// A source that is gone with whoever reads it.
struct Ending(Arc<AtomicBool>);

impl Reach for Ending {
    fn ends(&self) -> Vec<i64> {
        vec![1]
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[derive(Debug)]
struct EndingOpens(Arc<AtomicBool>);

impl Opens for EndingOpens {
    fn open(&self, _app: &str) -> Result<Arc<dyn Source>> {
        let reach = Ending(Arc::clone(&self.0));
        Ok(Arc::new(MemorySource::new("ending", Arc::new(reach))))
    }
}

#[test]
fn ctx_15_sources_end_after_the_last_batch() {
    let harness = Harness::new(SECOND);
    let gone = Arc::new(AtomicBool::new(false));
    let (reached, reaches) = sync_channel(1);
    let (go, goes) = sync_channel(1);
    let goes = Mutex::new(goes);
    let output = Output::default();
    let run = harness
        .start(|context| {
            let opens = EndingOpens(Arc::clone(&gone));
            let (name, reading) = context.add_source(Box::new(opens), SourceLimits::none(), false);
            let gone = Arc::clone(&gone);
            let stream = context.stream_of(move |scope| {
                if scope.time_ms() == 3_000 {
                    reached.send(()).unwrap();
                    goes.lock().unwrap().recv().unwrap();
                }
                if gone.load(Ordering::SeqCst) {
                    let text = "the source has ended before the stream";
                    return Err(crate::Error::new(Kind::UserCode, text));
                }
                reading.batch(&name, scope).map(Some)
            });
            stream.map(|record| record.offset()).foreach_batch(output.keep());
            Ok(())
        })
        .unwrap();
    run.batches(2).unwrap();
    harness.pass(1_000 * SECOND);
    reaches.recv().unwrap();
    run.context().stop().unwrap();
    go.send(()).unwrap();
    run.stop().unwrap();
    assert!(gone.load(Ordering::SeqCst));
    // The batch in hand is finished; what was not planned is planned by the next start.
    assert_eq!(output.all().into_keys().collect::<Vec<_>>(), [1_000, 2_000, 3_000]);
}

/// Ours: closures and settings are those of the program at every start; the checkpoint holds positions and state only.
#[test]
fn ctx_16_a_program_is_declared_at_every_start() {
    let harness = Harness::new(SECOND);
    let (input, output) = (Input::of((1..=4).map(|number| [number])), Output::default());
    for factor in [1, 10] {
        let run = harness
            .start(|context| {
                let numbers = input.stream(context).map(move |number| number * factor);
                numbers.foreach_batch(output.keep());
                Ok(())
            })
            .unwrap();
        run.batches(2).unwrap();
        run.stop().unwrap();
    }
    assert_eq!(output.batches(), [[1], [2], [30], [40]]);
}

#[test]
fn what_is_declared_after_the_start_is_told_at_the_end() {
    let place = Place::new();
    let mut stream = None;
    let context = place
        .builder()
        .get_or_create(|context| {
            let numbers = context.queue_stream(&Queue::<i32>::default());
            stream = Some(numbers.clone());
            numbers.foreach_batch(|_values, _batch| {});
            Ok(())
        })
        .unwrap();
    context.start().unwrap();
    stream.unwrap().foreach_batch(|_values, _batch| {});
    context.stop().unwrap();
    let error = context.await_termination_or_timeout(LIMIT).unwrap_err();
    assert!(error.chain().contains("an output was declared after the start"));
}
