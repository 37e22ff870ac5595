//! Ring-buffer bytes to checked events.

use std::os::fd::{AsFd, BorrowedFd};

use agentguard_common::{audit::AuditEvent, cgroup::CgroupEvent};

use super::KernelError;

/// The ring of audit events. Readable (epoll) when it holds some.
#[derive(Debug)]
pub struct AuditRing(std::fs::File);

/// The ring of cgroup events.
#[derive(Debug)]
pub struct CgroupRing(std::fs::File);

impl AuditRing {
    /// The next event, if there is one. An error is one record that did not decode.
    pub fn next_event(&mut self) -> Option<Result<AuditEvent, KernelError>> {
        None
    }
}

impl CgroupRing {
    /// The next event, if there is one.
    pub fn next_event(&mut self) -> Option<Result<CgroupEvent, KernelError>> {
        None
    }
}

impl AsFd for AuditRing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsFd for CgroupRing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
