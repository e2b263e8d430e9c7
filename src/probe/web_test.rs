//! HTTP, gRPC and TLS.

use std::convert::Infallible;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;

use super::exchange::Io;
use super::testbed::{answering, dripping, flooding, mute, resetting, says, says_in, server};

const HTTP: &str = "kind = \"http\"";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nx-ready: yes\r\n\r\nready";

fn http(more: &str) -> String {
    format!("{HTTP}\n{more}")
}

#[tokio::test]
async fn status_field_and_body_are_judged() {
    let ok = answering(OK).await;
    for (keys, said) in [
        ("", "good"),
        ("status = \"200\"", "good"),
        ("status = \"201, 300-399\"", "status 200, not 201, 300-399"),
        ("header = \"X-Ready\"", "good"),
        ("header = \"x-ready: ye\"", "good"),
        (
            "header = \"x-ready: no\"",
            "x-ready is \"yes\", without \"no\"",
        ),
        ("header = \"x-other\"", "no field x-other"),
        ("body = \"ead\"", "good"),
        ("body = \"dead\"", "no \"dead\" in the body"),
        ("body_regex = \"^re.*y$\"", "good"),
        (
            "body = \"ready\"\nbody_limit = 4",
            "no \"ready\" in the body's first 4 bytes",
        ),
    ] {
        assert_eq!(says(&http(keys), ok).await, said, "{keys}");
    }
    let sick = answering(b"HTTP/1.1 503 Service Unavailable\r\n\r\n").await;
    assert_eq!(says(HTTP, sick).await, "status 503, not 200-399");
    let head = answering(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n").await;
    assert_eq!(says(&http("method = \"HEAD\""), head).await, "good");
    let cut = answering(b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nready").await;
    let said = says(&http("body = \"steady\""), cut).await;
    assert!(
        said.contains("HTTP: ") || said.starts_with("closed"),
        "{said}"
    );
}

#[tokio::test]
async fn sick_servers_cost_a_request_little() {
    let said = says_in(HTTP, mute().await, 100).await;
    assert_eq!(said, "no complete answer in 100 ms");
    let said = says(HTTP, resetting().await).await;
    assert!(
        said.starts_with("reset") || said.starts_with("closed") || said.starts_with("HTTP: "),
        "{said}"
    );
    let said = says_in(HTTP, dripping(b"HTTP/1.1 200 OK\r\n").await, 300).await;
    assert_eq!(said, "no complete answer in 300 ms");
    let said = says(HTTP, flooding(b"", b'a').await).await;
    assert!(said.starts_with("no HTTP there"), "{said}");
    let said = says(HTTP, flooding(b"HTTP/1.1 200 OK\r\nx: ", b'a').await).await;
    assert!(
        said.starts_with("no HTTP there"),
        "a head without end: {said}"
    );
    let endless = flooding(b"HTTP/1.1 200 OK\r\n\r\n", b'a').await;
    assert_eq!(
        says(HTTP, endless).await,
        "good",
        "the body is not asked for"
    );
    let said = says(&http("body = \"b\""), endless).await;
    assert_eq!(said, "no \"b\" in the body's first 65536 bytes");
    let ssh = answering(b"SSH-2.0-x\r\n").await;
    assert!(says(HTTP, ssh).await.starts_with("no HTTP there"));
    let two = http("version = \"2\"");
    let said = says_in(&two, mute().await, 100).await;
    assert_eq!(said, "no complete answer in 100 ms");
    let said = says(&two, flooding(b"", b'a').await).await;
    assert!(said.starts_with("HTTP: "), "{said}");
}

/// What hyper's HTTP/2 server runs its tasks on.
#[derive(Clone)]
struct Spawn;

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Spawn {
    fn execute(&self, task: F) {
        tokio::spawn(task);
    }
}

/// A body with trailers after it.
struct Answer(Vec<hyper::body::Frame<Bytes>>);

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, Infallible>>> {
        Poll::Ready((!self.0.is_empty()).then(|| Ok(self.0.remove(0))))
    }
}

/// Answers as the path says: `/grpc...` as a health server, others with their path and authority.
async fn answer(request: Request<Incoming>) -> Result<Response<Answer>, Infallible> {
    let path = request.uri().path().to_owned();
    if path != "/grpc.health.v1.Health/Check" {
        let authority = request.uri().authority().map(ToString::to_string);
        let text = format!("{path} {}", authority.unwrap_or_default());
        return Ok(Response::new(Answer(vec![hyper::body::Frame::data(
            text.into(),
        )])));
    }
    assert_eq!(request.headers()["te"], "trailers");
    let asked = request.into_body().collect().await.unwrap().to_bytes();
    let service = asked.get(7..).unwrap_or_default().to_vec();
    let (frame, status): (Option<&[u8]>, &str) = match &*service {
        b"" | b"good" => (Some(&[0, 0, 0, 0, 2, 8, 1]), "0"),
        b"sick" => (Some(&[0, 0, 0, 0, 2, 8, 2]), "0"),
        b"odd" => (Some(&[0, 0, 0, 0, 9, 8]), "0"),
        _ => (None, "5"),
    };
    let mut frames: Vec<_> = frame
        .map(|frame| hyper::body::Frame::data(Bytes::copy_from_slice(frame)))
        .into_iter()
        .collect();
    let mut trailers = hyper::HeaderMap::new();
    trailers.insert("grpc-status", status.parse().unwrap());
    trailers.insert("grpc-message", "unknown\tservice".parse().unwrap());
    frames.push(hyper::body::Frame::trailers(trailers));
    Ok(Response::new(Answer(frames)))
}

async fn serve_h2(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    let server = hyper::server::conn::http2::Builder::new(Spawn);
    let _ = server
        .serve_connection(Io(stream), service_fn(answer))
        .await;
}

async fn serve_h1(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    let echo = service_fn(|request: Request<Incoming>| async move {
        let host = request.headers()["host"].to_str().unwrap().to_owned();
        let body = Full::new(Bytes::from(format!("{} {host}", request.uri())));
        Ok::<_, Infallible>(Response::new(body))
    });
    let server = hyper::server::conn::http1::Builder::new();
    let _ = server.serve_connection(Io(stream), echo).await;
}

#[tokio::test]
async fn http2_and_grpc_in_clear() {
    let two = server(serve_h2).await;
    let keys = "version = \"2\"\nhost = \"a.example\"\npath = \"/x\"\nbody = \"/x a.example\"";
    assert_eq!(says(&http(keys), two).await, "good");
    let one = server(serve_h1).await;
    let keys = "host = \"a.example\"\npath = \"/x?y\"\nbody = \"/x?y a.example\"";
    assert_eq!(says(&http(keys), one).await, "good");
    for (service, said) in [
        ("", "good"),
        ("good", "good"),
        ("sick", "NOT_SERVING"),
        ("odd", "the answer is none of grpc.health.v1"),
        (
            "none",
            "gRPC status 5 (no such service): \"unknown\\tservice\"",
        ),
    ] {
        let health = format!("kind = \"grpc\"\nservice = \"{service}\"");
        assert_eq!(says(&health, two).await, said, "{service}");
    }
    let said = says("kind = \"grpc\"", one).await;
    assert!(
        said.starts_with("HTTP: ") || said.starts_with("reset") || said.starts_with("closed"),
        "{said}"
    );
}

/// A TLS server with a certificate of its own authority, for `web.example` and 127.0.0.1.
struct Authority {
    _dir: tempfile::TempDir,
    ca_file: PathBuf,
    config: Arc<ServerConfig>,
}

fn authority(until: (i32, u8, u8), alpn: &[&str]) -> Authority {
    let names = vec!["web.example".to_owned(), "127.0.0.1".to_owned()];
    let mut ca = rcgen::CertificateParams::new(vec![]).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let ca_certificate = ca.self_signed(&ca_key).unwrap();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let mut params = rcgen::CertificateParams::new(names).unwrap();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(until.0, until.1, until.2);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let ca_file = dir.path().join("ca.pem");
    std::fs::write(&ca_file, ca_certificate.pem()).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Authority {
        _dir: dir,
        ca_file,
        config: Arc::new(config),
    }
}

impl Authority {
    /// Serves HTTP/2 where the client chooses it, and else HTTP/1.1.
    async fn serve(&self) -> std::net::SocketAddr {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.config));
        server(move |stream| {
            let acceptor = acceptor.clone();
            async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                match stream.get_ref().1.alpn_protocol() {
                    Some(b"h2") => serve_h2(stream).await,
                    _ => serve_h1(stream).await,
                }
            }
        })
        .await
    }

    fn ca(&self, more: &str) -> String {
        format!("ca_file = \"{}\"\n{more}", self.ca_file.display())
    }
}

#[tokio::test]
async fn a_handshake_is_verified_or_not() {
    let good = authority((2099, 1, 1), &["h2"]);
    let address = good.serve().await;
    let tls = |more: &str| format!("kind = \"tls\"\n{}", good.ca(more));
    assert_eq!(says(&tls(""), address).await, "good", "by its address");
    assert_eq!(says(&tls("sni = \"web.example\""), address).await, "good");
    assert_eq!(says(&tls("alpn = [\"h2\"]"), address).await, "good");
    let said = says(&tls("sni = \"bank.example\""), address).await;
    assert_eq!(said, "certificate is for another name");
    let said = says(&tls("alpn = [\"smtp\"]"), address).await;
    assert!(said.contains("NoApplicationProtocol"), "{said}");
    let other = authority((2099, 1, 1), &[]);
    let stranger = format!("kind = \"tls\"\n{}", other.ca(""));
    assert_eq!(
        says(&stranger, address).await,
        "certificate of an unknown authority"
    );
    let plain = other.serve().await;
    let said = says(&format!("{stranger}\nalpn = [\"h2\"]"), plain).await;
    assert_eq!(said, "the server chose no protocol (ALPN)");
    let blind = "kind = \"tls\"\nverify = false\nsni = \"bank.example\"";
    assert_eq!(says(blind, address).await, "good");
    let soon = says(&tls("min_days = 3650"), address).await;
    assert_eq!(soon, "good", "it lasts longer");
}

#[tokio::test]
async fn an_end_of_a_certificate_is_told() {
    let old = authority((2024, 1, 1), &[]);
    let address = old.serve().await;
    let said = says(&format!("kind = \"tls\"\n{}", old.ca("")), address).await;
    assert!(
        said.starts_with("certificate expired ") && said.ends_with(" days ago"),
        "{said}"
    );
    let said = says("kind = \"tls\"\nverify = false", address).await;
    assert!(
        said.starts_with("good; certificate expired ") && said.ends_with(" days ago"),
        "{said}"
    );
    let said = says("kind = \"tls\"\nverify = false\nmin_days = 0", address).await;
    assert_eq!(said, "good");
}

#[tokio::test]
async fn sick_servers_cost_a_handshake_little() {
    let tls = "kind = \"tls\"\nverify = false";
    assert_eq!(
        says_in(tls, mute().await, 100).await,
        "no TLS handshake in 100 ms"
    );
    let said = says(tls, resetting().await).await;
    assert!(
        said.starts_with("reset while") || said.starts_with("closed while"),
        "{said}"
    );
    assert_eq!(says(tls, flooding(b"", b'a').await).await, "no TLS there");
    let said = says_in(tls, dripping(b"\x16\x03\x03\x40\x00").await, 300).await;
    assert!(
        said == "no TLS handshake in 300 ms" || said.starts_with("TLS: ") || said == "no TLS there",
        "{said}"
    );
}

#[tokio::test]
async fn http_and_grpc_over_tls() {
    let authority = authority((2099, 1, 1), &["h2", "http/1.1"]);
    let address = authority.serve().await;
    let keys = authority.ca("tls = true\nsni = \"web.example\"");
    let one = format!("kind = \"http\"\n{keys}\nbody = \"/ web.example\"");
    assert_eq!(says(&one, address).await, "good");
    let two = format!("{one}\nversion = \"2\"");
    assert_eq!(says(&two, address).await, "good");
    let grpc = format!("kind = \"grpc\"\n{keys}\nservice = \"sick\"");
    assert_eq!(says(&grpc, address).await, "NOT_SERVING");
}
