//! `pub` and `sub`.

use std::io::{self, BufRead, Write};

use p2pd_api::v1::{
    PublishRequest, SubscribeRequest, pub_sub_service_client::PubSubServiceClient, subscribe_response::Event,
};

use super::Context;
use crate::{cli::Format, client, output};

pub(super) async fn publish(context: &Context, topic: String, message: Option<String>) -> anyhow::Result<()> {
    let mut pubsub = PubSubServiceClient::new(context.client.channel.clone());
    let mut send = async |data: Vec<u8>| {
        let request = PublishRequest { topic: topic.clone(), data: data.into() };
        context.client.answer(pubsub.publish(request)).await
    };
    let lines: Box<dyn Iterator<Item = io::Result<String>>> = match message {
        Some(message) => Box::new(std::iter::once(Ok(message))),
        None => Box::new(io::stdin().lock().lines()),
    };
    for line in lines {
        let sent = send(line?.into_bytes()).await?;
        output::message(context.format, "PublishResponse", &sent, |s| {
            format!("sent; {} connected peers follow", s.peers)
        })?;
    }
    Ok(())
}

pub(super) async fn subscribe(context: &Context, topic: String, count: Option<u64>) -> anyhow::Result<()> {
    let mut pubsub = PubSubServiceClient::new(context.client.channel.clone());
    let mut messages = context.client.answer(pubsub.subscribe(SubscribeRequest { topic })).await?;
    let mut left = count.unwrap_or(u64::MAX);
    while left > 0 {
        let response = client::next(&mut messages).await?;
        if context.format != Format::Table {
            output::line(&output::to_json("SubscribeResponse", &response, false)?)?;
        }
        match response.event {
            Some(Event::Message(message)) => {
                left -= 1;
                if context.format == Format::Table {
                    let mut out = io::stdout().lock();
                    out.write_all(&message.data)?;
                    out.write_all(b"\n")?;
                    out.flush()?;
                }
            }
            Some(Event::Gap(gap)) => {
                output::say(format_args!("p2pctl: messages {} to {} were lost: {}", gap.from, gap.to, gap.reason))
            }
            Some(Event::Subscribed(_)) | None => {}
        }
    }
    Ok(())
}
