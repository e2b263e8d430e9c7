//! `tandem lab --keep`: the pair stays up, and its operator is told how to look inside.

use std::process;

use anstream::println;

use super::Outcome;
use super::config::NODES;
use super::error::LabError;
use super::netns::Rights;
use super::pair::{Lab, LabConfig};
use super::topology::VIP4;
use crate::model::NodeId;

pub(super) async fn stay(config: &LabConfig, rights: Rights) -> Result<Outcome, LabError> {
    println!("building the lab ...");
    let mut lab = Lab::up(config).await?;
    let master = NODES[lab.settled().await?.index()];
    println!("{master} is master. Everything stays up until Ctrl-C.\n");

    let pid = process::id();
    let user = match rights {
        Rights::Root => String::new(),
        Rights::UserNamespace => format!(" --preserve-credentials --user=/proc/{pid}/ns/user"),
    };
    let enter = |netns| format!("nsenter{user} --net=/proc/{pid}/fd/{netns} --");
    println!("Ask for a page as the client does:");
    let client = lab.network().client.netns();
    println!("  {} curl -s http://{VIP4}/\n", enter(client));
    println!("Look into a host:");
    for host in lab.network().hosts() {
        println!("  {:<7} {} ip address", host.name(), enter(host.netns()));
    }
    println!("\nAsk a node:");
    for id in NodeId::BOTH {
        let node = lab.node(id);
        let pid = node.pid().unwrap_or_default();
        println!("  tandem status --control {}", node.socket().display());
        println!("    process {pid}, log {}", node.log().display());
    }
    println!("\nConfiguration and key: {}", lab.dir().display());
    std::future::pending().await
}
