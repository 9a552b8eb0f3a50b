//! Who may connect, as the operator rules; kept across restarts.

use std::net::IpAddr;

use p2pd_core::access::{MAX_RULES, Rules, Subject};

use super::{Node, NodeError, blocking, lock};

/// Name of the setting that holds the rules.
const SETTING: &str = "access";

fn field(fault: String) -> NodeError {
    NodeError::Field { field: "subject", fault }
}

/// Which of these multiaddrs the rules deny.
fn denied(rules: &Rules, addresses: &[String]) -> impl Iterator<Item = IpAddr> {
    let ips = addresses.iter().filter_map(|address| address.split('/').nth(2)?.parse().ok());
    ips.filter(|ip| rules.of(None, Some(*ip)) == Some(false))
}

impl Node {
    /// An address that this daemon listens on although a rule denies it: the rule was there first.
    pub(super) fn cut_off(&self, listening: &[String]) -> Option<IpAddr> {
        denied(&lock(&self.0.rules), listening).next()
    }

    /// Puts the kept rules in force.
    pub(super) async fn restore_rules(&self) -> Result<(), NodeError> {
        let kept = self.0.store.setting(SETTING)?.map(|text| Rules::read(&text)).unwrap_or_default();
        *lock(&self.0.rules) = kept.clone();
        Ok(self.0.net.peers.set_rules(kept).await?)
    }

    /// Every rule; true allows.
    pub(crate) fn rules(&self) -> Vec<(Subject, bool)> {
        lock(&self.0.rules).iter().map(|(subject, allow)| (subject.clone(), allow)).collect()
    }

    /// Allows or denies a peer or a range of addresses.
    pub(crate) async fn rule(&self, subject: &str, allow: bool) -> Result<(), NodeError> {
        let subject: Subject = subject.parse().map_err(field)?;
        if !allow && subject == Subject::Peer(self.0.me.clone()) {
            return Err(field(format!("{subject} is this daemon itself")));
        }
        let cut = |own: IpAddr| {
            let way = match own.to_string().parse() == Ok(subject.clone()) {
                true => "take it from network.listen first".into(),
                false => format!("`p2pctl peers allow {own}` first if you mean it"),
            };
            format!("{subject} holds {own}, on which this daemon listens; {way}")
        };
        self.change_rules(cut, |rules| match rules.set(subject.clone(), allow) {
            true => Ok(()),
            false => Err(NodeError::Limit(format!("{MAX_RULES} rules are the most; remove some"))),
        })
        .await
    }

    /// Forgets what was ruled of a peer or a range.
    pub(crate) async fn unrule(&self, subject: &str) -> Result<(), NodeError> {
        let subject: Subject = subject.parse().map_err(field)?;
        let cut = |own: IpAddr| {
            format!(
                "without {subject}, {own} is denied, on which this daemon listens; `p2pctl peers rules` shows by what"
            )
        };
        self.change_rules(cut, |rules| match rules.remove(&subject) {
            true => Ok(()),
            false => Err(NodeError::RuleNotFound(subject.to_string())),
        })
        .await
    }

    /// Changes the rules on disk first, so that what is in force survives. Refused, for what `cut` says, where that would deny
    /// an address that this daemon listens on.
    async fn change_rules(
        &self,
        cut: impl Fn(IpAddr) -> String,
        change: impl FnOnce(&mut Rules) -> Result<(), NodeError>,
    ) -> Result<(), NodeError> {
        let _one = self.0.ruling.lock().await;
        let before = lock(&self.0.rules).clone();
        let mut rules = before.clone();
        change(&mut rules)?;
        let listening = self.addresses().await?;
        if let Some(own) = denied(&rules, &listening).find(|own| before.of(None, Some(*own)) != Some(false)) {
            return Err(field(cut(own)));
        }
        let (store, text) = (self.0.store.clone(), rules.write());
        blocking(move || store.set_setting(SETTING, &text)).await?;
        *lock(&self.0.rules) = rules.clone();
        Ok(self.0.net.peers.set_rules(rules).await?)
    }
}
