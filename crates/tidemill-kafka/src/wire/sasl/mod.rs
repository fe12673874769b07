//! Says who we are on a new connection.

mod scram;

use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::{ApiKey, SaslAuthenticateRequest, SaslHandshakeRequest};
use kafka_protocol::protocol::StrBytes;
use tidemill_engine::error::{Error, Kind};
use tidemill_engine::tls::Secret;

use super::connection::Connection;
use super::fault::{Answer, Fault, check};
use super::response::{Body, Fields, Malformed};
use crate::security::{Bearer, Login, Sasl, Security, TokenSource, is_loopback};
use scram::{Hash, Scram};

const UNSUPPORTED_MECHANISM: i16 = 33;
const AUTHENTICATION_FAILED: i16 = 58;

/// Gets what must be at hand before a connection is opened: an endpoint that is slow with its token, `wait` at most, must not
/// look like a slow broker.
///
/// # Errors
/// Where there is no token.
pub(super) async fn prepare(security: &Security, wait: Duration) -> Answer<()> {
    if let Some(Sasl::OauthBearer(bearer)) = &security.sasl
        && let TokenSource::Endpoint(tokens) = &bearer.tokens
    {
        tokens.token(wait).await?;
    }
    Ok(())
}

/// Says who we are, as the settings say; gives how long that holds, where the broker says.
///
/// # Errors
/// `Refused` where the broker does not know us, or not in this way.
pub(super) async fn authenticate(connection: &mut Connection, security: &Security) -> Answer<Option<Duration>> {
    let Some(sasl) = &security.sasl else { return Ok(None) };
    if sasl.reveals() && security.tls.is_none() && !security.may_reveal && !is_loopback(host(connection.broker())) {
        return Err(refused(
            connection,
            &format!(
                "{} would send its secret unencrypted; use security.protocol = SASL_SSL, or say \
                 allow.plaintext.credentials = true",
                sasl.mechanism()
            ),
        ));
    }
    handshake(connection, sasl.mechanism()).await?;
    match sasl {
        Sasl::Plain(Login { user, password }) => {
            let message = format!("\0{user}\0{}", password.0);
            Ok(exchange(connection, message.into_bytes()).await?.lifetime)
        }
        Sasl::ScramSha256(login) => scram(connection, login, Hash::Sha256).await,
        Sasl::ScramSha512(login) => scram(connection, login, Hash::Sha512).await,
        Sasl::OauthBearer(token) => bearer(connection, token).await,
    }
}

fn refused(connection: &Connection, why: &str) -> Fault {
    let text = format!("broker {}: {why}", connection.broker());
    Fault::Final(Error::new(Kind::Refused, text))
}

fn host(broker: &str) -> &str {
    broker.rsplit_once(':').map_or(broker, |(host, _)| host)
}

async fn handshake(connection: &mut Connection, mechanism: &str) -> Answer<()> {
    let request = SaslHandshakeRequest::default().with_mechanism(StrBytes::from_string(mechanism.to_owned()));
    let version = connection.version(ApiKey::SaslHandshake, 1, 1)?;
    let body = connection.call(&request, version).await?;
    let (code, known) = read_handshake(&body).map_err(|error| Fault::malformed(&body.broker, error.0))?;
    if code == UNSUPPORTED_MECHANISM {
        let known = known.join(", ");
        return Err(refused(
            connection,
            &format!("it does not take sasl.mechanism = {mechanism}; it takes {known}"),
        ));
    }
    check(code, || format!("broker {}: SaslHandshake", body.broker))
}

pub(super) fn read_handshake(body: &Body) -> Result<(i16, Vec<String>), Malformed> {
    let mut fields = Fields::new(&body.bytes, false);
    let code = fields.int16()?;
    let known = fields.list(2, |fields| Ok(fields.required_text()?.to_owned()))?;
    Ok((code, known))
}

/// A broker's reply in the course of a mechanism.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reply {
    message: Vec<u8>,
    lifetime: Option<Duration>,
}

async fn exchange(connection: &mut Connection, message: Vec<u8>) -> Answer<Reply> {
    let request = SaslAuthenticateRequest::default().with_auth_bytes(Bytes::from(message));
    let version = connection.version(ApiKey::SaslAuthenticate, 0, 2)?;
    let body = connection.call(&request, version).await?;
    let (code, words, reply) = read_reply(&body).map_err(|error| Fault::malformed(&body.broker, error.0))?;
    if code == AUTHENTICATION_FAILED {
        let words = words.unwrap_or_else(|| "authentication failed".to_owned());
        return Err(refused(
            connection,
            &format!("it does not let us in: {words}; check name and password or token"),
        ));
    }
    check(code, || format!("broker {}: SaslAuthenticate", body.broker))?;
    Ok(reply)
}

pub(super) fn read_reply(body: &Body) -> Result<(i16, Option<String>, Reply), Malformed> {
    let mut fields = Fields::new(&body.bytes, body.version >= 2);
    let code = fields.int16()?;
    let words = fields.text()?.map(str::to_owned);
    let bytes = fields.count(1)?.unwrap_or(0);
    let message = fields.take(bytes)?.to_vec();
    // The first version tells of no end.
    let millis = if body.version >= 1 { fields.int64()? } else { 0 };
    let millis = u64::try_from(millis).unwrap_or(0);
    let lifetime = (millis > 0).then(|| Duration::from_millis(millis));
    Ok((code, words, Reply { message, lifetime }))
}

async fn scram(connection: &mut Connection, login: &Login, hash: Hash) -> Answer<Option<Duration>> {
    let nonce: u128 = rand::random();
    let scram = Scram::new(hash, &login.user, &format!("{nonce:032x}"));
    let challenge = exchange(connection, scram.first().into_bytes()).await?.message;
    let (answer, proof_of_server) = scram
        .answer(&challenge, &login.password.0)
        .map_err(|why| refused(connection, &why))?;
    let reply = exchange(connection, answer.into_bytes()).await?;
    if reply.message != proof_of_server.as_bytes() {
        return Err(refused(
            connection,
            "it can't prove that it knows the password: it is not who it says",
        ));
    }
    Ok(reply.lifetime)
}

async fn bearer(connection: &mut Connection, bearer: &Bearer) -> Answer<Option<Duration>> {
    let token = match &bearer.tokens {
        TokenSource::File(file) => {
            let token = tokio::fs::read_to_string(file).await;
            let unread = |error| refused(connection, &format!("the token file {file} can't be read: {error}"));
            Secret(token.map_err(unread)?.trim().to_owned())
        }
        TokenSource::Endpoint(tokens) => tokens.token(connection.wait()).await?,
    };
    let reply = exchange(connection, first_message(&token, &bearer.extensions).into_bytes()).await?;
    if reply.message.is_empty() {
        return Ok(reply.lifetime);
    }
    if let TokenSource::Endpoint(tokens) = &bearer.tokens {
        tokens.forget(&token).await;
    }
    // What is wrong with the token; the exchange has to be ended by an empty message.
    let words = String::from_utf8_lossy(&reply.message).into_owned();
    exchange(connection, vec![1]).await?;
    Err(refused(connection, &format!("it does not take the token: {words}")))
}

/// What OAUTHBEARER sends (RFC 7628, section 3.1).
fn first_message(token: &Secret, extensions: &[(String, String)]) -> String {
    let extensions: String = extensions
        .iter()
        .map(|(name, value)| format!("{name}={value}\u{1}"))
        .collect();
    format!("n,,\u{1}auth=Bearer {}\u{1}{extensions}\u{1}", token.0)
}

/// What becomes of a server's challenge.
///
/// # Errors
/// Where it is refused.
#[cfg(feature = "fuzzing")]
pub(super) fn answer_challenge(challenge: &[u8]) -> Result<(String, String), String> {
    Scram::new(Hash::Sha256, "me", "r").answer(challenge, "hunter2")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::testing::Writer;

    #[test]
    fn a_reply_is_read_and_a_cut_off_one_refused() {
        let answer = Writer::default()
            .int16(0)
            .text(None)
            .bytes(Some(b"r=1"))
            .int64(60_000)
            .tags();
        let of = |bytes: &[u8]| Body {
            bytes: bytes.to_vec().into(),
            version: 2,
            broker: "b".into(),
        };
        let expected = Reply {
            message: b"r=1".to_vec(),
            lifetime: Some(Duration::from_secs(60)),
        };
        assert_eq!(read_reply(&of(&answer.bytes)), Ok((0, None, expected)));
        for length in 0..answer.bytes.len() - 1 {
            assert!(read_reply(&of(&answer.bytes[..length])).is_err());
        }
    }

    #[test]
    fn extensions_follow_the_token() {
        let token = Secret("abc".to_owned());
        assert_eq!(first_message(&token, &[]), "n,,\u{1}auth=Bearer abc\u{1}\u{1}");
        let extensions =
            [("logicalCluster", "lkc-1"), ("a", "")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(
            first_message(&token, &extensions),
            "n,,\u{1}auth=Bearer abc\u{1}logicalCluster=lkc-1\u{1}a=\u{1}\u{1}"
        );
    }

    #[test]
    fn loopback_is_known_by_name_and_number() {
        for (broker, expected) in [
            ("localhost:9092", true),
            ("127.0.0.1:9092", true),
            ("[::1]:9092", true),
            ("10.0.0.1:9092", false),
            ("kafka:9092", false),
        ] {
            assert_eq!(is_loopback(host(broker)), expected, "{broker}");
        }
    }
}
