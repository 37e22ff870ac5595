//! One daemon to a state directory.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

/// Held as long as the daemon lives; the kernel gives it back however the daemon ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Takes the lock of the state directory, which is made if there is none. `None` if another holds it.
///
/// # Errors
///
/// If the directory cannot be used.
pub fn take(state_dir: &Path) -> io::Result<Option<Lock>> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state_dir)?;
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        // Whoever may open it may hold it.
        .mode(0o600)
        .open(state_dir.join("lock"))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(Lock { _file: file })),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Whether a daemon holds the lock of the state directory.
///
/// # Errors
///
/// If that cannot be told.
pub fn is_held(state_dir: &Path) -> io::Result<bool> {
    match File::open(state_dir.join("lock")) {
        Ok(file) => match file.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(error),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_refused_until_the_first_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        assert!(!is_held(&state).unwrap());
        let first = take(&state).unwrap();
        assert!(first.is_some());
        assert!(take(&state).unwrap().is_none());
        assert!(is_held(&state).unwrap());
        drop(first);
        assert!(!is_held(&state).unwrap());
        assert!(take(&state).unwrap().is_some());
    }
}
