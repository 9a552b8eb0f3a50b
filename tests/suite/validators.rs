//! Who judges the messages of a topic, and what becomes of those that nobody judges.

use p2pd::app::Daemon;
use p2pd_api::{
    Reason, reason_of,
    v1::{
        DropOldest, Judgement, ListPeersRequest, MessageToJudge, MessageVerdict, PublishManyRequest, SetTopicRequest,
        TopicSettings, ValidateTopicRequest, ValidateTopicResponse, subscribe_request::Contract,
        validate_topic_request::Item, validate_topic_response,
    },
};

use crate::{
    pubsub::{client, followers, message, subscribe, texts},
    support::{DEADLINE, pair, peers, start, until},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

/// A validator of `chat`.
struct Validator {
    said: mpsc::Sender<ValidateTopicRequest>,
    asked: Streaming<ValidateTopicResponse>,
}

impl Validator {
    async fn attach(daemon: &Daemon) -> Result<Self, tonic::Status> {
        let (said, requests) = mpsc::channel(16);
        said.send(ValidateTopicRequest { item: Some(Item::Topic("chat".into())) }).await.unwrap();
        let mut asked = client(daemon).await.validate_topic(ReceiverStream::new(requests)).await?.into_inner();
        let attached = asked.message().await.unwrap().unwrap().event;
        assert_eq!(attached, Some(validate_topic_response::Event::Attached(true)));
        Ok(Validator { said, asked })
    }

    async fn next(&mut self) -> MessageToJudge {
        loop {
            match self.told().await {
                validate_topic_response::Event::Message(message) => return message,
                validate_topic_response::Event::Late(_) => {}
                other => panic!("not a message: {other:?}"),
            }
        }
    }

    async fn told(&mut self) -> validate_topic_response::Event {
        let told = tokio::time::timeout(DEADLINE, self.asked.message()).await.expect("a message in time");
        told.unwrap().unwrap().event.unwrap()
    }

    async fn say(&self, number: u64, judgement: Judgement) {
        let verdict = MessageVerdict { number, judgement: judgement.into() };
        self.said.send(ValidateTopicRequest { item: Some(Item::Verdict(verdict)) }).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validator_decides_what_is_delivered_and_passed_on() {
    // a - b - c: what b refuses, c never gets.
    let (a, b) = pair().await;
    let c = start(&b.addresses[..1]).await;
    until("c beside b", async || {
        let list = peers(&b).await.list_peers(ListPeersRequest {}).await.unwrap().into_inner();
        (list.peers.len() == 2).then_some(())
    })
    .await;
    let score = async || {
        let list = peers(&b).await.list_peers(ListPeersRequest {}).await.unwrap().into_inner();
        list.peers.iter().find(|p| a.addresses[0].ends_with(&p.peer_id)).unwrap().score
    };
    let mut validator = Validator::attach(&b).await.unwrap();
    let taken = Validator::attach(&b).await.err().expect("only one");
    assert_eq!((taken.code(), reason_of(&taken)), (Code::AlreadyExists, Some(Reason::TopicTaken)));
    let (mut here, mut beyond) = (subscribe(&b, None).await, subscribe(&c, None).await);
    followers(&b, 1).await;
    followers(&a, 1).await;
    let mut publisher = client(&a).await;
    let before = score().await;
    for (text, judgement) in [
        ("good", Judgement::Accept),
        ("bad", Judgement::Reject),
        ("odd", Judgement::Ignore),
        ("fine", Judgement::Accept),
    ] {
        publisher.publish(message(text)).await.unwrap();
        let asked = validator.next().await;
        assert_eq!(&asked.data[..], text.as_bytes());
        assert!(a.addresses[0].ends_with(&asked.sender) && asked.sender == asked.source);
        validator.say(asked.number, judgement).await;
    }
    assert_eq!(texts(&mut here, 2).await, ["good", "fine"]);
    assert_eq!(texts(&mut beyond, 2).await, ["good", "fine"]);
    until("a lower score", async || (score().await < before).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_judges_passes_or_not_as_the_topic_says() {
    let (a, b) = pair().await;
    let mut here = subscribe(&b, None).await;
    followers(&a, 1).await;
    let mut publisher = client(&a).await;
    let set = async |closed| {
        let settings = TopicSettings { fail_closed: closed, judging_ms: 50, ..TopicSettings::default() };
        client(&b).await.set_topic(SetTopicRequest { topic: "chat".into(), settings: Some(settings) }).await.unwrap();
    };
    set(true).await;
    publisher.publish(message("nobody judges")).await.unwrap();
    let mut validator = Validator::attach(&b).await.unwrap();
    publisher.publish(message("too late")).await.unwrap();
    let asked = validator.next().await;
    assert_eq!(validator.told().await, validate_topic_response::Event::Late(asked.number));
    publisher.publish(message("in time")).await.unwrap();
    let asked = validator.next().await;
    validator.say(asked.number, Judgement::Accept).await;
    assert_eq!(texts(&mut here, 1).await, ["in time"]);
    set(false).await;
    publisher.publish(message("too late, and open")).await.unwrap();
    assert_eq!(texts(&mut here, 1).await, ["too late, and open"]);
    drop(validator);
    publisher.publish(message("nobody judges, and open")).await.unwrap();
    assert_eq!(texts(&mut here, 1).await, ["nobody judges, and open"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_more_than_a_validator_may_have_before_it_counts_as_not_judged() {
    const WAITING: usize = 256;
    let (a, b) = pair().await;
    let mut here = subscribe(&b, Some(Contract::DropOldest(DropOldest { max_messages: 1024 }))).await;
    followers(&a, 1).await;
    let settings = TopicSettings { judging_ms: 3_000, ..TopicSettings::default() };
    client(&b).await.set_topic(SetTopicRequest { topic: "chat".into(), settings: Some(settings) }).await.unwrap();
    let _silent = Validator::attach(&b).await.unwrap();
    let mut publisher = client(&a).await;
    let requests = (0..WAITING + 3).map(|n| PublishManyRequest { message: Some(message(n.to_string())) });
    let _answers = publisher.publish_many(tokio_stream::iter(requests)).await.unwrap();
    // An open topic delivers at once what is beyond, and the others when their time is over.
    let expected = (WAITING..WAITING + 3).chain(0..WAITING).map(|n| n.to_string());
    assert_eq!(texts(&mut here, WAITING + 3).await, expected.collect::<Vec<_>>());
}
