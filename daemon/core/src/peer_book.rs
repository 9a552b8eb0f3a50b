//! The peer book: who was connected, whom to forget when it is full, and whom to dial at a start. Peer ids cost nothing, so that neither
//! may go by who came last: whoever sends a thousand new ones would fill it, and be all that the next start dials.

use std::{cmp::Reverse, collections::HashMap, net::IpAddr};

use crate::{
    address_scope::Scope,
    multiaddr::{Host, Multiaddr},
    time::RunMs,
};

/// Peers in it.
pub const MAX_PEERS: usize = 1000;
/// Peers that are dialled at a start.
pub const DIALLED: usize = 8;
/// Of these, how many in one place of the world.
const OF_PLACE: usize = 2;
/// From when on a peer that was not seen is forgotten before all others, in milliseconds.
const UNSEEN_MS: u64 = 30 * 24 * 3_600_000;

/// What is known of a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Addresses it was reached at, or says that it has.
    pub addresses: Vec<Multiaddr>,
    /// When it was connected first and last.
    pub first: RunMs,
    /// See `first`.
    pub last: RunMs,
    /// This daemon has dialled it before it came by itself: it was told of it by somebody, or by a person.
    pub dialled: bool,
}

impl Known {
    fn is_unseen(&self, now: RunMs) -> bool {
        now.since(self.last) >= UNSEEN_MS
    }
}

/// Whom to forget, so that no more than `keep` remain: those who were not seen for 30 days; then those who only came here, the newest
/// first; then those who were dialled, the longest unseen first.
pub fn surplus<P: Clone>(all: &[(P, Known)], keep: usize, now: RunMs) -> Vec<P> {
    let order = |known: &Known| {
        let of_kind = if known.dialled { known.last } else { RunMs(u64::MAX - known.first.0) };
        (!known.is_unseen(now), known.dialled, of_kind)
    };
    let mut all: Vec<_> = all.iter().collect();
    all.sort_by_key(|(_, known)| order(known));
    all.iter().take(all.len().saturating_sub(keep)).map(|(peer, _)| peer.clone()).collect()
}

/// Whom to dial at a start: those who were dialled before, the last seen first; then the others, the longest known first. Not more than two
/// in one place of the world.
pub fn to_dial<P: Clone>(all: Vec<(P, Known)>, now: RunMs) -> Vec<(P, Known)> {
    let order = |known: &Known| {
        let of_kind = if known.dialled { Reverse(known.last.0) } else { Reverse(u64::MAX - known.first.0) };
        (known.is_unseen(now), !known.dialled, of_kind)
    };
    let mut all: Vec<_> = all.into_iter().filter(|(_, known)| !known.addresses.is_empty()).collect();
    all.sort_by_key(|(_, known)| order(known));
    let mut in_place: HashMap<String, usize> = HashMap::new();
    let chosen = all.into_iter().filter(|(_, known)| {
        let Some(place) = known.addresses.iter().find_map(place) else { return true };
        let count = in_place.entry(place).or_default();
        *count = count.saturating_add(1);
        *count <= OF_PLACE
    });
    chosen.take(DIALLED).collect()
}

/// The part of the world that an address leads to first, where a relay is between that of the relay: an IPv4 /16, an IPv6 /32, the last
/// two parts of a name; `None` for what is near. Whatever has neither address nor name is one place.
fn place(address: &Multiaddr) -> Option<String> {
    if address.reach() < Scope::World {
        return None;
    }
    Some(match address.dialled_host() {
        Some(Host::Ip(IpAddr::V4(ip))) => {
            let [a, b, ..] = ip.octets();
            format!("{a}.{b}")
        }
        Some(Host::Ip(IpAddr::V6(ip))) => {
            let [a, b, ..] = ip.segments();
            format!("{a:x}:{b:x}:")
        }
        Some(Host::Name(name)) => name.rsplit('.').take(2).collect::<Vec<_>>().join("."),
        None => String::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: RunMs = RunMs(100 * 24 * 3_600_000);
    const DAY: u64 = 24 * 3_600_000;
    const PEER: &str = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";

    fn known(address: &str, first_days_ago: u64, last_days_ago: u64, dialled: bool) -> Known {
        let ago = |days: u64| RunMs(NOW.0 - days * DAY);
        Known {
            addresses: vec![address.parse().unwrap()],
            first: ago(first_days_ago),
            last: ago(last_days_ago),
            dialled,
        }
    }

    #[test]
    fn a_thousand_new_peers_push_out_nobody_who_was_there() {
        let mut all: Vec<(u32, Known)> =
            (0..20).map(|n| (n, known("/ip4/198.51.100.1/tcp/4001", 50, 1, n < 10))).collect();
        all.extend((20..25).map(|n| (n, known("/ip4/198.51.100.1/tcp/4001", 60, 40, true))));
        all.extend((100..1_200).map(|n| (n, known("/ip4/203.0.113.1/tcp/4001", 0, 0, false))));
        let gone = surplus(&all, 1_000, NOW);
        assert_eq!(gone.len(), 125);
        assert_eq!(gone[..5], [20, 21, 22, 23, 24], "who was not seen for long");
        assert!(gone[5..].iter().all(|peer| *peer >= 100));
        let dialled: Vec<_> = to_dial(all, NOW).into_iter().map(|(peer, _)| peer).collect();
        assert_eq!(dialled, [0, 1, 100, 101], "two of each place");
    }

    #[test]
    fn whom_we_dialled_comes_first_and_near_ones_are_not_counted() {
        let near = |n: u32, dialled| (n, known(&format!("/ip4/192.168.1.{n}/tcp/4001"), u64::from(n), 0, dialled));
        let all: Vec<_> = (1..20).map(|n| near(n, n % 2 == 0)).collect();
        let dialled: Vec<_> = to_dial(all.clone(), NOW).into_iter().map(|(peer, _)| peer).collect();
        assert_eq!(dialled.len(), DIALLED);
        assert!(dialled.iter().all(|peer| peer % 2 == 0), "{dialled:?}");
        assert!(surplus(&all, 19, NOW).is_empty());
        assert_eq!(surplus(&all, 18, NOW), [1], "the newest of those who only came");
    }

    #[test]
    fn places_are_networks_of_the_world() {
        for (address, expected) in [
            ("/ip4/198.51.100.7/udp/4001/quic-v1", Some("198.51")),
            ("/ip6/2001:db8::1/tcp/4001", Some("2001:db8:")),
            ("/dns4/radio.example.org/tcp/4001", Some("org.example")),
            ("/ip4/10.0.0.1/tcp/4001", None),
            ("/onion3/vww6ybal4bd7szmgncyruucpgfkqahzddi37ktceo3ah7ngmcopnpyyd:1", Some("")),
            (&format!("/ip4/198.51.100.7/tcp/1/p2p/{PEER}/p2p-circuit"), Some("198.51")),
            (&format!("/ip4/10.0.0.1/tcp/1/p2p/{PEER}/p2p-circuit"), None),
        ] {
            assert_eq!(place(&address.parse().unwrap()).as_deref(), expected, "{address}");
        }
    }

    #[test]
    fn those_not_seen_for_thirty_days_are_forgotten_first_and_dialled_last() {
        let at = |n: u32| format!("/ip4/{n}.51.100.1/tcp/4001");
        // All dialled before; the second was seen 30 days ago, and the third a day later.
        let seen =
            [(1, known(&at(1), 90, 2, true)), (2, known(&at(2), 90, 30, true)), (3, known(&at(3), 90, 29, true))];
        assert_eq!((surplus(&seen, 2, NOW), surplus(&seen, 0, NOW)), (vec![2], vec![2, 3, 1]));
        let came = (4, known(&at(4), 5, 1, false));
        let all: Vec<_> =
            seen.into_iter().chain([came, (5, Known { addresses: Vec::new(), ..known(&at(5), 1, 0, true) })]).collect();
        let dialled: Vec<_> = to_dial(all, NOW).into_iter().map(|(peer, _)| peer).collect();
        assert_eq!(dialled, [1, 3, 4, 2], "without the one of which no address is known");
    }

    #[test]
    fn of_those_who_only_came_the_longest_known_stay_and_are_dialled() {
        let all: Vec<_> =
            (1..=5).map(|n| (n, known(&format!("/ip4/{n}.51.100.1/tcp/4001"), 10 + u64::from(n), 1, false))).collect();
        assert_eq!(surplus(&all, 3, NOW), [1, 2]);
        assert_eq!(to_dial(all, NOW).into_iter().map(|(peer, _)| peer).collect::<Vec<u8>>(), [5, 4, 3, 2, 1]);
    }
}
