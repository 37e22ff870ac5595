//! A ring buffer as something to wait for.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, RawFd},
};

use agentguard_common::{audit::AuditEvent, cgroup::CgroupEvent, process::ExecEvent};
use tokio::io::{Interest, unix::AsyncFd};

use crate::kernel::{AuditRing, CgroupRing, KernelError, ProcessRing};

/// A ring that the runtime watches.
pub(super) struct Readable<R: AsFd>(AsyncFd<Descriptor<R>>);

struct Descriptor<R>(R);

impl<R: AsFd> AsRawFd for Descriptor<R> {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl<R: AsFd> Readable<R> {
    /// Watches `ring`.
    ///
    /// # Errors
    ///
    /// If the runtime cannot.
    #[expect(
        deprecated,
        reason = "sound here: the descriptor belongs to the ring, which moves in and stays open"
    )]
    pub(super) fn new(ring: R) -> io::Result<Self> {
        AsyncFd::with_interest(Descriptor(ring), Interest::READABLE).map(Self)
    }

    /// Waits until the ring may hold something.
    pub(super) async fn ready(&self) {
        match self.0.readable().await {
            Ok(mut guard) => guard.retain_ready(),
            // The runtime is shutting down: there is nothing to wait for.
            Err(_) => std::future::pending().await,
        }
    }

    /// Takes one; finding none means waiting for the next readiness. One that came since the last
    /// readiness is found too: the runtime learns of it only once the loop waits again.
    fn take<T>(&mut self, take: impl Fn(&mut R) -> Option<T>) -> Option<T> {
        if let Some(taken) = take(&mut self.0.get_mut().0) {
            return Some(taken);
        }
        self.0
            .try_io_mut(Interest::READABLE, |ring| {
                take(&mut ring.0).ok_or_else(|| io::ErrorKind::WouldBlock.into())
            })
            .ok()
    }
}

impl Readable<AuditRing> {
    /// Waits until the kernel says that something came, once for each time it does.
    pub(super) async fn woken(&self) {
        match self.0.readable().await {
            Ok(mut guard) => guard.clear_ready(),
            // As in `ready`.
            Err(_) => std::future::pending().await,
        }
    }

    /// The next event, if there is one.
    pub(super) fn next(&mut self) -> Option<Result<AuditEvent, KernelError>> {
        self.0.get_mut().0.next_event()
    }
}

impl Readable<CgroupRing> {
    /// The next event, if there is one.
    pub(super) fn next(&mut self) -> Option<Result<CgroupEvent, KernelError>> {
        self.take(CgroupRing::next_event)
    }
}

impl Readable<ProcessRing> {
    /// The next exec, if there is one.
    pub(super) fn next(&mut self) -> Option<Result<ExecEvent, KernelError>> {
        self.take(ProcessRing::next_event)
    }
}
