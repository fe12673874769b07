//! What a program declared: its streams, which of them keep state, and its outputs.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tidemill_engine::error::{Error, Kind, Result};
use tidemill_engine::state::{BUCKETS, OperatorSpec};

use crate::batch::exchange::{Layout, Partitioner};
use crate::output::Declared;
use crate::remembered::Remembered;
use crate::scope::Scope;
use crate::time::is_multiple;

/// One stream of a program: what follows from its declaration.
#[derive(Debug)]
pub(crate) struct Stream {
    /// Construction order, from 0.
    pub(crate) id: usize,
    /// Time between its batches: a multiple of the interval.
    pub(crate) slide_ms: i64,
    pub(crate) parents: Vec<Arc<Stream>>,
    /// How much of its parents a batch of it looks back at, beyond their newest.
    pub(crate) looks_back_ms: i64,
    /// True where each slice of a batch is one range of a source, with its records in order.
    pub(crate) in_order: bool,
    stateful: Option<Stateful>,
    /// True where it is read from what is gone after the batch.
    read_once: bool,
    /// What the program said of its slices; `None` where it brings no keys together. A leaf lock.
    dealt: Option<Mutex<Dealt>>,
    /// The name that the program gave it. A leaf lock.
    name: Mutex<Option<String>>,
    /// The stateful stream inside an operator that is made of several: a name given to this one is meant for it.
    inner: OnceLock<Arc<Stream>>,
    /// What the program asked it to remember. A leaf lock.
    remember_ms: Mutex<i64>,
}

/// What a program said of the slices of an operator by key.
#[derive(Debug, Default)]
struct Dealt {
    slices: Option<usize>,
    partitioner: Option<Partitioner>,
}

/// What a stateful stream keeps.
#[derive(Debug)]
struct Stateful {
    kind: &'static str,
    /// Its number among those of its kind, in construction order.
    number: usize,
    shape: String,
}

impl Stream {
    /// True where the stream has a batch at this time.
    pub(crate) fn is_due(&self, time_ms: i64, zero_ms: i64) -> bool {
        time_ms > zero_ms && is_multiple(time_ms - zero_ms, self.slide_ms)
    }

    /// The id of its state: the name that the program gave it, else kind and number.
    pub(crate) fn operator(&self) -> String {
        let name = lock(&self.name).clone();
        match (&self.stateful, name) {
            (_, Some(name)) => name,
            (Some(stateful), None) => format!("{}-{}", stateful.kind, stateful.number),
            (None, None) => format!("stream-{}", self.id),
        }
    }

    pub(crate) fn rename(&self, name: String) {
        match self.inner.get() {
            Some(inner) => inner.rename(name),
            None => *lock(&self.name) = Some(name),
        }
    }

    /// Lets a name given to this be that of `inner`.
    pub(crate) fn stands_for(&self, inner: Arc<Self>) {
        // An operator has one inside.
        let _first = self.inner.set(inner);
    }

    pub(crate) fn deal_into(&self, graph: &Graph, slices: usize) {
        if !(1..=usize::from(BUCKETS)).contains(&slices) {
            graph.problem(format!("with_slices({slices}): must be 1 to {BUCKETS}"));
        }
        match &self.dealt {
            Some(dealt) => lock(dealt).slices = Some(slices),
            None => graph.problem(self.brings_none_together(&format!("with_slices({slices})"))),
        }
    }

    pub(crate) fn deal_by(&self, graph: &Graph, partitioner: Partitioner) {
        match (&self.dealt, &self.stateful) {
            (Some(dealt), None) => lock(dealt).partitioner = Some(partitioner),
            (Some(_), Some(_)) => graph.problem(format!(
                "with_partitioner: {} keeps a state, which goes by the hash of the key; with_slices says in how many slices",
                self.operator()
            )),
            (None, _) => graph.problem(self.brings_none_together("with_partitioner")),
        }
    }

    fn brings_none_together(&self, what: &str) -> String {
        format!(
            "{what}: {} brings no keys together; write it right behind the operator by key that it is for",
            self.operator()
        )
    }

    /// How it deals rows out by their key.
    pub(crate) fn layout(&self, scope: &Scope) -> Layout {
        let Some(dealt) = &self.dealt else {
            return scope.layout();
        };
        let dealt = lock(dealt);
        Layout::new(dealt.slices.unwrap_or(scope.reduce_slices()), dealt.partitioner.clone())
    }

    fn spec(&self) -> Option<OperatorSpec> {
        let stateful = self.stateful.as_ref()?;
        Some(OperatorSpec {
            id: self.operator(),
            kind: stateful.kind.to_owned(),
            shape: stateful.shape.clone(),
        })
    }

    /// This stream and all it is made of, each once.
    pub(crate) fn all(self: &Arc<Self>) -> Vec<Arc<Self>> {
        let mut seen = BTreeSet::new();
        let mut all = Vec::new();
        let mut left = vec![Arc::clone(self)];
        while let Some(stream) = left.pop() {
            if seen.insert(stream.id) {
                left.extend(stream.parents.iter().map(Arc::clone));
                all.push(stream);
            }
        }
        all.sort_by_key(|stream| stream.id);
        all
    }

    /// The stateful operators that it is made of.
    pub(crate) fn operators(self: &Arc<Self>) -> Vec<OperatorSpec> {
        self.all().iter().filter_map(|stream| stream.spec()).collect()
    }

    /// True where it is made of what is gone after the batch.
    pub(crate) fn is_read_once(self: &Arc<Self>) -> bool {
        self.all().iter().any(|stream| stream.read_once)
    }

    pub(crate) fn checkpoint(&self, graph: &Graph, interval: Duration) {
        let millis = i64::try_from(interval.as_millis()).unwrap_or(i64::MAX);
        if millis == 0 || !is_multiple(millis, self.slide_ms) {
            graph.problem(format!(
                "a checkpoint interval of {millis} ms: must be a multiple of the {} ms between the batches of the stream",
                self.slide_ms
            ));
        }
        self.remember_at_least(millis.saturating_mul(2));
    }

    pub(crate) fn remembers_ms(&self) -> i64 {
        *lock(&self.remember_ms)
    }

    pub(crate) fn remember_at_least(&self, millis: i64) {
        let mut remember = lock(&self.remember_ms);
        *remember = (*remember).max(millis);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a stream is declared with.
#[derive(Debug, Default)]
pub(crate) struct Declaration {
    pub(crate) parents: Vec<Arc<Stream>>,
    /// Time between batches, `None` = that of the first parent, or the interval.
    pub(crate) slide_ms: Option<i64>,
    pub(crate) looks_back_ms: i64,
    /// True where every value stays in its slice, behind those before it.
    pub(crate) in_slices: bool,
    /// Kind and shape of what it keeps.
    pub(crate) stateful: Option<(&'static str, String)>,
    /// True for a source whose values are gone after the batch.
    pub(crate) read_once: bool,
    /// True where the values of a key are brought together.
    pub(crate) by_key: bool,
}

/// All that a program declared.
#[derive(Debug)]
pub(crate) struct Graph {
    interval_ms: i64,
    // Leaf locks, held to add and to look.
    streams: Mutex<Vec<Arc<Stream>>>,
    outputs: Mutex<Vec<Declared>>,
    problems: Mutex<Vec<String>>,
    phase: Mutex<Phase>,
    remembered: Remembered,
}

/// Where a context is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Declaring,
    Started,
    Stopped,
}

impl Graph {
    pub(crate) fn new(interval: Duration) -> Self {
        Self {
            interval_ms: i64::try_from(interval.as_millis()).unwrap_or(i64::MAX),
            streams: Mutex::default(),
            outputs: Mutex::default(),
            problems: Mutex::default(),
            phase: Mutex::new(Phase::Declaring),
            remembered: Remembered::default(),
        }
    }

    pub(crate) fn interval_ms(&self) -> i64 {
        self.interval_ms
    }

    pub(crate) fn declare(&self, what: Declaration) -> Arc<Stream> {
        self.refuse_late("a stream");
        let mut streams = lock(&self.streams);
        let inherited = what.parents.first().map_or(self.interval_ms, |parent| parent.slide_ms);
        let slide_ms = what.slide_ms.unwrap_or(inherited);
        let stateful = what.stateful.map(|(kind, shape)| {
            let same_kind = |stream: &&Arc<Stream>| stream.stateful.as_ref().is_some_and(|other| other.kind == kind);
            Stateful {
                kind,
                number: streams.iter().filter(same_kind).count(),
                shape,
            }
        });
        let in_slices = what.in_slices || what.parents.is_empty();
        let stream = Arc::new(Stream {
            id: streams.len(),
            slide_ms,
            in_order: in_slices && what.parents.iter().all(|parent| parent.in_order),
            parents: what.parents,
            looks_back_ms: what.looks_back_ms,
            stateful,
            read_once: what.read_once,
            dealt: what.by_key.then(Mutex::default),
            name: Mutex::default(),
            inner: OnceLock::new(),
            remember_ms: Mutex::new(slide_ms),
        });
        streams.push(Arc::clone(&stream));
        stream
    }

    /// Notes what is wrong with the program; all of it is told together.
    pub(crate) fn problem(&self, text: impl Into<String>) {
        lock(&self.problems).push(text.into());
    }

    /// Adds an output; they commit in construction order.
    pub(crate) fn output(&self, declare: impl FnOnce(String) -> Declared) {
        self.refuse_late("an output");
        let mut outputs = lock(&self.outputs);
        let name = format!("output-{:03}", outputs.len());
        outputs.push(declare(name));
    }

    fn refuse_late(&self, what: &str) {
        let late = match *lock(&self.phase) {
            Phase::Declaring => return,
            Phase::Started => format!("{what} was declared after the start: declare all of them before"),
            Phase::Stopped => format!("{what} was declared after the stop"),
        };
        tracing::error!("{late}");
        self.problem(late);
    }

    pub(crate) fn phase(&self) -> Phase {
        *lock(&self.phase)
    }

    pub(crate) fn enter(&self, phase: Phase) {
        *lock(&self.phase) = phase;
    }

    pub(crate) fn take_outputs(&self) -> Vec<Declared> {
        std::mem::take(&mut lock(&self.outputs))
    }

    /// What was declared wrongly.
    ///
    /// # Errors
    /// `Config` naming all of it.
    pub(crate) fn is_sound(&self) -> Result<()> {
        let mut problems = lock(&self.problems).clone();
        let mut names = BTreeSet::new();
        for stream in lock(&self.streams).iter().filter(|stream| stream.stateful.is_some()) {
            let name = stream.operator();
            let fits = |letter: u8| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == b'-';
            if name.is_empty() || !name.bytes().all(fits) {
                problems.push(format!("operator name {name:?}: must be of a-z, 0-9 and \"-\""));
            }
            if !names.insert(name.clone()) {
                problems.push(format!("two operators are named {name}: give each a name of its own"));
            }
        }
        if problems.is_empty() {
            return Ok(());
        }
        Err(Error::new(Kind::Config, problems.join("; ")))
    }

    /// Batches that can be computed again.
    pub(crate) fn remembered(&self) -> &Remembered {
        &self.remembered
    }

    /// A batch has run: what no stream remembers any more is forgotten.
    pub(crate) fn ended(&self, time_ms: i64) {
        let longest = lock(&self.streams).iter().map(|stream| stream.remembers_ms()).max();
        self.remembered.end(time_ms, longest.unwrap_or(0));
    }

    /// Works out how long each stream that an output is made of remembers its batches: what the program asked for, at least its slide,
    /// and all that those made of it look back at.
    pub(crate) fn settle_memory(&self, outputs: &[Declared], remember_ms: Option<i64>) {
        for output in outputs {
            output.stream.remember_at_least(remember_ms.unwrap_or(0));
            let mut all = output.stream.all();
            all.reverse();
            for stream in all {
                for parent in &stream.parents {
                    parent.remember_at_least(stream.remembers_ms() + stream.looks_back_ms);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::{DStream, Queue, StreamingContext};

    const SECOND: Duration = Duration::from_secs(1);

    fn is_in_order<U: Send + 'static>(made: impl FnOnce(DStream<(String, i64)>) -> DStream<U>) -> bool {
        let mut in_order = false;
        let declared = StreamingContext::builder("order", SECOND).get_or_create(|context| {
            let stream = context.queue_stream(&Queue::default());
            in_order = made(stream).stream.in_order;
            Ok(())
        });
        declared.unwrap();
        in_order
    }

    #[test]
    fn slices_keep_the_order_of_a_range_until_values_cross_them() {
        assert!(is_in_order(|stream| stream));
        assert!(is_in_order(|stream| stream
            .map_values(|value| value + 1)
            .filter(|_pair| true)
            .cache()));
        assert!(!is_in_order(|stream| stream.reduce_by_key(|a, b| a + b)));
        assert!(!is_in_order(|stream| stream.repartition(3).map(|pair| pair)));
        assert!(!is_in_order(|stream| stream.clone().union(stream)));
        assert!(!is_in_order(|stream| stream.window(2 * SECOND, SECOND)));
    }
}
