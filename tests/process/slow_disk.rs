//! A disk that hangs: what is live goes on, and what a log could not take its readers are told.

use std::{
    fs,
    future::Future,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use p2pd_api::v1::{
    Durable, PublishManyRequest, PublishRequest, SubscribeRequest, SubscribeResponse, SubscribeStreamRequest,
    pub_sub_service_client::PubSubServiceClient, stream_service_client::StreamServiceClient,
    subscribe_request::Contract, subscribe_response::Event,
};

use crate::support::{Daemon, Start, library, said, until};
use tokio::{runtime::Runtime, time::timeout};
use tonic::{Streaming, transport::Channel};

/// Takes the place of the C library's functions in the daemon.
const HANG: &str = r#"
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

long syscall(long number, ...);
int usleep(unsigned int us);

static int reach(long number, int file) {
    while (access(getenv("HANGS"), F_OK) == 0) {
        close(creat(getenv("WAITS"), 0600));
        usleep(1000);
    }
    return syscall(number, file);
}
int fsync(int file) { return reach(SYS_fsync, file); }
int fdatasync(int file) { return reach(SYS_fdatasync, file); }
"#;

/// A disk that hangs while a file is there.
struct Disk {
    hangs: PathBuf,
    /// There once something waits for it.
    waits: PathBuf,
    library: PathBuf,
}

impl Disk {
    fn new(place: &Path) -> Self {
        Disk { hangs: place.join("hangs"), waits: place.join("waits"), library: library(place, "hang", HANG) }
    }

    fn daemon(&self, place: &Path, name: &str, more: &[&str]) -> Daemon {
        let variables = [("LD_PRELOAD", &self.library), ("HANGS", &self.hangs), ("WAITS", &self.waits)];
        let variables = variables.map(|(name, path)| (name, path.to_str().unwrap()));
        Daemon::start_with(place, name, more, &variables)
    }

    fn hang(&self) {
        fs::write(&self.hangs, "").unwrap();
    }

    fn go_on(&self) {
        fs::remove_file(&self.hangs).unwrap();
    }
}

async fn pubsub(daemon: &Daemon) -> PubSubServiceClient<Channel> {
    PubSubServiceClient::new(p2pd_api::connect(&daemon.socket).await.unwrap())
}

/// Follows a topic, from now on.
async fn follow(
    mut client: PubSubServiceClient<Channel>,
    topic: &str,
    contract: Option<Contract>,
) -> Streaming<SubscribeResponse> {
    let request = SubscribeRequest { topic: topic.into(), contract };
    let mut events = client.subscribe(request).await.unwrap().into_inner();
    assert!(matches!(next(&mut events).await, Event::Subscribed(_)));
    events
}

async fn next(events: &mut Streaming<SubscribeResponse>) -> Event {
    events.message().await.unwrap().expect("it goes on").event.unwrap()
}

async fn text(events: &mut Streaming<SubscribeResponse>) -> String {
    let Event::Message(message) = next(events).await else { panic!("a gap") };
    String::from_utf8(message.data.to_vec()).unwrap()
}

fn message(topic: &str, text: &str) -> PublishRequest {
    PublishRequest { topic: topic.into(), data: text.as_bytes().to_vec().into(), wait_ms: 20_000 }
}

fn durable() -> Option<Contract> {
    Some(Contract::Durable(Durable::default()))
}

/// Long before a hanging disk would go on.
async fn soon<T>(what: &str, happens: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(10), happens).await.unwrap_or_else(|_| panic!("{what}: not in 10 s"))
}

#[test]
fn what_is_live_goes_on_while_the_disk_hangs() {
    let place = tempfile::tempdir().unwrap();
    let disk = Disk::new(place.path());
    let a = Daemon::start(place.path(), "a", &[]);
    let b = disk.daemon(place.path(), "b", &["--bootstrap", &a.address]);
    Runtime::new().unwrap().block_on(async {
        let (mut there, here) = (pubsub(&a).await, pubsub(&b).await);
        let mut kept = follow(here.clone(), "kept", durable()).await;
        let mut live = follow(here.clone(), "live", None).await;
        there.publish(message("kept", "before")).await.unwrap();
        assert_eq!(text(&mut kept).await, "before");
        disk.hang();
        there.publish(message("kept", "meanwhile")).await.unwrap();
        let log = tokio::spawn(follow(here.clone(), "another log", durable()));
        // Some rounds of what is done each second.
        let (began, mut round) = (Instant::now(), 0);
        while began.elapsed() < Duration::from_secs(3) {
            round += 1;
            soon("publishing", there.publish(message("live", &round.to_string()))).await.unwrap();
            assert_eq!(soon("a message", text(&mut live)).await, round.to_string());
        }
        let mut late = soon("a subscription", follow(here.clone(), "late", None)).await;
        soon("publishing", there.publish(message("late", "too"))).await.unwrap();
        assert_eq!(soon("a message of that", text(&mut late)).await, "too");
        let c = Daemon::start(place.path(), "c", &["--bootstrap", &b.address]);
        b.good(&["wait", "peers=2", "--timeout", "10s"]);
        assert!(!log.is_finished(), "a log begins on disk");
        let unread = timeout(Duration::ZERO, text(&mut kept)).await;
        assert!(unread.is_err(), "nothing is read that is not on disk");
        disk.go_on();
        assert_eq!(soon("what was to be kept", text(&mut kept)).await, "meanwhile");
        soon("the other log", log).await.unwrap();
        drop(c);
    });
}

#[test]
fn who_listens_does_not_wait_for_changes_that_wait_for_the_disk() {
    let place = tempfile::tempdir().unwrap();
    let disk = Disk::new(place.path());
    let a = Daemon::start(place.path(), "a", &[]);
    let b = disk.daemon(place.path(), "b", &["--bootstrap", &a.address]);
    let tone = a.ctl(&["publish-stream", "tone", "--tone", "440"]).start();
    b.good(&["wait", "stream=tone", "--timeout", "20s"]);
    disk.hang();
    // More than are made at once.
    let changes: Vec<_> =
        (0..100).map(|n| b.ctl(&["topics", "set", &format!("topic {n}"), "--max-message", "1000"]).start()).collect();
    until("the word in status", || b.good(&["status"]).contains("the disk has not answered for").then_some(()));
    Runtime::new().unwrap().block_on(async {
        let mut client = StreamServiceClient::new(p2pd_api::connect(&b.socket).await.unwrap());
        let request = SubscribeStreamRequest { stream: "tone".into(), ..SubscribeStreamRequest::default() };
        let mut events = soon("a stream", client.subscribe_stream(request)).await.unwrap().into_inner();
        for _ in 0..3 {
            assert!(soon("sound", events.message()).await.unwrap().is_some());
        }
    });
    disk.go_on();
    drop((tone, changes));
}

#[test]
fn a_disk_that_hangs_is_told_until_it_goes_on() {
    let place = tempfile::tempdir().unwrap();
    let disk = Disk::new(place.path());
    let a = disk.daemon(place.path(), "a", &[]);
    let told = || a.good(&["status"]).contains("the disk has not answered for");
    disk.hang();
    until("the word in status", || told().then_some(()));
    disk.go_on();
    until("its end", || (!told()).then_some(()));
    let mut events = a.ctl(&["events", "--from-oldest"]).start();
    let mut events = events.printed();
    events.with("storage-failed");
    events.with("storage-back");
}

#[test]
fn what_a_log_could_not_take_is_a_gap() {
    const MESSAGES: u64 = 10_000;
    let place = tempfile::tempdir().unwrap();
    let disk = Disk::new(place.path());
    let a = disk.daemon(place.path(), "a", &[]);
    Runtime::new().unwrap().block_on(async {
        let mut client = pubsub(&a).await;
        let mut kept = follow(client.clone(), "kept", durable()).await;
        let mut quiet = follow(client.clone(), "quiet", durable()).await;
        disk.hang();
        client.publish(message("kept", "first")).await.unwrap();
        until("that the disk has it and nothing else", || disk.waits.exists().then_some(()));
        // Nothing comes after it in its log, and too much in the other.
        client.publish(message("quiet", "the only one")).await.unwrap();
        let messages = (0..MESSAGES).map(|n| PublishManyRequest {
            message: Some(PublishRequest { wait_ms: 0, ..message("kept", &n.to_string()) }),
        });
        let mut answers = client.publish_many(tokio_stream::iter(messages)).await.unwrap().into_inner();
        let mut accepted = 0;
        while let Some(answer) = answers.message().await.unwrap() {
            accepted += u64::from(answer.reason.is_empty());
        }
        assert_eq!(accepted, MESSAGES);
        disk.go_on();
        let news = soon("news of the quiet one", next(&mut quiet)).await;
        assert!(matches!(&news, Event::Gap(gap) if gap.reason == "store-busy" && gap.from == gap.to), "{news:?}");
        assert_eq!(text(&mut kept).await, "first");
        let (mut due, mut missed) = (0, 0);
        while due < MESSAGES {
            match soon("what is left", next(&mut kept)).await {
                Event::Message(message) => {
                    assert_eq!(message.data, due.to_string().as_bytes());
                    due += 1;
                }
                Event::Gap(gap) => {
                    assert_eq!(gap.reason, "store-busy");
                    missed += gap.to - gap.from + 1;
                    due += gap.to - gap.from + 1;
                }
                Event::Subscribed(_) => unreachable!("that was the first"),
            }
        }
        println!("{missed} of {MESSAGES} missed");
        assert!((1..MESSAGES).contains(&missed), "{missed}");
    });
}

#[test]
fn what_was_asked_for_is_done_whole_though_nobody_waits_for_it_any_more() {
    let place = tempfile::tempdir().unwrap();
    let disk = Disk::new(place.path());
    let a = disk.daemon(place.path(), "a", &[]);
    disk.hang();
    for change in [&["peers", "deny", "192.0.2.0/24"][..], &["topics", "set", "news", "--max-message", "100"]] {
        let impatient = a.run(&[&["--timeout", "500ms"], change].concat());
        assert_eq!(impatient.status.code(), Some(6), "{}", said(&impatient));
    }
    disk.go_on();
    until("the rule", || a.good(&["peers", "rules"]).contains("192.0.2.0/24").then_some(()));
    until("the setting", || a.good(&["topics", "show", "news"]).contains("100").then_some(()));
    let refused = a.run(&["pub", "news", &"x".repeat(101)]);
    assert!(said(&refused).contains("100"), "in force: {}", said(&refused));
}
