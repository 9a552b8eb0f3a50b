//! `topics` and `validate`.

use std::time::Duration;

use p2pd_api::v1::{
    ForgetTopicRequest, GetTopicRequest, Judgement, ListTopicPeersRequest, ListTopicsRequest, MessageIdentity,
    MessageToJudge, MessageVerdict, SetTopicRequest, Topic, TopicSettings, ValidateTopicRequest, WatchTopicRequest,
    pub_sub_service_client::PubSubServiceClient, validate_topic_request::Item, validate_topic_response::Event,
};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;

use super::{
    Context,
    program::{AT_ONCE, Program},
};
use crate::{
    cli::{Format, IdentityArg, TopicSet, TopicsAction},
    client, output,
};

pub(super) async fn run(context: &Context, action: Option<TopicsAction>) -> anyhow::Result<()> {
    let mut pubsub = PubSubServiceClient::new(context.client.channel.clone());
    match action {
        None => {
            let list = context.client.answer(pubsub.list_topics(ListTopicsRequest {})).await?;
            output::list(context.format, ("ListTopicsResponse", &list), ("Topic", &list.details), table)
        }
        Some(TopicsAction::Show { topic }) => {
            let found = context.client.answer(pubsub.get_topic(GetTopicRequest { topic })).await?;
            output::message(context.format, "GetTopicResponse", &found, |f| {
                f.topic.as_ref().map_or_else(String::new, page)
            })
        }
        Some(TopicsAction::Peers { topic }) => {
            let list = context.client.answer(pubsub.list_topic_peers(ListTopicPeersRequest { topic })).await?;
            if context.format == Format::Table && list.peer_ids.is_empty() {
                output::say("no connected peer follows it");
                return Ok(());
            }
            output::message(context.format, "ListTopicPeersResponse", &list, |l| l.peer_ids.join("\n"))
        }
        Some(TopicsAction::Watch { topic }) => {
            let watch = context.client.answer(pubsub.watch_topic(WatchTopicRequest { topic })).await?;
            output::each(context.format, "WatchTopicResponse", watch, |w| {
                w.topic.as_ref().map_or_else(String::new, who)
            })
            .await
            .map(drop)
        }
        Some(TopicsAction::Set(set)) => {
            let settings = Some(settings(&set));
            let request = SetTopicRequest { topic: set.topic, settings };
            let set = context.client.answer(pubsub.set_topic(request)).await?;
            output::message(context.format, "SetTopicResponse", &set, |s| {
                s.settings.as_ref().map_or_else(String::new, settings_text)
            })
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
    let row = |topic: &Topic| {
        let log = topic.log.as_ref().map_or_else(|| "-".into(), |log| format!("{} kB", log.bytes.div_ceil(1000)));
        let validated = if topic.validated { "yes" } else { "-" };
        let numbers = [topic.peers, topic.mesh_peers, topic.readers + topic.log.as_ref().map_or(0, |log| log.readers)];
        let numbers = numbers.iter().map(ToString::to_string);
        std::iter::once(topic.name.clone()).chain(numbers).chain([log, validated.into()]).collect()
    };
    output::rows(&["TOPIC", "PEERS", "MESH", "READERS", "LOG", "VALIDATED"], topics.iter().map(row))
}

fn who(topic: &Topic) -> String {
    format!("{} peers, {} readers here", topic.peers, topic.readers + topic.log.as_ref().map_or(0, |log| log.readers))
}

fn page(topic: &Topic) -> String {
    let log = topic.log.as_ref().map_or_else(
        || "no log".into(),
        |log| format!("log from {} to {}, {} bytes, {} readers", log.oldest, log.newest, log.bytes, log.readers),
    );
    let validated = if topic.validated { "judged by a program" } else { "not judged" };
    let settings = topic.settings.as_ref().map_or_else(String::new, settings_text);
    let too_large = match topic.too_large {
        0 => String::new(),
        count => format!("\n{count} messages of peers were refused, being larger"),
    };
    format!(
        "{}\n{}, {} in the mesh\n{log}\n{validated}\n{settings}{too_large}",
        topic.name,
        who(topic),
        topic.mesh_peers
    )
}

fn settings_text(s: &TopicSettings) -> String {
    let identity = match s.identity() {
        MessageIdentity::Content => "content",
        MessageIdentity::Sender => "sender",
        MessageIdentity::Key | MessageIdentity::Unspecified => "key",
    };
    let unjudged = if s.fail_closed { "refused" } else { "accepted" };
    let age = match s.max_age_ms {
        0 => String::new(),
        ms => format!(" and at most {ms} ms old"),
    };
    let unsigned = if s.allow_unsigned { " signed or not," } else { "" };
    format!(
        "messages up to {} bytes{age},{unsigned} told apart by {identity}; what is not judged within {} ms is {unjudged}; the log keeps {} s and {} bytes; a mesh of {} peers",
        s.max_message_bytes, s.judging_ms, s.keep_s, s.keep_bytes, s.mesh
    )
}

/// Has a command judge each message of a topic.
pub(super) async fn validate(context: &Context, topic: String, command: Vec<String>) -> anyhow::Result<()> {
    let program = Program::find(&command)?;
    let (said, requests) = mpsc::channel(AT_ONCE);
    said.send(ValidateTopicRequest { item: Some(Item::Topic(topic)) }).await?;
    let mut pubsub = PubSubServiceClient::new(context.client.channel.clone());
    let mut messages = context.client.answer(pubsub.validate_topic(ReceiverStream::new(requests))).await?;
    let mut running = JoinSet::new();
    loop {
        let message = match client::next(&mut messages).await?.event {
            Some(Event::Message(message)) => message,
            Some(Event::Attached(_)) => {
                output::say(format_args!("judging by {}", program.name));
                continue;
            }
            Some(Event::Late(_)) => {
                output::say(format_args!(
                    "p2pctl: {} took too long, and a message counts as not judged; `p2pctl topics set --judging` gives more time",
                    program.name
                ));
                continue;
            }
            None => continue,
        };
        while running.len() >= AT_ONCE {
            running.join_next().await;
        }
        let (said, program) = (said.clone(), program.clone());
        running.spawn(async move {
            let number = message.number;
            let judgement = judge(&program, message).await.into();
            let verdict = MessageVerdict { number, judgement };
            // The call may be over.
            let _ = said.send(ValidateTopicRequest { item: Some(Item::Verdict(verdict)) }).await;
        });
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
