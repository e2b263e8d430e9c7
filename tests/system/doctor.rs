//! `tandem doctor` on hosts that ail.

use std::process::Output;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tandem::lab::{Lab, LabError, Lan, VIP4, default_config};
use tandem::model::{NodeId, Role};

use super::tools::{FIRST, SECOND, command, output, printed, shows, tandem, until, with};
use super::{Test, test};

const SOON: Duration = Duration::from_secs(5);

pub(crate) fn tests() -> Vec<(Test, &'static [&'static str])> {
    vec![
        (test("doctor_finds_nothing_bad_on_a_sound_pair", sound), &[]),
        (
            test("doctor_finds_who_else_answers_for_the_vip", taken),
            &[],
        ),
        (test("doctor_finds_an_interface_that_is_down", down), &[]),
        (
            test("doctor_finds_a_firewall_in_the_way", firewall),
            &["nft"],
        ),
    ]
}

/// Runs the doctor where this node is or would be.
pub(crate) async fn examine(lab: &mut Lab, node: NodeId, arguments: &[&str]) -> Output {
    let (dir, socket, name) = (
        lab.dir().to_owned(),
        lab.node(node).socket(),
        lab.node(node).name(),
    );
    let mut command = command(tandem(), arguments);
    command
        .args(["--node", name])
        .arg("--config")
        .arg(dir.join("tandem.toml"))
        .arg("--control")
        .arg(socket)
        .arg("--pins")
        .arg(dir.join("pins"));
    output(lab.network().node(node), command).await
}

/// The exit code and what was found.
async fn doctor(lab: &mut Lab, node: NodeId) -> (i32, Vec<Value>) {
    let output = examine(lab, node, &["doctor", "--json"]).await;
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    let found = report["findings"].as_array().unwrap().clone();
    (output.status.code().unwrap(), found)
}

/// The worst of a check, and what was said.
fn of(found: &[Value], check: &str) -> (&'static str, String) {
    let of: Vec<_> = found.iter().filter(|f| f["check"] == check).collect();
    let worst = ["error", "warning", "note", "fine"];
    let worst = worst
        .into_iter()
        .find(|severity| of.iter().any(|finding| finding["severity"] == *severity));
    (worst.unwrap_or("nothing"), format!("{of:#?}"))
}

fn is(found: &[Value], check: &str, severity: &str, word: &str) {
    let (worst, text) = of(found, check);
    assert_eq!(worst, severity, "{check}: {text}");
    assert!(text.contains(word), "{word}: {text}");
}

async fn sound() -> Result<(), LabError> {
    let mut lab = Lab::build(&with(default_config())).await?;
    // Before the start: its peer's host is there, and no node on it.
    let (code, found) = doctor(&mut lab, FIRST).await;
    assert!(code < 2, "{found:#?}");
    is(&found, "peer", "fine", "no node runs there yet");
    is(&found, "vip", "fine", "nobody answers");
    is(&found, "interface", "fine", "eth0 is up");
    lab.start().await?;
    let master = lab.settled().await?;
    let (code, found) = doctor(&mut lab, master).await;
    assert!(code < 2, "{found:#?}");
    is(&found, "node", "fine", "master");
    is(&found, "vip", "fine", "alone");
    is(&found, "peer", "fine", "is heard");
    let (code, found) = doctor(&mut lab, master.peer()).await;
    assert!(code < 2, "{found:#?}");
    is(&found, "vip", "fine", "the peer answers");
    // Its questions were none that a node takes for a claim.
    let status = lab.node(master).status().await?;
    assert!(status.vips.iter().all(|vip| vip.rivals == 0), "{status:#?}");
    Ok(())
}

async fn taken() -> Result<(), LabError> {
    let mut lab = Lab::build(&with(default_config())).await?;
    let network = lab.network();
    network.hold(&network.client, VIP4.into()).await?;
    let (code, found) = doctor(&mut lab, FIRST).await;
    assert_eq!(code, 2, "{found:#?}");
    is(&found, "vip", "error", "neither this node nor its peer");
    Ok(())
}

async fn down() -> Result<(), LabError> {
    let mut lab = Lab::build(&with(default_config())).await?;
    let network = lab.network();
    network
        .set_carrier(network.node(FIRST), Lan::Front, false)
        .await?;
    let down = until("it is seen to be down", SOON, async || {
        let (code, found) = doctor(&mut lab, FIRST).await;
        (of(&found, "interface").0 == "error").then_some((code, found))
    });
    let (code, found) = down.await;
    assert_eq!(code, 2);
    is(&found, "interface", "error", "eth0");
    Ok(())
}

async fn firewall() -> Result<(), LabError> {
    let mut lab = Lab::up(&with(default_config())).await?;
    lab.settled().await?;
    lab.node(FIRST).signal(Signal::SIGTERM)?;
    until("it is gone", SOON, async || lab.node(FIRST).ended()).await;
    shows(&mut lab, SECOND, "lb2 serves", SOON, |s| {
        s.role == Role::Master
    })
    .await;
    let (code, found) = doctor(&mut lab, FIRST).await;
    assert!(code < 2, "{found:#?}");
    is(&found, "peer", "fine", "heartbeats come");
    is(&found, "vip", "fine", "the peer answers");

    drop_port(&lab, FIRST, "udp").await;
    let (code, found) = doctor(&mut lab, FIRST).await;
    assert_eq!(code, 2, "{found:#?}");
    is(&found, "peer", "error", "UDP port 7373");

    drop_port(&lab, SECOND, "udp").await;
    drop_port(&lab, SECOND, "tcp").await;
    let (code, found) = doctor(&mut lab, FIRST).await;
    assert_eq!(code, 2, "{found:#?}");
    is(&found, "peer", "error", "nothing comes back");

    // The same as a running node knows it.
    lab.start_node(FIRST).await?;
    shows(&mut lab, FIRST, "it runs alone", SOON, |s| {
        s.role == Role::Master
    })
    .await;
    let (code, found) = doctor(&mut lab, FIRST).await;
    assert_eq!(code, 2, "{found:#?}");
    is(&found, "peer", "error", "let UDP and TCP 7373");
    is(&found, "vip", "error", "");
    Ok(())
}

async fn drop_port(lab: &Lab, node: NodeId, protocol: &str) {
    let rules = format!(
        "add table inet doctor\nadd chain inet doctor in {{ type filter hook input priority 0; }}\n\
         add rule inet doctor in {protocol} dport 7373 drop"
    );
    let host = lab.network().node(node);
    printed(host, command("nft", &[&rules])).await;
}
