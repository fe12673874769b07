//! Ends of streams whose values are saved as lines of text.

use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::DStream;

impl<T: Display + Send + 'static> DStream<T> {
    /// Saves each batch as a folder `prefix-<batch time in ms>.suffix` with a file per slice and a line per value; prefix or suffix may
    /// be empty. A folder appears whole, and takes the place of one that is there: a batch that runs again leaves it as it was.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tidemill::testing::{Harness, Input};
    ///
    /// let harness = Harness::new(Duration::from_secs(1));
    /// let words = Input::of([vec!["a", "b"]]);
    /// let folder = harness.folder().join("words");
    /// let run = harness.start(|context| {
    ///     words.stream(context).save_as_files(&folder, "txt");
    ///     Ok(())
    /// })?;
    /// run.batches(1)?;
    /// assert!(harness.folder().join("words-1000.txt/part-00000").exists());
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn save_as_files(self, prefix: impl Into<PathBuf>, suffix: impl Into<String>) {
        let (prefix, suffix) = (prefix.into(), suffix.into());
        self.glom().foreach_batch(move |slices, batch| {
            let folder = named(&prefix, &suffix, batch.batch_time_ms);
            save(&folder, &slices).map_err(|error| format!("saving {}: {error}", folder.display()))
        });
    }
}

fn named(prefix: &Path, suffix: &str, time_ms: i64) -> PathBuf {
    let mut name = prefix.as_os_str().to_owned();
    if !name.is_empty() {
        name.push("-");
    }
    name.push(time_ms.to_string());
    if !suffix.is_empty() {
        name.push(".");
        name.push(suffix);
    }
    PathBuf::from(name)
}

fn save<T: Display>(folder: &Path, slices: &[Vec<T>]) -> io::Result<()> {
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    let mut aside = std::ffi::OsString::from(".");
    aside.push(folder.file_name().unwrap_or_default());
    aside.push(".being-written");
    let aside = parent.join(aside);
    remove(&aside)?;
    fs::create_dir_all(&aside)?;
    for (number, values) in slices.iter().enumerate() {
        let mut part = BufWriter::new(File::create_new(aside.join(format!("part-{number:05}")))?);
        for value in values {
            writeln!(part, "{value}")?;
        }
        part.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    }
    File::open(&aside)?.sync_all()?;
    remove(folder)?;
    fs::rename(&aside, folder)?;
    File::open(parent)?.sync_all()
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_empty_is_left_out_of_the_name() {
        let named = |prefix, suffix| named(Path::new(prefix), suffix, 1_000);
        assert_eq!(named("out/words", "txt"), Path::new("out/words-1000.txt"));
        assert_eq!(named("words", ""), Path::new("words-1000"));
        assert_eq!(named("", "txt"), Path::new("1000.txt"));
    }

    #[test]
    fn a_folder_takes_the_place_of_one_that_is_there() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("deep/words-1000");
        save(&folder, &[vec!["a", "b"], vec![], vec!["c"]]).unwrap();
        save(&folder, &[vec!["d"], vec!["e", "f"]]).unwrap();
        let mut parts: Vec<_> = fs::read_dir(&folder)
            .unwrap()
            .map(|entry| {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                (name, fs::read_to_string(&path).unwrap())
            })
            .collect();
        parts.sort();
        let part = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        assert_eq!(parts, [part("part-00000", "d\n"), part("part-00001", "e\nf\n")]);
        assert_eq!(fs::read_dir(folder.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn what_was_left_half_written_is_no_hindrance() {
        let place = tempfile::tempdir().unwrap();
        let aside = place.path().join(".words-1000.being-written");
        fs::create_dir(&aside).unwrap();
        fs::write(aside.join("part-00009"), "half").unwrap();
        let folder = place.path().join("words-1000");
        save(&folder, &[vec!["a"]]).unwrap();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    }
}
