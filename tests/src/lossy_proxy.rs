//! A way to the database on which the answer to one COMMIT is lost.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};

use anyhow::{Context, Result};

use crate::servers;

/// Passes connections on until the COMMIT with a given number: that one reaches the database, its answer is thrown away with
/// the connection, and some connections after it are refused. It lives as long as the process.
#[derive(Debug)]
pub struct LossyProxy {
    address: SocketAddr,
}

#[derive(Debug)]
struct Plan {
    commits_until_loss: AtomicI64,
    refusals_after: u32,
    refusals_left: AtomicU32,
}

impl LossyProxy {
    /// Loses the answer to COMMIT number `nth` and refuses `refusals` connections after it.
    ///
    /// # Errors
    /// Where no port can be had.
    pub fn start(nth: i64, refusals: u32) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let plan = Arc::new(Plan {
            commits_until_loss: AtomicI64::new(nth),
            refusals_after: refusals,
            refusals_left: AtomicU32::new(0),
        });
        let server = place(&servers::postgres())?.to_owned();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let left = plan.refusals_left.load(Ordering::SeqCst);
                if left > 0 {
                    plan.refusals_left.store(left - 1, Ordering::SeqCst);
                    continue;
                }
                if let Ok(server) = TcpStream::connect(&server) {
                    pass_on(&client, &server, &plan);
                }
            }
        });
        Ok(Self { address })
    }

    /// The database's URL by way of this proxy.
    ///
    /// # Errors
    /// Where the database's own URL has another form.
    pub fn url(&self) -> Result<String> {
        let url = servers::postgres();
        Ok(url.replace(place(&url)?, &self.address.to_string()))
    }
}

/// `host:port` in a URL.
fn place(url: &str) -> Result<&str> {
    let after = url.split_once('@').map(|(_, after)| after);
    after
        .and_then(|after| after.split('/').next())
        .context("the database's URL has no user@host:port/")
}

fn pass_on(client: &TcpStream, server: &TcpStream, plan: &Arc<Plan>) {
    let lost = Arc::new(AtomicBool::new(false));
    let (Ok(from_client), Ok(to_server)) = (client.try_clone(), server.try_clone()) else {
        return;
    };
    let (Ok(from_server), Ok(to_client)) = (server.try_clone(), client.try_clone()) else {
        return;
    };
    let asked = (Arc::clone(&lost), Arc::clone(plan));
    std::thread::spawn(move || {
        copy(from_client, to_server, |bytes| {
            if bytes.windows(7).any(|text| text == b"COMMIT\0")
                && asked.1.commits_until_loss.fetch_sub(1, Ordering::SeqCst) == 1
            {
                asked.0.store(true, Ordering::SeqCst);
            }
            true
        });
    });
    let plan = Arc::clone(plan);
    std::thread::spawn(move || {
        copy(from_server, to_client, |_| {
            // The database has answered: the commit is done.
            if lost.load(Ordering::SeqCst) {
                plan.refusals_left.store(plan.refusals_after, Ordering::SeqCst);
                return false;
            }
            true
        });
    });
}

/// Passes bytes on until one side ends or `goes_on` says no; both sides are closed then.
fn copy(mut from: TcpStream, mut to: TcpStream, goes_on: impl Fn(&[u8]) -> bool) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if !goes_on(&buffer[..read]) || to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    // Either may be closed already.
    let _closed = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
