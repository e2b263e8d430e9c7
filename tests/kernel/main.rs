//! The kernel mode's program, in the kernel.
//!
//! Loading it needs root's rights outside of any user namespace. Where they are missing, each test
//! is listed as ignored, with the reason; none passes silently.

mod checks;
mod differential;
mod frames;
mod world;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use tandem::lab;

fn main() -> ExitCode {
    // First of all: this is refused once there are threads.
    let rights = lab::enter().map_err(|error| error.to_string());
    let rights = rights.and_then(|_| {
        let loaded = differential::load().map_err(|error| error.to_string());
        loaded.map(drop)
    });
    let tests = [(
        "kernel_and_reference_agree",
        differential::kernel_and_reference_agree as fn() -> Result<(), String>,
    )];
    let tests = tests.map(|(name, test)| {
        let refused = rights.clone().err();
        Trial::ignorable_test(name, move || match refused {
            Some(why) => Ok(Completion::ignored_with(why)),
            None => test().map(|()| Completion::Completed).map_err(Failed::from),
        })
    });
    libtest_mimic::run(&Arguments::from_args(), tests.into()).exit_code()
}
