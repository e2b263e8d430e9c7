//! A backend that says who it is, after a while.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::lab::error::LabError;
use crate::lab::host::Host;

/// Ends when dropped.
pub(super) struct Server(JoinHandle<()>);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(super) async fn start(
    host: &Host,
    name: u8,
    address: SocketAddr,
    delay: Duration,
) -> Result<Server, LabError> {
    let listener = host
        .run(TcpListener::bind(address))
        .await
        .map_err(LabError::io(format!("listen on {address}")))?;
    Ok(Server(host.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                if stream.read_u8().await.is_ok() {
                    sleep(delay).await;
                    let _ = stream.write_u8(name).await;
                    // Until the client has gone.
                    let _ = stream.read_u8().await;
                }
            });
        }
    })))
}
