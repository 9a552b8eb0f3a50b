//! How often one place in the code may log: what a stranger causes must neither fill a disk nor push out everything else. Lines
//! of the levels debug and trace, which somebody has asked for, are not counted.

use std::{
    collections::HashMap,
    io::Write,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use p2pd_core::{bucket::Bucket, time::MonoMs};
use tracing::{Event, Level, Metadata, Subscriber, callsite::Identifier};
use tracing_subscriber::layer::{Context, Filter};

use super::Queue;

/// Lines of one place a second, and at once.
const RATE: (u32, u32) = (1, 60);

pub(super) struct Rate {
    began: Instant,
    json: bool,
    /// As many as there are places in the code.
    places: Mutex<HashMap<Identifier, Place>>,
}

struct Place {
    rate: Bucket,
    left_out: u64,
}

impl Rate {
    pub(super) fn new(json: bool) -> Self {
        Rate { began: Instant::now(), json, places: Mutex::default() }
    }

    /// Whether a line of this place may be written now; if so, how many before it were not.
    fn admits(&self, place: &Identifier, now: MonoMs) -> Option<u64> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let full = || Place { rate: Bucket::full(now, RATE.1), left_out: 0 };
        let place = places.entry(place.clone()).or_insert_with(full);
        if place.rate.take(now, RATE.0, RATE.1) {
            return Some(std::mem::take(&mut place.left_out));
        }
        place.left_out = place.left_out.saturating_add(1);
        None
    }

    fn tell(&self, count: u64, level: &Level) {
        let words = format!("{count} lines like the next were left out: at most {} a second", RATE.0);
        let line = if self.json {
            format!("{{\"level\":\"{level}\",\"fields\":{{\"message\":\"{words}\"}}}}\n")
        } else {
            format!("{level:>5} {words}\n")
        };
        let _ = Queue.write_all(line.as_bytes());
    }
}

impl<S: Subscriber> Filter<S> for Rate {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let meta = event.metadata();
        if *meta.level() > Level::INFO {
            return true;
        }
        let now = MonoMs(u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX));
        match self.admits(&meta.callsite(), now) {
            Some(0) => true,
            Some(count) => {
                self.tell(count, meta.level());
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_logs_without_end_is_told_once_a_second_and_others_are_not_held_up() {
        use tracing::callsite::Callsite;
        let places = [
            tracing::callsite!(name: "a", kind: tracing::metadata::Kind::EVENT, fields: message),
            tracing::callsite!(name: "b", kind: tracing::metadata::Kind::EVENT, fields: message),
        ];
        let [a, b] = places.map(|place| place.metadata().callsite());
        let rate = Rate::new(false);
        let written = (0..1_000).filter(|_| rate.admits(&a, MonoMs(0)).is_some()).count();
        assert_eq!(written, RATE.1 as usize);
        assert_eq!(rate.admits(&b, MonoMs(0)), Some(0));
        assert_eq!(rate.admits(&a, MonoMs(1_000)), Some(940));
        assert_eq!(rate.admits(&a, MonoMs(1_000)), None);
    }
}
