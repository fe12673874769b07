//! Errors of librdkafka in Tidemill's kinds.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tidemill_engine::error::{Error, Kind};

/// What the reader should do about an error with this code.
fn kind_of(code: RDKafkaErrorCode) -> Kind {
    use RDKafkaErrorCode as Code;
    match code {
        Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch => Kind::Fenced,
        Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed
        | Code::SaslAuthenticationFailed
        | Code::Authentication
        | Code::UnsupportedSASLMechanism
        | Code::SecurityDisabled
        | Code::SSL
        | Code::MessageSizeTooLarge
        | Code::InvalidMessageSize
        | Code::MessageBatchTooLarge
        | Code::InvalidRecord
        | Code::InvalidTopic
        | Code::UnknownTopic
        | Code::UnknownPartition
        | Code::UnknownTopicOrPartition
        | Code::InvalidReplicationFactor
        | Code::InvalidConfig
        | Code::PolicyViolation
        | Code::UnsupportedVersion
        | Code::UnsupportedFeature
        | Code::UnsupportedForMessageFormat
        | Code::UnsupportedCompressionType
        | Code::InvalidTransactionTimeout => Kind::Refused,
        Code::InvalidArgument | Code::State | Code::Conflict => Kind::Bug,
        _ => Kind::Unavailable,
    }
}

/// The error of doing `what`, in librdkafka's or the broker's words.
pub(crate) fn client_error(what: impl Into<String>, error: KafkaError) -> Error {
    match error {
        // The value is left out: it may be a password.
        KafkaError::ClientConfig(_, reason, key, _) => {
            Error::new(Kind::Config, format!("{}: property `{key}`: {reason}", what.into()))
        }
        KafkaError::ClientCreation(reason) => Error::new(Kind::Config, format!("{}: {reason}", what.into())),
        error => {
            let kind = error.rdkafka_error_code().map_or(Kind::Unavailable, kind_of);
            Error::with_source(kind, what, error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_and_sizes_are_refused_connections_pass_and_fences_are_told_apart() {
        let kind = |code| client_error("writing", KafkaError::MessageProduction(code)).kind();
        assert_eq!(kind(RDKafkaErrorCode::TopicAuthorizationFailed), Kind::Refused);
        assert_eq!(kind(RDKafkaErrorCode::MessageSizeTooLarge), Kind::Refused);
        assert_eq!(kind(RDKafkaErrorCode::BrokerTransportFailure), Kind::Unavailable);
        assert_eq!(kind(RDKafkaErrorCode::Fenced), Kind::Fenced);
    }
}
