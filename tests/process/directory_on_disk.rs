//! What the directory costs the disk.

use std::fs;

use p2pd_api::v1::{
    OpenStream, PublishStreamRequest, WireFormat, publish_stream_request::Item,
    stream_service_client::StreamServiceClient,
};
use tokio::{runtime::Runtime, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::support::{Daemon, until};

const STREAMS: usize = 16;
/// What a publisher says of each stream, in bytes.
const SAYS: usize = 3_500;

/// Publishes until it is dropped.
async fn publish(mut client: StreamServiceClient<Channel>, stream: String) -> mpsc::Sender<PublishStreamRequest> {
    let (requests, taken) = mpsc::channel(1);
    let metadata_json = format!("{{\"about\": \"{}\"}}", "x".repeat(SAYS));
    let wire = WireFormat::Json.into();
    let open = OpenStream { stream_id: stream, wire, metadata_json, ..OpenStream::default() };
    requests.send(PublishStreamRequest { item: Some(Item::Open(open)) }).await.unwrap();
    let mut replies = client.publish_stream(ReceiverStream::new(taken)).await.unwrap().into_inner();
    replies.message().await.unwrap().expect("it is announced");
    tokio::spawn(async move { while let Ok(Some(_)) = replies.message().await {} });
    requests
}

#[test]
fn a_change_of_one_stream_writes_that_one() {
    let place = tempfile::tempdir().unwrap();
    let publisher = Daemon::start(place.path(), "a", &[]);
    let data = place.path().join("data");
    let more = ["--data", data.to_str().unwrap(), "--bootstrap", &publisher.address];
    let daemon = Daemon::start(place.path(), "b", &more);
    daemon.good(&["wait", "peers=1", "--timeout", "20s"]);
    let listed = |stream: &str| daemon.good(&["-o", "json", "streams"]).contains(&format!("\"{stream}\""));
    let written = || {
        let files = fs::read_dir(data.join("db")).unwrap().flatten();
        let logs = files.filter(|file| file.path().extension().is_some_and(|end| end == "log"));
        usize::try_from(logs.map(|log| log.metadata().unwrap().len()).sum::<u64>()).unwrap()
    };
    Runtime::new().unwrap().block_on(async {
        let client = StreamServiceClient::new(p2pd_api::connect(&publisher.socket).await.unwrap());
        let mut all = Vec::new();
        for n in 0..STREAMS {
            all.push(publish(client.clone(), format!("s{n}")).await);
        }
        until("all of them", || (0..STREAMS).all(|n| listed(&format!("s{n}"))).then_some(()));
        until("all on disk", || (written() > STREAMS * SAYS).then_some(()));
        let (before, mut said, mut last) = (written(), 0, written());
        // Each change by itself, as the writes of a second go together.
        for _ in 0..5 {
            all.pop();
            until("its end", || (!listed("s15")).then_some(()));
            all.push(publish(client.clone(), "s15".into()).await);
            until("it again", || listed("s15").then_some(()));
            until("that on disk", || (written() >= last + SAYS).then_some(()));
            (said, last) = (said + SAYS, written());
        }
        let more = written() - before;
        println!("{more} bytes for {said} that are new");
        assert!(more < 2 * said, "{more} bytes for {said} that are new");
    });
}
