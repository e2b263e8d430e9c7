//! `/metrics` and `/healthz` over HTTP: a node as monitoring sees it.
//!
//! Owns: a thread with its listeners and connections. Never: counts anything; it asks the node for the
//! read model and writes that as text ([`crate::metrics`]).
//!
//! Invariants: however many ask, the node is asked once in 250 ms at most, by one at a time;
//! connections, the size of a request and the time for all of it are bounded; one connection is one
//! request. An address that is taken is tried again; it never keeps a node from its work.

mod io;

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::{Instant, sleep, timeout};

use self::io::Io;
use crate::metrics;
use crate::status::Status;

/// Connections at once, over all addresses.
const CONNECTIONS: usize = 32;
/// For a whole exchange.
const PATIENCE: Duration = Duration::from_secs(10);
/// For the node's answer; a node that takes longer does not turn.
const NODE_PATIENCE: Duration = Duration::from_secs(2);
/// An answer of the node this old is given again.
const FRESH: Duration = Duration::from_millis(250);
/// Bytes of a request's head; hyper's least.
const HEAD: usize = 8 << 10;
/// Fields of a request's head.
const FIELDS: usize = 64;
/// Until an address that is taken is tried again, and after an error of `accept`.
const AGAIN: Duration = Duration::from_secs(5);
const AFTER_ERROR: Duration = Duration::from_millis(10);
const BACKLOG: i32 = 64;

/// Serves on these addresses from a thread of its own, until the process ends; none: does nothing.
/// `ask` asks the node how it is; it may take as long as it likes.
///
/// # Errors
///
/// The thread cannot be started.
pub fn start<A, F>(listen: &[SocketAddr], ask: A) -> std::io::Result<()>
where
    A: Fn() -> F + Send + Sync + 'static,
    F: Future<Output = Option<Status>> + Send + 'static,
{
    if listen.is_empty() {
        return Ok(());
    }
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let listen = listen.to_owned();
    let desk = Arc::new(Desk::new(ask));
    thread::Builder::new()
        .name("tandem-metrics".into())
        .spawn(move || {
            runtime.block_on(async move {
                let room = Arc::new(Semaphore::new(CONNECTIONS));
                let serve = |address| {
                    let (desk, room) = (Arc::clone(&desk), Arc::clone(&room));
                    async move { serve(bound(address).await, desk, room).await }
                };
                futures_util::future::join_all(listen.into_iter().map(serve)).await;
            });
        })?;
    Ok(())
}

/// Where the node is asked, and its last answer.
struct Desk<A> {
    ask: A,
    last: Mutex<Option<(Instant, Arc<Page>)>>,
}

/// The node's state as it was once.
struct Page {
    text: Bytes,
    role: &'static str,
    stopping: bool,
}

impl<A, F> Desk<A>
where
    A: Fn() -> F + Send + Sync + 'static,
    F: Future<Output = Option<Status>> + Send + 'static,
{
    fn new(ask: A) -> Self {
        let last = Mutex::new(None);
        Self { ask, last }
    }

    /// The state as of now, more or less; none: the node does not answer.
    async fn page(&self) -> Option<Arc<Page>> {
        let mut last = self.last.lock().await;
        if let Some((at, page)) = &*last
            && at.elapsed() < FRESH
        {
            return Some(Arc::clone(page));
        }
        let status = timeout(NODE_PATIENCE, (self.ask)()).await.ok()??;
        let page = Arc::new(Page {
            role: status.role.as_str(),
            stopping: status.stopping,
            text: metrics::text(status).into(),
        });
        *last = Some((Instant::now(), Arc::clone(&page)));
        Some(page)
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        if !matches!(path, "/metrics" | "/healthz") {
            return plain(StatusCode::NOT_FOUND, "there is /metrics and /healthz\n");
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut refusal = plain(StatusCode::METHOD_NOT_ALLOWED, "GET only\n");
            let methods = HeaderValue::from_static("GET, HEAD");
            refusal.headers_mut().insert(ALLOW, methods);
            return refusal;
        }
        match (self.page().await, path) {
            (None, _) => plain(StatusCode::SERVICE_UNAVAILABLE, "the node does not turn\n"),
            (Some(page), "/metrics") => {
                let mut response = Response::new(Full::new(page.text.clone()));
                let kind = HeaderValue::from_static(metrics::CONTENT_TYPE);
                response.headers_mut().insert(CONTENT_TYPE, kind);
                response
            }
            (Some(page), _) if page.stopping => {
                plain(StatusCode::SERVICE_UNAVAILABLE, "the node stops\n")
            }
            (Some(page), _) => plain(StatusCode::OK, format!("{}\n", page.role)),
        }
    }
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn serve<A, F>(listener: TcpListener, desk: Arc<Desk<A>>, room: Arc<Semaphore>)
where
    A: Fn() -> F + Send + Sync + 'static,
    F: Future<Output = Option<Status>> + Send + 'static,
{
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "metrics");
                sleep(AFTER_ERROR).await;
                continue;
            }
        };
        // One too many is closed at once: nobody waits.
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
            continue;
        };
        let desk = Arc::clone(&desk);
        tokio::spawn(async move {
            // Whoever asked may have gone, or was too slow.
            let _ = timeout(PATIENCE, exchange(stream, desk)).await;
            drop(permit);
        });
    }
}

async fn exchange<A, F>(stream: TcpStream, desk: Arc<Desk<A>>) -> hyper::Result<()>
where
    A: Fn() -> F + Send + Sync + 'static,
    F: Future<Output = Option<Status>> + Send + 'static,
{
    let service = service_fn(|request| {
        let desk = Arc::clone(&desk);
        async move { Ok::<_, Infallible>(desk.answer(&request).await) }
    });
    http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(HEAD)
        .max_headers(FIELDS)
        // The whole exchange has a limit.
        .header_read_timeout(None)
        .serve_connection(Io(stream), service)
        .await
}

/// Listens, sooner or later. The address need not be on this host: the file is the same on both nodes.
async fn bound(address: SocketAddr) -> TcpListener {
    let mut said = false;
    loop {
        match listen(address) {
            Ok(listener) => return listener,
            Err(error) => {
                if !std::mem::replace(&mut said, true) {
                    tracing::warn!(
                        "no metrics on {address}: {error}; tried again every {} s",
                        AGAIN.as_secs()
                    );
                }
                sleep(AGAIN).await;
            }
        }
    }
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    match address {
        SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
        SocketAddr::V6(_) => {
            socket.set_freebind_v6(true)?;
            socket.set_only_v6(true)?;
        }
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

#[cfg(test)]
#[path = "exporter_test.rs"]
mod tests;
