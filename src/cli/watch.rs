//! `tandem watch`: a client that asks a service again and again, and tells when it did not answer.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use clap::Args;
use tokio::time::sleep;

use super::ask::to_json;
use super::{Exit, Failure};
use crate::watch::tally::{Outage, Tally};
use crate::watch::{Plan, Target};

/// Arguments of `watch`.
#[derive(Args, Debug)]
pub struct Watch {
    /// `http://HOST[:PORT]/PATH`: a request on each connection. `tcp://HOST:PORT`: connections only.
    #[arg(value_name = "URL", value_parser = target)]
    pub target: Target,

    /// Between the beginnings of two new connections, and between two questions on a kept one.
    #[arg(long, value_name = "TIME", default_value = "20ms", value_parser = every)]
    pub every: Duration,

    /// Connections that are kept open and asked on, with http.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(..=10_000))]
    pub keep: u32,

    /// How long an answer may take.
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = humantime::parse_duration)]
    pub patience: Duration,

    /// How long to watch. Default: until interrupted.
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub length: Option<Duration>,

    /// One JSON document at the end instead of text.
    #[arg(long)]
    pub json: bool,
}

fn target(text: &str) -> Result<Target, String> {
    text.parse()
        .map_err(|error: crate::watch::NoTarget| error.to_string())
}

fn every(text: &str) -> Result<Duration, String> {
    let every = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if every < Duration::from_millis(1) {
        return Err("at least 1ms".into());
    }
    Ok(every)
}

/// Watches, and tells.
pub(super) fn watch(args: &Watch) -> Result<(), Failure> {
    let plan = Plan {
        address: resolve(&args.target)?,
        target: args.target.clone(),
        every: args.every,
        keep: args.keep,
        patience: args.patience,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let tally = runtime.block_on(look(plan, args))?;
    if args.json {
        writeln!(anstream::stdout(), "{}", to_json(&tally)?)?;
    } else {
        write!(anstream::stdout(), "{}", summary(&tally))?;
    }
    if tally.all_well() {
        return Ok(());
    }
    // What went wrong has been said.
    Err(Failure::new(Exit::Refused, ""))
}

async fn look(plan: Plan, args: &Watch) -> Result<Tally, Failure> {
    let mut watch = crate::watch::Watch::begin(plan);
    let over = async {
        match args.length {
            Some(length) => sleep(length).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(over);
    loop {
        tokio::select! {
            Some(outage) = watch.outage() => tell(&outage, args)?,
            () = &mut over => break,
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                break;
            }
        }
    }
    let (tally, last) = watch.end();
    if let Some(outage) = last {
        tell(&outage, args)?;
    }
    Ok(tally)
}

fn tell(outage: &Outage, args: &Watch) -> Result<(), Failure> {
    if !args.json {
        writeln!(anstream::stdout(), "{}", line(outage))?;
    }
    Ok(())
}

fn line(outage: &Outage) -> String {
    let failed = match outage.failed {
        0 => "no new connection failed".to_owned(),
        1 => "1 new connection failed".to_owned(),
        many => format!("{many} new connections failed"),
    };
    format!(
        "{:9.3} s: no answer for {:.0} ms; {failed}",
        outage.began_ms / 1e3,
        outage.lasted_ms
    )
}

fn summary(tally: &Tally) -> String {
    let Tally { new, kept, .. } = tally;
    let mut text = format!(
        "new connections: {} begun, {} answered, {}; slowest {:.1} ms, longest silence {:.1} ms\n",
        new.begun,
        new.answered,
        counts(&new.failed, "failed"),
        new.slowest_ms,
        new.silent_ms
    );
    if kept.open > 0 {
        text += &format!(
            "kept connections: {}, {} answers, {}; slowest {:.1} ms\n",
            kept.open,
            kept.answered,
            counts(&kept.lost, "lost"),
            kept.slowest_ms
        );
    }
    if tally.skipped > 0 {
        text += &format!(
            "{} new connections were not begun: this host was too busy\n",
            tally.skipped
        );
    }
    text
}

/// `none lost`, or `3 lost (2 reset, 1 timed out)`.
fn counts(by_why: &BTreeMap<String, u64>, what: &str) -> String {
    let total: u64 = by_why.values().sum();
    if total == 0 {
        return format!("none {what}");
    }
    let parts: Vec<_> = by_why.iter().map(|(why, n)| format!("{n} {why}")).collect();
    format!("{total} {what} ({})", parts.join(", "))
}

fn resolve(target: &Target) -> Result<SocketAddr, Failure> {
    let unknown = |why: String| {
        let text = format!("cannot find {}: {why}", target.host);
        Failure::new(Exit::Unavailable, text)
    };
    let found = (&*target.host, target.port).to_socket_addrs();
    let mut found = found.map_err(|error| unknown(error.to_string()))?;
    found.next().ok_or_else(|| unknown("no address".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_tired_person_reads() {
        let mut tally = Tally::default();
        tally.kept.open = 10;
        tally.begun(0);
        tally.begun(0);
        let ms = Duration::from_millis;
        tally.answered(ms(2), ms(20));
        tally.kept_answered(ms(3));
        assert_eq!(
            summary(&tally),
            "new connections: 2 begun, 1 answered, none failed; slowest 2.0 ms, longest silence 20.0 ms\n\
             kept connections: 10, 1 answers, none lost; slowest 3.0 ms\n"
        );
        tally.failed("refused");
        tally.failed("timed out");
        tally.kept_lost("reset");
        tally.begun(3);
        let outage = tally.answered(ms(1), ms(12_360)).unwrap();
        assert_eq!(
            line(&outage),
            "    0.020 s: no answer for 12340 ms; 2 new connections failed"
        );
        assert_eq!(
            summary(&tally),
            "new connections: 3 begun, 2 answered, 2 failed (1 refused, 1 timed out); slowest 2.0 ms, longest silence 12340.0 ms\n\
             kept connections: 10, 1 answers, 1 lost (1 reset); slowest 3.0 ms\n\
             3 new connections were not begun: this host was too busy\n"
        );
    }
}
