//! Backends that DNS or a file names, and others after a while, under traffic.
//!
//! The resolver is dnsmasq on the back LAN, as a site would have it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tandem::lab::{Lab, LabError, backend_address, backend_name, default_config};
use tandem::model::NodeId;
use tandem::status::{SourceStatus, Status};
use tokio::process::Child;
use tokio::time::sleep;

use super::tools::{all_answered, ask, command, serve, shows, until, with};
use super::{Test, test};

/// For what takes a few seconds: a TTL, two looks at a file, a back-off.
const SOON: Duration = Duration::from_secs(20);
/// In which a connection would be made to a backend that is gone, if any still were.
const QUIET: Duration = Duration::from_millis(500);

type Needed = &'static [&'static str];

pub(crate) fn tests() -> Vec<(Test, Needed)> {
    vec![
        (
            test("discover_dns_is_followed_under_traffic", || async {
                follow(&default_config(), &mut Dns::default()).await
            }),
            &["dnsmasq"],
        ),
        (
            test("discover_srv_gives_ports_and_weights", || async {
                follow(
                    &default_config(),
                    &mut Dns {
                        srv: true,
                        ..Dns::default()
                    },
                )
                .await
            }),
            &["dnsmasq"],
        ),
        (
            test("discover_a_file_is_followed_under_traffic", || async {
                follow(&default_config(), &mut File::default()).await
            }),
            &[],
        ),
    ]
}

/// What names backends.
pub(crate) trait Names {
    /// Its section, and what else the file needs.
    fn config(&self) -> String;
    /// From now on these are the backends.
    async fn publish(&mut self, lab: &Lab, backends: &[usize]);
    /// It says nothing any more, or nonsense.
    async fn breaks(&mut self, lab: &Lab);
}

/// A resolver; by a service record where `srv` is set.
#[derive(Debug, Default)]
pub(crate) struct Dns {
    pub(crate) srv: bool,
    running: Option<Child>,
}

impl Names for Dns {
    fn config(&self) -> String {
        let source = match self.srv {
            true => "dns_srv = \"_http._tcp.web.test\"",
            false => "dns = \"web.test:80\"",
        };
        let server = backend_address(2);
        format!(
            "\n[[service.discover]]\n{source}\nmin_ttl = \"1s\"\n\
             [dns]\nservers = \"{server}\"\ntimeout = \"300ms\"\n"
        )
    }

    async fn publish(&mut self, lab: &Lab, backends: &[usize]) {
        let hosts = lab.dir().join("hosts");
        let lines = backends.iter().map(|n| {
            let (name, address) = (backend_name(*n), backend_address(*n));
            format!("{address} web.test {name}.test\n")
        });
        std::fs::write(&hosts, lines.collect::<String>()).expect("a file is written");
        // Of service records it knows those that it was started with.
        if self.srv {
            self.stop().await;
        }
        match self.running.as_ref().and_then(Child::id) {
            Some(pid) => kill(Pid::from_raw(pid.cast_signed()), Signal::SIGHUP).expect("it runs"),
            None => self.start(lab, &hosts, backends).await,
        }
    }

    async fn breaks(&mut self, _: &Lab) {
        self.stop().await;
    }
}

impl Dns {
    async fn start(&mut self, lab: &Lab, hosts: &Path, backends: &[usize]) {
        let listen = format!("--listen-address={}", backend_address(2));
        let hosts = format!("--addn-hosts={}", hosts.display());
        let mut arguments: Vec<String> = [
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--bind-interfaces",
            "--local=/test/",
            "--local-ttl=1",
            "--user=",
            "--group=",
            "--pid-file=",
            &listen,
            &hosts,
        ]
        .map(str::to_owned)
        .into();
        for n in backends.iter().filter(|_| self.srv) {
            let name = backend_name(*n);
            arguments.push(format!("--srv-host=_http._tcp.web.test,{name}.test,80,0,5"));
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let host = &lab.network().backends[2];
        self.running = Some(serve(host, command("dnsmasq", &arguments)).await);
    }

    async fn stop(&mut self) {
        if let Some(mut child) = self.running.take() {
            child.kill().await.expect("it is ended");
        }
    }
}

/// A file that is replaced as Kubernetes does: a link to a directory is.
#[derive(Debug, Default)]
pub(crate) struct File {
    version: usize,
}

impl File {
    fn put(&mut self, lab: &Lab, text: &str) {
        self.version += 1;
        let dir: PathBuf = lab.dir().to_owned();
        let data = dir.join(format!("data{}", self.version));
        std::fs::create_dir(&data).expect("a directory");
        std::fs::write(data.join("web.json"), text).expect("a file");
        let new = dir.join("new");
        std::os::unix::fs::symlink(&data, &new).expect("a link");
        std::fs::rename(&new, dir.join("data")).expect("it is renamed");
    }
}

impl Names for File {
    fn config(&self) -> String {
        "\n[[service.discover]]\nbackends_file = \"@DIR@/data/web.json\"\n".into()
    }

    async fn publish(&mut self, lab: &Lab, backends: &[usize]) {
        let all = backends
            .iter()
            .map(|n| format!("{{\"address\": \"{}:80\"}}", backend_address(*n)));
        let all: Vec<_> = all.collect();
        self.put(lab, &format!("{{\"backend\": [{}]}}", all.join(", ")));
    }

    async fn breaks(&mut self, lab: &Lab) {
        self.put(lab, "{\"backend\": [{\"address\": ");
    }
}

fn source(status: &Status) -> &SourceStatus {
    &status.services[0].sources[0]
}

/// Waits until both nodes have these backends up, and no other that takes connections.
async fn both_have(lab: &mut Lab, backends: &[usize]) {
    let mut names: Vec<_> = backends
        .iter()
        .map(|n| format!("{}:80", backend_address(*n)))
        .collect();
    names.sort();
    for node in NodeId::BOTH {
        let what = format!("it has {names:?}");
        shows(lab, node, &what, SOON, |status| {
            let backends = status.services[0].backends.iter();
            let serving = backends.filter(|it| it.up && !it.leaving);
            let mut serving: Vec<_> = serving.map(|it| it.name.clone()).collect();
            serving.sort();
            serving == names && source(status).backends == names.len() as u64
        })
        .await;
    }
}

/// The backends of the only service come from there, and change while clients come and stay.
pub(crate) async fn follow(config: &str, names: &mut impl Names) -> Result<(), LabError> {
    let (service, _) = config
        .split_once("\n[[service.backend]]")
        .expect("it has some");
    // What the lab has for the other family has no service here.
    let mut lab = Lab::build(&with(format!("{service}{}", names.config()))).await?;
    names.publish(&lab, &[0, 1]).await;
    lab.start().await?;
    let master = lab.settled().await?;
    both_have(&mut lab, &[0, 1]).await;
    let load = lab.load();
    let held = lab.hold();
    let answers = |name: &str| load.peek(|record| record.answers().get(name).copied());
    until("both answer", SOON, async || {
        (answers("b1") > Some(20) && answers("b2") > Some(20)).then_some(())
    })
    .await;

    names.publish(&lab, &[1, 2]).await;
    both_have(&mut lab, &[1, 2]).await;
    sleep(QUIET).await;
    let before = answers("b1");
    until("the new one answers", SOON, async || {
        (answers("b3") > Some(20)).then_some(())
    })
    .await;
    assert_eq!(answers("b1"), before, "it gets no new connection");
    let old = format!("{}:80", backend_address(0));
    let leaves = |status: &Status| {
        let mut all = status.services[0].backends.iter();
        all.any(|it| it.name == old && it.leaving && it.connections > 0)
    };
    shows(&mut lab, master, "its clients stay", SOON, leaves).await;
    assert_eq!(held.breaks().broken, 0, "a client lost its connection");

    names.breaks(&lab).await;
    for node in NodeId::BOTH {
        let ill = |status: &Status| source(status).error.is_some();
        let status = shows(&mut lab, node, "it says so", SOON, ill).await;
        assert_eq!(source(&status).backends, 2, "what was known stays");
    }
    let said = ask(&mut lab, master, &["status"]).await;
    eprintln!("{}", String::from_utf8_lossy(&said.stdout));
    both_have(&mut lab, &[1, 2]).await;
    names.publish(&lab, &[0, 2]).await;
    both_have(&mut lab, &[0, 2]).await;
    assert_eq!(held.breaks().broken, 0, "a client lost its connection");
    drop(held);
    let gone = |status: &Status| status.services[0].backends.len() == 2;
    shows(&mut lab, master, "what left is forgotten", SOON, gone).await;
    all_answered(&load.stop().await);
    Ok(())
}
