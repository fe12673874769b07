//! One run of the binary as a child process.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::pace;
use crate::usage::{self, Usage};

/// How often the child's peak memory is read. The kernel keeps the peak, so only growth within the last of these
/// before its end can be missed.
const LOOK: Duration = Duration::from_millis(5);

/// A line of the child's log and when it came.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    /// When it was read.
    pub(crate) at: Instant,
    /// The object, or null where the line is none.
    pub(crate) value: Value,
    /// The line.
    pub(crate) text: String,
}

impl Line {
    /// True where the line tells of a committed batch.
    pub(crate) fn is_batch(&self) -> bool {
        self.value["message"] == "batch" && self.value["batch"].is_u64()
    }

    /// A number of the line.
    ///
    /// # Errors
    /// Where it isn't there.
    pub(crate) fn number(&self, field: &str) -> Result<f64> {
        self.value[field]
            .as_f64()
            .with_context(|| format!("the log line has no number {field}: {}", self.text))
    }
}

#[derive(Debug, Default)]
struct Log {
    /// Lines so far, and whether there are no more. A leaf lock.
    lines: Mutex<(Vec<Line>, bool)>,
    grown: Condvar,
}

/// A running child. It is killed where this value is dropped before its end was waited for.
#[derive(Debug)]
pub(crate) struct Process {
    pid: u32,
    started: Instant,
    own_peak: u64,
    log: Arc<Log>,
    ended: Arc<AtomicBool>,
    peak: Arc<AtomicU64>,
    stdout: Option<JoinHandle<String>>,
    stderr: Option<JoinHandle<()>>,
    watcher: Option<JoinHandle<bool>>,
    waited: bool,
}

/// A child that has ended.
#[derive(Debug)]
pub(crate) struct Finished {
    /// From just before its start to its end.
    pub(crate) wall: Duration,
    /// What it used.
    pub(crate) usage: Usage,
    /// Its standard output.
    pub(crate) stdout: String,
    /// Its log.
    pub(crate) log: Vec<Line>,
}

/// A child that was killed.
#[derive(Debug)]
pub(crate) struct Killed {
    /// What it used.
    pub(crate) usage: Usage,
    /// Its log.
    pub(crate) log: Vec<Line>,
}

impl Process {
    /// Starts `BINARY` with these arguments, on these cores where any are named. Of the bench's own variables that begin with
    /// `TIDEMILL_` the child gets none.
    ///
    /// # Errors
    /// Where it can't be started.
    pub(crate) fn start<A: AsRef<OsStr>>(
        binary: &Path,
        args: impl IntoIterator<Item = A>,
        env: &[(&str, &str)],
        cores: Option<&str>,
        limit: Duration,
    ) -> Result<Self> {
        let mut command = match cores {
            Some(cores) => {
                // It becomes the binary: what it uses itself is a millisecond.
                let mut command = Command::new("taskset");
                command.args(["--cpu-list", cores]).arg(binary);
                command
            }
            None => Command::new(binary),
        };
        command.args(args);
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"TIDEMILL_") {
                command.env_remove(name);
            }
        }
        command.envs(env.iter().copied());
        Self::spawn(command, limit)
    }

    fn spawn(mut command: Command, limit: Duration) -> Result<Self> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let own_peak = peak_bytes(std::process::id()).unwrap_or(u64::MAX);
        let started = Instant::now();
        let mut child = command
            .spawn()
            .with_context(|| format!("start {}", command.get_program().display()))?;
        let pid = child.id();
        let stdout = child.stdout.take().context("standard output is a pipe")?;
        let stderr = child.stderr.take().context("standard error is a pipe")?;
        let log = Arc::new(Log::default());
        let ended = Arc::new(AtomicBool::new(false));
        let peak = Arc::new(AtomicU64::new(0));
        let watcher = {
            let (ended, peak) = (Arc::clone(&ended), Arc::clone(&peak));
            std::thread::spawn(move || watch(pid, started + limit, &ended, &peak))
        };
        let into = Arc::clone(&log);
        Ok(Self {
            pid,
            started,
            own_peak,
            log,
            ended,
            peak,
            stdout: Some(std::thread::spawn(move || read_all(stdout))),
            stderr: Some(std::thread::spawn(move || read_lines(stderr, &into))),
            watcher: Some(watcher),
            waited: false,
        })
    }

    /// When it was started.
    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// CPU time so far.
    ///
    /// # Errors
    /// Where it has ended.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        usage::cpu_time(self.pid).with_context(|| format!("the process has ended\n{}", self.log.tail()))
    }

    /// Waits until `done` is true of the log so far.
    ///
    /// # Errors
    /// With the log, where it is not within `limit`, or the child ends before.
    pub(crate) fn wait_for_log(
        &self,
        what: &str,
        limit: Duration,
        mut done: impl FnMut(&[Line]) -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + limit;
        let mut lines = self.log.lines.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if done(&lines.0) {
                return Ok(());
            }
            if lines.1 {
                bail!("the process ended before {what}\n{}", tail(&lines.0));
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                bail!("waited {limit:?} in vain for {what}\n{}", tail(&lines.0));
            };
            lines = self
                .log
                .grown
                .wait_timeout(lines, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// True where the log has come to its end, as it does when the child ends.
    pub(crate) fn log_has_ended(&self) -> bool {
        self.log.lines.lock().unwrap_or_else(PoisonError::into_inner).1
    }

    /// Asks it to drain, and waits for its end.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub(crate) fn stop(self) -> Result<Finished> {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Ends it where it stands.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn kill(mut self) -> Result<Killed> {
        self.signal(Signal::KILL);
        let (_, _, usage, _) = self.reap()?;
        let log = std::mem::take(&mut self.log.lines.lock().unwrap_or_else(PoisonError::into_inner).0);
        Ok(Killed { usage, log })
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// With the log, where it ends otherwise than with 0, or was killed for taking too long.
    pub(crate) fn wait(mut self) -> Result<Finished> {
        let (status, wall, mut usage, late) = self.reap()?;
        // Its own peak is hidden where this process was larger at the fork.
        if usage.peak_bytes <= self.own_peak {
            usage.peak_bytes = self.peak.load(Ordering::Relaxed);
        }
        let stdout = self
            .stdout
            .take()
            .map(JoinHandle::join)
            .transpose()
            .ok()
            .flatten()
            .unwrap_or_default();
        if let Some(reader) = self.stderr.take() {
            reader
                .join()
                .map_err(|_panicked| anyhow::anyhow!("the reader of the log panicked"))?;
        }
        let log = std::mem::take(&mut self.log.lines.lock().unwrap_or_else(PoisonError::into_inner).0);
        if late {
            bail!("killed after {wall:?} without an end\n{}", tail(&log));
        }
        if status.code() != Some(0) {
            bail!("ended with {status}\n{}", tail(&log));
        }
        Ok(Finished {
            wall,
            usage,
            stdout,
            log,
        })
    }

    fn reap(&mut self) -> Result<(ExitStatus, Duration, Usage, bool)> {
        self.waited = true;
        let (status, usage) = usage::wait(self.pid).context("wait for the process")?;
        let wall = self.started.elapsed();
        self.ended.store(true, Ordering::Relaxed);
        let late = self
            .watcher
            .take()
            .is_some_and(|watcher| watcher.join().unwrap_or(false));
        Ok((status, wall, usage, late))
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) {
            let _gone = kill_process(pid, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.waited {
            self.signal(Signal::KILL);
            let _lost = self.reap();
        }
    }
}

impl Log {
    fn tail(&self) -> String {
        tail(&self.lines.lock().unwrap_or_else(PoisonError::into_inner).0)
    }
}

impl Finished {
    /// The number of committed batches.
    pub(crate) fn batches(&self) -> usize {
        self.log.iter().filter(|line| line.is_batch()).count()
    }

    /// Records in, by batch.
    ///
    /// # Errors
    /// Where a line of a batch lacks it.
    pub(crate) fn batch_records(&self) -> Result<Vec<u64>> {
        let batches = self.log.iter().filter(|line| line.is_batch());
        batches.map(|line| Ok(line.number("records")? as u64)).collect()
    }

    /// Checks that the run read exactly `records` and left none out.
    ///
    /// # Errors
    /// Where it says otherwise.
    pub(crate) fn read_exactly(&self, records: u64) -> Result<()> {
        let read: u64 = self.batch_records()?.iter().sum();
        let mut skipped = 0.0;
        for line in self.log.iter().filter(|line| line.is_batch()) {
            skipped += line.number("skipped")?;
        }
        if (read, skipped) != (records, 0.0) {
            bail!(
                "wrong: {records} records are there, {read} were read and {skipped} skipped\n{}",
                tail(&self.log)
            );
        }
        Ok(())
    }
}

fn tail(log: &[Line]) -> String {
    let from = log.len().saturating_sub(20);
    let lines: Vec<&str> = log[from..].iter().map(|line| line.text.as_str()).collect();
    lines.join("\n")
}

/// True where the child had to be killed at the deadline.
fn watch(pid: u32, deadline: Instant, ended: &AtomicBool, peak: &AtomicU64) -> bool {
    let mut late = false;
    while !ended.load(Ordering::Relaxed) {
        if let Some(bytes) = peak_bytes(pid) {
            peak.fetch_max(bytes, Ordering::Relaxed);
        }
        if !late
            && Instant::now() > deadline
            && let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw)
        {
            late = kill_process(pid, Signal::KILL).is_ok();
        }
        pace::wait_until(Instant::now() + LOOK);
    }
    late
}

/// The largest resident memory of a living process.
fn peak_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim()
        .strip_suffix(" kB")?
        .parse::<u64>()
        .ok()
        .map(|kib| kib * 1024)
}

fn read_all(mut stdout: ChildStdout) -> String {
    let mut bytes = Vec::new();
    let _read = stdout.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn read_lines(stderr: ChildStderr, log: &Log) {
    for line in BufReader::new(stderr).split(b'\n') {
        let Ok(line) = line else { break };
        let at = Instant::now();
        let text = String::from_utf8_lossy(&line).into_owned();
        let value = serde_json::from_str(&text).unwrap_or(Value::Null);
        log.lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .0
            .push(Line { at, value, text });
        log.grown.notify_all();
    }
    log.lines.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
    log.grown.notify_all();
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    fn shell(script: &str, limit: Duration) -> Process {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Process::spawn(command, limit).unwrap()
    }

    #[test]
    fn output_log_and_time_of_a_child_are_kept() {
        let script = r#"echo 5; echo '{"message":"batch","batch":1,"records":7,"skipped":0}' >&2; sleep 0.1"#;
        let finished = shell(script, LIMIT).wait().unwrap();
        assert_eq!(finished.stdout, "5\n");
        assert_eq!(finished.batches(), 1);
        assert!(finished.wall >= Duration::from_millis(100));
        finished.read_exactly(7).unwrap();
        let wrong = finished.read_exactly(8).unwrap_err().to_string();
        assert!(wrong.contains("8 records are there, 7 were read"), "{wrong}");
    }

    #[test]
    fn a_failure_is_reported_with_the_log() {
        let error = shell("echo broken >&2; exit 4", LIMIT).wait().unwrap_err().to_string();
        assert!(error.contains("4") && error.contains("broken"), "{error}");
    }

    #[test]
    fn a_child_that_does_not_end_is_killed_at_the_limit() {
        let error = shell("exec sleep 60", Duration::from_millis(100))
            .wait()
            .unwrap_err()
            .to_string();
        assert!(error.contains("without an end"), "{error}");
    }

    #[test]
    fn the_peak_is_that_of_the_child_however_large_this_process_is() {
        let own = vec![1_u8; 300 << 20];
        let finished = shell("exec sleep 0.2", LIMIT).wait().unwrap();
        assert!(
            (100_000..100 << 20).contains(&finished.usage.peak_bytes),
            "{:?}",
            finished.usage
        );
        assert_eq!(own.iter().filter(|byte| **byte == 0).count(), 0);
        drop(own);
        // Now this process's peak hides the child's in wait4's answer, for good.
        let finished = shell("exec sleep 0.2", LIMIT).wait().unwrap();
        assert!(
            (100_000..100 << 20).contains(&finished.usage.peak_bytes),
            "{:?}",
            finished.usage
        );
    }
}
