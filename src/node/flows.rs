//! Proxied connections: counted, judged, and written where they belong.

use super::{Node, Replication};
use crate::balance::flow::{FlowEnd, FlowEvent};
use crate::time::Mono;
use crate::wire::replication::Item;

impl Node {
    pub(super) fn handle_flows(&mut self, events: &[FlowEvent], now: Mono) {
        let unix_ms = self.journal.unix_ms(now);
        let mut items = Vec::new();
        for event in events {
            match event {
                FlowEvent::ConnectFailed { backend, failure } => {
                    self.health.connect_failed(*backend, *failure, now);
                }
                FlowEvent::Opened { backend, .. } => self.health.connected(*backend, now),
                FlowEvent::Stuck { key, backend } => self.stuck(*key, *backend, now),
                FlowEvent::Unstuck { key } => self.write(Item::Unstick { key: *key }, now),
                FlowEvent::Lost { count, .. } => {
                    self.counters.flow_events_lost += count;
                    self.unsettle(now);
                }
                FlowEvent::Closed {
                    flow, down, end, ..
                } if self.health.wants_first_bytes() => {
                    if let Some(backend) = self.flows.backend_of(*flow) {
                        match (*down, *end) {
                            (0, FlowEnd::BackendError) => self.health.reset_early(backend, now),
                            (0, _) => {}
                            (_, _) => self.health.spoke(backend, now),
                        }
                    }
                }
                FlowEvent::Progress {
                    flow, down: 1.., ..
                } if self.health.wants_first_bytes() => {
                    if let Some(backend) = self.flows.backend_of(*flow) {
                        self.health.spoke(backend, now);
                    }
                }
                _ => {}
            }
            self.flows.handle(event, unix_ms, &mut items);
        }
        for item in items {
            self.write_flow(item, now);
        }
    }

    /// Into the log. While this node is not master its connections are its own business, until it
    /// becomes one.
    fn write_flow(&mut self, item: Item, now: Mono) {
        match &mut self.replication {
            Replication::Source(source) => source.write(item, now),
            Replication::Sink(_) => {
                self.drain.kept.apply(&item);
            }
        }
    }
}
