//! Gossipsub topics of a network. The JSON ones are older than p2pd; the native one is p2pd's own.

use sha2::{Digest, Sha256};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use p2pd_core::id::{StreamId, StreamKey};

/// Name of the network that the existing JavaScript peers are on.
pub const DEFAULT_NETWORK: &str = "argus-defense";

/// Where announcements, heartbeats and queries go.
pub fn directory(network: &str) -> String {
    format!("{network}/stream-directory")
}

/// Where the old JSON format carries one stream; two publishers of one id share it.
pub fn audio_json(network: &str, stream: &StreamId) -> String {
    format!("{network}/stream/{stream}")
}

/// Where signed groups of one stream of one publisher go. Short, because every copy of every group carries it.
pub fn audio_native(key: &StreamKey) -> String {
    let mut hash = Sha256::new();
    hash.update(key.publisher.as_bytes());
    hash.update(key.stream.as_str());
    let digest = hash.finalize();
    format!("/p2pd/s/1/{}", URL_SAFE_NO_PAD.encode(digest.get(..16).unwrap_or(&digest)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2pd_core::id::PeerId;

    #[test]
    fn topics_are_named_as_other_programs_name_them() {
        let stream: StreamId = "town".parse().unwrap();
        assert_eq!(directory("net"), "net/stream-directory");
        assert_eq!(audio_json("net", &stream), "net/stream/town");
        let key = StreamKey { publisher: PeerId::from_ed25519(&[1; 32]), stream };
        assert_eq!(audio_native(&key), "/p2pd/s/1/U-YoX3TcvsloYYA9FL9m0A");
    }
}
