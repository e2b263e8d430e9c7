//! Scripts, agents and commands.

use std::time::Duration;

use super::testbed::{
    agent_says, answering, dripping, flooding, mute, resetting, saying, says, says_in, server,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const REDIS: &str = "kind = \"script\"\npreset = \"redis\"";
const SMTP: &str = "kind = \"script\"\npreset = \"smtp\"";
const SSH: &str = "kind = \"script\"\npreset = \"ssh\"";

#[tokio::test]
async fn presets_know_their_servers() {
    let redis = answering(b"+PONG\r\n").await;
    assert_eq!(says(REDIS, redis).await, "good");
    let loading = answering(b"-LOADING Redis is loading\r\n").await;
    let said = says(REDIS, loading).await;
    assert_eq!(
        said,
        r#"no "+PONG\r\n" but "-LOADING Redis is loading\r\n""#
    );
    let ssh = saying(b"SSH-2.0-OpenSSH_9.2p1\r\n").await;
    assert_eq!(says(SSH, ssh).await, "good");
    let smtp = server(|mut stream| async move {
        let _ = stream.write_all(b"220-mx\r\n220 mx ready\r\n").await;
        let mut line = [0; 6];
        if stream.read_exact(&mut line).await.is_ok() && &line == b"QUIT\r\n" {
            let _ = stream.write_all(b"221 bye\r\n").await;
        }
    })
    .await;
    assert_eq!(says(SMTP, smtp).await, "good");
    let full = answering(b"").await;
    assert_eq!(says(REDIS, full).await, r#"no "+PONG\r\n", then closed"#);
}

#[tokio::test]
async fn steps_are_done_in_order_and_bytes_may_be_binary() {
    let echo = server(|mut stream| async move {
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await;
    let steps = r#"kind = "script"
        step = [{ send = "abc" }, { expect = "ab" }, { expect_hex = "63" },
                { send_hex = "00 ff" }, { expect_regex = '\x00.$' }, { send = "x" }, { expect = "x" }]"#;
    assert_eq!(says(steps, echo).await, "good");
    let steps = "kind = \"script\"\nstep = [{ send = \"abc\" }, { expect = \"abd\" }]";
    assert_eq!(says(steps, echo).await, r#"no "abd" but "abc""#);
    let steps = "kind = \"script\"\nstep = [{ send = \"abc\" }, { expect_regex = \"x\" }]";
    let said = says_in(steps, echo, 200).await;
    assert_eq!(said, r#"no /x/ but "abc" in 200 ms"#);
}

#[tokio::test]
async fn sick_servers_cost_a_script_little() {
    let said = says_in(SSH, mute().await, 100).await;
    assert!(
        said.starts_with("no /") && said.ends_with(" in 100 ms"),
        "{said}"
    );
    let said = says(SSH, resetting().await).await;
    assert!(said.starts_with("reset while waiting for /"), "{said}");
    let said = says_in(SSH, dripping(b"a").await, 200).await;
    assert!(
        said.contains(r#"but "aaa"#) && said.ends_with(" in 200 ms"),
        "{said}"
    );
    let said = says(SSH, flooding(b"", b'a').await).await;
    assert!(said.ends_with("…\", and more than is read"), "{said}");
    let said = says(REDIS, flooding(b"", b'\x1b').await).await;
    assert!(said.contains(r"\x1b\x1b"), "escaped: {said}");
}

#[tokio::test]
async fn agents_speak_and_are_bounded() {
    let polite = server(|mut stream| async move {
        let mut asked = [0; 3];
        if stream.read_exact(&mut asked).await.is_ok() && &asked == b"b1\n" {
            let _ = stream.write_all(b"75% ready #busy\n").await;
            let _ = stream.read(&mut asked).await;
        }
    })
    .await;
    assert_eq!(agent_says(polite, 20_000).await, "agent 75% ready (busy)");
    assert_eq!(
        agent_says(answering(b"drain").await, 20_000).await,
        "agent drain"
    );
    assert_eq!(
        agent_says(answering(b"").await, 20_000).await,
        "the agent said nothing"
    );
    let said = agent_says(flooding(b"", b'a').await, 20_000).await;
    assert!(said.starts_with("the agent said \"aaaa"), "{said}");
    let said = agent_says(mute().await, 100).await;
    assert_eq!(said, "no answer of the agent in 100 ms");
}

#[tokio::test]
async fn commands_are_judged_by_their_exit_code() {
    let address = mute().await;
    let shell =
        |script: &str| format!("kind = \"command\"\nargv = [\"/bin/sh\", \"-c\", '{script}']");
    let env = r#"test "$TANDEM_SERVICE/$TANDEM_BACKEND" = checked/b1 -a -n "$TANDEM_PORT" -a "$TANDEM_ADDRESS" = 127.0.0.1 -a -z "$HOME""#;
    assert_eq!(says(&shell(env), address).await, "good");
    let said = says(&shell("echo no disk; echo more; exit 3"), address).await;
    assert_eq!(said, "exit code 3: \"no disk\"");
    assert_eq!(
        says(&shell("kill -9 $$"), address).await,
        "signal: 9 (SIGKILL)"
    );
    let said = says("kind = \"command\"\nargv = [\"/nonexistent\"]", address).await;
    assert!(
        said.starts_with("/nonexistent cannot be run: No such file"),
        "{said}"
    );
    let said = says(&shell("while :; do echo aaaaaaaaaaaaaaa; done"), address).await;
    assert_eq!(said, "/bin/sh wrote more than 16384 bytes");
    assert_eq!(
        says_in(&shell("sleep 60"), address, 200).await,
        "/bin/sh did not end in 200 ms"
    );
}

#[tokio::test]
async fn a_command_s_whole_group_ends_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pids");
    let left = format!("sleep 300 & echo $! >>{0}; exit 0", file.display());
    let late = format!("sleep 300 & echo $! >>{0}; sleep 300", file.display());
    let shell =
        |script: &str| format!("kind = \"command\"\nargv = [\"/bin/sh\", \"-c\", '{script}']");
    let address = mute().await;
    assert_eq!(says(&shell(&left), address).await, "good");
    assert_eq!(
        says_in(&shell(&late), address, 500).await,
        "/bin/sh did not end in 500 ms"
    );
    let pids = std::fs::read_to_string(&file).unwrap();
    assert_eq!(pids.lines().count(), 2);
    let gone = || {
        pids.lines().all(|pid| {
            // A zombie of somebody else's is gone, too.
            let status = std::fs::read_to_string(format!("/proc/{pid}/stat"));
            status.map_or(true, |status| status.contains(") Z "))
        })
    };
    for _ in 0..200 {
        if gone() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("still there: {pids}");
}
