//! The requests that are sent.

use kafka_protocol::messages::{
    AddPartitionsToTxnRequest, ApiKey, ApiVersionsRequest, CreateTopicsRequest, DescribeConfigsRequest,
    DescribeGroupsRequest, EndTxnRequest, FetchRequest, FindCoordinatorRequest, InitProducerIdRequest,
    ListOffsetsRequest, MetadataRequest, OffsetCommitRequest, OffsetFetchRequest, OffsetForLeaderEpochRequest,
    ProduceRequest, SaslAuthenticateRequest, SaslHandshakeRequest,
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
    AddPartitionsToTxnRequest asks AddPartitionsToTxn
    ApiVersionsRequest asks ApiVersions
    CreateTopicsRequest asks CreateTopics
    DescribeConfigsRequest asks DescribeConfigs
    DescribeGroupsRequest asks DescribeGroups
    EndTxnRequest asks EndTxn
    FetchRequest asks Fetch
    FindCoordinatorRequest asks FindCoordinator
    InitProducerIdRequest asks InitProducerId
    ListOffsetsRequest asks ListOffsets
    MetadataRequest asks Metadata
    OffsetCommitRequest asks OffsetCommit
    OffsetFetchRequest asks OffsetFetch
    OffsetForLeaderEpochRequest asks OffsetForLeaderEpoch
    ProduceRequest asks Produce
    SaslAuthenticateRequest asks SaslAuthenticate
    SaslHandshakeRequest asks SaslHandshake
}
