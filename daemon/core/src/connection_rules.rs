//! Who may connect: what an operator allows and denies by peer and by address, and how many connections may come from one
//! place.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    net::IpAddr,
    str::FromStr,
};

use ipnet::IpNet;

use crate::{bucket::Buckets, id::PeerId, time::MonoMs};

/// Most rules.
pub const MAX_RULES: usize = 1000;
/// How many seconds' new connections may come from one place at once.
const AT_ONCE_S: u32 = 16;
/// Of the connections that may be in the making at once, the part that one place may have.
const MAKING_SHARE: u32 = 8;
/// An IPv6 site of 65,536 networks may have so many times what a place may.
const SITE: u32 = 8;
/// Most places whose rate is remembered.
const MAX_BUCKETS: usize = 4096;

/// What a rule is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// A peer, wherever it is.
    Peer(PeerId),
    /// Whoever is at these addresses.
    Range(IpNet),
}

impl FromStr for Subject {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(range) = text.parse::<IpNet>() {
            return Ok(Subject::Range(canonical(range).trunc()));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Subject::Range(address.to_canonical().into()));
        }
        let fault = |_| "takes a peer id, an address or a range of them, as in 192.0.2.0/24".to_owned();
        text.parse().map(Subject::Peer).map_err(fault)
    }
}

/// A range of IPv4 also where it is written as IPv6 (`::ffff:192.0.2.0/120`), as connections are.
fn canonical(range: IpNet) -> IpNet {
    match (range.addr().is_ipv6(), range.addr().to_canonical(), range.prefix_len().checked_sub(96)) {
        (true, IpAddr::V4(address), Some(prefix)) => IpNet::new(address.into(), prefix).unwrap_or(range),
        _ => range,
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Peer(peer) => peer.fmt(f),
            Subject::Range(range) => range.fmt(f),
        }
    }
}

/// What an operator has ruled. Allowing goes before denying.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules(BTreeMap<Subject, bool>);

impl Rules {
    /// Allows or denies, in place of what was ruled of the same subject. False when there are too many rules.
    pub fn set(&mut self, subject: Subject, allow: bool) -> bool {
        let room = self.0.len() < MAX_RULES || self.0.contains_key(&subject);
        if room {
            self.0.insert(subject, allow);
        }
        room
    }

    /// Takes up a rule that was kept, however many there are: none is left out.
    pub fn restore(&mut self, subject: Subject, allow: bool) {
        self.0.insert(subject, allow);
    }

    /// Forgets a rule. False when there was none.
    pub fn remove(&mut self, subject: &Subject) -> bool {
        self.0.remove(subject).is_some()
    }

    /// Every rule; true allows.
    pub fn iter(&self) -> impl Iterator<Item = (&Subject, bool)> {
        self.0.iter().map(|(subject, allow)| (subject, *allow))
    }

    /// Whether a peer, at an address if it is known, is allowed (true) or denied (false) by a rule.
    pub fn of(&self, peer: Option<&PeerId>, address: Option<IpAddr>) -> Option<bool> {
        self.deciding(peer, address).map(|(_, allow)| allow)
    }

    /// The rule that decides that.
    pub fn deciding(&self, peer: Option<&PeerId>, address: Option<IpAddr>) -> Option<(&Subject, bool)> {
        let fits = |subject: &Subject| match subject {
            Subject::Peer(ruled) => Some(ruled) == peer,
            Subject::Range(range) => address.is_some_and(|address| range.contains(&address)),
        };
        self.iter().filter(|(subject, _)| fits(subject)).max_by_key(|(_, allow)| *allow)
    }
}

/// Inbound connections by place: an IPv4 address, or an IPv6 network of 2^72 addresses, as a customer is given.
pub struct Crowd {
    open: HashMap<IpNet, u32>,
    making: HashMap<IpNet, u32>,
    new: Buckets<IpNet>,
}

impl Default for Crowd {
    fn default() -> Self {
        Crowd { open: HashMap::new(), making: HashMap::new(), new: Buckets::new(MAX_BUCKETS) }
    }
}

fn range(address: IpAddr, v4: u8, v6: u8) -> IpNet {
    let prefix = if address.is_ipv4() { v4 } else { v6 };
    IpNet::new(address, prefix).map_or(address.into(), |range| range.trunc())
}

fn places(address: IpAddr) -> [IpNet; 2] {
    [range(address, 32, 56), range(address, 32, 48)]
}

/// The place and the site, which of IPv4 are the same.
fn each_once(address: IpAddr) -> impl Iterator<Item = IpNet> {
    let [place, site] = places(address);
    [Some(place), (site != place).then_some(site)].into_iter().flatten()
}

impl Crowd {
    /// Whether one more may come from there, of `most` and so many new ones per second; says why not.
    pub fn admit(&mut self, now: MonoMs, address: IpAddr, most: u32, rate: u32) -> Result<(), &'static str> {
        self.room(address, most)?;
        let [place, _] = places(address);
        if self.new.take(now, &place, rate, rate.saturating_mul(AT_ONCE_S)) {
            Ok(())
        } else {
            Err("too many new connections from this address")
        }
    }

    /// Whether so many connections from there leave room for one more; says so if not.
    pub fn room(&self, address: IpAddr, most: u32) -> Result<(), &'static str> {
        let [place, site] = places(address);
        let open = |range| self.open.get(range).copied().unwrap_or(0);
        if open(&place) >= most || (site != place && open(&site) >= most.saturating_mul(SITE)) {
            return Err("too many connections from this address");
        }
        Ok(())
    }

    /// Counts a connection that is being made, of `most` in all, unless those from there have their part already.
    pub fn begin(&mut self, address: IpAddr, most: u32) -> Result<(), &'static str> {
        let [place, _] = places(address);
        let count = self.making.entry(place).or_default();
        if *count >= (most / MAKING_SHARE).max(1) {
            return Err("too many unfinished connections from this address");
        }
        *count = count.saturating_add(1);
        Ok(())
    }

    /// Counts one less that is being made: it stands, or has failed.
    pub fn end(&mut self, address: IpAddr) {
        let [place, _] = places(address);
        if let Some(count) = self.making.get_mut(&place) {
            *count = count.saturating_sub(1);
        }
        self.making.retain(|_, count| *count > 0);
    }

    /// Counts a connection.
    pub fn enter(&mut self, address: IpAddr) {
        for range in each_once(address) {
            let count = self.open.entry(range).or_default();
            *count = count.saturating_add(1);
        }
    }

    /// Counts it no more.
    pub fn leave(&mut self, address: IpAddr) {
        for range in each_once(address) {
            if let Some(count) = self.open.get_mut(&range) {
                *count = count.saturating_sub(1);
            }
        }
        self.open.retain(|_, count| *count > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";

    fn subject(text: &str) -> Subject {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn allowing_goes_before_denying_and_ranges_hold_their_addresses() {
        let mut rules = Rules::default();
        for (text, allow) in [("192.0.2.0/24", false), ("192.0.2.7", true), (PEER, false)] {
            assert!(rules.set(subject(text), allow), "{text}");
        }
        let at = |address: &str| rules.of(None, Some(ip(address)));
        assert_eq!((at("192.0.2.9"), at("192.0.2.7"), at("198.51.100.1")), (Some(false), Some(true), None));
        let peer = PEER.parse().ok();
        assert_eq!(rules.of(peer.as_ref(), None), Some(false));
        assert_eq!(rules.of(peer.as_ref(), Some(ip("198.51.100.1"))), Some(false));
        assert_eq!(rules.of(peer.as_ref(), Some(ip("192.0.2.7"))), Some(true));
        let other = PeerId::from_ed25519(&[1; 32]);
        assert_eq!((rules.of(Some(&other), None), rules.of(None, None)), (None, None));
    }

    #[test]
    fn a_subject_is_written_as_it_is_compared() {
        for (text, shown) in [
            ("192.0.2.9/24", "192.0.2.0/24"),
            ("192.0.2.7", "192.0.2.7/32"),
            ("::ffff:192.0.2.7", "192.0.2.7/32"),
            ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
            ("::ffff:0:0/95", "::fffe:0:0/95"),
            ("2001:db8::1/32", "2001:db8::/32"),
            (PEER, PEER),
        ] {
            assert_eq!(subject(text).to_string(), shown);
            assert_eq!(subject(shown), subject(text));
        }
        for bad in ["", "somewhere", "300.1.1.1", "192.0.2.0/33", "192.0.2.0/"] {
            assert!(bad.parse::<Subject>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_last_word_on_a_subject_holds() {
        let mut rules = Rules::default();
        let at = |rules: &Rules| rules.of(None, Some(ip("192.0.2.9")));
        assert!(rules.set(subject("192.0.2.0/24"), false));
        assert_eq!(at(&rules), Some(false));
        assert!(rules.set(subject("192.0.2.0/24"), true));
        assert_eq!((at(&rules), rules.iter().count()), (Some(true), 1));
    }

    #[test]
    fn a_rule_that_is_forgotten_holds_no_more_and_others_do() {
        let mut rules = Rules::default();
        rules.set(subject("192.0.2.0/24"), false);
        rules.set(subject(PEER), false);
        assert!(!rules.remove(&subject("192.0.2.0/25")), "there is none");
        assert_eq!(rules.iter().count(), 2);
        assert!(rules.remove(&subject("192.0.2.0/24")));
        assert_eq!(rules.of(None, Some(ip("192.0.2.9"))), None);
        assert_eq!(rules.of(PEER.parse().ok().as_ref(), None), Some(false));
        assert!(!rules.remove(&subject("192.0.2.0/24")), "it is forgotten already");
    }

    #[test]
    fn a_full_list_takes_no_new_subject_and_changes_those_it_has() {
        let mut rules = Rules::default();
        let nth = |n: usize| Subject::Range(IpAddr::from(u32::try_from(n).unwrap().to_be_bytes()).into());
        (0..MAX_RULES).for_each(|n| assert!(rules.set(nth(n), false), "{n}"));
        assert!(!rules.set(nth(MAX_RULES), false));
        assert_eq!((rules.iter().count(), rules.of(None, Some(ip("0.0.3.232")))), (MAX_RULES, None));
        assert!(rules.set(nth(7), true));
        assert_eq!(rules.of(None, Some(ip("0.0.0.7"))), Some(true));
        assert!(rules.remove(&nth(0)) && rules.set(nth(MAX_RULES), false), "there is room again");
    }

    #[test]
    fn one_place_gets_so_many_and_others_theirs() {
        let mut crowd = Crowd::default();
        let (one, other) = (ip("192.0.2.1"), ip("192.0.2.2"));
        for _ in 0..8 {
            assert_eq!(crowd.room(one, 8), Ok(()));
            assert_eq!(crowd.admit(MonoMs(0), one, 8, 1), Ok(()));
            crowd.enter(one);
        }
        assert_eq!(crowd.admit(MonoMs(0), one, 8, 1), Err("too many connections from this address"));
        assert_eq!(crowd.room(one, 9), Ok(()));
        assert_eq!(crowd.admit(MonoMs(0), other, 8, 1), Ok(()));
        crowd.enter(other);
        // One that leaves makes room for one.
        crowd.leave(one);
        assert_eq!(crowd.admit(MonoMs(0), one, 8, 1), Ok(()));
        crowd.enter(one);
        assert!(crowd.room(one, 8).is_err());
        // What leaves is its own place's, and is forgotten with the last.
        (0..8).for_each(|_| crowd.leave(one));
        assert_eq!(crowd.open, HashMap::from([("192.0.2.2/32".parse().unwrap(), 1)]));
        crowd.leave(other);
        crowd.leave(other);
        assert!(crowd.open.is_empty());
    }

    #[test]
    fn one_that_is_turned_away_for_the_number_does_not_count_for_the_rate() {
        let mut crowd = Crowd::default();
        let address = ip("192.0.2.1");
        crowd.enter(address);
        for _ in 0..100 {
            assert_eq!(crowd.admit(MonoMs(0), address, 1, 1), Err("too many connections from this address"));
        }
        crowd.leave(address);
        assert_eq!(crowd.admit(MonoMs(0), address, 1, 1), Ok(()));
        let too_fast = (0..16).map(|_| crowd.admit(MonoMs(0), address, 1, 1)).last();
        assert_eq!(too_fast, Some(Err("too many new connections from this address")));
    }

    #[test]
    fn one_place_has_a_part_of_those_in_the_making() {
        let mut crowd = Crowd::default();
        let (one, other) = (ip("192.0.2.1"), ip("192.0.2.2"));
        for _ in 0..8 {
            crowd.begin(one, 64).unwrap();
        }
        assert!(crowd.begin(one, 64).is_err());
        crowd.begin(other, 64).unwrap();
        crowd.end(one);
        crowd.begin(one, 64).unwrap();
        assert!(crowd.begin(one, 64).is_err(), "one has ended, not all");
        (0..9).for_each(|_| crowd.end(one));
        crowd.end(other);
        assert!(crowd.making.is_empty());
    }

    #[test]
    fn an_ipv6_customer_is_one_place_and_a_site_is_bounded_too() {
        let mut crowd = Crowd::default();
        let at = |network: u16, host: u16| format!("2001:db8:0:{network:x}::{host:x}").parse::<IpAddr>().unwrap();
        for host in 0..2 {
            crowd.admit(MonoMs(0), at(0x100, host), 2, 1).unwrap();
            crowd.enter(at(0x100, host));
        }
        assert!(crowd.admit(MonoMs(0), at(0x1ff, 9), 2, 1).is_err(), "the same /56");
        for network in 2..15 {
            crowd.enter(at(network << 8, 1));
        }
        assert_eq!(crowd.room(at(0x2000, 1), 2), Ok(()), "15 of 16 of this /48");
        crowd.enter(at(15 << 8, 1));
        assert!(crowd.admit(MonoMs(0), at(0x2000, 1), 2, 1).is_err(), "the same /48");
        // Whoever leaves leaves place and site.
        crowd.leave(at(15 << 8, 9));
        assert_eq!(crowd.room(at(0x2000, 1), 2), Ok(()));
        for network in 2..15 {
            crowd.leave(at(network << 8, 1));
        }
        (0..2).for_each(|host| crowd.leave(at(0x100, host)));
        assert!(crowd.open.is_empty(), "{:?}", crowd.open);
    }

    #[test]
    fn who_comes_again_and_again_has_to_wait() {
        let mut crowd = Crowd::default();
        let address = "192.0.2.1".parse().unwrap();
        let let_in =
            |crowd: &mut Crowd, ms| (0..100).filter(|_| crowd.admit(MonoMs(ms), address, 8, 1).is_ok()).count();
        assert_eq!(let_in(&mut crowd, 0), 16);
        assert_eq!(let_in(&mut crowd, 3_000), 3);
    }

    #[test]
    fn kept_rules_are_taken_up_however_many_they_are() {
        let mut rules = Rules::default();
        let nth = |n: usize| Subject::Range(IpAddr::from(u32::try_from(n).unwrap().to_be_bytes()).into());
        (0..=MAX_RULES).for_each(|n| rules.restore(nth(n), n == 7));
        assert_eq!((rules.iter().count(), rules.of(None, Some(ip("0.0.0.7")))), (MAX_RULES + 1, Some(true)));
        assert_eq!(rules.of(None, Some(ip("0.0.3.232"))), Some(false), "the last one");
        assert!(!rules.set(nth(MAX_RULES + 1), false) && rules.set(nth(3), true), "but no new one is set");
    }
}
