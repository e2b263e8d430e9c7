//! A client that asks for one page on a connection of its own.

use std::io::Result;
use std::net::SocketAddr;

use tandem::lab::Host;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The body at this path.
pub(crate) async fn get(host: &Host, address: SocketAddr, path: &str) -> Result<Vec<u8>> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    talk(host, address, request.into_bytes(), false).await
}

/// Sends a request and gives everything that follows the first head of the answer.
pub(crate) async fn talk(
    host: &Host,
    address: SocketAddr,
    request: Vec<u8>,
    close: bool,
) -> Result<Vec<u8>> {
    host.run(async move {
        let (mut read, mut write) = TcpStream::connect(address).await?.into_split();
        write.write_all(&request).await?;
        if close {
            write.shutdown().await?;
        }
        let mut answer = Vec::new();
        read.read_to_end(&mut answer).await?;
        let head = answer.windows(4).position(|at| at == b"\r\n\r\n");
        Ok(answer.split_off(head.expect("an answer has a head") + 4))
    })
    .await
}
