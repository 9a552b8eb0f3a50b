//! The judge of directory messages: well-formed, fresh, speaking only for their signer, and not too many.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
};

use p2pd_core::{bucket::Buckets, id::PeerId, time::UnixMs, verdict};
use p2pd_net::{Class, Judge, Message, Subscription, Time, Verdict, queue};

use crate::{
    Clocks,
    directory::message::{self, DirectoryMessage},
    lock,
};

/// Directory messages per second that one peer may sign, and how many at once.
const SIGNED_RATE: (u32, u32) = (5, 40);
/// The same that one neighbour may bring, whoever signed them: a full directory told twice in 30 s is 273 a second.
const BROUGHT_RATE: (u32, u32) = (300, 4096);
/// Most peers whose rate is remembered.
const MAX_BUCKETS: usize = 4096;
/// Messages that wait for the subscriber; what is lost of them is said again within 30 s.
const WAITING: usize = 256;

/// An admitted message.
#[derive(Clone, Debug)]
pub struct Heard {
    /// The neighbour that brought it.
    pub via: PeerId,
    /// Who signed it.
    pub sender: PeerId,
    /// What it says.
    pub message: DirectoryMessage,
    /// When, by the sender's clock.
    pub time: UnixMs,
}

/// Publishers whose streams are followed here: no neighbour's rate silences them.
#[derive(Clone, Default)]
pub struct Publishers(Arc<Mutex<HashSet<PeerId>>>);

impl Publishers {
    /// Puts these in place of those before.
    pub fn set(&self, publishers: impl IntoIterator<Item = PeerId>) {
        *lock(&self.0) = publishers.into_iter().collect();
    }

    fn contains(&self, peer: &PeerId) -> bool {
        lock(&self.0).contains(peer)
    }
}

/// Judges the directory's topic.
pub struct DirectoryJudge {
    clocks: Clocks,
    followed: Publishers,
    /// By who signed, and by who brought.
    signed: Buckets<PeerId>,
    brought: Buckets<PeerId>,
    heard: queue::Writer<Heard>,
}

impl DirectoryJudge {
    /// How to follow the directory, and what is heard.
    pub fn subscription(clocks: Clocks, followed: Publishers) -> (Subscription, queue::Reader<Heard>) {
        let (judge, reader) = Self::new(clocks, followed);
        (Subscription { kind: "directory", class: Class::Directory, judge: Box::new(judge) }, reader)
    }

    fn new(clocks: Clocks, followed: Publishers) -> (Self, queue::Reader<Heard>) {
        let (heard, reader) = queue::bounded(WAITING, usize::MAX);
        let (signed, brought) = (Buckets::new(MAX_BUCKETS), Buckets::new(MAX_BUCKETS));
        (DirectoryJudge { clocks, followed, signed, brought, heard }, reader)
    }
}

impl Judge for DirectoryJudge {
    fn judge(&mut self, message: Message, time: Time) -> Verdict {
        let Message { sender, source: via, connected, data, .. } = message;
        let Some(sender) = sender else { return Verdict::Reject("unsigned") };
        if data.len() > message::MAX_MESSAGE {
            return Verdict::Reject("larger than directory messages are");
        }
        // What is ignored is not heard from others either: a flooder must not have it so for publishers of ours.
        let ours = connected || self.followed.contains(&sender);
        if !ours && !self.brought.take(time.now, &via, BROUGHT_RATE.0, BROUGHT_RATE.1) {
            return Verdict::Ignore;
        }
        let Ok((message, said)) = message::decode(&data, &sender) else {
            return Verdict::Reject("not a truthful directory message");
        };
        if sender == via {
            lock(&self.clocks.0).heard(time.now, &sender, said);
        }
        let timely = Verdict::from(verdict::judge_time(time.wall, said));
        if timely != Verdict::Accept {
            return timely;
        }
        if !self.signed.take(time.now, &sender, SIGNED_RATE.0, SIGNED_RATE.1) {
            return Verdict::Ignore;
        }
        self.heard.push(0, Heard { via, sender, message, time: said });
        Verdict::Accept
    }
}
