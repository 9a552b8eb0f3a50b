//! `protocol forward` and `protocol expose`: local connections joined with streams of a protocol.

use std::{sync::Arc, time::Duration};

use p2pd_api::{
    local::{self, LocalListener, LocalStream},
    v1::HandleProtocolRequest,
};
use tokio::sync::Semaphore;

use super::{
    exchange::{self, Started, join},
    handler::{Handler, is_away},
};
use crate::{
    cmd::{context::Context, peer_id},
    error::{Exit, fail, words},
    output,
};

/// Connections of `forward` or streams of `expose` that are carried at once; others wait to be accepted. Each is a gRPC
/// call, and one connection to the daemon carries `CALLS` of them; four are left for the handler.
const AT_ONCE: usize = p2pd_api::CALLS as usize - 4;
/// Pause after a failed accept, for example when no file descriptor is free.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Joins each connection to a local address with a new stream to the peer.
pub(super) async fn forward(context: &Context, listen: &str, peer: &str, protocol: &str) -> anyhow::Result<()> {
    local::check(listen).map_err(|fault| fail(Exit::Usage, fault))?;
    let peer = peer_id::resolve(context, "PEER", peer).await?;
    if !protocol.starts_with('/') {
        return Err(fail(Exit::Usage, format!("PROTOCOL `{protocol}`: begins with /, as in /ssh/1.0.0")));
    }
    let cannot =
        |error| fail(Exit::Failed, format!("cannot listen on {listen}: {error}; choose another, or end what is there"));
    let listener = LocalListener::bind(listen).await.map_err(cannot)?;
    output::say(format_args!("{} leads to {protocol} of {peer}", listener.place()?));
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut accepts = true;
    loop {
        let place = room.clone().acquire_owned().await?;
        let here = match listener.accept().await {
            Ok(here) => here,
            Err(error) => {
                if std::mem::take(&mut accepts) {
                    output::say(format_args!("p2pctl: cannot accept a connection: {error}; trying again"));
                }
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        accepts = true;
        let (client, peer, protocols) = (context.client.clone(), peer.clone(), [protocol.to_owned()]);
        tokio::spawn(async move {
            let _place = place;
            match client.in_time("no stream", exchange::open(&client, &peer, &protocols)).await {
                Ok(stream) => lead(stream, here).await,
                Err(error) => {
                    output::say(format_args!("p2pctl: {}", words(&error)));
                    local::reset(here);
                }
            }
        });
    }
}

/// Joins a stream with a local connection, which is reset if the stream is.
async fn lead(stream: Started, here: LocalStream) {
    let (mut reader, mut writer) = tokio::io::split(here);
    if let Err(error) = join(stream, &mut reader, &mut writer).await {
        output::say(format_args!("p2pctl: {}", words(&error)));
        local::reset(reader.unsplit(writer));
    }
}

/// Joins each stream that an allowed peer opens with a new connection to a local address.
pub(super) async fn expose(
    context: &Context,
    claim: &HandleProtocolRequest,
    target: &str,
    allow: &[String],
) -> anyhow::Result<()> {
    let protocol = &claim.protocol;
    local::check(target).map_err(|fault| fail(Exit::Usage, fault))?;
    let mut allowed = Vec::new();
    for peer in allow {
        let any = peer == "any";
        allowed.push(if any { peer.clone() } else { peer_id::resolve(context, "--allow", peer).await? });
    }
    let mut handler = Handler::of(context, claim).await?;
    output::say(format_args!("{protocol} leads to {target} for {}", allowed.join(", ")));
    let room = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let place = room.clone().acquire_owned().await?;
        let stream = match handler.next(context).await {
            Ok(stream) => stream,
            Err(error) if is_away(&error) => {
                output::say(format_args!("p2pctl: {}; waiting for it", words(&error)));
                handler = Handler::again(context, claim).await?;
                output::say(format_args!("{protocol} leads to {target} again"));
                continue;
            }
            Err(error) => return Err(error),
        };
        let peer = &stream.peer;
        if !allowed.iter().any(|a| a == peer || a == "any") {
            // Dropping the stream resets it.
            output::say(format_args!("p2pctl: {peer} is not allowed; `--allow {peer}` would let it in"));
            continue;
        }
        let target = target.to_owned();
        tokio::spawn(async move {
            let _place = place;
            match local::connect(&target).await {
                Ok(here) => lead(stream, here).await,
                Err(error) => output::say(format_args!("p2pctl: cannot connect to {target}: {error}")),
            }
        });
    }
}
