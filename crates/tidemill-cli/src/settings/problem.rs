//! What is wrong with a pipeline file, all of it at once.

use std::fmt;

/// One thing that is wrong, at one place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Problem {
    /// Line in the file, from 1; 0 where the whole file is meant.
    pub line: usize,
    /// The key's path, such as `sources.events.topics`.
    pub path: String,
    /// What is wrong and the way out.
    pub message: String,
}

/// All problems of a file, by line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problems {
    /// The file's name as it was given.
    pub file: String,
    /// At least one.
    pub list: Vec<Problem>,
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.list.iter().enumerate() {
            if at > 0 {
                writeln!(f)?;
            }
            write!(f, "{}", self.file)?;
            if problem.line > 0 {
                write!(f, ":{}", problem.line)?;
            }
            if !problem.path.is_empty() {
                write!(f, ": {}", problem.path)?;
            }
            write!(f, ": {}", problem.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
