//! Health checks against the servers that they are made for: redis, PostgreSQL and nginx.
//!
//! It fails where one of them is not installed: a check that was never seen with its server is no
//! check.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{User, chown};
use tandem::lab::{Host, Lab, LabError, VIP4, backend_address, default_config};
use tandem::model::NodeId;
use tandem::status::{BackendStatus, Status};
use tokio::process::{Child, Command};

use super::tools::{REAL_ROOT, command, find, printed, serve, shows, with};
use super::{Test, test};

type Needed = &'static [&'static str];

/// Servers need a moment to start, more on a busy machine.
const SOON: Duration = Duration::from_secs(30);

pub(crate) fn tests() -> Vec<(Test, Needed)> {
    vec![(
        test(
            "redis_postgres_and_nginx_are_seen_up_and_down",
            real_servers,
        ),
        // PostgreSQL changes to a user of its own.
        &[REAL_ROOT],
    )]
}

/// A service on the n-th backend's address, checked like this. Down until a check was good.
fn service(name: &str, port: u16, n: usize, health: &str) -> String {
    let backend = backend_address(n);
    format!(
        "\n[[service]]\nname = \"{name}\"\nlisten = [\"{VIP4}:{port}\"]\n\
         [service.health]\ninterval = \"400ms\"\nfast_interval = \"100ms\"\ntimeout = \"400ms\"\n\
         start = \"down\"\n{health}\n\
         [[service.backend]]\nname = \"one\"\naddress = \"{backend}:{port}\"\n"
    )
}

fn one<'s>(status: &'s Status, service: &str) -> &'s BackendStatus {
    let found = status.services.iter().find(|known| known.name == service);
    &found.expect("the service is in the file").backends[0]
}

async fn waits(lab: &mut Lab, node: NodeId, service: &str, up: bool, reason: &str) {
    let what = format!("{service} is {}: {reason}", if up { "up" } else { "down" });
    let shown = |status: &Status| {
        let backend = one(status, service);
        backend.up == up && backend.reason.contains(reason)
    };
    shows(lab, node, &what, SOON, shown).await;
}

async fn real_servers() -> Result<(), LabError> {
    for program in ["redis-server", "nginx", "openssl", "setpriv"] {
        assert!(
            find(program).is_some(),
            "{program} is not installed (.ci/run installs it)"
        );
    }
    let redis = service("redis", 6379, 0, "kind = \"script\"\npreset = \"redis\"");
    let postgres = service(
        "postgres",
        5432,
        1,
        "kind = \"script\"\npreset = \"postgres\"",
    );
    let web = "kind = \"http\"\ntls = true\nverify = false\nversion = \"2\"\nbody = \"ready\"";
    let web = service("nginx", 8443, 2, web);
    let mut lab = Lab::build(&with(default_config() + &redis + &postgres + &web)).await?;
    lab.start().await?;
    // Both nodes check; one is enough to look at.
    let node = NodeId::First;
    for name in ["redis", "postgres", "nginx"] {
        waits(&mut lab, node, name, false, "connect refused").await;
    }

    let data = tempfile::tempdir().expect("a directory");
    let started = start_redis(&lab, data.path()).await;
    waits(&mut lab, node, "redis", true, "check ok in ").await;
    drop(started);
    waits(&mut lab, node, "redis", false, "connect refused").await;

    let started = start_postgres(&lab, data.path()).await;
    waits(&mut lab, node, "postgres", true, "check ok in ").await;
    drop(started);
    waits(&mut lab, node, "postgres", false, "connect refused").await;

    let started = start_nginx(&lab, data.path(), 200).await;
    waits(
        &mut lab,
        node,
        "nginx",
        true,
        "certificate expires in 1 day",
    )
    .await;
    drop(started);
    waits(&mut lab, node, "nginx", false, "connect refused").await;
    let _started = start_nginx(&lab, data.path(), 503).await;
    waits(&mut lab, node, "nginx", false, "status 503, not 200-399").await;
    Ok(())
}

async fn start_redis(lab: &Lab, dir: &Path) -> Child {
    let (address, dir) = (backend_address(0).to_string(), dir.display().to_string());
    let arguments = [
        "--bind", &address, "--port", "6379", "--save", "", "--dir", &dir,
    ];
    let more = ["--protected-mode", "no"];
    let mut server = command("redis-server", &arguments);
    server.args(more);
    serve(&lab.network().backends[0], server).await
}

/// As the user of the server, who is not root.
fn as_postgres(program: &Path, arguments: &[&str]) -> Command {
    let drop = [
        "--reuid=postgres",
        "--regid=postgres",
        "--clear-groups",
        "--pdeathsig=KILL",
    ];
    let mut run = command("setpriv", &drop);
    run.arg(program).args(arguments).current_dir("/");
    run
}

async fn start_postgres(lab: &Lab, dir: &Path) -> Child {
    let host: &Host = &lab.network().backends[1];
    let user = User::from_name("postgres").expect("the users can be read");
    let user = user.expect("postgresql is not installed (.ci/run installs it)");
    let bin = postgres_programs().expect("postgresql is not installed (.ci/run installs it)");
    let home = dir.join("postgres");
    fs::create_dir(&home).expect("a directory");
    for path in [dir, &home] {
        chown(path, Some(user.uid), Some(user.gid)).expect("root may");
    }
    let data = home.display().to_string();
    let make = [
        "-D",
        &data,
        "-A",
        "trust",
        "--no-sync",
        "--no-locale",
        "-E",
        "UTF8",
    ];
    printed(host, as_postgres(&bin.join("initdb"), &make)).await;
    let address = backend_address(1).to_string();
    let run = [
        "-D",
        &data,
        "-h",
        &address,
        "-p",
        "5432",
        "-c",
        "unix_socket_directories=",
        "-F",
    ];
    serve(host, as_postgres(&bin.join("postgres"), &run)).await
}

/// Debian keeps those of each version in a directory of its own.
fn postgres_programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?;
    let bins = versions.flatten().map(|version| version.path().join("bin"));
    bins.filter(|bin| bin.join("initdb").is_file()).max()
}

async fn start_nginx(lab: &Lab, dir: &Path, status: u16) -> Child {
    let host = &lab.network().backends[2];
    let dir = dir.display().to_string();
    let (key, certificate) = (format!("{dir}/nginx.key"), format!("{dir}/nginx.pem"));
    let make = [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=shop.example",
        "-keyout",
        &key,
        "-out",
        &certificate,
    ];
    printed(host, command("openssl", &make)).await;
    let address = backend_address(2);
    let config = format!(
        "daemon off; master_process off; pid {dir}/nginx.pid; error_log {dir}/error.log;\n\
         events {{}}\nhttp {{\n access_log off;\n client_body_temp_path {dir}/body;\n\
         proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;\n\
         uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;\n\
         server {{ listen {address}:8443 ssl http2; ssl_certificate {certificate};\n\
         ssl_certificate_key {key}; location / {{ return {status} \"ready\"; }} }}\n}}\n"
    );
    let (file, log) = (format!("{dir}/nginx.conf"), format!("{dir}/error.log"));
    fs::write(&file, config).expect("a file");
    serve(host, command("nginx", &["-c", &file, "-e", &log])).await
}
