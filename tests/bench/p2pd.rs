//! `./x bench`: what the daemon costs, against bare programs that do only that step, in one run. Everything runs as
//! processes of their own on loopback; ratios matter, absolute numbers are this machine's.
#![allow(missing_docs, unreachable_pub)]

mod bare;
mod bare_crowd;
mod bare_stream;
mod crowd;
mod daemon;
mod go;
mod memory;
mod numbers;
mod ours;
mod pubsub;
mod socket;
mod streams;
mod way;

use std::time::{Duration, Instant};

use bare::Bare;
use daemon::{Daemon, Listener, publish};
use numbers::{Latencies, cpu_seconds, resident_mib};
use p2pd_api::v1::{GetInfoRequest, node_service_client::NodeServiceClient};
use socket::BareTonic;
use way::{Pace, Way, send, warm_up};

/// Bytes of a group of 100 ms at 64 kbit/s.
pub const GROUP: usize = 880;
const ROUNDS: usize = 4;
const PER_ROUND: usize = 250;
/// Groups per second while latency is measured.
pub const RATE: u64 = 50;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    // Bare programs are this one again, in processes of their own.
    match arguments.get(1).map(String::as_str) {
        Some("bare-listener") => return runtime.block_on(bare::listen(&arguments[2])),
        Some("bare-crowd-publisher") => return runtime.block_on(bare_crowd::publish(&arguments[2])),
        Some("bare-crowd-follower") => return runtime.block_on(bare_crowd::follow(&arguments[2])),
        Some("bare-stream") => return runtime.block_on(bare_stream::serve()),
        Some("bare-tonic") => return runtime.block_on(socket::serve(&arguments[2])),
        _ => {}
    }
    // `./x bench latency` measures that alone, `./x bench pubsub "160 B"` a part of one.
    let chosen: Vec<&String> = arguments.iter().skip(1).filter(|a| !a.starts_with('-')).collect();
    let wanted = |name: &str| chosen.is_empty() || chosen.iter().any(|c| *c == name);
    // Programs of one thread: with more they wake each other, on the cores that the daemons need.
    let alone = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    if wanted("streams") {
        alone.block_on(streams::streams());
    }
    if wanted("pubsub") {
        alone.block_on(pubsub::pubsub(&chosen, true));
        // Where as much is sent as gets through, bare gossipsub needs both.
        runtime.block_on(pubsub::pubsub(&chosen, false));
    }
    if wanted("crowd") {
        alone.block_on(crowd::crowd());
    }
    runtime.block_on(async {
        if wanted("start") {
            starting().await;
        }
        if wanted("idle") {
            idle().await;
        }
        if wanted("latency") {
            latency().await;
        }
        if wanted("socket") {
            socket::socket().await;
        }
        if wanted("memory") {
            memory::memory(Duration::ZERO).await;
        }
        // Only when it is asked for.
        if chosen.iter().any(|c| *c == "hour") {
            memory::memory(Duration::from_secs(3_600)).await;
        }
        if wanted("local") {
            local().await;
        }
        if wanted("remote") {
            remote().await;
        }
        if wanted("codec") {
            codec();
        }
    });
}

/// From the start of the process to the first answer, in turns with the Go p2pd.
async fn starting() {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let began = Instant::now();
        let daemon = Daemon::start(&[]);
        NodeServiceClient::new(daemon.channel().await).get_info(GetInfoRequest {}).await.unwrap();
        ours.push(began.elapsed());
        let began = Instant::now();
        theirs.extend(go::Go::start().await.map(|_| began.elapsed()));
    }
    ours.sort();
    println!("start to first answer      {:>8.0} ms in the median of 5      goal 250 ms", ms(ours[2]));
    theirs.sort();
    if let Some(go) = theirs.get(2) {
        println!("ratio to go                {:>8.2} of its {:.0} ms", ms(ours[2]) / ms(*go), ms(*go));
    }
}

async fn idle() {
    let daemon = Daemon::start(&[]);
    let before = cpu_seconds(daemon.pid());
    tokio::time::sleep(Duration::from_secs(5)).await;
    let busy = (cpu_seconds(daemon.pid()) - before) / 5.0 * 100.0;
    let memory = resident_mib(daemon.pid());
    println!("idle                       {memory:>8.1} MiB resident, {busy:.2} % of a core   goal 40 MiB");
}

/// Client to client over two daemons, and the same bytes between two bare gossipsub peers, in turns.
async fn latency() {
    let [mut whole, mut bare, mut local, mut hops] = [(); 4].map(|()| Latencies::default());
    for round in 0..ROUNDS {
        let a = Daemon::start(&[]);
        let b = Daemon::start(&[&a.address]);
        let stream = format!("bench-{round}");
        let publisher = publish(&a, &stream, 1).await;
        let mut listener = Listener::join(&b, &stream).await;
        publisher.warm_up(&mut listener).await;
        whole.extend(publisher.paced(PER_ROUND, &mut listener).await);
        drop(listener);
        let mut beside = Listener::join(&a, &stream).await;
        local.extend(publisher.paced(PER_ROUND, &mut beside).await);
        let mut peers = Way::Bare(Box::new(Bare::start().await));
        warm_up(&mut peers).await;
        bare.extend(send(&mut peers, PER_ROUND, GROUP, Pace::Rate(RATE)).await.took);
        hops.extend(BareTonic::start().await.two_hops(PER_ROUND, GROUP, RATE).await);
    }
    println!("latency on one machine     {}", local.show());
    println!("latency, p2pd              {}", whole.show());
    println!("latency, bare gossipsub    {}", bare.show());
    println!("two bare tonic hops        {}", hops.show());
    let (p50, p99) = (whole.at(50) / bare.at(50), whole.at(99) / bare.at(99));
    println!("ratio                      {p50:>8.2} in the median, {p99:.2} at p99   goals 2.2 and 2");
    let floor = (bare.at(50) + hops.at(50)) / bare.at(50);
    println!(
        "the least there can be     {floor:>8.2} in the median: bare gossipsub, and a process at either side of it"
    );
}

/// One publisher, many local listeners: how many groups go through, and what a stream in real time costs.
async fn local() {
    for listeners in [1, 10, 100] {
        let daemon = Daemon::start(&[]);
        let publisher = publish(&daemon, "real-time", 5).await;
        let mut all = Listener::crowd(&daemon, "real-time", listeners).await;
        let before = cpu_seconds(daemon.pid());
        let seconds = 8;
        publisher.frames(Duration::from_millis(20), seconds * 50).await;
        let busy = (cpu_seconds(daemon.pid()) - before) / seconds as f64 * 100.0;
        let goal = if listeners == 100 { "   goal 20 %" } else { "" };
        println!(
            "50 frames/s to {listeners:>3} local    {busy:>8.2} % of a core, {:.1} MiB{goal}",
            resident_mib(daemon.pid())
        );
        all.clear();
        let publisher = publish(&daemon, "flat-out", 1).await;
        let mut all = Listener::crowd(&daemon, "flat-out", listeners).await;
        let (groups, time) = publisher.flat_out(&mut all, 2_000).await;
        println!(
            "flat out to {listeners:>3} local       {:>8.0} groups/s delivered to each, none lost",
            groups as f64 / time
        );
    }
}

/// What carrying a stream in real time costs, and how many groups go through to another daemon.
async fn remote() {
    let a = Daemon::start(&[]);
    let b = Daemon::start(&[&a.address]);
    let publisher = publish(&a, "carry", 5).await;
    let mut listener = Listener::join(&b, "carry").await;
    publisher.warm_up(&mut listener).await;
    let drain = tokio::spawn(async move { while listener.next().await.is_some() {} });
    let before = (cpu_seconds(a.pid()), cpu_seconds(b.pid()));
    publisher.groups(Duration::from_millis(100), 100).await;
    let (sent, carried) = (cpu_seconds(a.pid()) - before.0, cpu_seconds(b.pid()) - before.1);
    println!(
        "50 frames/s to a remote    {:>8.2} % of a core there, {:.2} % here   goal 1 %",
        carried * 10.0,
        sent * 10.0
    );
    drain.abort();
    let publisher = publish(&a, "flat-out", 1).await;
    let mut listener = Listener::join(&b, "flat-out").await;
    publisher.warm_up(&mut listener).await;
    let (groups, time) = publisher.flat_out(std::slice::from_mut(&mut listener), 2_000).await;
    println!("flat out to a remote       {:>8.0} groups/s delivered, none lost", groups as f64 / time);
}

/// Encoding and decoding, which the clients do.
fn codec() {
    let mut encoder = p2pd_audio::codec::OpusEncoder::new(1, None).unwrap();
    let mut decoder = p2pd_audio::codec::OpusDecoder::new(1).unwrap();
    let speech: Vec<f32> = (0..960).map(|n| (n as f32 * 0.06).sin() * 0.4 + (n as f32 * 0.31).sin() * 0.1).collect();
    let began = Instant::now();
    let packets: Vec<Vec<u8>> = (0..1_000).map(|_| encoder.encode(&speech).unwrap()).collect();
    let encoding = began.elapsed();
    let began = Instant::now();
    packets.iter().for_each(|packet| drop(decoder.decode(packet).unwrap()));
    let share = |time: Duration| time.as_secs_f64() / 20.0 * 100.0;
    println!(
        "Opus, 64 kbit/s mono       {:>8.2} % of a core to encode, {:.2} % to decode   goals 1 % and 0.3 %",
        share(encoding),
        share(began.elapsed())
    );
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
