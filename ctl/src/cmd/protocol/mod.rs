//! `protocol`: streams of the users' own protocols, joined with pipes, calls or sockets.

mod call;
mod exchange;
mod handler;
mod tunnel;

use p2pd_api::v1::HandleProtocolRequest;

use super::{context::Context, peer_id};
use crate::{
    cli::{Hold, ProtocolAction},
    output,
};

use self::handler::Handler;

pub(super) async fn run(context: &Context, action: ProtocolAction) -> anyhow::Result<()> {
    match action {
        ProtocolAction::Open { peer, protocols } => open(context, &peer, &protocols).await,
        ProtocolAction::Handle { protocol, hold } => handle(context, &claim(&protocol, &hold)).await,
        ProtocolAction::Forward { listen, peer, protocol } => tunnel::forward(context, &listen, &peer, &protocol).await,
        ProtocolAction::Expose { protocol, target, allow, hold } => {
            tunnel::expose(context, &claim(&protocol, &hold), &target, &allow).await
        }
        ProtocolAction::Call { peer, protocol, data, or } => {
            let protocols = std::iter::once(protocol).chain(or).collect();
            let peer = peer_id::resolve(context, "PEER", &peer).await?;
            call::call(context, peer, protocols, data).await
        }
        ProtocolAction::Serve { protocol, hold, command } => {
            call::serve(context, claim(&protocol, &hold), &command).await
        }
    }
}

/// The request for a protocol, held as the user wants.
fn claim(protocol: &str, hold: &Hold) -> HandleProtocolRequest {
    let lease_ms = hold.lease.as_ref().map_or(0, |_| u32::try_from(hold.lease_for.as_millis()).unwrap_or(u32::MAX));
    let lease = hold.lease.clone().unwrap_or_default();
    HandleProtocolRequest { protocol: protocol.into(), share: hold.share, lease_ms, lease }
}

/// Joins standard input and output with a new stream.
async fn open(context: &Context, peer: &str, protocols: &[String]) -> anyhow::Result<()> {
    let peer = peer_id::resolve(context, "PEER", peer).await?;
    let opening = exchange::open(&context.client, &peer, protocols);
    let stream = context.client.in_time("no stream", opening).await?;
    exchange::join(stream, tokio::io::stdin(), tokio::io::stdout()).await
}

/// Joins standard input and output with the first stream that a peer opens.
async fn handle(context: &Context, claim: &HandleProtocolRequest) -> anyhow::Result<()> {
    let handler = Handler::of(context, claim).await?;
    output::say(format_args!("waiting for a stream on {}", claim.protocol));
    let stream = handler.next(context).await?;
    output::say(format_args!("{} has opened a stream", stream.peer));
    exchange::join(stream, tokio::io::stdin(), tokio::io::stdout()).await
}
