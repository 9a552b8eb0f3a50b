//! Who may connect, as the operator rules; kept across restarts.

use std::net::IpAddr;

use p2pd_core::{
    connection_rules::{MAX_RULES, Rules, Subject},
    id::PeerId,
    multiaddr::Multiaddr,
};
use p2pd_store::{Rows, Store, StoreError};

use super::{Peers, PeersError};
use crate::{disk::unreadable, lock};

fn field(fault: String) -> PeersError {
    PeersError::Field { field: "subject", fault }
}

/// Which of these addresses of this machine the rules deny; where a relay listens for it is none of them.
fn denied(rules: &Rules, addresses: &[Multiaddr]) -> impl Iterator<Item = IpAddr> {
    addresses.iter().filter_map(Multiaddr::ip).filter(|ip| rules.of(None, Some(*ip)) == Some(false))
}

impl Peers {
    /// An address that this daemon listens on although a rule denies it: the rule was there first.
    pub fn cut_off(&self, listening: &[Multiaddr]) -> Option<IpAddr> {
        denied(&lock(&self.0.rules), listening).next()
    }

    /// Puts the kept rules in force. Without any one of them nothing is: who was denied would be let in.
    pub(super) async fn restore_rules(&self) -> Result<(), PeersError> {
        let mut kept = Rules::default();
        for rule in self.0.with.disk.run(read).await? {
            let (subject, allow) = rule.map_err(StoreError::from)?;
            kept.restore(subject, allow);
        }
        *lock(&self.0.rules) = kept.clone();
        Ok(self.0.with.net.peers.set_rules(kept).await?)
    }

    /// Every rule; true allows.
    pub fn rules(&self) -> Vec<(Subject, bool)> {
        lock(&self.0.rules).iter().map(|(subject, allow)| (subject.clone(), allow)).collect()
    }

    /// The rule that decides whether a peer may be connected, at an address if it is known; true allows.
    pub fn ruling(&self, peer: &PeerId, address: Option<IpAddr>) -> Option<(Subject, bool)> {
        let rules = lock(&self.0.rules);
        rules.deciding(Some(peer), address).map(|(subject, allow)| (subject.clone(), allow))
    }

    /// Allows or denies a peer or a range of addresses.
    pub async fn rule(&self, subject: &str, allow: bool) -> Result<(), PeersError> {
        let subject: Subject = subject.parse().map_err(field)?;
        if !allow && subject == Subject::Peer(self.0.with.me.clone()) {
            return Err(field(format!("{subject} is this daemon itself")));
        }
        let cut = |own: IpAddr| {
            let way = match own.to_string().parse() == Ok(subject.clone()) {
                true => "take it from network.listen first".into(),
                false => format!("allow {own} by PeerService.SetRule first if you mean it"),
            };
            format!("{subject} holds {own}, on which this daemon listens; {way}")
        };
        self.change_rules(&subject, Some(allow), cut).await
    }

    /// Forgets what was ruled of a peer or a range.
    pub async fn unrule(&self, subject: &str) -> Result<(), PeersError> {
        let subject: Subject = subject.parse().map_err(field)?;
        let cut = |own: IpAddr| {
            format!(
                "without {subject}, {own} is denied, on which this daemon listens; PeerService.ListRules shows by what"
            )
        };
        self.change_rules(&subject, None, cut).await
    }

    /// Allows or denies a subject, or forgets what was ruled of it; on disk first, so that what is in force survives. Refused, for
    /// what `cut` says, where that would deny an address that this daemon listens on.
    async fn change_rules(
        &self,
        subject: &Subject,
        allow: Option<bool>,
        cut: impl Fn(IpAddr) -> String,
    ) -> Result<(), PeersError> {
        let _one = self.0.changing.lock().await;
        let before = lock(&self.0.rules).clone();
        let mut rules = before.clone();
        match allow {
            Some(allow) if !rules.set(subject.clone(), allow) => {
                return Err(PeersError::Limit(format!("{MAX_RULES} rules are the most; remove some")));
            }
            None if !rules.remove(subject) => return Err(PeersError::RuleNotFound(subject.to_string())),
            Some(_) | None => {}
        }
        let listening = self.listeners().await?;
        if let Some(own) = denied(&rules, &listening).find(|own| before.of(None, Some(*own)) != Some(false)) {
            return Err(field(cut(own)));
        }
        let name = subject.to_string();
        self.0
            .with
            .disk
            .run(move |store| match allow {
                Some(allow) => store.put_rule(&name, allow),
                None => store.remove_rule(&name),
            })
            .await?;
        *lock(&self.0.rules) = rules.clone();
        Ok(self.0.with.net.peers.set_rules(rules).await?)
    }
}

/// Every rule on disk, or which record is none.
pub(crate) fn read(store: &Store) -> Result<Rows<(Subject, bool)>, StoreError> {
    let rule = |(name, allow): (String, bool)| match name.parse::<Subject>() {
        // Otherwise what is ruled of it later would not replace this.
        Ok(subject) if subject.to_string() == name => Ok((subject, allow)),
        Ok(subject) => Err(unreadable("rules", name, format!("p2pd writes `{subject}`"))),
        Err(fault) => Err(unreadable("rules", name, format!("a rule {fault}"))),
    };
    Ok(store.rules()?.into_iter().map(|row| row.and_then(rule)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_own_addresses_a_rule_denies_those_of_this_machine_alone() {
        let mut rules = Rules::default();
        assert!(rules.set("192.0.2.0/24".parse().unwrap(), false));
        let relay = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
        let own = ["/ip4/192.0.2.7/tcp/1", "/ip6/::ffff:192.0.2.8/tcp/1", "/ip4/198.51.100.1/tcp/1"];
        let mut own: Vec<Multiaddr> = own.iter().map(|address| address.parse().unwrap()).collect();
        // A place at a relay, which stands in the range.
        own.push(format!("/ip4/192.0.2.9/tcp/1/p2p/{relay}/p2p-circuit").parse().unwrap());
        let told: Vec<_> = denied(&rules, &own).map(|ip| ip.to_string()).collect();
        assert_eq!(told, ["192.0.2.7", "192.0.2.8"]);
    }

    #[test]
    fn a_rule_that_cannot_be_read_is_told_and_hides_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        for subject in ["192.0.2.0/24", "192.0.2.7", "300.1.1.1", "by/moonlight"] {
            store.put_rule(subject, false).unwrap();
        }
        let told: Vec<_> = read(&store).unwrap().into_iter().map(|rule| rule.map_err(|bad| bad.key)).collect();
        let good = ("192.0.2.0/24".parse().unwrap(), false);
        assert_eq!(told, [Ok(good), Err("192.0.2.7".into()), Err("300.1.1.1".into()), Err("by/moonlight".into())]);
    }
}
