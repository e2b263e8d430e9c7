//! Backends that DNS or a file names, under the kernel mode.

use super::super::discover::{Dns, File, follow};
use super::super::tools::missing;
use super::super::{Test, test};
use super::{Service, config};

pub(super) fn tests() -> Vec<Test> {
    vec![
        test("kernel_discover_dns_is_followed_under_traffic", || async {
            if let Some(why) = missing(&["dnsmasq"]) {
                eprintln!("{why}");
                return Ok(());
            }
            follow(&config(&[Service::default()]), &mut Dns::default()).await
        }),
        test(
            "kernel_discover_a_file_is_followed_under_traffic",
            || async { follow(&config(&[Service::default()]), &mut File::default()).await },
        ),
    ]
}
