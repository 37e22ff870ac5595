//! What packets of an identity carry for firewalls and shapers: bits of the mark, and the traffic class.

use core::{ffi::c_void, ptr};

use agentguard_common::identity::{IdentityRecord, NO_DSCP};
use aya_ebpf::{
    EbpfContext,
    bindings::{__sk_buff, bpf_sock},
    helpers::generated::bpf_setsockopt,
    programs::SockAddrContext,
};

use crate::tag::Tag;

const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;

const SOL_SOCKET: i32 = 1;
const SO_MARK: i32 = 36;
const IPPROTO_IP: i32 = 0;
const IP_TOS: i32 = 1;
const IPPROTO_IPV6: i32 = 41;
const IPV6_TCLASS: i32 = 67;

/// The mark with the bits of an identity; those of others stay.
#[inline(always)]
const fn marked(mark: u32, record: &IdentityRecord) -> u32 {
    mark & !record.mark_mask | record.mark
}

/// Marks a socket as it is made.
#[inline(always)]
pub fn socket(socket: *mut bpf_sock, record: &IdentityRecord) {
    if record.mark_mask != 0 {
        // SAFETY: the context of a `sock_create` program, which may write the mark.
        unsafe { (*socket).mark = marked((*socket).mark, record) };
    }
}

/// Marks the socket of a call, which may be older than the programs or have been another's, and sets
/// its traffic class.
///
/// An IPv4-mapped connection of an IPv6 socket keeps its traffic class: the helper sets that of IPv4 on
/// IPv4 sockets only (`sol_ip_sockopt`).
#[inline(always)]
pub fn caller(
    context: &SockAddrContext,
    socket: *const bpf_sock,
    tag: &mut Tag,
    record: &IdentityRecord,
) {
    // SAFETY: the verifier knows it as a socket and it is not null.
    let (mark, family) = unsafe { ((*socket).mark, (*socket).family) };
    let wanted = marked(mark, record);
    if record.mark_mask != 0 && mark != wanted {
        set(context, SOL_SOCKET, SO_MARK, wanted);
    }
    if record.traffic_class == NO_DSCP || tag.traffic_class == record.traffic_class + 1 {
        return;
    }
    match family {
        AF_INET => set(context, IPPROTO_IP, IP_TOS, record.traffic_class),
        AF_INET6 => set(context, IPPROTO_IPV6, IPV6_TCLASS, record.traffic_class),
        _ => {}
    }
    tag.traffic_class = record.traffic_class + 1;
}

/// Marks a packet, of a socket that could not be marked: for `tc` and the egress hook of nftables,
/// which come after. Its postrouting hook has seen the packet already.
#[inline(always)]
pub fn packet(skb: *mut __sk_buff, record: &IdentityRecord) {
    // SAFETY: the context of a `cgroup_skb` program, which may write the mark.
    unsafe {
        let mark = (*skb).mark;
        if record.mark_mask != 0 && marked(mark, record) != mark {
            (*skb).mark = marked(mark, record);
        }
    }
}

#[inline(always)]
fn set(context: &SockAddrContext, level: i32, option: i32, value: u32) {
    let mut value = value;
    let pointer: *mut c_void = ptr::from_mut(&mut value).cast();
    // SAFETY: four bytes, which each of these options takes. It fails where the socket cannot have the
    // option; the verdict does not depend on it.
    unsafe {
        bpf_setsockopt(
            context.as_ptr(),
            level,
            option,
            pointer,
            size_of::<u32>() as i32,
        )
    };
}
