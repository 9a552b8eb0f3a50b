//! The real daemon as a process, with a publisher and listeners over its socket.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use p2pd_api::v1::{
    AudioGroup, Frame, Frames, OpenStream, PublishStreamRequest, PublishStreamResponse, StreamConfig,
    SubscribeStreamRequest, SubscribeStreamResponse, WireFormat, publish_stream_request::Item,
    stream_service_client::StreamServiceClient, subscribe_stream_response::Event,
};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

use super::{GROUP, RATE};
use crate::numbers::now_us;

pub struct Daemon {
    child: Child,
    place: TempDir,
    pub address: String,
}

impl Daemon {
    pub fn start(bootstrap: &[&str]) -> Self {
        Self::start_with(bootstrap, &[])
    }

    /// With these variables of the environment.
    pub fn start_with(bootstrap: &[&str], variables: &[(&str, &str)]) -> Self {
        let place = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_p2pd"));
        command.args(["run", "--dev", "--socket"]).arg(place.path().join("api.sock"));
        command.envs(variables.iter().copied());
        bootstrap.iter().for_each(|address| {
            command.args(["--bootstrap", address]);
        });
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines
            .filter_map(|line| Some(line.unwrap().strip_prefix("address: ")?.to_owned()))
            .find(|address| address.contains("/tcp/") && !address.contains("/ws"))
            .unwrap();
        Daemon { child, place, address }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub async fn channel(&self) -> Channel {
        p2pd_api::connect(&self.place.path().join("api.sock")).await.unwrap()
    }

    async fn client(&self) -> StreamServiceClient<Channel> {
        StreamServiceClient::new(self.channel().await)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub struct Publisher {
    items: mpsc::Sender<PublishStreamRequest>,
    size: usize,
    _replies: Streaming<PublishStreamResponse>,
}

/// Publishes a stream in groups of so many frames, 880 bytes each. A latency is measured with groups of one: the time that
/// a group takes to fill does not count.
pub async fn publish(daemon: &Daemon, id: &str, frames_per_group: u32) -> Publisher {
    let config = StreamConfig {
        codec: "opus".into(),
        sample_rate: 48_000,
        channels: 1,
        frame_us: 20_000,
        frames_per_group,
        pre_skip: 0,
        bitrate: 64_000,
    };
    let open = OpenStream {
        stream_id: id.into(),
        wire: WireFormat::Native.into(),
        config: Some(config),
        ..OpenStream::default()
    };
    let (items, requests) = mpsc::channel(64);
    items.send(PublishStreamRequest { item: Some(Item::Open(open)) }).await.unwrap();
    let mut replies = daemon.client().await.publish_stream(ReceiverStream::new(requests)).await.unwrap().into_inner();
    replies.message().await.unwrap();
    Publisher { items, size: GROUP / frames_per_group as usize, _replies: replies }
}

impl Publisher {
    async fn frame(&self) {
        let mut data = vec![7; self.size];
        data[..8].copy_from_slice(&now_us().to_be_bytes());
        let frame = Frame { data: data.into(), capture_us: 0, duration_us: 0 };
        self.items.send(PublishStreamRequest { item: Some(Item::Frame(frame)) }).await.unwrap();
    }

    /// Sends until the listener hears, and half a second longer, so that the mesh stands.
    pub async fn warm_up(&self, listener: &mut Listener) {
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        let mut heard = 0;
        while heard < 100 {
            tokio::select! {
                _ = tick.tick() => self.frame().await,
                group = listener.next() => heard += usize::from(group.is_some()),
            }
        }
        while tokio::time::timeout(Duration::from_millis(200), listener.next()).await.is_ok() {}
    }

    /// Sends `count` groups in time; how long each took to its listener, in microseconds.
    pub async fn paced(&self, count: usize, listener: &mut Listener) -> Vec<u64> {
        let mut tick = tokio::time::interval(Duration::from_micros(1_000_000 / RATE));
        let (mut sent, mut took) = (0, Vec::new());
        while took.len() < count {
            tokio::select! {
                group = listener.next() => {
                    let group = group.expect("a group");
                    let at = u64::from_be_bytes(group.frames[0][..8].try_into().unwrap());
                    took.push(now_us().saturating_sub(at));
                }
                _ = tick.tick(), if sent < count => {
                    self.frame().await;
                    sent += 1;
                }
            }
        }
        took
    }

    /// Sends groups in time, each at once, as p2pctl does.
    pub async fn groups(&self, every: Duration, count: usize) {
        let mut tick = tokio::time::interval(every);
        for _ in 0..count {
            tick.tick().await;
            let frame = || Frame { data: vec![7; self.size].into(), capture_us: 0, duration_us: 0 };
            let frames = Frames { frames: (0..GROUP / self.size).map(|_| frame()).collect() };
            self.items.send(PublishStreamRequest { item: Some(Item::Frames(frames)) }).await.unwrap();
        }
    }

    /// Sends frames in time, one by one.
    pub async fn frames(&self, every: Duration, count: usize) {
        let mut tick = tokio::time::interval(every);
        for _ in 0..count {
            tick.tick().await;
            self.frame().await;
        }
    }

    /// Sends as fast as all listeners take it, a window of groups at a time, and loses none.
    pub async fn flat_out(&self, listeners: &mut [Listener], count: usize) -> (usize, f64) {
        for listener in listeners.iter_mut() {
            while tokio::time::timeout(Duration::from_millis(20), listener.next()).await.is_ok() {}
        }
        let began = Instant::now();
        for _ in 0..count / 32 {
            for _ in 0..32 {
                self.frame().await;
            }
            for listener in listeners.iter_mut() {
                for _ in 0..32 {
                    listener.next().await.expect("a group");
                }
            }
        }
        (count / 32 * 32, began.elapsed().as_secs_f64())
    }
}

pub struct Listener(Streaming<SubscribeStreamResponse>);

impl Listener {
    pub async fn join(daemon: &Daemon, id: &str) -> Self {
        let request = SubscribeStreamRequest { stream: id.into(), wait_ms: 20_000, burst_ms: 0 };
        let mut replies = daemon.client().await.subscribe_stream(request).await.unwrap().into_inner();
        replies.message().await.unwrap();
        Listener(replies)
    }

    pub async fn crowd(daemon: &Daemon, id: &str, count: usize) -> Vec<Self> {
        let mut all = Vec::new();
        for _ in 0..count {
            all.push(Listener::join(daemon, id).await);
        }
        all
    }

    pub async fn next(&mut self) -> Option<AudioGroup> {
        loop {
            match self.0.message().await.ok()??.event? {
                Event::Group(group) => return Some(group),
                Event::Gap(gap) => panic!("lost {} to {}", gap.from, gap.to),
                _ => {}
            }
        }
    }
}
