//! Who may ask what.

use std::{ffi::CString, io, os::fd::AsFd};

use nix::{
    sys::socket::{getsockopt, sockopt},
    unistd::{Gid, Group, Uid, User, getgrouplist},
};

use super::Request;
use crate::identity::launch::peer_groups;

/// Members may read.
pub const GROUP: &str = "agentguard";

/// The group that may read, if the host has it.
#[must_use]
pub fn reader_group() -> Option<Gid> {
    Group::from_name(GROUP)
        .ok()
        .flatten()
        .map(|group| group.gid)
}

/// Who is at the other end of a control socket.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Effective user when it connected.
    pub uid: u32,
    /// Its effective and its supplementary groups then.
    pub groups: Vec<u32>,
}

impl Peer {
    /// Of a connected socket.
    ///
    /// # Errors
    ///
    /// If the kernel does not tell.
    pub fn of(socket: &impl AsFd) -> io::Result<Self> {
        let peer = getsockopt(socket, sockopt::PeerCredentials)?;
        let mut groups = peer_groups(socket)?;
        groups.push(peer.gid());
        Ok(Self {
            uid: peer.uid(),
            groups,
        })
    }
}

/// Whether `peer` may ask for `request`: changes are for root, reading is for the members of the group
/// too. Anybody may ask for a launch: the policy in force says who gets it.
#[must_use]
pub fn permits(request: &Request, peer: &Peer) -> bool {
    match request {
        _ if peer.uid == 0 => true,
        Request::Launch { .. } => true,
        Request::Reload { .. } | Request::TestSink { .. } | Request::ReplaySink { .. } => false,
        Request::Status {} | Request::Ps {} => {
            reader_group().is_some_and(|group| is_member(group, peer))
        }
    }
}

/// Whether the peer is one for whom the daemon has seats of their own: root and the readers.
#[must_use]
pub fn is_known(peer: &Peer) -> bool {
    permits(&Request::Status {}, peer)
}

/// The process must have the group, and its user must still be in it: who was put out of the group
/// keeps it until the next login.
fn is_member(group: Gid, peer: &Peer) -> bool {
    if !peer.groups.contains(&group.as_raw()) {
        return false;
    }
    let Ok(Some(user)) = User::from_uid(Uid::from_raw(peer.uid)) else {
        return false;
    };
    user.gid == group
        || CString::new(user.name)
            .ok()
            .and_then(|name| getgrouplist(&name, user.gid).ok())
            .is_some_and(|groups| groups.contains(&group))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(uid: u32, group: u32) -> Peer {
        Peer {
            uid,
            groups: vec![group],
        }
    }

    #[test]
    fn changes_are_for_root() {
        let reload = Request::Reload { wait: true };
        assert!(permits(&reload, &peer(0, 0)));
        assert!(!permits(&reload, &peer(65_534, 65_534)));
    }

    #[test]
    fn strangers_read_nothing() {
        for request in [Request::Status {}, Request::Ps {}] {
            assert!(permits(&request, &peer(0, 0)));
            assert!(!permits(&request, &peer(65_534, 65_534)));
        }
    }

    #[test]
    fn strangers_may_ask_for_a_launch_and_are_no_more_known() {
        let launch = Request::Launch {
            identity: "sync".to_owned(),
            reason: None,
        };
        assert!(permits(&launch, &peer(65_534, 65_534)));
        assert!(is_known(&peer(0, 0)));
        assert!(!is_known(&peer(65_534, 65_534)));
    }

    #[test]
    fn a_member_has_the_group_and_is_in_it() {
        let root = Gid::from_raw(0);
        assert!(is_member(root, &peer(0, 0)));
        assert!(!is_member(root, &peer(0, 65_534)), "the process lacks it");
        assert!(!is_member(root, &peer(65_534, 0)), "the user is not in it");
    }
}
