//! Where the server is, how to log in, and whether the way there is encrypted.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use tidemill_engine::error::{Error, Kind, Result};
use tidemill_engine::tls::{Check, Names, Pem, Tls};
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};

/// How long a connection may take, from the first packet to the first answer.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

const FORM: &str = "expected postgres://user:password@host:port/database, or \
                    postgres:///database?host=/socket/folder&port=5432; write special characters in user and password \
                    as %XX";

const MODES: &str = "disable (unencrypted), require (encrypted, the server's certificate is not looked at), verify-ca (it is \
                     signed by a CA we trust) or verify-full (and names the host)";

/// As libpq calls them.
const TLS_NAMES: Names = Names {
    ca: "sslrootcert",
    certificate: "sslcert",
    key: "sslkey",
};

/// The server's address and how to log in.
pub(super) struct Address {
    pub(super) config: Config,
    /// `None`: the connection is not encrypted.
    pub(super) tls: Option<Tls>,
    /// `host:port/database`, without user and password.
    place: String,
}

impl Address {
    /// Reads `url`, given for the sink `sink`. Nothing of a URL that can't be read is repeated: it may hold the password.
    pub(super) fn parse(sink: &str, url: &str) -> Result<Self> {
        Self::read(sink, url).map_err(|why| Error::new(Kind::Config, format!("sink {sink}: url: {why}")))
    }

    fn read(sink: &str, url: &str) -> std::result::Result<Self, String> {
        let form = || FORM.to_owned();
        let before_query = url.split('?').next().unwrap_or_default();
        let is_url = url.starts_with("postgres://") || url.starts_with("postgresql://");
        // A second @ means a password that wasn't escaped, parts of which would be taken for a host.
        if !is_url || before_query.matches('@').count() > 1 {
            return Err(form());
        }
        let (url, wanted) = Wanted::split_off(url)?;
        let mut config: Config = url.parse().map_err(|_unshown| form())?;
        let [host] = config.get_hosts() else {
            return Err(
                "name exactly one host; a sink that could move to another server would lose its ledger on the way"
                    .to_owned(),
            );
        };
        let (host, local) = match host {
            Host::Tcp(name) => (name.clone(), is_loopback(name)),
            Host::Unix(folder) => (folder.display().to_string(), true),
        };
        let stays_here = local && config.get_hostaddrs().iter().all(IpAddr::is_loopback);
        let tls = wanted.tls(stays_here)?;
        let Some(database) = config.get_dbname() else {
            return Err("names no database".to_owned());
        };
        let port = config.get_ports().first().copied().unwrap_or(5432);
        let place = format!("{host}:{port}/{database}");
        config.connect_timeout(CONNECT_TIMEOUT);
        config.ssl_mode(if tls.is_some() {
            SslMode::Require
        } else {
            SslMode::Disable
        });
        if config.get_application_name().is_none() {
            config.application_name(format!("tidemill {sink}"));
        }
        Ok(Self { config, tls, place })
    }

    /// `host:port/database`.
    pub(super) fn place(&self) -> &str {
        &self.place
    }
}

/// Without user, password and options.
impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Address").field(&self.place).finish()
    }
}

/// What the URL says of encryption, by libpq's names.
#[derive(Debug, Default)]
struct Wanted {
    mode: Option<String>,
    ca: Option<String>,
    certificate: Option<String>,
    key: Option<String>,
}

impl Wanted {
    /// Takes it out of the URL: the client library knows only some of it.
    fn split_off(url: &str) -> std::result::Result<(String, Self), String> {
        let mut wanted = Self::default();
        let Some((before, query)) = url.split_once('?') else {
            return Ok((url.to_owned(), wanted));
        };
        let mut left = Vec::new();
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let place = match name {
                "sslmode" => &mut wanted.mode,
                "sslrootcert" => &mut wanted.ca,
                "sslcert" => &mut wanted.certificate,
                "sslkey" => &mut wanted.key,
                _ => {
                    left.push(pair);
                    continue;
                }
            };
            let value = percent_decode_str(value)
                .decode_utf8()
                .map_err(|_unshown| format!("{name} is no text"))?;
            *place = Some(value.into_owned());
        }
        let url = if left.is_empty() {
            before.to_owned()
        } else {
            format!("{before}?{}", left.join("&"))
        };
        Ok((url, wanted))
    }

    /// Without `sslmode` what stays on this machine is not encrypted, and all else is checked in full.
    fn tls(self, stays_here: bool) -> std::result::Result<Option<Tls>, String> {
        let says_more = [&self.ca, &self.certificate, &self.key]
            .iter()
            .any(|said| said.is_some());
        let check = match self.mode.as_deref() {
            None if stays_here && !says_more => return Ok(None),
            Some("disable") if says_more => return Err("sslmode=disable needs no certificates".to_owned()),
            Some("disable") => return Ok(None),
            None | Some("verify-full") => Check::Host,
            Some("verify-ca") => Check::Signer,
            // As in libpq: a CA that is given is looked for.
            Some("require") if self.ca.is_some() => Check::Signer,
            Some("require") => Check::Nothing,
            Some("prefer" | "allow") => {
                return Err(format!(
                    "sslmode=prefer and allow could go on unencrypted unnoticed; take one of {MODES}"
                ));
            }
            Some(_) => return Err(format!("sslmode is one of {MODES}")),
        };
        let client = match (self.certificate, self.key) {
            (Some(certificate), Some(key)) => Some((Pem::File(certificate), Pem::File(key))),
            (None, None) => None,
            _ => return Err("sslcert and sslkey belong together".to_owned()),
        };
        Ok(Some(Tls {
            ca: self.ca.map(Pem::File),
            client,
            check,
            names: TLS_NAMES,
        }))
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_of(url: &str) -> Option<Check> {
        Address::parse("out", url).unwrap().tls.map(|tls| tls.check)
    }

    #[test]
    fn what_leaves_the_machine_is_encrypted_and_checked_unless_the_url_says_otherwise() {
        for (url, check) in [
            ("postgres://localhost/d", None),
            ("postgres://127.0.0.1/d", None),
            ("postgres:///d?host=/run/pg", None),
            ("postgres://db.example.com/d", Some(Check::Host)),
            ("postgres://localhost/d?hostaddr=10.0.0.1", Some(Check::Host)),
            ("postgres://localhost/d?sslmode=verify-full", Some(Check::Host)),
            ("postgres://localhost/d?sslrootcert=ca.pem", Some(Check::Host)),
            ("postgres://db.example.com/d?sslmode=verify-ca", Some(Check::Signer)),
            ("postgres://db.example.com/d?sslmode=require", Some(Check::Nothing)),
            (
                "postgres://db.example.com/d?sslmode=require&sslrootcert=ca.pem",
                Some(Check::Signer),
            ),
            ("postgres://db.example.com/d?sslmode=disable", None),
        ] {
            assert_eq!(check_of(url), check, "{url}");
        }
    }

    #[test]
    fn files_are_taken_from_the_url_and_the_rest_is_left() {
        let url = "postgres://h/d?sslrootcert=/my%20ca.pem&connect_timeout=3&sslcert=c.pem&sslkey=k.pem";
        let address = Address::parse("out", url).unwrap();
        let file = |name: &str| Pem::File(name.to_owned());
        let tls = address.tls.unwrap();
        assert_eq!(tls.ca, Some(file("/my ca.pem")));
        assert_eq!(tls.client, Some((file("c.pem"), file("k.pem"))));
    }

    #[test]
    fn what_cannot_be_read_is_refused_without_the_password() {
        for (url, why) in [
            ("postgres://localhost,127.0.0.1/d", "exactly one host"),
            ("postgres://localhost", "names no database"),
            ("postgres://me:se@cret@localhost/d", "expected postgres://"),
            ("postgres://me@localhost:secret/d", "expected postgres://"),
            ("host=localhost dbname=d password=secret", "expected postgres://"),
            ("postgres://me:secret@h/d?sslmode=prefer", "unencrypted unnoticed"),
            (
                "postgres://me:secret@h/d?sslmode=on",
                "verify-full (and names the host)",
            ),
            ("postgres://me:secret@h/d?sslcert=c.pem", "belong together"),
            (
                "postgres://me:secret@h/d?sslmode=disable&sslrootcert=c.pem",
                "needs no certificates",
            ),
        ] {
            let error = Address::parse("out", url).unwrap_err();
            assert_eq!(error.kind(), Kind::Config);
            assert!(error.chain().contains(why), "{url}: {}", error.chain());
            assert!(!error.chain().contains("cret"), "{}", error.chain());
        }
    }

    #[test]
    fn names_its_place_without_user_and_password() {
        for (url, place) in [
            ("postgres://me:secret@127.0.0.2:55/shop", "127.0.0.2:55/shop"),
            ("postgresql://me:secret@[::1]/shop", "::1:5432/shop"),
            (
                "postgres:///shop?host=/run/pg&port=7&user=me&password=secret",
                "/run/pg:7/shop",
            ),
        ] {
            let address = Address::parse("out", url).unwrap();
            assert_eq!(address.place(), place);
            assert!(!format!("{address:?}").contains("secret"));
        }
    }
}
