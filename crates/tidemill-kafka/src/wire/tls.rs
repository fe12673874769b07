//! TLS on a new connection.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tidemill_engine::error::{Error, Kind};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::fault::{Answer, Fault};
use crate::security::{Pem, Tls};

fn refused(text: String) -> Fault {
    Fault::Final(Error::new(Kind::Refused, text))
}

/// Encrypts a connection to `broker` (`host:port`), whose certificate is checked as the settings say.
///
/// # Errors
/// `Refused` where the two do not trust each other, naming the way out.
pub(super) async fn encrypt(stream: TcpStream, broker: &str, tls: &Tls) -> Answer<TlsStream<TcpStream>> {
    let config = client_config(tls).map_err(refused)?;
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
    use rustls::Error as Tls;
    let reason = error.get_ref()?.downcast_ref::<Tls>()?;
    let way_out = match reason {
        Tls::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "; connect by a name that the certificate has, or set ssl.endpoint.identification.algorithm = none",
        Tls::InvalidCertificate(CertificateError::UnknownIssuer) => "; give the CA that signed it as ssl.ca.location",
        Tls::InvalidCertificate(_) => "",
        Tls::AlertReceived(_) => {
            "; it may ask for a client certificate that it trusts: ssl.certificate.location, ssl.key.location"
        }
        Tls::InvalidMessage(_) => "; is this the port of a TLS listener?",
        _ => return None,
    };
    Some(refused(format!("broker {broker}: {reason}{way_out}")))
}

fn client_config(tls: &Tls) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS can't be set up: {error}"))?;
    let roots = Arc::new(roots(tls.ca.as_ref())?);
    let builder = if tls.check_host {
        builder.with_root_certificates(roots)
    } else {
        let verifier = AnyHost::new(roots, &provider)?;
        builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
    };
    let Some((certificate, key)) = &tls.client else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = certificates(certificate, "ssl.certificate.location")?;
    let text = text(key, "ssl.key.location")?;
    let key = PrivateKeyDer::from_pem_slice(&text).map_err(|error| {
        format!("ssl.key.location holds no unencrypted key in PEM ({error}); openssl pkcs8 -in KEY -out key.pem decrypts one")
    })?;
    builder
        .with_client_auth_cert(chain, key)
        .map_err(|error| format!("ssl.certificate.location and ssl.key.location can't be used: {error}"))
}

fn text(pem: &Pem, property: &str) -> Result<Vec<u8>, String> {
    match pem {
        Pem::Text(text) => Ok(text.0.clone().into_bytes()),
        Pem::File(file) => std::fs::read(file).map_err(|error| format!("{property}: {file} can't be read: {error}")),
    }
}

fn certificates(pem: &Pem, property: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = text(pem, property)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(format!("{property} holds no certificate in PEM")),
        Err(error) => Err(format!("{property} holds no certificate in PEM: {error}")),
    }
}

fn roots(ca: Option<&Pem>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(ca) => {
            for certificate in certificates(ca, "ssl.ca.location")? {
                roots
                    .add(certificate)
                    .map_err(|error| format!("ssl.ca.location holds a certificate that is no CA's: {error}"))?;
            }
        }
        None => {
            let system = rustls_native_certs::load_native_certs();
            let (good, _) = roots.add_parsable_certificates(system.certs);
            if good == 0 {
                return Err("the system has no root certificates; give ssl.ca.location".to_owned());
            }
        }
    }
    Ok(roots)
}

/// Trusts a certificate of our CA whatever host it names.
#[derive(Debug)]
struct AnyHost(Arc<WebPkiServerVerifier>);

impl AnyHost {
    fn new(roots: Arc<RootCertStore>, provider: &Arc<CryptoProvider>) -> Result<Self, String> {
        WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider))
            .build()
            .map(Self)
            .map_err(|error| format!("TLS can't be set up: {error}"))
    }
}

impl ServerCertVerifier for AnyHost {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.0.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            // The name is looked at last: all else was found good.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            outcome => outcome,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
