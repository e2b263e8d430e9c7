//! What happens when something is full, and what chance does.

use std::net::SocketAddr;

use tandem::config::Config;
use tandem::datapath::nat::engine::{Engine, Links};
use tandem::datapath::nat::layout::{
    Backend, Endpoint, Flow, FlowKey, OWNED_SOURCE, Owned, Service, Settings,
};
use tandem::datapath::nat::tables::Told;
use tandem::datapath::nat::{Counter, Hook, Nat, NatError, Scheduler, Sizes};
use tandem::model::NodeId;

use crate::frames::{SYN, Tcp};

pub(crate) const DROP: i32 = 2;
pub(crate) const REDIRECT: i32 = 7;
const BACKENDS: u32 = 3;

pub(crate) fn vip() -> SocketAddr {
    "192.0.2.100:80".parse().expect("an address")
}

/// A service with three backends, chosen so.
pub(crate) fn load(flows: u32, events: u32, scheduler: Scheduler) -> Result<Nat, NatError> {
    let mut nat = Nat::load(&Sizes {
        flows,
        slots: BACKENDS,
        backends: BACKENDS,
        events,
        ..Sizes::default()
    })?;
    let tables = &mut nat.tables;
    for n in 0..BACKENDS {
        let at: SocketAddr = format!("198.51.100.{}:80", 21 + n)
            .parse()
            .expect("an address");
        let backend = Backend {
            address: at.ip().into(),
            source: vip().ip().into(),
            port: at.port().into(),
            id: n,
            ..Backend::default()
        };
        tables.set_backend(n, backend)?;
    }
    tables.set_slots(0, &[0, 1, 2])?;
    tables.set_address(
        Endpoint::from(vip().ip()),
        Owned {
            flags: OWNED_SOURCE,
        },
    )?;
    tables.set_settings(Settings {
        range_first: 20_000,
        range_last: 60_000,
        own_first: 20_000,
        own_last: 40_000,
    })?;
    tables.set_service(Endpoint::from(vip()), service(scheduler))?;
    nat.lease()?.renew(u64::MAX)?;
    Ok(nat)
}

pub(crate) fn service(scheduler: Scheduler) -> Service {
    Service {
        scheduler: scheduler.number(),
        slots: BACKENDS,
        ..Service::default()
    }
}

/// What becomes of the n-th client's SYN.
fn knock(nat: &mut Nat, n: u16) -> Result<i32, NatError> {
    let client = SocketAddr::new("203.0.113.1".parse().expect("an address"), 1_000 + n);
    let (returned, _) = nat.try_frame(&Tcp::new(client, vip(), SYN).frame())?;
    Ok(returned)
}

pub(crate) fn is<T: PartialEq + std::fmt::Debug>(
    what: &str,
    found: &T,
    expected: &T,
) -> Result<(), String> {
    let wrong = || format!("{what}: {found:?}, not {expected:?}");
    (found == expected).then_some(()).ok_or_else(wrong)
}

/// A flow that does not fit leaves nothing behind, also if half of it would have fitted.
pub(crate) fn full_table() -> Result<(), String> {
    run_full_table().map_err(|error| error.to_string())?
}

fn run_full_table() -> Result<Result<(), String>, NatError> {
    let mut nat = load(4, 1 << 16, Scheduler::RoundRobin)?;
    let other = FlowKey::new(vip(), vip());
    nat.tables.set_flow(&other, &Flow::default())?;
    let mut verdicts = Vec::new();
    for n in 0..5 {
        verdicts.push(knock(&mut nat, n)?);
    }
    let entries = nat.tables.flows().count();
    let dropped = nat.tables.counter(Counter::TableFull)?;
    let told = std::iter::from_fn(|| nat.tables.next_event()).count();
    // One place is left.
    nat.tables.set_flow(&FlowKey::default(), &Flow::default())?;
    let one_more = FlowKey::new(vip(), "192.0.2.100:1".parse().expect("an address"));
    let refused = nat.tables.set_flow(&one_more, &Flow::default());
    let full = matches!(refused, Err(NatError::Full { .. }));
    Ok(is(
        "verdicts",
        &verdicts,
        &vec![REDIRECT, REDIRECT, REDIRECT, DROP, DROP],
    )
    .and_then(|()| is("entries", &entries, &7))
    .and_then(|()| is("dropped", &dropped, &2))
    .and_then(|()| is("told", &told, &3))
    .and_then(|()| is("user space is told as well", &full, &true)))
}

/// Events that do not fit are counted; the packets go their way.
pub(crate) fn full_ring() -> Result<(), String> {
    run_full_ring().map_err(|error| error.to_string())?
}

fn run_full_ring() -> Result<Result<(), String>, NatError> {
    const COUNT: u16 = 40;
    let mut nat = load(100, 4_096, Scheduler::RoundRobin)?;
    for n in 0..COUNT {
        if knock(&mut nat, n)? != REDIRECT {
            return Ok(Err(format!("SYN {n} was dropped")));
        }
    }
    let told = std::iter::from_fn(|| nat.tables.next_event()).count() as u64;
    let lost = nat.tables.counter(Counter::LostEvent)?;
    let some = told > 0 && lost > 0;
    Ok(is("all are told or counted", &(told + lost), &COUNT.into())
        .and_then(|()| is("some of each", &some, &true)))
}

/// Chance is fair enough: 3,000 of 9,000 each, give or take five standard deviations.
pub(crate) fn random_choice() -> Result<(), String> {
    run_random_choice().map_err(|error| error.to_string())?
}

fn run_random_choice() -> Result<Result<(), String>, NatError> {
    const COUNT: u16 = 9_000;
    let mut nat = load(COUNT.into(), 1 << 16, Scheduler::Random)?;
    let mut shares = [0_u32; BACKENDS as usize];
    for n in 0..COUNT {
        knock(&mut nat, n)?;
        if let Some(Told::Carried(opened)) = nat.tables.next_event() {
            shares[opened.event.flow.backend as usize] += 1;
        }
    }
    let fair = shares.iter().all(|share| (2_776..=3_224).contains(share));
    Ok(fair
        .then_some(())
        .ok_or_else(|| format!("shares: {shares:?}")))
}

/// What cannot be attached says why, and what to do.
pub(crate) fn no_such_interface() -> Result<(), String> {
    let mut nat = load(4, 4_096, Scheduler::Random).map_err(|error| error.to_string())?;
    for hook in [Hook::Tcx, Hook::Clsact] {
        let Err(error) = nat.attach_by("nowhere0", hook) else {
            return Err("attached to nothing".into());
        };
        let text = error.to_string();
        if !text.contains("nowhere0") || !text.contains("name an interface that exists") {
            return Err(format!("{hook:?}: {text}"));
        }
    }
    Ok(())
}

/// Services with more listeners than the tables once had room for, twice: when a later life's
/// configuration has others, those of the life before are still there at first.
pub(crate) fn many_listeners() -> Result<(), String> {
    const SERVICES: u16 = 20;
    const LISTENERS: u16 = 64;
    let config = |shift: u16| {
        let mut text = String::from(
            "[cluster]\nname = \"test\"\nkey_file = \"/nowhere\"\nrelay = false\n\
             [[node]]\nname = \"one\"\npriority = 150\naddresses = [\"203.0.113.1\"]\n\
             [[node]]\nname = \"two\"\npriority = 100\naddresses = [\"203.0.113.2\"]\n\
             [[vip]]\naddress = \"192.0.2.100/24\"\ninterface = \"front\"\n",
        );
        for service in 0..SERVICES {
            let ports = (0..LISTENERS).map(|n| shift + service * LISTENERS + n);
            let listen: Vec<_> = ports
                .map(|port| format!("\"192.0.2.100:{port}\""))
                .collect();
            text += &format!(
                "[[service]]\nname = \"s{service}\"\nmode = \"kernel\"\nlisten = [{}]\n\
                 [[service.backend]]\nname = \"b\"\naddress = \"192.0.2.21:80\"\n",
                listen.join(", ")
            );
        }
        let parsed = Config::parse(&text);
        parsed.map_err(|errors| errors.render("test", &text, false))
    };
    let say = |error: NatError| error.to_string();
    let engine = |config: &Config| Engine::new(config, NodeId::First, &Links::default(), 1);
    let mut first = engine(&config(1_024)?);
    let mut nat = Nat::load(&Sizes {
        flows: 1_024,
        ..first.sizes()
    })
    .map_err(say)?;
    first.begin(&mut nat.tables, 0).map_err(say)?;
    let mut second = engine(&config(4_096)?);
    is("their sizes", &second.sizes(), &first.sizes())?;
    second.begin(&mut nat.tables, 0).map_err(say)?;
    Ok(())
}
