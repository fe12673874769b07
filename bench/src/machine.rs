//! Versions of everything that a figure depends on.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// What ran where. `unknown` stands where something can't be told.
///
/// # Errors
/// Where the binary doesn't tell its version: then it can't be measured either.
pub(crate) fn versions(binary: &Path) -> Result<Value> {
    if !binary.is_file() {
        bail!(
            "there is no binary {}: build it first (cargo build --release --locked -p tidemill-cli), or name it by --bin",
            binary.display()
        );
    }
    let output = Command::new(binary)
        .arg("--version")
        .output()
        .with_context(|| format!("start {}", binary.display()))?;
    let tidemill = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !output.status.success() || !tidemill.starts_with("tidemill ") {
        bail!(
            "{} --version says {tidemill:?} and ends with {}: is it the binary tidemill?",
            binary.display(),
            output.status
        );
    }
    let profile = binary
        .parent()
        .and_then(Path::file_name)
        .map(|name| name.to_string_lossy().into_owned());
    Ok(json!({
        "tidemill": tidemill.trim_start_matches("tidemill "),
        "profile": profile,
        "commit": said("git", &["describe", "--always", "--dirty", "--exclude", "*"]),
        "rustc": said("rustc", &["--version"]),
        "kafka": kafka(),
        "kernel": read("/proc/sys/kernel/osrelease"),
        "cpu": cpu(),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
    }))
}

fn said(program: &str, args: &[&str]) -> String {
    match Command::new(program).args(args).output() {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        _ => "unknown".to_owned(),
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

fn cpu() -> String {
    let text = read("/proc/cpuinfo");
    let model = text.lines().find(|line| line.starts_with("model name"));
    model
        .and_then(|line| line.split_once(':'))
        .map_or("unknown", |(_, name)| name.trim())
        .to_owned()
}

/// The class path that `scripts/servers` prints names the version it started.
fn kafka() -> String {
    let class_path = std::env::var("TIDEMILL_TEST_JAVA_CP").unwrap_or_default();
    version_in(&class_path).unwrap_or("unknown").to_owned()
}

fn version_in(class_path: &str) -> Option<&str> {
    let (_, rest) = class_path.split_once("/kafka-")?;
    let end = rest
        .find(|letter: char| !letter.is_ascii_digit() && letter != '.')
        .unwrap_or(rest.len());
    Some(&rest[..end]).filter(|version| !version.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_brokers_version_is_read_from_the_class_path() {
        assert_eq!(version_in("/c/java/1a2b:/c/jars/kafka-4.3.1/*"), Some("4.3.1"));
        assert_eq!(version_in("/c/jars/*"), None);
        assert_eq!(version_in(""), None);
    }

    #[test]
    fn a_binary_that_is_missing_or_another_is_named() {
        let error = versions(Path::new("/nowhere/tidemill")).unwrap_err().to_string();
        assert!(
            error.contains("/nowhere/tidemill") && error.contains("--bin"),
            "{error}"
        );
        let error = versions(Path::new("/bin/true")).unwrap_err().to_string();
        assert!(error.contains("is it the binary tidemill?"), "{error}");
    }
}
