//! `topic`: topics and their settings; publishing, subscribing and validating have files of their own.

mod publish;
mod subscribe;
mod table;
mod validate;

use std::time::Duration;

use p2pd_api::v1::{
    ForgetTopicRequest, GetTopicRequest, ListTopicPeersRequest, ListTopicsRequest, MessageIdentity, SetTopicRequest,
    TopicSettings, WatchTopicRequest, pub_sub_service_client::PubSubServiceClient,
};

use super::context::Context;
use crate::{
    cli::{IdentityArg, TopicAction, TopicSet, TopicVerb},
    output::{self, Format, List},
};

const NO_TOPICS: &str =
    "no topic here yet: `p2pctl sub TOPIC` follows one, `p2pctl topics set TOPIC` gives one settings";

pub(super) async fn run(context: &Context, action: TopicAction) -> anyhow::Result<()> {
    let mut pubsub = PubSubServiceClient::new(context.client.channel.clone());
    match action {
        TopicAction::List => {
            let answer = context.client.answer(pubsub.list_topics(ListTopicsRequest {})).await?;
            let list = List {
                answer: &answer,
                answer_name: "ListTopicsResponse",
                items: &answer.details,
                item_name: "Topic",
                empty: NO_TOPICS,
            };
            output::list(context.format, &list, table::topics)
        }
        TopicAction::Verb(TopicVerb::Pub(flags)) => publish::run(context, flags).await,
        TopicAction::Verb(TopicVerb::Sub(flags)) => subscribe::run(context, flags).await,
        TopicAction::Verb(TopicVerb::Validate { topic, command }) => validate::run(context, topic, &command).await,
        TopicAction::Show { topic } => {
            let found = context.client.answer(pubsub.get_topic(GetTopicRequest { topic })).await?;
            output::message(context.format, "Topic", &found.topic.unwrap_or_default(), table::page)
        }
        TopicAction::Peers { topic } => {
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
        TopicAction::Watch { topic } => {
            let mut watch = context.client.answer(pubsub.watch_topic(WatchTopicRequest { topic })).await?;
            loop {
                let topic = output::watch(&mut watch).await?.topic.unwrap_or_default();
                output::one(context.format, "Topic", &topic, table::who)?;
            }
        }
        TopicAction::Set(set) => {
            let settings = Some(settings(&set));
            let request = SetTopicRequest { topic: set.topic, settings };
            let set = context.client.answer(pubsub.set_topic(request)).await?;
            output::message(context.format, "TopicSettings", &set.settings.unwrap_or_default(), table::settings)
        }
        TopicAction::Forget { topic } => {
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
