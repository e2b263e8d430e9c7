//! Single values: what each may be, and what is said if it is not.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use humantime::{format_duration, parse_duration};
use ipnet::IpNet;
use toml::de::DeValue;

use crate::model::BackendAddress;

/// Longest name, in bytes.
pub(super) const MAX_NAME: usize = 64;
/// Longest name of an interface, in bytes (`IFNAMSIZ` less the final zero, netdevice(7)).
pub(super) const MAX_INTERFACE: usize = 15;

/// Longest path of a socket, in bytes (`sun_path` less the final zero, unix(7)).
const MAX_UNIX_PATH: usize = 107;

/// A mistake of which the place is not yet known.
#[derive(Debug)]
pub(super) struct Fault {
    /// What is wrong.
    pub(super) what: String,
    /// What to write instead.
    pub(super) remedy: String,
}

impl Fault {
    /// What is wrong, and what to write instead.
    pub(super) fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            remedy: remedy.into(),
        }
    }
}

/// What reads a single value.
pub(super) type Read<T> = Result<T, Fault>;

/// The text of a string, for example this one.
pub(super) fn string<'v>(value: &'v DeValue<'_>, example: &str) -> Read<&'v str> {
    value.as_str().ok_or_else(|| {
        Fault::new(
            format!("{} instead of a string", described(value)),
            format!("write it in quotes, like \"{example}\""),
        )
    })
}

/// The kind of a value, with its article.
pub(super) fn described(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a fractional number",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a section",
    }
}

/// Text of the file within a message: on one line, without control characters, not endless.
pub(super) fn shown(text: &str) -> String {
    let mut start: String = text.chars().take(MAX_NAME).collect();
    if start.len() < text.len() {
        start.push_str("...");
    }
    start.escape_debug().to_string()
}

/// `true` or `false`.
pub(super) fn boolean(value: &DeValue<'_>) -> Read<bool> {
    value.as_bool().ok_or_else(|| {
        Fault::new(
            format!("{} instead of a boolean", described(value)),
            "write true or false, without quotes",
        )
    })
}

/// A whole number of this range.
pub(super) fn number<T>(range: RangeInclusive<T>) -> impl Fn(&DeValue<'_>) -> Read<T>
where
    T: TryFrom<i128> + PartialOrd + Copy + std::fmt::Display,
{
    move |value| {
        let remedy = || {
            format!(
                "write a whole number from {} to {}",
                range.start(),
                range.end()
            )
        };
        let Some(integer) = value.as_integer() else {
            let what = format!("{} instead of a whole number", described(value));
            return Err(Fault::new(what, remedy()));
        };
        i128::from_str_radix(integer.as_str(), integer.radix())
            .ok()
            .and_then(|wide| T::try_from(wide).ok())
            .filter(|number| range.contains(number))
            .ok_or_else(|| Fault::new(format!("{integer} is out of range"), remedy()))
    }
}

/// A number with at most two decimals, as hundredths of this range.
pub(super) fn hundredths(range: RangeInclusive<u16>) -> impl Fn(&DeValue<'_>) -> Read<u16> {
    move |value| {
        let shown = |hundredths: &u16| f64::from(*hundredths) / 100.0;
        let (least, most) = (shown(range.start()), shown(range.end()));
        let remedy = || format!("write a number from {least} to {most} with at most two decimals");
        let written = match value {
            DeValue::Float(float) => float.as_str().replace('_', "").parse::<f64>().ok(),
            DeValue::Integer(integer) => i128::from_str_radix(integer.as_str(), integer.radix())
                .ok()
                .map(|whole| whole as f64),
            _ => {
                let what = format!("{} instead of a number", described(value));
                return Err(Fault::new(what, remedy()));
            }
        };
        let written = written.filter(|number| number.is_finite());
        let near = written.map(|number| (number * 100.0).round());
        let exact = near.filter(|near| (written.unwrap_or(0.0) * 100.0 - near).abs() < 1e-6);
        exact
            .filter(|near| *near >= f64::from(*range.start()) && *near <= f64::from(*range.end()))
            .map(|near| near as u16)
            .ok_or_else(|| {
                let what = match written {
                    Some(number) if near.is_some() && exact.is_none() => {
                        format!("{number} is too exact")
                    }
                    Some(number) => format!("{number} is out of range"),
                    None => "no finite number".to_owned(),
                };
                Fault::new(what, remedy())
            })
    }
}

/// Any text of so many bytes.
pub(super) fn text(length: RangeInclusive<usize>) -> impl Fn(&DeValue<'_>) -> Read<String> {
    move |value| {
        let text = string(value, "any words")?;
        if length.contains(&text.len()) {
            return Ok(text.to_owned());
        }
        Err(Fault::new(
            format!("{} bytes", text.len()),
            format!("write {} to {} bytes", length.start(), length.end()),
        ))
    }
}

/// A duration with a unit, of this range.
pub(super) fn duration(range: RangeInclusive<Duration>) -> impl Fn(&DeValue<'_>) -> Read<Duration> {
    move |value| {
        let (least, most) = (
            format_duration(*range.start()),
            format_duration(*range.end()),
        );
        if let DeValue::Integer(_) | DeValue::Float(_) = value {
            return Err(no_unit());
        }
        let text = string(value, "100ms")?;
        if text.parse::<f64>().is_ok() {
            return Err(no_unit());
        }
        let duration = parse_duration(text).map_err(|error| {
            Fault::new(
                format!("`{}` is no duration: {error}", shown(text)),
                "write a number and a unit, like \"100ms\", \"1s\" or \"5m\"",
            )
        })?;
        if range.contains(&duration) {
            return Ok(duration);
        }
        Err(Fault::new(
            format!("{} is out of range", format_duration(duration)),
            format!("write a duration from \"{least}\" to \"{most}\""),
        ))
    }
}

fn no_unit() -> Fault {
    Fault::new(
        "a number without a unit",
        "write the unit, like \"100ms\", \"1s\" or \"5m\"",
    )
}

/// One word of a table.
pub(super) fn word<T: Copy>(
    words: &'static [(&'static str, T)],
) -> impl Fn(&DeValue<'_>) -> Read<T> {
    move |value| {
        let text = string(value, words[0].0)?;
        if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == text) {
            return Ok(*meaning);
        }
        let all = words.iter().map(|(word, _)| *word);
        let remedy = match closest(text, all.clone()) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => {
                let quoted: Vec<_> = all.map(|word| format!("\"{word}\"")).collect();
                format!("write {}", quoted.join(" or "))
            }
        };
        Err(Fault::new(
            format!("unknown word `{}`", shown(text)),
            remedy,
        ))
    }
}

/// A name: 1 to 64 of `A-Z a-z 0-9 . _ -`.
pub(super) fn name(value: &DeValue<'_>) -> Read<String> {
    let text = string(value, "web-1")?;
    let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if (1..=MAX_NAME).contains(&text.len()) && text.chars().all(good) {
        return Ok(text.to_owned());
    }
    Err(Fault::new(
        format!("`{}` is no name", shown(text)),
        format!("write 1 to {MAX_NAME} of A-Z, a-z, 0-9, `.`, `_`, `-`"),
    ))
}

/// The name of a network interface.
pub(super) fn interface(value: &DeValue<'_>) -> Read<String> {
    let text = string(value, "eth0")?;
    let good = |c: char| c.is_ascii_graphic() && !"/:%".contains(c);
    let dots = matches!(text, "." | "..");
    if (1..=MAX_INTERFACE).contains(&text.len()) && text.chars().all(good) && !dots {
        return Ok(text.to_owned());
    }
    Err(Fault::new(
        format!("`{}` is no name of an interface", shown(text)),
        format!(
            "write 1 to {MAX_INTERFACE} characters without spaces, `/`, `:` or `%`, like \"eth0\""
        ),
    ))
}

/// The path of a file, from the root.
pub(super) fn path(value: &DeValue<'_>) -> Read<PathBuf> {
    let example = "/etc/tandem/cluster.key";
    let text = string(value, example)?;
    let path = PathBuf::from(text);
    if path.is_absolute() {
        return Ok(path);
    }
    Err(Fault::new(
        format!("`{}` does not begin at the root", shown(text)),
        format!("write the whole path, like \"{example}\""),
    ))
}

/// Ports from here on, this many of them at least: `"16384-65535"`.
pub(super) fn port_range(
    first: u16,
    width: u16,
) -> impl Fn(&DeValue<'_>) -> Read<RangeInclusive<u16>> {
    move |value| {
        let example = "16384-65535";
        let text = string(value, example)?;
        let parsed = text.split_once('-').and_then(|(low, high)| {
            let port = |text: &str| text.trim().parse::<u16>().ok();
            Some((port(low)?, port(high)?))
        });
        let remedy = format!("write the first and the last port, like \"{example}\"");
        let Some((low, high)) = parsed.filter(|(low, high)| low <= high) else {
            let what = format!("`{}` is no range of ports", shown(text));
            return Err(Fault::new(what, remedy));
        };
        if low < first {
            let what = format!("{low} is too low: ports below {first} belong to services");
            return Err(Fault::new(what, remedy));
        }
        let ports = u32::from(high - low) + 1;
        if ports < u32::from(width) {
            let what = format!("{ports} ports are too few for two nodes");
            return Err(Fault::new(
                what,
                format!("write at least {width} of them, like \"{example}\""),
            ));
        }
        Ok(low..=high)
    }
}

/// A node's own address.
pub(super) fn node_address(value: &DeValue<'_>) -> Read<IpAddr> {
    host_address(value, "192.0.2.11")
}

/// Our address towards the backends. That it is a VIP is checked when the VIPs are known.
pub(super) fn source_address(value: &DeValue<'_>) -> Read<IpAddr> {
    host_address(value, "198.51.100.100")
}

fn host_address(value: &DeValue<'_>, example: &str) -> Read<IpAddr> {
    let text = string(value, example)?;
    let address = text.parse().map_err(|_| {
        Fault::new(
            format!("`{}` is no IP address", shown(text)),
            format!("write the bare address, without name, port or prefix, like \"{example}\""),
        )
    })?;
    usable(address)?;
    Ok(address)
}

/// A floating address with the prefix of its subnet.
pub(super) fn vip_address(value: &DeValue<'_>) -> Read<IpNet> {
    let text = string(value, "192.0.2.100/24")?;
    let net: IpNet = text.parse().map_err(|_| match text.parse::<IpAddr>() {
        Ok(address) => {
            let prefix = if address.is_ipv4() { 24 } else { 64 };
            Fault::new(
                format!("`{}` has no prefix", shown(text)),
                format!("add the prefix of its subnet, like \"{text}/{prefix}\""),
            )
        }
        Err(_) => Fault::new(
            format!("`{}` is no address with a prefix", shown(text)),
            "write an address and the prefix of its subnet, like \"192.0.2.100/24\"",
        ),
    })?;
    usable(net.addr())?;
    let remedy = "write the address of a host in its subnet, like \"192.0.2.100/24\"";
    let fault = |what: &str| Err(Fault::new(format!("{text} {what}"), remedy));
    if net.addr().is_loopback() {
        return fault("is a loopback address, which no client can reach");
    }
    if net.prefix_len() == 0 {
        return fault("has a subnet that is the whole internet");
    }
    // RFC 3021 and RFC 6164: with two addresses, both are hosts.
    if net.max_prefix_len() - net.prefix_len() > 1 {
        if net.addr() == net.network() {
            return fault("is the address of the network itself");
        }
        if net.addr().is_ipv4() && net.addr() == net.broadcast() {
            return fault("is the broadcast address of its network");
        }
    }
    Ok(net)
}

/// Where a service listens. That it is a VIP is checked when the VIPs are known.
pub(super) fn listen_address(value: &DeValue<'_>) -> Read<SocketAddr> {
    let text = string(value, "192.0.2.100:80")?;
    let address: SocketAddr = text.parse().map_err(|_| {
        Fault::new(
            format!("`{}` is no address with a port", shown(text)),
            "write an IP address and a port, like \"192.0.2.100:80\" or \"[2001:db8::100]:80\"",
        )
    })?;
    if address.port() == 0 {
        return Err(Fault::new("port 0", "write a port from 1 to 65535"));
    }
    match address {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => Err(Fault::new(
            format!(
                "`{}` names an interface by a number of one host",
                shown(text)
            ),
            format!("write \"[{}]:{}\"", v6.ip(), v6.port()),
        )),
        _ => Ok(address),
    }
}

/// Where checks go.
pub(super) fn check_address(value: &DeValue<'_>) -> Read<IpAddr> {
    host_address(value, "198.51.100.21")
}

/// Where a backend listens.
pub(super) fn backend_address(value: &DeValue<'_>) -> Read<BackendAddress> {
    if let Some(path) = (value.as_str()).and_then(|text| text.strip_prefix(BackendAddress::UNIX)) {
        return unix_path(path).map(|path| BackendAddress::Unix(path.into()));
    }
    let address = listen_address(value)?;
    usable(address.ip())?;
    Ok(address.into())
}

/// A socket in the file system.
fn unix_path(path: &str) -> Read<&str> {
    let what = match path {
        _ if !path.starts_with('/') => "does not begin at the root",
        _ if path.len() > MAX_UNIX_PATH => "is longer than a socket's path can be (107 bytes)",
        _ if path.contains('\0') || path.ends_with('/') => "is no path of a socket",
        _ => return Ok(path),
    };
    let what = format!("`{}` {what}", shown(path));
    Err(Fault::new(
        what,
        "write the whole path, like \"unix:/run/shop.sock\"",
    ))
}

/// Why this is no address of one host, or not the same one on every host.
pub fn unusable(address: IpAddr) -> Option<&'static str> {
    Some(match address {
        _ if address.is_unspecified() => "is no host's address",
        _ if address.is_multicast() => "is a multicast address",
        IpAddr::V4(Ipv4Addr::BROADCAST) => "is the broadcast address",
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => "is an IPv4 address in disguise",
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            "is link-local: it means nothing without an interface"
        }
        _ => return None,
    })
}

/// Refuses it, then.
pub(super) fn usable(address: IpAddr) -> Read<()> {
    let Some(what) = unusable(address) else {
        return Ok(());
    };
    let remedy = match address {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => "write it in the IPv4 way",
        _ => "write the unicast address of one host",
    };
    Err(Fault::new(format!("{address} {what}"), remedy))
}

/// The word that was probably meant, if one is near enough.
pub(super) fn closest<'w>(word: &str, known: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    let far = (word.chars().count() / 3).clamp(1, 3);
    known
        .filter(|near| near.len().abs_diff(word.len()) <= 2 * far)
        .map(|near| (distance(word, near), near))
        .filter(|(distance, _)| *distance <= far)
        .min()
        .map(|(_, near)| near)
}

/// Letters to add, drop, change or swap with their neighbour (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let change = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = change.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}
