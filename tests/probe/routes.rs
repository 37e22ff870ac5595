//! The routes, by family of calls.

mod beyond;
mod headers;
mod listen;
pub(crate) mod plain;
mod raw;
mod tcp;
mod udp;
mod uring;

use agentguard_tests::probe::{Route, Spec};

use crate::failure::Failure;

/// Takes the route that `spec` names.
pub(crate) fn take(spec: &Spec) -> Result<(), Failure> {
    match spec.route {
        Route::Tcp | Route::UdpConnect | Route::UdpSendto => plain::take(spec),
        Route::TcpNonblocking => tcp::nonblocking(spec),
        Route::TcpMapped => tcp::mapped(spec),
        Route::TcpFastOpenSendto => tcp::fast_open_sendto(spec),
        Route::TcpFastOpenConnect => tcp::fast_open_connect(spec),
        Route::TcpBoundToDevice => tcp::bound_to_device(spec),
        Route::TcpMarked => tcp::marked(spec),
        Route::TcpReconnect => tcp::reconnect(spec),
        Route::Mptcp => tcp::multipath(spec),
        Route::TcpRoutingHeader => headers::tcp_routing_header(spec),
        Route::TcpSourceRoute => headers::tcp_source_route(spec),
        Route::UdpRoutingHeader => headers::udp_routing_header(spec),
        Route::UdpSourceRoute => headers::udp_source_route(spec),
        Route::UringConnect => uring::connect(spec),
        Route::UringSendmsg => uring::sendmsg(spec),
        Route::UringPolled => uring::polled(spec),
        Route::UdpSendtoConnected => udp::sendto_connected(spec),
        Route::UdpReconnect => udp::reconnect(spec),
        Route::UdpDissolvedSendto => udp::dissolved_sendto(spec),
        Route::UdpSendmmsg => udp::sendmmsg(spec),
        Route::UdpCorked => udp::corked(spec),
        Route::UdpMappedSendto => udp::mapped_sendto(spec),
        Route::UdpMappedConnect => udp::mapped_connect(spec),
        Route::UdpSegmented => udp::segmented(spec),
        Route::UdpBoundToDevice => udp::bound_to_device(spec),
        Route::UdpMarked => udp::marked(spec),
        Route::UdpBroadcast => udp::broadcast(spec),
        Route::UdpMulticast => udp::multicast(spec),
        Route::UdpLite => udp::lite(spec),
        Route::Ping => raw::ping(spec),
        Route::RawIcmp => raw::icmp(spec),
        Route::RawHeader => raw::header(spec),
        Route::RawUdp => raw::udp(spec),
        Route::RawOther => raw::other(spec),
        Route::Listen => listen::bound(spec),
        Route::ListenUnbound => listen::unbound(spec),
        Route::Receive => listen::receive(spec),
        Route::Packet => beyond::packet(spec),
        Route::Tun => beyond::tun(spec),
        Route::Vsock => beyond::vsock(),
        Route::UnixProxy => beyond::unix_proxy(spec),
    }
}
