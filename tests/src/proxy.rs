//! Stands between a Kafka client and its broker: forwards byte for byte, and on demand loses, delays or holds back.
//!
//! Brokers tell clients where to go on. In every version of those answers the host's bytes are followed by the port, so
//! the port is overwritten in place; everything else passes unread, whatever version client and broker speak.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

const PRODUCE: i16 = 0;
const METADATA: i16 = 3;
const FIND_COORDINATOR: i16 = 10;
const END_TXN: i16 = 26;
const DESCRIBE_CLUSTER: i16 = 60;

const FRAME_BYTES_MAX: usize = 64 << 20;
/// How long a held end may keep others waiting; a test that gets here finds no late answer.
const HOLD_MAX: Duration = Duration::from_secs(60);

/// What becomes of one request to end a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndFault {
    /// The broker ends the transaction; its answer is lost with the connection. Nobody gets in for a while after it.
    LoseAnswer {
        /// For how long.
        refuse: Duration,
    },
    /// The broker ends the transaction; its answer comes this much later.
    DelayAnswer(Duration),
    /// The client's connection is cut, but the request is still under way: the broker gets it when the first rows sent
    /// after it have been written.
    DeliverLate,
}

/// What became of the ends of transactions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ends {
    /// Asked for by clients, again included.
    pub asked: u32,
    /// Answers lost.
    pub lost: u32,
    /// Answers delayed.
    pub delayed: u32,
    /// The broker's error codes for ends that arrived late; 0 is an end that it took for one of the running transaction.
    pub late: Vec<i16>,
}

/// A proxy on a loopback port of its own. Everything ends with this value.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    listening: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    broker: SocketAddr,
    own: SocketAddr,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Faults in order, each with the number of ends that pass before it.
    armed: VecDeque<(u32, EndFault)>,
    ends: Ends,
    held: Held,
    refused_until: Option<Instant>,
    stalled_until: Option<Instant>,
    closed: bool,
    connections: BTreeMap<u64, [TcpStream; 2]>,
    connected: u64,
}

/// Where the request stands that is to be late.
#[derive(Debug, Default, PartialEq, Eq)]
enum Held {
    #[default]
    Nothing,
    /// Until rows are written.
    UntilRows,
    /// The rows' answer waits for the end's.
    Released,
}

/// A request whose answer is to come.
#[derive(Debug)]
struct Asked {
    key: i16,
    version: i16,
    fault: Option<EndFault>,
}

impl Proxy {
    /// A proxy in front of the broker at this address and port.
    ///
    /// # Errors
    /// Where no port is to be had.
    pub fn start(broker: &str) -> Result<Self> {
        let broker: SocketAddr = broker
            .parse()
            .with_context(|| format!("the broker {broker} is no address and port"))?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let shared = Arc::new(Shared {
            broker,
            own: listener.local_addr()?,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let of_thread = Arc::clone(&shared);
        let listening = std::thread::spawn(move || of_thread.listen(&listener));
        Ok(Self {
            shared,
            listening: Some(listening),
        })
    }

    /// Its `host:port`.
    pub fn address(&self) -> String {
        self.shared.own.to_string()
    }

    /// After `pass` more ends, what becomes of the next. Faults come in the order they were armed in, and each counts from
    /// the one before it.
    pub fn arm(&self, pass: u32, fault: EndFault) {
        self.shared.lock().armed.push_back((pass, fault));
    }

    /// What has become of the ends so far.
    pub fn ends(&self) -> Ends {
        self.shared.lock().ends.clone()
    }

    /// Cuts all connections.
    pub fn cut(&self) {
        self.shared.lock().cut();
    }

    /// Lets nobody in for this long. Who is in stays.
    pub fn refuse(&self, time: Duration) {
        self.shared.lock().refused_until = Some(Instant::now() + time);
    }

    /// Forwards nothing for this long. Connections stay.
    pub fn stall(&self, time: Duration) {
        self.shared.lock().stalled_until = Some(Instant::now() + time);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        {
            let mut state = self.shared.lock();
            state.closed = true;
            state.cut();
        }
        self.shared.changed.notify_all();
        // The listener looks at `closed` when somebody comes.
        drop(TcpStream::connect(self.shared.own));
        if let Some(listening) = self.listening.take() {
            let _panicked = listening.join();
        }
    }
}

impl State {
    fn cut(&mut self) {
        for stream in std::mem::take(&mut self.connections).into_values().flatten() {
            let _gone = stream.shutdown(Shutdown::Both);
        }
    }

    fn is_refused(&self) -> bool {
        self.refused_until.is_some_and(|until| Instant::now() < until)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while `condition` holds, until `deadline` at most, or the proxy's end.
    fn wait_while(&self, deadline: Instant, condition: impl Fn(&State) -> bool) {
        let mut state = self.lock();
        while condition(&state) && !state.closed {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return;
            };
            state = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    fn listen(self: Arc<Self>, listener: &TcpListener) {
        for client in listener.incoming() {
            {
                let state = self.lock();
                if state.closed {
                    return;
                }
                if state.is_refused() {
                    continue;
                }
            }
            // A broker that is gone refuses; so does the proxy then, by dropping the client.
            if let (Ok(client), Ok(broker)) = (client, TcpStream::connect(self.broker)) {
                let of_thread = Arc::clone(&self);
                std::thread::spawn(move || {
                    let _cut = of_thread.serve(client, broker);
                });
            }
        }
    }

    /// Forwards in both directions until either side ends.
    fn serve(&self, client: TcpStream, broker: TcpStream) -> io::Result<()> {
        // Each frame is written whole: waiting for more would only slow the client down.
        client.set_nodelay(true)?;
        broker.set_nodelay(true)?;
        let ends = [client.try_clone()?, broker.try_clone()?];
        let number = {
            let mut state = self.lock();
            state.connected += 1;
            let number = state.connected;
            state
                .connections
                .insert(number, [client.try_clone()?, broker.try_clone()?]);
            number
        };
        let shut = || ends.iter().for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
        let asked = Mutex::default();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _cut = self.answers(&broker, &client, &asked);
                shut();
            });
            let _cut = self.requests(&client, &broker, &asked);
            shut();
        });
        self.lock().connections.remove(&number);
        Ok(())
    }

    fn requests(&self, client: &TcpStream, broker: &TcpStream, asked: &Mutex<VecDeque<Asked>>) -> io::Result<()> {
        loop {
            let frame = read_frame(client)?;
            self.wait_out_stall();
            let key = i16_at(&frame, 4)?;
            let fault = if key == END_TXN { self.fault_of_end() } else { None };
            // Noted first: the answer may be here before the next line.
            asked.lock().unwrap_or_else(PoisonError::into_inner).push_back(Asked {
                key,
                version: i16_at(&frame, 6)?,
                fault,
            });
            if fault == Some(EndFault::DeliverLate) {
                client.shutdown(Shutdown::Both)?;
                let deadline = Instant::now() + HOLD_MAX;
                self.wait_while(deadline, |state| state.held == Held::UntilRows);
                if self.lock().held != Held::Released {
                    self.change(|state| state.held = Held::Nothing);
                    return Err(io::Error::other("no rows came after the held end"));
                }
                write_frame(broker, &frame)?;
                self.wait_while(deadline, |state| state.held != Held::Nothing);
                return Ok(());
            }
            write_frame(broker, &frame)?;
            if key == PRODUCE {
                // No rows after the first overtake the held end.
                self.wait_while(Instant::now() + HOLD_MAX, |state| state.held != Held::Nothing);
            }
        }
    }

    fn answers(&self, broker: &TcpStream, client: &TcpStream, asked: &Mutex<VecDeque<Asked>>) -> io::Result<()> {
        loop {
            let mut frame = read_frame(broker)?;
            self.wait_out_stall();
            // Brokers answer the requests of a connection in their order.
            let request = asked.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(Asked { key, version, fault }) = request else {
                return Err(io::Error::other("an answer that nobody asked for"));
            };
            match fault {
                None => {}
                Some(EndFault::LoseAnswer { refuse }) => {
                    self.change(|state| {
                        state.ends.lost += 1;
                        state.refused_until = Some(Instant::now() + refuse);
                    });
                    return Ok(());
                }
                Some(EndFault::DelayAnswer(time)) => {
                    self.change(|state| state.ends.delayed += 1);
                    self.wait_while(Instant::now() + time, |_| true);
                }
                Some(EndFault::DeliverLate) => {
                    let code = end_code(&frame, version)?;
                    self.change(|state| {
                        state.ends.late.push(code);
                        state.held = Held::Nothing;
                    });
                    return Ok(());
                }
            }
            match key {
                PRODUCE => self.release_held_end(),
                METADATA | FIND_COORDINATOR | DESCRIBE_CLUSTER => {
                    let places = self.lead_here(&mut frame);
                    // A coordinator may be missing, brokers are not: the client would go past the proxy.
                    if places == 0 && key == METADATA {
                        return Err(io::Error::other("metadata without the broker's address"));
                    }
                }
                _ => {}
            }
            write_frame(client, &frame)?;
        }
    }

    fn wait_out_stall(&self) {
        while let Some(until) = self.stalled_until() {
            self.wait_while(until, |_| true);
        }
    }

    fn stalled_until(&self) -> Option<Instant> {
        let state = self.lock();
        state
            .stalled_until
            .filter(|until| !state.closed && Instant::now() < *until)
    }

    fn fault_of_end(&self) -> Option<EndFault> {
        let mut state = self.lock();
        state.ends.asked += 1;
        let (pass, fault) = state.armed.front_mut()?;
        if *pass > 0 {
            *pass -= 1;
            return None;
        }
        let fault = *fault;
        state.armed.pop_front();
        if fault == EndFault::DeliverLate {
            state.held = Held::UntilRows;
        }
        Some(fault)
    }

    /// Rows were written: an end that is held back overtakes their answer.
    fn release_held_end(&self) {
        self.change(|state| {
            if state.held == Held::UntilRows {
                state.held = Held::Released;
            }
        });
        self.wait_while(Instant::now() + HOLD_MAX, |state| state.held == Held::Released);
    }

    /// Replaces the broker's port with the proxy's own behind each mention of its host; gives the number of places.
    fn lead_here(&self, frame: &mut [u8]) -> usize {
        let host = self.broker.ip().to_string();
        let mut from = host.into_bytes();
        let host_bytes = from.len();
        from.extend_from_slice(&u32::from(self.broker.port()).to_be_bytes());
        let mut places = 0;
        let mut at = 0;
        while at + from.len() <= frame.len() {
            if frame[at..].starts_with(&from) {
                frame[at + host_bytes..at + from.len()].copy_from_slice(&u32::from(self.own.port()).to_be_bytes());
                places += 1;
                at += from.len();
            } else {
                at += 1;
            }
        }
        places
    }
}

/// A request or an answer with the four bytes of its length.
fn read_frame(mut stream: &TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let bytes = u32::from_be_bytes(length) as usize;
    if bytes > FRAME_BYTES_MAX {
        return Err(io::Error::other(format!("a frame of {bytes} bytes")));
    }
    let mut frame = vec![0; 4 + bytes];
    frame[..4].copy_from_slice(&length);
    stream.read_exact(&mut frame[4..])?;
    Ok(frame)
}

fn write_frame(mut stream: &TcpStream, frame: &[u8]) -> io::Result<()> {
    stream.write_all(frame)
}

fn i16_at(frame: &[u8], at: usize) -> io::Result<i16> {
    match frame.get(at..at + 2) {
        Some(bytes) => Ok(i16::from_be_bytes([bytes[0], bytes[1]])),
        None => Err(io::Error::other(format!(
            "a frame of {} bytes is too short",
            frame.len()
        ))),
    }
}

/// The error code of an answer to EndTxn: behind length, correlation id, tagged fields (one byte, from version 3) and the
/// throttle time.
fn end_code(frame: &[u8], version: i16) -> io::Result<i16> {
    i16_at(frame, 4 + 4 + usize::from(version >= 3) + 4)
}

#[cfg(test)]
mod tests;
