//! Who is let in: access lists, and the rate of each source.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::balance::flow::Unserved;
use crate::balance::{Access, Rates};
use crate::config::Limits;

/// What a service asks of a client's address. Shared by all workers.
#[derive(Debug)]
pub(super) struct Gate {
    access: Option<Access>,
    rates: Option<Mutex<Rates>>,
}

impl Gate {
    /// None: nothing.
    pub(super) fn of(limits: &Limits, seed: u64) -> Option<Self> {
        let access = Access::new(&limits.allow, &limits.deny);
        let limited = limits.source_rate > 0;
        let rates = limited.then(|| Mutex::new(Rates::new(limits.source_rate, seed)));
        (access.is_some() || limited).then_some(Self { access, rates })
    }

    /// Lets this client in, or says why not. Who is let in counts for its rate.
    pub(super) fn judge(&self, client: IpAddr, now: Duration) -> Result<(), Unserved> {
        if let Some(access) = &self.access
            && !access.permits(client)
        {
            return Err(Unserved::Denied);
        }
        if let Some(rates) = &self.rates {
            let mut rates = rates.lock().unwrap_or_else(PoisonError::into_inner);
            if !rates.take(client, now) {
                return Err(Unserved::SourceRate);
            }
        }
        Ok(())
    }
}
