//! What a publication takes to a subscriber behind another daemon, how many go through, and what becomes of those that were
//! accepted: the daemon, bare gossipsub and two Go p2pd in turns.

use crate::{
    bare::Bare,
    go,
    numbers::{Latencies, resident_mib},
    ours::Ours,
    way::{Pace, Tally, Way, send, warm_up},
};

const ROUNDS: usize = 3;
/// Small ones, for latency and for the question of what gets lost.
const SMALL: usize = 160;
/// Payload, and messages a round.
const SIZES: [(usize, usize, &str); 3] = [(SMALL, 10_000, "160 B"), (1024, 10_000, "1 KiB"), (65_536, 1_500, "64 KiB")];

async fn ways() -> Vec<Way> {
    let mut ways = vec![Way::Ours(Box::new(Ours::start().await)), Way::Bare(Box::new(Bare::start().await))];
    ways.extend(go::Topic::start().await.map(|way| Way::Go(Box::new(way))));
    for way in &mut ways {
        warm_up(way).await;
    }
    ways
}

/// What one side did under one load, over all rounds.
#[derive(Default)]
struct Side {
    took: Latencies,
    sums: Tally,
}

impl Side {
    fn add(&mut self, tally: Tally) {
        let sums = &mut self.sums;
        sums.accepted += tally.accepted;
        sums.refused += tally.refused;
        sums.told_lost += tally.told_lost;
        sums.seconds += tally.seconds;
        sums.cpu += tally.cpu;
        sums.took.extend(&tally.took);
        self.took.extend(tally.took);
    }

    fn rate(&self) -> f64 {
        self.sums.took.len() as f64 / self.sums.seconds
    }

    /// CPU of both daemons for each message, in microseconds.
    fn cpu(&self) -> f64 {
        self.sums.cpu * 1e6 / self.sums.took.len() as f64
    }

    fn cost(&self) -> String {
        if self.sums.cpu > 0.0 { format!("{:.0} us of CPU each, ", self.cpu()) } else { String::new() }
    }

    fn fate(&self) -> String {
        let Tally { accepted, refused, told_lost, .. } = &self.sums;
        format!("of {accepted} accepted {} lost ({told_lost} told), {refused} refused", self.sums.lost())
    }
}

/// All loads of a given pace, or all others; those of them that are named, if any are.
pub async fn pubsub(named: &[&String], paced: bool) {
    let mut loads = loads();
    if loads.iter().any(|load| named.contains(&&load.name)) {
        loads.retain(|load| named.contains(&&load.name));
    }
    loads.retain(|load| load.pace.is_some() == paced);
    if loads.is_empty() {
        return;
    }
    let mut sides: Vec<Vec<Side>> = Vec::new();
    let (mut names, mut resident) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let mut ways = ways().await;
        names = ways.iter().map(Way::name).collect();
        sides.resize_with(loads.len(), Vec::new);
        for (load, sides) in loads.iter().zip(&mut sides) {
            sides.resize_with(names.len(), Side::default);
            for (way, side) in ways.iter_mut().zip(sides) {
                let pace = load.pace.unwrap_or(Pace::Window(way.window()));
                side.add(send(way, load.count, load.size, pace).await);
            }
        }
        resident = ways.iter().map(|way| way.daemons().into_iter().map(resident_mib).fold(0.0, f64::max)).collect();
    }
    for (load, sides) in loads.iter().zip(&sides) {
        for (name, side) in names.iter().zip(sides) {
            println!("{:<27}{}", format!("{}, {name}", load.name), load.show(side));
        }
        load.compare(&sides[0], &sides[1], sides.get(2));
    }
    for (name, resident) in names.iter().zip(&resident).filter(|(_, resident)| **resident > 0.0) {
        println!("{:<27}{resident:>8.1} MiB resident", format!("after that, {name}"));
    }
    if let [ours, _, go] = resident[..] {
        println!("ratio to go                {:>8.2} of the memory after that", ours / go);
    }
}

struct Load {
    name: String,
    size: usize,
    count: usize,
    /// `None`: as much as gets through.
    pace: Option<Pace>,
}

fn loads() -> Vec<Load> {
    let small = |name: &str, count, pace| Load { name: name.into(), size: SMALL, count, pace: Some(pace) };
    let mut loads = vec![small("50/s", 250, Pace::Rate(50)), small("1,000/s", 3_000, Pace::Rate(1_000))];
    loads.extend(SIZES.map(|(size, count, name)| Load { name: name.into(), size, count, pace: None }));
    loads.push(small("one by one", 5_000, Pace::Answered));
    loads
}

impl Load {
    fn show(&self, side: &Side) -> String {
        match self.pace {
            Some(Pace::Rate(_)) if side.sums.refused + side.sums.lost() > 0 => {
                format!("{}; {}", side.took.show(), side.fate())
            }
            Some(Pace::Rate(_)) => side.took.show(),
            Some(_) => format!("{:>8.0} messages/s, {}", side.rate(), side.fate()),
            None => format!("{:>8.0} messages/s, {}{}", side.rate(), side.cost(), side.fate()),
        }
    }

    fn compare(&self, ours: &Side, bare: &Side, go: Option<&Side>) {
        match self.pace {
            Some(Pace::Rate(_)) => {
                let ratio = |other: &Side, percent| ours.took.at(percent) / other.took.at(percent);
                let goals = if matches!(self.pace, Some(Pace::Rate(50))) { "goal 2.2" } else { "goals 2.2 and 2" };
                println!(
                    "ratio to bare              {:>8.2} in the median, {:.2} at p99   {goals}",
                    ratio(bare, 50),
                    ratio(bare, 99)
                );
                if let Some(go) = go {
                    println!(
                        "ratio to go                {:>8.2} in the median, {:.2} at p99",
                        ratio(go, 50),
                        ratio(go, 99)
                    );
                }
            }
            Some(_) => println!("silently lost, p2pd        {:>8}   goal 0", ours.sums.lost() - ours.sums.told_lost),
            None => {
                println!("ratio to bare              {:>8.2}   goal 0.75 or more", ours.rate() / bare.rate());
                if let Some(go) = go {
                    println!(
                        "ratio to go                {:>8.2}, CPU {:.2}   goals 1.5 or more, and 0.65",
                        ours.rate() / go.rate(),
                        ours.cpu() / go.cpu()
                    );
                }
            }
        }
    }
}
