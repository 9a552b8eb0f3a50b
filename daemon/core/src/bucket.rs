//! Rates: of one source, and of many sources whose names cost nothing.

use std::{collections::HashMap, hash::Hash};

use crate::time::MonoMs;

/// How often full buckets are looked for, in milliseconds.
const SWEEP_MS: u64 = 1_000;

/// A token bucket.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    milli_tokens: u64,
    at: MonoMs,
}

impl Bucket {
    /// A full bucket of `burst` tokens.
    pub fn full(now: MonoMs, burst: u32) -> Self {
        Bucket { milli_tokens: u64::from(burst) * 1000, at: now }
    }

    /// Whether nothing was taken of it that has not come back.
    fn is_full(&self, now: MonoMs, per_second: u32, burst: u32) -> bool {
        self.holds(now, per_second, burst) >= u64::from(burst) * 1000
    }

    fn holds(&self, now: MonoMs, per_second: u32, burst: u32) -> u64 {
        let gained = now.since(self.at).saturating_mul(u64::from(per_second));
        self.milli_tokens.saturating_add(gained).min(u64::from(burst) * 1000)
    }

    /// Takes a token if there is one; `per_second` come back, `burst` fit.
    pub fn take(&mut self, now: MonoMs, per_second: u32, burst: u32) -> bool {
        self.take_many(now, 1, per_second, burst)
    }

    /// Takes so many tokens, or none.
    pub fn take_many(&mut self, now: MonoMs, count: u32, per_second: u32, burst: u32) -> bool {
        self.milli_tokens = self.holds(now, per_second, burst);
        self.at = now;
        match self.milli_tokens.checked_sub(u64::from(count) * 1000) {
            Some(rest) => {
                self.milli_tokens = rest;
                true
            }
            None => false,
        }
    }

    /// Takes so many tokens, or those that there are. How many.
    pub fn take_up_to(&mut self, now: MonoMs, count: u32, per_second: u32, burst: u32) -> u32 {
        let there = u32::try_from(self.holds(now, per_second, burst) / 1000).unwrap_or(u32::MAX);
        let taken = count.min(there);
        if self.take_many(now, taken, per_second, burst) { taken } else { 0 }
    }

    /// Puts tokens back that were taken for nothing.
    pub fn give_back(&mut self, count: u32, burst: u32) {
        let tokens = self.milli_tokens.saturating_add(u64::from(count) * 1000);
        self.milli_tokens = tokens.min(u64::from(burst) * 1000);
    }
}

/// A bucket for each of many keys. Those that are full again say nothing, and make room. While no bucket is, new keys share one, so that
/// inventing keys wins nothing.
#[derive(Debug)]
pub struct Buckets<K> {
    most: usize,
    of: HashMap<K, Bucket>,
    shared: Option<Bucket>,
    swept: MonoMs,
}

impl<K: Clone + Eq + Hash> Buckets<K> {
    /// Room for so many keys.
    pub fn new(most: usize) -> Self {
        Buckets { most, of: HashMap::new(), shared: None, swept: MonoMs(0) }
    }

    /// Takes a token of a key, as [`Bucket::take`] does.
    pub fn take(&mut self, now: MonoMs, key: &K, per_second: u32, burst: u32) -> bool {
        self.take_many(now, key, 1, per_second, burst)
    }

    /// Takes so many tokens of a key, or none.
    pub fn take_many(&mut self, now: MonoMs, key: &K, count: u32, per_second: u32, burst: u32) -> bool {
        if let Some(bucket) = self.of.get_mut(key) {
            return bucket.take_many(now, count, per_second, burst);
        }
        if self.of.len() >= self.most && now.since(self.swept) >= SWEEP_MS {
            self.swept = now;
            self.of.retain(|_, bucket| !bucket.is_full(now, per_second, burst));
        }
        let bucket = if self.of.len() < self.most {
            self.of.entry(key.clone()).or_insert_with(|| Bucket::full(now, burst))
        } else {
            self.shared.get_or_insert_with(|| Bucket::full(now, burst))
        };
        bucket.take_many(now, count, per_second, burst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_refills_to_its_burst() {
        let mut bucket = Bucket::full(MonoMs(0), 2);
        assert!(bucket.take(MonoMs(0), 1, 2) && bucket.take(MonoMs(0), 1, 2));
        assert!(!bucket.take(MonoMs(500), 1, 2));
        assert!(bucket.take(MonoMs(1000), 1, 2));
        assert!(bucket.take(MonoMs(1_000_000), 1, 2) && bucket.take(MonoMs(1_000_000), 1, 2));
        assert!(!bucket.take(MonoMs(1_000_000), 1, 2));
    }

    #[test]
    fn invented_keys_give_nobody_a_full_bucket_again() {
        let mut buckets = Buckets::new(3);
        let mut take = |now, key| buckets.take(MonoMs(now), &key, 1, 2);
        assert!(take(1_000, 0) && take(1_000, 0) && !take(1_000, 0));
        assert!(take(1_000, 1) && take(1_000, 2));
        let invented = (3..100).filter(|key| take(1_000, *key)).count();
        assert_eq!(invented, 2, "they share one");
        assert!(!take(1_000, 0), "and the first is still remembered");
        assert!(take(10_000, 100) && take(10_000, 100), "there is room again");
    }

    #[test]
    fn a_bucket_fills_by_parts_of_a_token() {
        let mut bucket = Bucket::full(MonoMs(0), 1);
        assert!(bucket.is_full(MonoMs(0), 10, 1) && bucket.take(MonoMs(0), 10, 1));
        assert!(!bucket.is_full(MonoMs(99), 10, 1) && bucket.is_full(MonoMs(100), 10, 1));
        assert!(!bucket.take(MonoMs(99), 10, 1) && bucket.take(MonoMs(100), 10, 1));
    }

    #[test]
    fn what_is_given_back_can_be_taken_again_and_no_more() {
        let mut bucket = Bucket::full(MonoMs(0), 3);
        assert!(bucket.take_many(MonoMs(0), 3, 1, 3));
        bucket.give_back(2, 3);
        assert!(bucket.take_many(MonoMs(0), 2, 1, 3) && !bucket.take(MonoMs(0), 1, 3));
        bucket.give_back(1, 3);
        assert_eq!([bucket.take_up_to(MonoMs(0), 9, 1, 3), bucket.take_up_to(MonoMs(0), 9, 1, 3)], [1, 0]);
        bucket.give_back(9, 3);
        assert!(!bucket.take_many(MonoMs(0), 4, 1, 3) && bucket.take_many(MonoMs(0), 3, 1, 3));
    }

    #[test]
    fn full_buckets_are_looked_for_once_a_second() {
        let mut buckets = Buckets::new(1);
        let mut take = |now, key| {
            let taken = buckets.take(MonoMs(now), &key, 1, 1);
            (taken, buckets.of.keys().copied().collect::<String>())
        };
        let of = |taken, keys: &str| (taken, keys.to_owned());
        assert_eq!(
            [take(1_000, 'a'), take(1_500, 'b'), take(1_500, 'c')],
            [of(true, "a"), of(true, "a"), of(false, "a")]
        );
        assert_eq!(take(2_499, 'c'), of(false, "a"), "a is full again, but nobody looks yet");
        assert_eq!([take(2_500, 'c'), take(2_500, 'c')], [of(true, "c"), of(false, "c")]);
        assert_eq!([take(2_500, 'a'), take(2_500, 'b')], [of(true, "c"), of(false, "c")], "they share one");
    }
}
