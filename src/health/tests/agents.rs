//! What agents say, and warnings.

use super::*;
use crate::health::probe::Whom;
use crate::wire::agent::parse;

/// One backend of weight 10 with a check that is good and an agent.
fn bench() -> Bench {
    let mut config = config(1);
    config.services.truncate(1);
    config.services[0].backends[0].weight.0 = 10;
    config.services[0].agent = Some(crate::config::Agent {
        address: None,
        port: 99,
        interval: INTERVAL,
        timeout: TIMEOUT,
        send: vec![],
    });
    let mut bench = Bench::of(&config, 7);
    bench.pass(FIRST_SPREAD);
    bench
}

/// The agent's next question, answered; checks meanwhile are good.
fn say(bench: &mut Bench, outcome: &ProbeOutcome) {
    loop {
        let request = bench.ask();
        if request.whom == Whom::Agent {
            assert_eq!(request.address, "198.51.100.7:99".parse().unwrap());
            bench.answer(request, outcome.clone());
            return;
        }
        bench.answer(request, super::outcome(true));
    }
}

fn line(text: &str) -> ProbeOutcome {
    ProbeOutcome::Agent(parse(text.as_bytes()).unwrap())
}

#[test]
fn words_move_the_weight_and_the_verdict_and_last() {
    let mut bench = bench();
    let state = |bench: &Bench| {
        let serves = bench.book.serving().next().is_some();
        (
            bench.book.is_up(checked()),
            serves,
            bench.book.weight(checked()),
        )
    };
    for (said, up, serves, weight) in [
        ("up", true, true, 10),
        ("75%", true, true, 8),
        ("drain", true, false, 8),
        ("100%", true, false, 10),
        ("ready", true, true, 10),
        ("0%", true, false, 0),
        ("1%", true, true, 1),
        ("256%", true, true, 26),
        ("maint #work", false, false, 26),
        ("down", false, false, 26),
        ("ready", false, false, 26),
        ("up 100%", true, true, 10),
        ("stopped", false, false, 10),
        ("up", true, true, 10),
    ] {
        say(&mut bench, &line(said));
        assert_eq!(state(&bench), (up, serves, Some(weight)), "{said}");
        let changed: Vec<_> = bench.book.weights().map(|(_, weight)| weight).collect();
        assert_eq!(changed.is_empty(), weight == 10 || weight == 0, "{said}");
    }
    let told: Vec<bool> = bench.verdicts().into_iter().map(|(up, _)| up).collect();
    assert_eq!(told, [false, true, false, true]);
}

#[test]
fn an_agent_that_is_silent_or_talks_nonsense_changes_nothing() {
    let mut bench = bench();
    say(&mut bench, &line("50% drain #busy"));
    let failure = ConnectFailure::Refused;
    say(&mut bench, &ProbeOutcome::Bad { failure });
    assert_eq!(bench.book.weight(checked()), Some(5));
    assert!(bench.book.is_up(checked()) && bench.book.serving().next().is_none());
    let reason = bench.book.reason(checked());
    let said = "agent: 50% drain (busy), before the agent cannot be reached; check ok in 0.2 ms";
    assert_eq!(reason, said);
    say(&mut bench, &line("ready 100%"));
    assert_eq!(bench.book.reason(checked()), "check ok in 0.2 ms");
    let notes: Vec<_> = std::iter::from_fn(|| bench.book.poll_note()).collect();
    assert_eq!(notes.len(), 3, "{notes:?}");
}

#[test]
fn a_warning_is_shown_and_noted_once() {
    let mut bench = Bench::new();
    for _ in 0..3 {
        let request = bench.ask();
        let took = MS;
        let what = "certificate expires in 5 days".to_owned();
        bench.answer(request, ProbeOutcome::Warned { took, what });
    }
    assert!(bench.book.is_up(checked()));
    let shown = "check ok in 1.0 ms; certificate expires in 5 days";
    assert_eq!(bench.book.reason(checked()), shown);
    let note = (checked(), "certificate expires in 5 days".to_owned());
    assert_eq!(bench.book.poll_note(), Some(note));
    assert_eq!(bench.book.poll_note(), None);
}

#[test]
fn what_was_wrong_is_the_reason() {
    let mut bench = Bench::new();
    let request = bench.ask();
    let what = "status 503, not 200-399".to_owned();
    bench.answer(request, ProbeOutcome::Wrong { what });
    let expected = (false, "status 503, not 200-399".to_owned());
    assert_eq!(bench.verdicts(), [expected]);
}
