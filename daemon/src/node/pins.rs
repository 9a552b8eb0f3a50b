//! Peers to stay connected to, as programs and operators pin them; kept across restarts.

use p2pd_core::{
    id::PeerId,
    keep::{MAX_OF_ONE, MAX_PINS, Pin, Pins, check_tag},
    text,
};
use p2pd_net::Closed;

use super::{Node, NodeError, blocking, lock};

/// Name of the setting that holds the pins.
const SETTING: &str = "pins";

impl Node {
    /// Puts the kept pins in force.
    pub(super) async fn restore_pins(&self) -> Result<(), NodeError> {
        let kept = self.0.store.setting(SETTING)?.map(|text| Pins::read(&text)).unwrap_or_default();
        *lock(&self.0.pins) = kept.clone();
        self.dial_pins(kept).await
    }

    /// Every pinned peer.
    pub(crate) fn pins(&self) -> Pins {
        lock(&self.0.pins).clone()
    }

    /// Why a peer was pinned.
    pub(crate) fn tags(&self, peer: &PeerId) -> Vec<String> {
        lock(&self.0.pins).0.get(peer).map(|pin| pin.tags.clone()).unwrap_or_default()
    }

    /// Keeps a peer, given by its id or an address of it, for these reasons, beside those given before; unless all who ask are
    /// content to be `passive`, it is dialled, too.
    pub(crate) async fn pin(&self, peer: &str, tags: Vec<String>, passive: bool) -> Result<PeerId, NodeError> {
        let field = |fault: String| NodeError::Field { field: "peer", fault };
        let (id, address) = match peer.parse::<PeerId>() {
            Ok(id) => (id, None),
            Err(_) => {
                (p2pd_net::peer_of(peer).map_err(|e| field(format!("is no peer id, and {e}")))?, Some(peer.to_owned()))
            }
        };
        if id == self.0.me {
            return Err(field("is this daemon itself".into()));
        }
        let way = address.as_deref().and_then(|address| address.split('/').nth(2)?.parse().ok());
        if lock(&self.0.rules).of(Some(&id), way) == Some(false) {
            return Err(field(
                "is denied by a rule; `p2pctl peers rules` shows by which, `peers unrule` ends it".into(),
            ));
        }
        for tag in &tags {
            check_tag(tag).map_err(|fault| NodeError::Field { field: "tags", fault })?;
        }
        let pinned = id.clone();
        self.change_pins(move |pins| {
            if pins.0.len() >= MAX_PINS && !pins.0.contains_key(&id) {
                return Err(NodeError::Limit(format!("{MAX_PINS} pinned peers are the most; unpin some")));
            }
            let pin = pins.0.entry(id).or_insert_with(|| Pin { passive, ..Pin::default() });
            pin.passive &= passive;
            pin.untagged |= tags.is_empty();
            add(&mut pin.addresses, address.into_iter(), "addresses")?;
            add(&mut pin.tags, tags.into_iter(), "tags")
        })
        .await?;
        Ok(pinned)
    }

    /// Takes these tags from a pinned peer, or all; without any it is kept no more, and an open connection is left open.
    /// Whether it stays pinned.
    pub(crate) async fn unpin(&self, peer: &PeerId, tags: &[String]) -> Result<bool, NodeError> {
        self.change_pins(|pins| {
            let pin = pins.0.get_mut(peer).ok_or_else(|| NodeError::PeerNotPinned(peer.to_string()))?;
            if let Some(absent) = tags.iter().find(|tag| !pin.tags.contains(tag)) {
                let fault =
                    format!("`{}` is none of this peer; `p2pctl peers pins` lists them", text::clean(absent, 64));
                return Err(NodeError::Field { field: "tags", fault });
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
    pub(crate) async fn closed(&self) -> Result<Vec<Closed>, NodeError> {
        Ok(self.0.net.peers.closed().await?)
    }

    /// Changes the pins on disk first, so that what is in force survives.
    async fn change_pins<T>(&self, change: impl FnOnce(&mut Pins) -> Result<T, NodeError>) -> Result<T, NodeError> {
        let _one = self.0.ruling.lock().await;
        let mut pins = self.pins();
        let changed = change(&mut pins)?;
        let (store, text) = (self.0.store.clone(), pins.write());
        blocking(move || store.set_setting(SETTING, &text)).await?;
        *lock(&self.0.pins) = pins.clone();
        self.dial_pins(pins).await?;
        Ok(changed)
    }

    /// A pinned peer that went is dialled where it was last.
    pub(super) fn look_for_pinned(&self, peer: &PeerId) {
        let pins = self.pins();
        if pins.0.contains_key(peer) {
            let node = self.clone();
            self.until_stop(async move {
                if let Err(error) = node.dial_pins(pins).await {
                    tracing::error!(%error, "where pinned peers were is not known");
                }
            });
        }
    }

    /// Has the network stay connected to these, also at the addresses of the peer book.
    async fn dial_pins(&self, mut pins: Pins) -> Result<(), NodeError> {
        let store = self.0.store.clone();
        let pins = blocking(move || {
            for (peer, pin) in &mut pins.0 {
                pin.addresses.extend(store.peer(peer.as_bytes())?.unwrap_or_default().addresses);
            }
            Ok(pins)
        });
        Ok(self.0.net.dial.set_pins(pins.await?).await?)
    }
}

fn add(to: &mut Vec<String>, more: impl Iterator<Item = String>, field: &'static str) -> Result<(), NodeError> {
    for one in more {
        if !to.contains(&one) {
            to.push(one);
        }
    }
    if to.len() <= MAX_OF_ONE {
        return Ok(());
    }
    Err(NodeError::Field { field, fault: format!("are more than {MAX_OF_ONE} of one peer; unpin it first") })
}
