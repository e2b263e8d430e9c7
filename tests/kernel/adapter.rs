//! The thread that serves the program, with everything below it and a test in the node's place.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tandem::balance::nat::{NatCommand, NatEvent, NatReport};
use tandem::config::{Acknowledge, Config, Fallback, Forward, KernelMode, OnDown, Stray};
use tandem::datapath::nat::{Lease, NatHandle, NatOptions, Running, start};
use tandem::model::{ConnectFailure, NodeId, Vip};
use tandem::wire::replication::NatKey;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::line::{BACKENDS, Line, NODE_LEFT, NODE_RIGHT, PORT};
use crate::rig::{SERVICE, best_hook, connect, exchange, serve};

type Outcome = Result<(), String>;

/// Nothing here takes that long, even on a busy machine.
const LONG: Duration = Duration::from_secs(30);

fn expect(what: &str, right: bool) -> Outcome {
    right.then_some(()).ok_or_else(|| what.to_owned())
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn text(error: impl ToString) -> String {
    error.to_string()
}

/// A port whose backend has an address that nobody has.
const NOBODY: u16 = 9;

/// A service whose backends listen at these ports, on addresses of their own.
fn config(line: &Line, six: bool, ports: &[u16], mode: Acknowledge) -> Result<Config, String> {
    let (vip, source) = (line.vip(six, SERVICE), line.source(six));
    let prefix = if six { 64 } else { 28 };
    let backends = ports.iter().zip(0..).map(|(port, n)| {
        let place = if *port == NOBODY { n + BACKENDS } else { n };
        let at = SocketAddr::new(line.backend_at(six, place).ip(), *port);
        format!("[[service.backend]]\nname = \"b{n}\"\naddress = \"{at}\"\n")
    });
    let text = format!(
        "[cluster]\nname = \"test\"\nkey_file = \"/nowhere\"\nrelay = false\n\
         [[node]]\nname = \"one\"\npriority = 150\naddresses = [\"203.0.113.1\"]\n\
         [[node]]\nname = \"two\"\npriority = 100\naddresses = [\"203.0.113.2\"]\n\
         [[vip]]\naddress = \"{}/{prefix}\"\ninterface = \"{NODE_LEFT}\"\n\
         [[service]]\nname = \"web\"\nlisten = [\"{vip}\"]\nconnect_timeout = \"250ms\"\n{}",
        vip.ip(),
        backends.collect::<String>(),
    );
    let mut config = Config::parse(&text).map_err(|errors| errors.render("test", &text, false))?;
    let address = format!("{source}/{prefix}")
        .parse()
        .map_err(|error| format!("{error}"))?;
    config.vips.push(Vip {
        address,
        interface: NODE_RIGHT.into(),
    });
    config.kernel.max_flows = 4_096;
    config.kernel.sync_timeout = Duration::from_secs(1);
    config.services[0].kernel = Some(KernelMode {
        sources: vec![source],
        forward: Forward::Nat,
        replication: mode,
        fallback: Fallback::Refuse,
        on_down: OnDown::Keep,
        stray: Stray::Reset,
        source_rate: 0,
    });
    Ok(config)
}

/// A host that leads, and what its node would see.
struct Kernel {
    line: Line,
    config: Config,
    options: NatOptions,
    handle: Arc<NatHandle>,
    lease: Lease,
    reports: mpsc::Receiver<NatReport>,
    /// Of the last report.
    ticket: u64,
}

impl Kernel {
    /// `room`: of the queue of reports.
    async fn start(
        test: &str,
        six: bool,
        ports: &[u16],
        mode: Acknowledge,
        room: usize,
    ) -> Result<Self, String> {
        let line = Line::build(&[1_500; 2], 1).await?;
        serve(&line, six, &Arc::default()).await?;
        let config = config(&line, six, ports, mode)?;
        let options = NatOptions {
            pins: PathBuf::from("/sys/fs/bpf/tests").join(test),
            lease: Duration::from_millis(240),
            seed: 7,
        };
        let (handle, lease, reports) = begin(&line, &config, &options, room).await?;
        let mut kernel = Self {
            line,
            config,
            options,
            handle: Arc::new(handle),
            lease,
            reports,
            ticket: 0,
        };
        kernel.lead().await?;
        Ok(kernel)
    }

    async fn lead(&mut self) -> Outcome {
        self.lease.renew(u64::MAX).map_err(text)?;
        self.handle.command(NatCommand::Lead);
        let backends = self.config.services[0].backends.iter();
        self.handle.command(NatCommand::Publish {
            eligible: backends.map(|backend| backend.id).collect(),
            down: BTreeSet::new(),
        });
        // Until it is published; a SYN before that finds no backend and comes again after a second.
        tokio::time::sleep(Duration::from_millis(300)).await;
        Ok(())
    }

    /// The events until there is one like this, in order and none lost.
    async fn until(&mut self, last: impl Fn(&NatEvent) -> bool) -> Result<Vec<NatEvent>, String> {
        let mut events = Vec::new();
        loop {
            let report = timeout(LONG, self.reports.recv()).await;
            let report = report.map_err(|_| format!("no such event: {events:?}"))?;
            let report = report.ok_or("no more reports")?;
            self.ticket += 1;
            expect("tickets in order", report.ticket == self.ticket)?;
            expect("no empty report", !report.events.is_empty())?;
            events.extend(report.events);
            if events.iter().any(&last) {
                return Ok(events);
            }
        }
    }

    async fn connect(&self, six: bool) -> Result<TcpStream, String> {
        let vip = self.line.vip(six, SERVICE);
        self.line.client().run(connect(vip)).await
    }

    /// As the peer would, that late.
    fn acknowledge(&mut self, late: Duration) -> tokio::task::JoinHandle<u64> {
        let (_, none) = mpsc::channel(1);
        let mut reports = std::mem::replace(&mut self.reports, none);
        let handle = Arc::clone(&self.handle);
        tokio::spawn(async move {
            let mut last = 0;
            while let Ok(Some(report)) = timeout(Duration::from_secs(2), reports.recv()).await {
                last = report.ticket;
                tokio::time::sleep(late).await;
                handle.command(NatCommand::Acknowledged {
                    ticket: report.ticket,
                    by_standby: true,
                });
            }
            last
        })
    }

    /// Ends it cleanly: nothing is left.
    async fn stop(self) -> Outcome {
        let Self {
            line,
            handle,
            options,
            ..
        } = self;
        let handle = Arc::into_inner(handle).ok_or("somebody still has the handle")?;
        line.node().run(async move { handle.stop() }).await;
        expect("no pins", !options.pins.exists())
    }
}

async fn begin(
    line: &Line,
    config: &Config,
    options: &NatOptions,
    room: usize,
) -> Result<(NatHandle, Lease, mpsc::Receiver<NatReport>), String> {
    let (sender, reports) = mpsc::channel(room);
    let (config, options) = (config.clone(), options.clone());
    let work = async move { start(&config, NodeId::First, &options, sender) };
    let Running { handle, lease, .. } = line.node().run(work).await.map_err(text)?;
    Ok((handle, lease, reports))
}

fn key_of(event: &NatEvent) -> Option<&NatKey> {
    match event {
        NatEvent::Opened { key, .. }
        | NatEvent::Marks { key, .. }
        | NatEvent::Closed { key, .. } => Some(key),
        _ => None,
    }
}

const fn closed(event: &NatEvent) -> bool {
    matches!(event, NatEvent::Closed { .. })
}

/// The client's handshake waits for the standby's word, and no longer.
#[expect(clippy::disallowed_methods, reason = "it measures the kernel")]
pub(crate) async fn waits_for_the_standby(six: bool) -> Outcome {
    const LATE: Duration = Duration::from_millis(5);
    let name = if six { "sync6" } else { "sync4" };
    let mut kernel = Kernel::start(name, six, &[PORT; 2], Acknowledge::Sync, 64).await?;
    let standby = kernel.acknowledge(LATE);
    let mut longest = Duration::ZERO;
    for _ in 0..10 {
        let begun = Instant::now();
        let mut stream = kernel.connect(six).await?;
        let took = begun.elapsed();
        expect(&format!("connected after {took:?}"), took >= LATE)?;
        longest = longest.max(took);
        let work = async move { exchange(&mut stream, 3_000, 100_000).await };
        kernel.line.client().run(work).await?;
    }
    println!("longest handshake: {longest:?}");
    // A SYN or SYN-ACK that was lost comes again after a second.
    expect(
        &format!("connected after {longest:?}"),
        longest < Duration::from_millis(900),
    )?;
    let last = standby.await.map_err(text)?;
    expect("some reports", last >= 10)?;
    let status = kernel.handle.status();
    expect(
        &format!("{status:?}"),
        status.released_acknowledged >= 10 && status.released_late == 0,
    )?;
    let hook = best_hook().name();
    let hooks = [format!("left ({hook})"), format!("right ({hook})")];
    expect("forwarding", status.forwarding && status.hooks == hooks)?;
    expect(
        "sent",
        status.counters["sent"] >= 10 && status.counters["map_failures"] == 0,
    )?;
    kernel.stop().await
}

/// A backend that refuses is not seen by the client; the node hears of all of it.
pub(crate) async fn goes_elsewhere(six: bool) -> Outcome {
    let name = if six { "retry6" } else { "retry4" };
    // Nobody listens at the first backend's port.
    let ports = [PORT + 9, PORT];
    let mut kernel = Kernel::start(name, six, &ports, Acknowledge::Async, 64).await?;
    let backends: Vec<_> = kernel.config.services[0]
        .backends
        .iter()
        .map(|it| it.id)
        .collect();
    // Round robin begins anywhere: two connections meet the dead backend once.
    let mut events = Vec::new();
    for _ in 0..2 {
        let mut stream = kernel.connect(six).await?;
        let work = async move { exchange(&mut stream, 3_000, 3_000).await };
        kernel.line.client().run(work).await?;
        events.extend(kernel.until(closed).await?);
    }
    let failed: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            NatEvent::ConnectFailed { backend, failure } => Some((*backend, *failure)),
            _ => None,
        })
        .collect();
    let expected = [(backends[0], ConnectFailure::Refused)];
    expect(&format!("failed: {failed:?}"), failed == expected)?;
    let opened: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            NatEvent::Opened { record, .. } => Some(record.backend),
            _ => None,
        })
        .collect();
    let bad = opened.iter().filter(|id| **id == backends[0]).count();
    expect(
        &format!("opened: {opened:?}"),
        bad == 1 && opened.len() == 3,
    )?;
    let marks = events.iter().filter(|event| matches!(event, NatEvent::Marks { answered: true, backend, .. } if *backend == backends[1]));
    expect("both answered by the good one", marks.count() == 2)?;
    let keys: BTreeSet<_> = events.iter().filter_map(key_of).collect();
    expect("two connections", keys.len() == 2)?;
    kernel.stop().await
}

/// If all refuse, so does the service.
pub(crate) async fn refuses(six: bool) -> Outcome {
    let name = if six { "refuse6" } else { "refuse4" };
    refused(name, six, &[PORT + 9; 3], 3).await
}

/// So it does if the only one is silent, which is asked twice.
pub(crate) async fn silent(six: bool) -> Outcome {
    let name = if six { "silent6" } else { "silent4" };
    refused(name, six, &[NOBODY], 2).await
}

async fn refused(name: &str, six: bool, ports: &[u16], asked: usize) -> Outcome {
    let mut kernel = Kernel::start(name, six, ports, Acknowledge::Sync, 64).await?;
    let vip = kernel.line.vip(six, SERVICE);
    let connecting = kernel.line.client().spawn(TcpStream::connect(vip));
    let unserved = |event: &NatEvent| matches!(event, NatEvent::Unserved { .. });
    let events = kernel.until(unserved).await?;
    let refused = timeout(LONG, connecting)
        .await
        .map_err(text)?
        .map_err(text)?;
    let kind = refused.err().map(|error| error.kind());
    let right = kind == Some(std::io::ErrorKind::ConnectionRefused);
    expect(&format!("{kind:?}"), right)?;
    let failed = events
        .iter()
        .filter(|event| matches!(event, NatEvent::ConnectFailed { .. }));
    expect(
        &format!("{events:?}"),
        failed.count() == asked && events.iter().any(closed),
    )?;
    kernel.stop().await
}

/// More reports than the node has room for: none is lost, and their order is kept.
pub(crate) async fn slow_node() -> Outcome {
    const COUNT: usize = 200;
    let mut kernel = Kernel::start("slow", false, &[PORT; 3], Acknowledge::Async, 1).await?;
    kernel.connect(false).await?;
    let vip = kernel.line.vip(false, SERVICE);
    let clients: Vec<_> = (0..COUNT - 1)
        .map(|_| {
            kernel
                .line
                .client()
                .spawn(async move { connect(vip).await.map(drop) })
        })
        .collect();
    for client in clients {
        client.await.map_err(text)??;
    }
    let (mut opened, mut closed) = (BTreeSet::new(), BTreeSet::new());
    while closed.len() < COUNT {
        tokio::time::sleep(Duration::from_millis(20)).await;
        for event in kernel.until(|_| true).await? {
            match event {
                NatEvent::Opened { key, .. } => expect("opened once", opened.insert(key))?,
                NatEvent::Closed { key, .. } => {
                    expect(
                        "closed after it opened, once",
                        opened.contains(&key) && closed.insert(key),
                    )?;
                }
                _ => {}
            }
        }
    }
    kernel.stop().await
}

/// A node dies; its successor is told of the connections, which go on.
pub(crate) async fn successor() -> Outcome {
    let mut kernel = Kernel::start("successor", false, &[PORT; 2], Acknowledge::Async, 64).await?;
    let mut stream = kernel.connect(false).await?;
    let events = kernel
        .until(|event| matches!(event, NatEvent::Marks { .. }))
        .await?;
    let key = *events.iter().find_map(key_of).ok_or("no key")?;
    let Kernel {
        line,
        config,
        options,
        handle,
        ..
    } = kernel;
    let handle = Arc::into_inner(handle).ok_or("somebody still has the handle")?;
    line.node().run(async move { drop(handle) }).await;
    expect("its pins stay", options.pins.exists())?;
    let work = async move {
        exchange(&mut stream, 3_000, 100_000).await?;
        Ok::<_, String>(stream)
    };
    let stream = line.client().run(work).await?;
    let (handle, lease, reports) = begin(&line, &config, &options, 64).await?;
    let mut kernel = Kernel {
        line,
        config,
        options,
        handle: Arc::new(handle),
        lease,
        reports,
        ticket: 0,
    };
    kernel.lead().await?;
    drop(stream);
    let events = kernel.until(closed).await?;
    let mine: Vec<_> = events
        .iter()
        .filter(|event| key_of(event) == Some(&key))
        .collect();
    expect(
        &format!("{events:?}"),
        matches!(
            mine[..],
            [NatEvent::Opened { .. }, .., NatEvent::Closed { .. }]
        ),
    )?;
    kernel.connect(false).await?;
    kernel.until(closed).await?;
    kernel.stop().await
}
