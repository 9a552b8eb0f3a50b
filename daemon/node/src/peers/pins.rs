//! Peers to stay connected to, as programs and operators pin them; kept across restarts.

use p2pd_core::{
    id::{IdError, PeerId},
    multiaddr::Multiaddr,
    pins::{MAX_OF_ONE, MAX_PINS, Pin, Pins, check_tag},
    text,
};
use p2pd_net::Closed;
use p2pd_store::{PinRecord, Rows, Store, StoreError};

use super::{Peers, PeersError, book::readable};
use crate::{disk::unreadable, lock};

impl Peers {
    /// Puts the kept pins in force.
    pub(super) async fn restore_pins(&self) -> Result<(), PeersError> {
        let kept = self.0.with.disk.run(read).await?.into_iter().collect::<Result<_, _>>();
        let kept = Pins(kept.map_err(StoreError::from)?);
        self.0.with.events.choose("pinned", kept.0.keys().cloned());
        *lock(&self.0.pins) = kept.clone();
        self.dial_pins(kept).await
    }

    /// Every pinned peer.
    pub fn pins(&self) -> Pins {
        lock(&self.0.pins).clone()
    }

    /// Why a peer was pinned.
    pub fn tags(&self, peer: &PeerId) -> Vec<String> {
        lock(&self.0.pins).0.get(peer).map(|pin| pin.tags.clone()).unwrap_or_default()
    }

    /// Keeps a peer, given by its id or an address of it, for these reasons, beside those given before; unless all who ask are
    /// content to be `passive`, it is dialled, too.
    pub async fn pin(&self, peer: &str, tags: Vec<String>, passive: bool) -> Result<PeerId, PeersError> {
        let field = |fault: String| PeersError::Field { field: "peer", fault };
        let (id, address) = match peer.parse::<PeerId>() {
            Ok(id) => (id, None),
            Err(_) => {
                let (id, address) =
                    p2pd_net::peer_address(peer).map_err(|e| field(format!("is no peer id, and {e}")))?;
                (id, Some(address))
            }
        };
        if id == self.0.with.me {
            return Err(field("is this daemon itself".into()));
        }
        let own = address.as_ref().and_then(Multiaddr::ip);
        if lock(&self.0.rules).of(Some(&id), own) == Some(false) {
            return Err(field(
                "is denied by a rule; PeerService.ListRules shows by which, PeerService.RemoveRule ends it".into(),
            ));
        }
        for tag in &tags {
            check_tag(tag).map_err(|fault| PeersError::Field { field: "tags", fault })?;
        }
        self.change_pins(&id, |pins| {
            if pins.0.len() >= MAX_PINS && !pins.0.contains_key(&id) {
                return Err(PeersError::Limit(format!("{MAX_PINS} pinned peers are the most; unpin some")));
            }
            let pin = pins.0.entry(id.clone()).or_insert_with(|| Pin { passive, ..Pin::default() });
            pin.passive &= passive;
            pin.untagged |= tags.is_empty();
            add(&mut pin.addresses, address.into_iter(), "addresses")?;
            add(&mut pin.tags, tags.into_iter(), "tags")
        })
        .await?;
        Ok(id)
    }

    /// Takes these tags from a pinned peer, or all; without any it is kept no more, and an open connection is left open.
    /// Whether it stays pinned.
    pub async fn unpin(&self, peer: &PeerId, tags: &[String]) -> Result<bool, PeersError> {
        self.change_pins(peer, |pins| {
            let pin = pins.0.get_mut(peer).ok_or_else(|| PeersError::NotPinned(peer.to_string()))?;
            if let Some(absent) = tags.iter().find(|tag| !pin.tags.contains(tag)) {
                let fault =
                    format!("`{}` is none of this peer; PeerService.ListPins lists them", text::clean(absent, 64));
                return Err(PeersError::Field { field: "tags", fault });
            }
            pin.tags.retain(|tag| !tags.contains(tag));
            let stays = !tags.is_empty() && (pin.untagged || !pin.tags.is_empty());
            if !stays {
                pins.0.remove(peer);
            }
            Ok(stays)
        })
        .await
    }

    /// The connections that closed last, oldest first.
    pub async fn closed(&self) -> Result<Vec<Closed>, PeersError> {
        Ok(self.0.with.net.peers.closed().await?)
    }

    /// Changes a peer's pin on disk first, so that what is in force survives.
    async fn change_pins<T>(
        &self,
        peer: &PeerId,
        change: impl FnOnce(&mut Pins) -> Result<T, PeersError>,
    ) -> Result<T, PeersError> {
        let _one = self.0.changing.lock().await;
        let mut pins = self.pins();
        let changed = change(&mut pins)?;
        let (name, record) = (peer.to_string(), pins.0.get(peer).map(record));
        self.0
            .with
            .disk
            .run(move |store| match record {
                Some(record) => store.put_pin(&name, &record),
                None => store.remove_pin(&name),
            })
            .await?;
        self.0.with.events.choose("pinned", pins.0.keys().cloned());
        *lock(&self.0.pins) = pins.clone();
        self.dial_pins(pins).await?;
        Ok(changed)
    }

    /// A pinned peer that went is dialled where it was last.
    pub(super) fn look_for_pinned(&self, peer: &PeerId) {
        let pins = self.pins();
        if pins.0.contains_key(peer) {
            let owner = self.clone();
            self.0.with.tasks.until_stop(async move {
                if let Err(error) = owner.dial_pins(pins).await {
                    tracing::error!(%error, "where pinned peers were is not known");
                }
            });
        }
    }

    /// Has the network stay connected to these, also at the addresses of the peer book.
    async fn dial_pins(&self, mut pins: Pins) -> Result<(), PeersError> {
        let pins = self.0.with.disk.run(move |store| {
            for (peer, pin) in &mut pins.0 {
                let known = store.peer(peer.as_bytes())?.unwrap_or_default().addresses;
                pin.addresses.extend(readable(&known));
            }
            Ok(pins)
        });
        Ok(self.0.with.net.dial.set_pins(pins.await?).await?)
    }
}

fn add<T: PartialEq>(to: &mut Vec<T>, more: impl Iterator<Item = T>, field: &'static str) -> Result<(), PeersError> {
    for one in more {
        if !to.contains(&one) {
            to.push(one);
        }
    }
    if to.len() <= MAX_OF_ONE {
        return Ok(());
    }
    Err(PeersError::Field { field, fault: format!("are more than {MAX_OF_ONE} of one peer; unpin it first") })
}

fn record(pin: &Pin) -> PinRecord {
    PinRecord {
        addresses: pin.addresses.iter().map(Multiaddr::to_string).collect(),
        tags: pin.tags.clone(),
        untagged: pin.untagged,
        passive: pin.passive,
    }
}

/// Every pin on disk, or which record is none.
pub(crate) fn read(store: &Store) -> Result<Rows<(PeerId, Pin)>, StoreError> {
    let pin = |(name, record): (String, PinRecord)| {
        let bad = |fault: String| unreadable("pins", name.clone(), fault);
        let peer: PeerId = name.parse().map_err(|error: IdError| bad(error.to_string()))?;
        if peer.to_string() != name {
            return Err(bad(format!("p2pd writes `{peer}`")));
        }
        let address = |text: &String| text.parse().map_err(|error| bad(format!("its address `{text}`: {error}")));
        let addresses = record.addresses.iter().map(address).collect::<Result<_, _>>()?;
        if let Some(fault) = record.tags.iter().find_map(|tag| check_tag(tag).err()) {
            return Err(bad(fault));
        }
        Ok((peer, Pin { addresses, tags: record.tags, untagged: record.untagged, passive: record.passive }))
    };
    Ok(store.pins()?.into_iter().map(|row| row.and_then(pin)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";

    #[test]
    fn pins_are_read_as_they_were_written() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let tags = vec!["relay".into(), "home".into()];
        let addresses = vec![format!("/ip4/192.0.2.7/tcp/4001/p2p/{PEER}").parse().unwrap()];
        let pin = Pin { addresses, tags, untagged: false, passive: false };
        let passive = Pin { passive: true, ..pin.clone() };
        let both = Pin { untagged: true, ..passive.clone() };
        for pin in [pin, passive, both, Pin { untagged: true, ..Pin::default() }] {
            store.put_pin(PEER, &record(&pin)).unwrap();
            assert_eq!(read(&store).unwrap(), [Ok((PEER.parse().unwrap(), pin))]);
        }
    }

    #[test]
    fn a_pin_that_cannot_be_read_is_told_and_hides_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let good = PinRecord { untagged: true, ..PinRecord::default() };
        let (other, third) = (PeerId::from_ed25519(&[1; 32]).to_string(), PeerId::from_ed25519(&[2; 32]).to_string());
        store.put_pin(PEER, &good).unwrap();
        store.put_pin("nobody", &good).unwrap();
        store.put_pin(&other, &PinRecord { addresses: vec!["/ip4/300.1.1.1".into()], ..good.clone() }).unwrap();
        store.put_pin(&third, &PinRecord { tags: vec!["a b".into()], ..good }).unwrap();
        let rows = read(&store).unwrap();
        assert_eq!(rows.len(), 4);
        let bad: Vec<_> = rows.into_iter().filter_map(Result::err).collect();
        assert_eq!(bad.len(), 3, "{bad:?}");
        assert!(bad.iter().any(|bad| bad.key == other && bad.fault.contains("/ip4/300.1.1.1")), "{bad:?}");
    }
}
