use super::*;

const SOON: Duration = Duration::from_secs(20);

/// Length, then key and version (or nothing, in an answer), correlation id and body.
fn frame(head: &[u8], correlation: u32, body: &[u8]) -> Vec<u8> {
    let rest = [head, &correlation.to_be_bytes(), body].concat();
    [
        &u32::try_from(rest.len()).expect("short").to_be_bytes(),
        rest.as_slice(),
    ]
    .concat()
}

fn request(key: i16, correlation: u32) -> Vec<u8> {
    frame(&[key.to_be_bytes(), [0, 0]].concat(), correlation, b"")
}

/// A broker that answers every request with its own address between two letters, on as many connections as come. It
/// notes the keys of the requests.
fn broker() -> (SocketAddr, Arc<Mutex<Vec<i16>>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("its address");
    let seen: Arc<Mutex<Vec<i16>>> = Arc::default();
    let keys = Arc::clone(&seen);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, keys) = (stream.expect("a client"), Arc::clone(&keys));
            std::thread::spawn(move || {
                while let Ok(asked) = read_frame(&stream) {
                    keys.lock().expect("whole").push(i16_at(&asked, 4).expect("a key"));
                    let correlation = u32::from_be_bytes(asked[8..12].try_into().expect("four bytes"));
                    if write_frame(&stream, &frame(b"", correlation, &named(address))).is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, seen)
}

fn named(address: SocketAddr) -> Vec<u8> {
    let host = address.ip().to_string().into_bytes();
    [b"<", host.as_slice(), &u32::from(address.port()).to_be_bytes(), b">"].concat()
}

struct Client(TcpStream);

impl Client {
    fn of(proxy: &Proxy) -> Self {
        let stream = TcpStream::connect(proxy.address()).expect("it listens");
        stream.set_read_timeout(Some(SOON)).expect("a limit");
        Self(stream)
    }

    fn ask(&self, key: i16, correlation: u32) -> io::Result<Vec<u8>> {
        write_frame(&self.0, &request(key, correlation))?;
        read_frame(&self.0)
    }
}

#[test]
fn addresses_lead_to_the_proxy_where_brokers_tell_them_and_nothing_else_changes() {
    let (address, _) = broker();
    let proxy = Proxy::start(&address.to_string()).expect("it starts");
    let client = Client::of(&proxy);
    for key in [METADATA, FIND_COORDINATOR, DESCRIBE_CLUSTER] {
        let answer = client.ask(key, 7).expect("an answer");
        assert_eq!(answer, frame(b"", 7, &named(proxy.shared.own)), "{key}");
    }
    for key in [PRODUCE, END_TXN, 18] {
        assert_eq!(
            client.ask(key, 8).expect("an answer"),
            frame(b"", 8, &named(address)),
            "{key}"
        );
    }
}

#[test]
fn a_lost_answer_takes_its_connection_along_and_then_nobody_gets_in_for_a_while() {
    let (address, seen) = broker();
    let proxy = Proxy::start(&address.to_string()).expect("it starts");
    let refuse = Duration::from_millis(300);
    proxy.arm(1, EndFault::LoseAnswer { refuse });
    let client = Client::of(&proxy);
    assert!(client.ask(END_TXN, 1).is_ok(), "one passes");
    let began = Instant::now();
    assert!(client.ask(END_TXN, 2).is_err());
    assert!(Client::of(&proxy).ask(END_TXN, 3).is_err(), "refused");
    while Client::of(&proxy).ask(END_TXN, 4).is_err() {
        assert!(began.elapsed() < SOON, "never let in again");
    }
    assert!(began.elapsed() >= refuse);
    assert_eq!(*seen.lock().expect("whole"), [END_TXN; 3], "the broker got it");
    assert_eq!((proxy.ends().asked, proxy.ends().lost), (3, 1));
}

#[test]
fn a_held_end_arrives_after_the_rows_and_before_their_answer() {
    let (address, seen) = broker();
    let proxy = Proxy::start(&address.to_string()).expect("it starts");
    proxy.arm(0, EndFault::DeliverLate);
    assert!(Client::of(&proxy).ask(END_TXN, 1).is_err());
    let client = Client::of(&proxy);
    assert!(client.ask(END_TXN, 2).is_ok(), "asked again");
    assert_eq!(proxy.ends().late, [0; 0]);
    assert!(client.ask(PRODUCE, 3).is_ok());
    assert_eq!(proxy.ends().late.len(), 1);
    assert_eq!(*seen.lock().expect("whole"), [END_TXN, PRODUCE, END_TXN]);
}

#[test]
fn delays_and_stalls_end_and_cut_connections_are_cut() {
    let (address, _) = broker();
    let proxy = Proxy::start(&address.to_string()).expect("it starts");
    let client = Client::of(&proxy);
    let time = Duration::from_millis(200);
    proxy.arm(0, EndFault::DelayAnswer(time));
    let began = Instant::now();
    assert!(client.ask(END_TXN, 1).is_ok());
    assert!(began.elapsed() >= time);
    let began = Instant::now();
    proxy.stall(time);
    assert!(client.ask(18, 2).is_ok());
    assert!(began.elapsed() >= time);
    proxy.refuse(SOON);
    assert!(client.ask(18, 3).is_ok(), "who is in stays");
    proxy.cut();
    assert!(client.ask(18, 4).is_err());
    assert!(Client::of(&proxy).ask(18, 5).is_err());
}
