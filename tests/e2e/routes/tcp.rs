//! TCP.

use agentguard_tests::{network::Family, probe::Route};

use super::row::Row;

const V4: &[Family] = &[Family::V4];
const V6: &[Family] = &[Family::V6];

#[test]
fn connect() {
    Row::new(Route::Tcp, "connect").check();
}

#[test]
fn connect_without_blocking() {
    Row::new(Route::TcpNonblocking, "connect").check();
}

#[test]
fn connect_v4_mapped() {
    Row::new(Route::TcpMapped, "connect").only(V4).check();
}

#[test]
fn fast_open_by_sendto() {
    Row::new(Route::TcpFastOpenSendto, "sendto").check();
}

#[test]
fn fast_open_by_connect() {
    Row::new(Route::TcpFastOpenConnect, "connect").check();
}

#[test]
fn connect_again_after_dissolving() {
    Row::new(Route::TcpReconnect, "connect").check();
}

#[test]
fn bound_to_device() {
    Row::new(Route::TcpBoundToDevice, "connect").check();
}

#[test]
fn marked() {
    Row::new(Route::TcpMarked, "connect")
        .needs_root("setsockopt", libc::EPERM)
        .check();
}

#[test]
fn multipath() {
    Row::new(Route::Mptcp, "socket")
        .refused(libc::EPROTONOSUPPORT, "socket-type")
        .check();
}

#[test]
fn connect_by_ring() {
    Row::new(Route::UringConnect, "connect").check();
}

#[test]
fn everything_by_polled_ring() {
    Row::new(Route::UringPolled, "connect").check();
}

#[test]
fn routing_header() {
    Row {
        carries_marker: false,
        ..Row::new(Route::TcpRoutingHeader, "connect")
    }
    .only(V6)
    .vanishes_everywhere("routing-header")
    .check();
}

#[test]
fn source_route() {
    Row {
        carries_marker: false,
        ..Row::new(Route::TcpSourceRoute, "connect")
    }
    .only(V4)
    .needs_root("setsockopt", libc::EPERM)
    .vanishes_everywhere("ip-options")
    .check();
}
