//! Tells somebody that the role has changed: runs the program of `[notify]`.
//!
//! Owns: a thread, on which one program runs at a time. Never: makes its caller wait.
//!
//! A change that comes while the program runs waits; one that comes meanwhile takes its place, so that
//! the program sees the newest state last, and not every state in between. A node that has become
//! master is told of once it holds its addresses; all else at once.

use std::io;
use std::thread;
use std::time::Duration;

use tokio::runtime;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::config::{Command, Notify};
use crate::model::Role;
use crate::program::{self, Trouble};
use crate::status::{Event, What};

/// Bytes of its first line that the log shows.
const SHOWN: usize = 200;

/// Who the node is, for the program.
#[derive(Clone, Debug)]
pub struct Who {
    /// Name of the pair.
    pub cluster: String,
    /// The node's name.
    pub node: String,
    /// The floating addresses.
    pub vips: Vec<String>,
}

/// The thread's end for the turn loop. Dropping it ends the thread; a program that runs goes on.
#[derive(Debug)]
pub struct Notifier {
    newest: watch::Sender<Option<Event>>,
}

impl Notifier {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn start(notify: &Notify, who: Who) -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (newest, events) = watch::channel(None);
        let Notify { command, timeout } = notify.clone();
        thread::Builder::new()
            .name("tandem-notify".into())
            .spawn(move || runtime.block_on(run_all(command, timeout, who, events)))?;
        Ok(Self { newest })
    }

    /// Something happened. Never waits.
    pub fn tell(&self, event: &Event) {
        if is_told(&event.what) {
            self.newest.send_replace(Some(event.clone()));
        }
    }
}

/// The role is another one, and if it is master, the addresses are here.
const fn is_told(what: &What) -> bool {
    let What::Transition {
        from,
        to,
        takeover_ms,
        ..
    } = what
    else {
        return false;
    };
    match (*from, *to) {
        (Role::Master, Role::Master) => false,
        (_, Role::Master) => takeover_ms.is_some(),
        _ => true,
    }
}

fn environment(who: &Who, event: &Event) -> Vec<(&'static str, String)> {
    let What::Transition {
        from,
        to,
        epoch,
        cause,
        text,
        detection_ms,
        takeover_ms,
    } = &event.what
    else {
        return Vec::new();
    };
    let ms = |ms: &Option<f64>| ms.map(|ms| ms.to_string()).unwrap_or_default();
    vec![
        ("TANDEM_CLUSTER", who.cluster.clone()),
        ("TANDEM_NODE", who.node.clone()),
        ("TANDEM_VIPS", who.vips.join(" ")),
        ("TANDEM_FROM", from.to_string()),
        ("TANDEM_TO", to.to_string()),
        ("TANDEM_CAUSE", cause.as_str().to_owned()),
        ("TANDEM_TEXT", text.clone()),
        ("TANDEM_EPOCH", epoch.to_string()),
        ("TANDEM_UNIX_MS", event.unix_ms.to_string()),
        ("TANDEM_DETECTION_MS", ms(detection_ms)),
        ("TANDEM_TAKEOVER_MS", ms(takeover_ms)),
    ]
}

async fn run_all(
    command: Command,
    limit: Duration,
    who: Who,
    mut events: watch::Receiver<Option<Event>>,
) {
    while events.changed().await.is_ok() {
        let Some(event) = events.borrow_and_update().clone() else {
            continue;
        };
        let environment = environment(&who, &event);
        let run = timeout(limit, program::run(&command, &environment));
        let name = &command.argv[0];
        match run.await {
            Ok(Ok(ended)) if ended.status.success() => tracing::debug!("{name} was told"),
            Ok(Ok(ended)) => {
                let said = ended.first_line().map(|line| {
                    let line = String::from_utf8_lossy(&line[..line.len().min(SHOWN)]);
                    format!(": {}", line.escape_debug())
                });
                tracing::warn!(
                    "notify: {name}: {}{}",
                    ended.how(),
                    said.unwrap_or_default()
                );
            }
            Ok(Err(Trouble::NoRoom)) => {
                tracing::warn!("notify: no descriptor, process or memory for {name}");
            }
            Ok(Err(Trouble::NotRun(error))) => {
                tracing::warn!("notify: {name} cannot be run: {error}");
            }
            Ok(Err(Trouble::TooMuch)) => {
                let limit = command.output_limit;
                tracing::warn!("notify: {name} wrote more than {limit} bytes and was killed");
            }
            Err(_elapsed) => {
                tracing::warn!("notify: {name} did not end within {limit:?} and was killed");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::status::Cause;

    fn change(number: u64, to: Role, takeover_ms: Option<f64>) -> Event {
        Event {
            number,
            unix_ms: 1_700_000_000_000,
            what: What::Transition {
                from: Role::Backup,
                to,
                epoch: number,
                cause: Cause::HeartbeatsLost,
                text: "no heartbeat; $(x)".into(),
                detection_ms: Some(301.5),
                takeover_ms,
            },
        }
    }

    fn start(script: &str, limit_ms: u64) -> Notifier {
        let argv = ["/bin/sh", "-c", script].map(str::to_owned).into();
        let notify = Notify {
            command: Command {
                argv,
                output_limit: 1_024,
            },
            timeout: Duration::from_millis(limit_ms),
        };
        let who = Who {
            cluster: "edge".into(),
            node: "lb1".into(),
            vips: vec!["192.0.2.100".into(), "2001:db8::100".into()],
        };
        Notifier::start(&notify, who).unwrap()
    }

    fn wait_for(path: &Path, shown: impl Fn(&str) -> bool) -> String {
        for _ in 0..3_000 {
            let text = fs::read_to_string(path).unwrap_or_default();
            if shown(&text) {
                return text;
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("not within 30 s: {:?}", fs::read_to_string(path));
    }

    #[test]
    fn the_program_is_told_what_changed_and_how() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("told");
        let script = format!(
            "env | grep TANDEM_ | sort > {0}.new; mv {0}.new {0}",
            file.display()
        );
        let notifier = start(&script, 30_000);
        notifier.tell(&change(5, Role::Master, None));
        notifier.tell(&change(7, Role::Master, Some(2.5)));
        let text = wait_for(&file, |text| !text.is_empty());
        assert_eq!(
            text.lines().collect::<Vec<_>>(),
            [
                "TANDEM_CAUSE=heartbeats_lost",
                "TANDEM_CLUSTER=edge",
                "TANDEM_DETECTION_MS=301.5",
                "TANDEM_EPOCH=7",
                "TANDEM_FROM=backup",
                "TANDEM_NODE=lb1",
                "TANDEM_TAKEOVER_MS=2.5",
                "TANDEM_TEXT=no heartbeat; $(x)",
                "TANDEM_TO=master",
                "TANDEM_UNIX_MS=1700000000000",
                "TANDEM_VIPS=192.0.2.100 2001:db8::100",
            ]
        );
    }

    #[test]
    fn one_at_a_time_and_the_newest_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (file, gate) = (dir.path().join("told"), dir.path().join("gate"));
        let script = format!(
            "echo begin $TANDEM_EPOCH >> {0}; while [ ! -e {1} ]; do sleep 0.01; done; \
             echo end $TANDEM_EPOCH >> {0}",
            file.display(),
            gate.display()
        );
        let notifier = start(&script, 60_000);
        notifier.tell(&change(1, Role::Fault, None));
        wait_for(&file, |text| text == "begin 1\n");
        for number in 2..=9 {
            notifier.tell(&change(number, Role::Fault, None));
        }
        fs::write(&gate, "").unwrap();
        let text = wait_for(&file, |text| text.ends_with("end 9\n"));
        assert_eq!(text, "begin 1\nend 1\nbegin 9\nend 9\n");
    }

    #[test]
    fn one_that_hangs_or_floods_does_not_keep_the_next_from_running() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("told");
        let script = format!(
            "echo $TANDEM_EPOCH >> {}; [ $TANDEM_EPOCH = 1 ] && exec sleep 60; yes",
            file.display()
        );
        let notifier = start(&script, 2_000);
        notifier.tell(&change(1, Role::Fault, None));
        wait_for(&file, |text| text == "1\n");
        notifier.tell(&change(2, Role::Backup, None));
        wait_for(&file, |text| text == "1\n2\n");
        notifier.tell(&change(3, Role::Backup, None));
        wait_for(&file, |text| text == "1\n2\n3\n");
    }

    #[test]
    fn only_changes_that_are_complete_are_told() {
        let master = |takeover| change(1, Role::Master, takeover).what;
        assert!(!is_told(&master(None)) && is_told(&master(Some(1.0))));
        assert!(is_told(&change(1, Role::Backup, None).what));
        let text = String::new();
        assert!(!is_told(&What::Note { text }));
    }
}
