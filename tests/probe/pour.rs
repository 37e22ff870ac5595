//! Sends or takes all it can over some flows, and says how much arrived.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use agentguard_tests::meter::{Poured, SEND, TAKE, WARM_UP};

/// One call hands over so much.
const PIECE: usize = 64 << 10;

/// Payload of a datagram, and how many of them one call hands over.
const DATAGRAM: usize = 1_400;
const DATAGRAMS: usize = 40;

/// Over `flows` TCP connections to `target`, out of here or in to here.
pub(crate) fn tcp(is_out: bool, flows: u32, time: Duration, target: SocketAddr) -> io::Result<()> {
    let start = Instant::now();
    let taken = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..flows {
            scope.spawn(|| {
                // A limit of open flows or a slow handshake is no business of this measurement.
                let Ok(mut stream) = TcpStream::connect(target) else {
                    return;
                };
                drop(stream.set_read_timeout(Some(time)));
                drop(stream.set_write_timeout(Some(time)));
                let word = if is_out { SEND } else { TAKE };
                let mut buffer = vec![0; PIECE];
                let mut moved = stream.write_all(&[word]).is_ok();
                while moved && start.elapsed() < time {
                    if is_out {
                        moved = stream.write(&buffer).is_ok();
                    } else {
                        let count = stream.read(&mut buffer).unwrap_or(0);
                        moved = count > 0;
                        if start.elapsed() >= WARM_UP {
                            taken.fetch_add(count as u64, Ordering::Relaxed);
                        }
                    }
                }
                // What waits to be sent is not sent any more.
                drop(socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)));
            });
        }
    });
    let poured = Poured {
        bytes: taken.into_inner(),
        time_ns: u64::try_from((start.elapsed() - WARM_UP).as_nanos()).unwrap_or(u64::MAX),
    };
    writeln!(io::stdout(), "{}", serde_json::to_string(&poured)?)
}

/// By datagrams that the kernel cuts itself.
pub(crate) fn udp(time: Duration, target: SocketAddr) -> io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(target)?;
    let size = i32::try_from(DATAGRAM).map_err(io::Error::other)?;
    // SAFETY: the value lives through the call, and is as long as the call says.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            (&raw const size).cast(),
            4,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let start = Instant::now();
    let buffer = vec![0; DATAGRAM * DATAGRAMS];
    while start.elapsed() < time {
        match socket.send(&buffer) {
            Ok(_) => {}
            // Nobody has to listen.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(error),
        }
    }
    writeln!(
        io::stdout(),
        "{}",
        serde_json::to_string(&Poured::default())?
    )
}

/// Datagrams so small that a bucket that is nearly empty still has room for one.
pub(crate) fn rain(time: Duration, target: SocketAddr) -> io::Result<()> {
    const DROP: [u8; 12] = [0; 12];
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(target)?;
    let start = Instant::now();
    while start.elapsed() < time {
        for _ in 0..100 {
            socket.send(&DROP)?;
        }
    }
    writeln!(
        io::stdout(),
        "{}",
        serde_json::to_string(&Poured::default())?
    )
}

/// Exchanges a few bytes, now and then, and says how many seconds each exchange took.
pub(crate) fn chat(count: u32, target: SocketAddr) -> io::Result<()> {
    const PAUSE: Duration = Duration::from_millis(100);
    let mut stream = TcpStream::connect(target)?;
    stream.set_nodelay(true)?;
    let mut seconds = Vec::new();
    for _ in 0..count {
        let start = Instant::now();
        stream.write_all(b"so few bytes")?;
        stream.read_exact(&mut [0; 12])?;
        seconds.push(start.elapsed().as_secs_f64());
        thread::sleep(PAUSE);
    }
    writeln!(io::stdout(), "{}", serde_json::to_string(&seconds)?)
}

/// Payload of a datagram of 1,024 bytes with its headers.
const SPENT: usize = 1_024 - 28;

/// Sends such datagrams over one flow.
pub(crate) fn spend(count: u32, target: SocketAddr) -> io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(target)?;
    send(&socket, count)
}

/// The same, as many as each line says.
pub(crate) fn spend_on(target: SocketAddr) -> io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(target)?;
    for line in io::stdin().lines() {
        let count = line?.trim().parse().map_err(io::Error::other)?;
        send(&socket, count)?;
        writeln!(io::stdout(), "sent")?;
    }
    Ok(())
}

fn send(socket: &UdpSocket, count: u32) -> io::Result<()> {
    for _ in 0..count {
        socket.send(&[0; SPENT])?;
    }
    Ok(())
}
