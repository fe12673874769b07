//! How far a consumer has come in its partitions, by its own statistics.
//!
//! Markers, aborted records and holes of compaction are passed by librdkafka without a word, so the last record of a range may
//! be followed by nothing. The statistics tell the next offset that will be fetched: everything before it was put into the
//! partition's queue, or is not to be seen. A range ends where that offset is beyond its end and the queue, looked at *after*
//! the statistics, is empty.

use std::collections::HashMap;

use serde::Deserialize;
use tidemill_core::position::TopicPartition;

/// One partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) struct Progress {
    /// The next offset to fetch; negative before the first.
    pub(crate) next_offset: i64,
    /// Where readable records end, as the last answer said; negative before the first.
    #[serde(rename = "ls_offset")]
    pub(crate) stable_end: i64,
}

/// All partitions of a consumer.
pub(crate) type AllProgress = HashMap<TopicPartition, Progress>;

#[derive(Debug, Deserialize)]
struct Statistics {
    #[serde(default)]
    topics: HashMap<String, TopicStatistics>,
}

#[derive(Debug, Deserialize)]
struct TopicStatistics {
    #[serde(default)]
    partitions: HashMap<String, Progress>,
}

/// What librdkafka's statistics say.
///
/// # Errors
/// Where they are not what they were.
pub(crate) fn read(statistics: &[u8]) -> Result<AllProgress, serde_json::Error> {
    let statistics: Statistics = serde_json::from_slice(statistics)?;
    let mut all = AllProgress::new();
    for (topic, found) in statistics.topics {
        for (partition, progress) in found.partitions {
            // The partition -1 stands for none.
            if let Some(partition) = partition.parse().ok().filter(|partition: &i32| *partition >= 0) {
                all.insert(TopicPartition::new(&topic, partition), progress);
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_found_and_the_rest_is_passed_over() {
        let partition = r#"{"partition":3,"next_offset":17,"hi_offset":20,"ls_offset":18,"eof_offset":-1001}"#;
        let text = format!(
            r#"{{"name":"x","topics":{{"t":{{"topic":"t","partitions":{{"3":{partition},"-1":{partition}}}}}}}}}"#
        );
        let all = read(text.as_bytes()).expect("read");
        let expected = Progress {
            next_offset: 17,
            stable_end: 18,
        };
        assert_eq!(all, AllProgress::from([(TopicPartition::new("t", 3), expected)]));
        assert_eq!(read(b"{}").expect("read"), AllProgress::new());
        assert!(read(b"17").is_err());
    }
}
