//! Which versions of which requests a broker understands.

use std::collections::HashMap;

use kafka_protocol::messages::ApiKey;

use super::response::{Fields, Malformed};

/// What a broker said about its versions.
#[derive(Debug, Clone, Default)]
pub(crate) struct Versions {
    ranges: HashMap<i16, (i16, i16)>,
}

impl Versions {
    /// Reads an answer to ApiVersions.
    ///
    /// # Errors
    /// A malformed answer.
    pub(crate) fn read(fields: &mut Fields<'_>) -> Result<Self, Malformed> {
        let ranges = fields.list(6, |fields| {
            let range = (fields.int16()?, (fields.int16()?, fields.int16()?));
            fields.tags()?;
            Ok(range)
        })?;
        Ok(Self {
            ranges: ranges.into_iter().collect(),
        })
    }

    /// The highest version that the broker understands, `None` where it does not know the request.
    pub(crate) fn highest(&self, key: ApiKey) -> Option<i16> {
        self.ranges.get(&(key as i16)).map(|(_, highest)| *highest)
    }

    /// The highest version in `[lowest, highest]` that the broker understands too.
    pub(crate) fn choose(&self, key: ApiKey, lowest: i16, highest: i16) -> Option<i16> {
        let (broker_lowest, broker_highest) = self.ranges.get(&(key as i16))?;
        let version = highest.min(*broker_highest);
        (version >= lowest && version >= *broker_lowest).then_some(version)
    }
}
