//! The requests that are sent.

use kafka_protocol::messages::{
    ApiKey, ApiVersionsRequest, DescribeGroupsRequest, FetchRequest, FindCoordinatorRequest, ListOffsetsRequest,
    MetadataRequest, OffsetCommitRequest, OffsetFetchRequest, OffsetForLeaderEpochRequest,
};
use kafka_protocol::protocol::{Encodable, HeaderVersion};

/// A message that asks a broker for something.
pub(crate) trait Request: Encodable + HeaderVersion + Sync {
    /// What it asks for.
    const KEY: ApiKey;
}

macro_rules! requests {
    ($($message:ident asks $key:ident)*) => {$(
        impl Request for $message {
            const KEY: ApiKey = ApiKey::$key;
        }
    )*};
}

requests! {
    ApiVersionsRequest asks ApiVersions
    DescribeGroupsRequest asks DescribeGroups
    FetchRequest asks Fetch
    FindCoordinatorRequest asks FindCoordinator
    ListOffsetsRequest asks ListOffsets
    MetadataRequest asks Metadata
    OffsetCommitRequest asks OffsetCommit
    OffsetFetchRequest asks OffsetFetch
    OffsetForLeaderEpochRequest asks OffsetForLeaderEpoch
}
