//! Servers of one test's own, which it may kill and start again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::pipeline::look_again_soon;
use crate::s3::S3;
use crate::target::with_database_at;

/// A dying server has ended by then.
const END_LIMIT: Duration = Duration::from_secs(30);

/// Kafka or PostgreSQL, ended where this value is dropped.
#[derive(Debug)]
pub struct OwnServer {
    run: PathBuf,
    address: String,
    pid: Pid,
}

impl OwnServer {
    /// A Kafka broker; its address is `host:port`.
    ///
    /// # Errors
    /// Where it doesn't come up.
    pub fn kafka() -> Result<Self> {
        Self::start("kafka", "TIDEMILL_TEST_KAFKA")
    }

    /// A PostgreSQL server; its address is a URL with password.
    ///
    /// # Errors
    /// Where it doesn't come up.
    pub fn postgres() -> Result<Self> {
        Self::start("postgres", "TIDEMILL_TEST_POSTGRES")
    }

    /// Broker 1 of two of the oldest Kafka that is supported; its address is `host:port`.
    ///
    /// # Errors
    /// Where it doesn't come up.
    pub fn old_kafka() -> Result<Self> {
        Self::start("old", "TIDEMILL_TEST_KAFKA")
    }

    /// A broker of the release before. The programs of `tests/java` can't talk to it.
    ///
    /// # Errors
    /// Where it doesn't come up.
    pub fn too_old_kafka() -> Result<Self> {
        Self::start("too-old", "TIDEMILL_TEST_KAFKA")
    }

    fn start(server: &str, variable: &str) -> Result<Self> {
        Self::of(&Exports(script(&["own", server])?), variable)
    }

    fn of(exports: &Exports, variable: &str) -> Result<Self> {
        Ok(Self {
            run: PathBuf::from(exports.value("TIDEMILL_TEST_RUN")?),
            address: exports.value(variable)?.to_owned(),
            pid: pid(exports.value(&format!("{variable}_PID"))?)?,
        })
    }

    /// Where it is.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Sends a signal and waits until the server is gone.
    ///
    /// # Errors
    /// Where it was gone before, or stays.
    pub fn end(&self, signal: Signal) -> Result<()> {
        end(self.pid, signal)
    }

    /// Starts the server again with its data, at its address.
    ///
    /// # Errors
    /// Where it doesn't come up.
    pub fn again(&mut self) -> Result<()> {
        let exports = script(&["again", &self.run.display().to_string()])?;
        let number = exports.lines().find_map(|line| line.split_once("_PID="));
        self.pid = pid(number.context("scripts/servers printed no pid")?.1)?;
        Ok(())
    }
}

/// A Kafka broker whose listeners ask who comes. The user `reader` has the password `hunter2` in every mechanism; the broker's
/// certificate names 127.0.0.1 and nothing else.
#[derive(Debug)]
pub struct SecureKafka {
    run: PathBuf,
    address: String,
    ports: [String; 3],
    certificates: PathBuf,
}

impl SecureKafka {
    /// # Errors
    /// Where it doesn't come up.
    pub fn start() -> Result<Self> {
        let exports = Exports(script(&["own", "secure"])?);
        let port = |name: &str| exports.value(&format!("TIDEMILL_TEST_{name}_PORT")).map(str::to_owned);
        Ok(Self {
            run: PathBuf::from(exports.value("TIDEMILL_TEST_RUN")?),
            address: exports.value("TIDEMILL_TEST_KAFKA")?.to_owned(),
            ports: [port("MTLS")?, port("SASLTLS")?, port("SASL")?],
            certificates: PathBuf::from(exports.value("TIDEMILL_TEST_CERTIFICATES")?),
        })
    }

    /// The listener that lets anybody in.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The port of the listener for TLS with a client's certificate.
    pub fn mutual_tls(&self) -> &str {
        &self.ports[0]
    }

    /// The port of the listener for SASL over TLS.
    pub fn sasl_tls(&self) -> &str {
        &self.ports[1]
    }

    /// The port of the listener for SASL without TLS. There PLAIN holds for a second.
    pub fn sasl(&self) -> &str {
        &self.ports[2]
    }

    /// A PEM file: `ca.pem`, `client.pem`, `client.key`; `stranger.pem` is a CA that signed nothing.
    pub fn pem(&self, name: &str) -> String {
        self.certificates.join(name).display().to_string()
    }
}

impl Drop for SecureKafka {
    fn drop(&mut self) {
        stop(&self.run);
    }
}

/// A Kafka broker with a listener that takes nothing but Kerberos tickets, and their KDC. The realm knows the principal `reader`.
#[derive(Debug)]
pub struct GssapiKafka {
    run: PathBuf,
    address: String,
    port: String,
    kdc: PathBuf,
}

impl GssapiKafka {
    /// # Errors
    /// Where they don't come up.
    pub fn start() -> Result<Self> {
        let exports = Exports(script(&["own", "gssapi"])?);
        Ok(Self {
            run: PathBuf::from(exports.value("TIDEMILL_TEST_RUN")?),
            address: exports.value("TIDEMILL_TEST_KAFKA")?.to_owned(),
            port: exports.value("TIDEMILL_TEST_SASL_PORT")?.to_owned(),
            kdc: PathBuf::from(exports.value("TIDEMILL_TEST_KDC")?),
        })
    }

    /// The listener that lets anybody in.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The port of the listener for Kerberos.
    pub fn sasl(&self) -> &str {
        &self.port
    }

    /// A file of the realm: `krb5.conf`, `reader.keytab`.
    pub fn file(&self, name: &str) -> String {
        self.kdc.join(name).display().to_string()
    }
}

impl Drop for GssapiKafka {
    fn drop(&mut self) {
        stop(&self.run);
    }
}

/// A PostgreSQL server whose certificate names 127.0.0.1 and nothing else. The role `pipeline` (password `hunter2`) is let in
/// over TLS only, the role `client` by its certificate; both may make tables.
#[derive(Debug)]
pub struct SecurePostgres {
    server: OwnServer,
    certificates: PathBuf,
}

impl SecurePostgres {
    /// # Errors
    /// Where it doesn't come up.
    pub fn start() -> Result<Self> {
        let exports = Exports(script(&["own", "secure-postgres"])?);
        let certificates = PathBuf::from(exports.value("TIDEMILL_TEST_CERTIFICATES")?);
        let server = OwnServer::of(&exports, "TIDEMILL_TEST_POSTGRES")?;
        with_database_at(server.address(), async |database| {
            let roles = "CREATE ROLE pipeline LOGIN PASSWORD 'hunter2'; CREATE ROLE client LOGIN; \
                         GRANT CREATE, USAGE ON SCHEMA public TO pipeline, client; GRANT pipeline TO client";
            Ok(database.batch_execute(roles).await?)
        })?;
        Ok(Self { server, certificates })
    }

    /// A URL of the superuser, who is let in without TLS.
    pub fn address(&self) -> &str {
        self.server.address()
    }

    /// `host:port/database`.
    pub fn place(&self) -> &str {
        self.address().rsplit('@').next().unwrap_or_default()
    }

    /// A PEM file: `ca.pem`, `client.pem`, `client.key`; `stranger.pem` is a CA that signed nothing.
    pub fn pem(&self, name: &str) -> String {
        self.certificates.join(name).display().to_string()
    }
}

/// An S3 gateway that a test may kill.
#[derive(Debug)]
pub struct OwnS3 {
    server: OwnServer,
    s3: S3,
    run: PathBuf,
}

impl OwnS3 {
    /// # Errors
    /// Where it doesn't come up.
    pub fn start() -> Result<Self> {
        Self::of("s3")
    }

    /// One that speaks TLS with a certificate that names 127.0.0.1 and nothing else.
    ///
    /// # Errors
    /// Where it doesn't come up.
    pub fn secure() -> Result<Self> {
        Self::of("secure-s3")
    }

    fn of(server: &str) -> Result<Self> {
        let exports = Exports(script(&["own", server])?);
        Ok(Self {
            s3: S3 {
                address: exports.value("TIDEMILL_TEST_S3")?.to_owned(),
                secret: exports.value("TIDEMILL_TEST_S3_SECRET")?.to_owned(),
                folder: PathBuf::from(exports.value("TIDEMILL_TEST_S3_FOLDER")?),
            },
            run: PathBuf::from(exports.value("TIDEMILL_TEST_RUN")?),
            server: OwnServer::of(&exports, "TIDEMILL_TEST_S3")?,
        })
    }

    /// Where it is.
    pub fn s3(&self) -> &S3 {
        &self.s3
    }

    /// Its process.
    pub fn server(&mut self) -> &mut OwnServer {
        &mut self.server
    }

    /// A PEM file of the one with TLS: `ca.pem`; `stranger.pem` is a CA that signed nothing.
    pub fn pem(&self, name: &str) -> String {
        self.run.join("s3").join(name).display().to_string()
    }
}

/// A Kafka cluster: a controller that stays, brokers 1 to 3 that may die, and more that may come. It ends where this value is
/// dropped.
#[derive(Debug)]
pub struct OwnCluster {
    run: PathBuf,
    address: String,
    brokers: BTreeMap<u32, Pid>,
}

impl OwnCluster {
    /// # Errors
    /// Where it doesn't come up.
    pub fn start() -> Result<Self> {
        let exports = Exports(script(&["own", "cluster"])?);
        let brokers = (1..=3).map(|broker| Ok((broker, pid(exports.value(&broker_pid(broker))?)?)));
        Ok(Self {
            run: PathBuf::from(exports.value("TIDEMILL_TEST_RUN")?),
            address: exports.value("TIDEMILL_TEST_KAFKA")?.to_owned(),
            brokers: brokers.collect::<Result<_>>()?,
        })
    }

    /// The first three brokers, separated by commas.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Sends a broker a signal and waits until it is gone.
    ///
    /// # Errors
    /// Where it was gone before, or stays.
    pub fn end(&self, broker: u32, signal: Signal) -> Result<()> {
        end(self.brokers[&broker], signal)
    }

    /// Starts one more broker and gives its number.
    ///
    /// # Errors
    /// Where it doesn't come up.
    pub fn grow(&mut self) -> Result<u32> {
        let exports = Exports(script(&["grow", &self.run.display().to_string()])?);
        let broker = exports.value("TIDEMILL_TEST_BROKER")?.parse()?;
        self.brokers.insert(broker, pid(exports.value(&broker_pid(broker))?)?);
        Ok(broker)
    }

    /// Starts a broker again with its data, at its address.
    ///
    /// # Errors
    /// Where it doesn't come up.
    pub fn again(&mut self, broker: u32) -> Result<()> {
        let name = format!("broker-{broker}");
        let exports = Exports(script(&["again", &self.run.display().to_string(), &name])?);
        self.brokers.insert(broker, pid(exports.value(&broker_pid(broker))?)?);
        Ok(())
    }
}

impl Drop for OwnCluster {
    fn drop(&mut self) {
        stop(&self.run);
    }
}

fn broker_pid(broker: u32) -> String {
    format!("TIDEMILL_TEST_BROKER_{broker}_PID")
}

/// The export lines that the script printed.
struct Exports(String);

impl Exports {
    fn value(&self, name: &str) -> Result<&str> {
        let start = format!("export {name}=");
        let line = self.0.lines().find_map(|line| line.strip_prefix(&start));
        line.with_context(|| format!("scripts/servers printed no {name}: {}", self.0))
    }
}

fn end(server: Pid, signal: Signal) -> Result<()> {
    kill_process(server, signal).context("the server was gone before")?;
    let deadline = Instant::now() + END_LIMIT;
    while test_kill_process(server).is_ok() && !is_zombie(server) {
        if Instant::now() > deadline {
            bail!("the server stays after {signal:?}");
        }
        look_again_soon();
    }
    Ok(())
}

fn stop(run: &Path) {
    if let Err(error) = script(&["stop", &run.display().to_string()]) {
        eprintln!("{error:#}");
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        stop(&self.run);
    }
}

fn pid(text: &str) -> Result<Pid> {
    let number = text.trim().parse().with_context(|| format!("{text} is no pid"))?;
    Pid::from_raw(number).with_context(|| format!("{text} is no pid"))
}

/// Dead, but not yet fetched by its parent.
fn is_zombie(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    stat.rsplit(')')
        .next()
        .is_some_and(|rest| rest.trim_start().starts_with('Z'))
}

fn script(args: &[&str]) -> Result<String> {
    // From the package's folder, where the tests run: a path built in would be that of whichever checkout was built first.
    let output = Command::new("../scripts/servers")
        .args(args)
        .stdin(Stdio::null())
        .output()?;
    if !output.status.success() {
        bail!(
            "scripts/servers {}: {}\n{}",
            args.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8(output.stdout)?)
}
