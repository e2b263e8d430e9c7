//! Lines on their way to standard error. Whoever logs, the turn loop among them, never waits for
//! whoever reads: a journald that hangs, or a full pipe, would end the node by its dead-man timer.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use crate::net::clock;

/// Lines that wait at most.
const WAITING: usize = 16_384;
/// How long the end of the process waits for lines that nobody reads.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two looks whether there is room.
const LOOK: Duration = Duration::from_millis(10);

enum Piece {
    Text(Vec<u8>),
    /// All that came before it is written.
    End(SyncSender<()>),
}

/// Where lines are given to a thread that writes them.
#[derive(Clone, Debug)]
pub(super) struct Outlet {
    pieces: SyncSender<Piece>,
    lost: Arc<AtomicU64>,
}

impl Outlet {
    /// Starts the thread. `told` makes a line of the number of lines that found no room, in the form
    /// of the text that follows it.
    pub(super) fn start(
        mut to: impl Write + Send + 'static,
        told: impl Fn(u64, &[u8]) -> Vec<u8> + Send + 'static,
    ) -> io::Result<Self> {
        let (pieces, waiting) = sync_channel(WAITING);
        let lost = Arc::<AtomicU64>::default();
        let counted = Arc::clone(&lost);
        let write = move || drain(&waiting, &counted, &mut to, told);
        thread::Builder::new().name("log".into()).spawn(write)?;
        Ok(Self { pieces, lost })
    }

    /// Without waiting: a line that finds no room is counted.
    pub(super) fn send(&self, text: Vec<u8>) {
        if self.pieces.try_send(Piece::Text(text)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until what was sent is written, or somebody should have read it.
    pub(super) fn finish(&self) {
        let deadline = clock::monotonic() + PATIENCE;
        let (done, all) = sync_channel(1);
        let mut end = Piece::End(done);
        while let Err(TrySendError::Full(back)) = self.pieces.try_send(end) {
            if clock::monotonic() >= deadline {
                return;
            }
            end = back;
            thread::sleep(LOOK);
        }
        // Late is as good as done: nobody reads.
        let _ = all.recv_timeout(deadline.saturating_sub(clock::monotonic()));
    }
}

fn drain(
    waiting: &Receiver<Piece>,
    lost: &AtomicU64,
    to: &mut impl Write,
    told: impl Fn(u64, &[u8]) -> Vec<u8>,
) {
    for piece in waiting {
        // Nobody is left to tell if this cannot be written.
        let _ = match piece {
            Piece::Text(text) => match lost.swap(0, Ordering::Relaxed) {
                0 => to.write_all(&text),
                many => to
                    .write_all(&told(many, &text))
                    .and_then(|()| to.write_all(&text)),
            },
            Piece::End(done) => done.try_send(()).map_err(io::Error::other),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use super::*;

    /// What was written; whoever holds it holds up the writer.
    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            let mut page = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            page.extend(text);
            Ok(text.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn outlet(page: &Page) -> Outlet {
        let told = |many, next: &[u8]| [format!("{many} lost before ").as_bytes(), next].concat();
        Outlet::start(page.clone(), told).unwrap()
    }

    #[test]
    fn lines_come_out_in_order_and_all_of_them_at_the_end() {
        let page = Page::default();
        let outlet = outlet(&page);
        (0..100).for_each(|n| outlet.send(format!("{n}\n").into_bytes()));
        outlet.finish();
        let all: String = (0..100).map(|n| format!("{n}\n")).collect();
        assert_eq!(*page.0.lock().unwrap(), all.as_bytes());
    }

    #[test]
    fn who_logs_does_not_wait_for_who_reads_and_what_is_lost_is_counted() {
        let page = Page::default();
        let outlet = outlet(&page);
        let held = page.0.lock().unwrap();
        // One may be in the writer's hands already.
        (0..WAITING + 11).for_each(|_| outlet.send(b"x\n".to_vec()));
        let lost = outlet.lost.load(Ordering::Relaxed);
        assert!((10..=11).contains(&lost), "{lost}");
        // Nor does the end wait for ever.
        outlet.finish();
        drop(held);
        outlet.finish();
        outlet.send(b"y\n".to_vec());
        outlet.finish();
        let text = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
        assert!(
            text.contains(&format!("{lost} lost before x\n")),
            "{}",
            text.len()
        );
        assert!(text.ends_with("y\n"));
    }
}
