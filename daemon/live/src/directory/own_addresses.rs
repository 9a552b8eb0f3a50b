//! Streams tell where their publisher is now.

use p2pd_core::{address_scope::Scope, multiaddr::Multiaddr};

use crate::{Live, LiveError, directory::message::DirectoryMessage, lock};

/// Addresses that a stream tells.
const MAX_TOLD: usize = 8;

impl Live {
    /// Own addresses that a stream tells: not those of this machine alone, where there are others. Elsewhere somebody else answers there.
    pub(crate) async fn told_addresses(&self) -> Result<Vec<Multiaddr>, LiveError> {
        let mut addresses = self.0.with.peers.addresses().await?;
        if addresses.iter().any(|address| address.reach() > Scope::Machine) {
            addresses.retain(|address| address.reach() > Scope::Machine);
        }
        addresses.truncate(MAX_TOLD);
        Ok(addresses)
    }

    /// Announces one of our streams that tells other addresses than this machine has had for a second.
    pub(crate) async fn tell_addresses(&self) {
        let Ok(addresses) = self.told_addresses().await else { return };
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
