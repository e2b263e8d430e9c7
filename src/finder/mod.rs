//! Finds backends: asks resolvers and reads files, as `discover` says.
//!
//! Owns: the sockets of questions, the files that are watched, one task a source. Never: decides what an
//! answer means, waits for the turn loop with anything but its own tasks.
//! Invariant: whatever a resolver or a file says, the last good set stays until there is another.

mod ask;
mod watch;

use std::collections::BTreeMap;
use std::future::pending;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc::Sender;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use self::ask::Asker;
use self::watch::{Look, Watched};
use crate::balance::Found;
use crate::config::{Config, Discover, Origin, Service};
use crate::discover::list::{self, Format};
use crate::discover::{
    Answer, Entry, NONE, Resolution, Source, Standing, Timing, first_servers, members_of,
};
use crate::model::ServiceId;
use crate::status::SourceStatus;
use crate::time::Mono;
use crate::wire::dns::Kind;

/// All sources of a configuration. Clones show the same.
#[derive(Clone, Debug, Default)]
pub struct Finder {
    board: Arc<Mutex<BTreeMap<(ServiceId, usize), Shown>>>,
}

/// What is known of one source.
#[derive(Clone, Debug)]
struct Shown {
    status: SourceStatus,
    answered: Option<Instant>,
    next: Option<Instant>,
}

impl Finder {
    /// Starts a task for each source, on the runtime that calls. They end with the runtime, or when
    /// nobody wants what is found any more.
    ///
    /// # Panics
    ///
    /// Outside of a runtime with IO and time.
    pub fn run(config: &Arc<Config>, seed: u64, found: &Sender<Found>) -> Self {
        let finder = Self::default();
        let asker = Arc::new(Asker::new(config.dns.clone()));
        for (at, service) in config.services.iter().enumerate() {
            for (place, discover) in service.discover.iter().enumerate() {
                let seed = seed ^ u64::from(service.id.0) ^ (place as u64) << 32;
                let task = Task::new(config, at, place, &finder, found.clone());
                match &discover.origin {
                    Origin::File { path } => {
                        tokio::spawn(file(task, path.clone(), discover.clone()));
                    }
                    _ => {
                        let questions = questions(service, discover, seed);
                        tokio::spawn(dns(task, questions, Arc::clone(&asker)));
                    }
                }
            }
        }
        finder
    }

    /// The sources of a service as they stand, in the order of the configuration.
    pub fn status(&self, service: ServiceId) -> Vec<SourceStatus> {
        let board = self.board.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let millis =
            |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        board
            .range((service, 0)..=(service, usize::MAX))
            .map(|(_, shown)| SourceStatus {
                answered_ms_ago: (shown.answered)
                    .map(|at| millis(now.saturating_duration_since(at))),
                next_in_ms: shown
                    .next
                    .map(|at| millis(at.saturating_duration_since(now))),
                ..shown.status.clone()
            })
            .collect()
    }
}

/// A source that tells what it finds.
#[derive(Debug)]
struct Task {
    source: Source,
    /// `service/pool`, for the log.
    whose: String,
    key: (ServiceId, usize),
    started: Instant,
    finder: Finder,
    found: Sender<Found>,
    /// What was logged last.
    said: Option<String>,
}

impl Task {
    fn new(
        config: &Arc<Config>,
        service: usize,
        place: usize,
        finder: &Finder,
        found: Sender<Found>,
    ) -> Self {
        let source = Source::new(config, service, place);
        let service = &config.services[service];
        let mut task = Self {
            whose: format!("{}/{}", service.name, source.pool()),
            key: (service.id, place),
            source,
            started: Instant::now(),
            finder: finder.clone(),
            found,
            said: None,
        };
        task.show(None, None, None);
        task
    }

    fn now(&self) -> Mono {
        Mono::ZERO + self.started.elapsed()
    }

    fn instant(&self, at: Mono) -> Instant {
        self.started + at.since(Mono::ZERO)
    }

    /// Tells the node, if this is another set. False: nobody listens.
    async fn tell(&mut self, all: &BTreeMap<SocketAddr, Entry>) -> bool {
        let Some(found) = self.source.gather(all) else {
            return true;
        };
        tracing::info!(
            "{}: {} gives {} backends",
            self.whose,
            found.source,
            found.members.len()
        );
        self.found.send(found).await.is_ok()
    }

    fn show(&mut self, answered: Option<Instant>, next: Option<Instant>, error: Option<String>) {
        let error = error.or_else(|| self.source.left_out().map(str::to_owned));
        if error != self.said {
            let (whose, label) = (&self.whose, self.source.label());
            match &error {
                Some(why) => tracing::warn!("{whose}: {label}: {why}"),
                None => tracing::info!("{whose}: {label} is well again"),
            }
            self.said.clone_from(&error);
        }
        let status = SourceStatus {
            source: self.source.label().to_owned(),
            pool: self.source.pool().to_owned(),
            backends: self.source.count() as u64,
            error,
            ..SourceStatus::default()
        };
        let shown = Shown {
            status,
            answered,
            next,
        };
        let board = &self.finder.board;
        let mut board = board.lock().unwrap_or_else(PoisonError::into_inner);
        board.insert(self.key, shown);
    }
}

/// What a source asks.
#[derive(Clone, Debug)]
enum Question {
    /// Addresses of one kind.
    Addresses { name: String, port: u16, kind: Kind },
    /// Servers, and their addresses of these kinds.
    Servers { name: String, kinds: Vec<Kind> },
}

/// Each with its weight and how it stands.
struct Asked {
    question: Question,
    weight: u16,
    resolution: Resolution,
}

fn questions(service: &Service, discover: &Discover, seed: u64) -> Vec<Asked> {
    let proxied = service.kernel.is_none();
    let listens = |v4| proxied || service.listen.iter().any(|it| it.is_ipv4() == v4);
    let mut kinds = Vec::new();
    if discover.family.v4() && listens(true) {
        kinds.push(Kind::A);
    }
    if discover.family.v6() && listens(false) {
        kinds.push(Kind::Aaaa);
    }
    let questions: Vec<Question> = match &discover.origin {
        Origin::Dns { name, port } => {
            let question = |kind| Question::Addresses {
                name: name.clone(),
                port: *port,
                kind,
            };
            kinds.into_iter().map(question).collect()
        }
        Origin::Srv { name } => vec![Question::Servers {
            name: name.clone(),
            kinds,
        }],
        Origin::File { .. } => Vec::new(),
    };
    let timing = Timing {
        min_ttl: discover.min_ttl,
        max_ttl: discover.max_ttl,
        hold: discover.hold,
        linger: discover.linger,
    };
    let asked = |(n, question): (usize, Question)| Asked {
        question,
        weight: discover.weight.0,
        resolution: Resolution::new(timing, seed.wrapping_add(n as u64), Mono::ZERO),
    };
    questions.into_iter().enumerate().map(asked).collect()
}

async fn dns(mut task: Task, mut asked: Vec<Asked>, asker: Arc<Asker>) {
    let mut answers = JoinSet::new();
    loop {
        let now = task.now();
        let mut changed = false;
        for (place, one) in asked.iter_mut().enumerate() {
            changed |= one.resolution.handle_timeout(now);
            if one.resolution.ask(now) {
                let (asker, question, weight) =
                    (Arc::clone(&asker), one.question.clone(), one.weight);
                answers.spawn(async move { (place, ask(&asker, &question, weight).await) });
            }
        }
        if changed && !task.tell(&members(&asked)).await {
            return;
        }
        let next = asked.iter().filter_map(|it| it.resolution.poll_timeout());
        let next = next.min().map(|at| task.instant(at));
        let rest = async {
            match next {
                Some(at) => sleep_until(at).await,
                None => pending().await,
            }
        };
        tokio::select! {
            Some(Ok((place, answer))) = answers.join_next() => {
                let now = task.now();
                let one = &mut asked[place].resolution;
                let changed = one.handle(answer, now);
                // That there is nothing is told once all have answered.
                let whole = asked.iter().all(|it| it.resolution.standing().answered.is_some());
                if (changed || whole) && !task.tell(&members(&asked)).await {
                    return;
                }
                stand(&mut task, &asked);
            }
            () = rest => {}
            () = task.found.closed() => return,
        }
    }
}

/// All addresses that are known by any of the questions.
fn members(asked: &[Asked]) -> BTreeMap<SocketAddr, Entry> {
    let all = asked.iter().flat_map(|it| it.resolution.members());
    all.map(|(address, weight)| (address, Entry { name: None, weight }))
        .collect()
}

/// Shows how the questions stand together. That a name has no address of one kind is no mistake
/// while it has some of the other.
fn stand(task: &mut Task, asked: &[Asked]) {
    let standings: Vec<(bool, Standing)> = (asked.iter())
        .map(|it| {
            (
                it.resolution.members().next().is_some(),
                it.resolution.standing(),
            )
        })
        .collect();
    let served = standings.iter().any(|(some, _)| *some);
    let unsaid = |it: &&(bool, Standing)| {
        let empty = it.1.answered.is_some() && !it.0 && it.1.error.as_deref() == Some(NONE);
        !(served && empty)
    };
    let error = standings
        .iter()
        .filter(unsaid)
        .find_map(|it| it.1.error.clone());
    let answered = standings.iter().filter_map(|it| it.1.answered).max();
    let next = standings.iter().map(|it| it.1.next).min();
    let (answered, next) = (
        answered.map(|at| task.instant(at)),
        next.map(|at| task.instant(at)),
    );
    task.show(answered, next, error);
}

async fn ask(asker: &Asker, question: &Question, weight: u16) -> Result<Answer, String> {
    match question {
        Question::Addresses { name, port, kind } => {
            let records = asker.ask(name, *kind).await?;
            let addresses = records.addresses.into_iter();
            Ok(Answer {
                members: addresses.map(|ip| ((ip, *port).into(), weight)).collect(),
                ttl: records.ttl,
            })
        }
        Question::Servers { name, kinds } => {
            let records = asker.ask(name, Kind::Srv).await?;
            let servers = first_servers(records.servers);
            let mut ttl = records.ttl;
            let mut addresses: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
            let targets = servers.iter().map(|server| server.target.clone());
            let targets: std::collections::BTreeSet<String> = targets.collect();
            for target in targets {
                let mut own = Vec::new();
                for kind in kinds {
                    let records = asker.ask(&target, *kind).await?;
                    if !records.is_empty() {
                        ttl = ttl.min(records.ttl);
                    }
                    own.extend(records.addresses);
                }
                addresses.insert(target, own);
            }
            Ok(Answer {
                members: members_of(&servers, &addresses, weight),
                ttl,
            })
        }
    }
}

async fn file(mut task: Task, path: PathBuf, discover: Discover) {
    let format = match path.extension().is_some_and(|suffix| suffix == "json") {
        true => Format::Json,
        false => Format::Toml,
    };
    let mut watched = Watched::new(path);
    let (mut first, mut good) = (true, None);
    loop {
        // A file system that hangs holds up this source and nothing else.
        let looked = tokio::task::spawn_blocking(move || {
            let look = watched.look(first);
            (watched, look)
        });
        let Ok((back, look)) = looked.await else {
            return;
        };
        (watched, first) = (back, false);
        let next = Instant::now() + watch::EVERY;
        match look {
            Look::Same => {}
            Look::Lost(why) => task.show(good, Some(next), Some(why)),
            Look::Text(text) => {
                let parsed = list::parse(&text, format, discover.weight.0, discover.max_backends);
                match parsed {
                    Ok(entries) => {
                        good = Some(Instant::now());
                        if !task.tell(&entries).await {
                            return;
                        }
                        task.show(good, Some(next), None);
                    }
                    Err(mistake) => task.show(good, Some(next), Some(mistake.to_string())),
                }
            }
        }
        tokio::select! {
            () = sleep_until(next) => {}
            () = task.found.closed() => return,
        }
    }
}

#[cfg(test)]
mod finder_test;
