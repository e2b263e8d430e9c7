//! One request to a node's control socket.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::wire::admin::{Request, Response};

/// A node that does not answer within this time does not answer.
const PATIENCE: Duration = Duration::from_secs(1);

pub(super) async fn call(socket: &Path, request: &Request) -> io::Result<Response> {
    let answer = timeout(PATIENCE, async {
        let mut stream = UnixStream::connect(socket).await?;
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).await?;
        Ok(serde_json::from_str(&answer)?)
    });
    answer.await.map_err(|_| io::ErrorKind::TimedOut)?
}
