//! What the clients say on the side: failed deliveries, lost connections, log lines.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{DeliveryResult, ProducerContext};

/// A record that was not delivered.
#[derive(Debug, Clone)]
pub(super) struct FailedDelivery {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) bytes: usize,
    pub(super) error: KafkaError,
}

impl FailedDelivery {
    /// True where the record was only thrown away after another had failed.
    pub(super) fn is_consequence(&self) -> bool {
        matches!(
            self.error.rdkafka_error_code(),
            Some(RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight)
        )
    }
}

/// Listens to one client.
#[derive(Debug)]
pub(super) struct Observer {
    sink: String,
    /// True once a connection of this client was lost, even if it was made anew at once.
    disrupted: AtomicBool,
    /// A leaf lock: taken for a failure and for a look, never held across a call.
    first_failure: Mutex<Option<FailedDelivery>>,
    /// The last thing the client complained about, for errors that don't say why.
    complaint: Mutex<Option<String>>,
}

impl Observer {
    pub(super) fn new(sink: &str) -> Self {
        Self {
            sink: sink.to_owned(),
            disrupted: AtomicBool::new(false),
            first_failure: Mutex::new(None),
            complaint: Mutex::new(None),
        }
    }

    pub(super) fn is_disrupted(&self) -> bool {
        self.disrupted.load(Ordering::Acquire)
    }

    pub(super) fn first_failure(&self) -> Option<FailedDelivery> {
        // A panic within these short sections leaves nothing half done.
        self.first_failure
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }

    pub(super) fn complaint(&self) -> Option<String> {
        self.complaint
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }

    fn complain(&self, text: String) {
        *self.complaint.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(text);
    }
}

impl ClientContext for Observer {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // librdkafka logs every lost connection as FAIL unless it had been idle for a minute; only some of them also
        // arrive as errors. The same line is suppressed for 30 s after the first, which is all that is needed here.
        if facility == "FAIL" {
            self.disrupted.store(true, Ordering::Release);
            self.complain(message.to_owned());
        }
        let sink = self.sink.as_str();
        match level {
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning => tracing::warn!(sink, facility, "kafka client: {message}"),
            _ => tracing::debug!(sink, facility, "kafka client: {message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // The end of a partition arrives here too.
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::PartitionEOF) {
            return;
        }
        self.disrupted.store(true, Ordering::Release);
        self.complain(reason.to_owned());
        tracing::debug!(sink = self.sink.as_str(), %error, "kafka client: {reason}");
    }
}

impl ProducerContext for Observer {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, _opaque: ()) {
        if let Err((error, message)) = result {
            let mut first = self
                .first_failure
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            // What is purged fails because something else did: that is the failure to tell.
            if first.as_ref().is_none_or(FailedDelivery::is_consequence) {
                *first = Some(FailedDelivery {
                    topic: message.topic().to_owned(),
                    partition: message.partition(),
                    bytes: message.key_len() + message.payload_len(),
                    error: error.clone(),
                });
            }
        }
    }
}

impl ConsumerContext for Observer {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_connection_is_remembered_and_the_end_of_a_partition_is_none() {
        let observer = Observer::new("out");
        observer.error(KafkaError::Global(RDKafkaErrorCode::PartitionEOF), "");
        observer.log(RDKafkaLogLevel::Info, "CONFWARN", "a setting without effect");
        assert!(!observer.is_disrupted());
        observer.log(RDKafkaLogLevel::Info, "FAIL", "disconnected");
        assert!(observer.is_disrupted());
        assert_eq!(observer.complaint().as_deref(), Some("disconnected"));
    }
}
