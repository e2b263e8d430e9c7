//! A real Prometheus beside a real pair: it takes the metrics, and its alerts fire in the faults that
//! they are for. promtool on the rules and on the dashboard.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tandem::lab::{BACKENDS, Host, Lab, LabError, Network, default_config, node_addresses};
use tandem::model::NodeId;
use tokio::process::Child;
use tokio::time::sleep;

use super::http::talk;
use super::tools::{command, restart, serve, until, with};
use super::{Test, test};

/// Where alerts are fired by faults.
const FIRED: [&str; 3] = [
    include_str!("alerts.rs"),
    include_str!("metrics.rs"),
    include_str!("strains.rs"),
];
/// A suspended host: a network namespace has no power switch of its own.
const NOT_FIRED: [&str; 1] = ["TandemPaused"];
/// For what Prometheus sees with its next scrapes.
const SOON: Duration = Duration::from_secs(60);
/// In which an alert would fire that should not.
const QUIET: Duration = Duration::from_secs(5);
/// Where the nodes serve their metrics.
const PORT: u16 = 9700;
pub(crate) const LISTEN: &str = "\n[metrics]\nlisten = \"0.0.0.0:9700\"\n";

type Needed = &'static [&'static str];

pub(crate) fn tests() -> Vec<(Test, Needed)> {
    vec![
        (
            test("metrics_alerts_and_dashboard_are_good", || async {
                good_files();
                Ok(())
            }),
            &["promtool"],
        ),
        (
            test("metrics_prometheus_scrapes_and_alerts_fire", scraped),
            &["prometheus"],
        ),
    ]
}

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")
}

fn promtool(arguments: &[&str]) {
    let done = std::process::Command::new("promtool")
        .args(arguments)
        .current_dir(docs())
        .output()
        .expect("promtool runs");
    assert!(done.status.success(), "{arguments:?}: {done:?}");
}

/// Every `expr` in the dashboard.
fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            let expr = fields.get("expr").and_then(Value::as_str);
            found.extend(expr.map(str::to_owned));
            fields.values().for_each(|it| expressions(it, found));
        }
        Value::Array(values) => values.iter().for_each(|it| expressions(it, found)),
        _ => {}
    }
}

fn good_files() {
    promtool(&["check", "rules", "tandem-alerts.yml"]);
    promtool(&["test", "rules", "tandem-alerts-test.yml"]);
    let rules = fs::read_to_string(docs().join("tandem-alerts.yml")).expect("it is there");
    let tests = fs::read_to_string(docs().join("tandem-alerts-test.yml")).expect("it is there");
    for alert in rules.lines().filter_map(|it| it.split_once("- alert: ")) {
        let tested = format!("alertname: {}\n", alert.1);
        assert!(tests.contains(&tested), "{} has no test", alert.1);
        let name = format!("\"{}\"", alert.1);
        let fired = FIRED.iter().any(|test| test.contains(&name));
        let excused = NOT_FIRED.contains(&alert.1);
        assert!(fired || excused, "no fault fires {}", alert.1);
    }
    // As rules, the dashboard's expressions can be checked too.
    let text = fs::read_to_string(docs().join("tandem-dashboard.json")).expect("it is there");
    let board: Value = serde_json::from_str(&text).expect("it is JSON");
    let mut found = Vec::new();
    expressions(&board, &mut found);
    assert!(found.len() > 20, "{found:?}");
    let rules = found.iter().enumerate().map(|(n, expr)| {
        let expr = expr.replace("$job", "tandem").replace("$service", ".*");
        serde_json::json!({ "record": format!("x{n}"), "expr": expr })
    });
    let rules: Vec<Value> = rules.collect();
    let groups = serde_json::json!({ "groups": [{ "name": "x", "rules": rules }] });
    let dir = tempfile::tempdir().expect("a directory can be made");
    let file = dir.path().join("board.yml");
    // JSON is YAML.
    fs::write(&file, groups.to_string()).expect("a file is written");
    promtool(&["check", "rules", &file.display().to_string()]);
}

/// A Prometheus on one of the hosts.
pub(crate) struct Watcher {
    _process: Child,
    host: At,
}

type At = fn(&Network) -> &Host;

impl Watcher {
    /// Asks the nodes on their n-th addresses.
    pub(crate) async fn start(lab: &Lab, host: At, path: usize) -> Self {
        let rules = fs::read_to_string(docs().join("tandem-alerts.yml")).expect("it is there");
        // At once: how long each waits is no matter of this test.
        let lines = rules.lines().map(|line| match line.trim_start() {
            it if it.starts_with("for: ") => "        for: 0s\n".to_owned(),
            _ => format!("{line}\n"),
        });
        let dir = lab.dir();
        fs::write(dir.join("rules.yml"), lines.collect::<String>()).expect("a file is written");
        let targets = NodeId::BOTH.map(|id| format!("\"{}:{PORT}\"", node_addresses(id)[path]));
        let config = format!(
            "global: {{ scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms }}\n\
             rule_files: [rules.yml]\n\
             scrape_configs:\n  - job_name: tandem\n    static_configs: [{{ targets: [{}] }}]\n",
            targets.join(", ")
        );
        let file = dir.join("prometheus.yml");
        fs::write(&file, config).expect("a file is written");
        let arguments = [
            format!("--config.file={}", file.display()),
            format!("--storage.tsdb.path={}", dir.join("tsdb").display()),
            "--web.listen-address=127.0.0.1:9090".to_owned(),
            "--log.level=warn".to_owned(),
        ];
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let program = command("prometheus", &arguments);
        Self {
            _process: serve(host(lab.network()), program).await,
            host,
        }
    }

    async fn api(&self, lab: &Lab, path: &str) -> Option<Value> {
        let request = format!("GET /api/v1/{path} HTTP/1.0\r\n\r\n").into_bytes();
        let address = "127.0.0.1:9090".parse().expect("an address");
        let host = (self.host)(lab.network());
        let body = talk(host, address, request, false).await.ok()?;
        serde_json::from_slice(&body).ok()
    }

    /// The value of an expression with one series.
    async fn value(&self, lab: &Lab, expression: &str) -> Option<f64> {
        let encoded: String = expression.bytes().map(|b| format!("%{b:02x}")).collect();
        let answer = self.api(lab, &format!("query?query={encoded}")).await?;
        answer["data"]["result"][0]["value"][1]
            .as_str()?
            .parse()
            .ok()
    }

    async fn firing(&self, lab: &Lab) -> BTreeSet<String> {
        let answer = self.api(lab, "alerts").await.unwrap_or_default();
        let alerts = answer["data"]["alerts"].as_array().cloned();
        let alerts = alerts.unwrap_or_default().into_iter();
        let firing = alerts.filter(|alert| alert["state"] == "firing");
        let name = |alert: Value| alert["labels"]["alertname"].as_str().map(str::to_owned);
        firing.filter_map(name).collect()
    }

    /// Each of these fires, sooner or later.
    pub(crate) async fn fire(&self, lab: &Lab, fault: &str, alerts: &[&str]) {
        let mut missing: BTreeSet<String> = alerts.iter().map(|it| (*it).to_owned()).collect();
        until(&format!("{fault}: {alerts:?}"), SOON, async || {
            for alert in self.firing(lab).await {
                missing.remove(&alert);
            }
            missing.is_empty().then_some(())
        })
        .await;
    }

    /// None fires any more, except those that look back.
    async fn calm(&self, lab: &Lab) {
        let looks_back = ["TandemFailedOver", "TandemFlapping", "TandemClientsRefused"];
        let looks_back = |it: &String| looks_back.contains(&it.as_str());
        until("no alert fires", SOON, async || {
            let firing = self.firing(lab).await;
            firing.iter().all(looks_back).then_some(())
        })
        .await;
    }

    pub(crate) async fn is(&self, lab: &Lab, expression: &str, right: impl Fn(f64) -> bool) {
        until(expression, SOON, async || {
            self.value(lab, expression)
                .await
                .filter(|value| right(*value))
        })
        .await;
    }
}

async fn scraped() -> Result<(), LabError> {
    let mut lab = Lab::up(&with(default_config() + LISTEN)).await?;
    let master = lab.settled().await?;
    let watcher = Watcher::start(&lab, |network| &network.client, 0).await;
    watcher.is(&lab, "sum(up)", |up| up == 2.0).await;
    let load = lab.load();
    sleep(QUIET).await;
    load.stop().await;
    let masters = "sum(tandem_role{role=\"master\"})";
    watcher.is(&lab, masters, |n| n == 1.0).await;
    for expression in [
        "sum(tandem_service_connections_total)",
        "sum(tandem_backend_bytes_total{direction=\"down\"})",
        "sum(tandem_backend_connect_seconds_count)",
        "sum(tandem_backend_ends_total{end=\"complete\"})",
        "sum(tandem_heartbeats_received_total)",
        "sum(tandem_session_bytes_total)",
        "sum(tandem_takeover_seconds_count)",
        "sum(tandem_turn_delay_seconds_count)",
    ] {
        watcher.is(&lab, expression, |value| value > 0.0).await;
    }
    watcher.calm(&lab).await;
    faults(&mut lab, master, &watcher).await
}

async fn faults(lab: &mut Lab, master: NodeId, watcher: &Watcher) -> Result<(), LabError> {
    for n in 0..BACKENDS {
        lab.stop_backend(n).await;
    }
    let load = lab.load();
    let alerts = [
        "TandemBackendDown",
        "TandemServiceDown",
        "TandemClientsRefused",
    ];
    watcher.fire(lab, "no backend", &alerts).await;
    load.stop().await;
    for n in 0..BACKENDS {
        lab.start_backend(n).await?;
    }
    lab.node(master.peer()).signal(Signal::SIGKILL)?;
    let alerts = [
        "TandemNodeDown",
        "TandemPeerLost",
        "TandemPathDown",
        "TandemNotInSync",
    ];
    watcher.fire(lab, "no backup", &alerts).await;
    lab.node(master).signal(Signal::SIGKILL)?;
    watcher.fire(lab, "no node", &["TandemPairDown"]).await;
    restart(lab, master).await?;
    restart(lab, master.peer()).await?;
    lab.settled().await?;
    watcher.calm(lab).await;
    Ok(())
}
