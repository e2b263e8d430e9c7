//! The real pair under faults: two processes of the program, traffic, and a watch on the VIP.
//!
//! All tests share one pair and run one after the other; each finds it settled, as the scenarios
//! leave it. What a scenario judges by itself (one master, one owner of the VIP, no request lost
//! once settled, nothing from the dead) is exact; the times asserted here only tell one way of
//! detection from another, since the machine may be busy.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use libtest_mimic::Failed;
use tandem::lab::{
    Lab, LabError, PORT, Scenario, VIP4, VIP6, default_config, pattern, pattern_checksum,
};
use tandem::status::Cause;
use tokio::runtime::{Builder, Runtime};

use super::Test;
use super::http::{get, talk};
use super::tools::with;

/// Below this, the master's death was not found out by its heartbeats' absence.
const HEARTBEATS: Duration = Duration::from_millis(300);
/// Longest outage of any fault, on a machine that does other things too.
const PATIENCE: Duration = Duration::from_secs(2);

/// The pair, once the first test has built it. It ends with the last test.
#[derive(Default)]
struct Shared(Mutex<Option<(Runtime, Lab)>>);

type Body = for<'a> fn(&'a mut Lab) -> Pin<Box<dyn Future<Output = Result<(), LabError>> + 'a>>;

pub(crate) fn tests() -> Vec<Test> {
    let tests: [(&'static str, Body); 8] = [
        ("pair_carries_every_byte_in_both_families", |lab| {
            Box::pin(bytes(lab))
        }),
        ("pair_survives_a_killed_master", |lab| {
            Box::pin(fault(
                lab,
                Scenario::Kill9,
                Some(Cause::ProcessDied),
                HEARTBEATS,
            ))
        }),
        ("pair_switches_over_when_asked", |lab| {
            Box::pin(fault(
                lab,
                Scenario::Switchover,
                Some(Cause::Handover),
                HEARTBEATS,
            ))
        }),
        ("pair_survives_a_hanging_master_and_its_waking", |lab| {
            Box::pin(fault(lab, Scenario::Hang, None, PATIENCE))
        }),
        ("pair_survives_a_master_without_power", |lab| {
            Box::pin(fault(
                lab,
                Scenario::Poweroff,
                Some(Cause::HeartbeatsLost),
                PATIENCE,
            ))
        }),
        (
            "pair_has_one_master_when_only_one_direction_is_cut",
            |lab| Box::pin(fault(lab, Scenario::Cut, None, PATIENCE)),
        ),
        ("pair_has_one_master_again_after_a_partition", |lab| {
            Box::pin(fault(lab, Scenario::Partition, None, PATIENCE))
        }),
        ("pair_loses_no_request_to_a_dead_backend", |lab| {
            Box::pin(fault(lab, Scenario::BackendDown, None, PATIENCE))
        }),
    ];
    let shared = Arc::new(Shared::default());
    let with = |(name, body): (&'static str, Body)| -> Test {
        let shared = shared.clone();
        (name, Box::new(move || shared.run(body)))
    };
    tests.into_iter().map(with).collect()
}

impl Shared {
    fn run(&self, body: Body) -> Result<(), Failed> {
        // A test that failed leaves no pair behind: the next one builds its own.
        let mut shared = self.0.lock().unwrap_or_else(|poisoned| {
            let mut shared = poisoned.into_inner();
            *shared = None;
            self.0.clear_poison();
            shared
        });
        let (runtime, mut lab) = match shared.take() {
            Some(pair) => pair,
            None => {
                let runtime = Builder::new_current_thread().enable_all().build()?;
                let lab = runtime.block_on(Lab::up(&with(default_config())))?;
                (runtime, lab)
            }
        };
        runtime.block_on(body(&mut lab))?;
        *shared = Some((runtime, lab));
        Ok(())
    }
}

async fn fault(
    lab: &mut Lab,
    scenario: Scenario,
    cause: Option<Cause>,
    outage: Duration,
) -> Result<(), LabError> {
    let series = lab.series(scenario, 1, |_| {}).await?;
    let run = &series.runs[0];
    assert!(run.ok, "{run:#?}");
    if cause.is_some() {
        assert_eq!(run.detected_by, cause, "{run:#?}");
    }
    assert!(run.outage_ms < outage.as_secs_f64() * 1e3, "{run:#?}");
    Ok(())
}

async fn bytes(lab: &mut Lab) -> Result<(), LabError> {
    let length = 2_000_000;
    let body: Vec<u8> = (0..length).map(pattern).collect();
    let head =
        format!("POST /sink HTTP/1.1\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    let upload = [head.as_bytes(), &body].concat();
    let echo = [&b"GET /echo HTTP/1.1\r\n\r\n"[..], &body[..100_000]].concat();
    let summed = format!("{length} {:016x}\n", pattern_checksum(length));
    let client = &lab.network().client;
    for vip in [IpAddr::from(VIP4), IpAddr::from(VIP6)] {
        let vip = SocketAddr::new(vip, PORT);
        let down = get(client, vip, &format!("/bytes/{length}")).await;
        assert!(down.unwrap() == body, "download from {vip}");
        let up = talk(client, vip, upload.clone(), false).await;
        assert_eq!(up.unwrap(), summed.as_bytes(), "upload to {vip}");
        let echoed = talk(client, vip, echo.clone(), true).await;
        assert!(
            echoed.unwrap() == body[..100_000],
            "half-close through {vip}"
        );
    }
    Ok(())
}
