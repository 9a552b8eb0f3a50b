//! Whole daemons in this process, over loopback, in temporary directories.

use std::{
    future::{Future, ready},
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use p2pd::{
    app::{Daemon, Setup},
    config::Config,
};
use p2pd_api::v1::{
    Frame, GetInfoRequest, ListStreamsRequest, OpenStream, PublishStreamRequest, PublishStreamResponse, Stream,
    StreamConfig, SubscribeStreamRequest, SubscribeStreamResponse, WireFormat, node_service_client::NodeServiceClient,
    peer_service_client::PeerServiceClient, protocol_service_client::ProtocolServiceClient,
    publish_stream_request::Item, stream_service_client::StreamServiceClient, subscribe_stream_response::Event,
};
use p2pd_core::setting::Size;
use p2pd_net::{
    Bandwidth, Class, DhtMode, Identity, Judge, Network, RelayLimits, Running, Subscription, Time, Verdict, queue,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming, transport::Channel};

/// For anything that should take far less.
pub const DEADLINE: Duration = Duration::from_secs(20);

pub fn setup(bootstrap: &[String]) -> Setup {
    let mut config = Config::defaults().unwrap();
    config.network.bootstrap = bootstrap.to_vec();
    // All daemons of the suite share one process: its memory says nothing of any one of them.
    config.network.memory = Size(0);
    Setup::temporary(config).unwrap()
}

/// One that can be started again with what it kept.
pub fn setup_at(place: &Path, bootstrap: &[String]) -> Setup {
    let Setup { config, mut paths, .. } = setup(bootstrap);
    (paths.data, paths.socket) = (place.join("data"), place.join("api.sock"));
    Setup::new(config, paths)
}

pub async fn start(bootstrap: &[String]) -> Daemon {
    Daemon::start(setup(bootstrap)).await.unwrap()
}

/// A second daemon that knows the first one's address.
pub async fn pair() -> (Daemon, Daemon) {
    let a = start(&[]).await;
    let b = start(&a.addresses[..1]).await;
    (a, b)
}

/// Peer id of a daemon.
pub fn id(daemon: &Daemon) -> String {
    daemon.addresses[0].rsplit('/').next().unwrap().to_owned()
}

/// Where a daemon says that it listens now.
pub async fn addresses(daemon: &Daemon) -> Vec<String> {
    let mut node = NodeServiceClient::new(channel(daemon).await);
    node.get_info(GetInfoRequest {}).await.unwrap().into_inner().addresses
}

/// Where a daemon listens over TCP itself.
pub fn tcp(daemon: &Daemon) -> String {
    daemon.addresses.iter().find(|a| a.contains("/tcp/") && !a.contains("/ws/")).unwrap().clone()
}

/// A program's way to its protocol streams.
pub async fn protocols(daemon: &Daemon) -> ProtocolServiceClient<Channel> {
    ProtocolServiceClient::new(channel(daemon).await)
}

pub async fn channel(daemon: &Daemon) -> Channel {
    p2pd_api::connect(Path::new(&daemon.socket)).await.unwrap()
}

pub async fn streams(daemon: &Daemon) -> StreamServiceClient<Channel> {
    StreamServiceClient::new(channel(daemon).await)
}

pub async fn peers(daemon: &Daemon) -> PeerServiceClient<Channel> {
    PeerServiceClient::new(channel(daemon).await)
}

pub async fn list(daemon: &Daemon) -> Vec<Stream> {
    streams(daemon).await.list_streams(ListStreamsRequest::default()).await.unwrap().into_inner().streams
}

/// A network floor without a daemon above it, which keeps none of its rules.
pub fn stranger(bootstrap: &str, dht: DhtMode) -> p2pd_net::Config {
    let defaults = Network::defaults().unwrap();
    let topic_of_all = p2pd_live::topic::directory(&defaults.name);
    let network = Network {
        listen: vec!["/ip4/127.0.0.1/tcp/0".into()],
        bootstrap: vec![bootstrap.into()],
        max_connections: 64,
        connections_high: 64,
        connections_low: 64,
        max_streams_per_connection: 64,
        memory: Size(0),
        dht,
        ..defaults
    };
    let relay = RelayLimits::defaults().unwrap();
    let bandwidth = Bandwidth::defaults().unwrap();
    p2pd_net::Config { network, relay, bandwidth, topic_of_all, meshes: Vec::new(), agent: "rogue".into() }
}

/// A network floor alone that dials this address, and who it is.
pub fn floor(bootstrap: Option<&str>) -> (Running, Identity) {
    let identity = Identity::generate();
    let mut config = stranger(bootstrap.unwrap_or_default(), DhtMode::Client);
    config.network.bootstrap.retain(|address| !address.is_empty());
    (p2pd_net::prepare(&config, &identity).unwrap().run(CancellationToken::new()), identity)
}

/// Accepts whatever comes on a topic.
struct AcceptAll(queue::Writer<p2pd_net::Message>);

impl Judge for AcceptAll {
    fn judge(&mut self, message: p2pd_net::Message, _: Time) -> Verdict {
        self.0.push(message.data.len(), message);
        Verdict::Accept
    }
}

/// Has a floor follow a topic, whatever it carries. What comes.
pub async fn follow(floor: &Running, topic: &str) -> queue::Reader<p2pd_net::Message> {
    let (writer, reader) = queue::bounded(256, 8 << 20);
    let subscription = Subscription { kind: "anything", class: Class::Live, judge: Box::new(AcceptAll(writer)) };
    floor.handle.pubsub.subscribe(topic, subscription).await.unwrap();
    reader
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// Waits until `check` gives something.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut check: impl FnMut() -> F) -> T {
    let poll = async {
        loop {
            if let Some(found) = check().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, poll).await.unwrap_or_else(|_| panic!("{what} did not come about"))
}

/// Waits until a count has begun and then stood still for a while; the count.
pub async fn standstill(count: &AtomicUsize) -> usize {
    const STILL: Duration = Duration::from_millis(300);
    let (mut last, mut since) = (0, Instant::now());
    until("the standstill", || {
        let now = count.load(Ordering::SeqCst);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        ready((now > 0 && since.elapsed() >= STILL).then_some(now))
    })
    .await
}

pub fn config() -> StreamConfig {
    StreamConfig {
        codec: "opus".into(),
        sample_rate: 48_000,
        channels: 1,
        frame_us: 20_000,
        frames_per_group: 5,
        pre_skip: 312,
        bitrate: 64_000,
    }
}

pub fn open(id: &str) -> OpenStream {
    OpenStream {
        stream_id: id.into(),
        name: "Town radio".into(),
        category: "news".into(),
        wire: WireFormat::Native.into(),
        config: Some(config()),
        metadata_json: r#"{"talkgroup_id":4711}"#.into(),
    }
}

/// A stream that is being published.
pub struct Published {
    pub items: mpsc::Sender<PublishStreamRequest>,
    pub replies: Streaming<PublishStreamResponse>,
}

pub async fn publish(daemon: &Daemon, open: OpenStream) -> Result<Published, Status> {
    let (items, requests) = mpsc::channel(8);
    items.send(PublishStreamRequest { item: Some(Item::Open(open)) }).await.unwrap();
    let mut replies = streams(daemon).await.publish_stream(ReceiverStream::new(requests)).await?.into_inner();
    replies.message().await?;
    Ok(Published { items, replies })
}

/// Frame `n`: recognisable, and as large as 64 kbit/s makes it.
pub fn frame(n: u32) -> Vec<u8> {
    n.to_be_bytes().repeat(40)
}

impl Published {
    pub async fn send(&self, item: Item) {
        self.items.send(PublishStreamRequest { item: Some(item) }).await.unwrap();
    }

    /// Sends these frames in real time.
    pub async fn frames(&self, range: std::ops::Range<u32>) {
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        for n in range {
            tick.tick().await;
            self.send(Item::Frame(Frame { data: frame(n).into(), capture_us: 0, duration_us: 0 })).await;
        }
    }
}

pub async fn listen(daemon: &Daemon, stream: &str, burst_ms: u32) -> Streaming<SubscribeStreamResponse> {
    let request = SubscribeStreamRequest { stream: stream.into(), wait_ms: 15_000, burst_ms };
    let mut replies = streams(daemon).await.subscribe_stream(request).await.unwrap().into_inner();
    let first = replies.message().await.unwrap().unwrap();
    assert!(matches!(first.event, Some(Event::Opened(_))));
    replies
}

pub async fn next(replies: &mut Streaming<SubscribeStreamResponse>) -> Event {
    let reply = tokio::time::timeout(DEADLINE, replies.message()).await.expect("an event in time");
    reply.unwrap().expect("not the end").event.unwrap()
}
