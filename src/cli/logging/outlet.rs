//! Lines on their way to standard error. Whoever logs, the turn loop among them, never waits for
//! whoever reads: a journald that hangs, or a full pipe, would end the node by its dead-man timer.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// Lines that wait at most.
const WAITING: usize = 16_384;
/// How long the end of the process waits for lines that nobody reads.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where lines are given to a thread that writes them.
#[derive(Clone, Debug)]
pub(super) struct Outlet {
    texts: SyncSender<Vec<u8>>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Lines that found no room and were not told of yet.
    lost: AtomicU64,
    /// Who waits until all is written.
    ends: Mutex<Option<SyncSender<()>>>,
}

impl Outlet {
    /// Starts the thread. `told` makes a line of the number of lines that found no room.
    pub(super) fn start(
        mut to: impl Write + Send + 'static,
        told: impl Fn(u64) -> Vec<u8> + Send + 'static,
    ) -> io::Result<Self> {
        let (texts, waiting) = sync_channel(WAITING);
        let shared = Arc::<Shared>::default();
        let theirs = Arc::clone(&shared);
        let write = move || drain(&waiting, &theirs, &mut to, told);
        thread::Builder::new().name("log".into()).spawn(write)?;
        Ok(Self { texts, shared })
    }

    /// Without waiting: a line that finds no room is counted.
    pub(super) fn send(&self, text: Vec<u8>) {
        if self.texts.try_send(text).is_err() {
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until what was sent is written, or somebody should have read it.
    pub(super) fn finish(&self) {
        let (done, all) = sync_channel(1);
        *self.shared.ends() = Some(done);
        // It wakes the thread. Where there is no room, that is awake, or held up by whoever reads.
        let _ = self.texts.try_send(Vec::new());
        // Late is as good as done: nobody reads.
        let _ = all.recv_timeout(PATIENCE);
    }
}

impl Shared {
    fn ends(&self) -> impl std::ops::DerefMut<Target = Option<SyncSender<()>>> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn drain(
    waiting: &Receiver<Vec<u8>>,
    shared: &Shared,
    to: &mut impl Write,
    told: impl Fn(u64) -> Vec<u8>,
) {
    let mut next = waiting.recv().ok();
    while let Some(text) = next {
        let lost = shared.lost.swap(0, Ordering::Relaxed);
        // Nobody is left to tell if this cannot be written.
        if lost > 0 {
            let _ = to.write_all(&told(lost));
        }
        let _ = to.write_all(&text);
        next = waiting.try_recv().ok().or_else(|| {
            if let Some(done) = shared.ends().take() {
                let _ = done.try_send(());
            }
            waiting.recv().ok()
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    /// What was written; whoever holds it holds up the writer, who says that it begins.
    struct Page(Arc<Mutex<Vec<u8>>>, Sender<()>);

    impl Write for Page {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            // Only one test listens.
            let _ = self.1.send(());
            let mut page = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            page.extend(text);
            Ok(text.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn outlet() -> (Outlet, Arc<Mutex<Vec<u8>>>, Receiver<()>) {
        let (page, (says, begins)) = (Arc::<Mutex<Vec<u8>>>::default(), channel());
        let told = |lost| format!("{lost} lost\n").into_bytes();
        let outlet = Outlet::start(Page(Arc::clone(&page), says), told).unwrap();
        (outlet, page, begins)
    }

    #[test]
    fn lines_come_out_in_order_and_all_of_them_at_the_end() {
        let (outlet, page, _) = outlet();
        (0..100).for_each(|n| outlet.send(format!("{n}\n").into_bytes()));
        outlet.finish();
        let all: String = (0..100).map(|n| format!("{n}\n")).collect();
        assert_eq!(*page.lock().unwrap(), all.as_bytes());
    }

    #[test]
    fn who_logs_does_not_wait_for_who_reads_and_what_is_lost_is_counted() {
        let (outlet, page, begins) = outlet();
        let held = page.lock().unwrap();
        outlet.send(b"first\n".to_vec());
        // It is in the writer's hands.
        begins.recv().unwrap();
        (0..WAITING + 11).for_each(|_| outlet.send(b"x\n".to_vec()));
        assert_eq!(outlet.shared.lost.load(Ordering::Relaxed), 11);
        // Nor does the end wait for ever.
        outlet.finish();
        drop(held);
        outlet.finish();
        outlet.send(b"y\n".to_vec());
        outlet.finish();
        let text = String::from_utf8(page.lock().unwrap().clone()).unwrap();
        let all = format!("first\n11 lost\n{}y\n", "x\n".repeat(WAITING));
        assert!(text == all, "{}", &text[..100]);
    }
}
