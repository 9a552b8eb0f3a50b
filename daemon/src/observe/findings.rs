//! What is as it should be and what is not, with what mends it, in the words of the API.

use p2pd_core::reachability::{self, Witness};
use p2pd_net::RelayState;

use super::{descriptors::InUse, health::State};

/// Fewer file descriptors than these are soon in use: each connection takes one.
const FEW_DESCRIPTORS: u64 = 1024;
/// Less room on the disk is soon used up, in bytes; and so many of a hundred.
const LITTLE_ROOM: u64 = 64 << 20;
const LITTLE_OF_HUNDRED: u64 = 1;
const MIB: u64 = 1 << 20;
/// A clock this far away has others refuse what is dated by it, in milliseconds (`p2pd_core::clock`).
const REFUSED_MS: u64 = 300_000;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// As it should be.
    Ok,
    /// It works, less well than it could.
    Warn,
    /// It does not work.
    Fail,
}

/// What was found when one thing was looked at.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    /// What was looked at.
    pub(crate) check: &'static str,
    pub(crate) level: Level,
    /// What was found.
    pub(crate) fact: String,
    /// What mends it; empty where nothing is to be done.
    pub(crate) mend: String,
}

impl Finding {
    pub(super) fn ok(check: &'static str, fact: impl Into<String>) -> Self {
        Finding { check, level: Level::Ok, fact: fact.into(), mend: String::new() }
    }

    pub(super) fn warn(check: &'static str, fact: impl Into<String>, mend: impl Into<String>) -> Self {
        Finding { check, level: Level::Warn, fact: fact.into(), mend: mend.into() }
    }

    pub(super) fn fail(check: &'static str, fact: impl Into<String>, mend: impl Into<String>) -> Self {
        Finding { check, level: Level::Fail, fact: fact.into(), mend: mend.into() }
    }

    /// The finding as a line of advice.
    fn line(&self) -> String {
        format!("{}: {}", self.fact, self.mend)
    }
}

/// What is not as it should be, a line each. Bootstrap peers have their own place.
pub(crate) fn advice(state: &State) -> Vec<String> {
    let wrong = |finding: &Finding| finding.level > Level::Ok && finding.check != "bootstrap";
    findings(state).iter().filter(|finding| wrong(finding)).map(Finding::line).collect()
}

/// All that was looked at.
pub(crate) fn findings(state: &State) -> Vec<Finding> {
    let mut all = vec![storage(state), descriptors(state), listeners(state)];
    all.extend(flood(state));
    all.extend(rules(state));
    all.push(peers(state));
    all.extend(bootstrap(state));
    all.extend(reach(state));
    all.extend(router(state));
    all.extend(relays(state));
    all.extend(tunnels(state));
    all.extend(bandwidth(state));
    all.extend(clocks(state));
    all.extend(gossip(state));
    all
}

fn storage(state: &State) -> Finding {
    if let Some(why) = &state.machine.storage_fault {
        let mend = "have 12 MiB or more free on it, or see what is wrong with it; the daemon goes on by itself then";
        return Finding::fail("storage", format!("the disk, or what is on it, fails ({why})"), mend);
    }
    let Some(disk) = &state.machine.disk else { return Finding::ok("storage", "the database answers") };
    let fact =
        format!("{} MiB of {} are free on the disk of {}", disk.free / MIB, disk.size / MIB, disk.path.display());
    let little = disk.free < LITTLE_ROOM || disk.free.saturating_mul(100) < disk.size.saturating_mul(LITTLE_OF_HUNDRED);
    match little {
        true => Finding::warn("storage", fact, "make room there; with less than 12 MiB nothing is kept any more"),
        false => Finding::ok("storage", fact),
    }
}

fn descriptors(state: &State) -> Finding {
    let raise = "raise the limit (LimitNOFILE in `systemctl edit p2pd`, or `ulimit -n`)";
    if let Some(short) = state.machine.descriptors_short {
        return Finding::fail("descriptors", in_use(short), format!("end programs that hold connections, or {raise}"));
    }
    match state.machine.descriptors {
        Some(now) if now.most < FEW_DESCRIPTORS => Finding::warn("descriptors", in_use(now), raise),
        Some(now) => Finding::ok("descriptors", in_use(now)),
        None => Finding::ok("descriptors", "enough file descriptors are left"),
    }
}

/// How many file descriptors are in use.
pub(crate) fn in_use(InUse { used, most }: InUse) -> String {
    format!("{used} of {most} file descriptors are in use")
}

fn listeners(state: &State) -> Finding {
    if state.listeners_missing > 0 {
        return Finding::warn("listeners", "not every address of network.listen is listened on", "the log says why");
    }
    Finding::ok("listeners", format!("{} listened on", counted(state.listening.len(), "address")))
}

fn counted(number: usize, thing: &str) -> String {
    match (number, thing.ends_with('s')) {
        (1, _) => format!("1 {thing} is"),
        (_, true) => format!("{number} {thing}es are"),
        (_, false) => format!("{number} {thing}s are"),
    }
}

fn flood(state: &State) -> Option<Finding> {
    let peer = state.flooded_by.as_ref()?;
    let fact = format!(
        "the directory is full, most of it brought by {peer}, or by somebody behind it, as its own NodeService.GetState tells then"
    );
    let mend = format!("denying {peer} by PeerService.SetRule keeps it away, with all that comes through it");
    Some(Finding::fail("directory", fact, mend))
}

fn bandwidth(state: &State) -> Option<Finding> {
    let fact = format!("messages of topics found no room within the bounds of bandwidth, {} so far", state.left_out?);
    let mend = "BandwidthService.SetBandwidth raises wan_upload, upload or messages_upload; or publish less";
    Some(Finding::warn("bandwidth", fact, mend))
}

fn rules(state: &State) -> Option<Finding> {
    let own = state.cut_off?;
    let fact = format!("a rule denies {own}, on which this daemon listens");
    Some(Finding::fail("rules", fact, "PeerService.ListRules shows it, PeerService.RemoveRule ends it"))
}

fn peers(state: &State) -> Finding {
    match (state.peers, state.bootstrap_missing.is_empty()) {
        (0, true) => {
            let mend = "give one with PeerService.Connect, or network.bootstrap in p2pd.toml";
            Finding::warn("peers", "no peer is connected", mend)
        }
        (0, false) => {
            let fact = "no peer is connected, nor was any of network.bootstrap reached";
            Finding::fail("peers", fact, "PeerService.Connect tries another")
        }
        (count, _) => Finding::ok("peers", format!("{} connected", counted(count, "peer"))),
    }
}

fn bootstrap(state: &State) -> Vec<Finding> {
    let missing = state.bootstrap_missing.iter().map(|missing| {
        let why = Some(&missing.why).filter(|why| !why.is_empty());
        let fact = format!("{} is not connected", missing.address);
        let mend = why.map_or("it is being dialled", String::as_str);
        Finding::warn("bootstrap", fact, mend)
    });
    missing.collect()
}

fn reach(state: &State) -> Option<Finding> {
    let of = |wanted| state.reached.addresses.iter().filter(move |own| own.state == wanted);
    let is_tested = |own: &&reachability::OwnAddress| matches!(own.witness, Witness::Tester(_));
    if let Some(public) = of(reachability::State::Public).next() {
        if public.witness == Witness::Operator && !public.refused_by.is_empty() {
            let by: Vec<_> = public.refused_by.iter().map(ToString::to_string).collect();
            let fact = format!("network.announce names {}, which was not reached by {}", public.address, by.join(", "));
            return Some(Finding::warn("reach", fact, "see that the router forwards that port to this machine"));
        }
        if let Some(peer) = public.refused_by.first() {
            let fact = format!(
                "{peer} did not reach {} when it tried last; it is tried again within a minute",
                public.address
            );
            return Some(Finding::warn("reach", fact, "see that the router still forwards that port to this machine"));
        }
        return Some(Finding::ok("reach", format!("the world reaches {}", public.address)));
    }
    let relayed = of(reachability::State::Relayed).next();
    let refused = of(reachability::State::Private).find(is_tested);
    match (relayed, refused) {
        (Some(relayed), _) => Some(Finding::ok("reach", format!("the world reaches {}", relayed.address))),
        (None, Some(refused)) => {
            let mend = "have the router forward the port to this machine, and name it in network.announce; or list a relay in network.relays";
            let fact = format!("the world does not reach {}", refused.address);
            Some(Finding::warn("reach", fact, mend))
        }
        (None, None) => {
            let Some(unknown) = of(reachability::State::Unknown).next() else {
                let mend = "name the address at which the world reaches it in network.announce";
                let fact = "this daemon is a relay, and has no address of the world";
                return state.is_relay.then(|| Finding::warn("reach", fact, mend));
            };
            let fact = format!("no peer has tried yet whether the world reaches {}", unknown.address);
            Some(Finding::ok("reach", fact))
        }
    }
}

fn router(state: &State) -> Option<Finding> {
    if !state.reached.ports_vary {
        return None;
    }
    let fact = "the router gives each destination another port, so that few direct connections come about through it";
    let is_reached = |own: &reachability::OwnAddress| {
        matches!(own.state, reachability::State::Public | reachability::State::Relayed)
    };
    Some(match state.reached.addresses.iter().any(is_reached) {
        true => Finding::ok("router", fact),
        false => {
            let mend = "list a relay in network.relays, or have the router forward the port to this machine";
            Finding::warn("router", fact, mend)
        }
    })
}

fn relays(state: &State) -> Vec<Finding> {
    let each = state.relays.iter().map(|relay| match &relay.state {
        RelayState::Asked => Finding::ok("relay", format!("{} is being asked to pass on connections", relay.peer)),
        RelayState::Reserved => Finding::ok("relay", format!("{} passes on connections", relay.peer)),
        RelayState::Lost(why) => {
            let fact = format!("no place at the relay {}: {why}", relay.peer);
            Finding::warn("relay", fact, "it is asked again with patience; another in network.relays takes its place")
        }
    });
    let any = state.relays.iter().any(|relay| relay.state == RelayState::Reserved);
    // Where another one does, that is no fault.
    each.filter(|finding| !any || finding.level == Level::Ok).collect()
}

fn tunnels(state: &State) -> Vec<Finding> {
    let fallen = |(name, fault): &(String, String)| {
        Finding::fail("tunnel", format!("the tunnel of {name} does not stand"), fault.as_str())
    };
    state.fallen.iter().map(fallen).collect()
}

fn clocks(state: &State) -> Vec<Finding> {
    let refused = "streams, and messages of topics with an accepted age, that are dated five minutes away are not taken on either side";
    let Some(by) = state.clocks.ours_for_people() else {
        let theirs = state.clocks.theirs_for_people().take(4).map(|(peer, by)| {
            let fact = format!("the clock of {peer} was {by} when it last sent something that is dated");
            Finding::warn("clock", fact, format!("one of both is wrong; {refused}"))
        });
        return theirs.collect();
    };
    let fact = format!("this machine's clock is {by}");
    let mend = format!("set it, with `timedatectl` for one; {refused}");
    let is_refused = state.clocks.ours.is_some_and(|ms| ms.unsigned_abs() >= REFUSED_MS);
    vec![if is_refused { Finding::fail("clock", fact, mend) } else { Finding::warn("clock", fact, mend) }]
}

fn gossip(state: &State) -> Vec<Finding> {
    let ended = state.gossip_ended.iter().map(|peer| {
        let fact = format!("gossip with {peer} has ended, so it and this daemon miss each other's messages");
        Finding::warn("gossip", fact, "it is connected anew with patience")
    });
    ended.collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use p2pd_core::{clock::Judgement, id::PeerId, multiaddr::Multiaddr, reachability::OwnAddress, time::UnixMs};
    use p2pd_net::{BootstrapFault, Reached, Relay};

    use super::*;
    use crate::observe::health::{Machine, Room};

    fn good() -> State {
        State {
            peers: 1,
            cut_off: None,
            fallen: Vec::new(),
            listening: vec![at("/ip4/192.168.1.2/tcp/4001")],
            listeners_missing: 0,
            bootstrap_missing: Vec::new(),
            clocks: Judgement::default(),
            flooded_by: None,
            gossip_ended: Vec::new(),
            machine: machine(),
            left_out: None,
            reached: Reached::default(),
            relays: Vec::new(),
            is_relay: false,
        }
    }

    fn machine() -> Machine {
        Machine {
            storage_fault: None,
            disk: Some(Room { path: PathBuf::from("/var/lib/p2pd"), free: 1 << 30, size: 10 << 30 }),
            descriptors_short: None,
            descriptors: Some(InUse { used: 40, most: 65_536 }),
        }
    }

    /// One whose machine is not well.
    fn on(machine: Machine) -> State {
        State { machine, ..good() }
    }

    fn at(address: &str) -> Multiaddr {
        address.parse().unwrap()
    }

    fn peer(n: u8) -> PeerId {
        PeerId::from_ed25519(&[n; 32])
    }

    fn own(address: &str, state: reachability::State, witness: Witness) -> OwnAddress {
        OwnAddress { address: at(address), state, since: UnixMs(0), witness, refused_by: Vec::new() }
    }

    fn reached(addresses: Vec<OwnAddress>) -> Reached {
        Reached { addresses, ports_vary: false }
    }

    /// What is not well.
    fn wrong(state: &State) -> Vec<(&'static str, Level, String)> {
        let found = findings(state).into_iter().filter(|finding| finding.level > Level::Ok);
        found.map(|finding| (finding.check, finding.level, finding.line())).collect()
    }

    #[test]
    fn a_good_day_has_only_good_findings() {
        assert_eq!(wrong(&good()), []);
        assert!(findings(&good()).iter().all(|finding| finding.mend.is_empty()));
        assert!(advice(&good()).is_empty());
        let checks: Vec<_> = findings(&good()).iter().map(|finding| finding.check).collect();
        assert_eq!(checks, ["storage", "descriptors", "listeners", "peers"]);
    }

    #[test]
    fn each_fault_has_its_finding() {
        let fault = BootstrapFault { address: "/dns4/x/tcp/1".into(), why: "see the name".into() };
        let ahead = |ms| Judgement { ours: Some(ms), agree: 2, of: 2, ..Judgement::default() };
        let theirs =
            |count| Judgement { theirs: (0..count).map(|n| (peer(n), 60_000)).collect(), ..Judgement::default() };
        let testing = Witness::Tester(peer(2));
        let outside = "/ip4/192.0.2.1/tcp/4001";
        let private = || own(outside, reachability::State::Private, testing.clone());
        let announced =
            OwnAddress { refused_by: vec![peer(3)], ..own(outside, reachability::State::Public, Witness::Operator) };
        let doubted =
            OwnAddress { refused_by: vec![peer(3)], ..own(outside, reachability::State::Public, testing.clone()) };
        let relay = |state| Relay {
            peer: peer(4),
            state,
            since: UnixMs(0),
            max_time: None,
            max_bytes: None,
            addresses: Vec::new(),
        };
        let small = |free, size| Some(Room { path: PathBuf::from("/var/lib/p2pd"), free, size });
        let cases = [
            (
                "bandwidth",
                Level::Warn,
                "no room within the bounds of bandwidth, 7 so far",
                State { left_out: Some(7), ..good() },
            ),
            (
                "storage",
                Level::Fail,
                "No space left",
                on(Machine { storage_fault: Some("No space left".into()), ..machine() }),
            ),
            ("storage", Level::Warn, "63 MiB of", on(Machine { disk: small(63 << 20, 1 << 30), ..machine() })),
            ("storage", Level::Warn, "MiB of", on(Machine { disk: small(99 << 20, 10 << 30), ..machine() })),
            (
                "descriptors",
                Level::Fail,
                "990 of 1024",
                on(Machine { descriptors_short: Some(InUse { used: 990, most: 1024 }), ..machine() }),
            ),
            (
                "descriptors",
                Level::Warn,
                "LimitNOFILE",
                on(Machine { descriptors: Some(InUse { used: 9, most: 256 }), ..machine() }),
            ),
            ("listeners", Level::Warn, "network.listen", State { listeners_missing: 1, ..good() }),
            ("directory", Level::Fail, "by PeerService.SetRule", State { flooded_by: Some(peer(1)), ..good() }),
            ("rules", Level::Fail, "PeerService.RemoveRule", State { cut_off: Some([127, 0, 0, 9].into()), ..good() }),
            ("peers", Level::Warn, "PeerService.Connect", State { peers: 0, ..good() }),
            ("bootstrap", Level::Warn, "see the name", State { bootstrap_missing: vec![fault.clone()], ..good() }),
            ("reach", Level::Warn, "network.relays", State { reached: reached(vec![private()]), ..good() }),
            ("reach", Level::Warn, "forwards that port", State { reached: reached(vec![announced]), ..good() }),
            ("reach", Level::Warn, "tried again within a minute", State { reached: reached(vec![doubted]), ..good() }),
            ("reach", Level::Warn, "network.announce", State { is_relay: true, ..good() }),
            (
                "relay",
                Level::Warn,
                "it has no room",
                State { relays: vec![relay(RelayState::Lost("it has no room".into()))], ..good() },
            ),
            (
                "tunnel",
                Level::Fail,
                "port taken",
                State { fallen: vec![("web".into(), "port taken".into())], ..good() },
            ),
            ("clock", Level::Warn, "timedatectl", State { clocks: ahead(60_000), ..good() }),
            ("clock", Level::Fail, "10 min ahead", State { clocks: ahead(600_000), ..good() }),
            ("clock", Level::Fail, "2 h behind", State { clocks: ahead(-7_200_000), ..good() }),
            ("clock", Level::Warn, "1 min ahead of this machine's", State { clocks: theirs(1), ..good() }),
            ("gossip", Level::Warn, "anew", State { gossip_ended: vec![peer(1)], ..good() }),
        ];
        for (check, level, words, state) in cases {
            let found = wrong(&state);
            assert!(
                matches!(&found[..], [(found, at, line)] if (*found, *at) == (check, level) && line.contains(words)),
                "{check} {words}: {found:?}"
            );
            assert_eq!(advice(&state).len(), usize::from(check != "bootstrap"), "{check}");
        }
        let alone = State { peers: 0, bootstrap_missing: vec![fault], ..good() };
        assert_eq!(wrong(&alone)[0].1, Level::Fail);
        assert_eq!(advice(&State { clocks: theirs(6), ..good() }).len(), 4, "not a line for each of many");
        // A router that gives each destination another port.
        let varies = |addresses| State { reached: Reached { addresses, ports_vary: true }, ..good() };
        assert_eq!(wrong(&varies(vec![])).iter().map(|found| found.0).collect::<Vec<_>>(), ["router"]);
        let relayed = own("/ip4/192.0.2.9/tcp/1", reachability::State::Relayed, Witness::Relay(peer(4)));
        let relays = vec![relay(RelayState::Reserved), relay(RelayState::Lost("it has no room".into()))];
        assert_eq!(wrong(&State { relays, ..varies(vec![private(), relayed]) }), [], "a relay is enough");
    }
}
