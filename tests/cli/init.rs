//! `tandem init`: what it writes, what it says, what it refuses. And what is made from the tree of
//! commands.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::{Ended, folder, tandem, text};

const PAIR: [&str; 4] = [
    "--node=lb1=192.0.2.11,203.0.113.11",
    "--node=lb2=192.0.2.12,203.0.113.12",
    "--vip=192.0.2.100/24@eth0",
    "--backend=198.51.100.21:8080",
];

fn init(dir: &Path, more: &[&str]) -> Ended {
    let config = format!("--config={}", text(&dir.join("tandem.toml")));
    let key = format!("--key={}", text(&dir.join("cluster.key")));
    let mut args = vec!["init", &config, &key];
    args.extend(more);
    tandem(&args)
}

fn mode(file: &Path) -> u32 {
    std::fs::metadata(file).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_new_pair_is_good_and_private() {
    let dir = folder();
    let ended = init(dir.path(), &PAIR);
    assert_eq!(ended.code, 0, "{}", ended.err);
    let (config, key) = (
        dir.path().join("tandem.toml"),
        dir.path().join("cluster.key"),
    );
    let expected = format!(
        "wrote {0} and the new key {1}\n\n\
         Copy both to the other node, over a channel that you trust:\n",
        text(&config),
        text(&key)
    );
    assert!(ended.out.starts_with(&expected), "{}", ended.out);
    for line in [
        format!("  scp -p {0} root@192.0.2.12:{0}", text(&config)),
        format!("  scp -p {0} root@192.0.2.12:{0}", text(&key)),
        format!("  tandem check {}", text(&config)),
        "  systemctl enable --now tandem".to_owned(),
    ] {
        assert!(
            ended.out.lines().any(|said| said == line),
            "{line}\n{}",
            ended.out
        );
    }
    assert_eq!((mode(&config), mode(&key)), (0o640, 0o600));
    let checked = tandem(&["check", text(&config)]);
    assert_eq!(checked.code, 0, "{}", checked.err);
    assert!(checked.out.contains(
        "pair pair of lb1 and lb2; vips: 1, services: 1, backends: 1, heartbeat paths: 2"
    ));
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        2,
        "no draft is left"
    );
}

#[test]
fn nothing_is_overwritten_unasked_and_a_key_never() {
    let dir = folder();
    let (config, key) = (
        dir.path().join("tandem.toml"),
        dir.path().join("cluster.key"),
    );
    // As the packages bring it.
    std::fs::write(&config, "# nothing\n\n  # but words\n").unwrap();
    assert_eq!(init(dir.path(), &PAIR).code, 0);
    let before = (
        std::fs::read(&config).unwrap(),
        std::fs::read(&key).unwrap(),
    );
    let mut other = PAIR;
    other[3] = "--backend=198.51.100.22:8080";
    let ended = init(dir.path(), &other);
    assert_eq!((ended.code, ended.out.as_str()), (1, ""));
    assert!(ended.err.contains("--force"), "{}", ended.err);
    assert_eq!(std::fs::read(&config).unwrap(), before.0);
    let ended = init(dir.path(), &[&other[..], &["--force"]].concat());
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert!(ended.out.contains("kept the key"), "{}", ended.out);
    assert_ne!(std::fs::read(&config).unwrap(), before.0);
    assert_eq!(std::fs::read(&key).unwrap(), before.1);
}

#[test]
fn what_would_not_be_good_is_not_written() {
    let dir = folder();
    let mut bad = PAIR;
    bad[2] = "--vip=192.0.2.11/24@eth0";
    let ended = init(dir.path(), &bad);
    assert_eq!((ended.code, ended.out.as_str()), (64, ""));
    assert!(ended.err.contains("tandem.toml:"), "{}", ended.err);
    // Not on a terminal nobody is asked.
    let ended = init(dir.path(), &PAIR[..2]);
    assert_eq!(ended.code, 64);
    assert!(
        ended.err.contains("missing: --vip, --backend"),
        "{}",
        ended.err
    );
    let ended = init(
        dir.path(),
        &[&PAIR[..], &["--node=lb3=192.0.2.13"]].concat(),
    );
    assert_eq!(ended.code, 64);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn completions_and_pages_are_made() {
    for shell in ["bash", "fish", "zsh"] {
        let ended = tandem(&["completions", shell]);
        assert_eq!(ended.code, 0, "{}", ended.err);
        assert!(ended.out.contains("failover"), "{shell}");
    }
    let dir = folder();
    let ended = tandem(&["man", text(dir.path())]);
    assert_eq!(ended.code, 0, "{}", ended.err);
    for page in ["tandem.8", "tandem-init.8", "tandem-failover.8"] {
        let page = std::fs::read_to_string(dir.path().join(page)).expect(page);
        assert!(page.contains(".TH"), "{page}");
    }
    let ended = tandem(&["man", text(&dir.path().join("none"))]);
    assert_eq!(ended.code, 64);
}

#[test]
fn a_doctor_without_a_configuration_says_so() {
    let dir = folder();
    let config = dir.path().join("tandem.toml");
    let socket = dir.path().join("control.sock");
    let args = [
        "doctor",
        "--json",
        "--config",
        text(&config),
        "--control",
        text(&socket),
    ];
    let ended = tandem(&args);
    assert_eq!(ended.code, 2, "{}", ended.err);
    let report: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(report["severity"], "error");
    let first = &report["findings"][0];
    assert_eq!(first["check"], "configuration");
    assert!(first["remedy"].as_str().unwrap().contains("tandem init"));
}

#[test]
fn the_file_of_the_packages_is_good_once_its_comments_are_taken_away() {
    let template = include_str!("../../systemd/tandem.toml");
    assert!(
        template
            .lines()
            .all(|line| line.is_empty() || line.starts_with('#'))
    );
    let dir = folder();
    let (config, key) = (
        dir.path().join("tandem.toml"),
        dir.path().join("cluster.key"),
    );
    assert_eq!(tandem(&["keygen", text(&key)]).code, 0);
    let taken = |line: &str| match line.strip_prefix('#') {
        Some(rest) if !rest.starts_with(' ') => rest.to_owned(),
        _ => line.to_owned(),
    };
    let lines: Vec<String> = template.lines().map(taken).collect();
    let good = lines
        .join("\n")
        .replace("/etc/tandem/cluster.key", text(&key));
    std::fs::write(&config, good).unwrap();
    let ended = tandem(&["check", text(&config)]);
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert!(
        ended
            .out
            .contains("services: 1, backends: 2, heartbeat paths: 2")
    );
}
