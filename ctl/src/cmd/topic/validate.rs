//! `topic validate`: a command that judges each message.

use std::{collections::HashMap, sync::Arc};

use p2pd_api::v1::{
    Judgement, MessageToJudge, MessageVerdict, ValidateTopicRequest, pub_sub_service_client::PubSubServiceClient,
    validate_topic_request::Item, validate_topic_response::Event,
};
use tokio::{
    sync::{Semaphore, mpsc},
    task::{AbortHandle, JoinSet},
};
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    client,
    cmd::{
        context::Context,
        program::{AT_ONCE, Program},
    },
    output,
};

/// Has a command judge each message of a topic.
pub(super) async fn run(context: &Context, topic: String, command: &[String]) -> anyhow::Result<()> {
    let program = Program::find(command)?;
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
