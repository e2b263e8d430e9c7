//! All connections of a run: those that stay, and new ones at a steady rate.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::clients::{Clients, Crowd};
use super::gauge::Kind;
use super::newcomers::Newcomers;
use crate::lab::config::PORT;
use crate::lab::error::LabError;
use crate::lab::host::Host;
use crate::lab::netns::allow_descriptors;
use crate::lab::pair::Lab;
use crate::lab::topology::{VIP4, VIP6};

/// Time for all connections to stand.
const OPENING: Duration = Duration::from_secs(20);
/// Time between two looks at them.
const LOOK: Duration = Duration::from_millis(20);
/// Descriptors for connections of both ends, of those that carry them and of new ones under way.
const DESCRIPTORS: u64 = 65_536;

/// Which hosts the connections come from, each with a thread of its own.
#[derive(Clone, Copy, Debug)]
pub(in crate::lab) struct Origins<'a> {
    /// Those that stay and are paced.
    pub(in crate::lab) staying: &'a Host,
    /// Those that go as fast as they can.
    pub(in crate::lab) unpaced: &'a Host,
    /// New ones.
    pub(in crate::lab) new: &'a Host,
}

/// Connections at work. They end when this is dropped.
#[derive(Debug)]
pub(in crate::lab) struct Traffic {
    clients: Clients,
    newcomers: Newcomers,
}

impl Traffic {
    /// Has idle connections speak once.
    pub(in crate::lab) fn speak(&self) {
        self.clients.speak();
    }

    /// Has each connection that stays come to a good end, and opens another in its place.
    pub(in crate::lab) fn renew(&self) {
        self.clients.renew();
    }

    /// Opens no more, and has all connections come to a good end.
    pub(in crate::lab) async fn stop(self) {
        self.newcomers.stop().await;
        self.clients.stop().await;
    }
}

impl Lab {
    /// Opens all connections to the VIPs, three of four by IPv4, and counts on the lab's board from
    /// when those that stay stand.
    ///
    /// # Errors
    ///
    /// If they do not stand in time.
    pub(in crate::lab) async fn traffic(
        &self,
        crowd: &Crowd,
        from: Origins<'_>,
    ) -> Result<Traffic, LabError> {
        allow_descriptors(DESCRIPTORS);
        // New connections leave more ports in TIME_WAIT than there are.
        from.new.sysctl("ipv4/tcp_tw_reuse", "1").await;
        let vip = SocketAddr::new(VIP4.into(), PORT);
        let targets = [vip, vip, vip, SocketAddr::new(VIP6.into(), PORT)];
        let board = self.board().clone();
        let clients = Clients::start([from.staying, from.unpaced], crowd, &targets, &board);
        self.standing(crowd).await?;
        let newcomers = Newcomers::start(from.new, crowd.new_rate, targets.to_vec(), board);
        Ok(Traffic { clients, newcomers })
    }

    /// Waits until all connections that stay stand.
    pub(in crate::lab) async fn standing(&self, crowd: &Crowd) -> Result<(), LabError> {
        let deadline = Instant::now() + OPENING;
        loop {
            let standing = Kind::ALL.map(|kind| self.board().of(kind).standing());
            let wanted = Kind::ALL.map(|kind| crowd.of(kind));
            if standing == wanted {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let words = Kind::ALL.iter().zip(standing).zip(wanted);
                let words =
                    words.map(|((kind, is), wanted)| format!("{is} of {wanted} {}", kind.name()));
                return Err(LabError::TooLate {
                    what: "the opening of all connections".to_owned(),
                    seconds: OPENING.as_secs(),
                    state: words.collect::<Vec<_>>().join(", "),
                });
            }
            sleep(LOOK).await;
        }
    }
}
