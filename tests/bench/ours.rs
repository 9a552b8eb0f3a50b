//! Pub/sub over two daemons, as programs use it: one publishes many on one, one follows the topic on the other.

use p2pd_api::v1::{
    Block, PublishManyRequest, PublishManyResponse, PublishRequest, SetTopicRequest, SubscribeRequest,
    SubscribeResponse, TopicSettings, pub_sub_service_client::PubSubServiceClient, subscribe_request::Contract,
    subscribe_response::Event,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::{
    daemon::Daemon,
    way::{TOPIC, Told},
};

pub struct Ours {
    daemons: [Daemon; 2],
    items: mpsc::Sender<PublishManyRequest>,
    answers: Streaming<PublishManyResponse>,
    heard: Streaming<SubscribeResponse>,
}

impl Ours {
    pub async fn start() -> Self {
        let a = Daemon::start(&[]);
        let b = Daemon::start(&[&a.address]);
        let mut from = PubSubServiceClient::new(a.channel().await);
        let mut to = PubSubServiceClient::new(b.channel().await);
        // 64 KiB are a little more than the usual 60.
        let settings = Some(TopicSettings { max_message_bytes: 1 << 20, ..TopicSettings::default() });
        let request = SetTopicRequest { topic: TOPIC.into(), settings };
        from.set_topic(request.clone()).await.unwrap();
        to.set_topic(request).await.unwrap();
        let contract = Some(Contract::Block(Block::default()));
        let mut heard = to.subscribe(SubscribeRequest { topic: TOPIC.into(), contract }).await.unwrap().into_inner();
        heard.message().await.unwrap();
        let (items, requests) = mpsc::channel(64);
        let answers = from.publish_many(ReceiverStream::new(requests)).await.unwrap().into_inner();
        Ours { daemons: [a, b], items, answers, heard }
    }

    pub fn daemons(&self) -> Vec<u32> {
        self.daemons.iter().map(Daemon::pid).collect()
    }

    pub async fn publish(&mut self, data: Vec<u8>) {
        let message = PublishRequest { topic: TOPIC.into(), data: data.into(), wait_ms: 0 };
        self.items.send(PublishManyRequest { message: Some(message) }).await.unwrap();
    }

    pub async fn next(&mut self) -> Told {
        tokio::select! {
            answer = self.answers.message() => {
                if answer.unwrap().unwrap().reason.is_empty() { Told::Accepted } else { Told::Refused }
            }
            heard = self.heard.message() => match heard.unwrap().unwrap().event.unwrap() {
                Event::Message(message) => Told::took(&message.data),
                Event::Gap(gap) => Told::Lost(gap.to - gap.from + 1),
                Event::Subscribed(_) => unreachable!("that was the first"),
            },
        }
    }
}
