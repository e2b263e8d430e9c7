//! Dialogues that are known by name. From the protocols' own documents; nothing here logs in.

use super::health::{Expected, Step};
use super::pattern::Pattern;

/// A dialogue known by name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Preset {
    Mysql,
    Postgres,
    Redis,
    Smtp,
    Ssh,
}

pub(super) const PRESETS: &[(&str, Preset)] = &[
    ("redis", Preset::Redis),
    ("postgres", Preset::Postgres),
    ("mysql", Preset::Mysql),
    ("smtp", Preset::Smtp),
    ("ssh", Preset::Ssh),
];

impl Preset {
    /// Its dialogue names a user.
    pub(super) const fn has_user(self) -> bool {
        matches!(self, Self::Mysql | Self::Postgres)
    }

    /// The dialogue.
    pub(super) fn steps(self, user: &str) -> Vec<Step> {
        match self {
            Self::Mysql => vec![
                // Protocol::HandshakeV10: three bytes of length, number 0, version 10. The rest must
                // have come, too, and so far as its server's version it is text.
                matching(r"^(?s:...)\x00\x0a[\x20-\x7e]+\x00"),
                send(&mysql_login(user)),
                // OK, a question for another method, or a refusal of this very user: 1044, 1045,
                // 1049, 1251, 1698. A server that is full or blocks this host says something else.
                matching(
                    r"(?s:...)\x02(?:\x00|\xfe|\xff(?:\x14\x04|\x15\x04|\x19\x04|\xe3\x04|\xa2\x06))",
                ),
            ],
            Self::Postgres => vec![
                send(&postgres_startup(user)),
                // A request for a password, or an error of class 28 (no such user, not from here) or
                // 3D (no such database). A server that starts, stops or is full says 57P03 or 53300.
                matching(r"^(?s:R....|E....(?:[^\x00]+\x00)*?C(?:28|3D))"),
            ],
            Self::Redis => vec![send(b"PING\r\n"), bytes(b"+PONG\r\n")],
            Self::Smtp => vec![
                // RFC 5321, 4.2: 220 on each line of the greeting.
                matching(r"^(?:220-[^\n]*\n)*220(?: [^\n]*)?\n"),
                send(b"QUIT\r\n"),
                bytes(b"221"),
            ],
            // RFC 4253, 4.2: other lines may come first.
            Self::Ssh => vec![matching(r"(?m)^SSH-(?:2\.0|1\.99)-[^\n]*\n")],
        }
    }
}

fn send(bytes: &[u8]) -> Step {
    Step::Send(bytes.to_vec())
}

fn bytes(bytes: &[u8]) -> Step {
    Step::Expect(Expected::Bytes(bytes.to_vec()))
}

fn matching(pattern: &str) -> Step {
    let pattern = Pattern::new(pattern).expect("a preset's pattern compiles: a test builds all");
    Step::Expect(Expected::Matching(pattern))
}

/// `StartupMessage` of the protocol 3.0 (PostgreSQL's documentation, 55.7).
fn postgres_startup(user: &str) -> Vec<u8> {
    let mut body = 196_608_u32.to_be_bytes().to_vec();
    for text in ["user", user, "database", user] {
        body.extend_from_slice(text.as_bytes());
        body.push(0);
    }
    body.push(0);
    let length = body.len() as u32 + 4;
    [&length.to_be_bytes()[..], &body].concat()
}

/// `Protocol::HandshakeResponse41` without a password, so that the server does not count the check
/// as a broken handshake (`max_connect_errors`).
fn mysql_login(user: &str) -> Vec<u8> {
    // LONG_PASSWORD, PROTOCOL_41, SECURE_CONNECTION, PLUGIN_AUTH.
    let flags = 0x0000_0001_u32 | 0x0000_0200 | 0x0000_8000 | 0x0008_0000;
    let mut body = flags.to_le_bytes().to_vec();
    body.extend_from_slice(&(1_u32 << 24).to_le_bytes());
    body.push(33); // utf8
    body.extend_from_slice(&[0; 23]);
    body.extend_from_slice(user.as_bytes());
    body.push(0);
    body.push(0); // no answer to the challenge: no password
    body.extend_from_slice(b"mysql_native_password\0");
    let length = (body.len() as u32).to_le_bytes();
    [&length[..3], &[1], &body].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_is_built() {
        for (name, preset) in PRESETS {
            assert!(!preset.steps("tandem").is_empty(), "{name}");
        }
    }

    #[test]
    fn answers_are_told_apart() {
        let last = |preset: Preset| match preset.steps("u").pop() {
            Some(Step::Expect(Expected::Matching(pattern))) => pattern,
            other => panic!("{other:?}"),
        };
        for (preset, answer, good) in [
            (
                Preset::Postgres,
                &b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0"[..],
                true,
            ),
            (
                Preset::Postgres,
                b"E\0\0\0\x5bSFATAL\0VFATAL\0C28000\0Mno\0\0",
                true,
            ),
            (
                Preset::Postgres,
                b"E\0\0\0\x5bSFATAL\0VFATAL\0C3D000\0Mno\0\0",
                true,
            ),
            (
                Preset::Postgres,
                b"E\0\0\0\x5bSFATAL\0VFATAL\0C57P03\0MC28 starts\0\0",
                false,
            ),
            (
                Preset::Postgres,
                b"E\0\0\0\x5bSFATAL\0C53300\0Mfull\0\0",
                false,
            ),
            (Preset::Postgres, b"HTTP/1.1 400 Bad Request\r\n", false),
            (
                Preset::Mysql,
                b"\x48\0\0\x02\xff\x15\x04#28000Access denied",
                true,
            ),
            (Preset::Mysql, b"\x07\0\0\x02\0\0\0\x02\0\0\0", true),
            (
                Preset::Mysql,
                b"\x48\0\0\x02\xff\x10\x04#08004Too many",
                false,
            ),
            (Preset::Ssh, b"hello\r\nSSH-2.0-OpenSSH_9.2\r\n", true),
            (Preset::Ssh, b"SSH-1.5-old\r\n", false),
        ] {
            let found = last(preset).find_end(answer).is_some();
            assert_eq!(found, good, "{preset:?} {}", answer.escape_ascii());
        }
        let Step::Expect(Expected::Matching(greeting)) = Preset::Smtp.steps("").remove(0) else {
            panic!("a greeting");
        };
        assert_eq!(greeting.find_end(b"220-a\r\n220 b\r\n"), Some(14));
        assert_eq!(greeting.find_end(b"220-a\r\n220 b"), None);
        assert_eq!(greeting.find_end(b"554 no\r\n220 b\r\n"), None);
    }
}
