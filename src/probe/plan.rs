//! How each service is checked, made once from the configuration: with the files that it names read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::tls::TlsPlan;
use crate::config::{
    Agent, Command, Config, Grpc, Health, HealthKind, Http, ProxyVersion, Script, Service,
};
use crate::dial::{DialError, Dialer};
use crate::model::BackendId;
use crate::wire::proxy_header::Version;

/// What checks of a pool need.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) kind: Kind,
    pub(super) agent: Option<Agent>,
    pub(super) names: Names,
    /// Makes the sockets.
    pub(super) dialer: Dialer,
    /// The header of the PROXY protocol that the service sends, and the backends that are checked
    /// where they serve.
    header: Option<(Version, BTreeSet<BackendId>)>,
}

impl Plan {
    /// What must come before a check of this backend.
    pub(super) fn header(&self, backend: BackendId) -> Option<Version> {
        let (version, here) = self.header.as_ref()?;
        here.contains(&backend).then_some(*version)
    }
}

/// The service's and the backends' names, for programs.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) service: String,
    backends: BTreeMap<BackendId, String>,
}

impl Names {
    /// Empty for a backend that the configuration does not name.
    pub(super) fn backend(&self, id: BackendId) -> &str {
        self.backends.get(&id).map_or("", String::as_str)
    }
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

/// How the backends of a configuration are checked; those of one pool alike.
#[derive(Clone, Debug, Default)]
pub struct Plans(Arc<BTreeMap<BackendId, Arc<Plan>>>);

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
        let mut plans = BTreeMap::new();
        for service in &config.services {
            let dialer = Dialer::for_checks(config, service)?;
            let pools = (0..service.proxied.pools.len()).map(|pool| Some(pool as u16));
            for pool in [None].into_iter().chain(pools) {
                let of_pool = || service.backends.iter().filter(|it| it.pool == pool);
                let health = of_pool().next().and_then(|it| service.health_of(it));
                if health.is_some() || service.agent.is_some() {
                    let plan = Arc::new(plan(service, health, dialer.clone())?);
                    plans.extend(of_pool().map(|it| (it.id, Arc::clone(&plan))));
                }
            }
        }
        Ok(Self(Arc::new(plans)))
    }

    pub(super) fn of(&self, backend: BackendId) -> Option<&Plan> {
        self.0.get(&backend).map(|plan| &**plan)
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
    let backend = |backend: &crate::config::Backend| (backend.id, backend.name.clone());
    let here = |backend: &&crate::config::Backend| {
        health.is_some_and(|health| health.target(backend) == backend.address)
    };
    let header = service.proxied.send_proxy.as_ref().map(|header| {
        let version = match header.version {
            ProxyVersion::V1 => Version::V1,
            ProxyVersion::V2 => Version::V2,
        };
        let backends = service.backends.iter().filter(here);
        (version, backends.map(|backend| backend.id).collect())
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
        names: Names {
            service: service.name.clone(),
            backends: service.backends.iter().map(backend).collect(),
        },
    })
}
