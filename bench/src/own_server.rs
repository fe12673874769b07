//! Servers of one row's own, started by `scripts/servers`.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// From the project's folder, where the bench runs.
const SCRIPT: &str = "scripts/servers";

/// A server, or several that belong together. It ends where this value is dropped.
#[derive(Debug)]
pub(crate) struct OwnServer {
    exports: String,
}

impl OwnServer {
    /// Starts `kind`, as the script names it.
    ///
    /// # Errors
    /// Where it doesn't come up.
    pub(crate) fn start(kind: &str) -> Result<Self> {
        if !Path::new(SCRIPT).is_file() {
            bail!("this row starts servers of its own by {SCRIPT}: run the bench in the project's folder");
        }
        let exports = script(&["own", kind])?;
        let server = Self { exports };
        server.value("TIDEMILL_TEST_RUN")?;
        Ok(server)
    }

    /// What the script exports as `name`.
    ///
    /// # Errors
    /// Where it doesn't.
    pub(crate) fn value(&self, name: &str) -> Result<&str> {
        value(&self.exports, name).with_context(|| format!("{SCRIPT} printed no {name}: {}", self.exports))
    }

    /// The brokers, separated by commas.
    ///
    /// # Errors
    /// Where it is no Kafka.
    pub(crate) fn brokers(&self) -> Result<&str> {
        self.value("TIDEMILL_TEST_KAFKA")
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        let stopped = self.value("TIDEMILL_TEST_RUN").and_then(|run| script(&["stop", run]));
        if let Err(error) = stopped {
            eprintln!("tidemill-bench: a server stays: {error:#}");
        }
    }
}

fn value<'a>(exports: &'a str, name: &str) -> Option<&'a str> {
    exports
        .lines()
        .filter_map(|line| line.strip_prefix("export ")?.split_once('='))
        .find_map(|(found, value)| (found == name).then_some(value))
}

fn script(args: &[&str]) -> Result<String> {
    let output = Command::new(SCRIPT).args(args).stdin(Stdio::null()).output()?;
    if !output.status.success() {
        bail!(
            "{SCRIPT} {}: {}\n{}",
            args.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8(output.stdout)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exports_are_read_by_their_whole_name() {
        let exports = "export TIDEMILL_TEST_KAFKA_PID=7\nexport TIDEMILL_TEST_KAFKA=h:1,h:2\n";
        assert_eq!(value(exports, "TIDEMILL_TEST_KAFKA"), Some("h:1,h:2"));
        assert_eq!(value(exports, "TIDEMILL_TEST"), None);
    }
}
