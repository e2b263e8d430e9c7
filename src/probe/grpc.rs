//! The question of grpc.health.v1: does this service serve?

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::HeaderMap;
use hyper::{Request, Response};

use super::exchange::{exchange, explain};
use super::http::authority;
use super::progress::{Fail, Progress};
use super::tcp::{self, Way};
use super::tls::TlsPlan;
use crate::config::Grpc;
use crate::health::probe::quoted;
use crate::wire::grpc::{self, MAX_ANSWER};

/// Bytes of the server's message that an operator sees.
const SHOWN: usize = 80;

pub(super) async fn check(
    plan: &Grpc,
    tls: Option<&TlsPlan>,
    way: Way<'_>,
    progress: &mut Progress,
) -> Result<Option<String>, Fail> {
    let scheme = if tls.is_some() { "https" } else { "http" };
    let authority = authority(plan.host.as_deref(), tls, way.address);
    let request = Request::builder()
        .method("POST")
        .uri(format!(
            "{scheme}://{authority}/grpc.health.v1.Health/Check"
        ))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "tandem-check")
        .body(Full::new(Bytes::from(grpc::request(&plan.service))))
        .map_err(|error| Fail::Wrong(format!("no request can be made: {error}")))?;
    let Some(tls) = tls else {
        let stream = tcp::dial(way).await?;
        progress.waits("no complete answer");
        exchange(stream, true, request, judge).await?;
        return Ok(None);
    };
    let (stream, warning) = tls.connect(way, progress).await?;
    progress.waits("no complete answer");
    exchange(stream, true, request, judge).await?;
    Ok(warning)
}

async fn judge(response: Response<Incoming>) -> Result<(), Fail> {
    if response.status().as_u16() != 200 {
        let status = response.status().as_u16();
        return Err(Fail::Wrong(format!("HTTP status {status} instead of gRPC")));
    }
    // An error without an answer has its status in the head ("Trailers-Only").
    refused(response.headers())?;
    let mut body = response.into_body();
    let mut got = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| explain(&error))?;
        if let Some(trailers) = frame.trailers_ref() {
            refused(trailers)?;
        }
        if let Ok(data) = frame.into_data() {
            got.extend_from_slice(&data);
        }
        if got.len() > MAX_ANSWER {
            return Err(Fail::Wrong(format!(
                "an answer of more than {MAX_ANSWER} bytes"
            )));
        }
    }
    match grpc::status(&got) {
        Some(1) => Ok(()),
        Some(status) => Err(Fail::Wrong(grpc::status_name(status).into())),
        None => Err(Fail::Wrong("the answer is none of grpc.health.v1".into())),
    }
}

fn refused(fields: &HeaderMap) -> Result<(), Fail> {
    let Some(status) = fields.get("grpc-status").filter(|status| *status != "0") else {
        return Ok(());
    };
    let code = String::from_utf8_lossy(status.as_bytes()).into_owned();
    let name = match code.as_str() {
        "5" => " (no such service)",
        "12" => " (no health service there)",
        "14" => " (unavailable)",
        "16" => " (not authenticated)",
        _ => "",
    };
    let code: String = code
        .chars()
        .take(8)
        .collect::<String>()
        .escape_debug()
        .to_string();
    let message = fields
        .get("grpc-message")
        .map(|text| quoted(text.as_bytes(), SHOWN));
    let message = message.map(|text| format!(": {text}")).unwrap_or_default();
    Err(Fail::Wrong(format!("gRPC status {code}{name}{message}")))
}
