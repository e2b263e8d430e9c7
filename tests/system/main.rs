//! System tests: hosts, links and processes in network namespaces, through the lab.
//!
//! They need root or an unprivileged user namespace. Where the host allows neither, each test is
//! listed as ignored, with the reason; none passes silently.

mod affinity;
mod alerts;
mod balance;
mod bench;
mod checks;
mod crowd;
mod discover;
mod doctor;
mod drain;
mod files;
mod garbage;
mod greeter;
mod http;
mod kernel;
mod limits;
mod metrics;
mod million;
mod mistakes;
mod packets;
mod pages;
mod pair;
mod plumbing;
mod programs;
mod proxy_protocol;
mod relay;
mod reload;
mod roster;
mod sick;
mod silence;
mod sockets;
mod strains;
mod survive;
mod switch;
mod telling;
mod tools;
mod traffic;

use std::future::Future;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use tandem::lab::{self, LabError};

fn main() -> ExitCode {
    // First of all: this is refused once there are threads.
    let rights = lab::enter()
        .map(|rights| tools::RIGHTS.get_or_init(|| rights))
        .map_err(|error| error.to_string());
    let plain = [
        plumbing::tests(),
        switch::tests(),
        pair::tests(),
        balance::tests(),
        roster::tests(),
        reload::tests(),
        files::tests(),
        pages::tests(),
        traffic::tests(),
        drain::tests(),
        garbage::tests(),
        sick::tests(),
        limits::tests(),
        mistakes::tests(),
        survive::tests(),
        million::tests(),
        telling::tests(),
    ];
    let plain = plain.into_iter().flatten().map(|test| (test, &[][..]));
    let kernel = kernel::tests()
        .into_iter()
        .chain(drain::relayed())
        .chain(pages::in_kernel_mode())
        .chain(bench::tests());
    let kernel = kernel.map(|test| (test, &[tools::REAL_ROOT][..]));
    let tests = plain
        .chain(affinity::tests())
        .chain(programs::tests())
        .chain(proxy_protocol::tests())
        .chain(checks::tests())
        .chain(doctor::tests())
        .chain(discover::tests())
        .chain(metrics::tests())
        .chain(alerts::tests())
        .chain(strains::tests())
        .chain(relay::tests())
        .chain(silence::tests())
        .chain(sockets::tests())
        .chain(kernel);
    let tests = tests.map(|((name, test), needed)| {
        let refused = rights.clone().err().or_else(|| tools::missing(needed));
        Trial::ignorable_test(name, move || match refused {
            Some(why) => Ok(Completion::ignored_with(why)),
            None => test().map(|()| Completion::Completed),
        })
    });
    let mut arguments = Arguments::from_args();
    // One after the other, unless asked otherwise: they measure times, and each would measure the
    // other's load.
    arguments.test_threads.get_or_insert(1);
    libtest_mimic::run(&arguments, tests.collect()).exit_code()
}

/// A test's name and what it does.
type Test = (&'static str, Box<dyn FnOnce() -> Result<(), Failed> + Send>);

/// A test that is async.
fn test<F>(name: &'static str, body: impl FnOnce() -> F + Send + 'static) -> Test
where
    F: Future<Output = Result<(), LabError>>,
{
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime can be built");
        runtime.block_on(body()).map_err(Failed::from)
    };
    (name, Box::new(run))
}
