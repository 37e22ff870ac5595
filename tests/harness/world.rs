//! The services that agents connect to, on the world's side of the wire.

use std::{
    io::{Read, Write},
    net::{Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
};

use socket2::{Domain, Socket, Type};

use crate::network::Netns;

/// Where TCP is echoed and UDP is taken, on every address of the world.
pub const PORT: u16 = 8000;

/// Echoes TCP and swallows UDP until dropped.
#[derive(Debug)]
pub struct World {
    listener: Arc<Socket>,
    open: Arc<Mutex<Vec<TcpStream>>>,
    acceptor: Option<JoinHandle<()>>,
    // Never read: it is there so that datagrams are not answered with "port unreachable".
    _udp: UdpSocket,
}

impl World {
    /// Starts the services inside `netns`.
    ///
    /// # Panics
    ///
    /// If the ports cannot be bound.
    #[must_use]
    pub fn start(netns: &Netns) -> Self {
        let (listener, udp) = netns.enter(|| (listen(PORT), UdpSocket::bind(any(PORT))));
        let listener = Arc::new(listener);
        let open = Arc::new(Mutex::new(Vec::new()));
        let acceptor = thread::spawn({
            let (listener, open) = (listener.clone(), open.clone());
            move || {
                while let Ok((socket, _)) = listener.accept() {
                    let stream = TcpStream::from(socket);
                    if let Ok(clone) = stream.try_clone() {
                        open.lock().expect("no holder panics").push(clone);
                    }
                    thread::spawn(|| echo(stream));
                }
            }
        });
        Self {
            listener,
            open,
            acceptor: Some(acceptor),
            _udp: udp.expect("bind the UDP port"),
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Wakes the acceptor; it fails only if the socket is closed already.
        drop(self.listener.shutdown(Shutdown::Both));
        if let Some(acceptor) = self.acceptor.take() {
            drop(acceptor.join());
        }
        for stream in self.open.lock().expect("no holder panics").drain(..) {
            drop(stream.shutdown(Shutdown::Both));
        }
    }
}

/// A listener on all addresses of both families that takes fast open.
fn listen(port: u16) -> Socket {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, None).expect("make a listener");
    socket.set_only_v6(false).expect("take IPv4 too");
    socket.set_reuse_address(true).expect("reuse the port");
    socket.bind(&any(port).into()).expect("bind the TCP port");
    crate::socket::set_option(&socket, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, 128)
        .expect("take fast open");
    socket.listen(1024).expect("listen");
    socket
}

fn any(port: u16) -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, port).into()
}

fn echo(mut stream: TcpStream) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}
