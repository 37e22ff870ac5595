//! The other end of what pours: it takes or gives all it can, and measures what it takes.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::network::Netns;

/// The first byte of a flow that sends to the meter.
pub const SEND: u8 = b's';
/// The first byte of a flow that takes from it.
pub const TAKE: u8 = b't';

/// What is let pass before the measurement begins: buckets begin full.
pub const WARM_UP: Duration = Duration::from_secs(3);

/// IP bytes of a full TCP segment of the wire, and its payload: with timestamps, without options else.
const SEGMENT: u64 = 1_500;
const SEGMENT_PAYLOAD: u64 = 1_448;
/// IP and UDP headers.
const DATAGRAM_HEADERS: u64 = 28;

/// What arrived after the warm-up.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub struct Poured {
    /// Payload.
    pub bytes: u64,
    /// In which time.
    pub time_ns: u64,
}

impl Poured {
    /// Bits a second on the wire, of full TCP segments.
    #[must_use]
    pub fn tcp_bits_per_second(&self) -> f64 {
        let bytes = self.bytes * SEGMENT / SEGMENT_PAYLOAD;
        bytes as f64 * 8e9 / self.time_ns as f64
    }
}

/// Listens for TCP and UDP at one port on all addresses of a namespace, until it is dropped.
#[derive(Debug)]
pub struct Meter {
    /// The port.
    pub port: u16,
    taken: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
}

impl Meter {
    /// Starts it.
    ///
    /// # Panics
    ///
    /// If the port cannot be had.
    #[must_use]
    pub fn start(netns: &Netns) -> Self {
        let (listener, datagrams) = netns.enter(|| {
            let listener = TcpListener::bind("0.0.0.0:0").expect("listen");
            let port = listener.local_addr().expect("it is bound").port();
            let datagrams = UdpSocket::bind(SocketAddr::from(([0, 0, 0, 0], port)));
            (listener, datagrams.expect("bind the same port"))
        });
        let port = listener.local_addr().expect("it is bound").port();
        socket2::SockRef::from(&datagrams)
            .set_recv_buffer_size(8 << 20)
            .expect("ask for room");
        datagrams
            .set_read_timeout(Some(Duration::from_millis(100)))
            .expect("set a timeout");
        let taken = Arc::new(AtomicU64::new(0));
        let is_over = Arc::new(AtomicBool::new(false));
        thread::spawn({
            let (taken, is_over) = (taken.clone(), is_over.clone());
            move || {
                let mut buffer = vec![0; 64 << 10];
                while !is_over.load(Ordering::Relaxed) {
                    if let Ok(count) = datagrams.recv(&mut buffer) {
                        taken.fetch_add(count as u64 + DATAGRAM_HEADERS, Ordering::Relaxed);
                    }
                }
            }
        });
        thread::spawn({
            let (taken, is_over) = (taken.clone(), is_over.clone());
            move || {
                while let Ok((stream, _)) = listener.accept() {
                    if is_over.load(Ordering::Relaxed) {
                        return;
                    }
                    let taken = taken.clone();
                    thread::spawn(move || attend(stream, &taken));
                }
            }
        });
        Self {
            port,
            taken,
            is_over,
        }
    }

    /// Payload of TCP, and IP bytes of UDP, that it took so far.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

/// Serves one flow to its end, which is the client's.
fn attend(mut stream: TcpStream, taken: &AtomicU64) {
    let mut buffer = vec![0; 256 << 10];
    let mut word = [0];
    if stream.read_exact(&mut word).is_err() {
        return;
    }
    loop {
        let moved = match word {
            [SEND] => stream.read(&mut buffer).inspect(|&count| {
                taken.fetch_add(count as u64, Ordering::Relaxed);
            }),
            _ => stream.write(&buffer),
        };
        if !matches!(moved, Ok(1..)) {
            return;
        }
    }
}
