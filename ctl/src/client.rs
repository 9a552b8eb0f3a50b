//! The connection to the daemon.

use std::{future::Future, path::PathBuf, time::Duration};

use p2pd_api::v1::{ListStreamsRequest, Stream, stream_service_client::StreamServiceClient};
use tonic::{Status, Streaming, transport::Channel};

use crate::error::{Exit, closed, fail};

/// Where the daemon is and how long to wait for its answers.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) channel: Channel,
    pub(crate) timeout: Duration,
}

impl Client {
    pub(crate) async fn connect(socket: Option<PathBuf>, timeout: Duration) -> anyhow::Result<Self> {
        let socket = socket.unwrap_or_else(p2pd_api::default_socket);
        Ok(Client { channel: p2pd_api::connect(&socket).await?, timeout })
    }

    /// Waits for an answer, at most as long as the user gave.
    pub(crate) async fn answer<T>(
        &self,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> anyhow::Result<T> {
        self.in_time("no answer", async { Ok(call.await?.into_inner()) }).await
    }

    /// Does the work within the timeout. `what` says in the error what did not come.
    pub(crate) async fn in_time<T>(
        &self,
        what: &str,
        work: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        let late = |_| Err(fail(Exit::TimedOut, format!("{what} within {:?}; try a longer --timeout", self.timeout)));
        tokio::time::timeout(self.timeout, work).await.unwrap_or_else(late)
    }

    /// The whole directory of streams, or a category of it, page by page.
    pub(crate) async fn streams(&self, category: String) -> anyhow::Result<Vec<Stream>> {
        let mut service = StreamServiceClient::new(self.channel.clone());
        let mut streams = Vec::new();
        let mut request = ListStreamsRequest { category, ..Default::default() };
        loop {
            let page = self.answer(service.list_streams(request.clone())).await?;
            streams.extend(page.streams);
            if page.next_page_token.is_empty() {
                return Ok(streams);
            }
            request.page_token = page.next_page_token;
        }
    }
}

/// The next message of a call that the daemon does not end by itself.
pub(crate) async fn next<T>(messages: &mut Streaming<T>) -> anyhow::Result<T> {
    messages.message().await?.ok_or_else(closed)
}
