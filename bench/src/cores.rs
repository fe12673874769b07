//! Which cores a server may use.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Cores, as `taskset` takes them.
pub(crate) const ONE: &str = "0";
/// The same and another.
pub(crate) const TWO: &str = "0,1";

/// A server kept on some cores; it gets those back that it had where this value is dropped.
#[derive(Debug)]
pub(crate) struct Confined {
    pid: u32,
    before: String,
}

impl Confined {
    /// Keeps all threads of the process on `cores`. Threads that it makes later inherit that.
    ///
    /// # Errors
    /// Where there is no such process or `taskset` is missing.
    pub(crate) fn new(pid: u32, cores: &str) -> Result<Self> {
        let status =
            std::fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("no process {pid}"))?;
        let before = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
            .with_context(|| format!("the kernel does not say which cores process {pid} may use"))?
            .trim()
            .to_owned();
        let confined = Self { pid, before };
        confine(pid, cores)?;
        Ok(confined)
    }
}

impl Drop for Confined {
    fn drop(&mut self) {
        if let Err(error) = confine(self.pid, &self.before) {
            eprintln!("tidemill-bench: process {} keeps its cores: {error:#}", self.pid);
        }
    }
}

fn confine(pid: u32, cores: &str) -> Result<()> {
    let pid = pid.to_string();
    let output = Command::new("taskset")
        .args(["--all-tasks", "--cpu-list", "--pid", cores, &pid])
        .stdin(Stdio::null())
        .output()
        .context("start taskset (util-linux)")?;
    if !output.status.success() {
        bail!(
            "taskset of process {pid} on {cores}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Child;

    use super::*;

    fn allowed(child: &Child) -> String {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        line.unwrap().trim().to_owned()
    }

    #[test]
    fn a_process_is_confined_and_released() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let before = allowed(&child);
        let confined = Confined::new(child.id(), ONE).unwrap();
        assert_eq!(allowed(&child), "0");
        drop(confined);
        assert_eq!(allowed(&child), before);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(Confined::new(u32::MAX / 2 - 1, ONE).is_err());
    }
}
