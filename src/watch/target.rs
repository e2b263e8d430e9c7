//! What is asked: `http://HOST[:PORT]/PATH` or `tcp://HOST:PORT`.

use std::str::FromStr;

use hyper::Uri;
use thiserror::Error;

/// Whom to ask, and how.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Target {
    /// None: the connection is all.
    http: bool,
    /// A name or an address without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// As it stands in the request.
    pub(super) authority: String,
    pub(super) path: String,
}

impl Target {
    /// A request is sent and its answer read.
    pub const fn is_http(&self) -> bool {
        self.http
    }
}

/// Why it is none.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("{0} is nothing to watch; write http://192.0.2.100/ or tcp://192.0.2.100:5432")]
pub struct NoTarget(String);

impl FromStr for Target {
    type Err = NoTarget;

    fn from_str(text: &str) -> Result<Self, NoTarget> {
        let none = || NoTarget(text.to_owned());
        let uri: Uri = text.parse().map_err(|_| none())?;
        let authority = uri.authority().ok_or_else(none)?;
        let http = match uri.scheme_str() {
            Some("http") => true,
            Some("tcp") => false,
            _ => return Err(none()),
        };
        let written = authority.as_str() != authority.host();
        let port = match uri.port_u16() {
            Some(port) => port,
            None if http && !written => 80,
            None => return Err(none()),
        };
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        if host.is_empty() || port == 0 || authority.as_str().contains('@') {
            return Err(none());
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Self {
            http,
            host,
            port,
            authority: authority.to_string(),
            path: path.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        let good = [
            ("http://192.0.2.100", (true, "192.0.2.100", 80, "/")),
            (
                "http://web.example:8080/a?b",
                (true, "web.example", 8080, "/a?b"),
            ),
            ("http://[2001:db8::1]:81/", (true, "2001:db8::1", 81, "/")),
            ("tcp://192.0.2.100:5432", (false, "192.0.2.100", 5432, "/")),
        ];
        for (text, expected) in good {
            let target: Target = text.parse().unwrap();
            let (host, path) = (&*target.host, &*target.path);
            assert_eq!((target.is_http(), host, target.port, path), expected);
        }
        let bad = [
            "",
            "192.0.2.100",
            "192.0.2.100:80",
            "/",
            "https://192.0.2.100/",
            "tcp://192.0.2.100",
            "http://:80/",
            "http://user@192.0.2.100/",
            "http://192.0.2.100:0/",
            "http://192.0.2.100:65536/",
        ];
        for text in bad {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }
}
