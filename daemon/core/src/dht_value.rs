//! Values in the distributed hash table: each has a place that belongs to a peer, and only that peer's signature fills it.
//! Of two values of one place the one with the greater number holds. `docs/wire.md` has the layout for others.

use bytes::Bytes;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use prost::Message;
use sha2::{Digest, Sha256};

use crate::{
    id::PeerId,
    time::{RunMs, UnixMs},
};

/// Most bytes of a value.
pub const MAX_DATA: usize = 4096;
/// Longest name, in bytes.
pub const MAX_NAME: usize = 64;
/// Longest that a value holds, in milliseconds: two days, which is how long Kademlia keeps records.
pub const MAX_TTL_MS: u64 = 48 * 3_600_000;
/// Largest encoded value: its data and what is around it.
const MAX_SIGNED: usize = MAX_DATA + 256;
const PREFIX: &str = "/p2pd/value/";
const CONTEXT: &[u8] = b"p2pd-dht-value-v1\0";

/// What a peer signs.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ValueBody {
    /// Where it belongs.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// The value.
    #[prost(bytes = "bytes", tag = "2")]
    pub data: Bytes,
    /// Grows with each value of the place. When it was made, milliseconds since 1970 by the earlier of wall clock and running time, or
    /// one more than the last.
    #[prost(uint64, tag = "3")]
    pub seq: u64,
    /// From when on it does not hold any more, milliseconds since 1970.
    #[prost(uint64, tag = "4")]
    pub expires_ms: u64,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct SignedValue {
    #[prost(bytes = "bytes", tag = "1")]
    body: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    signature: Bytes,
}

/// The place of a peer's value; `None` for a name that is none: 1 to 64 printable characters of ASCII without `/`.
pub fn key(peer: &PeerId, name: &str) -> Option<Bytes> {
    let fine = (1..=MAX_NAME).contains(&name.len()) && name.chars().all(|c| c.is_ascii_graphic() && c != '/');
    fine.then(|| format!("{PREFIX}{peer}/{name}").into())
}

/// Whose place a key is.
fn owner(key: &[u8]) -> Option<PeerId> {
    let (peer, name) = std::str::from_utf8(key).ok()?.strip_prefix(PREFIX)?.split_once('/')?;
    let peer = peer.parse().ok()?;
    (self::key(&peer, name)? == key).then_some(peer)
}

fn digest(body: &[u8]) -> Vec<u8> {
    [CONTEXT, &Sha256::digest(body)].concat()
}

/// Encodes and signs.
pub fn sign(body: &ValueBody, signer: &[u8; 32]) -> Bytes {
    let body = Bytes::from(body.encode_to_vec());
    let signature = SigningKey::from_bytes(signer).sign(&digest(&body)).to_bytes();
    SignedValue { body, signature: Bytes::copy_from_slice(&signature) }.encode_to_vec().into()
}

/// The number of a value that is put now, after one of number `last`: each follows the one before, wherever the wall clock was set
/// between them. The earlier of both times, since others take no number that is two days ahead; where the last one was, it goes on from
/// the greatest that they take.
pub fn next_seq(last: u64, now: UnixMs, running: RunMs) -> u64 {
    const MINUTE_MS: u64 = 60_000;
    let next = now.0.min(running.0).max(last.saturating_add(1));
    // The clocks of others may be behind this one.
    let most = now.0.saturating_add(MAX_TTL_MS - 60 * MINUTE_MS);
    // A little above it, so that several at once still follow one another.
    if next > most.saturating_add(MINUTE_MS) { most } else { next }
}

/// Reads a value that came for a key; `None` unless the key's peer has signed it for there and it holds now.
pub fn verify(key: &[u8], signed: &[u8], now: UnixMs) -> Option<ValueBody> {
    if signed.len() > MAX_SIGNED {
        return None;
    }
    let signed = SignedValue::decode(signed).ok()?;
    let signer = VerifyingKey::from_bytes(owner(key)?.ed25519_key()?).ok()?;
    let signature = Signature::from_slice(&signed.signature).ok()?;
    signer.verify_strict(&digest(&signed.body), &signature).ok()?;
    let body = ValueBody::decode(signed.body).ok()?;
    let latest = now.0.saturating_add(MAX_TTL_MS);
    let holds = body.expires_ms > now.0 && body.expires_ms <= latest && body.seq <= latest;
    (body.key == key && body.data.len() <= MAX_DATA && holds).then_some(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: UnixMs = UnixMs(1_700_000_000_000);

    fn place(secret: u8, name: &str) -> Bytes {
        let public = SigningKey::from_bytes(&[secret; 32]).verifying_key().to_bytes();
        key(&PeerId::from_ed25519(&public), name).unwrap()
    }

    fn body() -> ValueBody {
        ValueBody { key: place(1, "home"), data: "here".into(), seq: NOW.0, expires_ms: NOW.0 + 1 }
    }

    #[test]
    fn numbers_of_values_grow_wherever_the_clock_is_set() {
        let (hour, running) = (3_600_000, RunMs(NOW.0));
        let mut last = next_seq(0, NOW, running);
        assert_eq!(last, NOW.0);
        for hours in [1, -1, 24, -24, 24 * 365, -24 * 365, 0] {
            let wall = UnixMs(NOW.0.saturating_add_signed(hours * hour));
            let next = next_seq(last, wall, running);
            if hours > -24 {
                assert_eq!(next, last + 1, "{hours}");
                last = next;
            }
        }
        // At the first start the clock was a year ahead.
        let first = next_seq(NOW.0 + 365 * 24 * 3_600_000, NOW, RunMs(u64::MAX));
        assert_eq!(first, NOW.0 + 47 * 3_600_000);
        assert_eq!(next_seq(first, NOW, RunMs(u64::MAX)), first + 1);
    }

    #[test]
    fn only_the_owner_fills_a_place_and_only_while_it_holds() {
        let signed = sign(&body(), &[1; 32]);
        assert_eq!(verify(&body().key, &signed, NOW), Some(body()));
        assert_eq!(verify(&body().key, &signed, UnixMs(NOW.0 + 1)), None, "expired");
        assert_eq!(verify(&place(1, "other"), &signed, NOW), None, "of another place");
        assert_eq!(verify(&body().key, &sign(&body(), &[2; 32]), NOW), None, "signed by another");
        let theirs = ValueBody { key: place(2, "home"), ..body() };
        assert_eq!(verify(&theirs.key, &sign(&theirs, &[1; 32]), NOW), None, "in the place of another");
        for bad in [
            ValueBody { expires_ms: NOW.0 + MAX_TTL_MS + 1, ..body() },
            ValueBody { seq: u64::MAX, ..body() },
            ValueBody { data: vec![0; MAX_DATA + 1].into(), ..body() },
        ] {
            assert_eq!(verify(&bad.key, &sign(&bad, &[1; 32]), NOW), None);
        }
        for name in ["", "a/b", "a b", "\u{e4}", &"x".repeat(65)] {
            assert_eq!(key(&PeerId::from_ed25519(&[1; 32]), name), None, "{name}");
        }
    }

    #[test]
    fn a_number_goes_on_for_a_minute_beyond_the_greatest_and_then_begins_there_again() {
        // 47 hours ahead; others take two days, and their clocks may be behind.
        let most = NOW.0 + 47 * 3_600_000;
        for (last, next) in [(most + 59_999, most + 60_000), (most + 60_000, most), (0, NOW.0), (NOW.0 + 5, NOW.0 + 6)]
        {
            assert_eq!(next_seq(last, NOW, RunMs(u64::MAX)), next, "{last}");
        }
        assert_eq!(next_seq(0, NOW, RunMs(NOW.0 - 5)), NOW.0 - 5, "the earlier of both times");
    }

    #[test]
    fn a_value_at_its_bounds_is_taken() {
        const TWO_DAYS: u64 = 172_800_000;
        let takes = |body: ValueBody| verify(&body.key, &sign(&body, &[1; 32]), NOW).is_some();
        assert!(takes(ValueBody { expires_ms: NOW.0 + TWO_DAYS, ..body() }));
        assert!(!takes(ValueBody { expires_ms: NOW.0 + TWO_DAYS + 1, ..body() }));
        assert!(!takes(ValueBody { expires_ms: NOW.0, ..body() }) && !takes(ValueBody { expires_ms: 0, ..body() }));
        assert!(takes(ValueBody { seq: NOW.0 + TWO_DAYS, ..body() }));
        assert!(!takes(ValueBody { seq: NOW.0 + TWO_DAYS + 1, ..body() }));
        let largest = ValueBody { key: place(1, &"n".repeat(64)), data: vec![0; 4096].into(), ..body() };
        assert!(takes(largest), "with the longest name and the most data");
        assert!(!takes(ValueBody { data: vec![0; 4097].into(), ..body() }));
    }

    #[test]
    fn a_signature_is_of_its_own_value() {
        let read = |signed: &[u8]| SignedValue::decode(signed).unwrap();
        let other = ValueBody { data: "there".into(), ..body() };
        let (first, second) = (read(&sign(&body(), &[1; 32])), read(&sign(&other, &[1; 32])));
        let mixed = SignedValue { body: second.body, signature: first.signature }.encode_to_vec();
        assert_eq!(verify(&body().key, &mixed, NOW), None);
    }

    #[test]
    fn a_value_with_much_around_it_is_refused_unread() {
        let padded = |size: usize| {
            let signed = sign(&body(), &[1; 32]);
            // A field that nobody knows, of so many bytes.
            let around = size - signed.len() - 3;
            [&signed[..], &[0x1a, (around & 0x7f) as u8 | 0x80, (around >> 7) as u8], &vec![0; around]].concat()
        };
        let takes = |size| verify(&body().key, &padded(size), NOW).is_some();
        assert_eq!([4096 + 256, 4096 + 257].map(takes), [true, false]);
    }

    proptest! {
        #[test]
        fn strange_bytes_are_no_value(key: Vec<u8>, bytes: Vec<u8>, at in 0usize..200, bit in 0u8..8) {
            prop_assert_eq!(verify(&key, &bytes, NOW), None);
            let mut signed = sign(&body(), &[1; 32]).to_vec();
            let at = at % signed.len();
            signed[at] ^= 1 << bit;
            prop_assert_ne!(verify(&body().key, &signed, NOW).map(|b| b.data), Some("there".into()));
        }
    }
}
