//! What strangers send: forged, replayed, oversized, malformed and future-dated messages, against a daemon that serves
//! an honest stream meanwhile.

use std::time::{Duration, Instant};

use bytes::Bytes;
use p2pd::app::Daemon;
use p2pd_api::v1::{
    ListClosedConnectionsRequest, ListPeersRequest, SubscribeRequest, pub_sub_service_client::PubSubServiceClient,
    publish_stream_request::Item, subscribe_response, subscribe_stream_response,
};
use p2pd_core::{
    id::{PeerId, StreamKey},
    ring::Next,
};
use p2pd_live::{group::GroupBody, topic};
use p2pd_net::{Event, Handle, Identity, Message, Running, queue};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    raw_peer::{RawPeer, Rpc, Signer},
    support::{self, DEADLINE, floor, list, listen, next, now_ms as now, open, publish, start, tcp, until},
};

const NETWORK: &str = topic::DEFAULT_NETWORK;

/// A peer that speaks the protocols and keeps none of their rules.
async fn rogue(victim: &Daemon) -> (Running, PeerId, Identity) {
    let (running, identity) = floor(Some(&victim.addresses[0]));
    follow_directory(&running).await;
    (running, identity.peer_id(), identity)
}

async fn follow_directory(running: &Running) {
    support::follow(running, &topic::directory(NETWORK)).await;
    until("the rogue's mesh", async || {
        let peers = running.handle.pubsub.topic_peers(&topic::directory(NETWORK)).await.unwrap();
        (!peers.followers.is_empty()).then_some(())
    })
    .await;
}

/// A peer beyond the victim, who sees what the victim passes on of a topic, whatever it is.
async fn observer(victim: &Daemon, topic: &str) -> (Running, queue::Reader<Message>) {
    let (running, _) = floor(Some(&victim.addresses[0]));
    let heard = support::follow(&running, topic).await;
    until("the observer's mesh", async || {
        (running.handle.pubsub.topic_peers(topic).await.unwrap().mesh > 0).then_some(())
    })
    .await;
    (running, heard)
}

/// Who signed what was passed on, up to the last message of all.
async fn passed_on(
    observer: &mut queue::Reader<Message>,
    mut is_last: impl FnMut(&PeerId, &[u8]) -> bool,
) -> Vec<String> {
    let mut senders = Vec::new();
    let until_last = async {
        while let Some(next) = observer.next().await {
            let Next::Item(Message { sender: Some(sender), data, .. }) = next else { continue };
            senders.push(sender.to_string());
            if is_last(&sender, &data) {
                return;
            }
        }
    };
    tokio::time::timeout(DEADLINE, until_last).await.expect("the last message");
    senders
}

async fn score(daemon: &Daemon, peer: &PeerId) -> Option<f64> {
    let peers = support::peers(daemon).await.list_peers(ListPeersRequest {}).await.unwrap().into_inner().peers;
    peers.into_iter().find(|p| p.peer_id == peer.to_string()).map(|p| p.score)
}

async fn say(handle: &Handle, message: impl Into<Bytes>) {
    handle.pubsub.publish(&topic::directory(NETWORK), message.into()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn directory_lies_change_nothing_and_cost_score() {
    let a = start(&[]).await;
    let b = start(&a.addresses[..1]).await;
    let honest = publish(&a, open("town")).await.unwrap();
    let entry = until("the entry", async || list(&b).await.into_iter().next()).await;
    let (rogue, id, _) = rogue(&b).await;
    let me = id.to_string();
    let (_beyond, mut beyond) = observer(&b, &topic::directory(NETWORK)).await;
    let lies = [
        json!({"type": "deregister", "streamId": "town", "publisher": entry.publisher, "timestamp": now()}).to_string(),
        json!({"type": "heartbeat", "streamId": "town", "publisher": entry.publisher, "timestamp": now()}).to_string(),
        json!({"type": "announce", "streamId": "x", "metadata": {"publisher": entry.publisher, "timestamp": now()}}).to_string(),
        json!({"type": "announce", "streamId": "future", "metadata": {"publisher": me, "timestamp": now() + 3_600_000}}).to_string(),
        json!({"type": "announce", "streamId": "past", "metadata": {"publisher": me, "timestamp": now() - 3_600_000}}).to_string(),
        json!({"type": "announce", "streamId": "huge", "metadata": {"publisher": me, "timestamp": now(), "x": "x".repeat(9000)}}).to_string(),
        json!({"type": "announce", "streamId": "bidi\u{202e}", "metadata": {"publisher": me, "timestamp": now()}}).to_string(),
        "{".repeat(2000),
        "not json".into(),
    ];
    for lie in lies {
        say(&rogue.handle, lie).await;
    }
    until("the fallen score", async || score(&b, &id).await.filter(|s| *s < 0.0)).await;
    let names: Vec<String> = list(&b).await.into_iter().map(|s| s.stream_id).collect();
    assert_eq!(names, ["town"], "only the honest stream is listed");
    // Its farewell comes after all that was not passed on.
    drop(honest);
    let is_farewell = |sender: &PeerId, data: &[u8]| {
        sender.to_string() == entry.publisher && String::from_utf8_lossy(data).contains("deregister")
    };
    let senders = passed_on(&mut beyond, is_farewell).await;
    assert!(!senders.contains(&me), "passed on: {senders:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_cannot_drive_a_terminal() {
    let b = start(&[]).await;
    let (rogue, id, _) = rogue(&b).await;
    let name = "\u{1b}[31mred\u{202e}";
    let announce = json!({"type": "announce", "streamId": "mark",
        "metadata": {"publisher": id.to_string(), "name": name, "category": name, "more": name, "timestamp": now()}});
    say(&rogue.handle, announce.to_string()).await;
    let entry = until("the entry", async || list(&b).await.into_iter().next()).await;
    assert_eq!((entry.name.as_str(), entry.category.as_str()), ("[31mred", "[31mred"));
    assert!(p2pd_core::text::is_clean(&entry.metadata_json), "{}", entry.metadata_json);
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_and_replayed_audio_is_neither_heard_nor_forgiven() {
    let a = start(&[]).await;
    let b = start(&a.addresses[..1]).await;
    let honest = publish(&a, open("town")).await.unwrap();
    let entry = until("the entry", async || list(&b).await.into_iter().next()).await;
    let mut replies = listen(&b, "town", 0).await;
    let (rogue, id, identity) = rogue(&b).await;
    let key = StreamKey { publisher: entry.publisher.parse().unwrap(), stream: "town".parse().unwrap() };
    let audio = topic::audio_native(&key);
    support::follow(&rogue, &audio).await;
    until("the audio mesh", async || {
        (!rogue.handle.pubsub.topic_peers(&audio).await.unwrap().followers.is_empty()).then_some(())
    })
    .await;
    let (_beyond, mut beyond) = observer(&b, &audio).await;
    let body = GroupBody {
        stream: p2pd_live::group::stream_hash(&key),
        epoch: u64::MAX / 2,
        seq: 0,
        capture_us: now() * 1000,
        frames: vec![Bytes::from_static(b"forged")],
        ..Default::default()
    };
    let signer = ed25519_dalek::SigningKey::from_bytes(&identity.secret().unwrap());
    let forged = p2pd_live::group::sign(body, &signer);
    honest.frames(0..10).await;
    let subscribe_stream_response::Event::Group(genuine) = next(&mut replies).await else { panic!("a group") };
    let old = genuine.signed.clone();
    for junk in [forged.signed.clone(), Bytes::from_static(b"junk"), vec![0; 40_000].into(), old] {
        rogue.handle.pubsub.publish(&audio, junk).await.unwrap();
    }
    until("the fallen score", async || score(&b, &id).await.filter(|s| *s < 0.0)).await;
    honest.frames(10..60).await;
    honest.send(Item::Finish(true)).await;
    let mut heard = std::collections::HashSet::from([genuine.seq]);
    loop {
        match next(&mut replies).await {
            subscribe_stream_response::Event::Group(group) => {
                assert!(group.epoch < u64::MAX / 2, "a forged group was heard");
                assert!(heard.insert(group.seq), "a replayed group was heard");
            }
            subscribe_stream_response::Event::Ended(_) => break,
            other => panic!("{other:?}"),
        }
    }
    let mut groups = 0;
    let twelfth = |_: &PeerId, _: &[u8]| {
        groups += 1;
        groups == 12
    };
    let senders = passed_on(&mut beyond, twelfth).await;
    assert!(!senders.contains(&id.to_string()), "passed on: {senders:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_publisher_has_not_signed_for_good_goes_no_further() {
    let b = start(&[]).await;
    let (rogue, id, identity) = rogue(&b).await;
    let key = StreamKey { publisher: id.clone(), stream: "noise".parse().unwrap() };
    let audio = topic::audio_native(&key);
    let config = json!({"codec": "opus", "sampleRate": 48_000, "channels": 1, "frameUs": 20_000, "framesPerGroup": 5});
    let metadata = json!({"publisher": id.to_string(), "topic": audio, "timestamp": now(), "config": config});
    say(&rogue.handle, json!({"type": "announce", "streamId": "noise", "metadata": metadata}).to_string()).await;
    until("the entry", async || list(&b).await.into_iter().next()).await;
    let mut live = listen(&b, "noise", 0).await;
    support::follow(&rogue, &audio).await;
    until("the audio mesh", async || (rogue.handle.pubsub.topic_peers(&audio).await.unwrap().mesh > 0).then_some(()))
        .await;
    let (_beyond, mut beyond) = observer(&b, &audio).await;
    let group = |seq, secret| {
        let (stream, frames) = (p2pd_live::group::stream_hash(&key), vec![Bytes::from_static(b"noise")]);
        let body = GroupBody { stream, epoch: 1, seq, capture_us: now() * 1000, frames, ..Default::default() };
        p2pd_live::group::sign(body, &ed25519_dalek::SigningKey::from_bytes(&secret)).signed
    };
    // Gossip's envelope proves for both that they are the publisher's.
    let (forged, signed) = (group(0, [1; 32]), group(1, identity.secret().unwrap()));
    for group in [&forged, &signed] {
        rogue.handle.pubsub.publish(&audio, group.clone()).await.unwrap();
    }
    assert_eq!(passed_on(&mut beyond, |_, data| *data == signed).await.len(), 1);
    // Programs here have both: theirs is not held up by the check for others.
    let mut heard = Vec::new();
    while heard.len() < 2 {
        if let subscribe_stream_response::Event::Group(group) = next(&mut live).await {
            heard.push(group.seq);
        }
    }
    assert_eq!(heard, [0, 1]);
    let burst = until("the burst", async || {
        let mut replies = listen(&b, "noise", 10_000).await;
        match tokio::time::timeout(std::time::Duration::from_millis(200), next(&mut replies)).await {
            Ok(subscribe_stream_response::Event::Group(group)) => Some(group),
            _ => None,
        }
    });
    assert_eq!(burst.await.seq, 1);
    assert!(score(&b, &id).await.is_some_and(|score| score < 0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_another_network_s_size_is_not_taken_and_costs_nobody_the_link() {
    let b = start(&[]).await;
    let mut pubsub = PubSubServiceClient::new(support::channel(&b).await);
    let mut messages =
        pubsub.subscribe(SubscribeRequest { topic: "big".into(), contract: None }).await.unwrap().into_inner();
    assert_eq!(messages.message().await.unwrap().unwrap().event, Some(subscribe_response::Event::Subscribed(true)));
    let (rogue, id, _) = rogue(&b).await;
    support::follow(&rogue, "big").await;
    until("the mesh", async || {
        (!rogue.handle.pubsub.topic_peers("big").await.unwrap().followers.is_empty()).then_some(())
    })
    .await;
    rogue.handle.pubsub.publish("big", vec![0; 1_000_000].into()).await.unwrap();
    rogue.handle.pubsub.publish("big", Bytes::from_static(b"small")).await.unwrap();
    let gap = messages.message().await.unwrap().unwrap().event;
    assert!(matches!(gap, Some(subscribe_response::Event::Gap(_))), "{gap:?}");
    let Some(subscribe_response::Event::Message(heard)) = messages.message().await.unwrap().unwrap().event else {
        panic!("a message")
    };
    assert_eq!(&heard.data[..], b"small");
    assert!(score(&b, &id).await.is_some_and(|s| s >= 0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_tells_no_subscription_is_let_go_so_that_it_greets_anew() {
    let b = start(&[]).await;
    let (mut mute, _) = floor(Some(&b.addresses[0]));
    let let_go = async {
        while let Some(next) = mute.events.next().await {
            if matches!(next, Next::Item(Event::Disconnected { .. })) {
                return;
            }
        }
    };
    tokio::time::timeout(DEADLINE, let_go).await.expect("let go");
    // Its own bootstrapping brings it back, and this time it says what it follows.
    follow_directory(&mute).await;
    say(&mute.handle, "{}").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_peer_opens_beyond_its_share_of_a_protocol_is_reset_and_others_are_answered() {
    // As `live/native/serve.rs` reserves it.
    const PROTOCOL: &str = "/p2pd/stream/1";
    const SHARE: usize = 8;
    let victim = start(&[]).await;
    let ((greedy, ..), (honest, ..)) = (rogue(&victim).await, rogue(&victim).await);
    let to: PeerId = support::id(&victim).parse().unwrap();
    let connect = async |running: &Running| {
        let open = async || running.handle.streams.open(&to, &[PROTOCOL.to_owned()]).await.ok();
        let mut stream = until("a stream", open).await.stream;
        // It is agreed on with the first byte.
        stream.write_all(b"\x0a").await.unwrap();
        stream.flush().await.unwrap();
        stream
    };
    let mut held = Vec::new();
    for _ in 0..SHARE {
        held.push(connect(&greedy).await);
    }
    let mut beyond = connect(&greedy).await;
    // It would be five seconds until a request is given up that does not end.
    let end = tokio::time::timeout(Duration::from_secs(4), beyond.read_u8()).await;
    assert!(matches!(end, Ok(Err(_))), "{end:?}");
    let mut asked =
        until("a stream", async || honest.handle.streams.open(&to, &[PROTOCOL.to_owned()]).await.ok()).await;
    asked.stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(DEADLINE, asked.stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert!(answer.is_empty(), "no stream, no group");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_neighbour_with_large_messages_so_much_is_passed_on_and_all_is_delivered() {
    const TOPIC: &str = "large";
    const MESSAGES: u64 = 1_000;
    const A_SECOND: f64 = 8.0 * 1024.0 * 1024.0;
    let victim = start(&[]).await;
    let mut subscriber = PubSubServiceClient::new(support::channel(&victim).await);
    let request = SubscribeRequest { topic: TOPIC.into(), contract: None };
    let mut here = subscriber.subscribe(request).await.unwrap().into_inner();
    let delivered = tokio::spawn(async move {
        let mut count = 0;
        while count < MESSAGES {
            match here.message().await.unwrap().unwrap().event {
                Some(subscribe_response::Event::Message(_)) => count += 1,
                Some(subscribe_response::Event::Gap(gap)) => count += gap.to - gap.from + 1,
                _ => {}
            }
        }
    });
    let (_observer, mut beyond) = observer(&victim, TOPIC).await;
    let passed_on = tokio::spawn(async move {
        let mut bytes = 0;
        while let Some(next) = beyond.next().await {
            let Next::Item(Message { data, .. }) = next else { panic!("all that comes is counted") };
            bytes += data.len();
            if &data[..] == b"last" {
                break;
            }
        }
        bytes
    });
    let (neighbour, _) = floor(Some(&victim.addresses[0]));
    let _ = support::follow(&neighbour, TOPIC).await;
    let publish = async |data: Vec<u8>| {
        let data = Bytes::from(data);
        until("room", async || neighbour.handle.pubsub.publish(TOPIC, data.clone()).await.ok()).await
    };
    let began = Instant::now();
    for n in 0..MESSAGES {
        publish(n.to_be_bytes().repeat(7_500)).await;
    }
    tokio::time::timeout(DEADLINE, delivered).await.expect("all of them").unwrap();
    // Something small comes through again when there is room.
    while !passed_on.is_finished() && began.elapsed() < DEADLINE {
        publish(b"last".to_vec()).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (bytes, elapsed) = (passed_on.await.unwrap(), began.elapsed());
    assert!(bytes as f64 <= A_SECOND * (1.0 + elapsed.as_secs_f64()), "{bytes} bytes within {elapsed:?}");
}

/// Drives a terminal, and turns what is read around.
const MARK: &str = "\u{1b}[31mred\u{202e}";

#[tokio::test(flavor = "multi_thread")]
async fn no_text_of_a_stranger_drives_a_terminal() {
    let a = start(&[]).await;
    let rogue = RawPeer::connect(&tcp(&a), MARK).await;
    let signer = Signer::invent();
    let me = signer.id().to_string();
    let config = json!({"codec": MARK, "sampleRate": 48_000, "channels": 1, "frameUs": 20_000, "framesPerGroup": 5});
    let metadata = json!({"publisher": me, "name": MARK, "category": MARK, "mimeType": MARK, "topic": MARK, "more": MARK,
        MARK: {MARK: [MARK]}, "publisherAddrs": [format!("/dns4/{MARK}/tcp/1")], "timestamp": now(), "config": config});
    let announce = json!({"type": "announce", "streamId": "mark", "metadata": metadata}).to_string();
    rogue.say(Rpc::follow(&[&topic::directory(NETWORK)])).await;
    rogue.say(Rpc::publish(vec![signer.sign(&topic::directory(NETWORK), 1, announce)])).await;
    let stream = until("the entry", async || list(&a).await.into_iter().next()).await;
    let peer = until("its identity", async || {
        let peers = support::peers(&a).await.list_peers(ListPeersRequest {}).await.unwrap().into_inner().peers;
        peers.into_iter().find(|peer| !peer.agent.is_empty())
    })
    .await;
    assert!(peer.agent.contains("red") && peer.protocols.iter().any(|protocol| protocol.contains("red")), "{peer:?}");
    assert!(peer.addresses.iter().any(|address| address.contains("red")), "{peer:?}");
    drop(rogue);
    let closed = until("its end", async || {
        let request = ListClosedConnectionsRequest {};
        let closed = support::peers(&a).await.list_closed_connections(request).await.unwrap().into_inner();
        Some(closed).filter(|closed| !closed.connections.is_empty())
    })
    .await;
    for said in [format!("{stream:?}"), format!("{peer:?}"), format!("{closed:?}")] {
        // The debug form writes what it cannot print.
        assert!(!said.contains("\\u{"), "{said}");
    }
}
