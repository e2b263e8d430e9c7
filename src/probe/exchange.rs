//! One request and its answer, over HTTP/1.1 or HTTP/2.

use std::future::{Future, pending};
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::rt::{Executor, ReadBufCursor};
use hyper::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::JoinSet;

use super::progress::Fail;

/// Bytes of an answer's head at most.
const MAX_HEAD: usize = 16 << 10;
/// Fields of an answer's head at most.
const MAX_FIELDS: usize = 100;
/// Bytes of an answer's body that may come unasked (HTTP/2).
const WINDOW: u32 = 64 << 10;

/// Sends the request and gives the answer to `read`, all within this future.
pub(super) async fn exchange<S, R, F>(
    stream: S,
    http2: bool,
    request: Request<Full<Bytes>>,
    read: R,
) -> Result<(), Fail>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    R: FnOnce(Response<Incoming>) -> F,
    F: Future<Output = Result<(), Fail>>,
{
    let io = Io(stream);
    if http2 {
        let tasks = Tasks::default();
        let _end = End(tasks.clone());
        let (mut sender, connection) = http2::Builder::new(tasks.clone())
            .max_header_list_size(MAX_HEAD as u32)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .handshake(io)
            .await
            .map_err(|error| explain(&error))?;
        let work = async {
            let response = sender.send_request(request).await;
            read(response.map_err(|error| explain(&error))?).await
        };
        beside(connection, work).await
    } else {
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_HEAD)
            .max_headers(MAX_FIELDS)
            .handshake(io)
            .await
            .map_err(|error| explain(&error))?;
        let work = async {
            let response = sender.send_request(request).await;
            read(response.map_err(|error| explain(&error))?).await
        };
        beside(connection, work).await
    }
}

/// The work's result, while the connection is driven. Its end is no end of the work: what it got may
/// still be read.
pub(crate) async fn beside<T>(
    connection: impl Future<Output = Result<(), hyper::Error>>,
    work: impl Future<Output = T>,
) -> T {
    let driven = pin!(async {
        let _ = connection.await;
        pending::<T>().await
    });
    tokio::select! {
        biased;
        done = work => done,
        never = driven => never,
    }
}

/// What was wrong with an answer.
pub(super) fn explain(error: &hyper::Error) -> Fail {
    let io = std::error::Error::source(error).and_then(|error| error.downcast_ref::<io::Error>());
    Fail::Wrong(match io {
        Some(error) if error.kind() == io::ErrorKind::ConnectionReset => {
            "reset before the answer was complete".into()
        }
        _ if error.is_incomplete_message() => "closed before the answer was complete".into(),
        // Also a head that is longer than is read.
        _ if error.is_parse() => format!("no HTTP there: {error}"),
        _ => format!("HTTP: {error}"),
    })
}

/// What HTTP/2 does beside; ends with the check.
#[derive(Clone, Default)]
struct Tasks(Arc<Mutex<JoinSet<()>>>);

/// Ends them, also when the check is given up: they hold each other.
struct End(Tasks);

impl Drop for End {
    fn drop(&mut self) {
        let mut tasks = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.abort_all();
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Tasks {
    fn execute(&self, task: F) {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.spawn(task);
    }
}

/// A stream as hyper wants it.
pub(crate) struct Io<S>(pub(crate) S);

impl<S: AsyncRead + Unpin> hyper::rt::Read for Io<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut bytes = [0; 4 << 10];
        let room = into.remaining().min(bytes.len());
        let mut buffer = ReadBuf::new(&mut bytes[..room]);
        let read = Pin::new(&mut self.0).poll_read(cx, &mut buffer);
        into.put_slice(buffer.filled());
        read
    }
}

impl<S: AsyncWrite + Unpin> hyper::rt::Write for Io<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
