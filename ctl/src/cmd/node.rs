//! `status` and `version`.

use p2pd_api::v1::{GetInfoRequest, GetStatisticsRequest, node_service_client::NodeServiceClient};

use super::Context;
use crate::{cli::Format, output};

pub(super) async fn status(context: &Context) -> anyhow::Result<()> {
    let mut node = NodeServiceClient::new(context.client.channel.clone());
    let info = context.client.answer(node.get_info(GetInfoRequest {})).await?;
    let numbers = context.client.answer(node.get_statistics(GetStatisticsRequest {})).await?;
    if context.format != Format::Table {
        output::message(context.format, "GetInfoResponse", &info, |_| String::new())?;
        return output::message(context.format, "GetStatisticsResponse", &numbers, |_| String::new());
    }
    let mut text = format!(
        "peer id      {}\nversion      {}\nnetwork      {}\npeers        {}\nstreams      {} listed, {} published here, {} local listeners\naudio        {} groups in, {} out, {} messages dropped\n",
        info.peer_id,
        info.version,
        info.network,
        numbers.peers,
        numbers.streams,
        numbers.publications,
        numbers.listeners,
        numbers.groups_in,
        numbers.groups_out,
        numbers.dropped,
    );
    for address in &info.addresses {
        text.push_str(&format!("address      {address}\n"));
    }
    if numbers.peers == 0 {
        text.push_str(
            "no peer is connected: give one with `p2pctl peers connect ADDRESS`, or network.bootstrap in p2pd.toml\n",
        );
    }
    Ok(output::line(text.trim_end())?)
}

pub(super) async fn version(context: &Context) -> anyhow::Result<()> {
    let mut node = NodeServiceClient::new(context.client.channel.clone());
    let info = context.client.answer(node.get_info(GetInfoRequest {})).await?;
    Ok(output::line(&format!("p2pctl {}\np2pd   {}", env!("CARGO_PKG_VERSION"), info.version))?)
}
