//! `PubSubService`.

use std::{sync::Arc, time::Duration};

use futures::stream::{self, Stream, StreamExt};
use p2pd_api::{
    reason_of,
    v1::{
        ForgetTopicRequest, ForgetTopicResponse, Gap, GetTopicRequest, GetTopicResponse, Judgement,
        ListTopicPeersRequest, ListTopicPeersResponse, ListTopicsRequest, ListTopicsResponse, MessageToJudge,
        MessageVerdict, PublishManyRequest, PublishManyResponse, PublishRequest, PublishResponse, SetTopicRequest,
        SetTopicResponse, SubscribeRequest, SubscribeResponse, TopicMessage, ValidateTopicRequest,
        ValidateTopicResponse, WatchTopicRequest, WatchTopicResponse, pub_sub_service_server::PubSubService,
        subscribe_request::Contract, subscribe_response::Event, validate_topic_request::Item, validate_topic_response,
    },
};
use p2pd_core::{
    id::PeerId,
    ring::{Cause, Next},
};
use p2pd_net::Sent;
use tonic::{Request, Response, Status, Streaming};

use super::{
    caller::Caller,
    convert,
    reply::{self, Followed, Gone, Out, Replies},
    status,
};
use p2pd_node::{
    pubsub::{
        Live, LogReader, Logged, Outbound, PubSub, PubSubError, RoomSoon, Ruling, Start, ToJudge, TopicItem, Validator,
        ValidatorEvent,
    },
    tasks::Tasks,
};
use tokio_util::sync::CancellationToken;

pub(super) struct Service {
    pub(super) pubsub: PubSub,
    pub(super) tasks: Tasks,
    pub(super) stop: CancellationToken,
}

/// Messages of one call that are handed to the network before the first of them is answered.
const AHEAD: usize = 16;

/// A gap of a live reader.
pub(super) fn gap(from: u64, to: u64, cause: Cause) -> Gap {
    let reason = match cause {
        Cause::SlowReader => "slow-reader",
        Cause::Busy => "daemon-busy",
        Cause::NotReceived => "not-received",
        Cause::TooLarge => "too-large",
    };
    Gap { from, to, reason: reason.into() }
}

/// A message that may have to wait, for room or for a listener.
struct Patient {
    request: PublishRequest,
    room: RoomSoon,
}

impl Patient {
    fn new(pubsub: &PubSub, user: u32, request: PublishRequest) -> Result<Self, Status> {
        if request.wait_ms > 600_000 {
            return Err(status::field("wait_ms", "takes at most 600000"));
        }
        let room = pubsub.room_soon(user, request.data.len()).map_err(status::of)?;
        Ok(Patient { request, room })
    }

    async fn publish(self, pubsub: &PubSub) -> Result<PublishResponse, Status> {
        let PublishRequest { topic, data, wait_ms } = self.request;
        let room = self.room.room().await.map_err(status::of)?;
        pubsub.publish(&topic, data, Duration::from_millis(wait_ms.into()), room).await.map(sent).map_err(status::of)
    }
}

fn sent(sent: Sent) -> PublishResponse {
    let count = |peers: usize| u32::try_from(peers).unwrap_or(u32::MAX);
    PublishResponse { peers: count(sent.followers), behind: count(sent.behind) }
}

/// Messages of one call, published in order, some of them ahead of the answers: the network takes several at once with less
/// work for each.
struct Many {
    pubsub: PubSub,
    requests: Streaming<PublishManyRequest>,
    more: bool,
    /// Why no more can be read, where that is a fault.
    fault: Option<Status>,
    ahead: Outbound,
    user: u32,
    /// Waits for a listener, or for room, so nothing overtakes it; or was refused.
    patient: Option<Result<Patient, Status>>,
    answered: u64,
}

impl Many {
    fn new(pubsub: &PubSub, user: u32, requests: Streaming<PublishManyRequest>) -> Self {
        Many {
            pubsub: pubsub.clone(),
            requests,
            more: true,
            fault: None,
            ahead: pubsub.outbound(),
            user,
            patient: None,
            answered: 0,
        }
    }

    /// What became of the next message; `None` after the last, and an error where the one after it could not be read.
    async fn next(&mut self) -> Option<Result<PublishManyResponse, Status>> {
        loop {
            if self.ahead.is_empty()
                && let Some(patient) = self.patient.take()
            {
                let published = match patient {
                    Ok(patient) => patient.publish(&self.pubsub).await,
                    Err(refused) => Err(refused),
                };
                return Some(Ok(self.answer(published)));
            }
            let room = self.more && self.patient.is_none() && self.ahead.len() < AHEAD;
            tokio::select! {
                biased;
                Some(done) = self.ahead.next() => return Some(Ok(self.answer(done.map(sent).map_err(status::of)))),
                request = self.requests.message(), if room => match request {
                    Ok(Some(PublishManyRequest { message })) => match message.unwrap_or_default() {
                        PublishRequest { topic, data, wait_ms: 0 }
                            if let Ok(room) = self.pubsub.room_now(self.user, data.len()) =>
                        {
                            self.ahead.hand(&topic, data, Arc::new(room)).await;
                        }
                        patient => self.patient = Some(Patient::new(&self.pubsub, self.user, patient)),
                    },
                    Ok(None) => self.more = false,
                    Err(error) => {
                        self.more = false;
                        self.fault = Some(status::unreadable(&error));
                    }
                },
                else => return self.fault.take().map(Err),
            }
        }
    }

    fn answer(&mut self, published: Result<PublishResponse, Status>) -> PublishManyResponse {
        let number = self.answered;
        self.answered += 1;
        match published {
            Ok(PublishResponse { peers, behind }) => {
                PublishManyResponse { number, peers, behind, ..PublishManyResponse::default() }
            }
            Err(refused) => {
                let reason = reason_of(&refused).map(|r| r.as_str().to_owned()).unwrap_or_default();
                let error = refused.message().to_owned();
                PublishManyResponse { number, reason, error, ..PublishManyResponse::default() }
            }
        }
    }
}

#[tonic::async_trait]
impl PubSubService for Service {
    async fn publish(&self, request: Request<PublishRequest>) -> Result<Response<PublishResponse>, Status> {
        let user = Caller::of(request.extensions()).uid;
        let patient = Patient::new(&self.pubsub, user, request.into_inner())?;
        // What waits for nobody is made an end of.
        let patiently = patient.request.wait_ms > 0;
        let publishing = patient.publish(&self.pubsub);
        let published = match patiently {
            true => self.stop.run_until_cancelled(publishing).await.unwrap_or_else(|| Err(status::stopping())),
            false => publishing.await,
        };
        Ok(Response::new(published?))
    }

    type PublishManyStream = Followed<PublishManyResponse>;

    async fn publish_many(
        &self,
        request: Request<Streaming<PublishManyRequest>>,
    ) -> Result<Response<Self::PublishManyStream>, Status> {
        let many = Many::new(&self.pubsub, Caller::of(request.extensions()).uid, request.into_inner());
        let answers = stream::unfold(many, async |mut many| Some((many.next().await?, many)));
        Ok(Response::new(reply::follow(self.stop.clone(), answers)))
    }

    type SubscribeStream = Followed<SubscribeResponse>;

    async fn subscribe(&self, request: Request<SubscribeRequest>) -> Result<Response<Self::SubscribeStream>, Status> {
        let SubscribeRequest { topic, contract } = request.into_inner();
        let (pubsub, stop) = (&self.pubsub, self.stop.clone());
        let live = match contract {
            None => Live::DropOldest(0),
            Some(Contract::DropOldest(drop)) if drop.max_messages > 4096 => {
                return Err(status::field("drop_oldest.max_messages", "takes at most 4096"));
            }
            Some(Contract::DropOldest(drop)) => Live::DropOldest(usize::try_from(drop.max_messages).unwrap_or(4096)),
            Some(Contract::Block(block)) if block.max_wait_ms > 10_000 => {
                return Err(status::field("block.max_wait_ms", "takes at most 10000"));
            }
            Some(Contract::Block(block)) => {
                let wait = if block.max_wait_ms == 0 { 1_000 } else { block.max_wait_ms };
                Live::Block(Duration::from_millis(wait.into()))
            }
            Some(Contract::Durable(durable)) => {
                let start = match (durable.after, durable.from_oldest) {
                    (Some(_), true) => {
                        return Err(status::field("durable.from_oldest", "cannot be set together with after"));
                    }
                    (Some(cursor), false) => Start::After(cursor),
                    (None, true) => Start::Oldest,
                    (None, false) => Start::Now,
                };
                let name = topic.clone();
                let pubsub = self.pubsub.clone();
                let subscribing = async move { pubsub.subscribe_durable(&name, start).await };
                let reader = status::whole(self.tasks.whole(subscribing).await)?;
                return Ok(Response::new(reply::follow(stop, read_log(reader, topic))));
            }
        };
        let reader = pubsub.subscribe(&topic, live).await.map_err(status::of)?;
        let events = stream::unfold(reader, async |mut reader| {
            let event = match reader.next().await? {
                Next::Item(item) => message(item),
                Next::Gap { from, to, cause } => Event::Gap(gap(from, to, cause)),
            };
            Some((subscribed(event, 0), reader))
        });
        let all = stream::iter([subscribed(Event::Subscribed(true), 0)]).chain(events);
        Ok(Response::new(reply::follow(stop, all.map(Ok))))
    }

    type ValidateTopicStream = Replies<ValidateTopicResponse>;

    async fn validate_topic(
        &self,
        request: Request<Streaming<ValidateTopicRequest>>,
    ) -> Result<Response<Self::ValidateTopicStream>, Status> {
        let mut requests = request.into_inner();
        let Some(ValidateTopicRequest { item: Some(Item::Topic(topic)) }) = requests.message().await? else {
            return Err(status::field("topic", "must come first"));
        };
        let pubsub = self.pubsub.clone();
        let validator = pubsub.validate(&topic).await.map_err(status::of)?;
        Ok(Response::new(reply::stream(self.stop.clone(), async move |out| {
            judge(&pubsub, &topic, validator, requests, out).await
        })))
    }

    async fn list_topics(&self, _: Request<ListTopicsRequest>) -> Result<Response<ListTopicsResponse>, Status> {
        let (topics, details) = self.pubsub.topics().await.map_err(status::of)?;
        let details = details.into_iter().map(convert::topic).collect();
        Ok(Response::new(ListTopicsResponse { topics, details }))
    }

    async fn get_topic(&self, request: Request<GetTopicRequest>) -> Result<Response<GetTopicResponse>, Status> {
        let topic = self.pubsub.topic(&request.into_inner().topic).await.map_err(status::of)?;
        Ok(Response::new(GetTopicResponse { topic: Some(convert::topic(topic)) }))
    }

    type WatchTopicStream = Replies<WatchTopicResponse>;

    async fn watch_topic(
        &self,
        request: Request<WatchTopicRequest>,
    ) -> Result<Response<Self::WatchTopicStream>, Status> {
        let topic = request.into_inner().topic;
        let pubsub = self.pubsub.clone();
        let mut watch = pubsub.watch_topic(&topic).map_err(status::of)?;
        Ok(Response::new(reply::stream(self.stop.clone(), async move |out| {
            loop {
                match watch.next(&pubsub).await {
                    Ok(topic) => out.send(WatchTopicResponse { topic: Some(convert::topic(topic)) }).await?,
                    Err(error) => return out.fail(status::of(error)).await,
                }
            }
        })))
    }

    async fn set_topic(&self, request: Request<SetTopicRequest>) -> Result<Response<SetTopicResponse>, Status> {
        let SetTopicRequest { topic, settings } = request.into_inner();
        let settings = convert::settings_in(settings.unwrap_or_default())?;
        let pubsub = self.pubsub.clone();
        let setting = async move { pubsub.set_topic(&topic, settings).await };
        status::whole(self.tasks.whole(setting).await)?;
        Ok(Response::new(SetTopicResponse { settings: Some(convert::settings(settings)) }))
    }

    async fn forget_topic(
        &self,
        request: Request<ForgetTopicRequest>,
    ) -> Result<Response<ForgetTopicResponse>, Status> {
        let topic = request.into_inner().topic;
        let pubsub = self.pubsub.clone();
        let forgetting = async move { pubsub.forget_topic(&topic).await };
        status::whole(self.tasks.whole(forgetting).await)?;
        Ok(Response::new(ForgetTopicResponse {}))
    }

    async fn list_topic_peers(
        &self,
        request: Request<ListTopicPeersRequest>,
    ) -> Result<Response<ListTopicPeersResponse>, Status> {
        let peers = self.pubsub.topic_peers(&request.into_inner().topic).await.map_err(status::of)?;
        Ok(Response::new(ListTopicPeersResponse { peer_ids: peers.iter().map(ToString::to_string).collect() }))
    }
}

/// Who signed a message; nothing where nobody did.
fn named(sender: Option<PeerId>) -> String {
    sender.map_or_else(String::new, |sender| sender.to_string())
}

fn message(item: TopicItem) -> Event {
    let TopicItem { sender, data, received_ms } = item;
    Event::Message(TopicMessage { sender: named(sender), data, received_ms })
}

fn subscribed(event: Event, cursor: u64) -> SubscribeResponse {
    SubscribeResponse { event: Some(event), cursor }
}

/// A log as its reader gets it.
fn read_log(reader: LogReader, topic: String) -> impl Stream<Item = Result<SubscribeResponse, Status>> {
    let begin = subscribed(Event::Subscribed(true), reader.cursor());
    let events = stream::unfold(Some(reader), move |reader| {
        let topic = topic.clone();
        async move {
            let mut reader = reader?;
            let event = match reader.next().await {
                Some(Ok(Logged::Item(item))) => message(item),
                Some(Ok(Logged::Gap { from, to, reason })) => Event::Gap(Gap { from, to, reason: reason.into() }),
                Some(Err(error)) => return Some((Err(status::of(error)), None)),
                None => return Some((Err(status::of(PubSubError::NotFound(topic))), None)),
            };
            Some((Ok(subscribed(event, reader.cursor())), Some(reader)))
        }
    });
    stream::iter([Ok(begin)]).chain(events)
}

/// Carries messages to a validator and its verdicts back, until it goes away.
async fn judge(
    pubsub: &PubSub,
    topic: &str,
    mut validator: Validator,
    mut requests: Streaming<ValidateTopicRequest>,
    out: Out<ValidateTopicResponse>,
) -> Result<(), Gone> {
    use validate_topic_response::Event;
    out.send(ValidateTopicResponse { event: Some(Event::Attached(true)) }).await?;
    loop {
        tokio::select! {
            asked = validator.next() => {
                let event = match asked {
                    None => return Ok(()),
                    Some(ValidatorEvent::Late(number)) => Event::Late(number),
                    Some(ValidatorEvent::Judge(ToJudge { number, sender, source, data })) => {
                        Event::Message(MessageToJudge { number, sender: named(sender), source: source.to_string(), data })
                    }
                };
                out.send(ValidateTopicResponse { event: Some(event) }).await?;
            }
            said = requests.message() => {
                let verdict = match said {
                    Ok(Some(ValidateTopicRequest { item: Some(Item::Verdict(verdict)) })) => verdict,
                    Ok(Some(_)) => return out.fail(status::field("verdict", "must be set after the topic")).await,
                    Ok(None) => return Ok(()),
                    Err(error) => return out.fail(status::unreadable(&error)).await,
                };
                let ruled = match ruling(&verdict) {
                    Ok(ruling) => pubsub.give_verdict(topic, verdict.number, ruling).await.map_err(status::of),
                    Err(refused) => Err(refused),
                };
                if let Err(refused) = ruled {
                    return out.fail(refused).await;
                }
            }
        }
    }
}

fn ruling(verdict: &MessageVerdict) -> Result<Ruling, Status> {
    match verdict.judgement() {
        Judgement::Accept => Ok(Ruling::Accept),
        Judgement::Reject => Ok(Ruling::Reject),
        Judgement::Ignore => Ok(Ruling::Ignore),
        Judgement::Unspecified => Err(status::field("verdict.judgement", "must be accept, reject or ignore")),
    }
}
