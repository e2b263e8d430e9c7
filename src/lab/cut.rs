//! Cutting the way between the nodes, and healing it.

use futures_util::TryStreamExt;
use rtnetlink::IpVersion;
use rtnetlink::packet_route::IpProtocol;
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};

use super::error::LabError;
use super::host::Host;
use super::topology::{Network, node_addresses};
use crate::model::NodeId;

/// Where the kernel asks its rule for local addresses while a cut is in place: after ours.
const LOCAL_RULE: u32 = 100;
const CUT_RULE: u32 = 50;
const LOCAL_TABLE: u32 = 255;

impl Network {
    /// From now on `to` loses every packet that the other node sends it from its own addresses, on
    /// every path. Traffic of the VIP, of clients and of backends passes.
    ///
    /// The receiving kernel drops by a rule that stands before the one for its local addresses, so
    /// the sender sees no error.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub async fn cut(&self, to: NodeId) -> Result<(), LabError> {
        self.cut_protocol(to, None).await
    }

    /// The same for what comes over TCP: the session stands still, and heartbeats pass.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub async fn cut_session(&self, to: NodeId) -> Result<(), LabError> {
        self.cut_protocol(to, Some(IpProtocol::Tcp)).await
    }

    async fn cut_protocol(&self, to: NodeId, only: Option<IpProtocol>) -> Result<(), LabError> {
        let host = self.node(to);
        let what = || LabError::network(format!("cut the way to {}", host.name()));
        let rules = host.netlink().rule();
        for address in node_addresses(to.peer()) {
            let rule = rules.add().v4().source_prefix(address, 32);
            let mut rule = rule.priority(CUT_RULE).action(RuleAction::Blackhole);
            let only = only.map(RuleAttribute::IpProtocol);
            rule.message_mut().attributes.extend(only);
            rule.execute().await.map_err(what())?;
        }
        self.local_rule(host, LOCAL_RULE).await.map_err(what())?;
        self.remove_rules(host, 0).await.map_err(what())
    }

    /// Undoes [`Self::cut`] and [`Self::cut_session`].
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub async fn heal(&self, to: NodeId) -> Result<(), LabError> {
        let host = self.node(to);
        let what = || LabError::network(format!("heal the way to {}", host.name()));
        self.local_rule(host, 0).await.map_err(what())?;
        for priority in [CUT_RULE, LOCAL_RULE] {
            let removed = self.remove_rules(host, priority).await;
            removed.map_err(what())?;
        }
        Ok(())
    }

    async fn local_rule(&self, host: &Host, priority: u32) -> Result<(), rtnetlink::Error> {
        let rule = host.netlink().rule().add().v4().table_id(LOCAL_TABLE);
        let rule = rule.priority(priority).action(RuleAction::ToTable);
        rule.execute().await
    }

    async fn remove_rules(&self, host: &Host, priority: u32) -> Result<(), rtnetlink::Error> {
        for rule in rules(host).await? {
            if rule_priority(&rule) == priority {
                host.netlink().rule().del(rule).execute().await?;
            }
        }
        Ok(())
    }
}

async fn rules(host: &Host) -> Result<Vec<RuleMessage>, rtnetlink::Error> {
    let rules = host.netlink().rule().get(IpVersion::V4).execute();
    rules.try_collect().await
}

/// The kernel leaves out a priority of 0.
fn rule_priority(rule: &RuleMessage) -> u32 {
    let priority = rule
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RuleAttribute::Priority(priority) => Some(*priority),
            _ => None,
        });
    priority.unwrap_or(0)
}
