//! A backend that greets: it says who is there, and then what it is told. With what tests of single
//! services need around it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tandem::lab::{Host, Lab, backend_address};
use tandem::status::{ServiceStatus, Status};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::tools::until;

/// More than anything takes that goes well.
pub(crate) const SOON: Duration = Duration::from_secs(15);

/// A service on this port of both VIPs' hosts, with these keys, and its only backend.
pub(crate) fn service(name: &str, listen: SocketAddr, keys: &str, backend: &str) -> String {
    format!(
        "\n[[service]]\nname = \"{name}\"\nlisten = [\"{listen}\"]\n{keys}\n\
         [service.health]\nkind = \"tcp\"\ninterval = \"250ms\"\ntimeout = \"200ms\"\n\
         [[service.backend]]\nname = \"{name}1\"\naddress = \"{backend}\"\n"
    )
}

/// Says who is there, and then what it is told.
pub(crate) async fn greet(
    mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin,
    peer: String,
) -> io::Result<()> {
    stream.write_all(format!("{peer}\n").as_bytes()).await?;
    let mut buffer = [0; 1_024];
    loop {
        let got = stream.read(&mut buffer).await?;
        if got == 0 {
            return stream.shutdown().await;
        }
        stream.write_all(&buffer[..got]).await?;
    }
}

/// A server that greets, on a listener that `make` makes.
pub(crate) async fn greeter(
    host: &Host,
    make: impl FnOnce() -> io::Result<std::net::TcpListener> + Send + 'static,
) -> JoinHandle<()> {
    let listener = host
        .run(async move { TcpListener::from_std(make()?) })
        .await;
    let listener = listener.expect("the port is free");
    host.spawn(async move {
        while let Ok((stream, peer)) = listener.accept().await {
            tokio::spawn(greet(stream, format!("{} {}", peer.ip(), peer.port())));
        }
    })
}

pub(crate) fn listening(
    at: SocketAddr,
    protocol: Protocol,
    option: impl Fn(&Socket) -> io::Result<()>,
) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(at),
        Type::STREAM.nonblocking(),
        Some(protocol),
    )?;
    socket.set_reuse_address(true)?;
    socket.bind(&at.into())?;
    option(&socket)?;
    socket.listen(64)?;
    Ok(socket.into())
}

pub(crate) fn plain(
    at: SocketAddr,
) -> impl FnOnce() -> io::Result<std::net::TcpListener> + Send + 'static {
    move || listening(at, Protocol::TCP, |_| Ok(()))
}

/// Who the backend says is there, from a client's new connection; and the connection.
pub(crate) async fn greeting(lab: &Lab, at: SocketAddr) -> io::Result<(String, TcpStream)> {
    let talk = lab.network().client.run(timeout(SOON, async move {
        let mut stream = TcpStream::connect(at).await?;
        stream.write_all(b"?").await?;
        let said = line(&mut stream).await?;
        let mut echo = [0; 1];
        stream.read_exact(&mut echo).await?;
        Ok::<_, io::Error>((said, stream))
    }));
    talk.await.map_err(|_| io::ErrorKind::TimedOut)?
}

pub(crate) async fn line(stream: &mut TcpStream) -> io::Result<String> {
    let mut said = Vec::new();
    loop {
        match stream.read_u8().await? {
            b'\n' => return Ok(String::from_utf8_lossy(&said).into_owned()),
            byte => said.push(byte),
        }
    }
}

pub(crate) async fn peer(lab: &Lab, at: SocketAddr) -> String {
    let (said, _) = until("the service answers", SOON, async || {
        greeting(lab, at).await.ok()
    })
    .await;
    let (address, _) = said.split_once(' ').expect("address and port");
    address.to_owned()
}

pub(crate) fn of<'s>(status: &'s Status, name: &str) -> &'s ServiceStatus {
    let found = status.services.iter().find(|service| service.name == name);
    found.expect("the service is there")
}

pub(crate) fn up(name: &'static str, wanted: bool) -> impl Fn(&Status) -> bool {
    move |status| of(status, name).backends.iter().all(|it| it.up == wanted)
}

pub(crate) fn at(n: usize, port: u16) -> SocketAddr {
    (backend_address(n), port).into()
}
