//! How a driver of the swarm task is asked: through a bounded queue of its own. Every command that has a reply is answered exactly once; a
//! caller who has gone away is normal.

use tokio::sync::{mpsc, oneshot};

use crate::NetError;

/// Commands that wait for a driver before their callers do.
const COMMANDS: usize = 64;

/// Where the answer goes to what may fail.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, NetError>>;

/// Asks one driver. Waits while its queue is full; put a deadline around it.
pub(crate) struct Commands<C>(mpsc::Sender<C>);

impl<C> Clone for Commands<C> {
    fn clone(&self) -> Self {
        Commands(self.0.clone())
    }
}

/// A way to ask a driver, and the queue that the task reads.
pub(crate) fn commands<C>() -> (Commands<C>, mpsc::Receiver<C>) {
    let (queue, commands) = mpsc::channel(COMMANDS);
    (Commands(queue), commands)
}

impl<C> Commands<C> {
    /// Says what has no answer. Other drivers may take up what is said to them later before this.
    pub(crate) async fn say(&self, command: C) -> Result<(), NetError> {
        self.0.send(command).await.map_err(|_| NetError::Stopped)
    }

    pub(crate) async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> C) -> Result<T, NetError> {
        self.ask_or(command, || NetError::Stopped).await
    }

    /// Asks what may remain without an answer although the network runs.
    pub(crate) async fn ask_or<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> C,
        unanswered: impl FnOnce() -> NetError,
    ) -> Result<T, NetError> {
        self.ask_ahead(command).await?.await.map_err(|_| unanswered())
    }

    /// Asks, and leaves the answer for later. Questions are taken up in the order in which this was awaited.
    pub(crate) async fn ask_ahead<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> C,
    ) -> Result<oneshot::Receiver<T>, NetError> {
        let (reply, answer) = oneshot::channel();
        self.say(command(reply)).await?;
        Ok(answer)
    }

    /// One that does not keep the task alive.
    pub(crate) fn downgrade(&self) -> WeakCommands<C> {
        WeakCommands(self.0.downgrade())
    }
}

/// Commands of what may outlive the network.
pub(crate) struct WeakCommands<C>(mpsc::WeakSender<C>);

impl<C> WeakCommands<C> {
    /// Says what has no answer, if there is room for it at once.
    pub(crate) fn try_say(&self, command: C) {
        if let Some(queue) = self.0.upgrade() {
            let _ = queue.try_send(command);
        }
    }
}
