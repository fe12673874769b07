//! A small file system of a test's own, to be filled up.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

/// A tmpfs, unmounted where this value is dropped. Mounting takes root's rights.
#[derive(Debug)]
pub struct SmallDisk {
    place: TempDir,
}

impl SmallDisk {
    /// An empty one of `bytes`.
    ///
    /// # Errors
    /// Where it can't be mounted.
    pub fn mount(bytes: u64) -> Result<Self> {
        let place = tempfile::Builder::new().prefix("tidemill-disk-").tempdir()?;
        let disk = Self { place };
        command(
            Command::new("mount")
                .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"])
                .arg(disk.folder()),
        )?;
        Ok(disk)
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.place.path()
    }

    fn filler(&self) -> PathBuf {
        self.folder().join("filler")
    }

    /// Takes all the room that is left.
    ///
    /// # Errors
    /// Where it can't be written to for another reason than a lack of room.
    pub fn fill(&self) -> Result<()> {
        let mut filler = File::create(self.filler())?;
        // Smaller and smaller pieces, down to the last byte.
        for piece in [1 << 20, 4096, 1] {
            let piece = vec![0; piece];
            loop {
                match filler.write(&piece) {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => return Err(error).context("filling the disk"),
                }
            }
        }
        Ok(())
    }

    /// Gives the room back.
    ///
    /// # Errors
    /// Where the disk was not filled.
    pub fn free(&self) -> Result<()> {
        Ok(fs::remove_file(self.filler())?)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that was left behind must not keep the mount for ever.
        if let Err(error) = command(Command::new("umount").arg("-l").arg(self.folder())) {
            eprintln!("{error:#}");
        }
    }
}

fn command(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {} (a file system of its own takes root's rights)",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
