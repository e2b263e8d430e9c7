//! What each request of an operator does.

mod flows;
mod roster;

use super::Node;
use super::io::Output;
use crate::config::{Backend, Config, Service};
use crate::model::Role;
use crate::time::Mono;
use crate::wire::admin::{Change, Request, Response};
use crate::wire::replication::{Frame, HandoverCause};

impl Node {
    pub(super) fn handle_admin(&mut self, ticket: u64, request: Request, now: Mono) {
        let answer = match request {
            Request::Status => Ok(Response::Status {
                status: Box::new(self.status(now)),
            }),
            Request::Events => Ok(Response::Events {
                events: self.journal.events(),
            }),
            Request::Failover => self.failover(now).map(done),
            Request::Flows(query) => {
                let unix_ms = self.journal.unix_ms(now);
                let kernel = self.replica();
                // What it drains is its own; the master lists the others.
                let proxied = match self.drain.is_on() {
                    true => &self.drain.kept,
                    false => kernel,
                };
                let tables = flows::Tables { proxied, kernel };
                flows::page(tables, &self.config, &query, unix_ms)
            }
            Request::Backend {
                service,
                backend,
                state,
            } => {
                let change = Change::State {
                    state,
                    cut_after_ms: None,
                };
                self.change(&service, &backend, change, now).map(done)
            }
            // It has no file.
            Request::Reload { .. } => Err("this node cannot read a file".into()),
            Request::Roster {
                service,
                backend,
                change,
            } => self.change(&service, &backend, change, now).map(done),
        };
        let response = answer.unwrap_or_else(|message| Response::Error { message });
        self.outputs.push_back(Output::Reply { ticket, response });
    }

    fn failover(&mut self, now: Mono) -> Result<String, String> {
        let peer = self.config.node(self.identity.node.peer()).name.clone();
        match self.role() {
            Role::Master => {
                self.hand_over(HandoverCause::Operator, now)?;
                Ok(format!("handing over to {peer}"))
            }
            _ if self.stopping => Err("this node stops; start it again first".into()),
            Role::Backup if self.in_sync() && self.link.may_send() => {
                self.send_frame(Frame::HandoverRequest(HandoverCause::Operator));
                Ok(format!("asked {peer} to hand over to this node"))
            }
            Role::Backup => Err(format!(
                "this node is not in sync with {peer} yet; try again in a moment"
            )),
            role @ (Role::Initialize | Role::Fault) => Err(format!(
                "this node is in {role}, so it can neither hand over nor take over; see `tandem status`"
            )),
        }
    }
}

const fn done(message: String) -> Response {
    Response::Done { message }
}

fn service_named<'c>(config: &'c Config, name: &str) -> Result<&'c Service, String> {
    let services = &config.services;
    let found = services.iter().find(|known| known.name == name);
    found.ok_or_else(|| {
        let names = names(services.iter().map(|known| known.name.as_str()));
        format!("there is no service {name:?}; there are: {names}")
    })
}

fn backend_named<'c>(service: &'c Service, name: &str) -> Result<&'c Backend, String> {
    let found = service.backends.iter().find(|known| known.name == name);
    found.ok_or_else(|| {
        let names = names(service.backends.iter().map(|known| known.name.as_str()));
        let service = &service.name;
        format!("service {service} has no backend {name:?}; it has: {names}")
    })
}

fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}
