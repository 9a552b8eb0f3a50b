//! `status` and `version`.

use p2pd_api::v1::{GetInfoRequest, GetStateRequest, GetStatisticsRequest, node_service_client::NodeServiceClient};

use super::Context;
use crate::{cli::Format, output};

pub(super) async fn status(context: &Context) -> anyhow::Result<()> {
    let mut node = NodeServiceClient::new(context.client.channel.clone());
    let info = context.client.answer(node.get_info(GetInfoRequest {})).await?;
    let numbers = context.client.answer(node.get_statistics(GetStatisticsRequest {})).await?;
    let state = context.client.answer(node.get_state(GetStateRequest {})).await?;
    if context.format != Format::Table {
        let part = |name, text: String| format!("\"{name}\":{text}");
        let info = part("info", output::to_json("GetInfoResponse", &info, false)?);
        let numbers = part("statistics", output::to_json("GetStatisticsResponse", &numbers, false)?);
        let state = part("state", output::to_json("GetStateResponse", &state, false)?);
        return Ok(output::line(&format!("{{{info},{state},{numbers}}}"))?);
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
    if numbers.too_large > 0 {
        text.push_str(&format!(
            "too large    {} messages of peers, refused; the log names the topics\n",
            numbers.too_large
        ));
    }
    for address in &info.addresses {
        text.push_str(&format!("address      {address}\n"));
    }
    for (n, address) in state.bootstrap_missing.iter().enumerate() {
        let fault = state.bootstrap_faults.get(n).filter(|fault| !fault.is_empty());
        let fault = fault.map_or_else(String::new, |fault| format!(": {fault}"));
        text.push_str(&format!("not reached  {address}{fault}\n"));
    }
    text.push_str(&state.advice);
    Ok(output::line(text.trim_end())?)
}

pub(super) async fn version(context: &Context) -> anyhow::Result<()> {
    let mut node = NodeServiceClient::new(context.client.channel.clone());
    let info = context.client.answer(node.get_info(GetInfoRequest {})).await?;
    let ours = env!("CARGO_PKG_VERSION");
    let both = match context.format {
        Format::Table => format!("p2pctl {ours}\np2pd   {}", info.version),
        _ => serde_json::json!({ "p2pctl": ours, "p2pd": info.version }).to_string(),
    };
    Ok(output::line(&both)?)
}
