//! An HTTP request: the status, a field and the body of its answer.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Request, Response};

use super::exchange::{exchange, explain};
use super::progress::{Fail, Progress};
use super::script::words;
use super::tcp::{self, Way};
use super::tls::TlsPlan;
use crate::config::{Expected, Http};
use crate::health::probe::quoted;
use crate::model::BackendAddress;

/// Bytes of a field that an operator sees.
const SHOWN: usize = 60;

pub(super) async fn check(
    http: &Http,
    tls: Option<&TlsPlan>,
    way: Way<'_>,
    progress: &mut Progress,
) -> Result<Option<String>, Fail> {
    let authority = authority(http.host.as_deref(), tls, way.address);
    let request = request(http, tls.is_some(), &authority)?;
    let read = |response| judge(http, response);
    let Some(tls) = tls else {
        let stream = tcp::dial(way).await?;
        progress.waits("no complete answer");
        exchange(stream, http.http2, request, read).await?;
        return Ok(None);
    };
    let (stream, warning) = tls.connect(way, progress).await?;
    progress.waits("no complete answer");
    exchange(stream, http.http2, request, read).await?;
    Ok(warning)
}

/// Whom the request is for.
pub(super) fn authority(
    host: Option<&str>,
    tls: Option<&TlsPlan>,
    address: &BackendAddress,
) -> String {
    let sni = || tls.and_then(|tls| tls.sni.clone());
    let host = host.map(str::to_owned).or_else(sni);
    host.unwrap_or_else(|| match address {
        BackendAddress::Tcp(address) => address.to_string(),
        BackendAddress::Unix(_) => "localhost".into(),
    })
}

fn request(http: &Http, tls: bool, authority: &str) -> Result<Request<Full<Bytes>>, Fail> {
    let scheme = if tls { "https" } else { "http" };
    let mut request = Request::builder()
        .method(if http.head { "HEAD" } else { "GET" })
        .header("user-agent", "tandem-check");
    request = if http.http2 {
        request.uri(format!("{scheme}://{authority}{}", http.path))
    } else {
        request
            .uri(&*http.path)
            .header("host", authority)
            .header("connection", "close")
    };
    for (name, value) in &http.request_headers {
        request = request.header(name, value);
    }
    let request = request.body(Full::default());
    request.map_err(|error| Fail::Wrong(format!("no request can be made: {error}")))
}

async fn judge(http: &Http, response: Response<Incoming>) -> Result<(), Fail> {
    let status = response.status().as_u16();
    let good = |(first, last): &(u16, u16)| (*first..=*last).contains(&status);
    if !http.status.iter().any(good) {
        return Err(Fail::Wrong(format!(
            "status {status}, not {}",
            statuses(&http.status)
        )));
    }
    if let Some((name, wanted)) = &http.header {
        let values = || response.headers().get_all(name).iter();
        let has = |value: &[u8]| wanted.is_empty() || find(value, wanted.as_bytes());
        if !values().any(|value| has(value.as_bytes())) {
            return Err(Fail::Wrong(match values().next() {
                Some(value) => {
                    let value = quoted(value.as_bytes(), SHOWN);
                    format!("{name} is {value}, without \"{wanted}\"")
                }
                None => format!("no field {name}"),
            }));
        }
    }
    match &http.body {
        Some(expected) => body(expected, response.into_body(), http.body_limit as usize).await,
        None => Ok(()),
    }
}

async fn body(expected: &Expected, mut body: Incoming, limit: usize) -> Result<(), Fail> {
    let mut got = Vec::new();
    // Looked at each time that so much more has come, so that a body in small pieces costs no square.
    let mut next_look = 1;
    loop {
        let frame = body
            .frame()
            .await
            .transpose()
            .map_err(|error| explain(&error))?;
        let over = frame.is_none();
        if let Some(data) = frame.and_then(|frame| frame.into_data().ok()) {
            let room = limit - got.len();
            got.extend_from_slice(&data[..data.len().min(room)]);
        }
        let full = got.len() == limit;
        if over || full || got.len() >= next_look {
            next_look = got.len() * 2;
            let found = match expected {
                Expected::Bytes(wanted) => find(&got, wanted),
                Expected::Matching(pattern) => pattern.find_end(&got).is_some(),
            };
            if found {
                return Ok(());
            }
        }
        if over || full {
            let place = match over {
                true => "the body".into(),
                false => format!("the body's first {limit} bytes"),
            };
            return Err(Fail::Wrong(format!("no {} in {place}", words(expected))));
        }
    }
}

fn find(text: &[u8], wanted: &[u8]) -> bool {
    text.windows(wanted.len().max(1)).any(|part| part == wanted)
}

fn statuses(ranges: &[(u16, u16)]) -> String {
    let range = |(first, last): &(u16, u16)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    ranges.iter().map(range).collect::<Vec<_>>().join(", ")
}
