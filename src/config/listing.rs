//! Every setting of a configuration as a line: its section, its key, its value in words.
//!
//! Two configurations that mean the same have the same listing, so it is what differences and
//! fingerprints are made of (`difference`). Structures are taken apart by name, so that a new field does
//! not compile before somebody has decided whether it can change while a node runs, and whether both
//! nodes must agree on it.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::{
    Checks, Cluster, Command, Config, Dns, Election, Kernel, Metrics, Node, Notify, Proxy,
};
use crate::model::{BackendAddress, Scheduler};

/// Whether a setting can change while the node runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Reach {
    /// It can.
    Live,
    /// It cannot, for this reason.
    Restart(&'static str),
}

/// One setting.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Setting {
    pub(super) value: String,
    pub(super) reach: Reach,
    /// The two nodes may differ in it.
    pub(super) own: bool,
}

/// All of them, by section and key.
pub(super) type Listing = BTreeMap<(String, String), Setting>;

use Reach::{Live, Restart};

const PAIR: Reach = Restart("both nodes must have the same, at any moment");
const START: Reach = Restart("it is made once, at the start");
const PROGRAM: Reach = Restart("the program in the kernel has it from the start");
const SOURCES: Reach = Restart("sources are asked as they were at the start");

/// Every setting.
pub(super) fn listing(config: &Config) -> Listing {
    let mut sheet = Sheet::default();
    sheet.config(config);
    sheet.listing
}

/// A value in words; none: it is not set.
trait Shown {
    fn shown(&self) -> Option<String>;
}

macro_rules! plain {
    ($($type:ty),*) => {$(
        impl Shown for $type {
            fn shown(&self) -> Option<String> {
                Some(self.to_string())
            }
        }
    )*};
}

macro_rules! words {
    ($($type:ty),*) => {$(
        impl Shown for $type {
            fn shown(&self) -> Option<String> {
                Some(word(self))
            }
        }
    )*};
}

plain!(
    bool,
    u8,
    u16,
    u32,
    BackendAddress,
    IpAddr,
    SocketAddr,
    IpNet,
    Scheduler
);
words!(
    super::Acknowledge,
    super::Ech,
    super::Fallback,
    super::Family,
    super::Forward,
    super::Logged,
    super::Mptcp,
    super::Observe,
    super::OnDown,
    super::ProxyVersion,
    super::Start,
    super::StickFallback,
    super::Stray
);

/// An enumeration's word, as the file writes it.
fn word(value: &impl Debug) -> String {
    let mut word = String::new();
    for letter in format!("{value:?}").chars() {
        if letter.is_ascii_uppercase() && !word.is_empty() {
            word.push('_');
        }
        word.push(letter.to_ascii_lowercase());
    }
    word
}

impl Shown for String {
    fn shown(&self) -> Option<String> {
        Some(self.escape_debug().to_string())
    }
}

impl Shown for PathBuf {
    fn shown(&self) -> Option<String> {
        self.display().to_string().shown()
    }
}

impl Shown for Duration {
    fn shown(&self) -> Option<String> {
        Some(humantime::format_duration(*self).to_string())
    }
}

impl<T: Shown> Shown for Option<T> {
    fn shown(&self) -> Option<String> {
        self.as_ref().and_then(Shown::shown)
    }
}

impl<T: Shown> Shown for Vec<T> {
    fn shown(&self) -> Option<String> {
        let all: Vec<String> = self.iter().filter_map(Shown::shown).collect();
        (!all.is_empty()).then(|| format!("[{}]", all.join(", ")))
    }
}

#[derive(Default)]
struct Sheet {
    listing: Listing,
    section: String,
    /// Before each key.
    prefix: String,
}

/// Puts fields under their own names.
macro_rules! put {
    ($sheet:expr, $reach:expr, $($field:ident),* $(,)?) => {
        $( $sheet.put(stringify!($field), $field, $reach); )*
    };
}

/// Services, and what is below them.
mod service;

impl Sheet {
    fn section(&mut self, name: impl Into<String>) {
        self.section = name.into();
        self.prefix.clear();
    }

    fn put(&mut self, key: &str, value: &impl Shown, reach: Reach) {
        if let Some(value) = value.shown() {
            self.text(key, value, reach);
        }
    }

    fn text(&mut self, key: &str, value: String, reach: Reach) {
        let at = (self.section.clone(), format!("{}{key}", self.prefix));
        let own = false;
        self.listing.insert(at, Setting { value, reach, own });
    }

    /// The two nodes may differ in it.
    fn own(&mut self, section: &str, key: &str) {
        let at = (section.to_owned(), key.to_owned());
        if let Some(setting) = self.listing.get_mut(&at) {
            setting.own = true;
        }
    }

    /// What is not simple: as the program has it.
    fn shape(&mut self, key: &str, value: &impl Debug, reach: Reach) {
        self.text(key, format!("{value:?}"), reach);
    }

    fn config(&mut self, config: &Config) {
        let Config {
            cluster,
            nodes,
            dns,
            election,
            health: Checks { concurrency },
            kernel,
            proxy,
            vips,
            services,
            metrics: Metrics { listen },
            notify,
            hash: _,
            marks: _,
        } = config;
        let Cluster {
            name,
            key_file,
            key_file_place: _,
            port,
            device,
            relay,
        } = cluster;
        self.section("cluster");
        put!(self, PAIR, name, port);
        put!(self, START, key_file, device, relay);
        self.own("cluster", "key_file");
        for Node {
            name,
            priority,
            addresses,
        } in nodes
        {
            self.section(format!("node {name}"));
            self.put("priority", &priority.0, PAIR);
            put!(self, PAIR, addresses);
        }
        let order = &nodes.each_ref().map(|node| node.name.clone()).to_vec();
        self.section("node");
        put!(self, PAIR, order);
        let Election {
            heartbeat,
            misses,
            preempt,
            preempt_delay,
            dead_man,
        } = election;
        self.section("election");
        put!(self, PAIR, heartbeat, misses, preempt);
        put!(self, Live, preempt_delay);
        put!(self, START, dead_man);
        let Dns {
            servers,
            timeout,
            attempts,
        } = dns;
        self.section("dns");
        put!(self, SOURCES, servers, timeout, attempts);
        self.section("health");
        put!(self, START, concurrency);
        let Kernel {
            max_flows,
            first_port,
            last_port,
            sync_timeout,
            opening_timeout,
            closing_timeout,
            closed_timeout,
        } = kernel;
        self.section("kernel");
        put!(
            self,
            PROGRAM,
            max_flows,
            first_port,
            last_port,
            sync_timeout
        );
        put!(
            self,
            PROGRAM,
            opening_timeout,
            closing_timeout,
            closed_timeout
        );
        let Proxy {
            workers,
            max_connections,
            drain_timeout,
        } = proxy;
        self.section("proxy");
        put!(self, START, workers);
        put!(self, Live, max_connections, drain_timeout);
        for vip in vips {
            self.section(format!("vip {}", vip.ip()));
            self.put("address", &vip.address, START);
            self.put("interface", &vip.interface, START);
        }
        self.section("metrics");
        let listen = &sorted(listen);
        put!(self, START, listen);
        self.own("metrics", "listen");
        if let Some(Notify {
            command: Command { argv, output_limit },
            timeout,
        }) = notify
        {
            self.section("notify");
            self.shape("command", argv, START);
            put!(self, START, output_limit, timeout);
            for key in ["command", "output_limit", "timeout"] {
                self.own("notify", key);
            }
        }
        for service in services {
            self.service(service);
        }
    }
}

fn sorted<T: Clone + Ord>(list: &[T]) -> Vec<T> {
    let mut list = list.to_vec();
    list.sort();
    list
}
