//! The directory of live streams: who publishes what, how fresh that is. A state machine; the caller brings the time
//! and passes on the changes.

mod shares;

use std::collections::{BTreeMap, HashMap, HashSet};

use p2pd_core::{
    id::{PeerId, StreamKey, StreamRef},
    time::{MonoMs, UnixMs},
    verdict::CLOCK_TOLERANCE_MS,
};

use self::shares::Shares;
use crate::directory::message::{DirectoryMessage, Filter, Metadata};

/// How often a publisher says that a stream is still there, in milliseconds.
pub(crate) const HEARTBEAT_MS: u64 = 30_000;
/// An entry that was not heard of for so long is dropped, in milliseconds.
pub(crate) const STALE_MS: u64 = 120_000;
/// Most entries of one publisher.
pub const MAX_PER_PUBLISHER: usize = 64;
/// Most entries in all.
pub const MAX_ENTRIES: usize = 4096;
/// Most departed streams remembered, so that a late announcement does not bring one back.
const MAX_DEPARTED: usize = 1024;

/// A stream as the directory knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// What its publisher says of it.
    pub metadata: Metadata,
    /// When it was heard of last; for an entry read from disk, when it was read.
    pub heard: MonoMs,
    /// Whether it was heard of since this process started.
    pub confirmed: bool,
    /// Publisher's time of the newest message about it.
    pub time: UnixMs,
    /// How many listen, as the publisher last said.
    pub listeners: Option<u32>,
    /// Since when it is listed.
    since: MonoMs,
    /// The peer that brought it first; `None` for an entry read from disk.
    via: Option<PeerId>,
}

/// What happened to an entry.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Change {
    /// New, or announced anew.
    Present(StreamKey),
    /// Its publisher ended it.
    Ended(StreamKey),
    /// Not heard of for two minutes.
    Stale(StreamKey),
}

impl Change {
    /// Whose.
    pub(crate) fn key(&self) -> &StreamKey {
        match self {
            Change::Present(key) | Change::Ended(key) | Change::Stale(key) => key,
        }
    }
}

/// What a message led to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Effect {
    /// An entry changed.
    Change(Change),
    /// A heartbeat of a stream we have no entry for: ask its publisher.
    Ask(PeerId),
    /// Somebody asks for our own streams.
    Answer {
        /// Like this.
        filter: Filter,
        /// Under this id.
        request: String,
    },
}

/// Where a message of the directory comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin<'a> {
    /// Who signed it. Keys cost nothing: one neighbour may bring the words of thousands.
    pub(crate) signer: &'a PeerId,
    /// The neighbour that brought it.
    pub(crate) via: &'a PeerId,
    /// When it was signed.
    pub(crate) time: UnixMs,
}

/// The entries.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    entries: BTreeMap<StreamKey, Entry>,
    departed: HashMap<StreamKey, UnixMs>,
    shares: Shares,
}

impl Directory {
    /// Takes an entry that was kept on disk: shown at once, marked as not yet heard again.
    pub(crate) fn restore(&mut self, now: MonoMs, key: StreamKey, metadata: Metadata, time: UnixMs) {
        if self.has_room(&key) {
            let (since, via) = (now, None);
            self.insert(key, Entry { metadata, heard: now, confirmed: false, time, listeners: None, since, via });
        }
    }

    /// Has streams of publishers stay: `kept` in any case, this daemon's own and those it follows; `favoured` as long as there are
    /// others, those it is connected to.
    pub(crate) fn favour(&mut self, kept: HashSet<PeerId>, favoured: HashSet<PeerId>) {
        self.shares.favour(kept, favoured, &self.entries);
    }

    /// Who brought most when entries found no room since this was asked last, and how many did not.
    pub(crate) fn take_crowded_out(&mut self) -> Option<(PeerId, u64)> {
        self.shares.take_crowded_out()
    }

    /// Applies a message.
    pub(crate) fn apply(&mut self, now: MonoMs, origin: Origin<'_>, message: DirectoryMessage) -> Vec<Effect> {
        let key = |stream| StreamKey { publisher: origin.signer.clone(), stream };
        match message {
            DirectoryMessage::Announce { stream, metadata } => self.announce(now, key(stream), metadata, origin),
            DirectoryMessage::Response { streams, .. } => streams
                .into_iter()
                .flat_map(|(stream, metadata)| self.announce(now, key(stream), metadata, origin))
                .collect(),
            DirectoryMessage::Heartbeat { stream, listeners } => self.heartbeat(now, key(stream), listeners, origin),
            DirectoryMessage::Deregister { stream } => self.end(key(stream), origin.time),
            DirectoryMessage::Query { filter, request } => vec![Effect::Answer { filter, request }],
        }
    }

    fn announce(&mut self, now: MonoMs, key: StreamKey, metadata: Metadata, origin: Origin<'_>) -> Vec<Effect> {
        let Origin { via, time, .. } = origin;
        let outdated = self.departed.get(&key).is_some_and(|gone| *gone == time || is_later(*gone, time))
            || self.entries.get(&key).is_some_and(|entry| is_later(entry.time, time));
        if outdated {
            return Vec::new();
        }
        let mut effects = Vec::new();
        if !self.has_room(&key) {
            let Some(gone) = self.shares.gives_way(&key.publisher, via, &self.entries) else { return effects };
            self.remove(&gone);
            effects.push(Effect::Change(Change::Stale(gone)));
        }
        self.departed.remove(&key);
        let known = self.entries.get(&key);
        let (listeners, since) = known.map_or((None, now), |entry| (entry.listeners, entry.since));
        let via = known.and_then(|entry| entry.via.clone()).unwrap_or_else(|| via.clone());
        let unchanged = known.is_some_and(|e| e.confirmed && same_but_time(&e.metadata, &metadata));
        let entry = Entry { metadata, heard: now, confirmed: true, time, listeners, since, via: Some(via) };
        self.insert(key.clone(), entry);
        if !unchanged {
            effects.push(Effect::Change(Change::Present(key)));
        }
        effects
    }

    fn insert(&mut self, key: StreamKey, entry: Entry) {
        self.remove(&key);
        self.shares.added(&key, &entry);
        self.entries.insert(key, entry);
    }

    fn remove(&mut self, key: &StreamKey) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        self.shares.removed(key, &entry);
        Some(entry)
    }

    fn heartbeat(&mut self, now: MonoMs, key: StreamKey, listeners: Option<u32>, origin: Origin<'_>) -> Vec<Effect> {
        let time = origin.time;
        let Some(entry) = self.entries.get_mut(&key) else {
            let departed = self.departed.get(&key).is_some_and(|gone| *gone == time || is_later(*gone, time));
            return if departed { Vec::new() } else { vec![Effect::Ask(key.publisher)] };
        };
        if is_later(entry.time, time) {
            return Vec::new();
        }
        let changed = !entry.confirmed || (listeners.is_some() && listeners != entry.listeners);
        (entry.heard, entry.confirmed, entry.time) = (now, true, time);
        entry.listeners = listeners.or(entry.listeners);
        // Those from disk are nobody's until then, and would give way together.
        if entry.via.is_none() {
            self.shares.removed(&key, entry);
            entry.via = Some(origin.via.clone());
            self.shares.added(&key, entry);
        }
        if changed { vec![Effect::Change(Change::Present(key))] } else { Vec::new() }
    }

    fn end(&mut self, key: StreamKey, time: UnixMs) -> Vec<Effect> {
        if self.entries.get(&key).is_some_and(|entry| is_later(entry.time, time)) || self.remove(&key).is_none() {
            return Vec::new();
        }
        if self.departed.len() >= MAX_DEPARTED {
            let oldest = self.departed.iter().min_by_key(|(_, time)| **time).map(|(key, _)| key.clone());
            oldest.and_then(|key| self.departed.remove(&key));
        }
        self.departed.insert(key.clone(), time);
        vec![Effect::Change(Change::Ended(key))]
    }

    /// Drops what was not heard of for two minutes.
    pub(crate) fn sweep(&mut self, now: MonoMs) -> Vec<Change> {
        let stale: Vec<StreamKey> =
            self.entries.iter().filter(|(_, e)| now.since(e.heard) >= STALE_MS).map(|(key, _)| key.clone()).collect();
        for key in &stale {
            self.remove(key);
        }
        stale.into_iter().map(Change::Stale).collect()
    }

    fn has_room(&self, key: &StreamKey) -> bool {
        if self.entries.contains_key(key) {
            return true;
        }
        self.entries.len() < MAX_ENTRIES && self.shares.of(&key.publisher) < MAX_PER_PUBLISHER
    }

    /// All entries, ordered by publisher and name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&StreamKey, &Entry)> {
        self.entries.iter()
    }

    /// The entry of exactly this stream.
    pub(crate) fn get(&self, key: &StreamKey) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// Every entry that a person's reference fits.
    pub(crate) fn find(&self, wanted: &StreamRef) -> Vec<StreamKey> {
        let fits = |key: &&StreamKey| {
            key.stream == wanted.stream && wanted.publisher.as_ref().is_none_or(|peer| *peer == key.publisher)
        };
        self.entries.keys().filter(fits).cloned().collect()
    }
}

/// Whether a message of time `known` was signed after one of `time` that comes now. Both were within the tolerance when they came. Where
/// they are farther apart than that allows, this machine's clock was set back meanwhile, and the newer one is the one that comes now.
fn is_later(known: UnixMs, time: UnixMs) -> bool {
    known > time && known.since(time) <= 2 * CLOCK_TOLERANCE_MS
}

fn same_but_time(a: &Metadata, b: &Metadata) -> bool {
    a.0.len() == b.0.len() && a.0.iter().all(|(name, value)| name == "timestamp" || b.0.get(name) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(publisher: u8, stream: &str) -> StreamKey {
        StreamKey { publisher: PeerId::from_ed25519(&[publisher; 32]), stream: stream.parse().unwrap() }
    }

    fn announce(directory: &mut Directory, now: u64, key: &StreamKey) -> Vec<Effect> {
        let message = DirectoryMessage::Announce { stream: key.stream.clone(), metadata: Metadata::default() };
        directory.apply(MonoMs(now), from(key, now), message)
    }

    /// Brought by its publisher.
    fn from(key: &StreamKey, now: u64) -> Origin<'_> {
        Origin { signer: &key.publisher, via: &key.publisher, time: UnixMs(now) }
    }

    fn beat(directory: &mut Directory, now: u64, key: &StreamKey, listeners: Option<u32>) -> Vec<Effect> {
        let message = DirectoryMessage::Heartbeat { stream: key.stream.clone(), listeners };
        directory.apply(MonoMs(now), from(key, now), message)
    }

    fn end(directory: &mut Directory, now: u64, key: &StreamKey) -> Vec<Effect> {
        let message = DirectoryMessage::Deregister { stream: key.stream.clone() };
        directory.apply(MonoMs(now), from(key, now), message)
    }

    #[test]
    fn a_clock_that_is_set_back_neither_ends_a_stream_nor_keeps_one_away() {
        const HOUR: u64 = 3_600_000;
        for back in [HOUR, 24 * HOUR, 365 * 24 * HOUR] {
            let (mut directory, live, ended) = (Directory::default(), key(1, "live"), key(1, "ended"));
            let ahead = 400 * 24 * HOUR;
            announce(&mut directory, ahead, &live);
            announce(&mut directory, ahead, &ended);
            end(&mut directory, ahead, &ended);
            assert!(announce(&mut directory, ahead, &ended).is_empty(), "ended at that time");
            let now = ahead - back;
            beat(&mut directory, now, &live, None);
            assert_eq!(directory.get(&live).map(|entry| entry.time), Some(UnixMs(now)), "{back}");
            assert_eq!(announce(&mut directory, now, &ended).len(), 1, "{back}");
            assert_eq!(end(&mut directory, now, &live).len(), 1, "{back}");
        }
    }

    #[test]
    fn an_entry_lives_by_its_heartbeats() {
        let (mut directory, town) = (Directory::default(), key(1, "town"));
        assert_eq!(announce(&mut directory, 0, &town), [Effect::Change(Change::Present(town.clone()))]);
        assert_eq!(announce(&mut directory, 10, &town), [], "saying it again changes nothing");
        assert_eq!(beat(&mut directory, 100_000, &town, None), []);
        assert_eq!(directory.sweep(MonoMs(100_000 + STALE_MS - 1)), []);
        assert_eq!(directory.sweep(MonoMs(100_000 + STALE_MS)), [Change::Stale(town)]);
    }

    #[test]
    fn two_publishers_may_use_one_id_and_neither_can_end_the_other() {
        let (mut directory, mine, theirs) = (Directory::default(), key(1, "town"), key(2, "town"));
        announce(&mut directory, 0, &mine);
        announce(&mut directory, 0, &theirs);
        assert_eq!(directory.find(&"town".parse().unwrap()).len(), 2);
        assert_eq!(directory.find(&mine.to_string().parse().unwrap()), std::slice::from_ref(&mine));
        end(&mut directory, 1, &theirs);
        assert!(directory.get(&mine).is_some() && directory.get(&theirs).is_none());
    }

    #[test]
    fn a_late_announcement_does_not_bring_a_stream_back() {
        let (mut directory, town) = (Directory::default(), key(1, "town"));
        announce(&mut directory, 5, &town);
        assert_eq!(end(&mut directory, 9, &town), [Effect::Change(Change::Ended(town.clone()))]);
        assert_eq!(announce(&mut directory, 7, &town), []);
        assert_eq!(beat(&mut directory, 8, &town, None), []);
        assert_eq!(announce(&mut directory, 10, &town).len(), 1, "but a new one does");
    }

    #[test]
    fn what_was_on_disk_is_shown_until_it_is_stale() {
        let (mut directory, town) = (Directory::default(), key(1, "town"));
        directory.restore(MonoMs(0), town.clone(), Metadata::default(), UnixMs(0));
        assert!(!directory.get(&town).unwrap().confirmed);
        assert_eq!(beat(&mut directory, 5, &town, Some(2)), [Effect::Change(Change::Present(town.clone()))]);
        assert!(directory.get(&town).unwrap().confirmed);
        assert_eq!(beat(&mut directory, 6, &key(3, "new"), None), [Effect::Ask(key(3, "new").publisher)]);
    }

    #[test]
    fn publishers_cannot_fill_it() {
        let mut directory = Directory::default();
        for n in 0..200 {
            announce(&mut directory, n, &key(1, &format!("s{n}")));
        }
        assert_eq!(directory.iter().count(), MAX_PER_PUBLISHER);
        for n in 0..2 * MAX_DEPARTED {
            let key = key(2, &format!("s{n}"));
            announce(&mut directory, 1, &key);
            end(&mut directory, 2, &key);
        }
        assert!(directory.departed.len() <= MAX_DEPARTED);
    }

    #[test]
    fn a_change_names_its_stream() {
        let town = key(1, "town");
        for change in [Change::Present(town.clone()), Change::Ended(town.clone()), Change::Stale(town.clone())] {
            assert_eq!(change.key(), &town);
        }
    }

    #[test]
    fn an_entry_changes_when_what_is_said_of_it_does() {
        let (mut directory, town) = (Directory::default(), key(1, "town"));
        let mut say = |now: u64, fields: &[(&str, &str)]| {
            let mut metadata = Metadata::default();
            fields.iter().for_each(|(name, value)| metadata.set(name, *value));
            let message = DirectoryMessage::Announce { stream: town.stream.clone(), metadata };
            directory.apply(MonoMs(now), from(&town, now), message).len()
        };
        assert_eq!([say(1, &[("name", "Town")]), say(2, &[("name", "Town")])], [1, 0]);
        assert_eq!([say(3, &[("name", "City")]), say(4, &[("title", "City")])], [1, 1]);
        assert_eq!(
            [say(5, &[("title", "City"), ("timestamp", "5")]), say(6, &[("title", "City"), ("timestamp", "6")])],
            [1, 0]
        );
        assert_eq!(say(7, &[("title", "City")]), 1, "a field is gone");
    }

    #[test]
    fn listeners_are_told_when_they_change() {
        let (mut directory, town) = (Directory::default(), key(1, "town"));
        announce(&mut directory, 0, &town);
        let mut said = |now, listeners| {
            let told = beat(&mut directory, now, &town, listeners).len();
            (told, directory.get(&town).and_then(|entry| entry.listeners))
        };
        assert_eq!([said(1, Some(2)), said(2, Some(2)), said(3, None)], [(1, Some(2)), (0, Some(2)), (0, Some(2))]);
        assert_eq!([said(4, Some(3)), said(3, Some(9))], [(1, Some(3)), (0, Some(3))], "the last one is late");
        announce(&mut directory, 5, &town);
        assert_eq!(directory.get(&town).and_then(|entry| entry.listeners), Some(3), "an announcement does not say");
    }

    #[test]
    fn what_was_signed_before_an_entry_changes_nothing_for_as_long_as_clocks_may_differ() {
        const BACK: u64 = 600_000;
        let said = |late: u64| {
            let (mut directory, town) = (Directory::default(), key(1, "town"));
            announce(&mut directory, 10_000_000, &town);
            let time = 10_000_000 - late;
            let changed = announce(&mut directory, time, &town).is_empty()
                && directory.get(&town).map(|entry| entry.time) == Some(UnixMs(10_000_000));
            (changed, end(&mut directory, time, &town).is_empty())
        };
        assert_eq!(
            [said(0), said(1), said(BACK), said(BACK + 1)],
            [(true, false), (true, true), (true, true), (false, false)]
        );
    }

    #[test]
    fn an_ended_stream_stays_away_until_it_is_announced_later() {
        let (mut directory, town) = (Directory::default(), key(1, "town"));
        announce(&mut directory, 5, &town);
        assert_eq!(end(&mut directory, 9, &town).len(), 1);
        assert_eq!((end(&mut directory, 10, &town), end(&mut directory, 10, &key(2, "none"))), (vec![], vec![]));
        assert_eq!((beat(&mut directory, 9, &town, None), announce(&mut directory, 9, &town)), (vec![], vec![]));
        assert_eq!(beat(&mut directory, 10, &town, None), [Effect::Ask(town.publisher.clone())], "it is there again");
        assert_eq!(announce(&mut directory, 10, &town).len(), 1);
    }

    #[test]
    fn the_streams_that_ended_first_are_forgotten_first() {
        let mut directory = Directory::default();
        for n in 0..=MAX_DEPARTED as u64 {
            let key = key(2, &format!("s{n}"));
            announce(&mut directory, n, &key);
            end(&mut directory, n, &key);
        }
        assert_eq!(directory.departed.len(), 1024);
        let comes = |directory: &mut Directory, n: u64| announce(directory, n, &key(2, &format!("s{n}"))).len();
        assert_eq!([comes(&mut directory, 1), comes(&mut directory, 1024), comes(&mut directory, 0)], [0, 0, 1]);
    }

    #[test]
    fn what_was_on_disk_keeps_to_the_same_bounds() {
        let mut directory = Directory::default();
        let mut restore = |publisher, stream: &str| {
            directory.restore(MonoMs(0), key(publisher, stream), Metadata::default(), UnixMs(0));
            directory.iter().count()
        };
        (0..64).for_each(|n| assert_eq!(restore(1, &format!("s{n}")), n + 1));
        assert_eq!((restore(1, "s64"), restore(1, "s63")), (64, 64));
        for publisher in 2..=64 {
            (0..64).for_each(|n| assert!(restore(publisher, &format!("s{n}")) > n));
        }
        assert_eq!((restore(65, "s0"), restore(64, "s0")), (4096, 4096));
    }

    #[test]
    fn a_question_is_answered_and_an_answer_is_taken() {
        let (mut directory, town) = (Directory::default(), key(1, "town"));
        let filter = Filter { category: Some("news".into()), ..Filter::default() };
        let query = DirectoryMessage::Query { filter: filter.clone(), request: "r".into() };
        assert_eq!(directory.apply(MonoMs(0), from(&town, 0), query), [Effect::Answer { filter, request: "r".into() }]);
        let streams = ["town", "city"].map(|name| (name.parse().unwrap(), Metadata::default())).into();
        let response = DirectoryMessage::Response { request: "r".into(), streams };
        assert_eq!(directory.apply(MonoMs(0), from(&town, 0), response).len(), 2);
        assert_eq!(directory.iter().count(), 2);
    }
}
