//! Who may call, as the kernel attests it: in system mode root, the daemon's own user and group p2pd; in user mode the
//! owner alone. The uid and the groups decide; nothing that the caller says does.

use nix::unistd::{Gid, Group, Uid, User, getgrouplist};
use p2pd_api::v1::Role;
use tonic::{codegen::http::Extensions, transport::server::UdsConnectInfo};

use crate::paths::{Mode, Paths};

/// Group whose members use the system's daemon.
const GROUP: &str = "p2pd";
/// What the kernel says of users that this user namespace does not know.
const OVERFLOW: u32 = 65_534;

/// Decides about callers.
#[derive(Clone, Debug)]
pub(super) struct Admission {
    mode: Mode,
    own: Uid,
}

impl Admission {
    pub(super) fn new(paths: &Paths) -> Self {
        Admission { mode: paths.mode, own: Uid::effective() }
    }

    /// Whether a process of this user and primary group may call. The system's user database is asked on a thread of its own:
    /// it may be slow, or elsewhere.
    pub(super) async fn admits(&self, uid: u32, gid: u32) -> bool {
        match self.admits_at_once(uid) {
            Some(admitted) => admitted,
            None => tokio::task::spawn_blocking(move || in_group(uid, gid)).await.unwrap_or(false),
        }
    }

    /// The same; `None` where the groups decide.
    fn admits_at_once(&self, uid: u32) -> Option<bool> {
        match self.mode {
            _ if uid == OVERFLOW => Some(false),
            _ if uid == self.own.as_raw() => Some(true),
            Mode::User => Some(false),
            Mode::System if uid == 0 => Some(true),
            Mode::System => None,
        }
    }
}

/// Who calls, as the kernel attests it of the process that opened the connection. In the extensions of each request that reaches a
/// service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// For the log alone: it may be another process's number by now.
    pub(super) pid: Option<i32>,
}

/// A caller who cannot be told, which is nobody in particular.
const NOBODY: Caller = Caller { uid: u32::MAX, gid: u32::MAX, pid: None };

impl Caller {
    /// The caller at the other end of a request's connection.
    pub(super) fn of_connection(extensions: &Extensions) -> Option<Self> {
        let peer = extensions.get::<UdsConnectInfo>()?.peer_cred?;
        Some(Caller { uid: peer.uid(), gid: peer.gid(), pid: peer.pid() })
    }

    /// The caller of a request that `roles` let through.
    pub(super) fn of(extensions: &Extensions) -> Self {
        extensions.get().copied().unwrap_or(NOBODY)
    }

    /// Whether the caller has this role: today whoever is admitted has all that there are.
    pub(super) fn may(&self, role: Role) -> bool {
        role != Role::Unspecified
    }
}

fn in_group(uid: u32, gid: u32) -> bool {
    let Ok(Some(group)) = Group::from_name(GROUP) else { return false };
    if gid == group.gid.as_raw() {
        return true;
    }
    let Ok(Some(user)) = User::from_uid(Uid::from_raw(uid)) else { return false };
    let Ok(name) = std::ffi::CString::new(user.name) else { return false };
    getgrouplist(&name, Gid::from_raw(gid)).is_ok_and(|groups| groups.contains(&group.gid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_users_daemon_admits_its_owner_alone() {
        let user = Admission { mode: Mode::User, own: Uid::from_raw(1000) };
        assert!(user.admits(1000, 1000).await);
        for stranger in [0, 1001, OVERFLOW] {
            assert!(!user.admits(stranger, 1000).await, "{stranger}");
        }
    }

    #[tokio::test]
    async fn the_systems_daemon_admits_root_and_itself_but_not_everybody() {
        let system = Admission { mode: Mode::System, own: Uid::from_raw(990) };
        assert!(system.admits(0, 0).await && system.admits(990, 990).await);
        for stranger in [4_000_000, OVERFLOW] {
            assert!(!system.admits(stranger, 4_000_000).await, "{stranger}");
        }
    }
}
