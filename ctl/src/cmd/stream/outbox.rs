//! Packets of a publication on their way into its call: in groups of frames, or as chunks of an encoded stream.

use p2pd_api::v1::{Frame, Frames, PublishStreamRequest, publish_stream_request::Item};
use p2pd_audio::{ogg_opus::OpusChain, ticks};
use tokio::sync::mpsc::{self, error::SendError};

use super::{
    publication::Publication,
    source::{CHUNK, Packet},
    wall_clock::wall_us,
};

pub(super) type Closed = SendError<PublishStreamRequest>;

pub(super) struct Outbox<'a> {
    items: &'a mpsc::Sender<PublishStreamRequest>,
    /// Frames of a group that is not whole yet.
    group: Vec<Frame>,
    frames_per_group: usize,
    /// The old format carries an encoded file, so packets are put into an Ogg stream.
    ogg: Option<OpusChain>,
    chunked: bool,
}

impl<'a> Outbox<'a> {
    /// For a publication in the old format, or the native one.
    pub(super) fn new(
        items: &'a mpsc::Sender<PublishStreamRequest>,
        publication: &Publication,
        old: bool,
    ) -> anyhow::Result<Self> {
        let (config, chunked) = (&publication.config, publication.chunked);
        let ogg = if old && !chunked { Some(OpusChain::new(config.channels, config.pre_skip)?) } else { None };
        let frames_per_group = config.frames_per_group as usize;
        Ok(Outbox { items, group: Vec::new(), frames_per_group, ogg, chunked })
    }

    /// Sends a packet, or keeps it until its group is whole.
    pub(super) async fn packet(&mut self, Packet { data, ticks, .. }: Packet) -> anyhow::Result<()> {
        if self.chunked {
            return Ok(self.chunks(&data).await?);
        }
        if let Some(ogg) = &mut self.ogg {
            let pages = ogg.packet(data)?;
            return Ok(self.chunks(&pages).await?);
        }
        let duration = ticks::to_us(ticks);
        let capture_us = wall_us().saturating_sub(duration);
        self.group.push(Frame { data: data.into(), capture_us, duration_us: u32::try_from(duration)? });
        if self.group.len() >= self.frames_per_group {
            self.flush().await?;
        }
        Ok(())
    }

    /// Sends a title, which begins with the next frame.
    pub(super) async fn title(&mut self, title: String) -> Result<(), Closed> {
        self.flush().await?;
        self.send(Item::Title(title)).await
    }

    /// Sends what there is of a group. The daemon would keep its first frames until the last one comes.
    pub(super) async fn flush(&mut self) -> Result<(), Closed> {
        match std::mem::take(&mut self.group) {
            frames if frames.is_empty() => Ok(()),
            frames => self.send(Item::Frames(Frames { frames })).await,
        }
    }

    /// Sends what is left, and the end.
    pub(super) async fn finish(mut self) -> anyhow::Result<()> {
        self.flush().await?;
        if let Some(ogg) = self.ogg.take() {
            self.chunks(&ogg.finish()?).await?;
        }
        Ok(self.send(Item::Finish(true)).await?)
    }

    /// Sends bytes of an encoded stream. A page of Ogg may be longer than a chunk.
    async fn chunks(&self, bytes: &[u8]) -> Result<(), Closed> {
        for chunk in bytes.chunks(CHUNK) {
            self.send(Item::Chunk(chunk.to_vec().into())).await?;
        }
        Ok(())
    }

    async fn send(&self, item: Item) -> Result<(), Closed> {
        self.items.send(PublishStreamRequest { item: Some(item) }).await
    }
}
