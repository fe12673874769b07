//! The name of a version's file.

use tidemill_core::{BatchId, Epoch};

const ENDING: &str = ".version";

/// Who stages a version: the attempt of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageName {
    /// The batch.
    pub batch_id: BatchId,
    /// The epoch of the driver that runs it.
    pub epoch: Epoch,
    /// The attempt at the batch, from 0.
    pub attempt: u32,
}

impl StageName {
    /// A file name that nobody else has.
    pub(super) fn file_name(self) -> String {
        let nonce = uuid::Uuid::new_v4().simple();
        let Self {
            batch_id,
            epoch,
            attempt,
        } = self;
        format!("{batch_id:020}-{epoch}-{attempt}-{nonce}{ENDING}")
    }

    /// What a file name says; `None` where it is none of a version.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let mut parts = name.strip_suffix(ENDING)?.split('-');
        let batch = parts.next().filter(|batch| batch.len() == 20)?;
        let this = Self {
            batch_id: batch.parse().ok()?,
            epoch: parts.next()?.parse().ok()?,
            attempt: parts.next()?.parse().ok()?,
        };
        let nonce = parts.next().filter(|nonce| nonce.len() == 32)?;
        let sound = nonce.bytes().all(|byte| byte.is_ascii_hexdigit()) && parts.next().is_none();
        sound.then_some(this)
    }
}

/// The folder of an operator's versions in the checkpoint.
pub(super) fn folder(operator: &str) -> String {
    format!("state/{operator}")
}

/// The path of a version's file in the checkpoint.
pub(super) fn path(operator: &str, name: &str) -> String {
    format!("state/{operator}/{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_whose_attempt_it_is_and_is_never_given_twice() {
        let stage = StageName {
            batch_id: 17,
            epoch: 3,
            attempt: 1,
        };
        let (one, two) = (stage.file_name(), stage.file_name());
        assert!(one.starts_with("00000000000000000017-3-1-"), "{one}");
        assert_ne!(one, two);
        assert_eq!(StageName::parse(&one), Some(stage));
        for wrong in [
            "17-3-1-0.version",
            "00000000000000000017-3-1.version",
            &one[1..],
            &one.replace(".version", ""),
            &one.replace("-1-", "-x-"),
            &one.replace(".version", "-1.version"),
        ] {
            assert_eq!(StageName::parse(wrong), None, "{wrong}");
        }
    }
}
