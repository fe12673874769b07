//! How connections are encrypted and who we are on them, from properties.

use std::collections::BTreeMap;

use tidemill_engine::tls::{Check, Names, Pem, Secret, Tls};

/// How we say who we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sasl {
    /// Name and password as they are.
    Plain(Login),
    /// A proof of the password, with SHA-256.
    ScramSha256(Login),
    /// The same with SHA-512.
    ScramSha512(Login),
    /// A token, read from this file for each connection.
    OauthBearer(String),
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

/// How connections are encrypted and who we are on them; by default neither. Shows no secret.
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
const MAY_REVEAL: &str = "allow.plaintext.credentials";

const KNOWN: [&str; 14] = [
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
    MAY_REVEAL,
];

/// Other names for the same.
const ALIASES: [(&str, &str); 4] = [
    ("sasl.mechanisms", MECHANISM),
    ("ssl.truststore.certificates", CA),
    ("ssl.keystore.certificate.chain", CERTIFICATE),
    ("ssl.keystore.key", KEY),
];

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
            None if name.starts_with("sasl.kerberos.") => self.refuse(name, "GSSAPI is not in this version"),
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
            let is_idle = first.starts_with("ssl.") && !encrypted || first.starts_with("sasl.") && !named;
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
            "OAUTHBEARER" => match self.value(TOKEN_URL).and_then(|url| url.strip_prefix("file://")) {
                Some(file) => Some(Sasl::OauthBearer(file.to_owned())),
                None => {
                    self.refuse(
                        TOKEN_URL,
                        "names a file that holds the token, file:///run/token; other endpoints are not in this version",
                    );
                    None
                }
            },
            "GSSAPI" => {
                self.refuse(MECHANISM, "GSSAPI is not in this version");
                None
            }
            _ => {
                self.refuse(MECHANISM, "is one of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER");
                None
            }
        }
    }

    fn login(&mut self) -> Option<Login> {
        let jaas = self.value(JAAS);
        let of_jaas = |option: &str| jaas.and_then(|jaas| jaas_option(jaas, option));
        let user = self.value(USER).map(str::to_owned).or_else(|| of_jaas("username"));
        let password = self.value(PASSWORD).map(str::to_owned).or_else(|| of_jaas("password"));
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

    #[test]
    fn secrets_do_not_show_themselves() {
        assert!(!format!("{:?}", Sasl::Plain(login())).contains("hunter2"));
    }
}
