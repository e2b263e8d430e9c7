//! A dialogue: send this, expect that.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::progress::{Fail, Progress, broken};
use super::tcp::{self, Way};
use crate::config::{Expected, Script, Step};
use crate::health::probe::quoted;

/// Bytes of an answer that an operator sees.
const SHOWN: usize = 60;

pub(super) async fn check(
    script: &Script,
    way: Way<'_>,
    progress: &mut Progress,
) -> Result<(), Fail> {
    let mut dialogue = Dialogue {
        stream: tcp::dial(way).await?,
        got: Vec::new(),
        left: script.read_limit as usize,
    };
    for step in &script.steps {
        match step {
            Step::Send(bytes) => {
                progress.waits("the script cannot be sent");
                let sent = dialogue.stream.write_all(bytes).await;
                sent.map_err(|error| broken("sending", &error))?;
            }
            Step::Expect(expected) => dialogue.expect(expected, progress).await?,
        }
    }
    Ok(())
}

struct Dialogue {
    stream: TcpStream,
    /// What came since the last match.
    got: Vec<u8>,
    /// Bytes that may still be read.
    left: usize,
}

enum Fit {
    /// So many bytes are used.
    Matched(usize),
    /// More bytes may help.
    Open,
    /// No further byte can help.
    Never,
}

impl Dialogue {
    async fn expect(&mut self, expected: &Expected, progress: &mut Progress) -> Result<(), Fail> {
        loop {
            match fit(expected, &self.got) {
                Fit::Matched(used) => {
                    self.got.drain(..used);
                    return Ok(());
                }
                Fit::Never => return Err(Fail::Wrong(missed(expected, &self.got))),
                Fit::Open => progress.waits(missed(expected, &self.got)),
            }
            if self.left == 0 {
                let missed = missed(expected, &self.got);
                return Err(Fail::Wrong(format!("{missed}, and more than is read")));
            }
            let before = self.got.len();
            let mut part = (&mut self.stream).take(self.left.min(4 << 10) as u64);
            let read = part.read_buf(&mut self.got).await;
            read.map_err(|error| broken(&format!("waiting for {}", words(expected)), &error))?;
            let came = self.got.len() - before;
            self.left -= came;
            if came == 0 {
                let missed = missed(expected, &self.got);
                return Err(Fail::Wrong(format!("{missed}, then closed")));
            }
        }
    }
}

fn fit(expected: &Expected, got: &[u8]) -> Fit {
    match expected {
        Expected::Bytes(wanted) if got.starts_with(wanted) => Fit::Matched(wanted.len()),
        Expected::Bytes(wanted) if wanted.starts_with(got) => Fit::Open,
        Expected::Bytes(_) => Fit::Never,
        Expected::Matching(pattern) => pattern.find_end(got).map_or(Fit::Open, Fit::Matched),
    }
}

fn missed(expected: &Expected, got: &[u8]) -> String {
    match got {
        [] => format!("no {}", words(expected)),
        got => format!("no {} but {}", words(expected), quoted(got, SHOWN)),
    }
}

pub(super) fn words(expected: &Expected) -> String {
    match expected {
        Expected::Bytes(bytes) => quoted(bytes, SHOWN),
        Expected::Matching(pattern) => {
            let mut text: String = pattern.as_str().chars().take(SHOWN).collect();
            if text.len() < pattern.as_str().len() {
                text.push('…');
            }
            format!("/{}/", text.escape_debug())
        }
    }
}
