//! The LAN at layer 2: where each neighbour sends what is for the floating address, and the way of a
//! packet from one machine to the other.
//!
//! Most neighbours follow announcements, and share `World::lan`. The *deaf* ones do not: they stay
//! with the machine that they found first, until it tells them otherwise; the stubborn ones of them
//! stay in any case.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;

use tandem::model::{Incarnation, Mac, Neighbour, Stale};
use tandem::node::io::Input;
use tandem::vip::kernel::KernelReport;

use super::faults::Kind;
use super::kernel_mode::DEVICE;
use super::rng::Rng;
use super::segment::{SYN, Segment};
use super::traffic::{Step, VIP};
use super::world::{Event, MS, World};

/// Routers behind which the clients are.
const ROUTERS: u8 = 4;
/// Handshakes that are asked for after a takeover; production asks for more of them.
const KICKS: u32 = 48;

/// One that hears no announcement.
#[derive(Debug)]
pub struct Deaf {
    /// The machine that it takes for the address's.
    pub leads_to: Option<usize>,
    /// It does not hear what is said to it alone either.
    pub stubborn: bool,
}

#[derive(Debug, Default)]
pub struct Neighbours {
    pub deaf: BTreeMap<u8, Deaf>,
    /// Deaf ones that were told where the address lives, and obeyed.
    pub turned: u64,
    /// Packets that one machine handed to the other.
    pub relayed: u64,
}

impl Neighbours {
    /// Some of a pair that relays.
    pub fn drawn(hosts: impl Iterator<Item = SocketAddrV4>, relay: bool, rng: &mut Rng) -> Self {
        let mut all = Self::default();
        let stations = (1..=ROUTERS).chain(hosts.map(|host| host.ip().octets()[3]));
        for station in stations.filter(|_| relay) {
            let (deaf, stubborn) = (rng.chance(40), rng.chance(50));
            if deaf {
                let leads_to = None;
                all.deaf.insert(station, Deaf { leads_to, stubborn });
            }
        }
        all
    }
}

/// The neighbour by which this host's packets come.
fn station(at: SocketAddrV4, client: bool) -> u8 {
    if client {
        1 + (at.port() % u16::from(ROUTERS)) as u8
    } else {
        at.ip().octets()[3]
    }
}

const fn mac_of(station: u8) -> [u8; 6] {
    [2, 0, 0, 0, 1, station]
}

pub const fn machine_mac(machine: usize) -> [u8; 6] {
    [2, 0, 0, 0, 0, machine as u8]
}

fn machine_with(mac: &[u8]) -> Option<usize> {
    (0..2).find(|machine| machine_mac(*machine) == mac)
}

fn addressed(frame: &mut [u8], to: [u8; 6], from: [u8; 6]) {
    frame[..6].copy_from_slice(&to);
    frame[6..12].copy_from_slice(&from);
}

impl World {
    /// Everybody on the LAN stays with the machine that the LAN leads to now.
    pub fn deafen(&mut self, stubborn: bool) {
        let leads_to = self.lan.map(|(owner, _)| owner);
        let hosts = self.traffic.hosts.keys().map(|host| host.ip().octets()[3]);
        let stations = (1..=ROUTERS).chain(hosts);
        let deaf = stations.map(|station| (station, Deaf { leads_to, stubborn }));
        self.neighbours.deaf = deaf.collect();
    }

    /// A host sends this to the floating address.
    pub fn sends_to_vip(&mut self, segment: &Segment) {
        let station = station(segment.from, self.traffic.is_client(segment.from));
        let lan = self.lan.map(|(owner, _)| owner);
        let owner = match self.neighbours.deaf.get_mut(&station) {
            Some(deaf) => {
                deaf.leads_to = deaf.leads_to.or(lan);
                deaf.leads_to
            }
            None => lan,
        };
        let Some(owner) = owner else { return };
        let mut frame = segment.frame();
        addressed(&mut frame, machine_mac(owner), mac_of(station));
        self.carries(Some(owner), frame, 0);
    }

    /// A machine hands a packet, which was handed over so often, to whom the frame says.
    pub fn hands_over(&mut self, machine: usize, frame: Vec<u8>, hops: u8) {
        self.neighbours.relayed += 1;
        self.relayed_at_most_once(machine, hops);
        let host = &self.machines[machine];
        let to = machine_with(&frame[..6]);
        if let Some(to) = to.filter(|_| host.powered() && !host.kernel.link_down) {
            self.carries(Some(to), frame, hops);
        }
    }

    /// A neighbour is told, by itself, where the address lives.
    pub fn remind(&mut self, stale: &Stale, at: Mac) {
        let lost = self.faults.has(Kind::LostAnnouncements) && !self.calm;
        if lost && self.traffic.rng.chance(30) {
            return;
        }
        let [.., segment, station] = stale.mac.0;
        let deaf = self.neighbours.deaf.get_mut(&station);
        let Some(deaf) = deaf.filter(|deaf| segment == 1 && !deaf.stubborn) else {
            return;
        };
        if deaf.leads_to != machine_with(&at.0) {
            deaf.leads_to = machine_with(&at.0);
            self.neighbours.turned += 1;
            self.log("-", &format!("neighbour {station} obeys"));
        }
    }

    /// The new master asks its peer's program for the SYNs of handshakes that wait for a dead
    /// process (`datapath::nat::kick`).
    pub fn kicks(&mut self, machine: usize, life: Incarnation) {
        let host = &self.machines[machine];
        let awake = host.awake().filter(|it| it.incarnation == life);
        let leads = awake.is_some_and(super::machine::Process::leads);
        let Some(at) = host.kept.tables.neighbours.get(&DEVICE).copied() else {
            return;
        };
        if !leads || !host.powered() || host.kernel.link_down {
            return;
        }
        for seq in 0..KICKS {
            let mut frame = Segment {
                from: SocketAddrV4::new(VIP, 0),
                to: SocketAddrV4::new(VIP, 0),
                seq,
                ack: 0,
                flags: SYN,
                payload: Vec::new(),
            }
            .frame();
            addressed(&mut frame, at.peer, at.own);
            self.carries(Some(1 - machine), frame, 1);
        }
    }

    pub fn kick_soon(&mut self, machine: usize, life: Incarnation) {
        for wait in [MS / 2, 200 * MS] {
            let kick = Step::Kick { machine, life };
            self.at(self.now + wait, Event::Traffic(kick));
        }
    }

    /// This process learns where its peer is, once that can be learned.
    pub fn meet_soon(&mut self, machine: usize, life: Incarnation) {
        let wait = 1 + self.traffic.rng.below(20);
        self.at(self.now + wait * MS, Event::Meet { machine, life });
    }

    pub fn meets(&mut self, machine: usize, life: Incarnation) {
        let process = self.machines[machine].process.as_ref();
        if process.is_none_or(|process| process.incarnation != life) {
            return;
        }
        let answers = |it: &super::machine::Machine| it.powered() && !it.kernel.link_down;
        if !self.machines.iter().all(answers) || self.machines[1 - machine].lives == 0 {
            let at = self.now + 200 * MS;
            return self.at(at, Event::Meet { machine, life });
        }
        let peer = Some(Mac(machine_mac(1 - machine)));
        self.tell_neighbour(machine, peer);
    }

    pub fn tell_neighbour(&mut self, machine: usize, peer: Option<Mac>) {
        let neighbour = Neighbour {
            index: DEVICE,
            own: Mac(machine_mac(machine)),
            peer,
        };
        let report = KernelReport::Neighbour {
            interface: "eth0".into(),
            neighbour,
        };
        self.give(machine, Input::Kernel(report));
    }
}
