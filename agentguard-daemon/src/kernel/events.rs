//! Ring-buffer bytes to checked events.

use std::os::fd::{AsFd, BorrowedFd};

use agentguard_common::{audit::AuditEvent, cgroup::CgroupEvent, process::ExecEvent};
use aya::maps::{MapData, RingBuf};
use zerocopy::TryFromBytes;

use super::KernelError;

/// The ring of audit events. Readable (epoll) when it holds some.
pub struct AuditRing(pub(super) RingBuf<MapData>);

/// The ring of execs. Readable (epoll) when it holds some.
pub struct ProcessRing(pub(super) RingBuf<MapData>);

/// The ring of cgroup events. Readable (epoll) when it holds some.
pub struct CgroupRing(pub(super) RingBuf<MapData>);

impl AuditRing {
    /// The next event, if there is one. An error is one record that did not decode; the ring goes on
    /// behind it.
    pub fn next_event(&mut self) -> Option<Result<AuditEvent, KernelError>> {
        next_record(&mut self.0, "AUDIT_EVENTS")
    }
}

impl CgroupRing {
    /// The next event, if there is one. An error is as in [`AuditRing::next_event`].
    pub fn next_event(&mut self) -> Option<Result<CgroupEvent, KernelError>> {
        next_record(&mut self.0, "CGROUP_EVENTS")
    }
}

fn next_record<T: TryFromBytes>(
    ring: &mut RingBuf<MapData>,
    name: &'static str,
) -> Option<Result<T, KernelError>> {
    let item = ring.next()?;
    let bytes: &[u8] = &item;
    Some(
        T::try_read_from_bytes(bytes)
            .ok()
            .ok_or(KernelError::Record {
                ring: name,
                length: bytes.len(),
            }),
    )
}

impl ProcessRing {
    /// The next exec, if there is one. An error is as in [`AuditRing::next_event`].
    pub fn next_event(&mut self) -> Option<Result<ExecEvent, KernelError>> {
        next_record(&mut self.0, "PROCESS_EVENTS")
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

impl AsFd for ProcessRing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
