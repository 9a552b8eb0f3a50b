//! Streams of replies, ended by the caller going away or the daemon stopping: a source that is read as the connection takes
//! what it has, or a task that writes into a short channel.

use std::{future::Future, pin::Pin};

use futures::stream::{self, Stream, StreamExt};
use tokio::sync::mpsc::{self, Sender};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::status;

/// What is sent to a caller who follows a source.
pub(super) type Followed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Passes on what a source has, without a task between. For calls that do nothing while their caller is slow.
pub(super) fn follow<T: 'static>(
    stop: CancellationToken,
    source: impl Stream<Item = Result<T, Status>> + Send + 'static,
) -> Followed<T> {
    Box::pin(stream::unfold(Some(Box::pin(source)), move |source| {
        let stop = stop.clone();
        async move {
            let mut source = source?;
            tokio::select! {
                // First, so that a caller learns that the daemon stops, and not of the stops that this entails.
                biased;
                () = stop.cancelled() => Some((Err(status::stopping()), None)),
                next = source.next() => next.map(|next| (next, Some(source))),
            }
        }
    }))
}

/// Waits for something that may take long; not while the daemon stops.
pub(super) async fn unless_stopped<T, E: status::Refusal>(
    stop: &CancellationToken,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, Status> {
    match stop.run_until_cancelled(work).await {
        Some(done) => done.map_err(status::of),
        None => Err(status::stopping()),
    }
}

/// What is sent to the caller of a task.
pub(super) type Replies<T> = ReceiverStream<Result<T, Status>>;

/// Replies written but not yet taken by the connection; what is behind them waits in the source's own queue.
const CHANNEL: usize = 4;

/// The caller went away.
pub(super) struct Gone;

/// The way to the caller.
pub(super) struct Out<T>(Sender<Result<T, Status>>);

impl<T> Out<T> {
    /// Sends, waiting while the caller is slow.
    pub(super) async fn send(&self, reply: T) -> Result<(), Gone> {
        self.0.send(Ok(reply)).await.map_err(|_| Gone)
    }

    /// Sends the status that ends the stream.
    pub(super) async fn fail(&self, status: Status) -> Result<(), Gone> {
        self.0.send(Err(status)).await.map_err(|_| Gone)
    }

    /// Waits until the caller is gone.
    pub(super) async fn gone(&self) {
        self.0.closed().await;
    }
}

/// Runs `write` until it is done, the caller is gone, or the daemon stops.
pub(super) fn stream<T, F>(stop: CancellationToken, write: impl FnOnce(Out<T>) -> F) -> Replies<T>
where
    T: Send + 'static,
    F: Future<Output = Result<(), Gone>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(CHANNEL);
    let writing = write(Out(sender.clone()));
    tokio::spawn(async move {
        tokio::select! {
            biased;
            () = stop.cancelled() => {
                let _ = sender.send(Err(status::stopping())).await;
            }
            _ = writing => {}
            () = sender.closed() => {}
        }
    });
    ReceiverStream::new(receiver)
}
