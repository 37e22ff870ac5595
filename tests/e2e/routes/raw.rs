//! Sockets below UDP and TCP, for an identity without and with the right to open them.

use agentguard_tests::probe::Route;

use agentguard_tests::network::Family;

use super::row::{Outcome, Row};

#[test]
fn ping() {
    Row::new(Route::Ping, "sendto").only(&[Family::V4]).check();
}

#[test]
fn ping_over_ipv6() {
    // `icmpv6_push_pending_frames` does not hand the error of the refused packet on.
    let row = Row::new(Route::Ping, "sendto").only(&[Family::V6]);
    Row {
        denied: Outcome::Vanishes,
        ..row
    }
    .check();
}

#[test]
fn icmp_without_the_right() {
    refused(Route::RawIcmp).check();
}

#[test]
fn own_header_without_the_right() {
    refused(Route::RawHeader).check();
}

#[test]
fn udp_without_the_right() {
    refused(Route::RawUdp).check();
}

#[test]
fn other_protocol_without_the_right() {
    refused(Route::RawOther).check();
}

#[test]
fn icmp() {
    granted(Route::RawIcmp).check();
}

#[test]
fn own_header() {
    granted(Route::RawHeader).check();
}

#[test]
fn udp() {
    granted(Route::RawUdp).check();
}

#[test]
fn other_protocol() {
    granted(Route::RawOther).check();
}

/// The identity has no right to raw sockets: none is made, wherever it would send.
fn refused(route: Route) -> Row {
    Row::new(route, "socket")
        .needs_root("socket", libc::EPERM)
        .refused(libc::EPERM, "raw-socket")
}

/// The identity may open raw sockets: what they send is judged as it leaves.
fn granted(route: Route) -> Row {
    Row {
        raw_sockets: true,
        ..Row::new(route, "sendto")
    }
    .needs_root("socket", libc::EPERM)
}
