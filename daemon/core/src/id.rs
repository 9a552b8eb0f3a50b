//! Names of things on the network: peers and streams.

use std::{fmt, str::FromStr, sync::Arc};

use crate::text;

/// A libp2p peer id: a multihash of the peer's public key.
/// <https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md>
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(Arc<[u8]>);

/// Longest multihash accepted; an Ed25519 id takes 38 bytes, a SHA-256 one 34.
const MAX_PEER_ID: usize = 64;
/// What precedes the 32 key bytes in the id of an Ed25519 peer: identity multihash, then a protobuf `PublicKey`.
const ED25519_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// Why a text or bytes are no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not base58, or not a multihash of a sensible length.
    #[error("`{0}` is not a peer id; one looks like 12D3KooW..., and stands behind /p2p/ in an address")]
    Peer(String),
    /// Stream ids are 1 to 128 bytes of printable text without spaces, `/` or `@`.
    #[error("a stream id has 1 to 128 bytes, printable, without spaces, `/` or `@`; {0}")]
    Stream(&'static str),
}

impl PeerId {
    /// Takes the bytes of a multihash.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, IdError> {
        let declared = bytes.get(1).map(|len| usize::from(*len) + 2);
        if bytes.len() > MAX_PEER_ID || declared != Some(bytes.len()) {
            return Err(IdError::Peer(bs58::encode(bytes.get(..MAX_PEER_ID).unwrap_or(bytes)).into_string()));
        }
        Ok(PeerId(bytes.into()))
    }

    /// The id of the peer that owns this Ed25519 public key.
    pub fn from_ed25519(key: &[u8; 32]) -> Self {
        PeerId([&ED25519_PREFIX[..], key].concat().into())
    }

    /// The bytes of the multihash.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The public key inside the id, where it is an Ed25519 one.
    pub fn ed25519_key(&self) -> Option<&[u8; 32]> {
        self.0.strip_prefix(&ED25519_PREFIX)?.try_into().ok()
    }
}

impl FromStr for PeerId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let cut = if text.chars().nth(80).is_some() { "…" } else { "" };
        let wrong = || IdError::Peer(text::clean(text, 80) + cut);
        if text.len() > 2 * MAX_PEER_ID {
            return Err(wrong());
        }
        let bytes = bs58::decode(text).into_vec().map_err(|_| wrong())?;
        PeerId::from_bytes(&bytes).map_err(|_| wrong())
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&bs58::encode(&self.0).into_string())
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The name a publisher gave one of its streams. Two publishers may use the same one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(Arc<str>);

impl StreamId {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for StreamId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let fault = if text.is_empty() {
            "this one is empty"
        } else if text.len() > 128 {
            "this one is longer"
        } else if !text::is_clean(text) || text.chars().any(|c| c.is_whitespace() || c == '/' || c == '@') {
            "this one has a character that is not allowed"
        } else {
            return Ok(StreamId(text.into()));
        };
        Err(IdError::Stream(fault))
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One stream of one publisher: what owns a directory entry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamKey {
    /// Who publishes, and alone may change or end it.
    pub publisher: PeerId,
    /// The name it was given.
    pub stream: StreamId,
}

impl fmt::Display for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.stream, self.publisher)
    }
}

/// What a person types to name a stream: `town-radio`, or `town-radio@12D3KooW...` for exactly one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamRef {
    /// The stream's name.
    pub stream: StreamId,
    /// The publisher, where it was named.
    pub publisher: Option<PeerId>,
}

impl FromStr for StreamRef {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let (stream, publisher) = match text.split_once('@') {
            Some((stream, peer)) => (stream, Some(peer.parse()?)),
            None => (text, None),
        };
        Ok(StreamRef { stream: stream.parse()?, publisher })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_ids_round_trip() {
        let id = PeerId::from_ed25519(&[7; 32]);
        assert!(id.to_string().starts_with("12D3KooW"), "{id}");
        assert_eq!(id.to_string().parse::<PeerId>().unwrap(), id);
        assert_eq!(id.ed25519_key(), Some(&[7; 32]));
        for bad in ["", "12D3KooW", "not base58 0OIl", &"1".repeat(500)] {
            assert!(bad.parse::<PeerId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn stream_ids_are_printable_and_short() {
        assert!("town-radio".parse::<StreamId>().is_ok());
        for bad in ["", "a b", "a/b", "a@b", "a\u{202e}b", &"x".repeat(129)] {
            assert!(bad.parse::<StreamId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_reference_may_name_the_publisher() {
        let id = PeerId::from_ed25519(&[1; 32]);
        let named: StreamRef = format!("town@{id}").parse().unwrap();
        assert_eq!(named.publisher, Some(id));
        assert_eq!("town".parse::<StreamRef>().unwrap().publisher, None);
        assert!("town@nobody".parse::<StreamRef>().is_err());
    }

    #[test]
    fn a_multihash_says_how_long_it_is() {
        let bytes = |declared: u8, len: usize| [&[0x16, declared][..], &vec![7; len]].concat();
        for (declared, len) in [(32, 32), (0, 0), (62, 62)] {
            let id = PeerId::from_bytes(&bytes(declared, len)).unwrap();
            assert_eq!((id.as_bytes(), id.ed25519_key()), (&bytes(declared, len)[..], None));
        }
        for (declared, len) in [(32, 31), (32, 33), (63, 63)] {
            assert!(PeerId::from_bytes(&bytes(declared, len)).is_err(), "{declared} {len}");
        }
        assert!(PeerId::from_bytes(&[0x16]).is_err() && PeerId::from_bytes(&[]).is_err());
    }

    #[test]
    fn what_is_no_peer_id_is_shown_cut_and_clean() {
        let fault = |text: &str| text.parse::<PeerId>().unwrap_err().to_string();
        for (text, shown) in [
            ("\u{1b}0OIl".to_owned(), "0OIl".to_owned()),
            ("0".repeat(80), "0".repeat(80)),
            ("0".repeat(81), format!("{}…", "0".repeat(80))),
            ("z".repeat(129), format!("{}…", "z".repeat(80))),
        ] {
            assert!(fault(&text).starts_with(&format!("`{shown}` is not a peer id")), "{text}: {}", fault(&text));
        }
        let longest = PeerId::from_bytes(&[&[0xff, 62][..], &[0xff; 62]].concat()).unwrap().to_string();
        assert_eq!(longest.parse::<PeerId>().unwrap().to_string(), longest);
        assert_eq!(format!("{:?}", PeerId::from_ed25519(&[7; 32])), PeerId::from_ed25519(&[7; 32]).to_string());
    }

    #[test]
    fn a_stream_id_is_told_what_is_wrong_with_it() {
        let longest = "x".repeat(128);
        let id: StreamId = longest.parse().unwrap();
        assert_eq!((id.as_str(), id.to_string()), (longest.as_str(), longest.clone()));
        let key = StreamKey { publisher: PeerId::from_ed25519(&[1; 32]), stream: "town".parse().unwrap() };
        assert_eq!(key.to_string(), format!("town@{}", key.publisher));
        for (text, words) in
            [("", "empty"), (&(longest + "x"), "longer"), ("a b", "not allowed"), ("a\u{7}b", "not allowed")]
        {
            let fault = text.parse::<StreamId>().unwrap_err().to_string();
            assert!(fault.contains(words), "{text}: {fault}");
        }
    }
}
