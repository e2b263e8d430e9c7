//! What the first bytes of a connection tell: the name that the client wants, and what it can be
//! recognised by.
//!
//! [`look`] takes the bytes that have come so far. It keeps no state, so bytes that come one by
//! one give the same answer as bytes that come at once. `tls` reads ClientHello and ServerHello,
//! `http` the head of a request and of a reply, `rdp` the request that a remote
//! desktop begins with; [`Mark`] is one of the things by which a client is known again.
//! Never: changes the bytes, decides what becomes of them.
//! Invariants: the caller's limit bounds the work; what cannot be parsed is [`Look::Unknown`],
//! never an error; a name is only given if every server would read the same one.

pub mod http;
pub mod mark;
pub mod name;
pub mod rdp;
pub mod tls;

pub use mark::Mark;
pub use name::Name;

/// What the first bytes are.
#[derive(Clone, Debug, PartialEq)]
pub enum Look<'b> {
    /// The beginning of something that is known.
    More,
    /// A TLS handshake.
    Tls(tls::ClientHello<'b>),
    /// An HTTP/1 request.
    Http(http::Request<'b>),
    /// A remote desktop.
    Rdp(rdp::Request<'b>),
    /// Nothing that is known.
    Unknown,
}

impl<'b> Look<'b> {
    /// The name that the client wants: of a ClientHello the server's, of a request the host's.
    pub fn name(&self) -> Option<Name<'_>> {
        match self {
            Self::Tls(hello) => hello.server_name(),
            Self::Http(request) => request.host(),
            Self::Rdp(_) | Self::More | Self::Unknown => None,
        }
    }

    /// The ClientHello, if it is one.
    pub const fn tls(&self) -> Option<&tls::ClientHello<'b>> {
        match self {
            Self::Tls(hello) => Some(hello),
            _ => None,
        }
    }

    /// The request, if it is one.
    pub const fn http(&self) -> Option<&http::Request<'b>> {
        match self {
            Self::Http(request) => Some(request),
            _ => None,
        }
    }

    /// The remote desktop's request, if it is one.
    pub const fn rdp(&self) -> Option<&rdp::Request<'b>> {
        match self {
            Self::Rdp(request) => Some(request),
            _ => None,
        }
    }

    /// More bytes may tell more.
    pub const fn wants_more(&self) -> bool {
        matches!(self, Self::More)
    }
}

/// Looks at the first bytes of a client.
pub fn look(bytes: &[u8]) -> Look<'_> {
    match bytes.first() {
        None => Look::More,
        Some(&tls::HANDSHAKE) => tls::client_hello(bytes),
        Some(&rdp::TPKT) => rdp::request(bytes),
        Some(_) => http::request(bytes),
    }
}

#[cfg(test)]
#[path = "../hello_test.rs"]
mod hello_tests;

#[cfg(test)]
#[path = "../first_test.rs"]
mod tests;
