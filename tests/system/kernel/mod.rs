//! The kernel mode as its users meet it: broken backends, odd packets, lives and deaths of nodes.
//!
//! All need root outside of any user namespace. What holds over a failover is also judged by
//! `survive`.

mod backends;
mod discover;
mod floods;
mod lives;
mod odd;
mod roster;
mod shares;
mod storms;
mod ways;

use std::fmt::Write;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use rtnetlink::RouteMessageBuilder;
use tandem::lab::{
    BACKENDS, Host, Lab, LabError, SOURCE4, VIP4, backend_address, backend_name, default_config,
};
use tandem::model::NodeId;
use tandem::status::NatStatus;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Test;
use super::balance::again;
use super::tools::{status, with};

/// For what takes a moment.
const SOON: Duration = Duration::from_secs(5);
/// Nothing that stands on its own feet takes longer.
const PATIENCE: Duration = Duration::from_secs(3);

pub(crate) fn tests() -> Vec<Test> {
    [
        backends::tests(),
        discover::tests(),
        floods::tests(),
        lives::tests(),
        odd::tests(),
        roster::tests(),
        shares::tests(),
        storms::tests(),
        ways::tests(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A service of the kernel mode on a port of the VIP.
struct Service<'a> {
    name: &'a str,
    port: u16,
    /// Lines of its own.
    keys: &'a str,
    /// Whether its backends are checked.
    checked: bool,
    weights: [u32; BACKENDS],
    /// Where its backends listen.
    to: u16,
}

impl Default for Service<'_> {
    fn default() -> Self {
        Self {
            name: "web",
            port: 80,
            keys: "",
            checked: true,
            weights: [1; BACKENDS],
            to: 80,
        }
    }
}

impl Service<'_> {
    fn text(&self, keys: &str, listen: &[Ipv4Addr]) -> String {
        let port = self.port;
        let listen: Vec<_> = listen.iter().map(|ip| format!("\"{ip}:{port}\"")).collect();
        let mut text = format!(
            "\n[[service]]\nname = \"{}\"\nmode = \"kernel\"\nlisten = [{}]\n{keys}{}",
            self.name,
            listen.join(", "),
            self.keys,
        );
        if self.checked {
            text += "\n[service.health]\nkind = \"tcp\"\ninterval = \"250ms\"\n\
                     timeout = \"200ms\"\nrise = 2\nfall = 2\n";
        }
        for (n, weight) in self.weights.into_iter().enumerate() {
            let (name, at) = (backend_name(n), backend_address(n));
            let _ = write!(
                text,
                "\n[[service.backend]]\nname = \"{name}\"\nweight = {weight}\n\
                 address = \"{at}:{}\"\n",
                self.to
            );
        }
        text
    }
}

/// Cluster, nodes, and the two floating addresses.
fn head() -> String {
    let whole = default_config();
    let head = whole.split("\n[[vip]]").next().expect("it begins");
    format!(
        "{head}\n[[vip]]\naddress = \"{VIP4}/24\"\ninterface = \"eth0\"\n\
         \n[[vip]]\naddress = \"{SOURCE4}/24\"\ninterface = \"eth1\"\n"
    )
}

/// A pair with these services, whose backends see the second address.
fn config(services: &[Service<'_>]) -> String {
    let source = format!("source = \"{SOURCE4}\"\n");
    let texts = services.iter().map(|it| it.text(&source, &[VIP4]));
    head() + &texts.collect::<String>()
}

async fn up(services: &[Service<'_>]) -> Result<Lab, LabError> {
    Lab::up(&with(config(services))).await
}

/// The data path of a node, as `tandem status --json` has it.
async fn nat(lab: &mut Lab, node: NodeId) -> NatStatus {
    if let Some(ended) = lab.node(node).ended() {
        let log = std::fs::read_to_string(lab.node(node).log());
        panic!("it {ended}: {}", log.unwrap_or_default());
    }
    let status = status(lab, node).await;
    status.nat.expect("a service is in kernel mode")
}

/// A connection with its first page; the backend's number.
pub(crate) async fn open(at: SocketAddr) -> io::Result<(TcpStream, u8)> {
    let mut stream = TcpStream::connect(at).await?;
    stream.set_nodelay(true)?;
    let backend = again(&mut stream).await?;
    Ok((stream, backend))
}

/// Connections with their first page, of each backend one at least.
pub(crate) async fn open_all(host: &Host, at: SocketAddr, count: usize) -> Vec<(TcpStream, u8)> {
    let open = async move {
        let mut all = Vec::new();
        for _ in 0..count {
            all.push(timeout(SOON, open(at)).await??);
        }
        Ok::<_, io::Error>(all)
    };
    let all = super::tools::good("connect", host.run(open).await);
    for backend in 1..=BACKENDS as u8 {
        assert!(
            all.iter().any(|(_, at)| *at == backend),
            "none on b{backend}"
        );
    }
    all
}

/// One page more on each of these. The connections, and who answered or why nobody did.
async fn ask_all(
    host: &Host,
    all: Vec<(TcpStream, u8)>,
    within: Duration,
) -> Vec<(TcpStream, u8, io::Result<u8>)> {
    let mut asked = Vec::new();
    for (mut stream, backend) in all {
        asked.push(host.spawn(async move {
            let answer = timeout(within, again(&mut stream)).await;
            (
                stream,
                backend,
                answer.unwrap_or_else(|late| Err(late.into())),
            )
        }));
    }
    let mut answers = Vec::new();
    for asked in asked {
        answers.push(asked.await.expect("it does not panic"));
    }
    answers
}

/// Every connection goes on at its backend.
async fn all_go_on(
    host: &Host,
    all: Vec<(TcpStream, u8)>,
    within: Duration,
) -> Vec<(TcpStream, u8)> {
    let answers = ask_all(host, all, within).await;
    let alive = answers.into_iter().map(|(stream, backend, answer)| {
        let got = super::tools::good("it goes on", answer);
        assert_eq!(got, backend, "at the same backend");
        (stream, backend)
    });
    alive.collect()
}

/// From now on this host hears packets of this address and answers none.
async fn make_silent(host: &Host, to: Ipv4Addr) {
    use rtnetlink::packet_route::route::RouteType;
    let route = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(to, 32);
    let route = route.kind(RouteType::BlackHole).build();
    let done = host.netlink().route().add(route).execute().await;
    done.expect("a route is added");
}

/// A way from the backends to the clients.
async fn add_route(host: &Host, to: Ipv4Addr, via: Ipv4Addr) {
    let route = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(to, 24);
    let done = host
        .netlink()
        .route()
        .add(route.gateway(via).build())
        .execute()
        .await;
    done.expect("a route is added");
}
