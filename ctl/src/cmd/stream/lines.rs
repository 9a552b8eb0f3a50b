//! What a person sees of `listen` and `publish-stream`: the progress line while sound goes on, and the summary.

use std::time::{Duration, Instant};

use p2pd_api::v1::Acknowledgement;
use p2pd_audio::{codec::OpusDecoder, jitter::Jitter, stats::Stats, ticks};

use super::sink;
use crate::{
    cmd::context::Context,
    output::{self, Tone, count, toned},
};

/// How often the line is drawn.
const DRAW: Duration = Duration::from_millis(200);

/// The level meter.
pub(super) struct Meter {
    decoder: OpusDecoder,
    peak: f32,
    drawn: Option<Instant>,
}

impl Meter {
    /// `None` where no progress line is shown.
    pub(super) fn new(channels: u32) -> anyhow::Result<Option<Self>> {
        if !output::shows_progress() {
            return Ok(None);
        }
        Ok(Some(Meter { decoder: OpusDecoder::new(channels)?, peak: 0.0, drawn: None }))
    }

    /// Measures a packet that the sink does not decode.
    pub(super) fn packet(&mut self, packet: &[u8]) {
        let samples = self.decoder.decode(packet).unwrap_or_default();
        self.peak(sink::peak(&samples));
    }

    pub(super) fn peak(&mut self, peak: f32) {
        self.peak = self.peak.max(peak);
    }

    /// Draws the line, if it is time again. The old format has no numbers.
    pub(super) fn draw(&mut self, played: u64, stats: Option<&Stats>) {
        if self.drawn.is_some_and(|drawn| drawn.elapsed() < DRAW) {
            return;
        }
        self.drawn = Some(Instant::now());
        let [bar, number] = output::level(std::mem::take(&mut self.peak));
        let time = output::minutes(ticks::seconds(played));
        let latency = stats.and_then(Stats::median_latency_us);
        let latency = latency.map(|us| format!(", latency {} ms", us / 1000)).unwrap_or_default();
        let concealed = match stats.map_or(0, |stats| stats.concealed) {
            0 => String::new(),
            frames => format!(", {} concealed", count(frames, "frame")),
        };
        let way = toned(Tone::Plain, format!("  {time}{latency}"));
        output::progress(&[bar, number, way, toned(Tone::Warning, concealed)]);
    }
}

/// The line of `publish-stream`: what was sent, and its peak, 1.0 at most.
pub(super) fn publishing(a: &Acknowledgement, sent: Duration, bytes: u64, peak: f32) {
    let seconds = sent.as_secs_f64();
    let kbits = bytes as f64 * 8.0 / 1000.0 / seconds.max(0.02);
    let [bar, number] = output::level(peak);
    let (time, listeners) = (output::minutes(seconds), count(a.listeners, "listener"));
    let way = toned(Tone::Plain, format!("  {time}, {kbits:.0} kbit/s, {listeners}"));
    let dropped = toned(if a.dropped > 0 { Tone::Warning } else { Tone::Plain }, format!(", {} dropped", a.dropped));
    output::progress(&[bar, number, way, dropped]);
}

/// The summary of `publish-stream`, also after Ctrl-C.
pub(super) fn published(context: &Context, a: &Acknowledgement, sent: Duration) -> anyhow::Result<()> {
    output::message(context.format, "Acknowledgement", a, |a| {
        let (groups, listeners) = (count(a.groups, "group"), count(a.listeners, "listener"));
        format!("sent {:.1} s in {groups}, {} dropped, {listeners} at the end", sent.as_secs_f64(), a.dropped)
    })
}

/// The summary of `listen`.
pub(super) struct Summary {
    pub(super) json: String,
    /// For people.
    pub(super) text: String,
}

/// How listening went.
pub(super) fn heard(jitter: &Jitter, first: Option<Duration>, written: u64, gaps: u64, place: &str) -> Summary {
    let stats = &jitter.stats;
    let seconds = ticks::seconds(written);
    let first_ms = first.map_or(0, |f| f.as_millis());
    let latency_ms = stats.median_latency_us().unwrap_or(0) / 1000;
    let json = serde_json::json!({
        "seconds": seconds,
        "groups": stats.groups,
        "lost_groups": stats.lost,
        "repaired_groups": stats.repaired,
        "duplicates": stats.duplicates,
        "reordered": stats.reordered,
        "late_frames": stats.late,
        "played_frames": stats.played,
        "concealed_frames": stats.concealed,
        "skipped_frames": stats.skipped,
        "underruns": stats.underruns,
        "restarts": stats.restarts,
        "lost_to_slow_reading": gaps,
        "drift_ppm": stats.drift_ppm,
        "spread_ms": stats.spread_us / 1000,
        "first_sound_ms": first_ms as u64,
        "latency_ms": latency_ms,
        "buffer_ms": jitter.target_us() / 1000,
        "file": place,
    });
    let text = format!(
        "received {seconds:.1} s in {}, {} repaired, {} lost: {} played, {} concealed, {} late, {} skipped, {}\n\
         first sound after {first_ms} ms; capture to playout {latency_ms} ms in the median, as far as both clocks agree; \
         buffer {} ms, spread {} ms{}{}",
        count(stats.groups, "group"),
        stats.repaired,
        stats.lost,
        count(stats.played, "frame"),
        stats.concealed,
        stats.late,
        stats.skipped,
        count(stats.underruns, "underrun"),
        jitter.target_us() / 1000,
        stats.spread_us / 1000,
        stats.drift_ppm.map(|ppm| format!(", drift {ppm:.0} ppm")).unwrap_or_default(),
        if place.is_empty() { String::new() } else { format!("\nwritten to {place}") },
    );
    Summary { json: json.to_string(), text }
}
