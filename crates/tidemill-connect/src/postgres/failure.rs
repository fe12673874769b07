//! Errors of the server and the connection, by what their reader should do.

use std::error::Error as _;
use std::fmt::{Display, Write};

use rustls::CertificateError;
use tidemill_engine::error::{Error, Kind};
use tokio_postgres::error::DbError;

/// The ways out of a time limit.
const TIME_LIMIT_HINT: &str = ". Raise statement_timeout and transaction_timeout for this user, or lower max_batch_bytes or max_rate_per_partition";

/// Turns an error of the driver into ours. `what` says what was being done, with the sink's name.
pub(super) fn failure(what: impl Display, error: tokio_postgres::Error) -> Error {
    match error.as_db_error() {
        Some(said) => {
            let kind = kind(said.code().code());
            let mut text = format!("{what}: {}", words(said));
            if kind == Kind::TimeLimit {
                text.push_str(TIME_LIMIT_HINT);
            }
            Error::new(kind, text)
        }
        None => match distrust(&error) {
            Some(why) => Error::new(Kind::Refused, format!("{what}: {why}")),
            None => Error::with_source(Kind::Unavailable, what.to_string(), error),
        },
    }
}

/// Why the two ends could not agree to encrypt, with the way out, where that is what went wrong.
fn distrust(error: &tokio_postgres::Error) -> Option<String> {
    let mut causes = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        causes.push(cause);
        next = cause.source();
    }
    // An I/O error shows its cause only to who asks it.
    let reason = causes.iter().find_map(|cause| {
        let inner = || {
            cause
                .downcast_ref::<std::io::Error>()?
                .get_ref()?
                .downcast_ref::<rustls::Error>()
        };
        cause.downcast_ref::<rustls::Error>().or_else(inner)
    });
    let Some(reason) = reason else {
        let last = causes.last()?.to_string();
        return last
            .contains("does not support TLS")
            .then(|| format!("{last}; sslmode=disable does without, and sends everything readable for who listens"));
    };
    let way_out = match reason {
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "; connect by a name that the certificate has, or take sslmode=verify-ca",
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "; give the CA that signed it as sslrootcert"
        }
        rustls::Error::InvalidCertificate(_) => "",
        rustls::Error::AlertReceived(_) => "; it may ask for a client certificate that it trusts: sslcert and sslkey",
        _ => return None,
    };
    Some(format!("{reason}{way_out}"))
}

/// What an SQLSTATE asks for. What isn't known to pass by itself is refused: a retry could go on for ever.
fn kind(code: &str) -> Kind {
    // query_canceled, as statement_timeout does it, and transaction_timeout.
    if ["57014", "25P04"].contains(&code) {
        return Kind::TimeLimit;
    }
    let passes = ["08", "40", "53", "57", "58"].iter().any(|class| code.starts_with(class))
        // lock_not_available, and the time limit on idle sessions.
        || ["55P03", "25P03"].contains(&code);
    if passes { Kind::Unavailable } else { Kind::Refused }
}

/// The server's own words in one line.
fn words(said: &DbError) -> String {
    let mut text = said.message().to_owned();
    let more = [
        ("detail", said.detail()),
        ("hint", said.hint()),
        ("where", said.where_()),
    ];
    for (name, value) in more {
        if let Some(value) = value {
            // Writing to a String can't fail.
            let _infallible = write!(text, "; {name}: {}", value.replace('\n', " "));
        }
    }
    let _infallible = write!(text, " (SQLSTATE {})", said.code().code());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_what_passes_from_what_is_refused() {
        for code in ["08006", "40001", "40P01", "53300", "55P03", "57P01"] {
            assert_eq!(kind(code), Kind::Unavailable, "{code}");
        }
        for code in ["57014", "25P04"] {
            assert_eq!(kind(code), Kind::TimeLimit, "{code}");
        }
        for code in ["22001", "23505", "42501", "28P01", "3D000", "XX001", "55006"] {
            assert_eq!(kind(code), Kind::Refused, "{code}");
        }
    }
}
