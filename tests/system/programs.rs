//! Real programs through the VIP: curl, wrk, openssl, redis and ssh, as users run them.
//!
//! Each is ignored, with the reason, where its program is not installed.

use std::fs;
use std::path::Path;
use std::time::Duration;

use tandem::lab::{BACKENDS, Lab, LabError, backend_address, default_config};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::tools::{command, good, output, printed, serve, service, shows, vip, vip6, with};
use super::{Test, test};

type Needed = &'static [&'static str];

pub(crate) fn tests() -> Vec<(Test, Needed)> {
    vec![
        (
            test("curl_gets_pages_from_every_backend_in_both_families", curl),
            &["curl"],
        ),
        (
            test("wrk_sees_no_error_at_50_connections_for_3_s", wrk),
            &["wrk"],
        ),
        (
            test(
                "tls_is_passed_through_with_the_backend_s_own_certificate",
                tls,
            ),
            &["openssl"],
        ),
        (
            test("redis_keeps_1000_keys_and_a_pipeline_in_order", redis),
            &["redis-server", "redis-cli"],
        ),
        (
            test("ssh_runs_a_command_and_carries_its_input", ssh),
            &["sshd", "ssh", "ssh-keygen"],
        ),
    ]
}

async fn curl() -> Result<(), LabError> {
    let lab = Lab::up(&with(default_config())).await?;
    for vip in [vip(80), vip6(80)] {
        let mut answers = Vec::new();
        for _ in 0..2 * BACKENDS {
            let url = format!("http://{vip}/");
            let page = command("curl", &["-sS", "-g", "--fail", "-m", "5", &url]);
            answers.push(printed(&lab.network().client, page).await);
        }
        answers.sort();
        let expected = ["b1\n", "b1\n", "b2\n", "b2\n", "b3\n", "b3\n"];
        assert_eq!(answers, expected, "through {vip}");
    }
    Ok(())
}

async fn wrk() -> Result<(), LabError> {
    let lab = Lab::up(&with(default_config())).await?;
    let url = format!("http://{}/", vip(80));
    let load = command("wrk", &["-t2", "-c50", "-d3s", "--timeout", "3s", &url]);
    let text = printed(&lab.network().client, load).await;
    // It names errors only if there were any.
    assert!(!text.contains("Socket errors"), "{text}");
    assert!(!text.contains("Non-2xx"), "{text}");
    let (requests, _) = text.split_once(" requests in ").expect(&text);
    let requests: u64 = requests
        .rsplit([' ', '\n'])
        .next()
        .unwrap()
        .parse()
        .expect(&text);
    let served: Vec<u64> = (0..BACKENDS).map(|n| lab.backend(n).served()).collect();
    assert!(served.iter().all(|n| *n > 0), "{served:?}");
    assert!(
        served.iter().sum::<u64>() >= requests,
        "{served:?} of {requests}"
    );
    eprintln!("wrk: {requests} requests in 3 s, backends {served:?}");
    Ok(())
}

async fn tls() -> Result<(), LabError> {
    let backend = backend_address(1);
    let config = default_config() + &service("tls", 443, backend.into());
    let mut lab = Lab::build(&with(config)).await?;
    let dir = lab.dir().display().to_string();
    let (key, certificate) = (format!("{dir}/tls.key"), format!("{dir}/tls.pem"));
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
        "-addext",
        "subjectAltName=DNS:shop.example",
        "-keyout",
        &key,
        "-out",
        &certificate,
    ];
    printed(&lab.network().client, command("openssl", &make)).await;
    let accept = format!("{backend}:443");
    let server = [
        "s_server",
        "-accept",
        &accept,
        "-key",
        &key,
        "-cert",
        &certificate,
        "-www",
        "-quiet",
    ];
    let _server = serve(&lab.network().backends[1], command("openssl", &server)).await;
    lab.start().await?;
    lab.settled().await?;

    let connect = vip(443).to_string();
    let client = [
        "s_client",
        "-connect",
        &connect,
        "-servername",
        "shop.example",
        "-CAfile",
        &certificate,
        "-verify_return_error",
        "-verify_hostname",
        "shop.example",
        "-brief",
    ];
    let ended = output(&lab.network().client, command("openssl", &client)).await;
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(ended.status.success(), "{said}");
    assert!(said.contains("Verification: OK"), "{said}");
    assert!(
        said.contains("CN = shop.example") || said.contains("CN=shop.example"),
        "{said}"
    );
    // The verification can fail: another name is refused.
    let mut other = client;
    other[9] = "bank.example";
    let ended = output(&lab.network().client, command("openssl", &other)).await;
    assert!(!ended.status.success(), "a wrong name must not verify");
    Ok(())
}

async fn redis() -> Result<(), LabError> {
    const KEYS: usize = 1_000;
    let backend = backend_address(0);
    let config = default_config() + &service("redis", 6379, backend.into());
    let mut lab = Lab::build(&with(config)).await?;
    let (dir, address) = (lab.dir().display().to_string(), backend.to_string());
    let server = [
        "--bind",
        &address,
        "--port",
        "6379",
        "--save",
        "",
        "--appendonly",
        "no",
        "--dir",
        &dir,
        "--protected-mode",
        "no",
    ];
    let _server = serve(&lab.network().backends[0], command("redis-server", &server)).await;
    lab.start().await?;
    let master = lab.settled().await?;

    let talk = lab.network().client.run(async {
        let (mut read, mut write) = TcpStream::connect(vip(6379)).await?.into_split();
        let sets: String = (0..KEYS)
            .map(|n| format!("SET key{n} value{n}\r\n"))
            .collect();
        let gets: String = (0..KEYS).map(|n| format!("GET key{n}\r\n")).collect();
        let pings = "PING\r\n".repeat(KEYS);
        let mut answers = Vec::new();
        let (sent, got) = tokio::join!(
            async move {
                write
                    .write_all((sets + &gets + &pings + "QUIT\r\n").as_bytes())
                    .await?;
                // Kept open: the server ends the connection.
                Ok::<_, std::io::Error>(write)
            },
            read.read_to_end(&mut answers)
        );
        sent?;
        got?;
        Ok::<_, std::io::Error>(answers)
    });
    let answers = String::from_utf8(good("talk to redis", talk.await)).expect("text");
    let values = (0..KEYS).map(|n| {
        let value = format!("value{n}");
        format!("${}\r\n{value}\r\n", value.len())
    });
    let expected = "+OK\r\n".repeat(KEYS)
        + &values.collect::<String>()
        + &"+PONG\r\n".repeat(KEYS)
        + "+OK\r\n";
    assert!(
        answers == expected,
        "{} bytes of {}",
        answers.len(),
        expected.len()
    );

    let size = command("redis-cli", &["-h", &vip(6379).ip().to_string(), "dbsize"]);
    let size = printed(&lab.network().client, size).await;
    assert_eq!(size.trim(), KEYS.to_string());
    let told = |status: &tandem::status::Status| {
        let redis = status
            .services
            .iter()
            .find(|service| service.name == "redis");
        redis.is_some_and(|redis| (redis.connections, redis.total) == (0, 2))
    };
    shows(
        &mut lab,
        master,
        "both connections are over",
        Duration::from_secs(3),
        told,
    )
    .await;
    Ok(())
}

async fn ssh() -> Result<(), LabError> {
    let backend = backend_address(2);
    let config = default_config() + &service("ssh", 22, backend.into());
    let mut lab = Lab::build(&with(config)).await?;
    let dir = lab.dir().to_owned();
    let path = |name: &str| dir.join(name).display().to_string();
    for key in ["host", "user"] {
        let make = ["-q", "-t", "ed25519", "-N", "", "-f", &path(key)];
        printed(&lab.network().client, command("ssh-keygen", &make)).await;
    }
    write(
        &dir,
        "authorized",
        &fs::read_to_string(dir.join("user.pub")).unwrap(),
    );
    let public = fs::read_to_string(dir.join("host.pub")).unwrap();
    write(&dir, "known", &format!("{} {public}", vip(22).ip()));
    let settings = format!(
        "ListenAddress {backend}:22\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\n\
         UsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\nPidFile none\n",
        path("host"),
        path("authorized"),
    );
    write(&dir, "sshd_config", &settings);
    // It needs this directory to exist, and some systems make it only with the service.
    let _ = fs::create_dir_all("/run/sshd");
    let server = command("sshd", &["-D", "-e", "-f", &path("sshd_config")]);
    let _server = serve(&lab.network().backends[2], server).await;
    lab.start().await?;
    lab.settled().await?;

    let known = format!("UserKnownHostsFile={}", path("known"));
    let user = nix::unistd::User::from_uid(nix::unistd::getuid())
        .unwrap()
        .unwrap()
        .name;
    let target = format!("{user}@{}", vip(22).ip());
    let run = [
        "-F",
        "/dev/null",
        "-o",
        &known,
        "-o",
        "StrictHostKeyChecking=yes",
        "-o",
        "BatchMode=yes",
        "-o",
        "ConnectTimeout=5",
        "-i",
        &path("user"),
        &target,
        "echo $SSH_CONNECTION; wc -c",
    ];
    write(&dir, "input", &"x".repeat(1_000_000));
    let mut client = command("ssh", &run);
    client.stdin(fs::File::open(dir.join("input")).unwrap());
    let said = printed(&lab.network().client, client).await;
    let mut lines = said.lines();
    let ends = lines.next().expect("it says which connection it runs on");
    assert!(ends.ends_with(&format!("{backend} 22")), "{said}");
    assert_eq!(lines.next().map(str::trim), Some("1000000"), "{said}");
    Ok(())
}

/// A file that only its owner can read.
fn write(dir: &Path, name: &str, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    let file = dir.join(name);
    fs::write(&file, text).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
}
