//! The machine that leads the program in the kernel: told what the program saw and what the node
//! wants, it writes the maps, and says which packets to send and what to report.
//!
//! Owns: what is between the maps and the node. Never: does IO, reads a clock; times are
//! nanoseconds of `CLOCK_MONOTONIC`, as the program has them.

use std::collections::{BTreeMap, VecDeque};

use super::layout::Refusal;
use super::maps::Maps;
pub use super::packet::Packet;
use super::program::NatError;
use super::tables::Told;
use crate::balance::nat::{NatCommand, NatReport};
use crate::config::Config;
use crate::model::NodeId;
use crate::status::NatStatus;

/// What the engine knows of this host.
#[derive(Clone, Debug, Default)]
pub struct Links {
    /// Each interface that carries a VIP.
    pub interfaces: BTreeMap<String, Link>,
    /// Unix time in milliseconds when `CLOCK_MONOTONIC` was zero.
    pub unix_ms_at_zero: u64,
}

/// A device.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Link {
    /// Its index.
    pub ifindex: u32,
    /// Its MTU in bytes.
    pub mtu: u32,
}

/// See the module.
#[derive(Debug)]
pub struct Engine {
    packets: VecDeque<Packet>,
}

impl Engine {
    /// Nothing is known yet, and this node does not lead.
    pub fn new(_config: &Config, _node: NodeId, _links: &Links, _seed: u64) -> Self {
        Self {
            packets: VecDeque::new(),
        }
    }

    /// Writes what does not change, and reports the connections that are there already. Once,
    /// before all else.
    ///
    /// # Errors
    ///
    /// What the kernel said; so everywhere below.
    pub fn begin(&mut self, _maps: &mut impl Maps, _now: u64) -> Result<(), NatError> {
        Ok(())
    }

    /// The node wants something.
    ///
    /// # Errors
    ///
    /// See [`begin`](Self::begin).
    pub fn command(
        &mut self,
        _command: NatCommand,
        _maps: &mut impl Maps,
        _now: u64,
    ) -> Result<(), NatError> {
        Ok(())
    }

    /// The program saw something.
    ///
    /// # Errors
    ///
    /// See [`begin`](Self::begin).
    pub fn told(&mut self, _told: Told, _maps: &mut impl Maps, _now: u64) -> Result<(), NatError> {
        Ok(())
    }

    /// The program refused a packet.
    pub fn refused(&mut self, _refusal: &Refusal, _now: u64) {}

    /// Time passed. A bounded amount of work.
    ///
    /// # Errors
    ///
    /// See [`begin`](Self::begin).
    pub fn tick(&mut self, _maps: &mut impl Maps, _now: u64) -> Result<(), NatError> {
        Ok(())
    }

    /// When [`tick`](Self::tick) is to be called next.
    pub const fn poll_timeout(&self) -> Option<u64> {
        None
    }

    /// The next packet to send.
    pub fn poll_packet(&mut self) -> Option<Packet> {
        self.packets.pop_front()
    }

    /// The next part of what happened since the last call.
    pub const fn poll_report(&mut self) -> Option<NatReport> {
        None
    }

    /// What the engine counts; `hooks` and `forwarding` are the caller's affair.
    pub fn status(&self, _maps: &impl Maps) -> NatStatus {
        NatStatus::default()
    }
}
