//! The native audio format: five 20 ms frames make a group, the group is signed by the publisher inside its payload.
//!
//! The signature covers the encoded body as it stands, so a group stays provable wherever it travels: over gossip, in
//! a burst, in a recording, through a browser. `docs/wire.md` has the layout for other implementations.

use bytes::Bytes;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use prost::Message;
use sha2::{Digest, Sha256};

use p2pd_core::{
    id::{PeerId, StreamKey},
    text,
};

/// Largest encoded group that is sent or accepted, in bytes: a second of 256 kbit/s audio.
pub const MAX_GROUP: usize = 32 * 1024;
/// Most frames in a group.
pub const MAX_FRAMES: usize = 50;
/// Most bytes in a frame; the largest Opus packet (RFC 6716, 3.4).
pub const MAX_FRAME: usize = 1275 * 3 + 7;
/// Longest title, in characters.
pub const MAX_TITLE: usize = 200;
/// Set in `GroupBody::flags` on the publisher's last group.
pub const FLAG_END: u32 = 1;
const CONTEXT: &[u8] = b"p2pd-audio-group-v1\0";

/// How the frames of a stream are encoded.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct StreamConfig {
    /// `opus` is the only codec that p2pctl plays.
    #[prost(string, tag = "1")]
    pub codec: String,
    /// Samples per second of the decoded sound; 48,000 for Opus.
    #[prost(uint32, tag = "2")]
    pub sample_rate: u32,
    /// 1 or 2.
    #[prost(uint32, tag = "3")]
    pub channels: u32,
    /// Duration of a frame in microseconds.
    #[prost(uint32, tag = "4")]
    pub frame_us: u32,
    /// Frames in a full group.
    #[prost(uint32, tag = "5")]
    pub frames_per_group: u32,
    /// Samples at 48 kHz to drop at the start (RFC 7845, 4.2).
    #[prost(uint32, tag = "6")]
    pub pre_skip: u32,
    /// Nominal bits per second; 0 where unknown.
    #[prost(uint32, tag = "7")]
    pub bitrate: u32,
}

/// A title and the media time at which it begins.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Title {
    /// The words; clean of control characters once admitted.
    #[prost(string, tag = "1")]
    pub text: String,
    /// Media time in 48 kHz ticks since the epoch began.
    #[prost(uint64, tag = "2")]
    pub pts: u64,
}

/// What a publisher signs.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct GroupBody {
    /// `stream_hash` of the stream.
    #[prost(bytes = "bytes", tag = "1")]
    pub stream: Bytes,
    /// Grows with each start of the publisher; sequence numbers begin again with it.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// Number of the group within the epoch, from 0.
    #[prost(uint64, tag = "3")]
    pub seq: u64,
    /// Media time of the first sample, 48 kHz ticks since the epoch began.
    #[prost(uint64, tag = "4")]
    pub pts: u64,
    /// Publisher's wall clock at that sample, microseconds since 1970.
    #[prost(fixed64, tag = "5")]
    pub capture_us: u64,
    /// The encoded frames.
    #[prost(bytes = "bytes", repeated, tag = "6")]
    pub frames: Vec<Bytes>,
    /// `FLAG_END` or 0; unknown bits are ignored.
    #[prost(uint32, tag = "7")]
    pub flags: u32,
    /// In the first group and then once a second.
    #[prost(message, optional, tag = "8")]
    pub config: Option<StreamConfig>,
    /// With its change, then once a second, so that latecomers learn it.
    #[prost(message, optional, tag = "9")]
    pub title: Option<Title>,
}

/// A body and its signature, as they travel.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SignedGroup {
    /// An encoded `GroupBody`.
    #[prost(bytes = "bytes", tag = "1")]
    pub body: Bytes,
    /// Ed25519 over `"p2pd-audio-group-v1\0" || sha256(body)`.
    #[prost(bytes = "bytes", tag = "2")]
    pub signature: Bytes,
}

/// A group, together with the bytes that prove it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// What was signed.
    pub body: GroupBody,
    /// The encoded `SignedGroup`.
    pub signed: Bytes,
}

/// Why bytes are not a group of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// Over `MAX_GROUP`.
    #[error("larger than a group may be")]
    Oversized,
    /// Not protobuf, or counts and sizes out of range.
    #[error("malformed")]
    Malformed,
    /// Belongs to another stream.
    #[error("of another stream")]
    WrongStream,
    /// Not signed by the publisher.
    #[error("not signed by the publisher")]
    Forged,
}

/// Sixteen bytes that commit a group to its stream.
pub fn stream_hash(key: &StreamKey) -> Bytes {
    let mut hash = Sha256::new();
    hash.update(key.publisher.as_bytes());
    hash.update(key.stream.as_str());
    Bytes::copy_from_slice(hash.finalize().get(..16).unwrap_or_default())
}

fn signed_message(body: &[u8]) -> Vec<u8> {
    [CONTEXT, Sha256::digest(body).as_ref()].concat()
}

/// Encodes and signs a body.
pub fn sign(body: GroupBody, key: &SigningKey) -> Group {
    let encoded = Bytes::from(body.encode_to_vec());
    let signature = Bytes::copy_from_slice(&key.sign(&signed_message(&encoded)).to_bytes());
    let signed = SignedGroup { body: encoded, signature }.encode_to_vec();
    Group { body, signed: signed.into() }
}

/// Decodes a group and proves that `key.publisher` signed it for `key.stream`.
pub fn verify(signed: Bytes, key: &StreamKey) -> Result<Group, GroupError> {
    let group = read(signed, key)?;
    prove(&group, &key.publisher)?;
    Ok(group)
}

/// Decodes a group of `key.stream`, whoever signed it.
pub fn read(signed: Bytes, key: &StreamKey) -> Result<Group, GroupError> {
    if signed.len() > MAX_GROUP {
        return Err(GroupError::Oversized);
    }
    let outer = SignedGroup::decode(signed.clone()).map_err(|_| GroupError::Malformed)?;
    let mut body = GroupBody::decode(outer.body.clone()).map_err(|_| GroupError::Malformed)?;
    if body.stream != stream_hash(key) {
        return Err(GroupError::WrongStream);
    }
    if body.frames.len() > MAX_FRAMES || body.frames.iter().any(|f| f.is_empty() || f.len() > MAX_FRAME) {
        return Err(GroupError::Malformed);
    }
    if let Some(title) = &mut body.title {
        title.text = text::clean(&title.text, MAX_TITLE);
    }
    Ok(Group { body, signed })
}

/// Proves that `publisher` signed a group.
pub fn prove(group: &Group, publisher: &PeerId) -> Result<(), GroupError> {
    let group = SignedGroup::decode(group.signed.clone()).map_err(|_| GroupError::Malformed)?;
    let key = publisher.ed25519_key().and_then(|key| VerifyingKey::from_bytes(key).ok()).ok_or(GroupError::Forged)?;
    let signature = Signature::from_slice(&group.signature).map_err(|_| GroupError::Forged)?;
    key.verify_strict(&signed_message(&group.body), &signature).map_err(|_| GroupError::Forged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stream() -> (SigningKey, StreamKey) {
        let key = SigningKey::from_bytes(&[3; 32]);
        let publisher = PeerId::from_ed25519(key.verifying_key().as_bytes());
        (key, StreamKey { publisher, stream: "town".parse().unwrap() })
    }

    fn body(key: &StreamKey) -> GroupBody {
        GroupBody {
            stream: stream_hash(key),
            epoch: 7,
            seq: 1,
            frames: vec![Bytes::from_static(b"abc")],
            ..Default::default()
        }
    }

    #[test]
    fn a_signed_group_is_verified() {
        let (signer, key) = stream();
        let group = sign(body(&key), &signer);
        assert_eq!(verify(group.signed.clone(), &key).unwrap(), group);
    }

    #[test]
    fn impostors_and_mixed_up_streams_are_refused() {
        let (signer, key) = stream();
        let forged = sign(body(&key), &SigningKey::from_bytes(&[9; 32]));
        assert_eq!(verify(forged.signed, &key), Err(GroupError::Forged));
        let other = StreamKey { stream: "city".parse().unwrap(), ..key.clone() };
        assert_eq!(verify(sign(body(&key), &signer).signed, &other), Err(GroupError::WrongStream));
        assert_eq!(verify(Bytes::from(vec![0; MAX_GROUP + 1]), &key), Err(GroupError::Oversized));
        let crowd = GroupBody { frames: vec![Bytes::from_static(b"x"); MAX_FRAMES + 1], ..body(&key) };
        assert_eq!(verify(sign(crowd, &signer).signed, &key), Err(GroupError::Malformed));
    }

    #[test]
    fn a_group_at_its_bounds_is_read() {
        let (signer, key) = stream();
        let read = |frames| verify(sign(GroupBody { frames, ..body(&key) }, &signer).signed, &key).map(|_| ());
        let frame = |size| Bytes::from(vec![1; size]);
        // The largest Opus packet.
        assert_eq!([read(vec![frame(3_832)]), read(vec![frame(3_833)])], [Ok(()), Err(GroupError::Malformed)]);
        assert_eq!([read(vec![frame(1); 50]), read(vec![frame(1); 51])], [Ok(()), Err(GroupError::Malformed)]);
        assert_eq!(read(vec![frame(1), frame(0)]), Err(GroupError::Malformed));
        assert_eq!(read(Vec::new()), Ok(()), "as the last one may be");
    }

    #[test]
    fn a_group_may_have_32_kibibytes() {
        let (signer, key) = stream();
        let group = |last: usize| {
            let mut frames = vec![Bytes::from(vec![1; MAX_FRAME]); 8];
            frames.push(Bytes::from(vec![1; last]));
            sign(GroupBody { frames, ..body(&key) }, &signer).signed
        };
        let around = group(1_000).len() - 1_000;
        let (fits, over) = (group(32_768 - around), group(32_769 - around));
        assert_eq!((fits.len(), over.len()), (32_768, 32_769));
        assert!(verify(fits, &key).is_ok());
        assert_eq!(verify(over, &key), Err(GroupError::Oversized));
    }

    #[test]
    fn titles_cannot_drive_a_terminal() {
        let (signer, key) = stream();
        let title = Some(Title { text: "\u{1b}]0;x\u{7}News".into(), pts: 0 });
        let group = verify(sign(GroupBody { title, ..body(&key) }, &signer).signed, &key).unwrap();
        assert_eq!(group.body.title.unwrap().text, "]0;xNews");
    }

    proptest! {
        #[test]
        fn any_flipped_byte_is_noticed(at in 0usize..1000, bit in 0u8..8) {
            let (signer, key) = stream();
            let group = sign(body(&key), &signer);
            let mut bytes = group.signed.to_vec();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            // A flip may only survive where protobuf itself does not look: it never changes what was signed.
            if let Ok(read) = verify(bytes.into(), &key) { prop_assert_eq!(read.body, group.body); }
        }

        #[test]
        fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let (_, key) = stream();
            let _ = verify(bytes.into(), &key);
        }
    }
}
