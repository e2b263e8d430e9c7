//! A line with the program on its node, a service in both families, and servers behind it.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use aya::programs::{SchedClassifier, TcAttachType};
use tandem::datapath::nat::layout::{
    Backend, Endpoint, OWNED_NAT, OWNED_REJECT, OWNED_SOURCE, Owned, Service, Settings,
};
use tandem::datapath::nat::tables::Told;
use tandem::datapath::nat::{Counter, EventKind, Hook, Nat, NatError, Scheduler, Sizes};
use tandem::lab::pattern;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::line::{BACKENDS, Line, NODE_LEFT, NODE_RIGHT, PORT};

/// The service's port.
pub(crate) const SERVICE: u16 = 80;
/// A service whose backends have no listener.
pub(crate) const DEAD_SERVICE: u16 = 81;
/// Nothing here takes that long, even on a busy machine.
const LONG: Duration = Duration::from_secs(30);

const RANGE: Settings = Settings {
    range_first: 16_384,
    range_last: 65_535,
    own_first: 16_384,
    own_last: 40_959,
};

/// Where the program has its place by itself: by tcx, if this kernel has it.
pub(crate) fn best_hook() -> Hook {
    match SchedClassifier::query_tcx("lo", TcAttachType::Ingress) {
        Ok(_) => Hook::Tcx,
        Err(_) => Hook::Clsact,
    }
}

#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) line: Line,
    pub(crate) nat: Nat,
    /// Whom the servers saw.
    pub(crate) peers: Arc<Mutex<Vec<SocketAddr>>>,
    pub(crate) six: bool,
}

fn said<T>(result: Result<T, NatError>) -> Result<T, String> {
    result.map_err(|error| error.to_string())
}

impl Rig {
    /// `flags`: of the services.
    pub(crate) async fn build(
        mtus: &[u32],
        node: usize,
        six: bool,
        flags: u32,
        hook: Hook,
    ) -> Result<Self, String> {
        let line = Line::build(mtus, node).await?;
        let nat = load(&line, hook).await?;
        Self::with(line, nat, six, flags).await
    }

    /// With a program that is in its places already.
    pub(crate) async fn with(line: Line, nat: Nat, six: bool, flags: u32) -> Result<Self, String> {
        let peers = Arc::default();
        let mut rig = Self {
            line,
            nat,
            peers,
            six,
        };
        said(rig.fill(flags))?;
        serve(&rig.line, six, &rig.peers).await?;
        Ok(rig)
    }

    /// Another program in the same places, with tables of its own.
    pub(crate) async fn successor(&mut self) -> Result<Nat, String> {
        let successor = load(&self.line, Hook::Clsact).await?;
        let former = std::mem::replace(&mut self.nat, successor);
        said(self.fill(0))?;
        Ok(std::mem::replace(&mut self.nat, former))
    }

    /// New connections' segments fit links with this MTU.
    pub(crate) fn limit_segments(&mut self, mtu: u32) -> Result<(), String> {
        said(self.service(0, mtu - if self.six { 60 } else { 40 }))
    }

    fn service(&mut self, flags: u32, mss: u32) -> Result<(), NatError> {
        for (port, first) in [(SERVICE, 0), (DEAD_SERVICE, BACKENDS.into())] {
            let service = Service {
                id: port.into(),
                flags,
                scheduler: Scheduler::RoundRobin.number(),
                first,
                slots: BACKENDS.into(),
                turn: first,
                mss,
                ..Service::default()
            };
            let at = Endpoint::from(self.line.vip(self.six, port));
            self.nat.tables.set_service(at, service)?;
        }
        Ok(())
    }

    fn fill(&mut self, flags: u32) -> Result<(), NatError> {
        self.service(flags, 0)?;
        let (line, six, tables) = (&self.line, self.six, &mut self.nat.tables);
        tables.set_settings(RANGE)?;
        for n in 0..BACKENDS {
            for (base, port) in [(0, PORT), (BACKENDS, PORT + 1)] {
                let at = line.backend_at(six, n);
                let backend = Backend {
                    address: at.ip().into(),
                    source: line.source(six).into(),
                    port: port.into(),
                    id: n.into(),
                    ifindex: Line::to_backends(),
                    ..Backend::default()
                };
                tables.set_backend((base + n).into(), backend)?;
            }
        }
        let slots: Vec<u32> = (0..2 * u32::from(BACKENDS)).collect();
        tables.set_slots(0, &slots)?;
        let flags = OWNED_NAT | OWNED_SOURCE | OWNED_REJECT;
        tables.set_address(Endpoint::from(line.source(six)), Owned { flags })?;
        tables.set_address(
            Endpoint::from(line.vip(six, 0).ip()),
            Owned { flags: OWNED_NAT },
        )?;
        self.nat.lease()?.renew(u64::MAX)
    }

    pub(crate) fn vip(&self) -> SocketAddr {
        self.line.vip(self.six, SERVICE)
    }

    pub(crate) fn count(&self, counter: Counter) -> Result<u64, String> {
        said(self.nat.tables.counter(counter))
    }

    /// Everything told so far.
    pub(crate) fn told(&mut self) -> Vec<Told> {
        std::iter::from_fn(|| self.nat.tables.next_event()).collect()
    }

    /// So many connections, `at_once` of them at a time.
    pub(crate) async fn exchanges(
        &self,
        count: usize,
        at_once: usize,
        up: u64,
        down: u64,
    ) -> Result<(), String> {
        let vip = self.vip();
        let rounds = count / at_once;
        let tasks: Vec<_> = (0..at_once)
            .map(|_| {
                self.line.client().spawn(async move {
                    for _ in 0..rounds {
                        let mut stream = connect(vip).await?;
                        exchange(&mut stream, up, down).await?;
                    }
                    Ok::<_, String>(())
                })
            })
            .collect();
        for task in tasks {
            let done = timeout(LONG, task).await;
            done.map_err(|_| "not done in time")?
                .map_err(|error| error.to_string())??;
        }
        Ok(())
    }

    /// Waits until so many events of this kind were told; all that was told until then.
    pub(crate) async fn until(
        &mut self,
        kind: EventKind,
        count: usize,
    ) -> Result<Vec<Told>, String> {
        let mut told = Vec::new();
        for _ in 0..2_000 {
            told.extend(self.told());
            if kinds(&told, kind) >= count {
                return Ok(told);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let found = kinds(&told, kind);
        Err(format!("{found} of {count} flows came to {kind:?}"))
    }
}

async fn load(line: &Line, hook: Hook) -> Result<Nat, String> {
    let load = move || {
        let mut nat = Nat::load(&Sizes {
            flows: 4_096,
            ..Sizes::default()
        })?;
        nat.attach_by(NODE_LEFT, hook)?;
        nat.attach_by(NODE_RIGHT, hook)?;
        Ok(nat)
    };
    said(line.node().run(async move { load() }).await)
}

/// Servers at the backends' port. `peers`: whom they saw.
pub(crate) async fn serve(
    line: &Line,
    six: bool,
    peers: &Arc<Mutex<Vec<SocketAddr>>>,
) -> Result<(), String> {
    for n in 0..BACKENDS {
        let (at, peers) = (line.backend_at(six, n), Arc::clone(peers));
        let listener = line.backend().run(TcpListener::bind(at)).await;
        let listener = listener.map_err(|error| format!("listen at {at}: {error}"))?;
        line.backend().spawn(async move {
            while let Ok((stream, peer)) = listener.accept().await {
                peers.lock().expect("no holder panics").push(peer);
                tokio::spawn(answer(stream));
            }
        });
    }
    Ok(())
}

/// How many of this kind.
pub(crate) fn kinds(told: &[Told], kind: EventKind) -> usize {
    let kinds = told.iter().map(|told| match told {
        Told::Carried(carried) => carried.event.kind,
        Told::Event(event) => event.kind,
    });
    kinds.filter(|found| *found == kind.number()).count()
}

pub(crate) async fn connect(to: SocketAddr) -> Result<TcpStream, String> {
    let connected = timeout(LONG, TcpStream::connect(to)).await;
    let stream = connected.map_err(|_| format!("no connection to {to} in time"))?;
    stream.map_err(|error| format!("connect to {to}: {error}"))
}

/// Sends so many bytes and has so many sent back; both are checked. May be repeated.
pub(crate) async fn exchange(stream: &mut TcpStream, up: u64, down: u64) -> Result<(), String> {
    let (mut from, mut to) = stream.split();
    let send = async {
        to.write_u64(up).await?;
        to.write_u64(down).await?;
        write(&mut to, up).await
    };
    let receive = async {
        // The server answers once it has all, if it was right.
        let got = from.read_u64().await?;
        read(&mut from, down).await.map(|()| got)
    };
    let (sent, received) = tokio::join!(send, receive);
    sent.map_err(|error| format!("send: {error}"))?;
    let got = received.map_err(|error| format!("receive: {error}"))?;
    (got == up)
        .then_some(())
        .ok_or_else(|| "the server got other bytes".into())
}

async fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    // An answer is several writes.
    stream.set_nodelay(true)?;
    loop {
        let up = stream.read_u64().await?;
        let down = stream.read_u64().await?;
        let right = read(&mut stream, up).await.is_ok();
        stream.write_u64(if right { up } else { u64::MAX }).await?;
        write(&mut stream, down).await?;
    }
}

/// The pattern's period, which is prime, so that a lost or doubled packet shows.
const PERIOD: u64 = 251;
const PART: u64 = PERIOD * 512;

/// Some of it, made once.
static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| (0..PART + PERIOD).map(pattern).collect());

/// The pattern from this byte on.
fn part(from: u64, length: u64) -> &'static [u8] {
    let first = usize::try_from(from % PERIOD).expect("less than the period");
    &BYTES[first..first + usize::try_from(length).expect("at most a part")]
}

async fn write(to: &mut (impl AsyncWriteExt + Unpin), length: u64) -> std::io::Result<()> {
    let mut sent = 0;
    while sent < length {
        let now = PART.min(length - sent);
        to.write_all(part(sent, now)).await?;
        sent += now;
    }
    Ok(())
}

/// Reads so much of the pattern, and nothing else.
async fn read(from: &mut (impl AsyncReadExt + Unpin), length: u64) -> std::io::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    let mut had = 0;
    while had < length {
        let most = (buffer.len() as u64).min(length - had);
        let room = usize::try_from(most).expect("at most a part");
        let got = from.read(&mut buffer[..room]).await?;
        if got == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if buffer[..got] != *part(had, got as u64) {
            return Err(std::io::Error::other("other bytes than were sent"));
        }
        had += got as u64;
    }
    Ok(())
}
