//! The Ed25519 key that is this peer, and the file it is kept in: libp2p's protobuf encoding, base64 or raw, mode 0600.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    path::Path,
};

use libp2p::identity::{Keypair, ed25519};
use p2pd_core::id::PeerId;

use crate::error::NetError;

/// The key pair of this peer.
#[derive(Clone)]
pub struct Identity(pub(crate) Keypair);

impl Identity {
    /// A new random identity.
    pub fn generate() -> Self {
        Identity(Keypair::generate_ed25519())
    }

    /// Reads libp2p's protobuf encoding of an Ed25519 private key.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, NetError> {
        let pair = Keypair::from_protobuf_encoding(bytes)
            .map_err(|_| NetError::Identity("not a libp2p private key in protobuf encoding".into()))?;
        match pair.clone().try_into_ed25519() {
            Ok(_) => Ok(Identity(pair)),
            Err(_) => Err(NetError::Identity("the key is not Ed25519, the only kind p2pd signs audio with".into())),
        }
    }

    /// libp2p's protobuf encoding of the private key.
    pub fn to_bytes(&self) -> Result<Vec<u8>, NetError> {
        self.0.to_protobuf_encoding().map_err(|e| NetError::Identity(e.to_string()))
    }

    /// The seed that signs groups of audio.
    pub fn secret(&self) -> Option<[u8; 32]> {
        let pair: ed25519::Keypair = self.0.clone().try_into_ed25519().ok()?;
        pair.secret().as_ref().try_into().ok()
    }

    /// Who this is on the network.
    pub fn peer_id(&self) -> PeerId {
        crate::ids::from_libp2p(&self.0.public().to_peer_id())
    }

    /// Reads the file; `None` if there is none. A file that others may read, or that is damaged, is an error.
    pub fn load(path: &Path) -> Result<Option<Self>, NetError> {
        let fail = |fault: String| NetError::Identity(format!("{}: {fault}", path.display()));
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(fail(error.to_string())),
        };
        let mode = fs::metadata(path).map_err(|e| fail(e.to_string()))?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(fail(format!(
                "others may read it (mode {:o}); run: chmod 600 {}",
                mode & 0o777,
                path.display()
            )));
        }
        let damaged = "restore it from a back-up; without it, moved away, this daemon is another peer";
        Identity::from_bytes(&bytes).map(Some).map_err(|error| match error {
            NetError::Identity(fault) => fail(format!("{fault}; {damaged}")),
            other => other,
        })
    }

    /// Writes the file so that it is whole or absent even after a power cut. Never replaces an existing one.
    pub fn save_new(&self, path: &Path) -> Result<(), NetError> {
        let fail = |e: io::Error| NetError::Identity(format!("{}: {e}", path.display()));
        let temporary = path.with_extension("new");
        let _ = fs::remove_file(&temporary);
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary).map_err(fail)?;
        file.write_all(&self.to_bytes()?).and_then(|()| file.sync_all()).map_err(fail)?;
        let directory = path.parent().unwrap_or(Path::new("."));
        // Where root imports it, it is for the user whose directory this is.
        let owner = fs::metadata(directory).map_err(fail)?;
        if file.metadata().map_err(fail)?.uid() == 0 && owner.uid() != 0 {
            fchown(&file, Some(owner.uid()), Some(owner.gid())).map_err(fail)?;
        }
        // A hard link, unlike a rename, fails where an identity stands already.
        let linked = fs::hard_link(&temporary, path);
        fs::remove_file(&temporary).map_err(fail)?;
        linked.map_err(fail)?;
        fs::File::open(directory).and_then(|d| d.sync_all()).map_err(fail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_identity_is_the_same_and_is_never_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("identity.key");
        assert!(Identity::load(&path).unwrap().is_none());
        let identity = Identity::generate();
        identity.save_new(&path).unwrap();
        assert_eq!(Identity::load(&path).unwrap().unwrap().peer_id(), identity.peer_id());
        assert!(Identity::generate().save_new(&path).is_err());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "no other key is left behind");
        assert_eq!(Identity::load(&path).unwrap().unwrap().peer_id(), identity.peer_id());
    }

    #[test]
    fn open_or_damaged_files_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("identity.key");
        Identity::generate().save_new(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(Identity::load(&path).err().unwrap().to_string().contains("chmod 600"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        for damaged in [&b"junk"[..], b""] {
            fs::write(&path, damaged).unwrap();
            assert!(Identity::load(&path).err().unwrap().to_string().contains("restore it from a back-up"));
        }
    }
}
