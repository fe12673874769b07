//! Where a log lies: files that are made once and appended to.

use std::fmt::Debug;

use crate::error::Result;

/// A folder of files that are appended to by one and read by many. Names have no `/`. All calls may wait for a disk or a server.
///
/// Asks for what local disks and HDFS both have: no renaming, no cutting, no writing but at the end, no memory mapping.
pub trait Storage: Debug + Send + Sync {
    /// Makes a file that is not there yet, and the folder where it is missing.
    ///
    /// # Errors
    /// `Unavailable` where there is no room; any other is final, a name that is taken too.
    fn create(&self, name: &str) -> Result<Box<dyn Appending>>;
    /// Makes the names of the files durable.
    ///
    /// # Errors
    /// Any is final.
    fn sync_names(&self) -> Result<()>;
    /// Makes durable what others wrote to a file, so that what is read afterwards is what a power cut leaves; where the storage
    /// can, it keeps others from writing on (HDFS: the lease is recovered).
    ///
    /// # Errors
    /// Any is final.
    fn settle(&self, name: &str) -> Result<()>;
    /// Opens a file to read; `None` where there is none.
    ///
    /// # Errors
    /// Where it can't be opened.
    fn open(&self, name: &str) -> Result<Option<Box<dyn Reading>>>;
    /// The names of all files, in any order; none where the folder is missing.
    ///
    /// # Errors
    /// Where they can't be listed.
    fn list(&self) -> Result<Vec<String>>;
    /// Removes a file; a missing one is no error.
    ///
    /// # Errors
    /// Where it can't be removed.
    fn remove(&self, name: &str) -> Result<()>;
    /// Where this is, for messages.
    fn location(&self) -> String;
}

/// A file at its end.
pub trait Appending: Debug + Send {
    /// Writes all of it behind what is there. After an error any part of it may stand there.
    ///
    /// # Errors
    /// `Unavailable` where there is no room; any other is final.
    fn append(&mut self, bytes: &[u8]) -> Result<()>;
    /// Makes durable what was appended.
    ///
    /// # Errors
    /// Any is final: nobody may try again.
    fn sync(&mut self) -> Result<()>;
}

/// A file that is read.
pub trait Reading: Debug + Send {
    /// Its length now.
    ///
    /// # Errors
    /// Where it can't be asked.
    fn length(&self) -> Result<u64>;
    /// Fills `into` from `offset` on.
    ///
    /// # Errors
    /// Where the file ends before, or can't be read.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<()>;
}
