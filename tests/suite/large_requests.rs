//! Large messages that many calls of one user bring at once.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::Frame;
use p2pd_api::v1::{ConnectRequest, GetInfoRequest, node_service_client::NodeServiceClient};
use tokio::{sync::oneshot, task::JoinSet};
use tonic::{Code, body::Body, codegen::http, transport::Channel};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest,
};

use crate::support::{channel, peers, start};

const MIB: usize = 1 << 20;
const CALLS: usize = 120;
const PART: usize = 16 << 10;

/// The body of one call: a message whose last part is sent only when the test says so.
struct Slow {
    parts: Vec<Bytes>,
    last: Option<(Bytes, oneshot::Receiver<()>)>,
    /// Bytes that the connection took, of all calls.
    taken: Arc<AtomicUsize>,
}

impl http_body::Body for Slow {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(part) = self.parts.pop() {
            self.taken.fetch_add(part.len(), SeqCst);
            return Poll::Ready(Some(Ok(Frame::data(part))));
        }
        let Some((last, go)) = &mut self.last else { return Poll::Ready(None) };
        if Pin::new(go).poll(context).is_pending() {
            return Poll::Pending;
        }
        let last = std::mem::take(last);
        self.last = None;
        Poll::Ready(Some(Ok(Frame::data(last))))
    }
}

/// Publishes a message of 1 MiB, but for its last part.
async fn publish(mut channel: Channel, body: Slow) -> String {
    use tower::{Service, ServiceExt};
    let request = http::Request::post("http://localhost/p2pd.v1.PubSubService/Publish")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::new(body))
        .unwrap();
    let answer = channel.ready().await.unwrap().call(request).await.unwrap();
    answer.headers().get("grpc-status").expect("an error at once").to_str().unwrap().to_owned()
}

/// A message as gRPC sends it: topic `chat`, and data that fill it up.
fn message() -> Bytes {
    let mut bytes = vec![0];
    bytes.extend(u32::try_from(MIB).unwrap().to_be_bytes());
    bytes.extend(*b"\x0a\x04chat\x12");
    let data = MIB - 6 - 1 - 3;
    bytes.extend([data as u8 | 0x80, (data >> 7) as u8 | 0x80, (data >> 14) as u8]);
    bytes.resize(5 + MIB, 7);
    bytes.into()
}

#[tokio::test(flavor = "multi_thread")]
async fn large_messages_of_many_calls_are_read_within_a_bound() {
    let a = start(&[]).await;
    let (taken, whole) = (Arc::new(AtomicUsize::new(0)), message());
    let (mut calls, mut last_parts) = (JoinSet::new(), Vec::new());
    for _ in 0..CALLS / 40 {
        let channel = channel(&a).await;
        for _ in 0..40 {
            let (go, gone) = oneshot::channel();
            last_parts.push(go);
            let (first, last) = (whole.slice(..whole.len() - 1), whole.slice(whole.len() - 1..));
            let mut parts: Vec<_> =
                (0..first.len()).step_by(PART).map(|at| first.slice(at..(at + PART).min(first.len()))).collect();
            parts.reverse();
            let body = Slow { parts, last: Some((last, gone)), taken: taken.clone() };
            calls.spawn(publish(channel.clone(), body));
        }
    }
    // A small request waits for none of them. When so many were answered and nothing more was taken, nothing is about to be.
    let mut node = NodeServiceClient::new(channel(&a).await);
    let (mut before, mut answered) = (0, 0);
    while answered < 100 {
        node.get_info(GetInfoRequest {}).await.unwrap();
        let now = taken.load(SeqCst);
        answered = if now == before && now >= CALLS * PART { answered + 1 } else { 0 };
        before = now;
    }
    // 32 MiB in messages for which there is room; of each other call its window, and what the client has in hand.
    let most = 33 * MIB + CALLS * (256 * 1024 + 4 * PART);
    assert!((30 * MIB..most).contains(&before), "{} MiB of {CALLS} calls taken", before / MIB);
    for go in last_parts {
        go.send(()).unwrap();
    }
    // Each was read in the end: too large for its topic (INVALID_ARGUMENT), or too many at once for the network (RESOURCE_EXHAUSTED).
    let statuses = calls.join_all().await;
    assert!(statuses.iter().all(|status| status == "3" || status == "8"), "{statuses:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_carries_no_data_of_programs_takes_no_large_request() {
    let a = start(&[]).await;
    let address = "x".repeat(100 << 10);
    let refused = peers(&a).await.connect(ConnectRequest { address: address.clone() }).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    // Reflection answers with what it was asked.
    let question = MessageRequest::ListServices(address);
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(question) };
    let mut reflection = ServerReflectionClient::new(channel(&a).await);
    let answers = reflection.server_reflection_info(futures::stream::iter([request])).await;
    let answer = async { answers?.into_inner().message().await };
    assert!(!matches!(answer.await, Ok(Some(_))), "it ends its call without a word");
}
