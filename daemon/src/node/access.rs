//! Who may connect, as the operator rules; kept across restarts.

use std::net::IpAddr;

use p2pd_core::access::{MAX_RULES, Rules, Subject};

use super::{Node, NodeError, blocking, lock};

/// Name of the setting that holds the rules.
const SETTING: &str = "access";

fn field(fault: String) -> NodeError {
    NodeError::Field { field: "subject", fault }
}

impl Node {
    /// Puts the kept rules in force.
    pub(super) async fn restore_rules(&self) -> Result<(), NodeError> {
        let kept = self.0.store.setting(SETTING)?.map(|text| Rules::read(&text)).unwrap_or_default();
        *lock(&self.0.rules) = kept.clone();
        Ok(self.0.net.set_rules(kept).await?)
    }

    /// Every rule; true allows.
    pub(crate) fn rules(&self) -> Vec<(Subject, bool)> {
        lock(&self.0.rules).iter().map(|(subject, allow)| (subject.clone(), allow)).collect()
    }

    /// Allows or denies a peer or a range of addresses.
    pub(crate) async fn rule(&self, subject: &str, allow: bool) -> Result<(), NodeError> {
        let subject: Subject = subject.parse().map_err(field)?;
        if !allow {
            self.spare_ourselves(&subject).await?;
        }
        self.change_rules(|rules| match rules.set(subject, allow) {
            true => Ok(()),
            false => Err(NodeError::Limit(format!("{MAX_RULES} rules are the most; remove some"))),
        })
        .await
    }

    /// Forgets what was ruled of a peer or a range.
    pub(crate) async fn unrule(&self, subject: &str) -> Result<(), NodeError> {
        let subject: Subject = subject.parse().map_err(field)?;
        self.change_rules(|rules| match rules.remove(&subject) {
            true => Ok(()),
            false => Err(NodeError::RuleNotFound(subject.to_string())),
        })
        .await
    }

    /// Refuses to deny this daemon, or an address that it listens on and that is not allowed itself.
    async fn spare_ourselves(&self, subject: &Subject) -> Result<(), NodeError> {
        if *subject == Subject::Peer(self.0.me.clone()) {
            return Err(field(format!("{subject} is this daemon itself")));
        }
        let mut rules = lock(&self.0.rules).clone();
        rules.set(subject.clone(), false);
        let listening = self.addresses().await?;
        let mut ours = listening.iter().filter_map(|a| a.split('/').nth(2)?.parse().ok());
        match ours.find(|a: &IpAddr| rules.of(None, Some(*a)) == Some(false)) {
            Some(own) => Err(field(format!(
                "{subject} holds {own}, on which this daemon listens; `p2pctl peers allow {own}` first if you mean it"
            ))),
            None => Ok(()),
        }
    }

    /// Changes the rules on disk first, so that what is in force survives.
    async fn change_rules(&self, change: impl FnOnce(&mut Rules) -> Result<(), NodeError>) -> Result<(), NodeError> {
        let _one = self.0.ruling.lock().await;
        let mut rules = lock(&self.0.rules).clone();
        change(&mut rules)?;
        let (store, text) = (self.0.store.clone(), rules.write());
        blocking(move || store.set_setting(SETTING, &text)).await?;
        *lock(&self.0.rules) = rules.clone();
        Ok(self.0.net.set_rules(rules).await?)
    }
}
