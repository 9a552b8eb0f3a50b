//! `events`.

use p2pd_api::v1::{WatchEventsRequest, node_service_client::NodeServiceClient};

use super::Context;
use crate::{cli::Format, client, output};

pub(super) async fn run(
    context: &Context,
    from_oldest: bool,
    after: Option<u64>,
    count: Option<u64>,
) -> anyhow::Result<()> {
    let mut node = NodeServiceClient::new(context.client.channel.clone());
    let mut events = context.client.answer(node.watch_events(WatchEventsRequest { after, from_oldest })).await?;
    let mut left = count.unwrap_or(u64::MAX);
    while left > 0 {
        let event = client::next(&mut events).await?;
        left -= 1;
        if context.format != Format::Table {
            output::line(&output::to_json("WatchEventsResponse", &event, false)?)?;
            continue;
        }
        let time = output::time(event.time_ms);
        output::line(&format!("{:>6}  {time}  {:<18} {}", event.cursor, event.kind, event.subject))?;
    }
    Ok(())
}
