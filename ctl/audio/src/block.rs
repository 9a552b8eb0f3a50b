//! What decoders give.

/// Interleaved samples as a decoder gave them.
pub(crate) struct Block {
    pub(crate) samples: Vec<f32>,
    pub(crate) rate: u32,
    pub(crate) channels: usize,
}
