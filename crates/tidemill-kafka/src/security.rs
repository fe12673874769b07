//! How connections are encrypted and who we are on them, from properties.

use std::collections::BTreeMap;
use std::net::IpAddr;

use reqwest::Url;
use tidemill_engine::tls::{Check, Names, Pem, Secret, Tls};

use crate::token_endpoint::{Endpoint, Tokens};

/// How we say who we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sasl {
    /// Name and password as they are.
    Plain(Login),
    /// A proof of the password, with SHA-256.
    ScramSha256(Login),
    /// The same with SHA-512.
    ScramSha512(Login),
    /// A token.
    OauthBearer(Bearer),
}

impl Sasl {
    /// Its registered name.
    pub(crate) fn mechanism(&self) -> &'static str {
        match self {
            Self::Plain(_) => "PLAIN",
            Self::ScramSha256(_) => "SCRAM-SHA-256",
            Self::ScramSha512(_) => "SCRAM-SHA-512",
            Self::OauthBearer(_) => "OAUTHBEARER",
        }
    }

    /// True where whoever listens learns enough to pose as us.
    pub(crate) fn reveals(&self) -> bool {
        matches!(self, Self::Plain(_) | Self::OauthBearer(_))
    }
}

/// Name and password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Login {
    pub(crate) user: String,
    pub(crate) password: Secret,
}

/// A token, and what is said with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bearer {
    pub(crate) tokens: TokenSource,
    /// More that the broker is told, by name.
    pub(crate) extensions: Vec<(String, String)>,
}

/// Where tokens come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TokenSource {
    /// This file, read for each connection.
    File(String),
    /// An OpenID provider.
    Endpoint(Tokens),
}

/// How connections are encrypted and who we are on them; by default neither. Shows no secret. Clones share their tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Security {
    pub(crate) tls: Option<Tls>,
    pub(crate) sasl: Option<Sasl>,
    /// Whether a password or token may be sent unencrypted to another host.
    pub(crate) may_reveal: bool,
}

/// A property that can't be honoured, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Its name as it was given.
    pub name: String,
    /// Why, without its value.
    pub why: String,
}

const PROTOCOL: &str = "security.protocol";
const CA_FILE: &str = "ssl.ca.location";
const CA: &str = "ssl.ca.pem";
const CERTIFICATE_FILE: &str = "ssl.certificate.location";
const CERTIFICATE: &str = "ssl.certificate.pem";
const KEY_FILE: &str = "ssl.key.location";
const KEY: &str = "ssl.key.pem";
const CHECK_HOST: &str = "ssl.endpoint.identification.algorithm";
const MECHANISM: &str = "sasl.mechanism";
const USER: &str = "sasl.username";
const PASSWORD: &str = "sasl.password";
const JAAS: &str = "sasl.jaas.config";
const TOKEN_URL: &str = "sasl.oauthbearer.token.endpoint.url";
const METHOD: &str = "sasl.oauthbearer.method";
const CLIENT_ID: &str = "sasl.oauthbearer.client.id";
const CLIENT_SECRET: &str = "sasl.oauthbearer.client.secret";
const SCOPE: &str = "sasl.oauthbearer.scope";
const EXTENSIONS: &str = "sasl.oauthbearer.extensions";
const MAY_REVEAL: &str = "allow.plaintext.credentials";

const KNOWN: [&str; 19] = [
    PROTOCOL,
    CA_FILE,
    CA,
    CERTIFICATE_FILE,
    CERTIFICATE,
    KEY_FILE,
    KEY,
    CHECK_HOST,
    MECHANISM,
    USER,
    PASSWORD,
    JAAS,
    TOKEN_URL,
    METHOD,
    CLIENT_ID,
    CLIENT_SECRET,
    SCOPE,
    EXTENSIONS,
    MAY_REVEAL,
];

/// Other names for the same.
const ALIASES: [(&str, &str); 6] = [
    ("sasl.mechanisms", MECHANISM),
    ("ssl.truststore.certificates", CA),
    ("ssl.keystore.certificate.chain", CERTIFICATE),
    ("ssl.keystore.key", KEY),
    ("sasl.oauthbearer.client.credentials.client.id", CLIENT_ID),
    ("sasl.oauthbearer.client.credentials.client.secret", CLIENT_SECRET),
];

const GSSAPI_WAY_OUT: &str = "GSSAPI is spoken through librdkafka alone: a source with reader = \"librdkafka\", in a tidemill built with \
     --features gssapi";

/// What errors call them.
const TLS_NAMES: Names = Names {
    ca: CA_FILE,
    certificate: CERTIFICATE_FILE,
    key: KEY_FILE,
};

/// True where a property says something about security.
pub fn is_security(name: &str) -> bool {
    name == PROTOCOL || name == MAY_REVEAL || name.starts_with("ssl.") || name.starts_with("sasl.")
}

/// True where a name or number of a host, IPv6 with or without brackets, is this host.
pub(crate) fn is_loopback(host: &str) -> bool {
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

impl Security {
    /// Reads the properties that say something about security, by librdkafka's names or Java's; others are left alone.
    ///
    /// ```
    /// use std::collections::BTreeMap;
    /// use tidemill_kafka::security::Security;
    ///
    /// let properties = [("security.protocol", "SSL"), ("ssl.ca.location", "ca.pem")];
    /// let properties = properties.map(|(name, value)| (name.to_owned(), value.to_owned()));
    /// let security = Security::of(&BTreeMap::from(properties)).expect("two that go together");
    /// ```
    ///
    /// # Errors
    /// All that can't be honoured, by name.
    pub fn of(properties: &BTreeMap<String, String>) -> Result<Self, Vec<Refused>> {
        let mut given = Given::default();
        for (name, value) in properties.iter().filter(|(name, _)| is_security(name)) {
            given.take(name, value);
        }
        let security = given.read();
        if given.refused.is_empty() {
            Ok(security)
        } else {
            Err(given.refused)
        }
    }
}

/// The properties by their first names.
#[derive(Default)]
struct Given<'a> {
    /// Value and the name it was given under.
    values: BTreeMap<&'static str, (&'a str, &'a str)>,
    refused: Vec<Refused>,
}

impl<'a> Given<'a> {
    fn refuse(&mut self, name: &str, why: impl Into<String>) {
        self.refused.push(Refused {
            name: name.to_owned(),
            why: why.into(),
        });
    }

    fn take(&mut self, name: &'a str, value: &'a str) {
        let alias = ALIASES
            .iter()
            .find(|(alias, _)| *alias == name)
            .map(|(_, first)| *first);
        let first = alias.or_else(|| KNOWN.into_iter().find(|known| *known == name));
        match first {
            Some(first) => {
                self.values.insert(first, (value, name));
            }
            None if name.starts_with("ssl.truststore.") || name.starts_with("ssl.keystore.") => self.refuse(
                name,
                "stores of Java are not read; export them as PEM (keytool -exportcert -rfc, openssl pkcs12) and give \
                 ssl.ca.location, ssl.certificate.location, ssl.key.location",
            ),
            None if name == "ssl.key.password" => self.refuse(
                name,
                "encrypted keys are not read; decrypt it with openssl pkcs8 and keep the file readable for its owner only",
            ),
            None if name.starts_with("sasl.kerberos.") => self.refuse(name, GSSAPI_WAY_OUT),
            None => self.refuse(name, format!("is not known; known are {}", KNOWN.join(", "))),
        }
    }

    fn value(&self, name: &str) -> Option<&'a str> {
        self.values.get(name).map(|(value, _)| *value)
    }

    fn read(&mut self) -> Security {
        let protocol = self.value(PROTOCOL).unwrap_or("PLAINTEXT").to_ascii_uppercase();
        let (encrypted, named) = match protocol.as_str() {
            "PLAINTEXT" => (false, false),
            "SSL" => (true, false),
            "SASL_PLAINTEXT" => (false, true),
            "SASL_SSL" => (true, true),
            _ => {
                self.refuse(PROTOCOL, "is one of PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL");
                return Security::default();
            }
        };
        for (first, (_, name)) in self.values.clone() {
            let is_of_endpoint = [CA, CA_FILE].contains(&first) && named && self.asks_over_tls();
            let is_idle =
                first.starts_with("ssl.") && !encrypted && !is_of_endpoint || first.starts_with("sasl.") && !named;
            if is_idle {
                self.refuse(name, format!("has no meaning with security.protocol = {protocol}"));
            }
        }
        Security {
            tls: encrypted.then(|| self.tls()),
            sasl: if named { self.sasl() } else { None },
            may_reveal: self.value(MAY_REVEAL) == Some("true"),
        }
    }

    /// True where tokens come from an endpoint with TLS.
    fn asks_over_tls(&self) -> bool {
        self.value(TOKEN_URL).is_some_and(|url| url.starts_with("https:"))
    }

    fn pem(&self, file: &str, text: &str) -> Option<Pem> {
        match (self.value(text), self.value(file)) {
            (Some(text), _) => Some(Pem::Text(Secret(text.to_owned()))),
            (None, Some(file)) => Some(Pem::File(file.to_owned())),
            (None, None) => None,
        }
    }

    fn tls(&mut self) -> Tls {
        let certificate = self.pem(CERTIFICATE_FILE, CERTIFICATE);
        let key = self.pem(KEY_FILE, KEY);
        match (&certificate, &key) {
            (Some(_), None) => self.refuse(CERTIFICATE_FILE, format!("needs its key: {KEY_FILE}")),
            (None, Some(_)) => self.refuse(KEY_FILE, format!("needs its certificate: {CERTIFICATE_FILE}")),
            _ => {}
        }
        let check = match self.value(CHECK_HOST) {
            None | Some("https") => Check::Host,
            Some("none" | "") => Check::Signer,
            Some(_) => {
                self.refuse(CHECK_HOST, "is https or none");
                Check::Host
            }
        };
        Tls {
            ca: self.pem(CA_FILE, CA),
            client: certificate.zip(key),
            check,
            names: TLS_NAMES,
        }
    }

    fn sasl(&mut self) -> Option<Sasl> {
        let Some(mechanism) = self.value(MECHANISM) else {
            self.refuse(
                MECHANISM,
                "is missing; one of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER",
            );
            return None;
        };
        match mechanism {
            "PLAIN" => self.login().map(Sasl::Plain),
            "SCRAM-SHA-256" => self.login().map(Sasl::ScramSha256),
            "SCRAM-SHA-512" => self.login().map(Sasl::ScramSha512),
            "OAUTHBEARER" => self.bearer().map(Sasl::OauthBearer),
            "GSSAPI" => {
                self.refuse(MECHANISM, GSSAPI_WAY_OUT);
                None
            }
            _ => {
                self.refuse(MECHANISM, "is one of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER");
                None
            }
        }
    }

    /// A property, or else an option of what Java's clients take.
    fn value_or_jaas(&self, name: &str, option: &str) -> Option<String> {
        let of_jaas = || jaas_option(self.value(JAAS)?, option);
        self.value(name).map(str::to_owned).or_else(of_jaas)
    }

    fn bearer(&mut self) -> Option<Bearer> {
        let extensions = self.extensions();
        let tokens = match self.value(TOKEN_URL) {
            Some(url) => match url.strip_prefix("file://") {
                Some(file) => self.token_file(file),
                None => self.token_endpoint(url).map(Tokens::new).map(TokenSource::Endpoint)?,
            },
            None => {
                self.refuse(
                    TOKEN_URL,
                    "is missing: an OpenID provider's endpoint, https://login/token, or a file that holds the token, \
                     file:///run/token",
                );
                return None;
            }
        };
        Some(Bearer { tokens, extensions })
    }

    fn token_file(&mut self, file: &str) -> TokenSource {
        for name in [CLIENT_ID, CLIENT_SECRET, SCOPE] {
            if self.value(name).is_some() {
                self.refuse(name, "has no meaning with a file that holds the token");
            }
        }
        if !matches!(self.value(METHOD), None | Some("default")) {
            self.refuse(METHOD, "is default, or left out, where a file holds the token");
        }
        TokenSource::File(file.to_owned())
    }

    fn token_endpoint(&mut self, url: &str) -> Option<Endpoint> {
        if !matches!(self.value(METHOD), None | Some("oidc")) {
            self.refuse(METHOD, "is oidc, or left out, where an endpoint gives the token");
        }
        let url = self.endpoint_url(url);
        let id = self.value_or_jaas(CLIENT_ID, "clientId");
        let secret = self.value_or_jaas(CLIENT_SECRET, "clientSecret");
        if id.is_none() {
            self.refuse(CLIENT_ID, "is missing");
        }
        if secret.is_none() {
            self.refuse(CLIENT_SECRET, "is missing; for example \"${KAFKA_CLIENT_SECRET}\"");
        }
        Some(Endpoint {
            url: url?,
            client: Login {
                user: id?,
                password: Secret(secret?),
            },
            scope: self.value_or_jaas(SCOPE, "scope"),
            tls: Tls {
                ca: self.pem(CA_FILE, CA),
                client: None,
                check: Check::Host,
                names: TLS_NAMES,
            },
        })
    }

    fn endpoint_url(&mut self, text: &str) -> Option<Url> {
        let url = match Url::parse(text) {
            Ok(url) if ["http", "https"].contains(&url.scheme()) => url,
            _ => {
                self.refuse(TOKEN_URL, "begins with https:// or file:///");
                return None;
            }
        };
        if !url.username().is_empty() || url.password().is_some() {
            let why = format!("holds a name or password; give {CLIENT_ID} and {CLIENT_SECRET}");
            self.refuse(TOKEN_URL, why);
            return None;
        }
        let is_safe = url.scheme() == "https" || url.host_str().is_some_and(is_loopback);
        if !is_safe && self.value(MAY_REVEAL) != Some("true") {
            let why = format!("would be sent the secret unencrypted; use https, or say {MAY_REVEAL} = true");
            self.refuse(TOKEN_URL, why);
            return None;
        }
        Some(url)
    }

    fn extensions(&mut self) -> Vec<(String, String)> {
        let pairs = self.value(EXTENSIONS).unwrap_or_default().split(',');
        let pairs = pairs.map(str::trim).filter(|pair| !pair.is_empty());
        let read: Option<Vec<_>> = pairs.map(extension).collect();
        read.unwrap_or_else(|| {
            self.refuse(
                EXTENSIONS,
                "is a list as in name=value,other=value; names have letters only and are not auth",
            );
            Vec::new()
        })
    }

    fn login(&mut self) -> Option<Login> {
        let user = self.value_or_jaas(USER, "username");
        let password = self.value_or_jaas(PASSWORD, "password");
        match (user, password) {
            (Some(user), Some(password)) => Some(Login {
                user,
                password: Secret(password),
            }),
            (None, _) => {
                self.refuse(USER, "is missing");
                None
            }
            (_, None) => {
                self.refuse(PASSWORD, "is missing; for example \"${KAFKA_PASSWORD}\"");
                None
            }
        }
    }
}

/// One `name=value` of what is said with a token (RFC 7628, section 3.1).
fn extension(pair: &str) -> Option<(String, String)> {
    let (name, value) = pair.split_once('=')?;
    let is_name = !name.is_empty() && name != "auth" && name.bytes().all(|letter| letter.is_ascii_alphabetic());
    let is_value = value.bytes().all(|letter| letter == b' ' || letter.is_ascii_graphic());
    (is_name && is_value).then(|| (name.to_owned(), value.to_owned()))
}

/// An option of a line as Java's clients take it: `…LoginModule required username="a" password="b";`.
fn jaas_option(line: &str, option: &str) -> Option<String> {
    let at = line.find(&format!("{option}="))? + option.len() + 1;
    let quoted = line[at..].strip_prefix('"')?;
    let mut value = String::new();
    let mut letters = quoted.chars();
    loop {
        match letters.next()? {
            '"' => return Some(value),
            '\\' => value.push(letters.next()?),
            letter => value.push(letter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(properties: &[(&str, &str)]) -> Result<Security, Vec<Refused>> {
        let properties = properties
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Security::of(&properties.collect())
    }

    fn login() -> Login {
        Login {
            user: "u".to_owned(),
            password: Secret("hunter2".to_owned()),
        }
    }

    #[test]
    fn nothing_said_is_plain_and_nameless() {
        assert_eq!(of(&[]), Ok(Security::default()));
        assert_eq!(of(&[("client.id", "x")]), Ok(Security::default()));
    }

    #[test]
    fn librdkafkas_names_and_javas_are_read() {
        let librdkafka = [
            ("security.protocol", "sasl_ssl"),
            ("sasl.mechanisms", "SCRAM-SHA-512"),
            ("sasl.username", "u"),
            ("sasl.password", "hunter2"),
            ("ssl.ca.location", "/ca.pem"),
        ];
        let jaas =
            "org.apache.kafka.common.security.scram.ScramLoginModule required username=\"u\" password=\"hunter2\";";
        let java = [
            ("security.protocol", "SASL_SSL"),
            ("sasl.mechanism", "SCRAM-SHA-512"),
            ("sasl.jaas.config", jaas),
            ("ssl.ca.location", "/ca.pem"),
        ];
        let expected = Security {
            tls: Some(Tls {
                ca: Some(Pem::File("/ca.pem".to_owned())),
                client: None,
                check: Check::Host,
                names: TLS_NAMES,
            }),
            sasl: Some(Sasl::ScramSha512(login())),
            may_reveal: false,
        };
        assert_eq!(of(&librdkafka), Ok(expected.clone()));
        assert_eq!(of(&java), Ok(expected));
    }

    #[test]
    fn what_cannot_be_honoured_is_named_without_its_value() {
        for (properties, name, why) in [
            (&[("security.protocol", "TLS")][..], "security.protocol", "is one of"),
            (
                &[("ssl.ca.location", "/ca")],
                "ssl.ca.location",
                "no meaning with security.protocol = PLAINTEXT",
            ),
            (
                &[("security.protocol", "SSL"), ("sasl.password", "hunter2")],
                "sasl.password",
                "no meaning",
            ),
            (
                &[("security.protocol", "SSL"), ("ssl.keystore.location", "/k.jks")],
                "ssl.keystore.location",
                "openssl pkcs12",
            ),
            (
                &[("security.protocol", "SSL"), ("ssl.certificate.location", "/c.pem")],
                "ssl.certificate.location",
                "needs its key",
            ),
            (&[("security.protocol", "SASL_SSL")], "sasl.mechanism", "is missing"),
            (
                &[
                    ("security.protocol", "SASL_SSL"),
                    ("sasl.mechanism", "PLAIN"),
                    ("sasl.username", "u"),
                ],
                "sasl.password",
                "is missing",
            ),
            (
                &[("sasl.kerberos.service.name", "kafka")],
                "sasl.kerberos.service.name",
                "GSSAPI",
            ),
        ] {
            let refused = of(properties).unwrap_err();
            assert!(
                refused
                    .iter()
                    .any(|refused| refused.name == name && refused.why.contains(why)),
                "{refused:?}"
            );
            assert!(!format!("{refused:?}").contains("hunter2"));
        }
    }

    const OAUTH: [(&str, &str); 2] = [
        ("security.protocol", "SASL_PLAINTEXT"),
        ("sasl.mechanism", "OAUTHBEARER"),
    ];
    const CLIENT: [(&str, &str); 2] = [(CLIENT_ID, "me"), (CLIENT_SECRET, "hunter2")];

    #[test]
    fn an_endpoint_for_tokens_is_read_by_librdkafkas_names_and_javas() {
        let url = (TOKEN_URL, "https://login/token");
        let more = [
            (METHOD, "oidc"),
            (SCOPE, "read"),
            (CA_FILE, "/ca.pem"),
            (EXTENSIONS, "logicalCluster=lkc-1, a=b=c"),
        ];
        let librdkafka = [&OAUTH[..], &CLIENT, &[url], &more].concat();
        let security = of(&librdkafka).unwrap();
        let endpoint = Endpoint {
            url: Url::parse("https://login/token").unwrap(),
            client: Login {
                user: "me".to_owned(),
                password: Secret("hunter2".to_owned()),
            },
            scope: Some("read".to_owned()),
            tls: Tls {
                ca: Some(Pem::File("/ca.pem".to_owned())),
                client: None,
                check: Check::Host,
                names: TLS_NAMES,
            },
        };
        let bearer = Bearer {
            tokens: TokenSource::Endpoint(Tokens::new(endpoint)),
            extensions: [("logicalCluster", "lkc-1"), ("a", "b=c")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
        };
        assert_eq!(security.sasl, Some(Sasl::OauthBearer(bearer)));
        assert!(!format!("{security:?}").contains("hunter2"));
        let options = "OAuthBearerLoginModule required clientId=\"me\" clientSecret=\"hunter2\" scope=\"read\";";
        let java = [&OAUTH[..], &[url, (JAAS, options)], &more[2..]].concat();
        assert_eq!(of(&java).as_ref(), Ok(&security));
        let java = [
            ("sasl.oauthbearer.client.credentials.client.id", "me"),
            ("sasl.oauthbearer.client.credentials.client.secret", "hunter2"),
        ];
        assert_eq!(of(&[&OAUTH[..], &[url], &java, &more].concat()), Ok(security));
    }

    #[test]
    fn the_secret_goes_unencrypted_to_this_host_only_or_where_that_is_wanted() {
        for url in [
            "http://127.0.0.1:8080/token",
            "http://[::1]/token",
            "http://localhost/token",
        ] {
            assert!(
                of(&[&OAUTH[..], &CLIENT, &[(TOKEN_URL, url)]].concat()).is_ok(),
                "{url}"
            );
        }
        let elsewhere = [&OAUTH[..], &CLIENT, &[(TOKEN_URL, "http://login/token")]].concat();
        let refused = of(&elsewhere).unwrap_err();
        assert!(refused[0].why.contains("unencrypted; use https"), "{refused:?}");
        assert!(of(&[&elsewhere[..], &[(MAY_REVEAL, "true")]].concat()).is_ok());
    }

    #[test]
    fn what_does_not_fit_an_endpoint_or_a_token_file_is_refused() {
        let endpoint = [&OAUTH[..], &CLIENT, &[(TOKEN_URL, "https://login/token")]].concat();
        let file = [&OAUTH[..], &[(TOKEN_URL, "file:///run/token")]].concat();
        assert!(of(&endpoint).is_ok() && of(&file).is_ok());
        let with =
            |given: &[(&'static str, &'static str)], more: &[(&'static str, &'static str)]| [given, more].concat();
        for (properties, name, why) in [
            (OAUTH.to_vec(), TOKEN_URL, "is missing"),
            (
                with(&endpoint[..4], &[(TOKEN_URL, "ftp://login")]),
                TOKEN_URL,
                "begins with https://",
            ),
            (
                with(&endpoint, &[(TOKEN_URL, "https://me:hunter2@login/")]),
                TOKEN_URL,
                "holds a name or password",
            ),
            (with(&OAUTH, &endpoint[3..]), CLIENT_ID, "is missing"),
            (with(&endpoint[..3], &endpoint[4..]), CLIENT_SECRET, "is missing"),
            (with(&endpoint, &[(METHOD, "default")]), METHOD, "is oidc"),
            (
                with(&endpoint, &[(EXTENSIONS, "auth=hunter2")]),
                EXTENSIONS,
                "is a list",
            ),
            (with(&endpoint, &[(EXTENSIONS, "a")]), EXTENSIONS, "is a list"),
            (
                with(&endpoint, &[("sasl.oauthbearer.grant.type", "x")]),
                "sasl.oauthbearer.grant.type",
                "is not known",
            ),
            (with(&file, &[(METHOD, "oidc")]), METHOD, "is default"),
            (with(&file, &CLIENT), CLIENT_SECRET, "no meaning with a file"),
            (
                with(&file, &[(CA_FILE, "/ca.pem")]),
                CA_FILE,
                "no meaning with security.protocol",
            ),
        ] {
            let refused = of(&properties).unwrap_err();
            let is_named = refused
                .iter()
                .any(|refused| refused.name == name && refused.why.contains(why));
            assert!(is_named, "{name} {why}: {refused:?}");
            assert!(!format!("{refused:?}").contains("hunter2"));
        }
    }

    #[test]
    fn secrets_do_not_show_themselves() {
        assert!(!format!("{:?}", Sasl::Plain(login())).contains("hunter2"));
    }
}
