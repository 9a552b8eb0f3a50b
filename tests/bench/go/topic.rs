//! Pub/sub of two Go p2pd.

use tokio::{io::AsyncWriteExt, net::unix::OwnedWriteHalf};

use prost::Message;

use super::{
    Go,
    wire::{Answer, Frames, Heard, PUBLISH, PUBSUB, PubSub, Request, SUBSCRIBE},
};
use crate::way::{TOPIC, Told};

fn pubsub(kind: i32, topic: &str, data: Option<Vec<u8>>) -> Request {
    let pubsub = PubSub { kind, topic: topic.into(), data };
    Request { kind: PUBSUB, pubsub: Some(pubsub), ..Request::default() }
}

impl Go {
    /// Follows a topic until both are dropped.
    pub async fn follow(&self, topic: &str) -> (Frames<Heard>, OwnedWriteHalf) {
        let (_, answers, writer) = self.ask(pubsub(SUBSCRIBE, topic, None)).await;
        (answers.then(), writer)
    }
}

/// A topic that one program publishes on and another, at another Go p2pd, follows.
pub struct Topic {
    daemons: [Go; 2],
    publisher: OwnedWriteHalf,
    answers: Frames<Answer>,
    heard: Frames<Heard>,
    _subscriber: OwnedWriteHalf,
}

impl Topic {
    pub async fn start() -> Option<Self> {
        let (a, b) = (Go::start().await?, Go::start().await?);
        b.connect(&a).await;
        let (heard, _subscriber) = b.follow(TOPIC).await;
        let (_, answers, publisher) = a.ask(pubsub(PUBLISH, TOPIC, Some(vec![0; 8]))).await;
        Some(Topic { daemons: [a, b], publisher, answers, heard, _subscriber })
    }

    pub fn daemons(&self) -> Vec<u32> {
        self.daemons.iter().map(Go::pid).collect()
    }

    pub async fn publish(&mut self, data: Vec<u8>) {
        let request = pubsub(PUBLISH, TOPIC, Some(data)).encode_length_delimited_to_vec();
        self.publisher.write_all(&request).await.unwrap();
    }

    pub async fn next(&mut self) -> Told {
        tokio::select! {
            answer = self.answers.next() => if answer.kind == 0 { Told::Accepted } else { Told::Refused },
            heard = self.heard.next() => Told::took(&heard.data.unwrap()),
        }
    }
}
