//! `topics` and `validate`.

use std::{collections::HashMap, sync::Arc, time::Duration};

use p2pd_api::v1::{
    ForgetTopicRequest, GetTopicRequest, Judgement, ListTopicPeersRequest, ListTopicsRequest, MessageIdentity,
    MessageToJudge, MessageVerdict, SetTopicRequest, Topic, TopicSettings, ValidateTopicRequest, WatchTopicRequest,
    pub_sub_service_client::PubSubServiceClient, validate_topic_request::Item, validate_topic_response::Event,
};
use tokio::{
    sync::{Semaphore, mpsc},
    task::{AbortHandle, JoinSet},
};
use tokio_stream::wrappers::ReceiverStream;

use super::{
    Context,
    program::{AT_ONCE, Program},
};
use crate::{
    cli::{Format, IdentityArg, TopicSet, TopicsAction},
    client,
    output::{self, Cell, Fit, List, Tone, count, toned},
};

const NO_TOPICS: &str =
    "no topic here yet: `p2pctl sub TOPIC` follows one, `p2pctl topics set TOPIC` gives one settings";

pub(super) async fn run(context: &Context, action: Option<TopicsAction>) -> anyhow::Result<()> {
    let mut pubsub = PubSubServiceClient::new(context.client.channel.clone());
    match action {
        None => {
            let answer = context.client.answer(pubsub.list_topics(ListTopicsRequest {})).await?;
            let list = List {
                answer: &answer,
                answer_name: "ListTopicsResponse",
                items: &answer.details,
                item_name: "Topic",
                empty: NO_TOPICS,
            };
            output::list(context.format, &list, table)
        }
        Some(TopicsAction::Show { topic }) => {
            let found = context.client.answer(pubsub.get_topic(GetTopicRequest { topic })).await?;
            output::message(context.format, "Topic", &found.topic.unwrap_or_default(), page)
        }
        Some(TopicsAction::Peers { topic }) => {
            let request = ListTopicPeersRequest { topic: topic.clone() };
            let list = context.client.answer(pubsub.list_topic_peers(request)).await?;
            if context.format == Format::Table && list.peer_ids.is_empty() {
                output::say(format_args!(
                    "no connected peer follows `{topic}`: one does with `p2pctl sub {topic}` there"
                ));
                return Ok(());
            }
            output::message(context.format, "ListTopicPeersResponse", &list, |l| l.peer_ids.join("\n"))
        }
        Some(TopicsAction::Watch { topic }) => {
            let mut watch = context.client.answer(pubsub.watch_topic(WatchTopicRequest { topic })).await?;
            loop {
                let topic = output::watch(&mut watch).await?.topic.unwrap_or_default();
                output::one(context.format, "Topic", &topic, who)?;
            }
        }
        Some(TopicsAction::Set(set)) => {
            let settings = Some(settings(&set));
            let request = SetTopicRequest { topic: set.topic, settings };
            let set = context.client.answer(pubsub.set_topic(request)).await?;
            output::message(context.format, "TopicSettings", &set.settings.unwrap_or_default(), settings_page)
        }
        Some(TopicsAction::Forget { topic }) => {
            let request = ForgetTopicRequest { topic: topic.clone() };
            let done = context.client.answer(pubsub.forget_topic(request)).await?;
            output::message(context.format, "ForgetTopicResponse", &done, |_| format!("forgot {topic}"))
        }
    }
}

fn settings(set: &TopicSet) -> TopicSettings {
    let milliseconds = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
    let identity = match set.identity {
        IdentityArg::Sender => MessageIdentity::Sender,
        IdentityArg::Key => MessageIdentity::Key,
        IdentityArg::Content => MessageIdentity::Content,
    };
    TopicSettings {
        max_message_bytes: set.max_message,
        identity: identity.into(),
        fail_closed: set.closed,
        judging_ms: milliseconds(set.judging),
        keep_s: u32::try_from(set.keep.as_secs()).unwrap_or(u32::MAX),
        keep_bytes: set.keep_bytes,
        mesh: set.mesh,
        max_age_ms: set.max_age.map_or(0, milliseconds),
        allow_unsigned: set.unsigned,
    }
}

fn table(topics: &[Topic]) -> String {
    let heads = ["TOPIC", "PEERS", "MESH", "READERS", "LOG", "VALIDATED"].map(|head| (head, Fit::Whole));
    let row = |topic: &Topic| {
        let log = topic.log.as_ref().map_or_else(|| "-".into(), |log| format!("{} kB", log.bytes.div_ceil(1000)));
        let validated = if topic.validated { toned(Tone::Good, "yes") } else { Cell::from("-") };
        let [peers, mesh, readers] = [topic.peers, topic.mesh_peers, readers(topic)].map(|n| Cell::from(n.to_string()));
        [topic.name.as_str().into(), peers, mesh, readers, log.into(), validated]
    };
    output::rows(&heads, topics.iter().map(row))
}

/// Live readers of this daemon and those of the log.
fn readers(topic: &Topic) -> u32 {
    topic.readers.saturating_add(topic.log.as_ref().map_or(0, |log| log.readers))
}

fn who(topic: &Topic) -> String {
    format!("{}, {} here", count(topic.peers, "peer"), count(readers(topic), "reader"))
}

fn page(topic: &Topic) -> String {
    let log = topic.log.as_ref().map_or_else(
        || "none".into(),
        |log| {
            let (bytes, readers) = (count(log.bytes, "byte"), count(log.readers, "reader"));
            format!("messages {} to {}, {bytes}, {readers}", log.oldest, log.newest)
        },
    );
    let judged = if topic.validated { toned(Tone::Good, "by a program") } else { "by nobody".into() };
    let mut items: Vec<(&str, Cell)> = vec![
        ("topic", topic.name.as_str().into()),
        ("followers", format!("{}, {} in the mesh", who(topic), topic.mesh_peers).into()),
        ("log", log.into()),
        ("judged", judged),
    ];
    items.extend(topic.settings.iter().flat_map(settings_items));
    if topic.too_large > 0 {
        let refused = format!("{} of peers refused", count(topic.too_large, "message"));
        items.push(("too large", toned(Tone::Warning, refused)));
    }
    output::page(items)
}

fn settings_page(settings: &TopicSettings) -> String {
    output::page(settings_items(settings))
}

fn settings_items(s: &TopicSettings) -> [(&'static str, Cell); 4] {
    let identity = match s.identity() {
        MessageIdentity::Content => "content",
        MessageIdentity::Sender => "sender",
        MessageIdentity::Key | MessageIdentity::Unspecified => "key",
    };
    let age = match s.max_age_ms {
        0 => String::new(),
        ms => format!(", at most {ms} ms old"),
    };
    let unsigned = if s.allow_unsigned { ", signed or not" } else { "" };
    let (bytes, unjudged) = (s.max_message_bytes, if s.fail_closed { "refused" } else { "accepted" });
    [
        ("messages", format!("up to {bytes} bytes{age}{unsigned}, told apart by {identity}").into()),
        ("not judged", format!("{unjudged} after {} ms", s.judging_ms).into()),
        ("log keeps", format!("{} s and {} bytes", s.keep_s, s.keep_bytes).into()),
        ("mesh", count(s.mesh, "peer").into()),
    ]
}

/// Has a command judge each message of a topic.
pub(super) async fn validate(context: &Context, topic: String, command: Vec<String>) -> anyhow::Result<()> {
    let program = Program::find(&command)?;
    let (said, requests) = mpsc::channel(AT_ONCE);
    said.send(ValidateTopicRequest { item: Some(Item::Topic(topic)) }).await?;
    let mut pubsub = PubSubServiceClient::new(context.client.channel.clone());
    let mut messages = context.client.answer(pubsub.validate_topic(ReceiverStream::new(requests))).await?;
    let room = Arc::new(Semaphore::new(AT_ONCE));
    // Dropping the tasks ends their commands.
    let mut judging = JoinSet::new();
    let mut running: HashMap<u64, AbortHandle> = HashMap::new();
    loop {
        match client::next(&mut messages).await?.event {
            Some(Event::Attached(_)) => output::say(format_args!("judging by {}", program.name)),
            Some(Event::Message(message)) => {
                while judging.try_join_next().is_some() {}
                running.retain(|_, command| !command.is_finished());
                let number = message.number;
                let (said, program, room) = (said.clone(), program.clone(), room.clone());
                let command = judging.spawn(async move {
                    let _room = room.acquire().await;
                    let judgement = judge(&program, message).await.into();
                    let verdict = MessageVerdict { number, judgement };
                    // The call may be over.
                    let _ = said.send(ValidateTopicRequest { item: Some(Item::Verdict(verdict)) }).await;
                });
                running.insert(number, command);
            }
            Some(Event::Late(number)) => {
                running.remove(&number).iter().for_each(AbortHandle::abort);
                output::say(format_args!(
                    "p2pctl: {} took too long, and a message counts as not judged; \
                     `p2pctl topics set --judging` gives more time",
                    program.name
                ));
            }
            None => {}
        }
    }
}

async fn judge(program: &Program, message: MessageToJudge) -> Judgement {
    let variables = [("P2PD_SENDER", message.sender.as_str()), ("P2PD_SOURCE", &message.source)];
    match program.run(&variables, &message.data).await {
        Ok(done) => match done.status.code() {
            Some(0) => Judgement::Accept,
            Some(1) => Judgement::Reject,
            _ => Judgement::Ignore,
        },
        Err(error) => {
            output::say(format_args!("p2pctl: {}: {error}; the message is ignored", program.name));
            Judgement::Ignore
        }
    }
}
