//! Which of its own addresses the world reaches, as far as a daemon knows, and who says so. Addresses of the world are tested by peers
//! (AutoNAT v2), again and again: routers restart, and providers give out other addresses.

use crate::{
    address_scope::Scope,
    id::PeerId,
    multiaddr::Multiaddr,
    time::{MonoMs, UnixMs},
};

/// Most addresses that are tested.
const MAX_CANDIDATES: usize = 16;
/// An address is tested again after so long, in milliseconds.
const AGAIN_MS: u64 = 30 * 60_000;
/// The same where no peer has said anything of use, or one alone that an address is not reached.
const SOON_MS: u64 = 60_000;
/// The same where nobody was there to ask.
const NOBODY_MS: u64 = 5_000;
/// How long a new address waits, for what else comes at the same time.
const SETTLE_MS: u64 = 2_000;
/// So many times, one after the other, a peer has to say that an address is not reached any more: another peer each time, where there is
/// another; many networks have one alone.
const REFUSALS: usize = 2;

/// From where an address is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// From the world.
    Public,
    /// From the world, through a relay.
    Relayed,
    /// Not from the world.
    Private,
    /// Nobody knows yet.
    Unknown,
}

/// Who says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Witness {
    /// The configuration.
    Operator,
    /// The address itself: it is one of this machine or of its network.
    Address,
    /// A peer that has tried (AutoNAT).
    Tester(PeerId),
    /// The relay.
    Relay(PeerId),
    /// So many connected peers see this machine at its IP address, which says nothing of who gets in.
    Observers(usize),
}

/// An own address, and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnAddress {
    /// The address.
    pub address: Multiaddr,
    /// From where it is reached.
    pub state: State,
    /// Since when that is known.
    pub since: UnixMs,
    /// Who says so.
    pub witness: Witness,
    /// Peers that did not reach it since one did; one that has tried twice, twice.
    pub refused_by: Vec<PeerId>,
}

/// What a peer says that was asked to test an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It was reached.
    Reached,
    /// It was not.
    NotReached,
    /// Nothing of use.
    Nothing,
}

/// Where an address is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The operator names it.
    Operator,
    /// The daemon listens on it.
    Listener,
    /// Peers see the daemon there.
    Observed,
}

#[derive(Debug)]
struct Candidate {
    own: OwnAddress,
    source: Source,
    due: MonoMs,
}

/// The addresses that are tested.
#[derive(Debug, Default)]
pub struct Reachability {
    candidates: Vec<Candidate>,
    /// When all were to be tested again last.
    stirred: Option<MonoMs>,
}

impl Reachability {
    /// Takes up an address. Those that do not reach the world need no test. With a new one, all are tested again: something has changed.
    /// `is_credible`: whether this machine may have an address at which peers say that they see it. The others make room first, and never
    /// take that of one that is.
    pub fn offer(
        &mut self,
        now: MonoMs,
        wall: UnixMs,
        address: Multiaddr,
        source: Source,
        is_credible: impl Fn(&Multiaddr) -> bool,
    ) {
        if self.candidates.iter().any(|known| known.own.address == address) {
            return;
        }
        if self.candidates.len() >= MAX_CANDIDATES {
            let is_loose = |known: &Candidate| known.source == Source::Observed && known.own.state != State::Public;
            let is_made_up = |known: &Candidate| is_loose(known) && !is_credible(&known.own.address);
            let may_take = source != Source::Observed || is_credible(&address);
            let made_up = self.candidates.iter().position(is_made_up);
            let goes = made_up.or_else(|| self.candidates.iter().position(is_loose).filter(|_| may_take));
            let Some(goes) = goes else { return };
            self.candidates.remove(goes);
        }
        let (state, witness) = match (source, address.reach()) {
            (Source::Operator, _) => (State::Public, Witness::Operator),
            (_, Scope::World) => (State::Unknown, Witness::Observers(0)),
            (_, Scope::Network | Scope::Machine) => (State::Private, Witness::Address),
        };
        let is_tested = address.reach() == Scope::World;
        let own = OwnAddress { address, state, since: wall, witness, refused_by: Vec::new() };
        let due = MonoMs(now.0.saturating_add(SETTLE_MS));
        self.candidates.push(Candidate { own, source, due });
        // Made-up addresses must not have all tested all the time.
        if is_tested && self.stirred.is_none_or(|at| now.since(at) >= SOON_MS) {
            self.stirred = Some(now);
            self.candidates.iter_mut().for_each(|known| known.due = known.due.min(due));
        }
    }

    /// The daemon listens there no more. Where it was reached there, the peer that said so.
    pub fn withdraw(&mut self, address: &Multiaddr) -> Option<PeerId> {
        let is_it = |known: &mut Candidate| known.own.address == *address && known.source == Source::Listener;
        let gone = self.candidates.extract_if(.., is_it).find(|gone| gone.own.state == State::Public)?;
        match gone.own.witness {
            Witness::Tester(peer) => Some(peer),
            _ => None,
        }
    }

    /// An address to test now, and the peers that have refused it: another should. What is not credible is not tested, since whoever makes
    /// one up would have us and a tester knock there; but one that was reached is, which may be of before this machine's address changed.
    pub fn due(&self, now: MonoMs, is_credible: impl Fn(&Multiaddr) -> bool) -> Option<(Multiaddr, Vec<PeerId>)> {
        let is_tested = |known: &&Candidate| {
            let own = &known.own.address;
            let may_be_own = known.source != Source::Observed || known.own.state == State::Public || is_credible(own);
            own.reach() == Scope::World && may_be_own
        };
        let tested = self.candidates.iter().filter(is_tested);
        let due = tested.filter(|known| known.due <= now).min_by_key(|known| known.due)?;
        Some((due.own.address.clone(), due.own.refused_by.clone()))
    }

    /// Nobody can be asked now.
    pub fn nobody(&mut self, now: MonoMs, address: &Multiaddr) {
        if let Some(known) = self.candidates.iter_mut().find(|known| known.own.address == *address) {
            known.due = MonoMs(now.0.saturating_add(NOBODY_MS));
        }
    }

    /// Takes up what a peer says of an address. Whether its state has changed, and to what.
    pub fn answered(
        &mut self,
        now: MonoMs,
        wall: UnixMs,
        address: &Multiaddr,
        by: &PeerId,
        answer: Answer,
    ) -> Option<State> {
        let known = self.candidates.iter_mut().find(|known| known.own.address == *address)?;
        let before = known.own.state;
        let wait = match answer {
            Answer::Reached => {
                known.own.refused_by.clear();
                known.own.state = State::Public;
                AGAIN_MS
            }
            Answer::NotReached => {
                known.own.refused_by.push(by.clone());
                let is_sure = known.own.refused_by.len() >= REFUSALS;
                known.own.refused_by.truncate(REFUSALS);
                if is_sure || before == State::Unknown {
                    known.own.state = State::Private;
                }
                if is_sure { AGAIN_MS } else { SOON_MS }
            }
            Answer::Nothing => SOON_MS,
        };
        known.due = MonoMs(now.0.saturating_add(wait));
        if known.source == Source::Operator {
            known.own.state = State::Public;
            return None;
        }
        if known.own.state == before {
            return None;
        }
        (known.own.since, known.own.witness) = (wall, Witness::Tester(by.clone()));
        Some(known.own.state)
    }

    /// Whether the world reaches this daemon at an address of its own. `None` while nobody has tested those on which it listens, or any.
    pub fn is_reached(&self) -> Option<bool> {
        let any = |is: fn(&Candidate) -> bool| self.candidates.iter().any(is);
        if any(|known| known.own.state == State::Public) {
            return Some(true);
        }
        let is_open = any(|known| known.source == Source::Listener && known.own.state == State::Unknown);
        let is_tested = any(|known| matches!(known.own.witness, Witness::Tester(_)));
        (is_tested && !is_open).then_some(false)
    }

    /// All addresses, as they are known. `observers`: how many peers see this machine at the address's IP address.
    pub fn list(&self, observers: impl Fn(&Multiaddr) -> usize) -> Vec<OwnAddress> {
        let told = |known: &Candidate| {
            let mut own = known.own.clone();
            own.refused_by.dedup();
            if let Witness::Observers(count) = &mut own.witness {
                *count = observers(&own.address);
            }
            own
        };
        self.candidates.iter().map(told).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: &str = "/ip4/192.168.1.2/tcp/4001";
    const OUTSIDE: &str = "/ip4/192.0.2.1/tcp/4001";

    fn at(address: &str) -> Multiaddr {
        address.parse().unwrap()
    }

    fn peer(n: u8) -> PeerId {
        PeerId::from_ed25519(&[n; 32])
    }

    fn known(reach: &Reachability, address: &str) -> OwnAddress {
        reach.list(|_| 3).into_iter().find(|own| own.address == at(address)).unwrap()
    }

    /// One address of the world, seen at 0 s.
    fn seen() -> Reachability {
        let mut reach = Reachability::default();
        reach.offer(MonoMs(0), UnixMs(1), at(OUTSIDE), Source::Observed, |_| true);
        reach
    }

    #[test]
    fn an_address_of_the_world_is_tested_and_one_of_the_machine_is_not() {
        let mut reach = seen();
        reach.offer(MonoMs(0), UnixMs(1), at(HOME), Source::Listener, |_| true);
        assert_eq!(reach.is_reached(), None);
        assert_eq!(
            (known(&reach, OUTSIDE).state, known(&reach, OUTSIDE).witness),
            (State::Unknown, Witness::Observers(3))
        );
        assert_eq!((known(&reach, HOME).state, known(&reach, HOME).witness), (State::Private, Witness::Address));
        assert_eq!(reach.due(MonoMs(SETTLE_MS - 1), |_| true), None);
        let now = MonoMs(SETTLE_MS);
        assert_eq!(reach.due(now, |_| true), Some((at(OUTSIDE), vec![])));
        assert_eq!(reach.answered(now, UnixMs(5), &at(OUTSIDE), &peer(1), Answer::Reached), Some(State::Public));
        let own = known(&reach, OUTSIDE);
        assert_eq!((own.since, own.witness, reach.is_reached()), (UnixMs(5), Witness::Tester(peer(1)), Some(true)));
        assert_eq!(reach.due(MonoMs(now.0 + 1_799_999), |_| true), None);
        assert!(reach.due(MonoMs(now.0 + 1_800_000), |_| true).is_some(), "and again");
        assert_eq!(reach.answered(now, UnixMs(6), &at(OUTSIDE), &peer(2), Answer::Reached), None, "no news");
        assert_eq!(known(&reach, OUTSIDE).since, UnixMs(5));
        assert_eq!(seen().due(now, |_| false), None, "it cannot be one of this machine");
        let again = MonoMs(now.0 + 1_800_000);
        assert!(reach.due(again, |_| false).is_some(), "it was one of this machine, whose address may have changed");
        assert_eq!(reach.answered(now, UnixMs(6), &at("/ip4/192.0.2.9/tcp/1"), &peer(2), Answer::Reached), None);
    }

    #[test]
    fn an_address_that_was_reached_is_lost_when_that_is_said_twice() {
        let (mut reach, now) = (seen(), MonoMs(SETTLE_MS));
        let says = |reach: &mut Reachability, n, answer| reach.answered(now, UnixMs(5), &at(OUTSIDE), &peer(n), answer);
        says(&mut reach, 1, Answer::Reached);
        assert_eq!(says(&mut reach, 2, Answer::NotReached), None);
        assert_eq!(
            reach.due(MonoMs(now.0 + SOON_MS), |_| true),
            Some((at(OUTSIDE), vec![peer(2)])),
            "another is asked soon"
        );
        assert_eq!(says(&mut reach, 3, Answer::Nothing), None);
        assert_eq!(reach.is_reached(), Some(true));
        assert_eq!(says(&mut reach, 3, Answer::NotReached), Some(State::Private));
        assert_eq!(known(&reach, OUTSIDE).refused_by, [peer(2), peer(3)]);
        assert_eq!((reach.is_reached(), reach.due(MonoMs(now.0 + SOON_MS), |_| true)), (Some(false), None));
        says(&mut reach, 4, Answer::NotReached);
        assert_eq!(known(&reach, OUTSIDE).refused_by.len(), 2);
        assert_eq!(says(&mut reach, 2, Answer::Reached), Some(State::Public));
        assert!(known(&reach, OUTSIDE).refused_by.is_empty());
        // There is one alone who can be asked.
        assert_eq!(says(&mut reach, 2, Answer::NotReached), None);
        assert_eq!(says(&mut reach, 2, Answer::NotReached), Some(State::Private));
        assert_eq!(known(&reach, OUTSIDE).refused_by, [peer(2)], "it is named once");
    }

    #[test]
    fn one_that_nobody_reached_yet_is_private_when_one_peer_says_so() {
        let (mut reach, now) = (seen(), MonoMs(SETTLE_MS));
        assert_eq!(reach.answered(now, UnixMs(5), &at(OUTSIDE), &peer(1), Answer::Nothing), None);
        assert_eq!(reach.is_reached(), None);
        let refused = reach.answered(now, UnixMs(5), &at(OUTSIDE), &peer(1), Answer::NotReached);
        assert_eq!((refused, reach.is_reached()), (Some(State::Private), Some(false)));
        assert!(reach.due(MonoMs(now.0 + SOON_MS), |_| true).is_some());
        reach.nobody(MonoMs(now.0 + SOON_MS), &at(OUTSIDE));
        assert_eq!(reach.due(MonoMs(now.0 + SOON_MS + NOBODY_MS - 1), |_| true), None, "nobody could be asked");
        // The network has changed, and changes once more.
        let [soon, later] = [now.0 + SOON_MS, now.0 + SOON_MS + 1].map(MonoMs);
        reach.offer(soon, UnixMs(9), at("/ip4/192.0.2.2/tcp/4001"), Source::Listener, |_| true);
        assert_eq!(reach.due(MonoMs(soon.0 + SETTLE_MS), |_| true).unwrap().0, at(OUTSIDE));
        assert_eq!(reach.is_reached(), None, "one on which it listens is not tested");
        reach.nobody(soon, &at(OUTSIDE));
        reach.offer(later, UnixMs(9), at("/ip4/192.0.2.3/tcp/4001"), Source::Observed, |_| true);
        assert_ne!(reach.due(MonoMs(later.0 + SETTLE_MS), |_| true).unwrap().0, at(OUTSIDE), "not all at once again");
    }

    #[test]
    fn what_the_operator_says_stands() {
        let mut reach = Reachability::default();
        reach.offer(MonoMs(0), UnixMs(1), at(OUTSIDE), Source::Operator, |_| true);
        reach.offer(MonoMs(0), UnixMs(2), at(OUTSIDE), Source::Observed, |_| true);
        for n in 1..=3 {
            assert_eq!(reach.answered(MonoMs(0), UnixMs(5), &at(OUTSIDE), &peer(n), Answer::NotReached), None);
        }
        let own = known(&reach, OUTSIDE);
        assert_eq!((own.state, own.witness, own.since), (State::Public, Witness::Operator, UnixMs(1)));
        assert_eq!(own.refused_by, [peer(1), peer(2)], "and what others say of it is told");
        assert_eq!(reach.withdraw(&at(OUTSIDE)), None);
    }

    #[test]
    fn a_flood_of_made_up_addresses_takes_no_room_from_one_that_is_credible() {
        let mut reach = seen();
        let is_real = |address: &Multiaddr| *address == at(OUTSIDE);
        for n in 2..100 {
            let made_up = at(&format!("/ip4/192.0.2.{n}/tcp/1"));
            reach.offer(MonoMs(0), UnixMs(1), made_up, Source::Observed, is_real);
        }
        assert_eq!(reach.due(MonoMs(SETTLE_MS), is_real), Some((at(OUTSIDE), vec![])));
        // Full of credible ones, there is room for another, and for none that is made up.
        let mut full = Reachability::default();
        let offer = |full: &mut Reachability, n: usize, credible: bool| {
            let port = at(&format!("/ip4/192.0.2.1/tcp/{n}"));
            full.offer(MonoMs(0), UnixMs(1), port.clone(), Source::Observed, |known| *known != port || credible);
            full.list(|_| 1).iter().any(|own| own.address == port)
        };
        assert!((1..=MAX_CANDIDATES).all(|n| offer(&mut full, n, true)));
        assert_eq!([offer(&mut full, 100, false), offer(&mut full, 101, true)], [false, true]);
    }

    #[test]
    fn made_up_addresses_push_out_each_other_alone() {
        let mut reach = Reachability::default();
        let made_up = |n: usize| at(&format!("/ip4/192.0.2.{n}/tcp/1"));
        reach.offer(MonoMs(0), UnixMs(1), at(OUTSIDE), Source::Observed, |_| true);
        reach.answered(MonoMs(0), UnixMs(1), &at(OUTSIDE), &peer(1), Answer::Reached);
        reach.offer(MonoMs(0), UnixMs(1), at(HOME), Source::Listener, |_| true);
        (2..100).for_each(|n| reach.offer(MonoMs(0), UnixMs(1), made_up(n), Source::Observed, |_| true));
        let all: Vec<_> = reach.list(|_| 1).into_iter().map(|own| own.address).collect();
        assert_eq!(all.len(), MAX_CANDIDATES);
        assert!([at(OUTSIDE), at(HOME), made_up(99)].iter().all(|kept| all.contains(kept)), "{all:?}");
        assert_eq!(reach.withdraw(&at(OUTSIDE)), None, "no listener");
        assert_eq!((reach.withdraw(&at(HOME)), reach.list(|_| 1).len()), (None, MAX_CANDIDATES - 1));
        let mut listens = Reachability::default();
        (2..100).for_each(|n| listens.offer(MonoMs(0), UnixMs(1), made_up(n), Source::Listener, |_| true));
        assert_eq!(listens.list(|_| 1).len(), MAX_CANDIDATES);
        listens.answered(MonoMs(0), UnixMs(1), &made_up(2), &peer(1), Answer::Reached);
        assert_eq!((listens.withdraw(&made_up(2)), listens.is_reached()), (Some(peer(1)), None));
    }
}
