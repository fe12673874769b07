//! The token endpoint of an OpenID provider: `tests/java/TokenEndpoint.java`.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail};

use crate::java;

/// A token endpoint that knows the client `reader` with the secret `hunter2`, and gives it tokens of scope `kafka`. It ends where
/// this value is dropped.
#[derive(Debug)]
pub struct TokenEndpoint {
    process: Child,
    _told: ChildStdin,
    port: String,
    is_tls: bool,
    granted: Arc<AtomicUsize>,
}

impl TokenEndpoint {
    /// One on a free port, whose tokens hold so many seconds.
    ///
    /// # Errors
    /// Where it doesn't come up.
    pub fn start(seconds: u32) -> Result<Self> {
        Self::at("0", seconds, &[])
    }

    /// The same with TLS, by a certificate and its key in PEM files.
    ///
    /// # Errors
    /// Where it doesn't come up.
    pub fn start_tls(seconds: u32, certificate: &str, key: &str) -> Result<Self> {
        Self::at("0", seconds, &[certificate, key])
    }

    fn at(port: &str, seconds: u32, certificate: &[&str]) -> Result<Self> {
        let seconds = seconds.to_string();
        let args = [&[port, "reader", "hunter2", seconds.as_str()], certificate].concat();
        let mut process = java::pipe("TokenEndpoint", &args)?;
        let told = process.stdin.take().context("standard input is a pipe")?;
        let mut lines = BufReader::new(process.stdout.take().context("standard output is a pipe")?).lines();
        let first = lines.next().context("the token endpoint ended")??;
        let Some(port) = first.strip_prefix("port ") else {
            bail!("the token endpoint says {first}");
        };
        let granted = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&granted);
        std::thread::spawn(move || {
            let lines = lines.map_while(Result::ok).filter(|line| line == "granted");
            lines.for_each(|_| {
                counted.fetch_add(1, Ordering::SeqCst);
            });
        });
        Ok(Self {
            process,
            _told: told,
            port: port.to_owned(),
            is_tls: !certificate.is_empty(),
            granted,
        })
    }

    /// Where it is.
    pub fn url(&self) -> String {
        let scheme = if self.is_tls { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}/token", self.port)
    }

    /// How many tokens it gave so far.
    pub fn granted(&self) -> usize {
        self.granted.load(Ordering::SeqCst)
    }

    /// Ends it at once; [`again`](Self::again) starts it at the same address.
    ///
    /// # Errors
    /// Where it was gone before.
    pub fn end(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }

    /// Starts it again at its address, without TLS, after [`end`](Self::end).
    ///
    /// # Errors
    /// Where it doesn't come up.
    pub fn again(&mut self, seconds: u32) -> Result<()> {
        *self = Self::at(&self.port.clone(), seconds, &[])?;
        Ok(())
    }
}

impl Drop for TokenEndpoint {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _reaped = self.process.wait();
    }
}
