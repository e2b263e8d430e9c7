//! Which pool of a service a connection goes to.
//!
//! Rules are asked in order, with what is known of the connection so far. The first one that fits
//! decides; but a rule that cannot be answered yet holds up those behind it. So a connection waits for
//! bytes only if a rule asks for them before another one has decided.

use std::net::IpAddr;

use crate::config::{Ech, Rule, Service};
use crate::wire::first::{Look, Name};

/// The rules of one service.
#[derive(Clone, Debug)]
pub struct Rules {
    rules: Box<[Rule]>,
    ech: Ech,
}

/// What the rules say of a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Chosen {
    /// This pool; none: the service's own backends.
    Pool(Option<u16>),
    /// It depends on bytes that have not come.
    Undecided,
}

impl Rules {
    /// None: the service has no rules.
    pub fn of(service: &Service) -> Option<Self> {
        let rules = &service.proxied.rules;
        (!rules.is_empty()).then(|| Self {
            rules: rules.clone().into(),
            ech: service.proxied.ech,
        })
    }

    /// Asks the rules. `look` is what the first bytes tell so far.
    pub fn choose(&self, client: IpAddr, look: &Look<'_>) -> Chosen {
        for rule in &self.rules {
            match self.fits(rule, client.to_canonical(), look) {
                Some(true) => return Chosen::Pool(rule.pool),
                Some(false) => {}
                None => return Chosen::Undecided,
            }
        }
        Chosen::Pool(None)
    }

    /// None: not known yet.
    fn fits(&self, rule: &Rule, client: IpAddr, look: &Look<'_>) -> Option<bool> {
        let Rule {
            sni,
            alpn,
            host,
            source,
            pool: _,
        } = rule;
        if !source.is_empty() && !source.iter().any(|net| net.contains(&client)) {
            return Some(false);
        }
        if sni.is_empty() && alpn.is_empty() && host.is_empty() {
            return Some(true);
        }
        let named = |patterns: &[String], name: Option<Name<'_>>| {
            patterns.is_empty()
                || name.is_some_and(|name| patterns.iter().any(|it| name.matches(it)))
        };
        match look {
            Look::More => None,
            Look::Tls(hello) => {
                let offers = |it: &String| hello.alpn().any(|name| name == it.as_bytes());
                let name = server_name(look, self.ech);
                let protocol = alpn.is_empty() || alpn.iter().any(offers);
                Some(host.is_empty() && named(sni, name) && protocol)
            }
            Look::Http(request) => {
                let plain = sni.is_empty() && alpn.is_empty();
                Some(plain && named(host, request.host()))
            }
            Look::Rdp(_) | Look::Unknown => Some(false),
        }
    }
}

/// The name that a TLS client wants, as far as `ech` lets it be known.
pub fn server_name<'l>(look: &'l Look<'_>, ech: Ech) -> Option<Name<'l>> {
    let hello = look.tls()?;
    match ech {
        Ech::Outer => hello.outer_name(),
        Ech::Unknown => hello.server_name(),
    }
}

#[cfg(test)]
#[path = "rules_test.rs"]
mod tests;
