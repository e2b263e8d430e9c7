//! HAProxy before the pair and behind it, which tell each other the client; and real clients that
//! are led to pools by what they say first.

use std::fs;
use std::time::Duration;

use tandem::lab::{Lab, LabError, VIP4, backend_address, default_config};
use tandem::status::{ServiceStatus, Status};
use tokio::process::Child;

use super::tools::{ask, command, output, printed, serve, shows, until, vip, with};
use super::{Test, test};

type Needed = &'static [&'static str];

const SOON: Duration = Duration::from_secs(10);

pub(crate) fn tests() -> Vec<(Test, Needed)> {
    vec![
        (
            test("haproxy_and_the_pair_tell_each_other_the_client", chain),
            &["haproxy", "curl", "openssl"],
        ),
        (
            test("names_of_real_clients_lead_to_pools", pools),
            &["haproxy", "curl", "openssl"],
        ),
    ]
}

/// What a backend answers: who the client is by the header, and what else that said.
const SAID: &str =
    "%[src]:%[src_port] %[dst]:%[dst_port] [%[fc_pp_authority]] [%[fc_pp_unique_id]]";

const DEFAULTS: &str =
    "defaults\n mode http\n timeout connect 5s\n timeout client 10s\n timeout server 10s\n";

/// A certificate with its key, for this name.
pub(crate) async fn certificate(lab: &Lab, name: &str) -> String {
    let path = |end: &str| {
        lab.dir()
            .join(format!("{name}.{end}"))
            .display()
            .to_string()
    };
    let (key, certificate, both) = (path("key"), path("crt"), path("pem"));
    let subject = format!("/CN={name}");
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
        &subject,
        "-keyout",
        &key,
        "-out",
        &certificate,
    ];
    printed(&lab.network().client, command("openssl", &make)).await;
    let text = [key, certificate].map(|file| fs::read_to_string(file).unwrap());
    fs::write(&both, text.concat()).unwrap();
    both
}

/// HAProxy with this configuration on the n-th backend, or on the client.
async fn haproxy(lab: &Lab, name: &str, on: Option<usize>, text: &str) -> Child {
    let file = lab.dir().join(format!("haproxy-{name}.cfg"));
    fs::write(&file, format!("{DEFAULTS}{text}")).unwrap();
    let file = file.display().to_string();
    let host = match on {
        Some(n) => &lab.network().backends[n],
        None => &lab.network().client,
    };
    let check = command("haproxy", &["-c", "-f", &file]);
    printed(host, check).await;
    serve(host, command("haproxy", &["-db", "-f", &file])).await
}

/// A service on this port, with these keys, on the n-th backend's same port.
fn service(name: &str, port: u16, n: usize, keys: &str) -> String {
    format!(
        "\n[[service]]\nname = \"{name}\"\nlisten = [\"{VIP4}:{port}\"]\n{keys}\n\
         [service.health]\nkind = \"tcp\"\ninterval = \"250ms\"\ntimeout = \"200ms\"\n\
         [[service.backend]]\nname = \"{name}1\"\naddress = \"{}:{port}\"\n",
        backend_address(n)
    )
}

fn of<'s>(status: &'s Status, name: &str) -> &'s ServiceStatus {
    let found = status.services.iter().find(|service| service.name == name);
    found.expect("the service is there")
}

/// Gets a page, and the client's own end of the connection behind it.
async fn get(lab: &Lab, arguments: &[&str]) -> String {
    let all = [
        &["-sS", "-k", "-m", "5", "-w", "|%{local_ip}:%{local_port}"][..],
        arguments,
    ]
    .concat();
    printed(&lab.network().client, command("curl", &all)).await
}

/// The page once it is to be had: a backend has to be up first.
async fn page(lab: &Lab, arguments: &[&str]) -> (String, String) {
    until("a page", SOON, async || {
        let all = [&["-sS", "-k", "-m", "5"][..], arguments].concat();
        let done = output(&lab.network().client, command("curl", &all)).await;
        done.status.success().then_some(())
    })
    .await;
    let got = get(lab, arguments).await;
    let (page, end) = got.rsplit_once('|').expect(&got);
    (page.to_owned(), end.to_owned())
}

async fn chain() -> Result<(), LabError> {
    let send = |version: &str| format!("send_proxy = \"{version}\"");
    let all = "send_proxy = \"v2\"\nsend_proxy_tlvs = [\"authority\", \"unique_id\", \"crc32c\"]";
    let accept = "accept_proxy = \"192.0.2.0/24\"\naccept_proxy_timeout = \"1s\"";
    let mut config = default_config();
    config += &service("one", 9001, 0, &send("v1"));
    config += &service("two", 9002, 0, &send("v2"));
    config += &service("tls", 9003, 0, all);
    config += &service("relayed", 9004, 0, &format!("{accept}\n{all}"));
    let mut lab = Lab::build(&with(config)).await?;
    let pem = certificate(&lab, "shop.example").await;
    let answer =
        format!("http-request return status 200 content-type text/plain lf-string \"{SAID}\"");
    let back = backend_address(0);
    let text = format!(
        "frontend plain\n bind {back}:9001-9002 accept-proxy\n bind {back}:9004 accept-proxy\n {answer}\n\
         frontend tls\n bind {back}:9003 accept-proxy ssl crt {pem}\n {answer}\n"
    );
    let _receiver = haproxy(&lab, "receiver", Some(0), &text).await;
    let target = vip(9004);
    let text = format!(
        "listen v1\n mode tcp\n bind 127.0.0.1:7001\n server s {target} send-proxy\n\
         listen v2\n mode tcp\n bind 127.0.0.1:7002\n unique-id-format from-the-front\n \
         server s {target} send-proxy-v2 proxy-v2-options unique-id,crc32c\n"
    );
    let _sender = haproxy(&lab, "sender", None, &text).await;
    lab.start().await?;
    let master = lab.settled().await?;

    for port in [9001, 9002] {
        let at = vip(port);
        let (said, end) = page(&lab, &[&format!("http://{at}/")]).await;
        assert_eq!(said, format!("{end} {at} [] []"));
    }
    let at = vip(9003);
    let resolve = format!("shop.example:9003:{VIP4}");
    let ask_tls = ["--resolve", &resolve, "https://shop.example:9003/"];
    let (said, end) = page(&lab, &ask_tls).await;
    let expected = format!("{end} {at} [shop.example] [");
    assert!(said.starts_with(&expected), "{said}");
    let id = said[expected.len()..].trim_end_matches(']');
    assert_eq!(id.len(), 32, "{said}");

    // Through HAProxy the client is the one that HAProxy names.
    let (said, end) = page(&lab, &["http://127.0.0.1:7001/"]).await;
    assert!(
        said.starts_with(&format!("{end} 127.0.0.1:7001 [] [")),
        "{said}"
    );
    let (said, end) = page(&lab, &["http://127.0.0.1:7002/"]).await;
    assert_eq!(said, format!("{end} 127.0.0.1:7002 [] [from-the-front]"));

    // Without a header it is refused, and counted.
    let url = format!("http://{target}/");
    let done = output(
        &lab.network().client,
        command("curl", &["-sS", "-m", "5", &url]),
    )
    .await;
    assert_eq!(done.status.code(), Some(56), "reset: {done:?}");
    let told = |status: &Status| of(status, "relayed").bad_headers == 1;
    shows(&mut lab, master, "one was refused", SOON, told).await;
    let said = ask(&mut lab, master, &["status"]).await;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(
        said.contains("1 refused without a good PROXY header"),
        "{said}"
    );
    Ok(())
}

async fn pools() -> Result<(), LabError> {
    let mut config = default_config() + &service("shop", 9443, 0, "");
    for (name, n) in [("api", 1), ("two", 2)] {
        config += &format!(
            "[[service.pool]]\nname = \"{name}\"\n[[service.pool.backend]]\nname = \"{name}1\"\n\
             address = \"{}:9443\"\n",
            backend_address(n)
        );
    }
    config += "[[service.rule]]\nsni = [\"api.example\", \"*.api.example\"]\npool = \"api\"\n\
               [[service.rule]]\nhost = \"api.example\"\npool = \"api\"\n\
               [[service.rule]]\nalpn = \"h2\"\npool = \"two\"\n";
    let mut lab = Lab::build(&with(config)).await?;
    let mut servers = Vec::new();
    for (n, name) in ["default", "api", "two"].into_iter().enumerate() {
        let pem = certificate(&lab, name).await;
        let at = backend_address(n);
        // HTTP in the clear comes to the same port.
        let text = format!(
            "listen split\n mode tcp\n bind {at}:9443\n tcp-request inspect-delay 5s\n \
             tcp-request content accept if {{ req.ssl_hello_type 1 }} or HTTP\n \
             use_backend tls if {{ req.ssl_hello_type 1 }}\n default_backend plain\n\
             backend tls\n mode tcp\n server s abns@{name}-tls\n\
             backend plain\n mode tcp\n server s abns@{name}-plain\n\
             frontend tls-in\n bind abns@{name}-tls ssl crt {pem} alpn h2,http/1.1\n \
             http-request return status 200 content-type text/plain string {name}\n\
             frontend plain-in\n bind abns@{name}-plain\n \
             http-request return status 200 content-type text/plain string {name}\n"
        );
        servers.push(haproxy(&lab, name, Some(n), &text).await);
    }
    lab.start().await?;
    let master = lab.settled().await?;
    let up = |status: &Status| of(status, "shop").backends.iter().all(|backend| backend.up);
    shows(&mut lab, master, "all are up", SOON, up).await;

    let rows = [
        ("https", "api.example", "--http1.1", "api"),
        ("https", "a.b.api.example", "--http2", "api"),
        ("https", "www.example", "--http1.1", "default"),
        ("https", "www.example", "--http2", "two"),
        ("http", "api.example", "--http1.1", "api"),
        ("http", "www.example", "--http1.1", "default"),
    ];
    for (scheme, host, version, expected) in rows {
        let resolve = format!("{host}:9443:{VIP4}");
        let url = format!("{scheme}://{host}:9443/");
        let (said, _) = page(&lab, &[version, "--resolve", &resolve, &url]).await;
        assert_eq!(said, expected, "{scheme} {host} {version}");
    }
    let connect = vip(9443).to_string();
    for (name, expected) in [("api.example", "api"), ("other.example", "default")] {
        for version in ["-tls1_2", "-tls1_3"] {
            let client = [
                "s_client",
                "-connect",
                &connect,
                "-servername",
                name,
                version,
            ];
            let done = output(&lab.network().client, command("openssl", &client)).await;
            let said = String::from_utf8_lossy(&done.stdout).into_owned();
            let named = [format!("CN = {expected}"), format!("CN={expected}")];
            assert!(named.iter().any(|name| said.contains(name)), "{said}");
        }
    }

    // A pool's backend is drained by its name, and nobody takes its place.
    let said = ask(&mut lab, master, &["drain", "shop/api1"]).await;
    assert!(said.status.success(), "{said:?}");
    let resolve = format!("api.example:9443:{VIP4}");
    let client = [
        "-sSk",
        "-m",
        "5",
        "--resolve",
        &resolve,
        "https://api.example:9443/",
    ];
    until("it is drained", SOON, async || {
        let done = output(&lab.network().client, command("curl", &client)).await;
        (!done.status.success()).then_some(())
    })
    .await;
    let status = shows(&mut lab, master, "it is counted", SOON, |status| {
        of(status, "shop").failed > 0
    })
    .await;
    let pools: Vec<_> = (of(&status, "shop").backends.iter())
        .map(|backend| backend.pool.as_deref())
        .collect();
    assert_eq!(pools, [None, Some("api"), Some("two")]);
    Ok(())
}
