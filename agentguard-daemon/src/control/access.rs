//! Who may ask what.

use std::ffi::CString;

use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

use super::Request;

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

/// Whether the user `uid`, connected with the primary group `gid`, may ask for `request`: changes
/// are for root, reading is for the members of the group too. Anybody may ask for a launch: the
/// policy in force says who gets it.
#[must_use]
pub fn permits(request: &Request, uid: u32, gid: u32) -> bool {
    match request {
        _ if uid == 0 => true,
        Request::Launch { .. } => true,
        Request::Reload { .. } => false,
        Request::Status {} | Request::Ps {} | Request::Events { .. } => {
            reader_group().is_some_and(|group| is_member(group, uid, gid))
        }
    }
}

/// Whether the user is one for whom the daemon has seats of their own: root and the readers.
#[must_use]
pub fn is_known(uid: u32, gid: u32) -> bool {
    permits(&Request::Status {}, uid, gid)
}

/// The group database is asked, and not the process: what it says now counts.
fn is_member(group: Gid, uid: u32, gid: u32) -> bool {
    if Gid::from_raw(gid) == group {
        return true;
    }
    let Ok(Some(user)) = User::from_uid(Uid::from_raw(uid)) else {
        return false;
    };
    CString::new(user.name)
        .ok()
        .and_then(|name| getgrouplist(&name, user.gid).ok())
        .is_some_and(|groups| groups.contains(&group))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_for_root() {
        let reload = Request::Reload { wait: true };
        assert!(permits(&reload, 0, 0));
        assert!(!permits(&reload, 65_534, 65_534));
    }

    #[test]
    fn strangers_read_nothing() {
        for request in [Request::Status {}, Request::Ps {}] {
            assert!(permits(&request, 0, 0));
            assert!(!permits(&request, 65_534, 65_534));
        }
    }

    #[test]
    fn strangers_may_ask_for_a_launch_and_are_no_more_known() {
        let launch = Request::Launch {
            identity: "sync".to_owned(),
            reason: None,
        };
        assert!(permits(&launch, 65_534, 65_534));
        assert!(is_known(0, 0));
        assert!(!is_known(65_534, 65_534));
    }

    #[test]
    fn membership_is_by_primary_or_supplementary_group() {
        let root = Gid::from_raw(0);
        assert!(is_member(root, 65_534, 0));
        assert!(is_member(root, 0, 65_534));
        assert!(!is_member(root, 65_534, 65_534));
        assert!(!is_member(Gid::from_raw(4_000_000_000), 0, 0));
    }
}
