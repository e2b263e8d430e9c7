//! A proxy on loopback with backends on threads, for tests.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};
use tokio::sync::mpsc;

use super::Proxy;
use super::log::Log;
use crate::balance::flow::{FlowEnd, FlowEvent};
use crate::config::Config;
use crate::config::fixture::pair;
use crate::model::{BackendId, NodeId};

/// Nothing on loopback takes longer, however noisy the machine is.
pub(super) const LONG: Duration = Duration::from_secs(20);

const BASE: &str = r#"
[[service]]
name = "web"
listen = ["192.0.2.100:80"]
"#;

/// A configuration with one service on a free port of loopback and one worker.
pub(super) fn config(backends: &[SocketAddr]) -> Config {
    let mut text = BASE.to_owned();
    for n in 0..backends.len() {
        text += &format!(
            "[[service.backend]]\nname = \"b{n}\"\naddress = \"203.0.113.1:{}\"\n",
            n + 1
        );
    }
    let mut config = pair(&text);
    for (backend, address) in config.services[0].backends.iter_mut().zip(backends) {
        backend.address = (*address).into();
    }
    config.services[0].listen = vec!["127.0.0.1:0".parse().unwrap()];
    config.proxy.workers = Some(1);
    config
}

/// The id of the n-th backend.
pub(super) fn id(n: usize) -> BackendId {
    BackendId::of("web", &format!("b{n}"))
}

pub(super) struct Rig {
    pub(super) proxy: Proxy,
    events: mpsc::Receiver<Vec<FlowEvent>>,
    pub(super) seen: Vec<FlowEvent>,
}

impl Rig {
    /// Every backend eligible.
    pub(super) fn new(backends: &[SocketAddr]) -> Self {
        Self::of(&config(backends))
    }

    pub(super) fn of(config: &Config) -> Self {
        Self::with(config, None)
    }

    /// With a log that the test reads.
    pub(super) fn logged(config: &Config, log: Log) -> Self {
        Self::with(config, Some(log))
    }

    fn with(config: &Config, log: Option<Log>) -> Self {
        let (sender, events) = mpsc::channel(1_024);
        let proxy = Proxy::start_with(config, NodeId::First, sender, 1, [7; 16], log).unwrap();
        let backends = config.services.iter().flat_map(|s| &s.backends);
        proxy.publish(&backends.map(|backend| backend.id).collect());
        Self {
            proxy,
            events,
            seen: Vec::new(),
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.proxy.addresses()[0].1
    }

    pub(super) fn connect(&self) -> TcpStream {
        patient(TcpStream::connect(self.address()).unwrap())
    }

    /// Waits until the events satisfy this.
    pub(super) fn until(&mut self, what: &str, done: impl Fn(&[FlowEvent]) -> bool) {
        for _ in 0..LONG.as_millis() / 5 {
            while let Ok(batch) = self.events.try_recv() {
                self.seen.extend(batch);
            }
            if done(&self.seen) {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
        panic!("waited in vain for {what}: {:?}", self.seen);
    }

    /// Waits for so many connections to end, and gives their ends and bytes.
    pub(super) fn ends(&mut self, count: usize) -> Vec<(FlowEnd, u64, u64)> {
        self.until("ends", |seen| closed(seen).len() >= count);
        closed(&self.seen)
    }
}

fn closed(events: &[FlowEvent]) -> Vec<(FlowEnd, u64, u64)> {
    let end = |event: &FlowEvent| match event {
        FlowEvent::Closed { up, down, end, .. } => Some((*end, *up, *down)),
        _ => None,
    };
    events.iter().filter_map(end).collect()
}

/// Opened minus closed.
pub(super) fn live(events: &[FlowEvent]) -> i64 {
    let count = |event: &FlowEvent| match event {
        FlowEvent::Opened { .. } => 1,
        FlowEvent::Closed { .. } => -1,
        _ => 0,
    };
    events.iter().map(count).sum()
}

pub(super) fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream.set_write_timeout(Some(LONG)).unwrap();
    stream
}

/// A listener on loopback.
pub(super) fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

pub(super) fn accept(listener: &TcpListener) -> TcpStream {
    patient(listener.accept().unwrap().0)
}

/// A backend that serves each connection on a thread of its own.
pub(super) fn backend(
    serve: impl Fn(TcpStream) -> io::Result<()> + Clone + Send + 'static,
) -> SocketAddr {
    let (listener, address) = listener();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let serve = serve.clone();
            let stream = patient(stream.unwrap());
            thread::spawn(move || serve(stream));
        }
    });
    address
}

pub(super) fn echo() -> SocketAddr {
    backend(|mut stream| {
        let mut buffer = [0; 4_096];
        loop {
            match stream.read(&mut buffer)? {
                0 => return Ok(()),
                got => stream.write_all(&buffer[..got])?,
            }
        }
    })
}

/// An address where nobody listens, nor will: its port stays taken for as long as the tests run.
pub(super) fn nobody() -> SocketAddr {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    socket.bind(&any.into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    std::mem::forget(socket);
    address
}

/// Closes with a reset.
pub(super) fn abort(stream: TcpStream) {
    SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(stream);
}

/// Reads to the end; what came, and whether a reset was the end.
pub(super) fn read_out(stream: &mut TcpStream) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => (bytes, false),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => (bytes, true),
        Err(error) => panic!("neither an end nor a reset: {error}"),
    }
}

pub(super) fn assert_reset(stream: &mut TcpStream) {
    let (bytes, reset) = read_out(stream);
    assert!(reset, "an orderly end after {} bytes", bytes.len());
}

/// Sends a word and waits for its echo.
pub(super) fn ping(stream: &mut TcpStream) {
    stream.write_all(b"ping").unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"ping");
}
