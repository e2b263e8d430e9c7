//! What each request of an operator does.

mod flows;
mod roster;
mod sticks;

use super::io::Output;
use super::{Node, Replication};
use crate::config::{Backend, Config, Service};
use crate::model::Role;
use crate::time::Mono;
use crate::wire::admin::{Change, Request, Response, StickQuery};
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
            // Whoever runs the node has the log.
            Request::Log { .. } => Err("this node has no log of its own".into()),
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
            Request::Sticks(query) => self.remembered(&query, now),
            Request::ForgetSticks(query) => self.forget(&query, now),
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
            Request::Push { .. } | Request::Reload { .. } | Request::Rotate => {
                Err("this node cannot read a file".into())
            }
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

    fn remembered(&self, query: &StickQuery, now: Mono) -> Result<Response, String> {
        let found = sticks::find(self.replica(), &self.config, query)?;
        let at = self.sticks_at(now);
        let clients = found.clients.iter();
        Ok(Response::Sticks {
            matching: found.clients.len() as u64,
            clients: clients
                .map(|it| sticks::told(&self.config, it, at))
                .collect(),
            next: found.next.map(sticks::cursor),
        })
    }

    fn forget(&mut self, query: &StickQuery, now: Mono) -> Result<Response, String> {
        self.must_lead()?;
        let found = sticks::find(self.replica(), &self.config, query)?;
        let keys: Vec<_> = found.clients.iter().map(|(key, _)| *key).collect();
        self.unstick(&keys, now);
        let matching = keys.len() as u64;
        if matching > 0 {
            self.note(
                format!("operator: {matching} remembered clients are forgotten"),
                now,
            );
        }
        Ok(Response::Sticks {
            matching,
            clients: Vec::new(),
            next: found.next.map(sticks::cursor),
        })
    }

    /// Only the master's word goes to both nodes.
    fn must_lead(&self) -> Result<(), String> {
        if matches!(self.replication, Replication::Source(_)) {
            return Ok(());
        }
        let peer = &self.config.node(self.identity.node.peer()).name;
        let role = self.role();
        Err(format!(
            "this node is {role}; say it to the master ({peer})"
        ))
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
