//! Tokens from an OpenID provider, by OAuth 2.0's grant of client credentials (RFC 6749, section 4.4): one request for many
//! connections.

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::ACCEPT;
use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode, Url};
use rustls::CertificateError;
use serde_json::Value;
use tidemill_engine::error::{Error, Kind};
use tidemill_engine::time::{Clock, SystemClock};
use tidemill_engine::tls::{Secret, Tls};
use tokio::sync::Mutex;
use tokio::time::timeout;
use tracing::warn;

use crate::security::Login;
use crate::wire::backoff::Backoff;
use crate::wire::fault::{Answer, Fault};

/// How much of a token's life new connections get it; then a new one is asked for.
const LIFE_USED: f64 = 0.8;
/// How long a token holds whose endpoint doesn't say.
const LIFE_UNSAID: Duration = Duration::from_secs(60);
/// How long a token holds at most, whatever its endpoint says.
const LIFE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// How much of what an endpoint says for itself is passed on.
const WORDS_MAX: usize = 200;

/// Where tokens are asked for, and by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Without name and password.
    pub(crate) url: Url,
    /// The client's id and secret.
    pub(crate) client: Login,
    /// What the token is to be good for; the endpoint's choice where there is none.
    pub(crate) scope: Option<String>,
    /// Whom we trust to be the endpoint.
    pub(crate) tls: Tls,
}

/// Tokens of one endpoint; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Tokens {
    endpoint: Arc<Endpoint>,
    clock: Arc<dyn Clock>,
    /// Held while a token is asked for, so that connections opened together ask once.
    held: Arc<Mutex<Held>>,
}

impl PartialEq for Tokens {
    fn eq(&self, other: &Self) -> bool {
        self.endpoint == other.endpoint
    }
}

impl Eq for Tokens {}

#[derive(Debug, Default)]
struct Held {
    token: Option<Token>,
    failure: Option<Failure>,
    backoff: Backoff,
}

#[derive(Debug)]
struct Token {
    text: Secret,
    /// In time since the clock began.
    renew_at: Duration,
    ends_at: Duration,
}

/// Why there is no token, which holds for a while: whoever asks meanwhile gets the same answer.
#[derive(Debug)]
struct Failure {
    /// In time since the clock began.
    until: Duration,
    reason: String,
    is_final: bool,
}

impl Failure {
    fn fault(&self) -> Fault {
        if self.is_final {
            Fault::Final(Error::new(Kind::Refused, self.reason.clone()))
        } else {
            Fault::Passing(self.reason.clone())
        }
    }
}

impl Held {
    /// A token that is good for a while.
    fn fresh(&self, now: Duration) -> Option<Secret> {
        let token = self.token.as_ref().filter(|token| now < token.renew_at);
        token.map(|token| token.text.clone())
    }

    /// What is left where no new token is to be had: the old one as long as it lives.
    fn left(&self, failure: &Failure, now: Duration) -> Answer<Secret> {
        match &self.token {
            Some(token) if now < token.ends_at => Ok(token.text.clone()),
            _ => Err(failure.fault()),
        }
    }
}

impl Tokens {
    /// Tokens of this endpoint. Nothing is asked yet.
    pub(crate) fn new(endpoint: Endpoint) -> Self {
        Self::on(Arc::new(SystemClock::default()), endpoint)
    }

    fn on(clock: Arc<dyn Clock>, endpoint: Endpoint) -> Self {
        Self {
            endpoint: Arc::new(endpoint),
            clock,
            held: Arc::default(),
        }
    }

    /// A token that holds, asked for where none is known that does; the endpoint may take `wait` to answer.
    ///
    /// # Errors
    /// Names the endpoint and what is wrong, without secret and token.
    pub(crate) async fn token(&self, wait: Duration) -> Answer<Secret> {
        let mut held = self.held.lock().await;
        let now = self.clock.elapsed();
        if let Some(token) = held.fresh(now) {
            return Ok(token);
        }
        if let Some(failure) = held.failure.as_ref().filter(|failure| now < failure.until) {
            return held.left(failure, now);
        }
        let asked = timeout(wait, self.endpoint.ask()).await;
        let asked = asked.unwrap_or_else(|_| {
            let text = format!("{}: no answer in {:.1} s", self.endpoint, wait.as_secs_f32());
            Err(Fault::Passing(text))
        });
        match asked {
            Ok(granted) => {
                let token = granted.text.clone();
                *held = Held {
                    token: Some(granted.from(now)),
                    ..Held::default()
                };
                Ok(token)
            }
            Err(fault) => {
                let (reason, is_final) = match fault {
                    Fault::Passing(reason) => (reason, false),
                    Fault::Final(error) => (error.chain(), true),
                };
                let now = self.clock.elapsed();
                let until = now + held.backoff.pause();
                let failure = Failure {
                    until,
                    reason,
                    is_final,
                };
                let left = held.left(&failure, now);
                if left.is_ok() {
                    warn!(
                        "no new token, the old one is used as long as it holds: {}",
                        failure.reason
                    );
                }
                held.failure = Some(failure);
                left
            }
        }
    }

    /// Forgets a token that a broker refused, so that the next connection brings a new one.
    pub(crate) async fn forget(&self, refused: &Secret) {
        let mut held = self.held.lock().await;
        held.token.take_if(|token| token.text == *refused);
    }
}

/// What an endpoint grants.
#[derive(Debug, PartialEq, Eq)]
struct Granted {
    text: Secret,
    life: Duration,
}

impl Granted {
    /// The token, whose life began at `asked_at` at the earliest.
    fn from(self, asked_at: Duration) -> Token {
        Token {
            text: self.text,
            renew_at: asked_at + self.life.mul_f64(LIFE_USED),
            ends_at: asked_at + self.life,
        }
    }
}

impl std::fmt::Display for Endpoint {
    /// Its query is left out, in which somebody may have put a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let url = &self.url;
        write!(
            f,
            "token endpoint {}://{}",
            url.scheme(),
            url.host_str().unwrap_or_default()
        )?;
        if let Some(port) = url.port() {
            write!(f, ":{port}")?;
        }
        f.write_str(url.path())
    }
}

impl Endpoint {
    async fn ask(&self) -> Answer<Granted> {
        let mut form = vec![("grant_type", "client_credentials")];
        form.extend(self.scope.as_deref().map(|scope| ("scope", scope)));
        let Login { user, password } = &self.client;
        let request = self.http()?.post(self.url.clone()).header(ACCEPT, "application/json");
        let request = request.basic_auth(user, Some(&password.0)).form(&form);
        let mut response = request.send().await.map_err(|error| self.lost(&error))?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.lost(&error))? {
            body.extend_from_slice(&chunk);
            if body.len() > ANSWER_BYTES_MAX {
                return Err(self.refused(&format!("its answer is longer than {ANSWER_BYTES_MAX} bytes")));
            }
        }
        self.read(status, &body)
    }

    /// A client for one request: they are rare, and so renewed certificates are taken up. The secret goes to the endpoint that
    /// is named and nowhere else.
    fn http(&self) -> Answer<Client> {
        let tls = self.tls.client_config().map_err(|why| self.refused(&why))?;
        let client = Client::builder()
            .use_preconfigured_tls(tls)
            .http1_only()
            .redirect(Policy::none())
            .no_proxy()
            .build();
        client.map_err(|error| self.refused(&format!("no client can be made for it: {}", innermost(&error))))
    }

    fn refused(&self, why: &str) -> Fault {
        Fault::Final(Error::new(Kind::Refused, format!("{self}: {why}")))
    }

    /// A request without an answer.
    fn lost(&self, error: &reqwest::Error) -> Fault {
        match distrust(error) {
            Some(why) => self.refused(&why),
            None => Fault::Passing(format!("{self}: {}", innermost(error))),
        }
    }

    fn read(&self, status: StatusCode, body: &[u8]) -> Answer<Granted> {
        let answer: Option<Value> = serde_json::from_slice(body).ok();
        if !status.is_success() {
            return Err(self.unsuccessful(status, answer.as_ref()));
        }
        let Some(answer) = answer else {
            return Err(self.refused("its answer is no JSON; is this the address of a token endpoint?"));
        };
        let kind = answer["token_type"].as_str().unwrap_or("Bearer");
        if !kind.eq_ignore_ascii_case("Bearer") {
            let why = format!("it gives tokens of the type {}, not Bearer", self.harmless(kind));
            return Err(self.refused(&why));
        }
        let Some(token) = answer["access_token"].as_str().filter(|token| !token.is_empty()) else {
            return Err(self.refused("its answer has no access_token; is this the address of a token endpoint?"));
        };
        if !token.chars().all(|letter| letter.is_ascii_graphic()) {
            return Err(self.refused("its access_token has characters that no token may have"));
        }
        let life = seconds(&answer["expires_in"]).map_or(LIFE_UNSAID, Duration::from_secs);
        Ok(Granted {
            text: Secret(token.to_owned()),
            life: life.min(LIFE_MAX),
        })
    }

    /// The fault of an answer other than a token.
    fn unsuccessful(&self, status: StatusCode, answer: Option<&Value>) -> Fault {
        let word = |name: &str| Some(self.harmless(answer?.get(name)?.as_str()?));
        let words: Vec<String> = ["error", "error_description"].into_iter().filter_map(word).collect();
        let words = match words.as_slice() {
            [] => String::new(),
            words => format!(" ({})", words.join(": ")),
        };
        let advice = match status {
            StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                "; check sasl.oauthbearer.client.id, client.secret and scope"
            }
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => "; is this the address of a token endpoint?",
            status if status.is_redirection() => "; redirections are not followed: give the address that it points to",
            _ => "",
        };
        let text = format!("it answers {status}{words}{advice}");
        let is_passing =
            status.is_server_error() || [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS].contains(&status);
        if is_passing {
            Fault::Passing(format!("{self}: {text}"))
        } else {
            self.refused(&text)
        }
    }

    /// What the endpoint says, short, on one line and without our secret, should it repeat it.
    fn harmless(&self, words: &str) -> String {
        let secret = &self.client.password.0;
        let words = if secret.is_empty() {
            words.to_owned()
        } else {
            words.replace(secret, "***")
        };
        let words = words.chars().filter(|letter| !letter.is_control());
        words.take(WORDS_MAX).collect()
    }
}

/// Whole seconds; some endpoints put them in quotes.
fn seconds(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

fn causes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}

/// The cause behind all others, which alone says what happened.
fn innermost(error: &(dyn StdError + 'static)) -> String {
    causes(error).last().map(ToString::to_string).unwrap_or_default()
}

/// The error of TLS among the causes. An I/O error does not name as its cause what it holds.
fn of_tls<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    if let Some(found) = error.downcast_ref() {
        return Some(found);
    }
    match error.downcast_ref::<io::Error>() {
        Some(io) => of_tls(io.get_ref()?),
        None => of_tls(error.source()?),
    }
}

/// Why we do not trust the other side, and the way out; nothing for other errors.
fn distrust(error: &(dyn StdError + 'static)) -> Option<String> {
    use rustls::Error as Reason;
    let reason = of_tls(error)?;
    let way_out = match reason {
        Reason::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "; give the CA that signed it as ssl.ca.location"
        }
        Reason::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "; name it as its certificate does",
        Reason::InvalidCertificate(_) | Reason::AlertReceived(_) => "",
        Reason::InvalidMessage(_) => "; does it speak TLS?",
        _ => return None,
    };
    Some(format!("{reason}{way_out}"))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

    use async_trait::async_trait;
    use futures::future::join_all;
    use tidemill_engine::tls::{Check, Names};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    const SECRET: &str = "hunter2";
    const WAIT: Duration = Duration::from_secs(10);

    fn endpoint(url: &str) -> Endpoint {
        Endpoint {
            url: Url::parse(url).unwrap(),
            client: Login {
                user: "me".to_owned(),
                password: Secret(SECRET.to_owned()),
            },
            scope: Some("read write".to_owned()),
            // Any PEM of a CA will do: nothing here is asked over TLS.
            tls: Tls {
                ca: None,
                client: None,
                check: Check::Nothing,
                names: Names {
                    ca: "ssl.ca.location",
                    certificate: "",
                    key: "",
                },
            },
        }
    }

    /// Time as a test sets it.
    #[derive(Debug, Default)]
    struct Seconds(AtomicU64);

    #[async_trait]
    impl Clock for Seconds {
        fn now_ms(&self) -> i64 {
            0
        }

        fn elapsed(&self) -> Duration {
            Duration::from_secs(self.0.load(Ordering::SeqCst))
        }

        async fn sleep(&self, _time: Duration) {
            unreachable!("nothing here waits for a time")
        }
    }

    /// Endpoint in process that gives the answers in turn, the last one again and again.
    #[derive(Clone)]
    struct FakeEndpoint {
        answers: Arc<Vec<String>>,
        asked: Arc<AtomicUsize>,
        clock: Arc<Seconds>,
    }

    impl FakeEndpoint {
        async fn start(answers: impl IntoIterator<Item = String>) -> (Self, Tokens) {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let fake = Self {
                answers: Arc::new(answers.into_iter().collect()),
                asked: Arc::default(),
                clock: Arc::default(),
            };
            let served = fake.clone();
            tokio::spawn(async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    tokio::spawn(served.clone().serve(stream));
                }
            });
            let clock = Arc::clone(&fake.clock);
            let endpoint = endpoint(&format!("http://127.0.0.1:{port}/token?tenant=1"));
            (fake, Tokens::on(clock, endpoint))
        }

        async fn serve(self, mut stream: TcpStream) {
            let mut request = String::new();
            while !request.ends_with("grant_type=client_credentials&scope=read+write") {
                let mut bytes = [0; 4096];
                let read = stream.read(&mut bytes).await.unwrap();
                assert!(read > 0, "the request ends with {request}");
                request.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
            }
            assert!(request.starts_with("POST /token?tenant=1 HTTP/1.1\r\n"), "{request}");
            assert!(
                request.contains("authorization: Basic bWU6aHVudGVyMg==\r\n"),
                "{request}"
            );
            let number = self.asked.fetch_add(1, Ordering::SeqCst);
            let answer = &self.answers[number.min(self.answers.len() - 1)];
            stream.write_all(answer.as_bytes()).await.unwrap();
        }

        /// Moves the time to so many seconds after the start.
        fn at(&self, seconds: u64) {
            self.clock.0.store(seconds, Ordering::SeqCst);
        }

        fn asked(&self) -> usize {
            self.asked.load(Ordering::SeqCst)
        }
    }

    fn http(status: &str, body: &str) -> String {
        let length = body.len();
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
    }

    fn grant(token: &str, seconds: u64) -> String {
        let body = serde_json::json!({"access_token": token, "token_type": "bearer", "expires_in": seconds});
        http("200 OK", &body.to_string())
    }

    async fn text(tokens: &Tokens) -> String {
        tokens.token(WAIT).await.unwrap().0
    }

    #[tokio::test]
    async fn connections_opened_together_ask_once() {
        let (fake, tokens) = FakeEndpoint::start([grant("first", 3600)]).await;
        let many = join_all((0..20).map(|_| text(&tokens))).await;
        assert!(many.iter().all(|token| token == "first"));
        assert_eq!(text(&tokens.clone()).await, "first");
        assert_eq!(fake.asked(), 1);
    }

    #[tokio::test]
    async fn a_token_is_renewed_before_it_ends_and_where_a_broker_refused_it() {
        let (fake, tokens) =
            FakeEndpoint::start([grant("first", 100), grant("second", 3600), grant("third", 3600)]).await;
        assert_eq!(text(&tokens).await, "first");
        fake.at(79);
        assert_eq!(text(&tokens).await, "first");
        fake.at(81);
        let second = tokens.token(WAIT).await.unwrap();
        assert_eq!(second.0, "second");
        tokens.forget(&Secret("first".to_owned())).await;
        assert_eq!(text(&tokens).await, "second");
        tokens.forget(&second).await;
        assert_eq!(text(&tokens).await, "third");
        assert_eq!(fake.asked(), 3);
    }

    #[tokio::test]
    async fn the_old_token_is_used_as_long_as_it_lives_where_there_is_no_new_one() {
        let (fake, tokens) = FakeEndpoint::start([grant("first", 100), http("503 Busy", "")]).await;
        assert_eq!(text(&tokens).await, "first");
        // However often somebody looks, the endpoint is asked once in a pause.
        for (at, asked) in [(81, 2), (90, 3), (99, 4)] {
            fake.at(at);
            for _ in 0..20 {
                assert_eq!(text(&tokens).await, "first");
            }
            assert_eq!(fake.asked(), asked, "after {at} s");
        }
        fake.at(101);
        let fault = tokens.token(WAIT).await.unwrap_err();
        assert!(
            matches!(&fault, Fault::Passing(reason) if reason.contains("503")),
            "{fault}"
        );
    }

    #[tokio::test]
    async fn an_endpoint_that_is_away_or_silent_is_named_without_its_query() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tokens = || Tokens::new(endpoint(&format!("http://{address}/token?key=value")));
        let silent = tokens().token(Duration::from_millis(100)).await.unwrap_err();
        drop(listener);
        let away = tokens().token(WAIT).await.unwrap_err();
        for (fault, why) in [(silent, "no answer in 0.1 s"), (away, "Connection refused")] {
            let expected = format!("token endpoint http://{address}/token: {why}");
            assert!(
                matches!(&fault, Fault::Passing(reason) if reason.starts_with(&expected)),
                "{fault}"
            );
        }
    }

    #[tokio::test]
    async fn an_answer_without_end_is_cut_off() {
        let body = "x".repeat(ANSWER_BYTES_MAX + 1);
        let (_, tokens) = FakeEndpoint::start([http("200 OK", &body)]).await;
        let fault = tokens.token(WAIT).await.unwrap_err();
        assert!(fault.to_string().contains("longer than 1048576 bytes"), "{fault}");
    }

    #[test]
    fn answers_are_read() {
        let endpoint = endpoint("https://login/token");
        let of = |body: &str| endpoint.read(StatusCode::OK, body.as_bytes()).unwrap();
        let expected = |seconds| Granted {
            text: Secret("t.o.k".to_owned()),
            life: Duration::from_secs(seconds),
        };
        let all = r#"{"access_token":"t.o.k","token_type":"Bearer","expires_in":300,"more":[]}"#;
        assert_eq!(of(all), expected(300));
        assert_eq!(of(r#"{"access_token":"t.o.k","expires_in":"300"}"#), expected(300));
        assert_eq!(of(r#"{"access_token":"t.o.k"}"#), expected(60));
        let for_ever = format!(r#"{{"access_token":"t.o.k","expires_in":{}}}"#, u64::MAX);
        assert_eq!(of(&for_ever), expected(LIFE_MAX.as_secs()));
    }

    #[test]
    fn answers_that_give_no_token_are_refused_or_may_pass() {
        let endpoint = endpoint("https://login/token");
        let invalid = r#"{"error":"invalid_client","error_description":"not\nhunter2"}"#;
        for (status, body, why, passes) in [
            (200, "<html>", "is no JSON", false),
            (200, "{}", "has no access_token", false),
            (200, "[1]", "has no access_token", false),
            (200, r#"{"access_token":"to\u0001k"}"#, "no token may have", false),
            (
                200,
                r#"{"access_token":"tok","token_type":"mac"}"#,
                "type mac, not Bearer",
                false,
            ),
            (
                401,
                invalid,
                "401 Unauthorized (invalid_client: not***); check sasl.oauthbearer.client.id",
                false,
            ),
            (404, "", "is this the address of a token endpoint?", false),
            (302, "", "redirections are not followed", false),
            (429, "", "429 Too Many Requests", true),
            (502, "<html>", "502 Bad Gateway", true),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let fault = endpoint.read(status, body.as_bytes()).unwrap_err();
            let text = fault.to_string();
            assert!(
                text.starts_with("token endpoint https://login/token: ") && text.contains(why),
                "{text}"
            );
            assert!(!text.contains(SECRET) && !text.contains("tok\""), "{text}");
            assert_eq!(matches!(fault, Fault::Passing(_)), passes, "{text}");
        }
    }
}
