//! Single values of health checks: text, patterns, and what HTTP and TLS allow.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use toml::de::DeValue;

use super::pattern::{MAX_PATTERN, Pattern};
use super::units::{Fault, Read, shown, string};

/// Text of this many bytes.
pub(super) fn text(length: RangeInclusive<usize>) -> impl Fn(&DeValue<'_>) -> Read<String> {
    move |value| {
        let text = string(value, "ok")?;
        if length.contains(&text.len()) && !text.contains('\0') {
            return Ok(text.to_owned());
        }
        let what = format!("{} bytes, or a zero byte", text.len());
        let remedy = format!("write {} to {} bytes", length.start(), length.end());
        Err(Fault::new(what, remedy))
    }
}

/// Bytes as hexadecimal digits, blanks between them allowed.
pub(super) fn hex(value: &DeValue<'_>) -> Read<Vec<u8>> {
    let text = string(value, "0d 0a")?;
    let digits: Option<Vec<u8>> = text
        .chars()
        .filter(|c| !c.is_ascii_whitespace())
        .map(|c| c.to_digit(16).map(|digit| digit as u8))
        .collect();
    let good = digits
        .filter(|digits| digits.len().is_multiple_of(2) && (2..=2_048).contains(&digits.len()));
    let digits = good.ok_or_else(|| {
        let what = format!("`{}` is no row of hexadecimal bytes", shown(text));
        Fault::new(
            what,
            "write 1 to 1024 bytes of two digits each, like \"0d 0a\"",
        )
    })?;
    Ok(digits.chunks(2).map(|two| two[0] << 4 | two[1]).collect())
}

/// A regular expression.
pub(super) fn pattern(value: &DeValue<'_>) -> Read<Pattern> {
    let text = string(value, "^ready")?;
    let remedy = "see https://docs.rs/regex for the syntax; in TOML write it in single quotes";
    if text.is_empty() || text.len() > MAX_PATTERN {
        let what = format!("an expression of {} bytes", text.len());
        return Err(Fault::new(what, format!("write 1 to {MAX_PATTERN} bytes")));
    }
    Pattern::new(text).map_err(|what| Fault::new(format!("no regular expression: {what}"), remedy))
}

/// A DNS name, as TLS asks for it (RFC 6066, 3: no address, no dot at the end).
pub(super) fn host_name(value: &DeValue<'_>) -> Read<String> {
    let text = string(value, "web.example")?;
    let label = |label: &str| {
        let good = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
        (1..=63).contains(&label.len()) && label.chars().all(good) && !label.starts_with('-')
    };
    if text.len() <= 253 && text.split('.').all(label) && text.parse::<IpAddr>().is_err() {
        return Ok(text.to_owned());
    }
    Err(Fault::new(
        format!("`{}` is no host name", shown(text)),
        "write a DNS name, like \"web.example\"",
    ))
}

/// The authority of a request: a host, with or without a port.
pub(super) fn authority(value: &DeValue<'_>) -> Read<String> {
    let text = string(value, "web.example")?;
    let good = |c: char| c.is_ascii_alphanumeric() || "-._~[]:".contains(c);
    if (1..=255).contains(&text.len()) && text.chars().all(good) {
        return Ok(text.to_owned());
    }
    Err(Fault::new(
        format!("`{}` is no host", shown(text)),
        "write a name, with a port if it matters, like \"web.example:8080\"",
    ))
}

/// Path and query of a request (RFC 9112, 3.2.1: origin-form).
pub(super) fn http_path(value: &DeValue<'_>) -> Read<String> {
    let text = string(value, "/healthz")?;
    let good = |c: char| c.is_ascii_graphic() && !"#\"<>\\^`{|}".contains(c);
    if text.starts_with('/') && text.len() <= 1_024 && text.chars().all(good) {
        return Ok(text.to_owned());
    }
    Err(Fault::new(
        format!("`{}` is no path", shown(text)),
        "begin with `/`, and write other characters as %XX, like \"/healthz?full=1\"",
    ))
}

/// The name of a gRPC service; empty is the server as a whole.
pub(super) fn grpc_service(value: &DeValue<'_>) -> Read<String> {
    let text = string(value, "shop.Cart")?;
    if text.len() <= 255 && text.chars().all(|c| c.is_ascii_graphic()) {
        return Ok(text.to_owned());
    }
    Err(Fault::new(
        format!("`{}` is no name of a gRPC service", shown(text)),
        "write it as in the .proto file, like \"shop.Cart\"",
    ))
}

/// A protocol's name for ALPN (RFC 7301, 3.1).
pub(super) fn protocol(value: &DeValue<'_>) -> Read<String> {
    let text = string(value, "h2")?;
    if (1..=255).contains(&text.len()) && text.chars().all(|c| c.is_ascii_graphic()) {
        return Ok(text.to_owned());
    }
    Err(Fault::new(
        format!("`{}` is no protocol's name", shown(text)),
        "write a name of ALPN, like \"h2\" or \"http/1.1\"",
    ))
}

/// `"200-399, 404"`.
pub(super) fn statuses(value: &DeValue<'_>) -> Read<Vec<(u16, u16)>> {
    let text = string(value, "200-399")?;
    let number = |text: &str| {
        let number = text.trim().parse::<u16>().ok();
        number.filter(|number| (100..=599).contains(number))
    };
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        (first <= last).then_some((first, last))
    };
    let ranges: Option<Vec<_>> = text.split(',').map(range).collect();
    let mut ranges = ranges.filter(|ranges| ranges.len() <= 32).ok_or_else(|| {
        let what = format!("`{}` is no set of statuses", shown(text));
        Fault::new(
            what,
            "write numbers from 100 to 599 and ranges, like \"200-399\" or \"200, 204\"",
        )
    })?;
    ranges.sort_unstable();
    Ok(ranges)
}

/// `"Name: value"`, as it is sent.
pub(super) fn field(value: &DeValue<'_>) -> Read<(String, String)> {
    let text = string(value, "Accept: text/plain")?;
    let found = text
        .split_once(':')
        .filter(|(_, value)| !value.trim().is_empty());
    let (name, value) = found
        .and_then(|(name, value)| split(name, value))
        .ok_or_else(|| {
            let what = format!("`{}` is no header field", shown(text));
            Fault::new(
                what,
                "write a name, a colon and a value, like \"Accept: text/plain\"",
            )
        })?;
    // What the request has of its own, or what would change how it is read.
    let own = [
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "te",
        "upgrade",
    ];
    if own.contains(&name.as_str()) {
        let what = format!("`{name}` is not yours to write here");
        return Err(Fault::new(
            what,
            "write `host` as a key of this section; leave out the others",
        ));
    }
    Ok((name, value))
}

/// `"Name"` or `"Name: text in its value"`, as it is expected.
pub(super) fn field_expected(value: &DeValue<'_>) -> Read<(String, String)> {
    let text = string(value, "X-Ready: yes")?;
    let (name, value) = text.split_once(':').unwrap_or((text, ""));
    split(name, value).ok_or_else(|| {
        let what = format!("`{}` is no header field", shown(text));
        Fault::new(
            what,
            "write a name, and a text in its value, like \"X-Ready: yes\"",
        )
    })
}

/// RFC 9110, 5.1 and 5.5: a token, and visible characters with blanks between them.
fn split(name: &str, value: &str) -> Option<(String, String)> {
    let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let visible = |c: char| c == ' ' || c == '\t' || c.is_ascii_graphic();
    let value = value.trim();
    let good = (1..=128).contains(&name.len())
        && name.chars().all(token)
        && value.len() <= 1_024
        && value.chars().all(visible);
    good.then(|| (name.to_ascii_lowercase(), value.to_owned()))
}
