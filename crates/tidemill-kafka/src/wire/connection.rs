//! One connection to one broker.

use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use kafka_protocol::messages::{ApiKey, ApiVersionsRequest, RequestHeader};
use kafka_protocol::protocol::{Encodable, StrBytes};
use tidemill_engine::error::{Error, Kind};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_util::either::Either;

use super::fault::{Answer, Fault};
use super::request::Request;
use super::response::{Body, Fields, Malformed};
use super::socket::{Due, Socket};
use super::versions::Versions;
use super::{sasl, tls};
use crate::config::KafkaConfig;

/// The oldest release whose brokers know every request in a version that is spoken.
const OLDEST_KAFKA: &str = "2.1";
const UNSUPPORTED_VERSION: i16 = 35;
/// Longest response header: correlation id and, rarely, tagged fields.
const HEADER_BYTES_MAX: usize = 4096;
/// How much of the time for which the broker believes who we are an idle connection is used again.
const LIFETIME_USED: f64 = 0.8;
/// How an alert of TLS begins; it is what a plain client gets from a TLS listener.
const TLS_ALERT: [u8; 2] = [0x15, 0x03];

/// What carries bytes where it is not TCP alone: TLS.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Debug + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Debug + Send + Unpin> Transport for T {}

/// A connection on which one request is under way at a time.
///
/// An error leaves it in an unknown state: drop it.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: Either<Socket, Box<dyn Transport>>,
    due: Arc<Due>,
    /// What had come in when the last request was sent.
    received_before: u64,
    broker: String,
    /// When the broker no longer believes who we are.
    known_until: Option<Instant>,
    versions: Versions,
    has_answered: bool,
    config: Arc<KafkaConfig>,
    last_correlation_id: i32,
    outgoing: BytesMut,
}

impl Connection {
    /// Connects to `broker` (`host:port`) and asks for its versions.
    ///
    /// # Errors
    /// Where it can't be reached in `wait` or does not speak Kafka.
    pub(crate) async fn open(broker: &str, config: &Arc<KafkaConfig>, wait: Duration) -> Answer<Self> {
        sasl::prepare(&config.security, config.connect_timeout).await?;
        let opening = async {
            let stream = TcpStream::connect(broker).await.map_err(|error| lost(broker, &error))?;
            stream.set_nodelay(true).map_err(|error| lost(broker, &error))?;
            let due = Arc::new(Due::default());
            let stream = Socket::new(stream, Arc::clone(&due));
            let security = &config.security;
            let stream: Either<_, Box<dyn Transport>> = match &security.tls {
                None => Either::Left(stream),
                Some(tls) => Either::Right(Box::new(tls::encrypt(stream, broker, tls).await?)),
            };
            let mut connection = Self {
                stream,
                due,
                received_before: 0,
                broker: broker.to_owned(),
                known_until: None,
                versions: Versions::default(),
                has_answered: false,
                config: Arc::clone(config),
                last_correlation_id: 0,
                outgoing: BytesMut::new(),
            };
            connection.versions = connection.ask_versions().await?;
            let begun = Instant::now();
            let lifetime = sasl::authenticate(&mut connection, security).await?;
            connection.known_until = lifetime.map(|lifetime| begun + lifetime.mul_f64(LIFETIME_USED));
            Ok(connection)
        };
        timeout(wait, opening).await.unwrap_or_else(|_| {
            Err(Fault::Passing(format!(
                "broker {broker}: no answer to a connection in {:.1} s",
                wait.as_secs_f32()
            )))
        })
    }

    /// A connection whose other side is `stream`.
    #[cfg(feature = "fuzzing")]
    pub(crate) fn over(stream: Box<dyn Transport>, config: Arc<KafkaConfig>) -> Self {
        Self {
            stream: Either::Right(stream),
            due: Arc::default(),
            received_before: 0,
            broker: "fuzz:0".to_owned(),
            known_until: None,
            versions: Versions::default(),
            has_answered: false,
            config,
            last_correlation_id: 0,
            outgoing: BytesMut::new(),
        }
    }

    /// `host:port`.
    pub(crate) fn broker(&self) -> &str {
        &self.broker
    }

    /// How long who opens connections waits for another's answer.
    pub(super) fn wait(&self) -> Duration {
        self.config.connect_timeout
    }

    /// The highest version of a request that both sides know.
    ///
    /// # Errors
    /// Where there is none.
    pub(crate) fn version(&self, key: ApiKey, lowest: i16, highest: i16) -> Answer<i16> {
        self.versions.choose(key, lowest, highest).ok_or_else(|| {
            let offered = match self.versions.highest(key) {
                Some(highest) => {
                    format!("knows {key:?} up to version {highest}, and {lowest} is the lowest that is spoken")
                }
                None => format!("does not know {key:?}, and version {lowest} is the lowest that is spoken"),
            };
            let text = format!(
                "broker {} {offered}: Kafka {OLDEST_KAFKA} or later is needed",
                self.broker
            );
            Fault::Final(Error::new(Kind::Refused, text))
        })
    }

    /// True where the broker neither closed the connection nor sent what nobody asked for, and still believes who we are.
    pub(crate) fn is_quiet(&mut self) -> bool {
        let is_known = self.known_until.is_none_or(|until| Instant::now() < until);
        let mut byte = [0];
        is_known && self.stream.read(&mut byte).now_or_never().is_none()
    }

    async fn ask_versions(&mut self) -> Answer<Versions> {
        let request = ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str("tidemill"))
            .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
        // Its response header is never in the compact form, so that old brokers can answer new clients.
        for version in [3, 0] {
            let frame = self.exchange(&request, version, false).await?;
            let mut fields = Fields::new(&frame, version >= 3);
            let broken = |error: Malformed| Fault::malformed(&self.broker, error.0);
            match fields.int16().map_err(broken)? {
                0 => return Versions::read(&mut fields).map_err(broken),
                UNSUPPORTED_VERSION if version > 0 => {}
                code => super::fault::check(code, || format!("broker {}: ApiVersions", self.broker))?,
            }
        }
        Err(Fault::malformed(&self.broker, "it knows no version of ApiVersions"))
    }

    /// Sends a request and waits for the whole response.
    ///
    /// # Errors
    /// A lost connection, silence beyond the request timeout, or a malformed frame.
    pub(crate) async fn call<R: Request>(&mut self, request: &R, version: i16) -> Answer<Body> {
        let bytes = self.exchange(request, version, true).await?;
        Ok(Body {
            bytes,
            version,
            broker: self.broker.clone(),
        })
    }

    async fn exchange<R: Request>(&mut self, request: &R, version: i16, may_have_tags: bool) -> Answer<Bytes> {
        self.send(request, version).await?;
        let compact = may_have_tags && R::header_version(version) >= 2;
        let mut incoming = self.receive(compact).await?;
        let mut frame = BytesMut::zeroed(incoming.left());
        incoming.read(&mut frame).await?;
        Ok(frame.freeze())
    }

    /// Sends a request without waiting for its response.
    ///
    /// # Errors
    /// A lost connection.
    pub(crate) async fn send<R: Request>(&mut self, request: &R, version: i16) -> Answer<()> {
        self.last_correlation_id = self.last_correlation_id.wrapping_add(1);
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY as i16)
            .with_request_api_version(version)
            .with_correlation_id(self.last_correlation_id)
            .with_client_id(Some(StrBytes::from_string(self.config.client_id.clone())));
        let mut frame = std::mem::take(&mut self.outgoing);
        frame.clear();
        frame.extend([0; 4]);
        header
            .encode(&mut frame, R::header_version(version))
            .and_then(|()| request.encode(&mut frame, version))
            .map_err(|error| Fault::Final(Error::new(Kind::Bug, format!("a request can't be written: {error:#}"))))?;
        let length = (frame.len() - 4) as u32;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        self.received_before = self.due.received();
        let wait = self.config.request_timeout;
        let write = async {
            self.stream.write_all(&frame).await?;
            self.stream.flush().await
        };
        within(wait, &self.broker, write).await?;
        self.outgoing = frame;
        Ok(())
    }

    /// Waits for the response to the last request; gives it with its header read, `compact` where that has tags.
    ///
    /// # Errors
    /// A lost connection, silence beyond the request timeout, or a malformed frame.
    pub(crate) async fn receive(&mut self, compact: bool) -> Answer<Incoming<'_>> {
        let wait = self.config.request_timeout;
        let mut head = [0; 8];
        let read = within(wait, &self.broker, self.stream.read_exact(&mut head)).await;
        if let Err(Fault::Passing(reason)) = &read
            && !self.has_answered
            && self.config.security.tls.is_none()
        {
            let hint = "it may be a TLS listener: security.protocol = SSL or SASL_SSL";
            return Err(Fault::Passing(format!("{reason}, before any answer; {hint}")));
        }
        read?;
        self.has_answered = true;
        let (length, correlation_id) = head.split_at(4);
        let length = i32::from_be_bytes(length.try_into().expect("half of eight bytes"));
        let correlation_id = i32::from_be_bytes(correlation_id.try_into().expect("half of eight bytes"));
        if head.starts_with(&TLS_ALERT) && self.config.security.tls.is_none() {
            let text = format!(
                "broker {} answers in TLS; set security.protocol = SSL or SASL_SSL",
                self.broker
            );
            return Err(Fault::Final(Error::new(Kind::Refused, text)));
        }
        if length < 4 || length as u32 > self.config.frame_bytes_max {
            return Err(Fault::malformed(&self.broker, &format!("its length is {length} bytes")));
        }
        if correlation_id != self.last_correlation_id {
            return Err(Fault::malformed(&self.broker, "it belongs to another request"));
        }
        // Nothing of the response came before its request was sent, and encrypted it has more bytes.
        self.due
            .expect(self.received_before + 4 + u64::from(length.unsigned_abs()));
        let mut incoming = Incoming {
            connection: self,
            left: length as usize - 4,
        };
        if compact {
            incoming.skip_tags().await?;
        }
        Ok(incoming)
    }
}

/// A response that is being read.
#[derive(Debug)]
pub(crate) struct Incoming<'a> {
    connection: &'a mut Connection,
    left: usize,
}

impl Incoming<'_> {
    /// Bytes that are still to come.
    pub(crate) fn left(&self) -> usize {
        self.left
    }

    /// The broker that sends it.
    pub(crate) fn broker(&self) -> &str {
        &self.connection.broker
    }

    /// Fills `buffer` with the next bytes.
    ///
    /// # Errors
    /// Where the response is shorter, the connection is lost, or the broker falls silent.
    pub(crate) async fn read(&mut self, buffer: &mut [u8]) -> Answer<()> {
        if buffer.len() > self.left {
            return Err(Fault::malformed(&self.connection.broker, "it ends too early"));
        }
        self.left -= buffer.len();
        let wait = self.connection.config.request_timeout;
        within(wait, &self.connection.broker, self.connection.stream.read_exact(buffer)).await?;
        Ok(())
    }

    /// Passes over the header's tagged fields. No broker sends any yet, so a byte at a time will do.
    async fn skip_tags(&mut self) -> Answer<()> {
        let mut seen = Vec::new();
        loop {
            let mut byte = [0];
            self.read(&mut byte).await?;
            seen.push(byte[0]);
            if Fields::new(&seen, true).tags().is_ok() {
                return Ok(());
            }
            if seen.len() > HEADER_BYTES_MAX {
                return Err(Fault::malformed(&self.connection.broker, "its header is too long"));
            }
        }
    }
}

async fn within<T>(wait: Duration, broker: &str, io: impl Future<Output = std::io::Result<T>>) -> Answer<T> {
    match timeout(wait, io).await {
        Ok(result) => result.map_err(|error| lost(broker, &error)),
        Err(_) => Err(Fault::Passing(format!(
            "broker {broker}: silent for {:.0} s",
            wait.as_secs_f32()
        ))),
    }
}

fn lost(broker: &str, error: &std::io::Error) -> Fault {
    tls::distrust(broker, error).unwrap_or_else(|| Fault::Passing(format!("broker {broker}: {error}")))
}
