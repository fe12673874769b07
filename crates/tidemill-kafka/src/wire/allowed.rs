//! What brokers let a client do.

/// An operation of Kafka's access control. The number is its bit in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Read records, store group offsets.
    Read = 3,
    /// Write records.
    Write = 4,
    /// Read settings.
    DescribeConfigs = 10,
}

impl Operation {
    /// Its name in Kafka's tools.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Read => "Read",
            Self::Write => "Write",
            Self::DescribeConfigs => "DescribeConfigs",
        }
    }
}

/// The operations that are allowed on a resource, as far as the broker says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Allowed(Option<i32>);

impl Allowed {
    /// Reads the field of an answer.
    pub(crate) fn of(bits: i32) -> Self {
        // The broker's word for not telling.
        Self((bits != i32::MIN).then_some(bits))
    }

    /// True where the broker says that the operation is not allowed.
    pub(crate) fn lacks(self, operation: Operation) -> bool {
        self.0.is_some_and(|bits| bits & (1 << operation as i32) == 0)
    }
}

/// What to do about a right that is missing; `resource` is as the tool takes it, `--topic events` for example.
pub(crate) fn missing(operation: Operation, resource: &str, brokers: &str) -> String {
    let name = operation.name();
    format!(
        "the right to {name} is missing; grant it to the user that connects: kafka-acls.sh --bootstrap-server {brokers} --add \
         --allow-principal User:NAME --operation {name} {resource}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_operations_and_silence_is_no_refusal() {
        let read_and_describe = Allowed::of(1 << 3 | 1 << 8);
        assert!(!read_and_describe.lacks(Operation::Read));
        assert!(read_and_describe.lacks(Operation::Write));
        assert!(!Allowed::of(i32::MIN).lacks(Operation::Write));
        assert!(Allowed::of(0).lacks(Operation::Read));
    }
}
