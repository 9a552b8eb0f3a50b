//! The judge of one native stream. A group goes to programs here at once, since gossip has proven its publisher; others get it when its
//! own signature has been checked, after the programs were woken.

use std::sync::Arc;

use p2pd_core::{id::PeerId, time::MonoMs};
use p2pd_net::{Decision, Judge, Message, Ticket, Time, Verdict};

use super::{Item, Stream};
use crate::{
    TooLarge,
    group::{self, Group},
    lock,
};

/// A group whose own signature nobody has checked yet.
struct Unproven {
    ticket: Ticket,
    source: PeerId,
    group: Arc<Group>,
}

pub(super) struct NativeJudge {
    stream: Stream,
    unproven: Vec<Unproven>,
    drop_percent: u8,
    judged: u64,
}

impl NativeJudge {
    pub(super) fn new(stream: Stream, drop_percent: u8) -> Self {
        NativeJudge { stream, unproven: Vec::new(), drop_percent, judged: 0 }
    }

    /// Spreads `drop_percent` of 100 evenly, without chance, so that a test can say what was dropped.
    fn drops_by_order(&mut self) -> bool {
        let dropped = |count: u64| count.saturating_mul(self.drop_percent.into()) / 100;
        let before = dropped(self.judged);
        self.judged = self.judged.saturating_add(1);
        dropped(self.judged) > before
    }
}

impl Judge for NativeJudge {
    fn judge(&mut self, message: Message, time: Time) -> Verdict {
        let Message { sender, source, data, ticket, .. } = message;
        let Some(sender) = sender else { return Verdict::Reject("unsigned") };
        let mut state = lock(&self.stream.0.state);
        // Of what a stranger sends nothing is missing.
        if sender != *state.publisher() {
            return Verdict::Reject("not the publisher");
        }
        let (bytes, most) = (data.len(), group::MAX_GROUP);
        if bytes > most {
            let refused = TooLarge { sender: Some(sender), bytes, most };
            self.stream.0.heard.push(0, Item::TooLarge(refused));
            return Verdict::Reject("larger than groups are");
        }
        drop(state);
        if self.drops_by_order() {
            return Verdict::Ignore;
        }
        state = lock(&self.stream.0.state);
        match state.gossiped(data, time.now, time.wall) {
            Ok(admitted) => {
                drop(state);
                self.unproven.push(Unproven { ticket, source, group: admitted.group.clone() });
                self.stream.hand_on(admitted);
                self.stream.0.changed.notify_one();
                Verdict::Later
            }
            Err(verdict) => verdict.into(),
        }
    }

    fn due(&self) -> Option<MonoMs> {
        self.unproven.first().map(|_| MonoMs(0))
    }

    fn on_due(&mut self, now: MonoMs) -> Vec<Decision> {
        let mut state = lock(&self.stream.0.state);
        let prove = |unproven: Unproven| {
            let verdict = state.prove(unproven.group, &unproven.source, now).into();
            Decision { ticket: unproven.ticket, verdict }
        };
        std::mem::take(&mut self.unproven).into_iter().map(prove).collect()
    }
}
