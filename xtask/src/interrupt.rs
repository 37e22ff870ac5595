//! Ctrl-C: everything is taken down in order instead of dying where it is.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{SigSet, Signal};

/// Set once the user wants to stop.
static WANTED: AtomicBool = AtomicBool::new(false);

/// Notes SIGINT and SIGTERM instead of dying of them.
pub(crate) fn watch() -> Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    // Threads to come inherit the mask.
    signals.thread_block().context("cannot block signals")?;
    thread::spawn(move || {
        if signals.wait().is_ok() {
            WANTED.store(true, Ordering::Relaxed);
        }
    });
    Ok(())
}

/// Whether the user wants to stop.
pub(crate) fn is_wanted() -> bool {
    WANTED.load(Ordering::Relaxed)
}

/// An error if the user wants to stop.
pub(crate) fn check() -> Result<()> {
    if is_wanted() {
        bail!("interrupted");
    }
    Ok(())
}
