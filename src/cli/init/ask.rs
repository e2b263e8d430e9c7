//! Questions on a terminal, for what was not given by flags.

use std::io::{self, BufRead, Write};
use std::str::FromStr;

use super::plan::Plan;
use crate::cli::setup_args::Init;

/// Whom is asked.
pub(super) struct Terminal<R, W> {
    pub(super) from: R,
    pub(super) to: W,
}

impl<R: BufRead, W: Write> Terminal<R, W> {
    /// Asks until the answer can be used. An empty one means `default`.
    fn ask<T>(
        &mut self,
        question: &str,
        default: Option<&str>,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> io::Result<T> {
        loop {
            match default {
                Some(default) => write!(self.to, "{question} [{default}]: ")?,
                None => write!(self.to, "{question}: ")?,
            }
            self.to.flush()?;
            let mut line = String::new();
            if self.from.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let answer = match (line.trim(), default) {
                ("", Some(default)) => default,
                (answer, _) => answer,
            };
            match read(answer) {
                Ok(value) => return Ok(value),
                Err(why) => writeln!(self.to, "  {why}")?,
            }
        }
    }

    fn one<T: FromStr<Err = &'static str>>(
        &mut self,
        question: &str,
        default: Option<&str>,
        before: &str,
    ) -> io::Result<T> {
        let read = |text: &str| format!("{before}{text}").parse().map_err(str::to_owned);
        self.ask(question, default, read)
    }

    /// Words with spaces between them, at least one.
    fn some<T: FromStr<Err = &'static str>>(&mut self, question: &str) -> io::Result<Vec<T>> {
        self.ask(question, None, |text| {
            let words: Result<Vec<T>, _> = text.split_whitespace().map(str::parse).collect();
            match words {
                Ok(words) if words.is_empty() => Err("at least one is needed".into()),
                words => words.map_err(str::to_owned),
            }
        })
    }

    /// Completes what the flags left out. `host` is this host's name.
    pub(super) fn complete(&mut self, args: &Init, host: &str) -> io::Result<Plan> {
        let mut nodes = args.nodes.clone();
        while nodes.len() < 2 {
            let (which, default) = match nodes.len() {
                0 => ("preferred node", (!host.is_empty()).then_some(host)),
                _ => ("other node", None),
            };
            let name = self.ask(
                &format!("Host name of the {which}"),
                default,
                |name| match name.is_empty() {
                    true => Err("a name is needed".to_owned()),
                    false => Ok(name.to_owned()),
                },
            )?;
            let question =
                format!("Addresses of {name}, one for each link to the other, with commas");
            nodes.push(self.one(&question, None, &format!("{name}="))?);
        }
        let mut vips = args.vips.clone();
        if vips.is_empty() {
            vips = self.some("Floating addresses, as in 192.0.2.100/24@eth0")?;
        }
        let mut ports = args.ports.clone();
        if ports.is_empty() {
            ports = self.ask("Ports of the service", Some("80"), |text| {
                let ports: Option<Vec<u16>> = text
                    .split_whitespace()
                    .map(|word| word.parse().ok().filter(|port| *port > 0))
                    .collect();
                let ports = ports.filter(|ports| !ports.is_empty());
                ports.ok_or_else(|| "write numbers from 1 to 65535".to_owned())
            })?;
        }
        let mut backends = args.backends.clone();
        if backends.is_empty() {
            backends = self.some("Servers behind it, as in 198.51.100.21:8080")?;
        }
        let kernel = match &args.mode {
            Some(mode) => mode == "kernel",
            None => self.ask("Mode, proxy or kernel", Some("proxy"), |text| match text {
                "proxy" => Ok(false),
                "kernel" => Ok(true),
                _ => Err("write proxy or kernel".to_owned()),
            })?,
        };
        Ok(plan(args, nodes, vips, ports, backends, kernel))
    }
}

/// What the flags say, if they say enough; else which are missing.
pub(super) fn given(args: &Init) -> Result<Plan, Vec<&'static str>> {
    let mut missing = Vec::new();
    if args.nodes.len() < 2 {
        missing.push("--node, twice");
    }
    if args.vips.is_empty() {
        missing.push("--vip");
    }
    if args.backends.is_empty() {
        missing.push("--backend");
    }
    if !missing.is_empty() {
        return Err(missing);
    }
    let ports = match args.ports.as_slice() {
        [] => vec![80],
        ports => ports.to_vec(),
    };
    let kernel = args.mode.as_deref() == Some("kernel");
    let (nodes, vips, backends) = (args.nodes.clone(), args.vips.clone(), args.backends.clone());
    Ok(plan(args, nodes, vips, ports, backends, kernel))
}

fn plan(
    args: &Init,
    nodes: Vec<crate::cli::setup_args::NodeArg>,
    vips: Vec<crate::cli::setup_args::VipArg>,
    ports: Vec<u16>,
    backends: Vec<crate::cli::setup_args::BackendArg>,
    kernel: bool,
) -> Plan {
    let nodes = nodes.try_into();
    Plan {
        cluster: args.cluster.clone(),
        key: args.key.clone(),
        nodes: nodes.expect("two: more were refused, fewer were asked for"),
        vips,
        service: args.service.clone(),
        ports,
        kernel,
        source: args.source.clone(),
        backends,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn args(flags: &[&str]) -> Init {
        let all = ["tandem", "init"].iter().chain(flags);
        match Cli::try_parse_from(all).unwrap().command {
            Command::Init(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let missing = given(&args(&["--vip", "192.0.2.100/24@eth0"])).unwrap_err();
        assert_eq!(missing, ["--node, twice", "--backend"]);
    }

    #[test]
    fn answers_are_asked_for_until_they_fit_and_flags_are_not() {
        let answers = "\n192.0.2.11\nlb2\nnowhere\n192.0.2.12\n\n192.0.2.100/24@eth0\n0\n80 443\n\
                       198.51.100.21:80 b9=198.51.100.22:80\n";
        let mut terminal = Terminal {
            from: answers.as_bytes(),
            to: Vec::new(),
        };
        let plan = terminal
            .complete(&args(&["--mode", "kernel"]), "lb1")
            .unwrap();
        assert_eq!(plan.nodes[0].name, "lb1", "the host's own name by default");
        assert_eq!(plan.nodes[1].addresses[0].to_string(), "192.0.2.12");
        assert_eq!(
            (plan.vips.len(), plan.ports.as_slice()),
            (1, &[80, 443][..])
        );
        assert_eq!(plan.backends.len(), 2);
        assert!(plan.kernel);
        let said = String::from_utf8(terminal.to).unwrap();
        for word in ["[lb1]", "at least one is needed", "1 to 65535"] {
            assert!(said.contains(word), "{word}: {said}");
        }
        assert!(!said.contains("Mode"), "{said}");
    }

    #[test]
    fn who_hangs_up_gets_no_file() {
        let mut terminal = Terminal {
            from: &b"lb1\n"[..],
            to: Vec::new(),
        };
        let error = terminal.complete(&args(&[]), "").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
