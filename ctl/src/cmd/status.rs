//! `status` and `version`.

use p2pd_api::v1::{
    AddressState, AddressWitness, GetInfoRequest, GetInfoResponse, GetStateRequest, GetStateResponse,
    GetStatisticsRequest, GetStatisticsResponse, NodeState, node_service_client::NodeServiceClient,
};

use super::context::Context;
use crate::{
    api_words::with_commands,
    output::{self, Cell, Format, Tone, count, toned},
};

pub(super) async fn status(context: &Context) -> anyhow::Result<()> {
    let mut node = NodeServiceClient::new(context.client.channel.clone());
    let info = context.client.answer(node.get_info(GetInfoRequest {})).await?;
    let numbers = context.client.answer(node.get_statistics(GetStatisticsRequest {})).await?;
    let mut state = context.client.answer(node.get_state(GetStateRequest {})).await?;
    // Texts for people, in JSON too.
    state.advice = with_commands(&state.advice);
    state.bootstrap_faults.iter_mut().for_each(|fault| *fault = with_commands(fault));
    if context.format == Format::Table {
        return Ok(output::show(&page(&info, &state, &numbers))?);
    }
    // One object with the fields of all three.
    let parts = [
        output::to_json("GetInfoResponse", &info, false)?,
        output::to_json("GetStateResponse", &state, false)?,
        output::to_json("GetStatisticsResponse", &numbers, false)?,
    ];
    let mut all = serde_json::Map::new();
    for part in &parts {
        all.append(&mut serde_json::from_str(part)?);
    }
    object(context, &all.into())
}

/// Writes JSON that is not a message of the API, in the same form.
fn object(context: &Context, value: &serde_json::Value) -> anyhow::Result<()> {
    let pretty = context.format == Format::Json;
    let text = if pretty { format!("{value:#}") } else { value.to_string() };
    Ok(output::line(&output::harmless_json(&text))?)
}

fn page(info: &GetInfoResponse, state: &GetStateResponse, numbers: &GetStatisticsResponse) -> String {
    let how = match state.state() {
        NodeState::Connected => toned(Tone::Good, "connected"),
        NodeState::Alone => toned(Tone::Warning, "alone"),
        NodeState::Stopping => toned(Tone::Warning, "stopping"),
        NodeState::Unspecified => Cell::default(),
    };
    let listeners = count(numbers.listeners, "local listener");
    let streams = format!("{} listed, {} published here, {listeners}", numbers.streams, numbers.publications);
    let groups = count(numbers.groups_in, "group");
    let dropped = count(numbers.dropped, "message");
    let audio = format!("{groups} in, {} out, {dropped} dropped", numbers.groups_out);
    let mut items: Vec<(&str, Cell)> = vec![
        ("peer id", info.peer_id.as_str().into()),
        ("version", info.version.as_str().into()),
        ("network", info.network.as_str().into()),
        ("state", how),
        ("peers", numbers.peers.to_string().into()),
        ("streams", streams.into()),
        ("audio", audio.into()),
    ];
    if numbers.too_large > 0 {
        let refused = format!("{} of peers refused; the log names the topics", count(numbers.too_large, "message"));
        items.push(("too large", toned(Tone::Warning, refused)));
    }
    items.extend(info.addresses.iter().map(|address| ("address", address.as_str().into())));
    items.extend(reach(info).map(|reach| ("reach", reach)));
    for relay in info.relays.iter().filter(|relay| !relay.fault.is_empty()) {
        items.push(("no relay", toned(Tone::Warning, format!("{}: {}", relay.peer_id, relay.fault))));
    }
    for (n, address) in state.bootstrap_missing.iter().enumerate() {
        let fault = state.bootstrap_faults.get(n).filter(|fault| !fault.is_empty());
        let fault = fault.map_or_else(String::new, |fault| format!(": {fault}"));
        items.push(("not reached", toned(Tone::Warning, format!("{address}{fault}"))));
    }
    items.extend(state.advice.lines().map(|line| ("advice", toned(Tone::Warning, line))));
    output::page(items)
}

/// From where this daemon is reached.
fn reach(info: &GetInfoResponse) -> Option<Cell> {
    let of = |state: AddressState| info.own_addresses.iter().filter(move |own| own.state() == state);
    if let Some(public) = of(AddressState::Public).next() {
        let says = match public.witness() {
            AddressWitness::Configuration => "network.announce says so".into(),
            _ => format!("{} has tried", public.peer_id),
        };
        let refused = Some(&public.refused_by).filter(|peers| !peers.is_empty());
        let text = format!("from the world at {}: {says}", public.address);
        return Some(match refused {
            Some(peers) => toned(Tone::Warning, format!("{text}; not reached by {}", peers.join(", "))),
            None => toned(Tone::Good, text),
        });
    }
    let tested = || of(AddressState::Private).find(|own| own.witness() == AddressWitness::Tester);
    let why = match tested() {
        Some(own) => format!("; {} did not reach {}", own.refused_by.join(", "), own.address),
        None => String::new(),
    };
    if of(AddressState::Relayed).next().is_some() {
        return Some(format!("from the world through relays{why}").into());
    }
    if tested().is_some() {
        return Some(toned(Tone::Warning, format!("not from the world{why}")));
    }
    let Some(unknown) = of(AddressState::Unknown).next() else {
        // Of this machine or its network, as the addresses themselves say.
        return info.own_addresses.first().map(|_| "from this network alone".into());
    };
    let seen = match unknown.observers {
        0 => String::new(),
        seen => format!(
            "; {} this machine there",
            if seen == 1 { "1 peer sees".into() } else { format!("{seen} peers see") }
        ),
    };
    Some(format!("perhaps from the world at {}: no peer has tried yet{seen}", unknown.address).into())
}

pub(super) async fn version(context: &Context) -> anyhow::Result<()> {
    let mut node = NodeServiceClient::new(context.client.channel.clone());
    let info = context.client.answer(node.get_info(GetInfoRequest {})).await?;
    let ours = env!("CARGO_PKG_VERSION");
    match context.format {
        Format::Table => Ok(output::line(&format!("p2pctl {ours}\np2pd   {}", info.version))?),
        _ => object(context, &serde_json::json!({ "p2pctl": ours, "p2pd": info.version })),
    }
}
