//! Many threads that open flows as fast as they are told, and count how often they may.

use std::{
    io::{self, Write},
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use agentguard_tests::flood::Flood;
use nix::time::{ClockId, clock_gettime};
use socket2::{Domain, Socket, Type};

/// Ports that the peers differ by. A socket remembers far fewer.
const PORTS: std::ops::Range<u16> = 10_000..60_000;

/// How often a thread looks how much is due.
const TICK: Duration = Duration::from_millis(1);

/// Opens `rate` flows a second to `target`, from `threads` threads together, and writes what became of
/// them.
pub(crate) fn run(time: Duration, threads: u32, rate: u32, target: SocketAddr) -> io::Result<()> {
    let start = Instant::now();
    let began_ns = boot_ns();
    let flood = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|number| {
                scope.spawn(move || {
                    let share = f64::from(rate) / f64::from(threads);
                    // One after the other, and not all at the same instant.
                    let phase = f64::from(number) / f64::from(threads);
                    work(start, time, (share, phase), target)
                })
            })
            .collect();
        workers
            .into_iter()
            .try_fold(Flood::default(), |sum, worker| {
                let one = worker.join().expect("a worker ends")?;
                Ok::<_, io::Error>(sum.joined_with(&one))
            })
    })?;
    let flood = Flood {
        time_ns: boot_ns() - began_ns,
        ..flood
    };
    let line = serde_json::to_string(&flood)?;
    writeln!(io::stdout(), "{line}")
}

fn work(
    start: Instant,
    time: Duration,
    (share, phase): (f64, f64),
    target: SocketAddr,
) -> io::Result<Flood> {
    let socket = Socket::new(Domain::for_address(target), Type::DGRAM, None)?;
    let mut flood = Flood::default();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "below one, times a port"
    )]
    let first = (phase * f64::from(PORTS.end - PORTS.start)) as usize;
    let mut ports = PORTS.cycle().skip(first);
    loop {
        let age = start.elapsed();
        if age >= time {
            return Ok(flood);
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a small count"
        )]
        let due = (share * age.as_secs_f64() + phase) as u64;
        while flood.asked < due {
            let port = ports.next().expect("it goes round");
            let peer = SocketAddr::new(target.ip(), port);
            let age = start.elapsed();
            // A machine that is too slow to ask for all of it does not do so for longer.
            if age >= time {
                return Ok(flood);
            }
            flood.note_ask(age);
            match socket.connect(&peer.into()) {
                Ok(()) => flood.passed += 1,
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => flood.limited += 1,
                Err(error) if error.raw_os_error() == Some(libc::EPERM) => flood.denied += 1,
                Err(error) => return Err(error),
            }
        }
        thread::sleep(TICK);
    }
}

fn boot_ns() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("the kernel has this clock");
    u64::try_from(Duration::from(time).as_nanos()).expect("less than five centuries")
}
