//! The book against a table of evidence, and against a naive oracle.

use proptest::prelude::*;

use super::*;
use crate::config::Config;

const INTERVAL: Duration = Duration::from_secs(2);
const TIMEOUT: Duration = Duration::from_millis(500);
const MS: Duration = Duration::from_millis(1);

/// One service with checks every 2 s (rise 2, fall 3), one without; `count` backends each.
fn config(count: usize) -> Config {
    let backends: String = (0..count)
        .map(|n| {
            let port = 1_000 + n;
            format!("[[service.backend]]\nname = \"b{n}\"\naddress = \"198.51.100.7:{port}\"\n")
        })
        .collect();
    let text = format!(
        r#"
        [cluster]
        name = "edge"
        key_file = "/etc/tandem/cluster.key"
        [[node]]
        name = "lb1"
        priority = 200
        addresses = ["192.0.2.11"]
        [[node]]
        name = "lb2"
        priority = 100
        addresses = ["192.0.2.12"]
        [[vip]]
        address = "192.0.2.100/24"
        interface = "eth0"
        [[service]]
        name = "checked"
        listen = ["192.0.2.100:80"]
        [service.health]
        interval = "2s"
        timeout = "500ms"
        rise = 2
        fall = 3
        {backends}
        [[service]]
        name = "unchecked"
        listen = ["192.0.2.100:81"]
        {backends}
        "#
    );
    Config::parse(&text).unwrap()
}

/// A book, a clock, and the checks that nobody answered yet.
struct Bench {
    book: HealthBook,
    now: Mono,
    open: Vec<ProbeRequest>,
    news: Vec<HealthChange>,
}

impl Bench {
    fn of(config: &Config, seed: u64) -> Self {
        let mut bench = Self {
            book: HealthBook::new(config, seed, Mono::ZERO),
            now: Mono::ZERO,
            open: vec![],
            news: vec![],
        };
        bench.drain();
        bench
    }

    fn new() -> Self {
        Self::of(&config(1), 7)
    }

    /// What must hold after every call.
    fn drain(&mut self) {
        self.open
            .extend(std::iter::from_fn(|| self.book.poll_probe()));
        self.news
            .extend(std::iter::from_fn(|| self.book.poll_change()));
        let next = self.book.poll_timeout();
        assert!(next.is_none_or(|at| at > self.now), "a busy loop: {next:?}");
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.book.poll_timeout().filter(|at| *at <= end) {
            self.now = at;
            self.book.handle_timeout(at);
            self.drain();
        }
        self.now = end;
    }

    /// Lets time pass until a check is asked for.
    fn ask(&mut self) -> ProbeRequest {
        while self.open.is_empty() {
            let at = self.book.poll_timeout().expect("a check is to come");
            self.pass(at.since(self.now));
        }
        self.open.remove(0)
    }

    fn answer(&mut self, request: ProbeRequest, outcome: ProbeOutcome) {
        let ProbeRequest { backend, token, .. } = request;
        let result = ProbeResult {
            backend,
            token,
            outcome,
        };
        self.book.handle_probe(result, self.now);
        self.drain();
    }

    fn check(&mut self, good: bool) {
        let request = self.ask();
        self.answer(request, outcome(good));
    }

    fn fail(&mut self, backend: BackendId, failure: ConnectFailure) {
        self.book.connect_failed(backend, failure, self.now);
        self.drain();
    }

    fn connect(&mut self, backend: BackendId) {
        self.book.connected(backend, self.now);
        self.drain();
    }

    fn state(&self, backend: BackendId) -> (bool, u8) {
        let record = self.book.record(backend);
        assert_eq!(record.up, self.book.is_up(backend));
        assert_eq!(record.up, self.book.up().any(|id| id == backend));
        (record.up, record.streak)
    }

    /// The verdicts that were told, with their reasons.
    fn verdicts(&mut self) -> Vec<(bool, String)> {
        self.news
            .drain(..)
            .filter(|news| news.verdict_changed)
            .map(|news| (news.record.up, news.reason))
            .collect()
    }
}

fn outcome(good: bool) -> ProbeOutcome {
    if good {
        let took = Duration::from_micros(240);
        ProbeOutcome::Good { took }
    } else {
        let failure = ConnectFailure::Refused;
        ProbeOutcome::Bad { failure }
    }
}

fn checked() -> BackendId {
    BackendId::of("checked", "b0")
}

fn unchecked() -> BackendId {
    BackendId::of("unchecked", "b0")
}

#[test]
fn before_any_evidence_everything_is_up_and_nothing_is_news() {
    let mut bench = Bench::new();
    assert_eq!(bench.state(checked()), (true, 0));
    assert_eq!(bench.state(unchecked()), (true, 0));
    assert_eq!(bench.book.reason(checked()), "not checked yet");
    assert!(!bench.book.is_up(BackendId(1)), "an unknown one is down");
    bench.check(true);
    assert_eq!(bench.verdicts(), [], "it was up already");
}

#[test]
fn one_check_gives_the_first_verdict_and_the_next_ones_need_a_row() {
    let mut bench = Bench::new();
    bench.check(false);
    assert_eq!(bench.verdicts(), [(false, "connect refused".into())]);
    bench.check(true);
    assert_eq!(bench.state(checked()), (false, 1));
    assert_eq!(
        bench.book.reason(checked()),
        "check ok in 0.2 ms (1 of 2)"
    );
    bench.check(true);
    assert_eq!(bench.verdicts(), [(true, "check ok in 0.2 ms".into())]);
    for _ in 0..3 {
        assert!(bench.book.is_up(checked()));
        bench.check(false);
    }
    assert_eq!(bench.verdicts(), [(false, "connect refused".into())]);
    let record = bench.book.record(checked());
    assert_eq!((record.good, record.bad), (2, 4));
}

#[test]
fn reasons_say_how_a_check_failed() {
    for (failure, reason) in [
        (ConnectFailure::Refused, "connect refused"),
        (ConnectFailure::Timeout, "no answer in 500 ms"),
        (ConnectFailure::Unreachable, "host unreachable"),
        (ConnectFailure::Other, "connect failed"),
    ] {
        let mut bench = Bench::new();
        let request = bench.ask();
        assert_eq!(request.timeout, TIMEOUT);
        assert_eq!(request.address, "198.51.100.7:1000".parse().unwrap());
        bench.answer(request, ProbeOutcome::Bad { failure });
        assert_eq!(bench.book.reason(checked()), reason);
    }
}

#[test]
fn an_answer_counts_once_and_only_with_the_token_of_the_check_in_flight() {
    let mut bench = Bench::new();
    let first = bench.ask();
    let forged = ProbeRequest {
        token: first.token + 1,
        ..first
    };
    bench.answer(forged, outcome(false));
    assert_eq!(bench.book.record(checked()).bad, 0);
    bench.answer(first, outcome(true));
    bench.answer(first, outcome(true));
    assert_eq!(bench.book.record(checked()).good, 1);
    let second = bench.ask();
    bench.answer(first, outcome(false));
    bench.answer(second, outcome(true));
    let record = bench.book.record(checked());
    assert_eq!((record.good, record.bad), (2, 0));
}

#[test]
fn a_lost_check_is_no_evidence_and_stalls_nothing() {
    let mut bench = Bench::new();
    let lost = bench.ask();
    let asked = bench.now;
    bench.pass(TIMEOUT + ANSWER_SLACK);
    assert_eq!(bench.open, [], "one in flight at a time");
    let next = bench.ask();
    assert!(bench.now.since(asked) <= INTERVAL * 11 / 10);
    bench.answer(lost, outcome(false));
    assert_eq!(bench.book.record(checked()).bad, 0);
    bench.answer(next, outcome(true));
    assert_eq!(bench.book.record(checked()).good, 1);
}

#[test]
fn checks_keep_their_interval_give_or_take_a_tenth() {
    let mut bench = Bench::new();
    let mut last = None;
    let mut gaps = vec![];
    for _ in 0..200 {
        bench.check(true);
        gaps.extend(last.replace(bench.now).map(|last| bench.now.since(last)));
    }
    let (least, most) = (gaps.iter().min().unwrap(), gaps.iter().max().unwrap());
    assert!(*least >= INTERVAL * 9 / 10 && *most <= INTERVAL * 11 / 10);
    assert!(*most - *least > INTERVAL / 10, "they are spread");
}

#[test]
fn first_checks_come_within_a_moment_and_not_all_at_once() {
    let mut bench = Bench::of(&config(1_000), 7);
    bench.pass(FIRST_SPREAD / 2);
    let half = bench.open.len();
    assert!((400..600).contains(&half), "{half} in the first half");
    bench.pass(FIRST_SPREAD / 2);
    assert_eq!(bench.open.len(), 1_000);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let times = |seed| {
        let mut bench = Bench::of(&config(3), seed);
        let mut times = vec![];
        for _ in 0..20 {
            bench.check(true);
            times.push(bench.now);
        }
        times
    };
    assert_eq!(times(1), times(1));
    assert_ne!(times(1), times(2));
}

#[test]
fn after_a_long_sleep_one_check_is_due_and_not_a_backlog() {
    let mut bench = Bench::new();
    bench.check(true);
    bench.now += INTERVAL * 50;
    bench.book.handle_timeout(bench.now);
    bench.drain();
    assert_eq!(bench.open.len(), 1);
}

#[test]
fn a_burst_of_failed_clients_takes_a_backend_down_and_hastens_the_check() {
    let mut bench = Bench::new();
    bench.check(true);
    bench.pass(INTERVAL / 2);
    for _ in 0..100 {
        bench.fail(checked(), ConnectFailure::Refused);
    }
    let reason = "3 client connects refused".to_owned();
    assert_eq!(bench.verdicts(), [(false, reason)]);
    assert_eq!(bench.open.len(), 1, "the check is due at once");
    bench.connect(checked());
    assert_eq!(bench.state(checked()), (false, 0), "only checks bring it up");
    bench.check(true);
    bench.check(true);
    assert_eq!(bench.verdicts(), [(true, "check ok in 0.2 ms".into())]);
}

#[test]
fn a_check_is_not_hastened_more_often_than_a_tenth_of_the_interval() {
    let mut bench = Bench::new();
    bench.check(true);
    let mut asked = vec![bench.now];
    for _ in 0..1_000 {
        bench.pass(MS);
        bench.fail(checked(), ConnectFailure::Timeout);
        bench.connect(checked());
        if !bench.open.is_empty() {
            bench.check(true);
            asked.push(bench.now);
        }
    }
    let gaps: Vec<_> = asked.windows(2).map(|two| two[1].since(two[0])).collect();
    assert!(gaps.iter().all(|gap| *gap >= INTERVAL / 10), "{gaps:?}");
    assert_eq!(gaps.len(), 5, "1 s holds five gaps of 200 ms");
}

#[test]
fn a_client_that_connects_ends_a_row_of_failures() {
    let mut bench = Bench::new();
    bench.check(true);
    for backend in [checked(), unchecked()] {
        for _ in 0..10 {
            bench.fail(backend, ConnectFailure::Refused);
            bench.fail(backend, ConnectFailure::Unreachable);
            let reason = "2 client connects found no way to the host (2 of 3)";
            assert_eq!(bench.book.reason(backend), reason);
            bench.connect(backend);
            assert_eq!(bench.state(backend), (true, 0));
        }
    }
    assert_eq!(bench.verdicts(), []);
}

#[test]
fn checks_and_clients_count_towards_the_same_row() {
    let mut bench = Bench::new();
    bench.check(true);
    bench.check(false);
    bench.fail(checked(), ConnectFailure::Timeout);
    assert_eq!(bench.state(checked()), (true, 2));
    bench.check(false);
    assert_eq!(bench.verdicts(), [(false, "connect refused".into())]);
    bench.check(true);
    bench.fail(checked(), ConnectFailure::Timeout);
    assert_eq!(bench.state(checked()), (false, 0), "the row of good is over");
}

#[test]
fn a_failure_that_may_be_our_own_is_no_evidence_but_worth_a_check() {
    let mut bench = Bench::new();
    bench.check(true);
    bench.pass(INTERVAL / 2);
    for backend in [checked(), unchecked()] {
        for _ in 0..100 {
            bench.fail(backend, ConnectFailure::Other);
        }
        assert_eq!(bench.state(backend), (true, 0));
    }
    assert_eq!(bench.open.len(), 1);
}

#[test]
fn without_checks_a_backend_falls_and_is_tried_again() {
    let mut bench = Bench::new();
    let fall = |bench: &mut Bench| {
        for _ in 0..PASSIVE_FALL {
            assert!(bench.book.is_up(unchecked()));
            bench.fail(unchecked(), ConnectFailure::Refused);
        }
        assert!(!bench.book.is_up(unchecked()));
    };
    fall(&mut bench);
    bench.pass(RETRY_AFTER - MS);
    assert_eq!(bench.state(unchecked()), (false, 0));
    bench.pass(MS);
    assert_eq!(bench.state(unchecked()), (true, 2), "on trial");
    bench.fail(unchecked(), ConnectFailure::Refused);
    assert_eq!(bench.state(unchecked()), (false, 0));
    bench.pass(RETRY_AFTER);
    bench.connect(unchecked());
    assert_eq!(bench.state(unchecked()), (true, 0));
    let told: Vec<bool> = bench.verdicts().iter().map(|(up, _)| *up).collect();
    assert_eq!(told, [false, true, false, true]);

    fall(&mut bench);
    bench.connect(unchecked());
    assert_eq!(bench.state(unchecked()), (true, 0), "a client got through");
    bench.pass(RETRY_AFTER * 2);
    assert_eq!(bench.state(unchecked()), (true, 0), "no trial is left over");
}

#[test]
fn counters_are_told_once_a_second_at_most_and_never_forgotten() {
    let mut bench = Bench::new();
    bench.check(true);
    bench.news.clear();
    let start = bench.now;
    for n in 0..1_000 {
        bench.pass(MS);
        bench.fail(unchecked(), ConnectFailure::Refused);
        if n < 999 {
            bench.connect(unchecked());
        }
    }
    bench.pass(TELL_GAP);
    let told: Vec<_> = bench
        .news
        .iter()
        .filter(|news| news.backend == unchecked())
        .collect();
    assert!((2..=3).contains(&told.len()), "{told:?}");
    assert!(told.iter().all(|news| !news.verdict_changed));
    assert_eq!(told.last().unwrap().record.streak, 1, "the last word");
    assert!(bench.now.since(start) == TELL_GAP * 2);
}

#[test]
fn the_peers_verdict_holds_until_there_is_evidence_of_our_own() {
    let down = HealthRecord {
        up: false,
        streak: 1,
        good: 70,
        bad: 30,
    };
    let mut bench = Bench::new();
    for backend in [checked(), unchecked()] {
        bench.book.adopt(backend, down, bench.now);
        bench.drain();
    }
    assert_eq!(bench.book.record(checked()), down);
    assert!(!bench.book.is_up(unchecked()));
    let reason = bench.book.reason(checked()).to_owned();
    assert_eq!(reason, "the peer's verdict (1 of 2)");
    assert_eq!(bench.verdicts().len(), 2);

    bench.check(true);
    let risen = bench.book.record(checked());
    assert_eq!((risen.up, risen.good, risen.bad), (true, 71, 30));
    bench.book.adopt(checked(), down, bench.now);
    bench.drain();
    assert_eq!(bench.book.record(checked()), risen, "we know better");

    bench.pass(RETRY_AFTER);
    assert!(bench.book.is_up(unchecked()), "also the adopted are tried");
}

#[test]
fn what_the_peer_says_cannot_break_the_book() {
    let mut bench = Bench::new();
    let wild = HealthRecord {
        up: true,
        streak: u8::MAX,
        good: u64::MAX,
        bad: u64::MAX,
    };
    bench.book.adopt(BackendId(1), wild, bench.now);
    bench.book.adopt(checked(), wild, bench.now);
    bench.drain();
    assert_eq!(bench.news, [], "it is what the peer knows, and still up");
    bench.check(false);
    bench.check(true);
    bench.check(true);
    let record = bench.book.record(checked());
    assert_eq!((record.good, record.bad), (u64::MAX, u64::MAX));
    assert!(record.up);
}

/// The rules, told anew: looks at all evidence since the last change, every time.
struct Oracle {
    up: bool,
    decided: bool,
    since_change: Vec<bool>,
    rise: usize,
    fall: usize,
}

impl Oracle {
    fn weigh(&mut self, good: bool, is_check: bool) {
        self.since_change.push(good);
        let row = self.since_change.iter().rev();
        let against = row.take_while(|piece| **piece != self.up).count();
        let needed = match (is_check && !self.decided, self.up) {
            (true, _) => 1,
            (false, true) => self.fall,
            (false, false) => self.rise,
        };
        self.decided |= is_check;
        if against >= needed {
            self.up = good;
            self.decided = true;
            self.since_change.clear();
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Pass(u64),
    Answer(bool),
    AnswerStale(bool),
    Drop,
    Client(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0_u64..3_000).prop_map(Step::Pass),
        6 => any::<bool>().prop_map(Step::Answer),
        1 => any::<bool>().prop_map(Step::AnswerStale),
        1 => Just(Step::Drop),
        3 => any::<bool>().prop_map(Step::Client),
    ]
}

proptest! {
    #[test]
    fn the_book_agrees_with_a_naive_oracle(
        seed: u64,
        rise in 1_u8..5,
        fall in 1_u8..5,
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut config = config(1);
        config.services.truncate(1);
        let health = config.services[0].health.as_mut().unwrap();
        (health.rise, health.fall) = (rise, fall);
        let mut bench = Bench::of(&config, seed);
        let mut oracle = Oracle {
            up: true,
            decided: false,
            since_change: vec![],
            rise: rise.into(),
            fall: fall.into(),
        };
        let mut stale = vec![];
        let (mut answered, mut told) = (0, true);
        for step in steps {
            match step {
                Step::Pass(ms) => bench.pass(Duration::from_millis(ms)),
                Step::Answer(good) => {
                    bench.pass(Duration::ZERO);
                    if let Some(request) = bench.open.pop() {
                        stale.append(&mut bench.open);
                        bench.answer(request, outcome(good));
                        // Its time may have passed before it was answered.
                        let record = bench.book.record(checked());
                        if record.good + record.bad > answered {
                            answered += 1;
                            oracle.weigh(good, true);
                        }
                        stale.push(request);
                    }
                }
                Step::AnswerStale(good) => {
                    if let Some(request) = stale.last() {
                        bench.answer(*request, outcome(good));
                    }
                }
                Step::Drop => stale.append(&mut bench.open),
                Step::Client(true) => {
                    bench.connect(checked());
                    if oracle.up {
                        oracle.weigh(true, false);
                    }
                }
                Step::Client(false) => {
                    bench.fail(checked(), ConnectFailure::Refused);
                    oracle.weigh(false, false);
                }
            }
            prop_assert_eq!(bench.book.is_up(checked()), oracle.up);
            let record = bench.book.record(checked());
            prop_assert_eq!(record.good + record.bad, answered);
            for news in bench.news.drain(..) {
                prop_assert_eq!(news.verdict_changed, news.record.up != told);
                told = news.record.up;
            }
            prop_assert_eq!(told, oracle.up, "a verdict is told at once");
        }
    }
}
