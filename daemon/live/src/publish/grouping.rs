//! From frames to groups: number, media time, configuration and signature of each.

use std::collections::VecDeque;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use p2pd_core::id::StreamKey;
use p2pd_node::clock::wall;

use crate::group::{self, Group, GroupBody, StreamConfig, Title};

/// Frames on their way into groups.
pub(super) struct Grouping {
    pub(super) config: StreamConfig,
    signer: SigningKey,
    epoch: u64,
    seq: u64,
    pts: u64,
    capture_us: u64,
    frames: Vec<Bytes>,
    /// What the frames play, in 48 kHz ticks.
    ticks: u64,
    title: Option<Title>,
    titles: VecDeque<Title>,
}

impl Grouping {
    /// None yet, of a stream that began at this epoch and whose groups this key signs.
    pub(super) fn new(config: StreamConfig, signer: &[u8; 32], epoch: u64) -> Self {
        Grouping {
            config,
            signer: SigningKey::from_bytes(signer),
            epoch,
            seq: 0,
            pts: 0,
            capture_us: 0,
            frames: Vec::new(),
            ticks: 0,
            title: None,
            titles: VecDeque::new(),
        }
    }

    /// A title that begins with the next frame.
    pub(super) fn title(&mut self, text: String) {
        let pts = self.next_pts();
        self.titles.push_back(Title { text, pts });
        self.titles.truncate(16);
    }

    fn next_pts(&self) -> u64 {
        self.pts.saturating_add(self.ticks)
    }

    /// Takes a frame; the group that it fills.
    pub(super) fn frame(&mut self, key: &StreamKey, data: Bytes, capture_us: u64, duration_us: u32) -> Option<Group> {
        if self.frames.is_empty() {
            self.capture_us = capture_us;
        }
        self.frames.push(data);
        self.ticks = self.ticks.saturating_add(u64::from(duration_us) * 48 / 1000);
        let full = self.frames.len() >= self.config.frames_per_group as usize;
        let bytes: usize = self.frames.iter().map(Bytes::len).sum();
        (full || bytes > group::MAX_GROUP / 2).then(|| self.close(key, 0))
    }

    /// The group of what is there.
    pub(super) fn close(&mut self, key: &StreamKey, flags: u32) -> Group {
        let next = self.next_pts();
        let changed = !self.titles.is_empty();
        self.title = self.titles.pop_back().or(self.title.take());
        self.titles.clear();
        let second =
            1_000_000 / u64::from(self.config.frame_us.max(1)) / u64::from(self.config.frames_per_group.max(1));
        let regular = self.seq.is_multiple_of(second.max(1));
        let capture_us = if self.frames.is_empty() { wall().0.saturating_mul(1000) } else { self.capture_us };
        let body = GroupBody {
            stream: group::stream_hash(key),
            epoch: self.epoch,
            seq: self.seq,
            pts: self.pts,
            capture_us,
            frames: std::mem::take(&mut self.frames),
            flags,
            config: regular.then(|| self.config.clone()),
            title: if regular || changed { self.title.clone() } else { None },
        };
        self.seq = self.seq.saturating_add(1);
        (self.pts, self.ticks) = (next, 0);
        group::sign(body, &self.signer)
    }
}
