//! The servers' part: streams without end, in both directions.

use std::io::{self, ErrorKind};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{MissedTickBehavior, interval};

use super::gauge::Board;
use super::stream::{Check, MOST, end, slice};

/// Time between two parts of a paced stream.
pub(super) const TICK: Duration = Duration::from_millis(40);
/// Precedes every stream and every answer here.
pub(super) const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";

/// Bytes of a paced stream's part, from its rate in bytes a second.
pub(super) fn part(rate: u64) -> usize {
    let part = rate * TICK.as_millis() as u64 / 1_000;
    usize::try_from(part).unwrap_or(MOST).clamp(1, MOST)
}

/// Sends stream `n` at this rate in bytes a second, 0: as fast as it goes, until the client says a
/// byte; then its end.
pub(in crate::lab) async fn send<R, W>(
    n: usize,
    rate: u64,
    read: &mut R,
    write: &mut W,
) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    write.write_all(HEAD).await?;
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut enough = [0];
    let (mut sent, mut owed) = (0, 0);
    loop {
        let next = match rate {
            0 => MOST,
            _ => owed,
        };
        tokio::select! {
            biased;
            said = read.read(&mut enough) => match said? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                _ => break,
            },
            _ = ticks.tick(), if rate > 0 && owed == 0 => owed = part(rate),
            done = write.write(slice(n, sent, next)), if next > 0 => {
                let done = done?;
                sent += done as u64;
                owed = owed.saturating_sub(done);
            }
        }
    }
    write.write_all(&end(sent)).await
}

/// Receives stream `n` to its end; what it was like.
pub(in crate::lab) async fn receive<R, W>(
    n: usize,
    board: &Board,
    read: &mut R,
    write: &mut W,
) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    write.write_all(HEAD).await?;
    let mut check = Check::new(n);
    let mut buffer = vec![0; MOST];
    while !check.has_ended() {
        match read.read(&mut buffer).await? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            got => {
                check.take(&buffer[..got]);
                board.uploaded(n, got as u64);
            }
        }
    }
    let verdict = verdict(check.length, check.wrong, check.is_whole());
    write.write_all(verdict.as_bytes()).await
}

/// What the server says of a stream that it received.
pub(super) fn verdict(length: u64, wrong: u64, whole: bool) -> String {
    let word = if whole { "whole" } else { "not whole" };
    format!("{length} bytes, {wrong} wrong, {word}\n")
}
