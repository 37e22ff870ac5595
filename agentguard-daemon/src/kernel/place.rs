//! Where a file is, as the kernel programs see it.

use std::{
    fs::{self, File},
    io,
    os::{fd::AsRawFd as _, unix::fs::MetadataExt as _},
    path::Path,
};

use super::KernelError;

/// Device and inode of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FilePlace {
    /// The device of its file system as the kernel keeps it (`MKDEV`): 12 bits major, 20 bits minor.
    pub device: u32,
    /// Its inode number.
    pub inode: u64,
}

impl FilePlace {
    /// Of the file at `path`.
    ///
    /// # Errors
    ///
    /// If it cannot be opened, or its mount is not found.
    pub fn of_path(path: &Path) -> Result<Self, KernelError> {
        let open = || Self::of_file(&File::open(path)?);
        open().map_err(|source| KernelError::File {
            path: path.into(),
            source,
        })
    }

    /// Of an open file. Its device is that of the mount and not what `stat` says: some file systems,
    /// btrfs among them, show another one there.
    ///
    /// # Errors
    ///
    /// If its mount is not found.
    pub fn of_file(file: &File) -> io::Result<Self> {
        let inode = file.metadata()?.ino();
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let device = mount_of(&info)
            .and_then(|mount| device_of(&mounts, mount))
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "its mount is not listed"))?;
        Ok(Self { device, inode })
    }
}

fn mount_of(fdinfo: &str) -> Option<&str> {
    fdinfo
        .lines()
        .find_map(|line| line.strip_prefix("mnt_id:"))
        .map(str::trim)
}

fn device_of(mountinfo: &str, mount: &str) -> Option<u32> {
    mountinfo.lines().find_map(|line| {
        let mut fields = line.split(' ');
        (fields.next()? == mount).then_some(())?;
        let (major, minor) = fields.nth(1)?.split_once(':')?;
        Some(major.parse::<u32>().ok()? << 20 | minor.parse::<u32>().ok()?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_is_that_of_the_mount() {
        let mountinfo = "24 1 254:3 / / rw - ext4 /dev/root rw\n\
                         31 24 0:27 /sub /data rw - btrfs /dev/b rw\n";
        let fdinfo = "pos:\t0\nflags:\t0100000\nmnt_id:\t31\nino:\t5\n";
        assert_eq!(mount_of(fdinfo), Some("31"));
        assert_eq!(device_of(mountinfo, "31"), Some(27));
        assert_eq!(device_of(mountinfo, "24"), Some(254 << 20 | 3));
        assert_eq!(device_of(mountinfo, "3"), None);
    }

    #[test]
    fn a_file_is_found() {
        let root = FilePlace::of_path(Path::new("/")).unwrap();
        assert_eq!(root.inode, fs::metadata("/").unwrap().ino());
        assert_ne!(root.device, 0);
    }
}
