//! A pipeline file in a folder of its own, and processes that run it.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::servers;

/// How long a command that only looks may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// How often a state that nothing announces is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Waits a moment before a state is looked at again.
#[expect(
    clippy::disallowed_methods,
    reason = "a process's state is not announced; every caller has a deadline"
)]
pub fn look_again_soon() {
    std::thread::sleep(LOOK_AGAIN);
}

/// A pipeline file, alone in a folder that goes away with this value.
#[derive(Debug)]
pub struct Pipeline {
    folder: TempDir,
    file: PathBuf,
    text: String,
}

impl Pipeline {
    /// Writes the file. Relative paths in `text` lie in its folder.
    ///
    /// # Errors
    /// Where the folder or the file can't be written.
    pub fn write(text: &str) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("tidemill-test-").tempdir()?;
        let file = folder.path().join("pipeline.toml");
        fs::write(&file, text)?;
        let text = text.to_owned();
        Ok(Self { folder, file, text })
    }

    /// Writes the file as it was first written, with `to` in place of `from`.
    ///
    /// # Errors
    /// Where it holds no `from`, or can't be written.
    pub fn edit(&self, from: &str, to: &str) -> Result<()> {
        ensure!(self.text.contains(from), "the pipeline file holds no {from}");
        Ok(fs::write(&self.file, self.text.replace(from, to))?)
    }

    /// Asks `check` about each edit `(from, to, said)`: it must be refused and `said` on standard error; the file as it was first
    /// written must be fine.
    ///
    /// # Errors
    /// The first that is otherwise.
    pub fn refuses(&self, edits: &[(&str, &str, &str)]) -> Result<()> {
        for (from, to, said) in edits {
            self.edit(from, to)?;
            let checked = self.ask(&["check"])?;
            let is_refused = checked.code() == Some(2) && checked.stderr.contains(said);
            ensure!(is_refused, "{to}: {:?}, {}", checked.code(), checked.log_tail());
        }
        fs::write(&self.file, &self.text)?;
        let checked = self.ask(&["check"])?;
        ensure!(checked.code() == Some(0), "as it was: {}", checked.log_tail());
        Ok(())
    }

    /// The pipeline's folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The pipeline's file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Starts `tidemill run FILE --until-caught-up` with the variables `env`.
    ///
    /// # Errors
    /// Where it can't be started.
    pub fn start_to_end(&self, env: &[(&str, &str)]) -> Result<Run> {
        self.start(&["--until-caught-up"], env)
    }

    /// Starts `tidemill run FILE` with more arguments and the variables `env`. Nothing of the harness's own environment
    /// that begins with `TIDEMILL_` is passed on.
    ///
    /// # Errors
    /// Where it can't be started.
    pub fn start(&self, args: &[&str], env: &[(&str, &str)]) -> Result<Run> {
        let mut words = vec!["run"];
        words.extend_from_slice(args);
        self.command(&words, env)
    }

    /// Runs `tidemill ARGS FILE`, a command that ends by itself.
    ///
    /// # Errors
    /// Where it can't be started, or doesn't end.
    pub fn ask(&self, args: &[&str]) -> Result<Finished> {
        self.ask_with(args, &[])
    }

    /// The same with the variables `env`.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub fn ask_with(&self, args: &[&str], env: &[(&str, &str)]) -> Result<Finished> {
        self.command(args, env)?.wait(ANSWER_LIMIT)
    }

    fn command(&self, args: &[&str], env: &[(&str, &str)]) -> Result<Run> {
        let mut command = Command::new(servers::binary());
        command.args(args).arg(&self.file);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TIDEMILL_")) {
            command.env_remove(name);
        }
        if std::env::var_os("TIDEMILL_TEST_POSTGRES").is_some() {
            command.env("DATABASE_URL", servers::postgres());
        }
        command.envs(env.iter().copied());
        Run::start(command)
    }

    /// Runs to the end and expects success within `limit`.
    ///
    /// # Errors
    /// With the log, where it doesn't end with 0 in time.
    pub fn run_to_end(&self, env: &[(&str, &str)], limit: Duration) -> Result<Finished> {
        let finished = self.start_to_end(env)?.wait(limit)?;
        if finished.code() != Some(0) {
            bail!(
                "expected the pipeline to finish: {}\n{}",
                finished.status,
                finished.log_tail()
            );
        }
        Ok(finished)
    }
}

#[derive(Debug, Default)]
struct Log {
    lines: Mutex<(Vec<String>, bool)>,
    grown: Condvar,
}

impl Log {
    fn text(&self) -> String {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).0.join("\n")
    }
}

/// A running process of the binary. It is killed where this value is dropped.
#[derive(Debug)]
pub struct Run {
    child: Child,
    log: Arc<Log>,
    readers: Vec<JoinHandle<String>>,
}

impl Run {
    /// Starts a command and collects its output.
    ///
    /// # Errors
    /// Where it can't be started.
    pub fn start(mut command: Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("{command:?} can't be started"))?;
        let mut stdout = child.stdout.take().context("standard output is a pipe")?;
        let stderr = child.stderr.take().context("standard error is a pipe")?;
        let log = Arc::new(Log::default());
        let into = Arc::clone(&log);
        let out = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _read = stdout.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        });
        let err = std::thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n') {
                let Ok(line) = line else { break };
                let line = String::from_utf8_lossy(&line).into_owned();
                into.lines.lock().unwrap_or_else(PoisonError::into_inner).0.push(line);
                into.grown.notify_all();
            }
            into.lines.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
            into.grown.notify_all();
            String::new()
        });
        Ok(Self {
            child,
            log,
            readers: vec![out, err],
        })
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends a signal. A process that is gone already is no error.
    pub fn signal(&self, signal: Signal) {
        let _gone = kill_process(self.pid(), signal);
    }

    /// True until the process has ended.
    ///
    /// # Errors
    /// Where the system can't tell.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Waits until the process is frozen by SIGSTOP, its own or ours. False where it ended instead.
    ///
    /// # Errors
    /// With the log, where neither happens within `limit`.
    pub fn wait_frozen(&mut self, limit: Duration) -> Result<bool> {
        let deadline = Instant::now() + limit;
        let stat = format!("/proc/{}/stat", self.child.id());
        loop {
            // The state follows the name, which stands in brackets and may hold anything.
            let text = fs::read_to_string(&stat).unwrap_or_default();
            if text
                .rsplit(')')
                .next()
                .is_some_and(|rest| rest.trim_start().starts_with('T'))
            {
                return Ok(true);
            }
            if !self.is_running()? {
                return Ok(false);
            }
            if Instant::now() > deadline {
                bail!("neither frozen nor ended within {limit:?}\n{}", self.log.text());
            }
            look_again_soon();
        }
    }

    /// Waits until a line of standard error contains `needle`. False where the process ended without.
    ///
    /// # Errors
    /// With the log, where neither happens within `limit`.
    pub fn wait_for_log(&self, needle: &str, limit: Duration) -> Result<bool> {
        let deadline = Instant::now() + limit;
        let mut lines = self.log.lines.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if lines.0.iter().any(|line| line.contains(needle)) {
                return Ok(true);
            }
            if lines.1 {
                return Ok(false);
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                bail!("{needle:?} is not in the log after {limit:?}\n{}", lines.0.join("\n"));
            };
            lines = self
                .log
                .grown
                .wait_timeout(lines, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// What standard error holds so far.
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// The most memory that the process has had resident, in bytes.
    ///
    /// # Errors
    /// Where the process is gone.
    pub fn resident_bytes_max(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kibibytes: u64 = line
            .and_then(|rest| rest.trim().strip_suffix(" kB"))
            .context("no VmHWM: the process has ended")?
            .trim()
            .parse()?;
        Ok(kibibytes * 1024)
    }

    /// How many files below `folder` the process has open.
    ///
    /// # Errors
    /// Where the process is gone.
    pub fn files_open(&self, folder: &Path) -> Result<usize> {
        let open = fs::read_dir(format!("/proc/{}/fd", self.child.id()))?;
        // One that is closed meanwhile has no target.
        let targets = open.flatten().filter_map(|link| fs::read_link(link.path()).ok());
        Ok(targets.filter(|target| target.starts_with(folder)).count())
    }

    /// Waits `time`, or less where the process ends before. True where it still runs.
    ///
    /// # Errors
    /// Where the system can't tell.
    pub fn runs_for(&mut self, time: Duration) -> Result<bool> {
        let deadline = Instant::now() + time;
        while Instant::now() < deadline {
            if !self.is_running()? {
                return Ok(false);
            }
            look_again_soon();
        }
        self.is_running()
    }

    /// Kills the process and waits for its end.
    ///
    /// # Errors
    /// Where it doesn't end.
    pub fn kill(self) -> Result<Finished> {
        self.signal(Signal::KILL);
        self.wait(Duration::from_secs(30))
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// With the log, where it doesn't come within `limit`; the process is killed then.
    pub fn wait(mut self, limit: Duration) -> Result<Finished> {
        let deadline = Instant::now() + limit;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if Instant::now() > deadline {
                bail!("not at its end after {limit:?}\n{}", tail(&self.log.text()));
            }
            look_again_soon();
        };
        let mut stdout = String::new();
        for reader in self.readers.drain(..) {
            stdout.push_str(&reader.join().unwrap_or_default());
        }
        Ok(Finished {
            status,
            stdout,
            stderr: self.log.text(),
        })
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // A frozen process takes SIGKILL too.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// A process that has ended.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Everything on standard output.
    pub stdout: String,
    /// Everything on standard error.
    pub stderr: String,
}

impl Finished {
    /// The exit code, where it ended by itself.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// True where SIGKILL ended it.
    pub fn was_killed(&self) -> bool {
        self.status.signal() == Some(Signal::KILL.as_raw())
    }

    /// The last lines of the log.
    pub fn log_tail(&self) -> String {
        tail(&self.stderr)
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    fn shell(script: &str) -> Run {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Run::start(command).expect("sh starts")
    }

    #[test]
    fn output_code_and_log_are_collected() {
        let run = shell("echo data; echo started >&2; exit 3");
        assert!(run.wait_for_log("started", SOON).expect("in time"));
        let finished = run.wait(SOON).expect("in time");
        assert_eq!(
            (finished.code(), finished.stdout.as_str(), finished.was_killed()),
            (Some(3), "data\n", false)
        );
    }

    #[test]
    fn a_missing_log_line_is_told_from_an_end() {
        assert!(!shell("exit 0").wait_for_log("never", SOON).expect("ended"));
        let error = shell("exec sleep 60").wait_for_log("never", Duration::from_millis(50));
        assert!(error.expect_err("too late").to_string().contains("never"));
    }

    #[test]
    fn a_process_that_kills_itself_was_killed_and_one_that_is_late_is_ended() {
        assert!(shell("kill -KILL $$").wait(SOON).expect("in time").was_killed());
        assert!(shell("exec sleep 60").kill().expect("in time").was_killed());
        assert!(shell("exec sleep 60").wait(Duration::from_millis(50)).is_err());
    }

    #[test]
    fn freezing_is_seen_and_undone() {
        let mut run = shell("kill -STOP $$; exit 5");
        assert!(run.wait_frozen(SOON).expect("in time"));
        run.signal(Signal::CONT);
        assert_eq!(run.wait(SOON).expect("in time").code(), Some(5));
        assert!(!shell("exit 0").wait_frozen(SOON).expect("in time"));
    }
}
