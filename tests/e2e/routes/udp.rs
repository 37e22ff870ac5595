//! UDP and UDP-Lite.

use agentguard_tests::{network::Family, probe::Route};

use super::row::{Kind, Row};

const V4: &[Family] = &[Family::V4];
const V6: &[Family] = &[Family::V6];

#[test]
fn connect() {
    Row::new(Route::UdpConnect, "connect").check();
}

#[test]
fn connect_v4_mapped() {
    Row::new(Route::UdpMappedConnect, "connect")
        .only(V4)
        .check();
}

#[test]
fn connect_again() {
    Row::new(Route::UdpReconnect, "connect").check();
}

#[test]
fn sendto() {
    Row::new(Route::UdpSendto, "sendto").check();
}

#[test]
fn sendto_v4_mapped() {
    Row::new(Route::UdpMappedSendto, "sendto").only(V4).check();
}

#[test]
fn sendto_on_a_connected_socket() {
    Row::new(Route::UdpSendtoConnected, "sendto").check();
}

#[test]
fn sendto_after_dissolving() {
    Row::new(Route::UdpDissolvedSendto, "sendto").check();
}

#[test]
fn sendmmsg() {
    Row::new(Route::UdpSendmmsg, "sendmmsg").check();
}

#[test]
fn sendmsg_by_ring() {
    Row::new(Route::UringSendmsg, "sendmsg").check();
}

#[test]
fn corked() {
    Row::new(Route::UdpCorked, "sendto").check();
}

#[test]
fn segmented() {
    Row::new(Route::UdpSegmented, "sendto").check();
}

#[test]
fn bound_to_device() {
    Row::new(Route::UdpBoundToDevice, "sendto").check();
}

#[test]
fn marked() {
    Row::new(Route::UdpMarked, "sendto")
        .needs_root("setsockopt", libc::EPERM)
        .check();
}

#[test]
fn broadcast() {
    Row {
        kind: Kind::Broadcast,
        ..Row::new(Route::UdpBroadcast, "sendto")
    }
    .only(V4)
    .check();
}

#[test]
fn multicast() {
    Row {
        kind: Kind::Group,
        ..Row::new(Route::UdpMulticast, "sendto")
    }
    .check();
}

#[test]
fn routing_header() {
    Row::new(Route::UdpRoutingHeader, "sendto")
        .only(V6)
        .refused(libc::EPERM, "routing-header")
        .check();
}

#[test]
fn source_route() {
    Row::new(Route::UdpSourceRoute, "sendto")
        .only(V4)
        .needs_root("setsockopt", libc::EPERM)
        .refused(libc::EPERM, "ip-options")
        .check();
}

#[test]
fn lite() {
    Row::new(Route::UdpLite, "socket")
        .refused(libc::EPERM, "socket-type")
        .check();
}
