//! What operators do to backends at run time.

use super::{backend_named, service_named};
use crate::balance::roster;
use crate::config::{MAX_BACKENDS, Service};
use crate::model::{AdminState, BackendId};
use crate::node::Node;
use crate::time::Mono;
use crate::wire::admin::Change;
use crate::wire::statement::{Addition, Aspect, Presence, Said};

/// Longest time until connections are reset: 7 days, as for all limits of that kind.
const LONGEST_CUT: u64 = 7 * 24 * 3_600 * 1_000;

impl Node {
    pub(super) fn change(
        &mut self,
        service: &str,
        backend: &str,
        change: Change,
        now: Mono,
    ) -> Result<String, String> {
        let known = service_named(&self.config, service)?.clone();
        let id = BackendId::of(service, backend);
        if !matches!(change, Change::Add { .. } | Change::Reset) {
            backend_named(&known, backend)?;
        }
        self.must_lead()?;
        if self.roster.said.is_full() {
            return Err(
                "so much was said of backends at run time that there is no room for more; \
                        write it into the file"
                    .into(),
            );
        }
        let (said, text) = self.words(&known, id, backend, change, now)?;
        for said in said {
            self.say(known.id, id, backend, said, now);
        }
        let text = format!("{service}/{backend} {text}");
        self.note(format!("operator: {text}"), now);
        self.reconfigure(now);
        Ok(text)
    }

    /// What is to be said, and what to tell the operator.
    fn words(
        &self,
        service: &Service,
        id: BackendId,
        name: &str,
        change: Change,
        now: Mono,
    ) -> Result<(Vec<Said>, String), String> {
        let book = &self.roster;
        let leaves = book.leaving.contains_key(&id);
        let full = || format!("{}/{name}", service.name);
        match change {
            Change::Add {
                address,
                weight,
                pool,
                max_connections,
                backup,
            } => {
                let addition = Addition {
                    pool,
                    address,
                    weight: weight.unwrap_or(1),
                    max_connections,
                    backup,
                };
                let backend = roster::backend(&book.file, service, name, &addition)?;
                let mut services = self.config.services.iter();
                let mut all = services.clone().flat_map(|service| &service.backends);
                if let Some(taken) = all.find(|it| it.id == id).filter(|_| !leaves) {
                    let at = &taken.address;
                    return Err(format!(
                        "{} is there already, at {at}; take another name, or remove it first",
                        full()
                    ));
                }
                let here = services.find(|known| known.id == service.id);
                if here.is_some_and(|known| known.backends.len() >= MAX_BACKENDS) {
                    return Err(format!(
                        "service {} has {MAX_BACKENDS} backends, which is the most",
                        service.name
                    ));
                }
                let mut said = vec![Said::Presence(Presence::Added(addition))];
                // What was said of one with this name before does not hold for the new one.
                said.extend(book.said.aspects(id).filter_map(taken_back));
                Ok((said, format!("is at {}", backend.address)))
            }
            Change::Remove { cut_after_ms } => {
                let cut_ms = self.cut_at(cut_after_ms, now)?;
                let said = vec![Said::Presence(Presence::Removed { cut_ms })];
                let left = self.connections_on(id);
                Ok((said, ending("is removed", left, cut_after_ms)))
            }
            Change::Weight { weight } => {
                if leaves {
                    return Err(format!("{} was removed", full()));
                }
                if !(1..=256).contains(&weight) {
                    return Err(format!(
                        "{weight} is no weight; write 1 to 256 (to give it no new connections: \
                         tandem backend drain {})",
                        full()
                    ));
                }
                let said = vec![Said::Weight(Some(weight))];
                Ok((said, format!("has weight {weight}")))
            }
            Change::State {
                state,
                cut_after_ms,
            } => {
                if leaves {
                    return Err(format!(
                        "{} was removed; to have it again: tandem backend reset {0}, or add",
                        full()
                    ));
                }
                let enabled = state == AdminState::Enabled;
                let cut_ms = self.cut_at(cut_after_ms.filter(|_| !enabled), now)?;
                let left = self.connections_on(id);
                let text = match state {
                    AdminState::Enabled => "takes new connections".into(),
                    AdminState::Drain => ending("takes no new connections", left, cut_after_ms),
                    AdminState::Maintenance => ending(
                        "takes no new connections and is not checked",
                        left,
                        cut_after_ms,
                    ),
                };
                Ok((vec![Said::State { state, cut_ms }], text))
            }
            Change::Reset => {
                let mut said: Vec<Said> = book.said.aspects(id).filter_map(nothing).collect();
                if said.is_empty() {
                    return Err(format!("nothing was said of {} at run time", full()));
                }
                said.sort_by_key(Said::aspect);
                let text = match book.written(service.id, id) {
                    Some(_) => "is as the file says",
                    None => "is not in the file: it goes, unless a source has it",
                };
                Ok((said, text.into()))
            }
        }
    }

    /// The moment that is so far away.
    fn cut_at(&self, after_ms: Option<u64>, now: Mono) -> Result<Option<u64>, String> {
        match after_ms {
            Some(after) if after > LONGEST_CUT => Err("the deadline is more than 7 days".into()),
            after => Ok(after.map(|after| self.journal.unix_ms(now) + after)),
        }
    }
}

fn ending(text: &str, left: u64, cut_after_ms: Option<u64>) -> String {
    let goes_on = match left {
        0 => return text.to_owned(),
        1 => "its 1 connection goes on".to_owned(),
        many => format!("its {many} connections go on"),
    };
    let most = cut_after_ms.map(|ms| format!(" for {} s at most", ms.div_ceil(1_000)));
    format!("{text}; {goes_on}{}", most.unwrap_or_default())
}

/// Takes back what was said of this.
const fn nothing(aspect: Aspect) -> Option<Said> {
    Some(match aspect {
        Aspect::Presence => Said::Presence(Presence::Unsaid),
        Aspect::Weight => Said::Weight(None),
        Aspect::State => Said::State {
            state: AdminState::Enabled,
            cut_ms: None,
        },
    })
}

/// The same, but of presence.
fn taken_back(aspect: Aspect) -> Option<Said> {
    nothing(aspect).filter(|said| said.aspect() != Aspect::Presence)
}
