//! Which relays a daemon keeps a reservation at, so that others reach it through them: two at once, of those that its operator lists,
//! then of the peers it stays connected to, then of others; the nearest first.

use std::{collections::HashMap, time::Duration};

use ipnet::IpNet;

use crate::{id::PeerId, time::MonoMs};

/// Reservations at once: when one relay goes, the other is in place.
pub const WANTED: usize = 2;
/// For so long the place of a relay that was lost is kept for it, in milliseconds: whoever knows the address over it finds nobody at
/// another one.
const KEPT_MS: u64 = 60_000;
/// Most relays whose faults are remembered.
const MAX_REMEMBERED: usize = 256;

/// Why a relay is thought of, the best reason first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// It is one of `network.relays`.
    Listed,
    /// This daemon stays connected to it.
    Kept,
    /// It is connected.
    Connected,
}

/// A connected peer that offers to pass on connections.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Who.
    pub relay: PeerId,
    /// Why.
    pub rank: Rank,
    /// How far away, where that is known.
    pub rtt: Option<Duration>,
    /// The network that it is in, where that is one of the world: two relays of one go down together.
    pub network: Option<IpNet>,
}

/// Why there is no reservation at a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The connection to it closed, or it did not answer.
    Gone,
    /// It has no room.
    Full,
    /// It does not want this daemon, or what it said makes no sense.
    Refused,
}

impl Loss {
    /// How long it is left alone at first, and at most.
    fn patience(self) -> (Duration, Duration) {
        let (first, most) = match self {
            Loss::Gone => (1, 60),
            Loss::Full => (60, 3600),
            Loss::Refused => (600, 6 * 3600),
        };
        (Duration::from_secs(first), Duration::from_secs(most))
    }
}

#[derive(Clone, Debug)]
struct Held {
    network: Option<IpNet>,
    reserved: bool,
}

#[derive(Clone, Debug)]
struct Fault {
    /// It is left alone until then.
    until: MonoMs,
    /// How often it failed since it was last of use.
    times: u32,
    /// Its place is kept until then.
    kept: Option<MonoMs>,
    network: Option<IpNet>,
}

/// The relays that are asked, those that have agreed, and those that have failed.
#[derive(Clone, Debug, Default)]
pub struct Relays {
    held: HashMap<PeerId, Held>,
    faults: HashMap<PeerId, Fault>,
}

fn after(now: MonoMs, span: Duration) -> MonoMs {
    MonoMs(now.0.saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
}

impl Relays {
    /// Whom to ask now.
    pub fn next(&self, now: MonoMs, mut candidates: Vec<Candidate>) -> Vec<Candidate> {
        let keeps = |fault: &Fault| fault.kept.is_some_and(|until| now < until);
        let kept: Vec<_> = self.faults.iter().filter(|(_, fault)| keeps(fault)).collect();
        let mut taken: Vec<IpNet> = self.held.values().filter_map(|held| held.network).collect();
        taken.extend(kept.iter().filter_map(|(_, fault)| fault.network));
        let is_kept = |relay: &PeerId| kept.iter().any(|(lost, _)| *lost == relay);
        let mut room = WANTED.saturating_sub(self.held.len().saturating_add(kept.len()));
        candidates.retain(|candidate| {
            let due = self.faults.get(&candidate.relay).is_none_or(|fault| fault.until <= now);
            due && !self.held.contains_key(&candidate.relay)
        });
        candidates
            .sort_by_key(|candidate| (candidate.rank, candidate.rtt.unwrap_or(Duration::MAX), candidate.relay.clone()));
        candidates.retain(|candidate| {
            if is_kept(&candidate.relay) {
                return true;
            }
            let beside = candidate.network.is_some_and(|network| taken.contains(&network));
            if room == 0 || (beside && candidate.rank != Rank::Listed) {
                return false;
            }
            room -= 1;
            taken.extend(candidate.network);
            true
        });
        candidates
    }

    /// One is being asked.
    pub fn asked(&mut self, candidate: &Candidate) {
        self.held.insert(candidate.relay.clone(), Held { network: candidate.network, reserved: false });
    }

    /// It has agreed.
    pub fn reserved(&mut self, relay: &PeerId) {
        if let Some(held) = self.held.get_mut(relay) {
            held.reserved = true;
            self.faults.remove(relay);
        }
    }

    /// It is not needed any more.
    pub fn release(&mut self, relay: &PeerId) {
        self.held.remove(relay);
    }

    /// It did not agree, or agrees no more.
    pub fn lost(&mut self, now: MonoMs, relay: &PeerId, why: Loss) {
        let Some(held) = self.held.remove(relay) else { return };
        let before = self.faults.get(relay);
        let times = before.map_or(0, |fault| fault.times).saturating_add(1);
        let (first, most) = why.patience();
        let wait = first.saturating_mul(1_u32.checked_shl(times.saturating_sub(1)).unwrap_or(u32::MAX)).min(most);
        let kept = match why {
            Loss::Gone if held.reserved => Some(MonoMs(now.0.saturating_add(KEPT_MS))),
            Loss::Gone => before.and_then(|fault| fault.kept),
            Loss::Full | Loss::Refused => None,
        };
        if self.faults.len() >= MAX_REMEMBERED && before.is_none() {
            let soonest = self.faults.iter().min_by_key(|(_, fault)| fault.until).map(|(relay, _)| relay.clone());
            soonest.map(|relay| self.faults.remove(&relay));
        }
        self.faults.insert(relay.clone(), Fault { until: after(now, wait), times, kept, network: held.network });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relay(n: u8) -> PeerId {
        PeerId::from_ed25519(&[n; 32])
    }

    fn candidate(n: u8, rank: Rank, rtt_ms: u64, network: Option<&str>) -> Candidate {
        let network = network.map(|network| network.parse().unwrap());
        Candidate { relay: relay(n), rank, rtt: Some(Duration::from_millis(rtt_ms)), network }
    }

    fn next(relays: &Relays, ms: u64, candidates: &[Candidate]) -> Vec<PeerId> {
        relays.next(MonoMs(ms), candidates.to_vec()).into_iter().map(|candidate| candidate.relay).collect()
    }

    #[test]
    fn two_are_asked_the_listed_first_and_then_the_nearest() {
        let all = [
            candidate(1, Rank::Connected, 5, None),
            candidate(2, Rank::Connected, 2, None),
            candidate(3, Rank::Listed, 90, None),
            candidate(4, Rank::Kept, 80, None),
        ];
        let mut relays = Relays::default();
        assert_eq!(next(&relays, 0, &all), [relay(3), relay(4)]);
        assert_eq!(next(&relays, 0, &all[..2]), [relay(2), relay(1)]);
        relays.asked(&all[2]);
        assert_eq!(next(&relays, 0, &all), [relay(4)], "one is asked already");
        relays.asked(&all[3]);
        assert!(next(&relays, 0, &all).is_empty());
        let unknown = Candidate { rtt: None, ..candidate(5, Rank::Connected, 0, None) };
        assert_eq!(next(&Relays::default(), 0, &[unknown, all[0].clone()]), [relay(1), relay(5)]);
    }

    #[test]
    fn two_of_one_network_are_asked_only_where_the_operator_lists_them() {
        let net = Some("198.51.0.0/16");
        let beside = [candidate(1, Rank::Connected, 1, net), candidate(2, Rank::Connected, 2, net)];
        let mut relays = Relays::default();
        assert_eq!(next(&relays, 0, &beside), [relay(1)]);
        relays.asked(&beside[0]);
        relays.reserved(&relay(1));
        assert!(next(&relays, 0, &beside).is_empty());
        let listed = [candidate(1, Rank::Listed, 1, net), candidate(2, Rank::Listed, 2, net)];
        assert_eq!(next(&Relays::default(), 0, &listed), [relay(1), relay(2)]);
    }

    #[test]
    fn the_place_of_a_lost_one_is_kept_for_a_minute() {
        let all = [1, 2, 3].map(|n| candidate(n, Rank::Connected, u64::from(n), None));
        let mut relays = Relays::default();
        all[..2].iter().for_each(|candidate| relays.asked(candidate));
        [1, 2].iter().for_each(|n| relays.reserved(&relay(*n)));
        relays.lost(MonoMs(1_000), &relay(1), Loss::Gone);
        assert!(next(&relays, 1_999, &all).is_empty(), "not at once");
        assert_eq!(next(&relays, 2_000, &all), [relay(1)]);
        assert!(next(&relays, 60_999, &all[1..]).is_empty(), "no other meanwhile");
        relays.asked(&all[0]);
        relays.lost(MonoMs(3_000), &relay(1), Loss::Gone);
        assert!(next(&relays, 4_999, &all).is_empty(), "twice as patient, and the place is kept");
        assert_eq!(next(&relays, 5_000, &all), [relay(1)]);
        assert_eq!(next(&relays, 61_000, &all[1..]), [relay(3)], "then another");
    }

    #[test]
    fn one_that_is_not_needed_gives_its_place_to_another() {
        let all = [1, 2, 3].map(|n| candidate(n, Rank::Connected, u64::from(n), None));
        let mut relays = Relays::default();
        all[..2].iter().for_each(|candidate| relays.asked(candidate));
        assert!(next(&relays, 0, &all).is_empty());
        relays.release(&relay(1));
        assert_eq!(next(&relays, 0, &all[1..]), [relay(3)]);
        assert_eq!(next(&relays, 0, &all), [relay(1)], "nothing is held against it");
    }

    #[test]
    fn a_full_one_is_left_alone_and_its_place_is_anothers() {
        let all = [1, 2, 3].map(|n| candidate(n, Rank::Connected, u64::from(n), None));
        let mut relays = Relays::default();
        all[..2].iter().for_each(|candidate| relays.asked(candidate));
        relays.reserved(&relay(1));
        relays.lost(MonoMs(0), &relay(1), Loss::Full);
        assert_eq!(next(&relays, 0, &all), [relay(3)]);
        assert!(next(&relays, 59_999, &all[..2]).is_empty());
        assert_eq!(next(&relays, 60_000, &all[..2]), [relay(1)]);
        relays.lost(MonoMs(0), &relay(9), Loss::Gone);
        assert_eq!(relays.faults.len(), 1, "who was not asked was not lost");
    }

    #[test]
    fn patience_grows_to_its_bound_and_ends_with_an_agreement() {
        let one = candidate(1, Rank::Listed, 1, None);
        let mut relays = Relays::default();
        for _ in 0..40 {
            relays.asked(&one);
            relays.lost(MonoMs(0), &one.relay, Loss::Gone);
        }
        assert_eq!(relays.faults[&one.relay].until, MonoMs(60_000));
        relays.asked(&one);
        relays.reserved(&one.relay);
        relays.lost(MonoMs(0), &one.relay, Loss::Refused);
        assert_eq!(relays.faults[&one.relay].until, MonoMs(600_000));
    }

    #[test]
    fn a_crowd_of_relays_that_fail_is_not_remembered_without_bound() {
        let mut relays = Relays::default();
        for n in 0..=u16::try_from(MAX_REMEMBERED).unwrap() {
            let mut key = [0; 32];
            key[..2].copy_from_slice(&n.to_be_bytes());
            let one = Candidate { relay: PeerId::from_ed25519(&key), ..candidate(0, Rank::Connected, 1, None) };
            relays.asked(&one);
            relays.lost(MonoMs(u64::from(n)), &one.relay, Loss::Full);
        }
        assert_eq!(relays.faults.len(), MAX_REMEMBERED);
        assert!(relays.held.is_empty());
    }
}
