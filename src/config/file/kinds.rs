//! `[service.health]`: the keys that only some kinds of checks have.

use super::health::bare;
use crate::config::read::Section;
use crate::config::report::{Field, List, Located, Reported};
use crate::config::units::{Fault, boolean, number, path, word};
use crate::config::values::{
    authority, field, field_expected, grpc_service, hex, host_name, http_path, pattern, protocol,
    statuses, text,
};
use crate::config::{Command, Expected, Grpc, HealthKind, Http, Script, Step, Tls, presets};

/// Most bytes that a check reads.
const MAX_READ: u32 = 1 << 20;
/// Most steps of a dialogue.
const MAX_STEPS: usize = 32;
/// Most words of a command.
const MAX_ARGV: usize = 64;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Command,
    Grpc,
    Http,
    Script,
    Tcp,
    Tls,
}

const KINDS: &[(&str, Kind)] = &[
    ("tcp", Kind::Tcp),
    ("tls", Kind::Tls),
    ("http", Kind::Http),
    ("grpc", Kind::Grpc),
    ("script", Kind::Script),
    ("command", Kind::Command),
];

/// Which kinds have a key.
const KEYS: &[(&str, &[Kind])] = &[
    ("tls", &[Kind::Http, Kind::Grpc]),
    ("sni", &[Kind::Tls, Kind::Http, Kind::Grpc]),
    ("verify", &[Kind::Tls, Kind::Http, Kind::Grpc]),
    ("ca_file", &[Kind::Tls, Kind::Http, Kind::Grpc]),
    ("min_days", &[Kind::Tls, Kind::Http, Kind::Grpc]),
    ("alpn", &[Kind::Tls]),
    ("version", &[Kind::Http]),
    ("method", &[Kind::Http]),
    ("path", &[Kind::Http]),
    ("host", &[Kind::Http, Kind::Grpc]),
    ("request_headers", &[Kind::Http]),
    ("status", &[Kind::Http]),
    ("header", &[Kind::Http]),
    ("body", &[Kind::Http]),
    ("body_regex", &[Kind::Http]),
    ("body_limit", &[Kind::Http]),
    ("service", &[Kind::Grpc]),
    ("preset", &[Kind::Script]),
    ("user", &[Kind::Script]),
    ("step", &[Kind::Script]),
    ("read_limit", &[Kind::Script]),
    ("argv", &[Kind::Command]),
    ("output_limit", &[Kind::Command]),
];

/// Keys that belong to TLS.
const TLS_KEYS: &[&str] = &["sni", "verify", "ca_file", "min_days"];

/// The kind's word.
pub(super) fn kind(section: &mut Section<'_, '_>) -> Field<Kind> {
    section.required("kind", r#""tcp""#, word(KINDS))
}

/// The kind with its keys. Those of other kinds are refused.
pub(super) fn read(
    section: &mut Section<'_, '_>,
    kind: Field<Kind>,
) -> Result<HealthKind, Reported> {
    let kind = match kind {
        Ok(kind) => kind.value,
        Err(reported) => {
            for (key, _) in KEYS {
                section.ignore(key);
            }
            return Err(reported);
        }
    };
    for (key, _) in KEYS.iter().filter(|(_, kinds)| !kinds.contains(&kind)) {
        section.refuse(key, || has_no(key, kind));
    }
    match kind {
        Kind::Command => command(section).map(HealthKind::Command),
        Kind::Grpc => grpc(section).map(HealthKind::Grpc),
        Kind::Http => http(section).map(HealthKind::Http),
        Kind::Script => script(section).map(HealthKind::Script),
        Kind::Tcp => Ok(HealthKind::Tcp),
        Kind::Tls => {
            let alpn = section.list_or_none("alpn", 1..=8, protocol);
            tls(section, alpn).map(HealthKind::Tls)
        }
    }
}

fn has_no(key: &str, kind: Kind) -> Fault {
    let name = |kind: &Kind| {
        let found = KINDS.iter().find(|(_, known)| known == kind);
        format!("\"{}\"", found.map_or("", |(name, _)| name))
    };
    let kinds = KEYS.iter().find(|(known, _)| *known == key);
    let kinds: Vec<String> = kinds
        .iter()
        .flat_map(|(_, kinds)| *kinds)
        .map(name)
        .collect();
    Fault::new(
        format!("kind = {} has no `{key}`", name(&kind)),
        format!("remove it, or write kind = {}", kinds.join(" or ")),
    )
}

fn tls(
    section: &mut Section<'_, '_>,
    alpn: Option<List<Located<String>>>,
) -> Result<Tls, Reported> {
    let sni = section.optional("sni", host_name);
    let verify = section.or("verify", true, boolean);
    let ca_file = section.optional("ca_file", path);
    let min_days = section.or("min_days", 14, number(0..=3_650));
    let alpn = alpn.unwrap_or_default().into_iter();
    let verify = verify?.value;
    if let (false, Some(Ok(file))) = (verify, &ca_file) {
        let fault = Fault::new(
            "verify = false looks at no authority",
            "remove `ca_file`, or write verify = true",
        );
        return Err(section.fault(&file.at, fault));
    }
    Ok(Tls {
        sni: bare(sni)?,
        alpn: alpn.map(|one| Ok(one?.value)).collect::<Result<_, _>>()?,
        verify,
        ca_file: bare(ca_file)?,
        min_days: min_days?.value,
    })
}

/// TLS where it is an option; `alpn` is what the protocol above is called there (RFC 7301).
fn over_tls(section: &mut Section<'_, '_>, alpn: &[&str]) -> Result<Option<Tls>, Reported> {
    if section.or("tls", false, boolean)?.value {
        let mut tls = tls(section, None)?;
        tls.alpn = alpn.iter().map(|name| (*name).to_owned()).collect();
        return Ok(Some(tls));
    }
    for key in TLS_KEYS {
        section.refuse(key, || {
            let what = format!("`{key}` means nothing without TLS");
            Fault::new(what, "add tls = true, or remove the key")
        });
    }
    Ok(None)
}

const VERSIONS: &[(&str, bool)] = &[("1.1", false), ("2", true)];
const METHODS: &[(&str, bool)] = &[("GET", false), ("HEAD", true)];

fn http(section: &mut Section<'_, '_>) -> Result<Http, Reported> {
    let version = section.or("version", false, word(VERSIONS));
    // A server that knows only HTTP/1.1 need not speak of it.
    let alpn: &[_] = match &version {
        Ok(http2) if http2.value => &["h2"],
        _ => &[],
    };
    let tls = over_tls(section, alpn);
    let method = section.or("method", false, word(METHODS));
    let path = section.or("path", "/".to_owned(), http_path);
    let host = section.optional("host", authority);
    let sent = section.list_or_none("request_headers", 1..=16, field);
    let status = section.or("status", vec![(200, 399)], statuses);
    let header = section.optional("header", field_expected);
    let body = section.optional("body", text(1..=1_024));
    let regex = section.optional("body_regex", pattern);
    let limit = section.or("body_limit", 64 << 10, number(1..=MAX_READ));
    let head = method?.value;
    let (body, regex) = (body.transpose()?, regex.transpose()?);
    let place = regex.as_ref().map(|regex| regex.at.clone());
    let place = place.or_else(|| body.as_ref().map(|body| body.at.clone()));
    if let (true, true, Some(at)) = (body.is_some(), regex.is_some(), &place) {
        let fault = Fault::new("both `body` and `body_regex`", "write one of them");
        return Err(section.fault(at, fault));
    }
    let regex = regex.map(|regex| Expected::Matching(regex.value));
    let body = body
        .map(|body| Expected::Bytes(body.value.into_bytes()))
        .or(regex);
    if let (true, Some(at)) = (head, place) {
        let fault = Fault::new(
            "the answer to HEAD has no body",
            "write method = \"GET\", or remove the key",
        );
        return Err(section.fault(&at, fault));
    }
    Ok(Http {
        tls: tls?,
        http2: version?.value,
        head,
        path: path?.value,
        host: bare(host)?,
        request_headers: sent
            .unwrap_or_default()
            .into_iter()
            .map(|one| Ok(one?.value))
            .collect::<Result<_, _>>()?,
        status: status?.value,
        header: bare(header)?,
        body,
        body_limit: limit?.value,
    })
}

fn grpc(section: &mut Section<'_, '_>) -> Result<Grpc, Reported> {
    let tls = over_tls(section, &["h2"]);
    let host = section.optional("host", authority);
    let service = section.or("service", String::new(), grpc_service);
    Ok(Grpc {
        tls: tls?,
        host: bare(host)?,
        service: service?.value,
    })
}

fn command(section: &mut Section<'_, '_>) -> Result<Command, Reported> {
    let example = r#"["/usr/lib/tandem/check-it", "--quick"]"#;
    program(section, "argv", example)
}

/// A program with its arguments, under this key.
pub(super) fn program(
    section: &mut Section<'_, '_>,
    key: &'static str,
    example: &str,
) -> Result<Command, Reported> {
    let argv = section.list(key, example, 1..=MAX_ARGV, text(0..=4_096));
    let limit = section.or("output_limit", 16 << 10, number(1..=MAX_READ));
    let argv: Vec<Located<String>> = argv.into_iter().collect::<Result<_, _>>()?;
    if let Some(program) = argv.first().filter(|word| !word.value.starts_with('/')) {
        let what = "the program's path does not begin at the root";
        let remedy = "write the whole path; there is no shell and no search";
        return Err(section.fault(&program.at, Fault::new(what, remedy)));
    }
    Ok(Command {
        argv: argv.into_iter().map(|word| word.value).collect(),
        output_limit: limit?.value,
    })
}

fn script(section: &mut Section<'_, '_>) -> Result<Script, Reported> {
    let limit = section.or("read_limit", 16 << 10, number(1..=MAX_READ));
    let preset = section.optional("preset", word(presets::PRESETS));
    let Some(preset) = preset else {
        section.refuse("user", || {
            let what = "`user` means nothing without a preset";
            Fault::new(
                what,
                "remove it; a dialogue of your own has its user in a step",
            )
        });
        let steps = section.tables("step", 1..=MAX_STEPS, step);
        let steps = steps.into_iter().map(|step| step?);
        return Ok(Script {
            steps: steps.collect::<Result<_, _>>()?,
            read_limit: limit?.value,
        });
    };
    section.refuse("step", || {
        let what = "both `preset` and `step`";
        Fault::new(what, "write one of them")
    });
    let preset = preset?.value;
    let user = if preset.has_user() {
        section.or("user", "tandem".to_owned(), text(1..=32))?.value
    } else {
        section.refuse("user", || {
            let what = "this preset has no `user`";
            Fault::new(what, "remove it; \"postgres\" and \"mysql\" have one")
        });
        String::new()
    };
    Ok(Script {
        steps: preset.steps(&user),
        read_limit: limit?.value,
    })
}

/// What a step may do.
const ACTIONS: &[&str] = &["send", "send_hex", "expect", "expect_hex", "expect_regex"];

/// `[[service.health.step]]`: one key, which says what is done.
fn step(section: &mut Section<'_, '_>) -> Result<Step, Reported> {
    let at = section.at();
    let actions = section.keys().filter(|key| ACTIONS.contains(key)).count();
    let send = bytes(section, "send", "send_hex");
    let expect = bytes(section, "expect", "expect_hex");
    let regex = section.optional("expect_regex", pattern);
    if actions > 1 {
        let fault = Fault::new(
            "a step does one thing",
            "write a step for each of these keys",
        );
        return Err(section.fault(&at, fault));
    }
    if let Some(send) = send? {
        return Ok(Step::Send(send));
    }
    if let Some(expect) = expect? {
        return Ok(Step::Expect(Expected::Bytes(expect)));
    }
    match bare(regex)? {
        Some(regex) => Ok(Step::Expect(Expected::Matching(regex))),
        None => {
            let remedy = "write send = \"...\", expect = \"...\" or expect_regex = \"...\"";
            Err(section.fault(&at, Fault::new("a step that does nothing", remedy)))
        }
    }
}

/// Bytes as text, or as hexadecimal digits.
pub(super) fn bytes(
    section: &mut Section<'_, '_>,
    plain: &'static str,
    coded: &'static str,
) -> Result<Option<Vec<u8>>, Reported> {
    let text = bare(section.optional(plain, text(1..=1_024)));
    let hex = section.optional(coded, hex);
    match (text?, hex) {
        (Some(_), Some(Ok(hex))) => {
            let what = format!("both `{plain}` and `{coded}`");
            Err(section.fault(&hex.at, Fault::new(what, "write one of them")))
        }
        (Some(text), _) => Ok(Some(text.into_bytes())),
        (None, hex) => bare(hex),
    }
}
