//! The judge of a topic of programs: its size, and its validator's word. Gossipsub has checked what else its settings say.

use std::sync::{Arc, Mutex};

use p2pd_core::{
    ring::{Cause, Next},
    tally::Arrived,
    topic_settings::TopicSettings,
};
use p2pd_net::{Class, Decision, Judge, Message, Subscription, Time, Verdict, queue};
use tokio::sync::Notify;

use super::{
    heard::Heard,
    validators::{Ruled, ToJudge, Validators, Waiting},
};
use crate::{
    lock,
    pubsub::{PubSub, PubSubError},
};

/// Messages of a topic that wait for the daemon, and their bytes.
const WAITING: usize = 256;
const WAITING_BYTES: usize = 2 << 20;

/// What the judges of all topics share.
#[derive(Clone, Default)]
pub(super) struct Judges {
    pub(super) validators: Arc<Mutex<Validators>>,
    /// Told when a message waits for its validator.
    waits: Arc<Notify>,
}

struct TopicJudge {
    topic: String,
    settings: Arc<Mutex<TopicSettings>>,
    arrived: Arc<Mutex<Arrived>>,
    judges: Judges,
    heard: Arc<queue::Writer<Heard>>,
}

impl Judge for TopicJudge {
    fn judge(&mut self, message: Message, time: Time) -> Verdict {
        let Message { id, sender, number, connected, source, data, ticket } = message;
        // Only who is connected can tell of what did not come.
        if let (Some(sender), Some(number), true) = (&sender, number, connected) {
            lock(&self.arrived).note(time.now, sender, number);
        }
        let settings = *lock(&self.settings);
        let most = usize::try_from(settings.max_message).unwrap_or(usize::MAX);
        if data.len() > most {
            // Other daemons may allow more, and whoever passed it on did nothing wrong.
            self.heard.push(0, Heard::TooLarge { sender, bytes: data.len(), most });
            return Verdict::Ignore;
        }
        let question = |number| ToJudge { number, sender: sender.clone(), source, data: data.clone() };
        let heard = Heard::Message { sender: sender.clone(), data: data.clone(), id };
        let waiting = Waiting { ticket, heard, to: self.heard.clone() };
        let ruled = lock(&self.judges.validators).ask(&self.topic, &settings, question, waiting, time.now);
        match ruled {
            Some(Ruled { ruling, .. }) => ruling.into(),
            None => {
                self.judges.waits.notify_one();
                Verdict::Later
            }
        }
    }
}

impl PubSub {
    /// Follows a topic of programs, unless it is followed already.
    pub(super) async fn follow_topic(&self, topic: &str) -> Result<(), PubSubError> {
        let (heard, reader) = queue::bounded(WAITING, WAITING_BYTES);
        let settings = self.with_settings(topic);
        let (judges, heard) = (self.0.judges.clone(), Arc::new(heard));
        let arrived = Arc::<Mutex<Arrived>>::default();
        let judge = Box::new(TopicJudge { topic: topic.to_owned(), settings, arrived: arrived.clone(), judges, heard });
        let subscription = Subscription { kind: "messages", class: Class::Messages, judge };
        let (owner, name) = (self.clone(), topic.to_owned());
        // Before the network is asked: whoever asks for the topic may go away in the middle of it, and the judge is there. Where it is
        // not taken, this ends with it.
        self.0.with.tasks.until_stop(async move { owner.hear_topic(&name, reader).await });
        if self.0.with.net.pubsub.subscribe(topic, subscription).await? {
            self.with_topic(topic, |topic| topic.arrived = arrived);
        }
        Ok(())
    }

    /// Carries what a topic brings to its readers, until it is followed no more.
    async fn hear_topic(&self, topic: &str, mut heard: queue::Reader<Heard>) {
        while let Some(next) = heard.next().await {
            match next {
                Next::Item(Heard::Message { sender, data, id }) => self.on_message(topic, sender, data, id),
                Next::Item(Heard::TooLarge { sender, bytes, most }) => {
                    self.refused_message(topic);
                    self.0.too_large.note(topic, sender.as_ref(), bytes, most);
                }
                Next::Gap { from, to, .. } => {
                    self.lost_messages(topic, to.saturating_sub(from).saturating_add(1), Cause::Busy);
                }
            }
        }
    }

    /// Decides on what no validator has judged in time, for as long as it is polled.
    pub(super) async fn judge_late(&self) {
        let clock = self.0.with.net.pubsub.clock();
        loop {
            let due = lock(&self.0.judges.validators).wake().and_then(|at| clock.instant(at));
            tokio::select! {
                () = self.0.judges.waits.notified() => continue,
                () = tokio::time::sleep_until(due.unwrap_or_else(std::time::Instant::now).into()), if due.is_some() => {}
            }
            let ruled = lock(&self.0.judges.validators).due(clock.now());
            for ruled in ruled {
                self.conclude(ruled).await;
            }
        }
    }

    /// Has the network act on a validator's word.
    pub(super) async fn conclude(&self, Ruled { topic, ticket, ruling }: Ruled) {
        let decision = Decision { ticket, verdict: ruling.into() };
        // It has stopped otherwise.
        let _ = self.0.with.net.pubsub.decide(&topic, decision).await;
    }
}
