//! Backends that want a header of the PROXY protocol get one from checks too.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::testbed::{plans_of, request, said, server};
use super::*;

const PATIENCE: Duration = Duration::from_secs(20);
const HTTP: &str = "kind = \"http\"\npath = \"/up\"";
/// The first bytes of version 2 (proxy-protocol.txt, 2.2), and the word LOCAL without addresses.
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// A web server that shows what came before the request.
async fn web() -> (SocketAddr, mpsc::UnboundedReceiver<(SocketAddr, Vec<u8>)>) {
    let (tell, seen) = mpsc::unbounded_channel();
    let address = server(move |mut stream: TcpStream| {
        let tell = tell.clone();
        async move {
            let mut bytes = Vec::new();
            let request = loop {
                let at = bytes.windows(4).position(|it| it == b"GET ");
                if let Some(at) = at.filter(|_| bytes.ends_with(b"\r\n\r\n")) {
                    break at;
                }
                if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                    return;
                }
            };
            bytes.truncate(request);
            let _ = tell.send((stream.peer_addr().unwrap(), bytes));
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            let _ = stream.write_all(answer).await;
        }
    })
    .await;
    (address, seen)
}

/// What comes before the request of a check, and from where.
async fn before(service: &str, health: &str) -> (SocketAddr, SocketAddr, Vec<u8>) {
    let (address, mut seen) = web().await;
    let request = request(address, Whom::Backend, PATIENCE);
    let outcome = check(&plans_of(service, health), &request).await;
    assert_eq!(said(outcome.unwrap()), "good");
    let (from, bytes) = seen.recv().await.unwrap();
    (from, address, bytes)
}

#[tokio::test]
async fn a_check_has_the_header_that_its_service_sends() {
    let (_, _, bytes) = before("", HTTP).await;
    assert_eq!(bytes, b"");
    let (_, _, bytes) = before("send_proxy = \"v2\"", HTTP).await;
    assert_eq!(bytes, LOCAL);
    let (from, to, bytes) = before("send_proxy = \"v1\"", HTTP).await;
    let line = format!(
        "PROXY TCP4 {} {} {} {}\r\n",
        from.ip(),
        to.ip(),
        from.port(),
        to.port()
    );
    assert_eq!(String::from_utf8(bytes).unwrap(), line);
}

#[tokio::test]
async fn a_check_that_goes_elsewhere_has_none() {
    let elsewhere = format!("{HTTP}\nport = 8081");
    let (_, _, bytes) = before("send_proxy = \"v2\"", &elsewhere).await;
    assert_eq!(bytes, b"");
}
