//! A test's program in a process of its own, which can be killed.

use std::process::{Command, ExitStatus, Stdio};

/// Runs an ignored test of this binary with these variables and failpoints, and waits for its end.
pub(crate) fn run(test: &str, variables: &[(&str, String)], failpoints: &str) -> ExitStatus {
    Command::new(std::env::current_exe().expect("the test binary has a path"))
        .args(["--exact", test, "--ignored", "--quiet"])
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .env("TIDEMILL_FAILPOINTS", failpoints)
        .stdout(Stdio::null())
        .status()
        .expect("the test binary starts")
}

/// What such a test was given.
pub(crate) fn given(name: &str) -> String {
    std::env::var(name).expect("it is started by the tests beside it")
}
