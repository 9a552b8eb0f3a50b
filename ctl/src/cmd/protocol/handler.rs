//! A protocol that this program handles, for as long as it wants.

use std::time::Duration;

use p2pd_api::v1::{HandleProtocolRequest, protocol_service_client::ProtocolServiceClient};
use tokio::task::JoinSet;
use tonic::{Code, Status};

use super::exchange::{self, Started};
use crate::{
    client,
    cmd::context::Context,
    error::{Exit, Failure, is_connection_error},
};

/// How often to look for a daemon that stopped.
const TRY_EVERY: Duration = Duration::from_millis(500);

/// A handled protocol; dropping it ends the handling.
pub(super) struct Handler {
    id: u64,
    /// Reads the handler's events, so that the daemon is not held up.
    _told: JoinSet<()>,
}

impl Handler {
    pub(super) async fn of(context: &Context, claim: &HandleProtocolRequest) -> anyhow::Result<Self> {
        let mut service = ProtocolServiceClient::new(context.client.channel.clone());
        let mut told = context.client.answer(service.handle_protocol(claim.clone())).await?;
        let id = context.client.in_time("no answer", client::next(&mut told)).await?.handler_id;
        let mut reading = JoinSet::new();
        reading.spawn(async move { while let Ok(Some(_)) = told.message().await {} });
        Ok(Handler { id, _told: reading })
    }

    /// Handles the protocol again, once the daemon is back.
    pub(super) async fn again(context: &Context, claim: &HandleProtocolRequest) -> anyhow::Result<Self> {
        loop {
            tokio::time::sleep(TRY_EVERY).await;
            match Handler::of(context, claim).await {
                Err(error) if is_away(&error) => {}
                other => return other,
            }
        }
    }

    /// The next stream that a peer opens.
    pub(super) async fn next(&self, context: &Context) -> anyhow::Result<Started> {
        exchange::accept(&context.client, self.id).await
    }
}

/// Whether the error means that the daemon is away.
pub(super) fn is_away(error: &anyhow::Error) -> bool {
    let broken =
        error.downcast_ref::<Status>().is_some_and(|s| s.code() == Code::Unavailable || is_connection_error(s));
    broken || error.downcast_ref::<Failure>().is_some_and(|failure| failure.exit == Exit::TryLater)
}
