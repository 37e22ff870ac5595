//! Sockets and processes with a history: made before, made elsewhere, made by somebody else.

use agentguard_tests::probe::{Origin, Route};

use super::row::Row;

#[test]
fn tcp_socket_made_before_entering() {
    Row::new(Route::Tcp, "connect")
        .origin(Origin::MovedUnconnected)
        .check();
}

#[test]
fn udp_socket_made_before_entering() {
    Row::new(Route::UdpSendto, "sendto")
        .origin(Origin::MovedUnconnected)
        .check();
}

#[test]
fn tcp_socket_inherited() {
    Row::new(Route::Tcp, "connect")
        .origin(Origin::Inherited)
        .check();
}

#[test]
fn udp_socket_inherited() {
    Row::new(Route::UdpConnect, "connect")
        .origin(Origin::Inherited)
        .check();
}

#[test]
fn tcp_socket_passed_in() {
    Row::new(Route::Tcp, "connect")
        .origin(Origin::PassedUnconnected)
        .check();
}

#[test]
fn udp_socket_passed_in() {
    Row::new(Route::UdpSendto, "sendto")
        .origin(Origin::PassedUnconnected)
        .check();
}

#[test]
fn born_in_the_cgroup() {
    Row::new(Route::Tcp, "connect").origin(Origin::Born).check();
}

#[test]
fn child_cgroup_made_just_before() {
    Row::new(Route::Tcp, "connect")
        .origin(Origin::NewChild)
        .check();
}

#[test]
fn eight_cgroups_down() {
    Row {
        depth: 8,
        ..Row::new(Route::Tcp, "connect")
    }
    .check();
}
