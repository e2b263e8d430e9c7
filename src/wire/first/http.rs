//! HTTP/1: the head of a request and of a reply (RFC 9112).
//!
//! The whole head is waited for, since what stands in its last line may take back what its first
//! ones said. A head that servers might read in different ways (two hosts, folded lines, a space before
//! a colon, a bare CR) is `Unknown`: else a client could be led to one backend by a name that another
//! one would not have read.

use super::{Look, Name};

/// Longest method. The longest that is registered, UPDATEREDIRECTREF, has 17.
const MAX_METHOD: usize = 24;

/// A request's head.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Request<'b> {
    head: Head<'b>,
    method: &'b [u8],
    target: &'b [u8],
}

/// A reply's head.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Response<'b>(Head<'b>);

/// What was read of a server's first bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reply<'b> {
    /// The beginning of a reply.
    More,
    /// A reply's head.
    Head(Response<'b>),
    /// Nothing that is known.
    Unknown,
}

impl<'b> Request<'b> {
    /// The host that is asked, without the port: of an absolute target, or of the one `Host` line
    /// (RFC 9112, 3.2). None: it is missing, has not the form of a name, or is said in two ways.
    pub fn host(&self) -> Option<Name<'b>> {
        let mut lines = self.head.values(b"host");
        let line = lines.next();
        if lines.next().is_some() {
            return None;
        }
        let line = line.map(host_of);
        let target = if self.method == b"CONNECT" {
            Some(host_of(self.target))
        } else if self.target.starts_with(b"/") || self.target == b"*" {
            None
        } else {
            let scheme = self.target.windows(3).position(|three| three == b"://")?;
            let rest = &self.target[scheme + 3..];
            let end = rest.iter().position(|byte| b"/?#".contains(byte));
            Some(host_of(&rest[..end.unwrap_or(rest.len())]))
        };
        match (target, line) {
            (Some(target), Some(line)) => target.filter(|target| Some(*target) == line),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => None,
        }
    }

    /// The value of the first cookie of this name (RFC 6265, 5.4).
    pub fn cookie(&self, name: &str) -> Option<&'b [u8]> {
        let pairs = self
            .head
            .values(b"cookie")
            .flat_map(|line| line.split(|byte| *byte == b';'));
        pairs
            .filter_map(pair)
            .find_map(|(known, value)| (known == name.as_bytes()).then_some(value))
    }
}

impl<'b> Response<'b> {
    /// The value that a `Set-Cookie` line gives to the cookie of this name; the last one counts, as
    /// it does for the client (RFC 6265, 5.3).
    pub fn set_cookie(&self, name: &str) -> Option<&'b [u8]> {
        let pairs = self
            .0
            .values(b"set-cookie")
            .filter_map(|line| pair(line.split(|byte| *byte == b';').next().unwrap_or_default()));
        pairs
            .filter(|(known, _)| *known == name.as_bytes())
            .last()
            .map(|(_, value)| value)
    }
}

/// Reads a client's first bytes.
pub fn request(bytes: &[u8]) -> Look<'_> {
    let method = bytes
        .iter()
        .position(|byte| !(byte.is_ascii_uppercase() || *byte == b'-'));
    let method = match method {
        None if bytes.len() <= MAX_METHOD => return Look::More,
        Some(end @ 1..=MAX_METHOD) if bytes[end] == b' ' => end,
        _ => return Look::Unknown,
    };
    let Some(line) = line(bytes) else {
        return Look::More;
    };
    let parsed = || {
        let rest = &line[method + 1..];
        let target = &rest[..rest.iter().position(|byte| *byte == b' ')?];
        let version = &rest[target.len() + 1..];
        let good = !target.is_empty() && target.iter().all(u8::is_ascii_graphic);
        (good && is_version(version)).then_some(target)
    };
    let Some(target) = parsed() else {
        return Look::Unknown;
    };
    match Head::of(bytes) {
        Some(head) if head.is_sound() => Look::Http(Request {
            head,
            method: &bytes[..method],
            target,
        }),
        Some(_) => Look::Unknown,
        None => Look::More,
    }
}

/// Reads a server's first bytes. Heads of interim replies (1xx) are skipped.
pub fn reply(bytes: &[u8]) -> Reply<'_> {
    let mut rest = bytes;
    loop {
        let known = rest.len().min(7);
        if rest[..known] != b"HTTP/1."[..known] {
            return Reply::Unknown;
        }
        let Some(head) = Head::of(rest) else {
            return Reply::More;
        };
        let first = line(rest).unwrap_or_default();
        let code = first.get(8..12);
        match code {
            Some([b' ', b'1', b'0', b'1']) => return Reply::Head(Response(head)),
            Some([b' ', b'1', _, _]) => rest = &rest[head.length()..],
            Some([b' ', b'2'..=b'9', _, _]) if head.is_sound() => {
                return Reply::Head(Response(head));
            }
            _ => return Reply::Unknown,
        }
    }
}

fn is_version(bytes: &[u8]) -> bool {
    matches!(bytes, [b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor] if minor.is_ascii_digit())
}

/// The first line, without its end.
fn line(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    Some(without_cr(&bytes[..end]))
}

fn without_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// The name before a port; none: it has not the form of one.
fn host_of(authority: &[u8]) -> Option<Name<'_>> {
    let bracket = authority.iter().position(|byte| *byte == b']').unwrap_or(0);
    let colon = authority[bracket..].iter().position(|byte| *byte == b':');
    let (host, port) = authority.split_at(colon.map_or(authority.len(), |at| bracket + at));
    let digits = port.get(1..).unwrap_or_default();
    digits
        .iter()
        .all(u8::is_ascii_digit)
        .then(|| Name::of(host))
        .flatten()
}

/// Name and value.
fn pair(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|byte| *byte == b'=')?;
    Some((text[..at].trim_ascii(), text[at + 1..].trim_ascii()))
}

/// The lines of a head, the empty one at the end included.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Head<'b>(&'b [u8]);

impl<'b> Head<'b> {
    /// None: its end has not come.
    fn of(bytes: &'b [u8]) -> Option<Self> {
        let mut at = 0;
        loop {
            at += bytes[at..].iter().position(|byte| *byte == b'\n')? + 1;
            let end = match &bytes[at..] {
                [b'\n', ..] => at + 1,
                [b'\r', b'\n', ..] => at + 2,
                _ => continue,
            };
            return Some(Self(&bytes[..end]));
        }
    }

    const fn length(&self) -> usize {
        self.0.len()
    }

    /// Lines after the first, without their ends.
    fn lines(&self) -> impl Iterator<Item = &'b [u8]> + use<'b> {
        let lines = self.0.split(|byte| *byte == b'\n').skip(1).map(without_cr);
        lines.take_while(|line| !line.is_empty())
    }

    /// All servers read it in the same way.
    fn is_sound(&self) -> bool {
        let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
        self.lines().all(|line| {
            let colon = line.iter().position(|byte| *byte == b':').unwrap_or(0);
            colon > 0
                && line[..colon].iter().all(token)
                && !line.iter().any(|byte| b"\r\0".contains(byte))
        })
    }

    /// The values of the lines of this name, in lower case.
    fn values(&self, name: &'static [u8]) -> impl Iterator<Item = &'b [u8]> + use<'b> {
        self.lines().filter_map(move |line| {
            let (known, value) = line.split_at_checked(name.len())?;
            let value = value.strip_prefix(b":")?;
            known.eq_ignore_ascii_case(name).then(|| value.trim_ascii())
        })
    }
}
