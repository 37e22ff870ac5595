//! The three plain routes in their parts, so that an origin can come between them.

use std::time::Duration;

use agentguard_tests::probe::{Route, Spec};
use socket2::{Domain, Socket, Type};

use crate::{
    failure::{Failure, Step},
    pause,
};

/// How long a TCP connection may take to come about.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_millis(700);

/// All parts in one process.
pub(crate) fn take(spec: &Spec) -> Result<(), Failure> {
    let socket = open(spec)?;
    connect(spec, &socket)?;
    if spec.pause {
        pause(0);
    }
    send(spec, &socket)?;
    if spec.pause {
        // The socket stays open until the harness has seen what it wants.
        pause(0);
    }
    Ok(())
}

/// Makes the socket.
pub(crate) fn open(spec: &Spec) -> Result<Socket, Failure> {
    let kind = if spec.route == Route::Tcp {
        Type::STREAM
    } else {
        Type::DGRAM
    };
    let socket = Socket::new(Domain::for_address(spec.to), kind, None).step("socket")?;
    // For a blocking `connect` this is the time it may take.
    socket
        .set_write_timeout(Some(CONNECT_TIMEOUT))
        .step("set timeout")?;
    Ok(socket)
}

/// Connects it, where the route does.
pub(crate) fn connect(spec: &Spec, socket: &Socket) -> Result<(), Failure> {
    if spec.route == Route::UdpSendto {
        return Ok(());
    }
    socket.connect(&spec.to.into()).step("connect")
}

/// Sends the marker.
pub(crate) fn send(spec: &Spec, socket: &Socket) -> Result<(), Failure> {
    let marker = spec.marker.as_bytes();
    if spec.route == Route::UdpSendto {
        socket.send_to(marker, &spec.to.into()).step("sendto")?;
    } else {
        socket.send(marker).step("send")?;
    }
    Ok(())
}
