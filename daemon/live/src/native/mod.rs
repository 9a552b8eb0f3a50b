//! Native streams: groups signed by their publisher, judged as they come, kept for ten seconds, and fetched where gossip did not bring
//! them.

mod fetch;
mod history;
mod judge;
mod missing;
mod repair;
mod serve;
mod state;
mod window;

use std::sync::{Arc, Mutex};

use p2pd_core::id::StreamKey;
use p2pd_net::{Class, Clock, Handle, Subscription, queue};
use tokio::sync::Notify;

pub use self::serve::Server;
pub(crate) use self::{fetch::PROTOCOL, serve::RESERVATION};
use self::{judge::NativeJudge, state::State};
use crate::{TooLarge, group::Group, lock};

/// Groups that wait for the subscriber, and their bytes: 64 are 2.5 s of the smallest ones.
const WAITING: usize = 64;
const WAITING_BYTES: usize = 4 << 20;

/// What is heard of a stream.
#[derive(Clone, Debug)]
pub enum Item {
    /// A group.
    Group {
        /// Its publisher is proven; its own signature not yet, where gossip brought it.
        group: Arc<Group>,
        /// Gossip did not bring it; a peer was asked for it.
        repaired: bool,
    },
    /// In the place of a group that was refused.
    TooLarge(TooLarge),
    /// The stream is over, for this reason.
    Ended(&'static str),
}

/// A stream that is followed, until its subscription ends and all of these are dropped.
#[derive(Clone)]
pub struct Stream(Arc<Shared>);

struct Shared {
    topic: String,
    clock: Clock,
    state: Mutex<State>,
    heard: queue::Writer<Item>,
    /// Told when `State::wake` may have become earlier.
    changed: Notify,
}

impl Stream {
    /// A stream, how to follow its topic, and what is heard.
    pub fn new(
        key: StreamKey,
        topic: String,
        drop_percent: u8,
        net: &Handle,
    ) -> (Self, Subscription, queue::Reader<Item>) {
        let (heard, reader) = queue::bounded(WAITING, WAITING_BYTES);
        let state = Mutex::new(State::new(key));
        let shared = Shared { topic, clock: net.pubsub.clock(), state, heard, changed: Notify::new() };
        let stream = Stream(Arc::new(shared));
        let judge = Box::new(NativeJudge::new(stream.clone(), drop_percent));
        (stream, Subscription { kind: "native audio", class: Class::Live, judge }, reader)
    }

    /// Keeps a group of our own for those who ask for it.
    pub fn keep(&self, group: Arc<Group>) {
        lock(&self.0.state).keep(group, self.0.clock.now());
    }

    /// The kept groups of the last `ms` milliseconds, oldest first.
    pub fn recent(&self, ms: u64) -> Vec<Arc<Group>> {
        lock(&self.0.state).recent(ms, self.0.clock.now())
    }

    /// Tells the subscriber that the stream is over, after all groups that have come.
    pub fn end(&self, reason: &'static str) {
        self.0.heard.push(0, Item::Ended(reason));
    }

    fn hand_on(&self, admitted: state::Admitted) {
        let state::Admitted { group, repaired } = admitted;
        self.0.heard.push(group.signed.len(), Item::Group { group, repaired });
    }
}
