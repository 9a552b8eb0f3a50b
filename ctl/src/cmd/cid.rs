//! Reads CIDs (<https://github.com/multiformats/cid>). The DHT's key for content is the multihash of its CID.

use multibase::Base;

/// Codec of a CID that is a peer id.
const LIBP2P_KEY: u64 = 0x72;
/// A base58 text of at least so many characters that begins with Qm is taken for a CID of version 0, which has 46.
const CUT_V0: usize = 10;
const SHA2_256: [u8; 2] = [0x12, 32];

/// A CID's parts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cid {
    codec: u64,
    pub(super) multihash: Vec<u8>,
}

impl Cid {
    /// Reads `Qm...`, `bafy...` and other bases, with /ipfs/ or ipfs:// before it or without. A path below a
    /// CID is refused.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix("/ipfs/").or_else(|| text.strip_prefix("ipfs://")).unwrap_or(text);
        if text.starts_with("Qm") && text.len() == 46 {
            let multihash = Base::Base58Btc.decode(text).ok()?;
            return (multihash.len() == 34 && multihash.starts_with(&SHA2_256))
                .then_some(Cid { codec: 0x70, multihash });
        }
        let (_, bytes) = multibase::decode(text).ok()?;
        let (1, rest) = varint(&bytes)? else { return None };
        let (codec, multihash) = varint(rest)?;
        let (_, rest) = varint(multihash)?;
        let (length, digest) = varint(rest)?;
        (digest.len() as u64 == length).then(|| Cid { codec, multihash: multihash.into() })
    }

    /// The peer that it names, if it names one.
    pub(super) fn peer_id(&self) -> Option<String> {
        (self.codec == LIBP2P_KEY).then(|| Base::Base58Btc.encode(&self.multihash))
    }
}

/// Whether the text begins like a common CID. If it is malformed then, that is an error, and not a key of plain text.
pub(super) fn is_meant(text: &str) -> bool {
    let base58 = |c: char| c.is_ascii_alphanumeric() && !"0OIl".contains(c);
    let cut_v0 = text.starts_with("Qm") && text.len() >= CUT_V0 && text.chars().all(base58);
    cut_v0 || ["/ipfs/", "ipfs://", "bafy", "bafk", "bafz"].iter().any(|start| text.starts_with(start))
}

/// An unsigned varint and what follows it.
fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (n, byte) in bytes.iter().take(9).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * n);
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(n + 1..)?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_text_of_a_cid_has_the_same_multihash() {
        // The same block in both versions and three bases, as `ipfs cid format` prints them.
        let v0 = Cid::parse("QmbWqxBEKC3P8tqsKc98xmWNzrzDtRLMiMPL8wBuTGsMnR").unwrap();
        let v1 = Cid::parse("bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi").unwrap();
        assert_eq!(v0, v1);
        assert_eq!(v0.peer_id(), None);
        for (prefix, base) in [("/ipfs/", Base::Base32Lower), ("ipfs://", Base::Base58Btc), ("", Base::Base16Lower)] {
            let bytes = [&[1, 0x70][..], &v0.multihash].concat();
            let text = format!("{prefix}{}", multibase::encode(base, bytes));
            assert_eq!(Cid::parse(&text).as_ref(), Some(&v1), "{text}");
        }
    }

    #[test]
    fn a_peer_id_has_a_cid_too() {
        let id = "12D3KooWGf5CLoGzVhGgr98wUUGZy2VkGj8JuavYd8odRFNRWYYX";
        let bytes = [&[1, 0x72][..], &Base::Base58Btc.decode(id).unwrap()].concat();
        let cid = Cid::parse(&multibase::encode(Base::Base36Lower, bytes)).unwrap();
        assert_eq!(cid.peer_id().as_deref(), Some(id));
    }

    #[test]
    fn other_texts_are_none() {
        for text in ["", "town-archive", "b", "bell", "fab1e", "bafy", "Qm", "z", "/ipfs/", "hex:1220", "f01701203abc"]
        {
            assert_eq!(Cid::parse(text), None, "{text}");
        }
        assert_eq!(Cid::parse("bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbz"), None, "cut off");
        assert_eq!(Cid::parse("QmbWqxBEKC3P8tqsKc98xmWNzrzDtRLMiMPL8wBuTGsMn"), None, "cut off");
    }

    #[test]
    fn what_is_cut_off_is_still_meant_as_a_cid() {
        for text in ["QmbWqxBEKC3P8tqsKc98xmWNzrzDtRLMiMPL8wBuTGsMn", "QmbWqxBEKC", "bafybeigdy", "/ipfs/x"] {
            assert!(is_meant(text), "{text}");
        }
        for text in ["Qm", "Qmagazine", "Qm-a-long-name", "Qm0123456789", "town-archive"] {
            assert!(!is_meant(text), "{text}");
        }
    }
}
