//! How each service is checked, made once from the configuration: with the files that it names read.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::tls::TlsPlan;
use crate::config::{
    Agent, Command, Config, Grpc, Health, HealthKind, Http, ProxyVersion, Script, Service,
};
use crate::dial::{DialError, Dialer};
use crate::model::{BackendId, ServiceId};
use crate::wire::proxy_header::Version;

/// What checks of a pool need.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) kind: Kind,
    pub(super) agent: Option<Agent>,
    /// Makes the sockets.
    pub(super) dialer: Dialer,
    /// The service's name, for programs.
    pub(super) service: String,
    /// The header of the PROXY protocol that the service sends.
    header: Option<Version>,
}

/// How one backend is checked.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) plan: Arc<Plan>,
    /// The backend's name, for programs.
    pub(super) name: String,
    /// What must come before a check: it is checked where it serves.
    pub(super) header: Option<Version>,
}

#[derive(Debug)]
pub(super) enum Kind {
    Command(Command),
    Grpc(Grpc, Option<TlsPlan>),
    Http(Http, Option<TlsPlan>),
    Script(Script),
    Tcp,
    Tls(TlsPlan),
}

/// Of each service, its own and its pools.
type Pools = BTreeMap<(ServiceId, Option<u16>), Arc<Plan>>;

/// How the backends of a configuration are checked; those of one pool alike. Clones are one.
#[derive(Clone, Debug, Default)]
pub struct Plans(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    pools: ArcSwap<Pools>,
    cases: ArcSwap<BTreeMap<BackendId, Arc<Case>>>,
}

/// A service cannot be checked.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// Its sockets are not to be had.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// A file that a check needs is not to be had.
    #[error("service {service} cannot be checked: {what}")]
    File {
        /// Name of the service.
        service: String,
        /// What is wrong with the file.
        what: String,
    },
}

impl Plans {
    /// Makes the plans and reads the files that they name.
    ///
    /// # Errors
    ///
    /// A file cannot be read, or has no certificate in it; or the host refuses the sockets.
    pub fn load(config: &Config) -> Result<Self, PlanError> {
        let mut pools = BTreeMap::new();
        for service in &config.services {
            let dialer = Dialer::for_checks(config, service)?;
            let places = (0..service.proxied.pools.len()).map(|pool| Some(pool as u16));
            for pool in [None].into_iter().chain(places) {
                let health = service.health_of_pool(pool);
                if health.is_some() || service.agent.is_some() {
                    let plan = Arc::new(plan(service, health, dialer.clone())?);
                    pools.insert((service.id, pool), plan);
                }
            }
        }
        let plans = Self(Arc::new(Shared {
            pools: ArcSwap::from_pointee(pools),
            cases: ArcSwap::default(),
        }));
        plans.assign(config);
        Ok(plans)
    }

    /// Pools are checked as these plans have it, once backends are assigned. Reads no files.
    pub fn adopt(&self, other: &Self) {
        self.0.pools.store(other.0.pools.load_full());
    }

    /// The backends are these from now on; how their pools are checked stays. Reads no files.
    pub fn assign(&self, config: &Config) {
        let pools = self.0.pools.load();
        let mut cases = BTreeMap::new();
        for service in &config.services {
            for backend in &service.backends {
                let Some(plan) = pools.get(&(service.id, backend.pool)) else {
                    continue;
                };
                let health = service.health_of(backend);
                let here = health.is_some_and(|it| it.target(backend) == backend.address);
                let case = Case {
                    plan: Arc::clone(plan),
                    name: backend.name.clone(),
                    header: plan.header.filter(|_| here),
                };
                cases.insert(backend.id, Arc::new(case));
            }
        }
        self.0.cases.store(Arc::new(cases));
    }

    pub(super) fn of(&self, backend: BackendId) -> Option<Arc<Case>> {
        self.0.cases.load().get(&backend).cloned()
    }
}

fn plan(service: &Service, health: Option<&Health>, dialer: Dialer) -> Result<Plan, PlanError> {
    let kind = health.map(|health| &health.kind);
    let kind = kind.unwrap_or(&HealthKind::Tcp);
    let tls = |tls| {
        TlsPlan::load(tls).map_err(|what| PlanError::File {
            service: service.name.clone(),
            what,
        })
    };
    let header = service.proxied.send_proxy.as_ref();
    let header = header.map(|header| match header.version {
        ProxyVersion::V1 => Version::V1,
        ProxyVersion::V2 => Version::V2,
    });
    Ok(Plan {
        kind: match kind {
            HealthKind::Command(command) => Kind::Command(command.clone()),
            HealthKind::Grpc(grpc) => {
                Kind::Grpc(grpc.clone(), grpc.tls.as_ref().map(tls).transpose()?)
            }
            HealthKind::Http(http) => {
                Kind::Http(http.clone(), http.tls.as_ref().map(tls).transpose()?)
            }
            HealthKind::Script(script) => Kind::Script(script.clone()),
            HealthKind::Tcp => Kind::Tcp,
            HealthKind::Tls(written) => Kind::Tls(tls(written)?),
        },
        agent: service.agent.clone(),
        dialer,
        header,
        service: service.name.clone(),
    })
}
