//! Named points before and after each durable step, at which the crash tests kill the process.
//!
//! Without the feature `fault-injection` every call here is empty. With it, `main` reads `TIDEMILL_FAILPOINTS` once:
//! `name=kill@2` ends the process by SIGKILL when the point is passed for the second time, `name=stop@2` by SIGSTOP;
//! several are separated by commas. `TIDEMILL_SABOTAGE=name` turns one deliberate fault on, to prove that the harness
//! catches it. The state is a process-wide constant, set before anything runs and never changed after.

/// All points: name, and the sink kind that passes it (empty: every pipeline; `state` and `log`: one that has those).
pub const POINTS: &[(&str, &str)] = &[
    ("epoch.before-claim", ""),
    ("epoch.after-claim", ""),
    ("sink.before-fence", ""),
    ("sink.after-fence", ""),
    ("plan.before-log", ""),
    ("plan.after-log", ""),
    ("read.first-rows", ""),
    ("read.middle-rows", ""),
    ("read.slice-end", ""),
    ("sink.before-birth", ""),
    ("sink.after-birth", ""),
    ("sink.before-begin", ""),
    ("sink.after-begin", ""),
    ("sink.before-commit", ""),
    ("sink.after-commit", ""),
    ("file.before-data-sync", "file"),
    ("file.after-data-sync", "file"),
    ("file.before-manifest", "file"),
    ("file.after-manifest", "file"),
    ("postgres.after-copy", "postgres"),
    ("postgres.before-ledger", "postgres"),
    ("postgres.after-ledger", "postgres"),
    ("postgres.after-commit", "postgres"),
    ("kafka.before-ledger", "kafka"),
    ("kafka.after-ledger", "kafka"),
    ("kafka.before-end", "kafka"),
    ("kafka.after-end", "kafka"),
    ("commit-log.before", ""),
    ("commit-log.after", ""),
    ("store.after-temp", ""),
    ("store.after-link", ""),
    ("state.before-stage", "state"),
    ("state.after-stage", "state"),
    ("log.half-written", "log"),
    ("log.before-sync", "log"),
    ("log.before-names-sync", "log"),
    ("log.after-sync", "log"),
    ("log.after-remove", "log"),
    ("group.before-publish", ""),
    ("group.after-publish", ""),
];

/// The deliberate faults.
pub const SABOTAGES: &[&str] = &[
    "commit-record-before-output",
    "no-ledger-check",
    "ledger-before-fence",
    "retry-end-of-transaction",
];

#[cfg(feature = "fault-injection")]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[derive(Debug)]
    struct Point {
        name: String,
        signal: rustix::process::Signal,
        at: u32,
        passed: AtomicU32,
    }

    #[derive(Debug, Default)]
    struct Armed {
        points: Vec<Point>,
        sabotage: Option<String>,
    }

    static ARMED: OnceLock<Armed> = OnceLock::new();

    /// Arms the points of `spec` and the fault `sabotage`.
    fn arm(spec: &str, sabotage: Option<String>) -> Result<(), String> {
        let points = spec
            .split(',')
            .filter(|one| !one.is_empty())
            .map(parse)
            .collect::<Result<_, _>>()?;
        if let Some(name) = &sabotage
            && !super::SABOTAGES.contains(&name.as_str())
        {
            return Err(format!("no sabotage {name}"));
        }
        ARMED
            .set(Armed { points, sabotage })
            .map_err(|_| "armed twice".to_owned())
    }

    /// Arms what the environment says: `TIDEMILL_FAILPOINTS` and `TIDEMILL_SABOTAGE`. Called once, where a process begins.
    ///
    /// # Errors
    /// A point or fault that does not exist, or a specification that can't be read.
    pub fn arm_from_env() -> Result<(), String> {
        let points = std::env::var("TIDEMILL_FAILPOINTS").unwrap_or_default();
        arm(&points, std::env::var("TIDEMILL_SABOTAGE").ok())
    }

    fn parse(one: &str) -> Result<Point, String> {
        let (name, what) = one
            .split_once('=')
            .ok_or_else(|| format!("{one}: expected name=kill@N"))?;
        let (what, at) = what.split_once('@').unwrap_or((what, "1"));
        if !super::POINTS.iter().any(|(known, _)| *known == name) {
            return Err(format!("no failpoint {name}"));
        }
        let signal = match what {
            "kill" => rustix::process::Signal::KILL,
            "stop" => rustix::process::Signal::STOP,
            other => return Err(format!("{other}: kill or stop")),
        };
        let at = at.parse().map_err(|_| format!("{at}: not a number"))?;
        Ok(Point {
            name: name.to_owned(),
            signal,
            at,
            passed: AtomicU32::new(0),
        })
    }

    /// Passes the point `name`.
    pub fn pass(name: &str) {
        debug_assert!(
            super::POINTS.iter().any(|(known, _)| *known == name),
            "failpoint {name} is not listed"
        );
        let Some(armed) = ARMED.get() else { return };
        for point in armed.points.iter().filter(|point| point.name == name) {
            if point.passed.fetch_add(1, Ordering::SeqCst) + 1 == point.at {
                let _sent = rustix::process::kill_process(rustix::process::getpid(), point.signal);
                wait_for_the_stop();
            }
        }
    }

    /// SIGSTOP may be taken by another thread first: this one would go on for a moment, beyond its point.
    #[expect(
        clippy::disallowed_methods,
        reason = "nothing tells a thread that it is about to be stopped"
    )]
    fn wait_for_the_stop() {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }

    /// True where the deliberate fault `name` is on.
    pub fn sabotaged(name: &str) -> bool {
        ARMED.get().and_then(|armed| armed.sabotage.as_deref()) == Some(name)
    }
}

#[cfg(feature = "fault-injection")]
pub use armed::{arm_from_env, pass, sabotaged};

/// Arms nothing, without the feature.
///
/// # Errors
/// None.
#[cfg(not(feature = "fault-injection"))]
pub fn arm_from_env() -> Result<(), String> {
    Ok(())
}

/// Passes the point `name`: nothing, without the feature.
#[cfg(not(feature = "fault-injection"))]
#[inline]
pub fn pass(_name: &str) {}

/// False, without the feature.
#[cfg(not(feature = "fault-injection"))]
#[inline]
pub fn sabotaged(_name: &str) -> bool {
    false
}
