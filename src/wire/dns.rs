//! Questions to a resolver and what it answers (RFC 1035, 2308, 2782, 6891).
//!
//! Owns: which records of an answer count. Never: follows a name by a question of its own; that is
//! the resolver's work.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use domain::base::iana::{Class, Rcode};
use domain::base::message_builder::PushError;
use domain::base::{Message, MessageBuilder, Name, ParsedName, Rtype, Ttl};
use domain::dep::octseq::Octets;
use domain::rdata::{A, Aaaa, Cname, Soa, Srv};

/// What a resolver may send in one datagram. Larger ones are cut up on the way and get lost
/// (RFC 9715, 3.1).
pub const PAYLOAD: u16 = 1_232;
/// Most aliases from a name to its records.
const ALIASES: usize = 16;

/// What is asked of a name.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// Servers of a service.
    Srv,
}

impl Kind {
    const fn rtype(self) -> Rtype {
        match self {
            Self::A => Rtype::A,
            Self::Aaaa => Rtype::AAAA,
            Self::Srv => Rtype::SRV,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "A",
            Self::Aaaa => "AAAA",
            Self::Srv => "SRV",
        })
    }
}

/// A server of a service (RFC 2782).
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Server {
    /// The lowest is tried first.
    pub priority: u16,
    /// Share among those of its priority.
    pub weight: u16,
    /// Port.
    pub port: u16,
    /// Name of the host, in lower case; empty: there is no such service.
    pub target: String,
}

/// Records of an answer.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Records {
    /// Addresses, if these were asked.
    pub addresses: Vec<IpAddr>,
    /// Servers, if these were asked.
    pub servers: Vec<Server>,
    /// How long all this holds. Without a record: how long it holds that there is none (RFC 2308,
    /// 5); zero if the answer does not say.
    pub ttl: Duration,
}

impl Records {
    /// The name has none, or does not exist.
    pub const fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.servers.is_empty()
    }
}

/// What a message is for one who asked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Reply {
    /// The answer to another question, or none at all. It may be forged: wait on.
    Alien,
    /// The resolver could not answer.
    Failed(String),
    /// The answer.
    Records(Records),
    /// The answer is too long for a datagram: ask by TCP.
    Truncated,
}

/// The bytes of a question; none: that is no name.
pub fn question(id: u16, name: &str, kind: Kind, extended: bool) -> Option<Vec<u8>> {
    let name = Name::<Vec<u8>>::from_str(name).ok()?;
    build(id, &name, kind, extended).ok()
}

fn build(id: u16, name: &Name<Vec<u8>>, kind: Kind, extended: bool) -> Result<Vec<u8>, PushError> {
    let mut message = MessageBuilder::new_vec();
    message.header_mut().set_id(id);
    message.header_mut().set_rd(true);
    let mut message = message.question();
    message.push((name, kind.rtype()))?;
    let mut message = message.additional();
    if extended {
        message.opt(|opt| {
            opt.set_udp_payload_size(PAYLOAD);
            Ok(())
        })?;
    }
    Ok(message.finish())
}

/// What these bytes say to one who asked this.
pub fn reply(bytes: &[u8], id: u16, name: &str, kind: Kind) -> Reply {
    let Ok(message) = Message::from_octets(bytes) else {
        return Reply::Alien;
    };
    let header = message.header();
    if !header.qr() || header.id() != id {
        return Reply::Alien;
    }
    // A resolver that cannot read a question may answer without it.
    match message.sole_question() {
        Ok(question) if spelled(question.qname()) == name && question.qtype() == kind.rtype() => {}
        Ok(_) => return Reply::Alien,
        Err(_) if header.rcode() == Rcode::FORMERR => {}
        Err(_) => return Reply::Alien,
    }
    if header.tc() {
        return Reply::Truncated;
    }
    match header.rcode() {
        Rcode::NOERROR | Rcode::NXDOMAIN => records(&message, name, kind).map_or_else(
            || Reply::Failed("a malformed answer".into()),
            Reply::Records,
        ),
        code => Reply::Failed(format!("the resolver says {code}")),
    }
}

/// A name as it is compared (RFC 4343).
fn spelled<O: Octets>(name: &ParsedName<O>) -> String {
    let text = name.to_string().to_ascii_lowercase();
    text.trim_end_matches('.').to_owned()
}

fn seconds(ttl: Ttl) -> Duration {
    Duration::from_secs(ttl.as_secs().into())
}

/// None: malformed.
fn records(message: &Message<&[u8]>, name: &str, kind: Kind) -> Option<Records> {
    let mut aliases = BTreeMap::new();
    for alias in message.answer().ok()?.limit_to::<Cname<_>>() {
        let alias = alias.ok()?;
        let (ttl, target) = (seconds(alias.ttl()), spelled(alias.data().cname()));
        aliases.insert(spelled(alias.owner()), (target, ttl));
    }
    let mut owner = name.to_owned();
    let mut least = None::<Duration>;
    let mut hold = |ttl: Duration| least = Some(least.map_or(ttl, |least| least.min(ttl)));
    for _ in 0..ALIASES {
        let Some((target, ttl)) = aliases.get(&owner) else {
            break;
        };
        hold(*ttl);
        owner.clone_from(target);
    }
    let mut found = Records::default();
    for record in message.answer().ok()? {
        let record = record.ok()?;
        let ours = record.class() == Class::IN && record.rtype() == kind.rtype();
        if !ours || spelled(&record.owner()) != owner {
            continue;
        }
        hold(seconds(record.ttl()));
        match kind {
            Kind::A => {
                let record = record.to_record::<A>().ok()??;
                found.addresses.push(record.data().addr().into());
            }
            Kind::Aaaa => {
                let record = record.to_record::<Aaaa>().ok()??;
                found.addresses.push(record.data().addr().into());
            }
            Kind::Srv => {
                let record = record.to_record::<Srv<_>>().ok()??;
                let server = record.data();
                found.servers.push(Server {
                    priority: server.priority(),
                    weight: server.weight(),
                    port: server.port(),
                    target: spelled(server.target()),
                });
            }
        }
    }
    if found.is_empty() {
        least = None;
        for soa in message.authority().ok()?.limit_to::<Soa<_>>() {
            let soa = soa.ok()?;
            least = Some(seconds(soa.ttl()).min(seconds(soa.data().minimum())));
        }
    }
    found.ttl = least.unwrap_or_default();
    Some(found)
}

#[cfg(test)]
#[path = "dns_test.rs"]
mod tests;
