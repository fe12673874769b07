//! `tidemill init`: a commented pipeline file to start from.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::Path;

use anyhow::Context;

use crate::Failure;

/// What the file holds.
pub(crate) const PIPELINE: &str = include_str!("pipeline.toml");

/// Writes `pipeline.toml` into the folder, which is made where it is missing. A file that is there is left alone.
///
/// # Errors
/// Where there is one, or none can be written.
pub(crate) fn init(folder: &Path) -> Result<(), Failure> {
    fs::create_dir_all(folder).with_context(|| format!("{}: can't be made", folder.display()))?;
    let path = folder.join("pipeline.toml");
    let mut file = File::create_new(&path).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => anyhow::anyhow!("{} is there already; name another folder", path.display()),
        _ => anyhow::anyhow!("{}: {error}", path.display()),
    })?;
    let written = file.write_all(PIPELINE.as_bytes());
    written.with_context(|| format!("{}: can't be written", path.display()))?;
    let shown = path.display();
    writeln!(std::io::stdout(), "{shown}").map_err(anyhow::Error::from)?;
    eprintln!("edit it, then: tidemill check {shown}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Problems, Settings};

    fn parse(text: &str) -> Result<Settings, Problems> {
        Settings::parse("pipeline.toml", text, Path::new("/pipelines"), &|name| {
            Some(format!("postgres://me@localhost/{name}"))
        })
    }

    #[test]
    fn the_file_reads_and_a_second_one_is_not_written_over_it() {
        let settings = parse(PIPELINE).expect("reads");
        assert_eq!((settings.sources.len(), settings.sinks.len()), (1, 1));
        let folder = tempfile::tempdir().expect("temp dir");
        let inside = folder.path().join("new");
        init(&inside).expect("written");
        fs::write(inside.join("pipeline.toml"), "mine").expect("a change");
        assert!(init(&inside).is_err());
        assert_eq!(fs::read_to_string(inside.join("pipeline.toml")).expect("reads"), "mine");
    }

    #[test]
    fn what_is_commented_out_reads_too() {
        let lines = PIPELINE.lines().map(|line| {
            let is_setting = line.starts_with("# [")
                || line.strip_prefix("# ").is_some_and(|rest| {
                    rest.split_once('=').is_some_and(|(key, _)| {
                        key.trim()
                            .bytes()
                            .all(|letter| letter.is_ascii_lowercase() || letter == b'_')
                    })
                });
            if is_setting { &line[2..] } else { line }
        });
        let text: String = lines.flat_map(|line| [line, "\n"]).collect();
        let settings = parse(&text).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
        assert_eq!(settings.sinks.len(), 3);
        assert!(settings.backpressure.is_none());
    }
}
