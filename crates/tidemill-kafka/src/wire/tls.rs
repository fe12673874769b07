//! TLS on a new connection.

use std::sync::Arc;

use rustls::CertificateError;
use rustls::pki_types::ServerName;
use tidemill_engine::error::{Error, Kind};
use tidemill_engine::tls::Tls;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::fault::{Answer, Fault};
use super::socket::Socket;

fn refused(text: String) -> Fault {
    Fault::Final(Error::new(Kind::Refused, text))
}

/// Encrypts a connection to `broker` (`host:port`), whose certificate is checked as the settings say.
///
/// # Errors
/// `Refused` where the two do not trust each other, naming the way out.
pub(super) async fn encrypt(stream: Socket, broker: &str, tls: &Tls) -> Answer<TlsStream<Socket>> {
    let config = tls.client_config().map_err(refused)?;
    let host = broker.rsplit_once(':').map_or(broker, |(host, _)| host);
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(|error| {
        refused(format!(
            "broker {broker}: its name can't stand in a certificate: {error}"
        ))
    })?;
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
    connecting.await.map_err(|error| {
        distrust(broker, &error).unwrap_or_else(|| {
            let hint = if error.kind() == std::io::ErrorKind::UnexpectedEof {
                "; is this the port of a TLS listener?"
            } else {
                ""
            };
            Fault::Passing(format!("broker {broker}: during the TLS handshake: {error}{hint}"))
        })
    })
}

/// The fault where an I/O error says that one side does not trust the other; nothing for others. What the broker thinks of our
/// certificate may arrive with a later read.
pub(super) fn distrust(broker: &str, error: &std::io::Error) -> Option<Fault> {
    use rustls::Error as Reason;
    let reason = error.get_ref()?.downcast_ref::<Reason>()?;
    let way_out = match reason {
        Reason::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "; connect by a name that the certificate has, or set ssl.endpoint.identification.algorithm = none",
        Reason::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "; give the CA that signed it as ssl.ca.location"
        }
        Reason::InvalidCertificate(_) => "",
        Reason::AlertReceived(_) => {
            "; it may ask for a client certificate that it trusts: ssl.certificate.location, ssl.key.location"
        }
        Reason::InvalidMessage(_) => "; is this the port of a TLS listener?",
        _ => return None,
    };
    Some(refused(format!("broker {broker}: {reason}{way_out}")))
}
