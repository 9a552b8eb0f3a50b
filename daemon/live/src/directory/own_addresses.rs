//! Streams tell where their publisher is now.

use p2pd_core::multiaddr::Multiaddr;

use crate::{Live, directory::message::DirectoryMessage, lock};

/// Addresses that a stream tells.
const MAX_TOLD: usize = 8;

impl Live {
    /// Announces one of our streams that tells other addresses than this machine has had for a second.
    pub(crate) async fn tell_addresses(&self) {
        let Ok(mut addresses) = self.0.with.peers.addresses().await else { return };
        addresses.truncate(MAX_TOLD);
        let before = std::mem::replace(&mut lock(&self.0.directory).own_addresses, addresses.clone());
        let steady = before == addresses;
        if !steady || addresses.is_empty() {
            return;
        }
        let told: Vec<String> = addresses.iter().map(Multiaddr::to_string).collect();
        for (stream, mut metadata) in self.own_streams_elsewhere(&told) {
            metadata.set("publisherAddrs", told.clone());
            if self.say(DirectoryMessage::Announce { stream, metadata }).await.is_ok() {
                return;
            }
        }
    }
}
