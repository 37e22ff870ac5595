//! Socket-local storage that accepted sockets inherit.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    bindings::{BPF_F_CLONE, BPF_F_NO_PREALLOC, BPF_SK_STORAGE_GET_F_CREATE, bpf_map_type},
    helpers::generated::bpf_sk_storage_get,
};

const FLAGS: usize = (BPF_F_NO_PREALLOC | BPF_F_CLONE) as usize;

/// A `BPF_MAP_TYPE_SK_STORAGE` map with `BPF_F_CLONE`, which aya's own definition cannot ask for.
///
/// # Minimum kernel version
///
/// 5.4 for `BPF_F_CLONE`; 5.11 for use from iterators.
#[repr(C)]
pub struct SocketStorage<T> {
    r#type: *const [i32; bpf_map_type::BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; FLAGS],
}

// SAFETY: the pointers only describe the map to the loader; nothing reads through them.
unsafe impl<T> Sync for SocketStorage<T> {}

impl<T> SocketStorage<T> {
    /// The definition; the loader makes the map.
    pub const fn new() -> Self {
        Self {
            r#type: ptr::null(),
            key: ptr::null(),
            value: ptr::null(),
            max_entries: ptr::null(),
            map_flags: ptr::null(),
        }
    }

    /// What is stored with `socket`, if something is.
    #[inline(always)]
    pub fn get(&self, socket: *mut c_void) -> Option<*mut T> {
        self.lookup(socket, 0)
    }

    /// What is stored with `socket`, zeroed if it is new. `None` if there is no memory.
    #[inline(always)]
    pub fn get_or_create(&self, socket: *mut c_void) -> Option<*mut T> {
        self.lookup(socket, BPF_SK_STORAGE_GET_F_CREATE.into())
    }

    #[inline(always)]
    fn lookup(&self, socket: *mut c_void, flags: u64) -> Option<*mut T> {
        if socket.is_null() {
            return None;
        }
        let map = ptr::from_ref(self).cast_mut().cast();
        // SAFETY: the helper takes any socket pointer that the verifier knows as one.
        let value = unsafe { bpf_sk_storage_get(map, socket, ptr::null_mut(), flags) };
        if value.is_null() {
            None
        } else {
            Some(value.cast())
        }
    }
}
