//! `events`: what happens, as it happens or from a cursor on.

use p2pd_api::v1::{WatchEventsRequest, WatchEventsResponse, node_service_client::NodeServiceClient};

use super::context::Context;
use crate::{
    cli::Events,
    output::{self, Format, Tone},
};

pub(super) async fn run(context: &Context, flags: &Events) -> anyhow::Result<()> {
    let mut node = NodeServiceClient::new(context.client.channel.clone());
    let request = WatchEventsRequest {
        after: flags.after,
        from_oldest: flags.from_oldest || (flags.past && flags.after.is_none()),
        kinds: flags.kinds.clone(),
        subject: flags.subject.clone(),
        heartbeat: flags.heartbeat,
        past_only: flags.past,
    };
    let mut events = context.client.answer(node.watch_events(request)).await?;
    let mut left = flags.count.unwrap_or(u64::MAX);
    while left > 0 {
        let event = match flags.past {
            true => match events.message().await? {
                Some(event) => event,
                None => break,
            },
            false => output::watch(&mut events).await?,
        };
        left -= 1;
        if context.format != Format::Table {
            output::line(&output::to_json("WatchEventsResponse", &event, false)?)?;
            continue;
        }
        let (time, tone) = (output::time(event.time_ms), tone(&event.kind));
        let kind = output::paint(tone, format_args!("{:<17}", event.kind));
        output::show(&format!("{:>6}  {time}  {kind}  {}", event.cursor, subject(&event)))?;
    }
    Ok(())
}

/// The subject, with a peer id shortened where the width is limited.
fn subject(event: &WatchEventsResponse) -> String {
    match event.subject.rsplit_once('@') {
        Some((stream, publisher)) => format!("{stream}@{}", output::id(publisher)),
        None if event.kind.starts_with("peer-") => output::id(&event.subject),
        None => event.subject.clone(),
    }
}

fn tone(kind: &str) -> Tone {
    match kind {
        "peer-connected" | "stream-present" | "started" => Tone::Good,
        "peer-disconnected" | "stream-ended" => Tone::Dim,
        _ => Tone::Warning,
    }
}
