//! Whom an encrypted connection trusts, and who we are on it: the same for brokers and databases.

use std::fmt;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A PEM text, or where one lies. Files are read for each connection, so that renewed certificates are taken up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pem {
    /// A file.
    File(String),
    /// The text itself.
    Text(Secret),
}

/// What of the server's certificate is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// That a CA we trust signed it, and that it names the host.
    Host,
    /// That a CA we trust signed it.
    Signer,
    /// Nothing: the connection is encrypted, with whomever.
    Nothing,
}

/// What the settings are called where a person gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Names {
    /// The CA.
    pub ca: &'static str,
    /// Our certificate.
    pub certificate: &'static str,
    /// Its key.
    pub key: &'static str,
}

/// What an encrypted connection is checked by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// Who must have signed the server's certificate; the system's roots where there is none.
    pub ca: Option<Pem>,
    /// Our own certificate and its key.
    pub client: Option<(Pem, Pem)>,
    /// What is checked.
    pub check: Check,
    /// What these are called.
    pub names: Names,
}

impl Tls {
    /// The settings as the TLS library takes them. Reads the files.
    ///
    /// # Errors
    /// The setting that can't be used, and why.
    pub fn client_config(&self) -> Result<ClientConfig, String> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("TLS can't be set up: {error}"))?;
        let builder = match self.check {
            Check::Host => builder.with_root_certificates(Arc::new(self.roots()?)),
            Check::Signer => {
                let verifier = Lenient::signer(Arc::new(self.roots()?), &provider)?;
                builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
            }
            Check::Nothing => {
                let verifier = Lenient::anybody(&provider);
                builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
            }
        };
        let Some((certificate, key)) = &self.client else {
            return Ok(builder.with_no_client_auth());
        };
        let Names {
            certificate: certificate_name,
            key: key_name,
            ..
        } = self.names;
        let chain = certificates(certificate, certificate_name)?;
        let key = PrivateKeyDer::from_pem_slice(&text(key, key_name)?).map_err(|error| {
            format!(
                "{key_name} holds no unencrypted key in PEM ({error}); openssl pkcs8 -in KEY -out key.pem decrypts one"
            )
        })?;
        builder
            .with_client_auth_cert(chain, key)
            .map_err(|error| format!("{certificate_name} and {key_name} can't be used: {error}"))
    }

    fn roots(&self) -> Result<RootCertStore, String> {
        let mut roots = RootCertStore::empty();
        let name = self.names.ca;
        match &self.ca {
            Some(ca) => {
                for certificate in certificates(ca, name)? {
                    roots
                        .add(certificate)
                        .map_err(|error| format!("{name} holds a certificate that is no CA's: {error}"))?;
                }
            }
            None => {
                let system = rustls_native_certs::load_native_certs();
                let (good, _) = roots.add_parsable_certificates(system.certs);
                if good == 0 {
                    return Err(format!("the system has no root certificates; give {name}"));
                }
            }
        }
        Ok(roots)
    }
}

fn text(pem: &Pem, name: &str) -> Result<Vec<u8>, String> {
    match pem {
        Pem::Text(text) => Ok(text.0.clone().into_bytes()),
        Pem::File(file) => std::fs::read(file).map_err(|error| format!("{name}: {file} can't be read: {error}")),
    }
}

fn certificates(pem: &Pem, name: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = text(pem, name)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(format!("{name} holds no certificate in PEM")),
        Err(error) => Err(format!("{name} holds no certificate in PEM: {error}")),
    }
}

/// Looks at less of a certificate than its name. What is signed during the handshake is checked in any case.
#[derive(Debug)]
struct Lenient {
    /// Who must have signed it, where that is looked at.
    signer: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl Lenient {
    fn signer(roots: Arc<RootCertStore>, provider: &Arc<CryptoProvider>) -> Result<Self, String> {
        let signer = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider))
            .build()
            .map_err(|error| format!("TLS can't be set up: {error}"))?;
        Ok(Self {
            signer: Some(signer),
            ..Self::anybody(provider)
        })
    }

    fn anybody(provider: &Arc<CryptoProvider>) -> Self {
        Self {
            signer: None,
            provider: Arc::clone(provider),
        }
    }
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(signer) = &self.signer else {
            return Ok(ServerCertVerified::assertion());
        };
        match signer.verify_server_cert(certificate, intermediates, name, ocsp, now) {
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
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
