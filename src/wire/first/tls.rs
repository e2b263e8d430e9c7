//! TLS: what a client says before anything is encrypted (RFC 8446, 4.1.2; RFC 5246, 7.4.1.2).
//!
//! A ClientHello may be split over records, and each record over segments. Nothing is allocated
//! unless it is split over records. GREASE (RFC 8701) is what this parser skips anyway: it asks for
//! what it knows. With Encrypted Client Hello (RFC 9849) the name in the clear is the provider's, not
//! the one that the client wants: then there is no name. (Clients also send that extension when they
//! have no key for it, filled with random bytes, section 6.2. No one can tell these apart, and
//! that is its purpose; so a client that greases it has no name, either.)

use std::borrow::Cow;
use std::ops::Range;

use super::{Look, Name};

/// Type of a record of the handshake.
pub const HANDSHAKE: u8 = 22;
const RECORD_HEAD: usize = 5;
/// Longest record before encryption (RFC 8446, 5.1).
const MAX_RECORD: usize = 1 << 14;
/// Type and length of a message.
const MESSAGE_HEAD: usize = 4;
const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
/// Longest message that is waited for: more than this no limit of bytes lets through.
const MAX_MESSAGE: usize = 64 << 10;
const MAX_SESSION_ID: usize = 32;
const TLS13: u16 = 0x0304;

/// Extensions.
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const SESSION_TICKET: u16 = 35;
const SUPPORTED_VERSIONS: u16 = 43;
const ECH: u16 = 0xfe0d;

/// A ClientHello.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClientHello<'b> {
    /// The message, without its head.
    body: Cow<'b, [u8]>,
    session_id: Range<usize>,
    server_name: Option<Range<usize>>,
    alpn: Range<usize>,
    ticket: Range<usize>,
    ech: bool,
}

impl ClientHello<'_> {
    /// The name that the client wants; none: it says none that can be read, or hides it.
    pub fn server_name(&self) -> Option<Name<'_>> {
        self.outer_name().filter(|_| !self.ech)
    }

    /// The name that stands in the clear, whether it is the one that the client wants or, with
    /// Encrypted Client Hello, its provider's.
    pub fn outer_name(&self) -> Option<Name<'_>> {
        let name = self.server_name.clone()?;
        // An address is no name here, not even in brackets (RFC 6066, 3).
        Name::of(&self.body[name]).filter(|name| !name.as_str().starts_with('['))
    }

    /// The application protocols that it offers, in its order (RFC 7301).
    pub fn alpn(&self) -> impl Iterator<Item = &[u8]> {
        let mut list = Reader(&self.body[self.alpn.clone()]);
        std::iter::from_fn(move || list.vector8())
    }

    /// The session that it wants to resume with TLS 1.2; empty: none. With TLS 1.3 these are mostly
    /// random bytes that no server has given (RFC 8446, D.4): look it up, but learn only
    /// [`ServerHello::session_id`].
    pub fn session_id(&self) -> &[u8] {
        &self.body[self.session_id.clone()]
    }

    /// The ticket with which it wants to resume (RFC 5077); empty: none, or TLS 1.3, where it
    /// changes with every connection.
    pub fn ticket(&self) -> &[u8] {
        &self.body[self.ticket.clone()]
    }

    /// Its name is hidden, or seems to be.
    pub const fn hides_its_name(&self) -> bool {
        self.ech
    }
}

/// A ServerHello.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ServerHello {
    tls13: bool,
    length: u8,
    id: [u8; MAX_SESSION_ID],
}

impl ServerHello {
    /// The session that the server gives or goes on with; empty: none, or TLS 1.3, where it only
    /// repeats the client's.
    pub fn session_id(&self) -> &[u8] {
        let length = if self.tls13 { 0 } else { self.length };
        &self.id[..usize::from(length)]
    }
}

/// What was read of a server's first bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reply {
    /// The beginning of a ServerHello.
    More,
    /// A ServerHello.
    Hello(ServerHello),
    /// Nothing that is known.
    Unknown,
}

/// Reads a client's first bytes.
pub fn client_hello(bytes: &[u8]) -> Look<'_> {
    match message(bytes, CLIENT_HELLO) {
        Message::More => Look::More,
        Message::Other => Look::Unknown,
        Message::Body(body) => parse(body).map_or(Look::Unknown, Look::Tls),
    }
}

/// Reads a server's first bytes.
pub fn server_hello(bytes: &[u8]) -> Reply {
    let body = match message(bytes, SERVER_HELLO) {
        Message::More => return Reply::More,
        Message::Other => return Reply::Unknown,
        Message::Body(body) => body,
    };
    let parsed = || {
        let mut reader = Reader(&body);
        reader.take(2 + 32)?;
        let session = reader.vector8().filter(|id| id.len() <= MAX_SESSION_ID)?;
        // Cipher suite and compression.
        reader.take(2 + 1)?;
        let mut hello = ServerHello {
            tls13: false,
            length: session.len() as u8,
            id: [0; MAX_SESSION_ID],
        };
        hello.id[..session.len()].copy_from_slice(session);
        if !reader.0.is_empty() {
            let mut extensions = Reader(reader.vector16()?);
            while !extensions.0.is_empty() {
                let kind = extensions.u16()?;
                let value = extensions.vector16()?;
                hello.tls13 |= kind == SUPPORTED_VERSIONS && value == TLS13.to_be_bytes();
            }
        }
        Some(hello)
    };
    parsed().map_or(Reply::Unknown, Reply::Hello)
}

enum Message<'b> {
    More,
    Body(Cow<'b, [u8]>),
    Other,
}

/// The first message, out of its records.
fn message(bytes: &[u8], wanted: u8) -> Message<'_> {
    let mut rest = bytes;
    let mut joined = Vec::new();
    loop {
        let known = rest.len().min(RECORD_HEAD);
        let good = |(at, byte): (usize, &u8)| match at {
            0 => *byte == HANDSHAKE,
            // Every version writes 3 here.
            1 => *byte == 3,
            _ => true,
        };
        if !rest[..known].iter().enumerate().all(good) {
            return Message::Other;
        }
        let [_, _, _, high, low, after @ ..] = rest else {
            return Message::More;
        };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        if length == 0 || length > MAX_RECORD {
            return Message::Other;
        }
        let part = &after[..after.len().min(length)];
        let so_far = if joined.is_empty() {
            part
        } else {
            joined.extend_from_slice(part);
            &joined
        };
        match so_far {
            [kind, ..] if *kind != wanted => return Message::Other,
            [_, a, b, c, body @ ..] => {
                let size = u32::from_be_bytes([0, *a, *b, *c]) as usize;
                if size > MAX_MESSAGE {
                    return Message::Other;
                }
                if body.len() >= size {
                    return Message::Body(if joined.is_empty() {
                        Cow::Borrowed(&part[MESSAGE_HEAD..MESSAGE_HEAD + size])
                    } else {
                        joined.truncate(MESSAGE_HEAD + size);
                        joined.drain(..MESSAGE_HEAD);
                        Cow::Owned(joined)
                    });
                }
            }
            _ => {}
        }
        if part.len() < length {
            return Message::More;
        }
        if joined.is_empty() {
            joined.extend_from_slice(part);
        }
        rest = &after[length..];
    }
}

fn parse(body: Cow<'_, [u8]>) -> Option<ClientHello<'_>> {
    let whole: &[u8] = &body;
    // Where a part of the body stands in it.
    let place = |part: &[u8]| {
        let start = part.as_ptr().addr() - whole.as_ptr().addr();
        start..start + part.len()
    };
    let mut hello = ClientHello::default();
    let mut reader = Reader(whole);
    reader.take(2 + 32)?;
    let session = reader.vector8().filter(|id| id.len() <= MAX_SESSION_ID)?;
    hello.session_id = place(session);
    // Cipher suites, and ways to compress.
    reader.vector16()?;
    reader.vector8()?;
    let mut seen = Seen::default();
    if !reader.0.is_empty() {
        let mut extensions = Reader(reader.vector16()?);
        while !extensions.0.is_empty() {
            let kind = extensions.u16()?;
            let value = extensions.vector16()?;
            match kind {
                SERVER_NAME => {
                    seen.once(0)?;
                    hello.server_name = host_name(value)?.map(place);
                }
                ALPN => {
                    seen.once(1)?;
                    hello.alpn = place(Reader(value).vector16()?);
                }
                SESSION_TICKET => {
                    seen.once(2)?;
                    hello.ticket = place(value);
                }
                ECH => hello.ech = true,
                _ => {}
            }
        }
    }
    hello.body = body;
    Some(hello)
}

/// No extension comes twice (RFC 8446, 4.2). One that does could say one thing to us and another
/// to the server.
#[derive(Default)]
struct Seen([bool; 3]);

impl Seen {
    fn once(&mut self, which: usize) -> Option<()> {
        (!std::mem::replace(&mut self.0[which], true)).then_some(())
    }
}

/// The host's name of the extension (RFC 6066, 3). A list of one is all that anybody uses.
fn host_name(value: &[u8]) -> Option<Option<&[u8]>> {
    let mut list = Reader(Reader(value).vector16()?);
    let mut found = None;
    while !list.0.is_empty() {
        let kind = list.take(1)?[0];
        let name = list.vector16()?;
        if kind == 0 {
            if found.is_some() {
                return None;
            }
            found = Some(name);
        }
    }
    Some(found)
}

/// Takes vectors off the front.
struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn take(&mut self, count: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    /// A vector with a length of one byte.
    fn vector8(&mut self) -> Option<&'b [u8]> {
        let length = self.take(1)?[0];
        self.take(usize::from(length))
    }

    /// A vector with a length of two bytes.
    fn vector16(&mut self) -> Option<&'b [u8]> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }
}
