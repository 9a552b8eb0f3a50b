//! `wait`: for the daemon, for peers, for a stream.

use std::{path::PathBuf, time::Duration};

use p2pd_api::{
    ConnectError, Reason, reason_of,
    v1::{
        GetStreamRequest, ListPeersRequest, node_service_client::NodeServiceClient,
        peer_service_client::PeerServiceClient, stream_service_client::StreamServiceClient,
    },
};
use tonic::{Code, Status};

use super::{context::Context, peer_id::resolve_stream};
use crate::{
    client::Client,
    error::{Exit, Failure, fail},
    output::Format,
};

const TRY_EVERY: Duration = Duration::from_millis(100);

enum Condition {
    Ready,
    Peers(usize),
    Stream(String),
}

pub(super) async fn run(socket: Option<PathBuf>, timeout: Duration, text: &str) -> anyhow::Result<()> {
    let condition = match text.split_once('=') {
        None if text == "ready" => Condition::Ready,
        Some(("peers", n)) => {
            Condition::Peers(n.parse().map_err(|_| fail(Exit::Usage, format!("peers=`{n}` takes a number")))?)
        }
        Some(("stream", id)) => Condition::Stream(id.into()),
        _ => return Err(fail(Exit::Usage, format!("`{text}`: takes ready, peers=N or stream=ID"))),
    };
    let mut last = None;
    let holds = async {
        loop {
            match check(socket.clone(), timeout, &condition).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) if is_final(&error) => return Err(error),
                Err(error) => last = Some(error),
            }
            tokio::time::sleep(TRY_EVERY).await;
        }
    };
    if let Ok(done) = tokio::time::timeout(timeout, holds).await {
        return done;
    }
    let why = last.map(|error| format!(": {error:#}")).unwrap_or_default();
    Err(fail(Exit::TimedOut, format!("`{text}` did not come about within {timeout:?}{why}")))
}

/// Whether waiting longer changes nothing.
fn is_final(error: &anyhow::Error) -> bool {
    let denied = matches!(error.downcast_ref(), Some(ConnectError::Denied(..) | ConnectError::Refused(_)));
    let wrong = error.downcast_ref().is_some_and(|Failure { exit, .. }| *exit == Exit::Usage);
    denied || wrong || error.downcast_ref::<Status>().is_some_and(|status| status.code() == Code::InvalidArgument)
}

async fn check(socket: Option<PathBuf>, timeout: Duration, condition: &Condition) -> anyhow::Result<bool> {
    let client = Client::connect(socket, timeout).await?;
    let channel = client.channel.clone();
    Ok(match condition {
        Condition::Ready => {
            client.answer(NodeServiceClient::new(channel).get_info(p2pd_api::v1::GetInfoRequest {})).await?;
            true
        }
        Condition::Peers(n) => {
            let mut peers = PeerServiceClient::new(channel);
            client.answer(peers.list_peers(ListPeersRequest {})).await?.peers.len() >= *n
        }
        Condition::Stream(id) => {
            let context = Context { client, format: Format::Table };
            let request = GetStreamRequest { stream: resolve_stream(&context, id).await? };
            match context.client.answer(StreamServiceClient::new(channel).get_stream(request)).await {
                Ok(_) => true,
                Err(error) => match error.downcast_ref::<Status>().and_then(reason_of) {
                    // Several publishers have a stream of this id.
                    Some(Reason::StreamAmbiguous) => true,
                    Some(Reason::StreamNotFound) => false,
                    _ => return Err(error),
                },
            }
        }
    })
}
