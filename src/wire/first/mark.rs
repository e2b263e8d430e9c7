//! What a client can be recognised by when it comes again.

use std::borrow::Cow;

use super::Look;

/// One thing of the first bytes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Mark {
    /// The name in a ClientHello, in lower case; not if it is hidden.
    ServerName,
    /// The TLS session that the client wants to resume. Learn it from `tls::server_hello`.
    SessionId,
    /// The host of an HTTP/1 request, in lower case.
    Host,
    /// The cookie of this name in an HTTP/1 request. Learn it from `http::reply`.
    Cookie(String),
    /// The user of a remote desktop.
    RdpUser,
    /// The routing token of a remote desktop.
    RdpToken,
}

impl Mark {
    /// Its value in what was found; none: it is not there, or it is empty.
    pub fn of<'l>(&self, look: &'l Look<'_>) -> Option<Cow<'l, [u8]>> {
        let lower = |text: &str| Cow::Owned(text.to_ascii_lowercase().into_bytes());
        let found = match self {
            Self::ServerName => lower(look.tls()?.server_name()?.as_str()),
            Self::SessionId => Cow::Borrowed(look.tls()?.session_id()),
            Self::Host => lower(look.http()?.host()?.as_str()),
            Self::Cookie(name) => Cow::Borrowed(look.http()?.cookie(name)?),
            Self::RdpUser => Cow::Borrowed(look.rdp()?.user?),
            Self::RdpToken => Cow::Borrowed(look.rdp()?.token?),
        };
        (!found.is_empty()).then_some(found)
    }
}
