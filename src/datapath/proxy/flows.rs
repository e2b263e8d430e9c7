//! The live connections of one worker.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

use super::log::Phase;
use crate::balance::flow::{FlowEnd, FlowEvent};
use crate::model::{BackendId, FlowId, ServiceId};

/// One client's connection, from its acceptance to its end. Shared by the task that serves it and
/// the worker's list.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) id: FlowId,
    pub(super) service: ServiceId,
    /// Who it is: the peer, or whom the PROXY protocol's header names.
    pub(super) client: Cell<SocketAddr>,
    pub(super) idle_timeout: Duration,
    /// How far it is.
    pub(super) phase: Cell<Phase>,
    /// Set once the backend took it.
    pub(super) opened: Cell<Option<(BackendId, Duration)>>,
    /// Bytes that the backend took.
    pub(super) up: Cell<u64>,
    /// Bytes that the client took.
    pub(super) down: Cell<u64>,
    /// The sum of both when the sweep came by last, and when that sum had changed.
    pub(super) seen: Cell<(u64, Duration)>,
    /// The report's generation in which its opening was told; 0 is none.
    pub(super) told: Cell<u32>,
    /// Its task was told to look at both sockets since bytes moved last.
    pub(super) looked: Cell<bool>,
    look: Cell<bool>,
    cut: Cell<Option<FlowEnd>>,
    waker: RefCell<Option<Waker>>,
}

impl Flow {
    pub(super) fn new(
        id: FlowId,
        service: ServiceId,
        client: SocketAddr,
        idle_timeout: Duration,
    ) -> Self {
        Self {
            id,
            service,
            client: Cell::new(client),
            idle_timeout,
            phase: Cell::new(Phase::Accept),
            opened: Cell::new(None),
            up: Cell::new(0),
            down: Cell::new(0),
            seen: Cell::new((0, Duration::ZERO)),
            told: Cell::new(0),
            looked: Cell::new(false),
            look: Cell::new(false),
            cut: Cell::new(None),
            waker: RefCell::new(None),
        }
    }

    /// Bytes in both directions.
    pub(super) const fn moved(&self) -> u64 {
        self.up.get() + self.down.get()
    }

    /// Ends it: its task wakes and finds this reason.
    pub(super) fn cut(&self, why: FlowEnd) {
        self.cut.set(Some(why));
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Why it was cut, if it was.
    pub(super) const fn why_cut(&self) -> Option<FlowEnd> {
        self.cut.get()
    }

    /// Has its task look at both sockets, whatever their readiness says.
    pub(super) fn look(&self) {
        self.looked.set(true);
        self.look.set(true);
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// Whether the task should look; true once.
    pub(super) const fn should_look(&self) -> bool {
        self.look.replace(false)
    }

    /// Whether it was cut. If not, the task is woken when it is.
    pub(super) fn is_cut(&self, cx: &Context<'_>) -> Option<FlowEnd> {
        let cut = self.cut.get();
        if cut.is_none() {
            let mut waker = self.waker.borrow_mut();
            match &mut *waker {
                Some(waker) => waker.clone_from(cx.waker()),
                None => *waker = Some(cx.waker().clone()),
            }
        }
        cut
    }

    /// The news of its opening, if a backend took it.
    pub(super) fn opening(&self) -> Option<FlowEvent> {
        let (backend, connect) = self.opened.get()?;
        Some(FlowEvent::Opened {
            flow: self.id,
            service: self.service,
            backend,
            client: self.client.get(),
            connect,
        })
    }
}

/// The list: slots that are used again.
#[derive(Debug, Default)]
pub(super) struct Flows {
    slots: Vec<Option<Rc<Flow>>>,
    free: Vec<u32>,
}

impl Flows {
    /// Puts one in; the slot is needed to take it out.
    pub(super) fn insert(&mut self, flow: Rc<Flow>) -> u32 {
        if let Some(slot) = self.free.pop() {
            self.slots[slot as usize] = Some(flow);
            return slot;
        }
        self.slots.push(Some(flow));
        (self.slots.len() - 1) as u32
    }

    pub(super) fn remove(&mut self, slot: u32) {
        self.slots[slot as usize] = None;
        self.free.push(slot);
        if self.free.len() == self.slots.len() {
            // All gone: so is the memory of the busiest moment.
            *self = Self::default();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Slots, used or not.
    pub(super) fn slots(&self) -> usize {
        self.slots.len()
    }

    /// The connections in so many slots from `from` on.
    pub(super) fn part(&self, from: usize, slots: usize) -> impl Iterator<Item = &Rc<Flow>> {
        self.slots.iter().skip(from).take(slots).flatten()
    }

    /// Every `nth` slot from `first` on; the connections in them.
    pub(super) fn every(&self, nth: usize, first: usize) -> impl Iterator<Item = &Rc<Flow>> {
        self.slots.iter().skip(first).step_by(nth).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(n: u64) -> Rc<Flow> {
        Rc::new(Flow::new(
            FlowId(n),
            ServiceId(1),
            "192.0.2.1:1".parse().unwrap(),
            Duration::from_secs(1),
        ))
    }

    #[test]
    fn slots_are_used_again_and_freed_at_the_end() {
        let mut flows = Flows::default();
        let slots: Vec<_> = (0..3).map(|n| flows.insert(flow(n))).collect();
        assert_eq!(slots, [0, 1, 2]);
        flows.remove(1);
        assert_eq!(flows.insert(flow(3)), 1);
        let ids: Vec<_> = flows.every(1, 0).map(|flow| flow.id.0).collect();
        assert_eq!(ids, [0, 3, 2]);
        for slot in slots {
            flows.remove(slot);
        }
        assert!(flows.is_empty());
        assert_eq!(flows.slots(), 0);
    }

    #[test]
    fn a_sweep_in_parts_meets_each_once() {
        let mut flows = Flows::default();
        for n in 0..25 {
            flows.insert(flow(n));
        }
        let mut met: Vec<_> = (0..10)
            .flat_map(|part| {
                flows
                    .every(10, part)
                    .map(|flow| flow.id.0)
                    .collect::<Vec<_>>()
            })
            .collect();
        met.sort_unstable();
        assert_eq!(met, (0..25).collect::<Vec<_>>());
    }
}
