//! The kernel mode's program, in the kernel.
//!
//! Loading it needs root's rights outside of any user namespace. Where they are missing, each test
//! is listed as ignored, with the reason; none passes silently.

mod adapter;
mod batch;
mod checks;
mod cost;
mod differential;
mod engine;
mod flood;
mod forged;
mod frames;
mod inject;
mod limits;
mod line;
mod pair;
mod pins;
mod rig;
mod sync;
mod traffic;
mod world;

use std::future::Future;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use tandem::datapath::nat::Hook;
use tandem::lab;

type Test = (&'static str, Box<dyn FnOnce() -> Result<(), String> + Send>);

fn main() -> ExitCode {
    // First of all: this is refused once there are threads.
    let rights = lab::enter().map_err(|error| error.to_string());
    let rights = rights.and_then(|_| pins::prepare());
    let tests = all().into_iter().map(|(name, test)| {
        let refused = rights.clone().err();
        Trial::ignorable_test(name, move || match refused {
            None if name.ends_with("_tcx") && rig::best_hook() != Hook::Tcx => {
                Ok(Completion::ignored_with("this kernel has no tcx"))
            }
            // A program that the host's kernel does not take is no missing right.
            Some(why) if why.contains("verifier refuses") => Err(Failed::from(why)),
            Some(why) => Ok(Completion::ignored_with(why)),
            None => test().map(|()| Completion::Completed).map_err(Failed::from),
        })
    });
    let costs =
        Trial::test("cost", || cost::report().map_err(Failed::from)).with_ignored_flag(true);
    let tests = tests.chain([costs]).collect();
    libtest_mimic::run(&Arguments::from_args(), tests).exit_code()
}

fn all() -> Vec<Test> {
    vec![
        (
            "kernel_and_reference_agree",
            Box::new(differential::kernel_and_reference_agree),
        ),
        ("full_table", Box::new(limits::full_table)),
        ("full_ring", Box::new(limits::full_ring)),
        ("many_listeners", Box::new(limits::many_listeners)),
        (
            "flood_spares_flows",
            Box::new(flood::established_flows_go_on),
        ),
        ("source_rate", Box::new(flood::source_rate)),
        ("waking", Box::new(sync::waking)),
        test("waiting_answer", sync::waiting_answer),
        ("random_choice", Box::new(limits::random_choice)),
        ("no_such_interface", Box::new(limits::no_such_interface)),
        test("many_connections_ipv4", || traffic::many_connections(false)),
        test("many_connections_ipv6", || traffic::many_connections(true)),
        test("bulk_ipv4", || traffic::bulk(false)),
        test("bulk_ipv6", || traffic::bulk(true)),
        test("narrow_backend_side_ipv4", || {
            traffic::narrow_backend_side(false)
        }),
        test("narrow_backend_side_ipv6", || {
            traffic::narrow_backend_side(true)
        }),
        test("narrow_client_side_ipv4", || {
            traffic::narrow_client_side(false)
        }),
        test("narrow_client_side_ipv6", || {
            traffic::narrow_client_side(true)
        }),
        test("narrow_own_link_ipv4", || traffic::narrow_own_link(false)),
        test("narrow_own_link_ipv6", || traffic::narrow_own_link(true)),
        test("client_preserved_ipv4", || traffic::client_preserved(false)),
        test("client_preserved_ipv6", || traffic::client_preserved(true)),
        test("client_preserved_behind_a_router_ipv4", || {
            traffic::client_preserved_behind_a_router(false)
        }),
        test("client_preserved_behind_a_router_ipv6", || {
            traffic::client_preserved_behind_a_router(true)
        }),
        test("classic_hook", traffic::classic_hook),
        test("lapsed_lease", traffic::lapsed_lease),
        test("refusing_backend", || traffic::refusing_backend(false)),
        test("refusing_backend_held", || traffic::refusing_backend(true)),
        test("hairpin_ipv4", || traffic::hairpin(false)),
        test("hairpin_ipv6", || traffic::hairpin(true)),
        test("forgotten_flow", traffic::forgotten_flow),
        test("forged_segments_end_nothing_ipv4", || {
            forged::ends_nothing(false)
        }),
        test("forged_segments_end_nothing_ipv6", || {
            forged::ends_nothing(true)
        }),
        test("port_used_again_ipv4", || forged::used_again(false)),
        test("port_used_again_ipv6", || forged::used_again(true)),
        test("client_that_forgot_ipv4", || forged::forgotten(false)),
        test("client_that_forgot_ipv6", || forged::forgotten(true)),
        (
            "engine_on_the_kernels_tables",
            Box::new(engine::on_the_kernels_tables),
        ),
        test("waits_for_the_standby_ipv4", || {
            adapter::waits_for_the_standby(false)
        }),
        test("waits_for_the_standby_ipv6", || {
            adapter::waits_for_the_standby(true)
        }),
        test("goes_elsewhere_ipv4", || adapter::goes_elsewhere(false)),
        test("goes_elsewhere_ipv6", || adapter::goes_elsewhere(true)),
        test("refuses_ipv4", || adapter::refuses(false)),
        test("refuses_ipv6", || adapter::refuses(true)),
        test("silent_ipv4", || adapter::silent(false)),
        test("silent_ipv6", || adapter::silent(true)),
        test("slow_node", adapter::slow_node),
        test("successor", adapter::successor),
        ("many_entries", Box::new(batch::many_entries)),
        ("batches_end_at_what_is_wrong", Box::new(batch::ends)),
        test("injected_ipv4", || inject::arrives(false)),
        test("injected_ipv6", || inject::arrives(true)),
        test("injected_by_policy_ipv4", || inject::by_policy(false)),
        test("injected_by_policy_ipv6", || inject::by_policy(true)),
        ("injection_fails", Box::new(inject::fails)),
        test("adopted_by_tcx", || pins::adopted(Hook::Tcx)),
        test("adopted_by_clsact", || pins::adopted(Hook::Clsact)),
        test("clean_up_tcx", || pins::clean_up(Hook::Tcx)),
        test("clean_up_clsact", || pins::clean_up(Hook::Clsact)),
        test("other_sizes_begin_anew", pins::other_sizes),
        ("one_process_a_directory", Box::new(pins::one_process)),
        ("too_large_leaves_nothing", Box::new(pins::too_large)),
        test("interfaces_come_and_go", pins::interfaces),
    ]
}

fn test<F>(name: &'static str, body: impl FnOnce() -> F + Send + 'static) -> Test
where
    F: Future<Output = Result<(), String>>,
{
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime can be built");
        runtime.block_on(body())
    };
    (name, Box::new(run))
}
