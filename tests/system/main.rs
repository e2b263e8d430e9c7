//! System tests: hosts, links and processes in network namespaces, through the lab.
//!
//! They need root or an unprivileged user namespace. Where the host allows neither, each test is
//! listed as ignored, with the reason; none passes silently.

mod http;
mod pair;
mod plumbing;

use std::future::Future;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use tandem::lab::{self, LabError};

fn main() -> ExitCode {
    // First of all: this is refused once there are threads.
    let rights = lab::enter().map_err(|error| error.to_string());
    let tests = plumbing::tests().into_iter().chain(pair::tests());
    let tests = tests.map(|(name, test)| {
        let refused = rights.clone().err();
        Trial::ignorable_test(name, move || match refused {
            Some(why) => Ok(Completion::ignored_with(why)),
            None => test().map(|()| Completion::Completed),
        })
    });
    libtest_mimic::run(&Arguments::from_args(), tests.collect()).exit_code()
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
