//! `streams`.

use p2pd_api::v1::{
    ListStreamsRequest, WatchStreamsRequest, stream_service_client::StreamServiceClient, watch_streams_response::Event,
};

use super::Context;
use crate::{cli::Format, client, output};

pub(super) async fn run(context: &Context, category: String, watch: bool) -> anyhow::Result<()> {
    let mut streams = StreamServiceClient::new(context.client.channel.clone());
    if !watch {
        let list = context.client.answer(streams.list_streams(ListStreamsRequest { category })).await?;
        return output::list(context.format, ("ListStreamsResponse", &list), ("Stream", &list.streams), |streams| {
            output::rows(&output::STREAM_HEADS, streams.iter().map(output::stream_row))
        });
    }
    let mut changes = context.client.answer(streams.watch_streams(WatchStreamsRequest {})).await?;
    loop {
        let change = client::next(&mut changes).await?;
        if matches!(&change.event, Some(Event::Present(s)) if !category.is_empty() && s.category != category) {
            continue;
        }
        if context.format != Format::Table {
            output::line(&output::to_json("WatchStreamsResponse", &change, false)?)?;
            continue;
        }
        match change.event {
            Some(Event::Present(s)) => {
                output::line(&format!("live   {}", output::stream_row(&s).join("  ")))?;
            }
            Some(Event::Gone(gone)) => {
                output::line(&format!("{:6} {}  {}", gone.reason, gone.stream_id, output::short(&gone.publisher)))?;
            }
            _ => {}
        }
    }
}
