//! Socket calls that neither the standard library nor `socket2` has.

use std::{
    io, mem,
    os::fd::{AsFd, AsRawFd},
};

/// Sets a socket option that takes an `int`.
///
/// # Errors
///
/// What the kernel says.
pub fn set_option(socket: &impl AsFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    set_option_bytes(socket, level, name, &value.to_ne_bytes())
}

/// Sets a socket option that takes a structure.
///
/// # Errors
///
/// What the kernel says.
pub fn set_option_bytes(socket: &impl AsFd, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    let length = libc::socklen_t::try_from(value.len()).map_err(io::Error::other)?;
    // SAFETY: the pointer and length are those of one live slice.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            value.as_ptr().cast(),
            length,
        )
    };
    check(result).map(drop)
}

/// Reads a socket option that is a plain structure.
///
/// # Errors
///
/// What the kernel says.
///
/// # Safety
///
/// All bit patterns must be values of `T`, and `T` must be as large as what the kernel writes.
pub unsafe fn option<T: Copy>(socket: &impl AsFd, level: i32, name: i32) -> io::Result<T> {
    let mut value = mem::MaybeUninit::<T>::zeroed();
    let mut length = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
    // SAFETY: the pointer is to `length` writable bytes.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            value.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    check(result)?;
    // SAFETY: the caller promises that any bytes are a value.
    Ok(unsafe { value.assume_init() })
}

/// The result of a system call that says -1 and sets `errno`.
///
/// # Errors
///
/// `errno`, where the result is negative.
pub fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
