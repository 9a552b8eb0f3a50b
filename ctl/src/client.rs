//! The connection to the daemon.

use std::{future::Future, path::PathBuf, time::Duration};

use tonic::{Status, Streaming, transport::Channel};

use crate::exit::fail;

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
        let late = |_| Err(fail(6, format!("{what} within {:?}; try a longer --timeout", self.timeout)));
        tokio::time::timeout(self.timeout, work).await.unwrap_or_else(late)
    }
}

/// The next message of a call that the daemon does not end by itself.
pub(crate) async fn next<T>(messages: &mut Streaming<T>) -> anyhow::Result<T> {
    messages.message().await?.ok_or_else(closed)
}

/// The error when the daemon ends the connection.
pub(crate) fn closed() -> anyhow::Error {
    fail(8, "the daemon has stopped or closed the connection; see `p2pctl status`")
}
