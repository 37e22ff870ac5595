//! Open flows: as many as are counted are there, and no more than may be.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, ChildStdin, ChildStdout, Command},
    thread,
    time::{Duration, Instant},
};

use agentguard_tests::{
    agent::probe_path,
    daemon::Daemon,
    judge::{Call, Question},
    network::{CLIENT_V4, Zone},
    world::PORT,
};

use super::policy;
use crate::scene::Scene;

const WORKERS: u64 = 8;
const ROUNDS: u64 = 25;
/// What each worker does in one round: 100,000 in all.
const ACTS: u64 = 500;
/// Workers together have at most 128 sockets.
const LIMIT: u64 = 60;
/// How long the last packets of what was closed may be under way.
const SETTLE: Duration = Duration::from_secs(10);

struct Worker {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Worker {
    fn start(scene: &Scene, seed: u64, live: SocketAddr) -> Self {
        let mut command = Command::new(probe_path());
        command.args(["turmoil", &seed.to_string(), &live.to_string()]);
        let mut child = scene.sandbox.agent(&scene.cgroup).spawn(command);
        Self {
            stdin: child.stdin.take().expect("it is piped"),
            stdout: BufReader::new(child.stdout.take().expect("it is piped")),
            child,
        }
    }

    fn begin(&mut self) {
        writeln!(self.stdin, "{ACTS}").expect("it waits for a line");
    }

    fn end(&mut self) {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("it answers");
        assert!(!line.is_empty(), "a worker died");
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Both fail only for one that has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Listens on the world's side, and closes what the other side closes. The world of the sandbox keeps
/// all until the end, and a socket that is closed by its owner alone may stay for a minute
/// (`net.ipv4.tcp_fin_timeout`).
fn listen(scene: &Scene) -> SocketAddr {
    let listener = scene
        .sandbox
        .network
        .server
        .enter(|| TcpListener::bind("0.0.0.0:0"));
    let listener = listener.expect("listen");
    let port = listener.local_addr().expect("it is bound").port();
    // It ends with the process: a socket that nobody connects to costs nothing.
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            thread::spawn(move || while matches!(stream.read(&mut [0; 512]), Ok(1..)) {});
        }
    });
    SocketAddr::new(scene.target(Zone::Allowed), port)
}

/// The states of all sockets on the agents' side, as the kernel lists them.
fn list(scene: &Scene) -> Vec<String> {
    ["tcp", "udp"]
        .into_iter()
        .flat_map(|name| {
            let path = format!("/proc/thread-self/net/{name}");
            let client = &scene.sandbox.network.client;
            let text = client.enter(|| std::fs::read_to_string(&path));
            let text = text.expect("the kernel lists sockets");
            let states = text.lines().skip(1).filter_map(|line| {
                let state = line.split_whitespace().nth(3)?;
                Some(format!("{name} {state}"))
            });
            states.collect::<Vec<_>>()
        })
        .collect()
}

/// TCP sockets that are neither closed nor only remembered, and UDP sockets with a peer.
fn real(scene: &Scene) -> u64 {
    // `include/net/tcp_states.h`: TIME_WAIT, CLOSE, LISTEN, NEW_SYN_RECV; of UDP, CLOSE has no peer.
    let others = ["tcp 06", "tcp 07", "tcp 0A", "tcp 0C", "udp 07"];
    let states = list(scene);
    let there = states
        .iter()
        .filter(|state| !others.contains(&state.as_str()));
    there.count() as u64
}

/// Waits until the kernel's list and the count agree.
fn assert_settled(scene: &Scene, daemon: &Daemon, when: &str) -> u64 {
    let deadline = Instant::now() + SETTLE;
    loop {
        let (there, counted) = (real(scene), daemon.open_flows("bot"));
        if there == counted && there == real(scene) {
            assert!(counted <= LIMIT, "{when}: {counted} are open");
            return counted;
        }
        assert!(
            Instant::now() < deadline,
            "{when}: {counted} are counted, {there} are there: {:?}",
            list(scene)
        );
        thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until all flows have ended, for the kernel's list and for the count.
fn assert_none_left(scene: &Scene, daemon: &Daemon) {
    let deadline = Instant::now() + SETTLE;
    while assert_settled(scene, daemon, "at the end") > 0 {
        assert!(
            Instant::now() < deadline,
            "some are left: {:?}",
            list(scene)
        );
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_count_is_the_number_of_flows_whatever_happens_to_them() {
    let scene = Scene::new();
    scene.sandbox.sniffer.stop();
    let mut daemon = Daemon::prepare(
        &scene.sandbox,
        &policy::identity("bot", &format!("concurrent = {LIMIT}")),
    );
    daemon.use_release();
    daemon.restart();
    let live = listen(&scene);
    let start = |seed: u64| Worker::start(&scene, seed * 7_919 + 1, live);
    let mut workers: Vec<Worker> = (1..=WORKERS).map(start).collect();
    let mut most = 0;
    for round in 1..=ROUNDS {
        for worker in &mut workers {
            worker.begin();
        }
        if round % 5 == 0 {
            // Some die in the middle of it, with all that they had.
            workers.truncate(workers.len() / 2);
        }
        for worker in &mut workers {
            worker.end();
        }
        most = most.max(assert_settled(&scene, &daemon, &format!("round {round}")));
        let missing = WORKERS - workers.len() as u64;
        workers.extend((0..missing).map(|number| start(round * 100 + number)));
        if round == ROUNDS / 2 {
            // The count is the kernel's, not the daemon's.
            daemon.kill();
            daemon.restart();
        }
    }
    assert!(most > LIMIT / 2, "no more than {most} were ever open");
    let limit = daemon.limit("bot", "concurrent");
    assert!(limit["refused"].as_u64() > Some(1_000), "{limit}");
    workers.clear();
    assert_none_left(&scene, &daemon);
}

/// Who begins anew counts what is there.
#[test]
fn flows_from_before_the_daemon_are_counted() {
    let scene = Scene::new();
    let live = listen(&scene);
    let mut judge = scene.judge();
    let before = [
        Question {
            call: Call::TcpKeep,
            serial: 1,
            remote: live,
            local_port: 0,
        },
        Question {
            call: Call::TcpKeep,
            serial: 2,
            remote: live,
            local_port: 0,
        },
        Question {
            call: Call::UdpKeep,
            serial: 3,
            remote: live,
            local_port: 4_000,
        },
    ];
    assert_eq!(judge.put(&before), [0; 3]);
    let daemon = Daemon::start(&scene.sandbox, &policy::identity("bot", "concurrent = 4"));
    assert_eq!(daemon.open_flows("bot"), 3);
    let more = |serial| Question {
        call: Call::TcpKeep,
        serial,
        remote: live,
        local_port: 0,
    };
    assert_eq!(judge.put(&[more(4), more(5)]), [0, libc::EAGAIN]);
    assert_eq!(daemon.open_flows("bot"), 4);
    drop(judge);
    assert_none_left(&scene, &daemon);
}

/// A socket that goes to another peer has no more flows than before.
#[test]
fn a_socket_that_changes_its_peer_needs_no_second_place() {
    let scene = Scene::new();
    let daemon = Daemon::start(&scene.sandbox, &policy::identity("bot", "concurrent = 1"));
    let peers = [1, 2, 3].map(|_| SocketAddr::new(scene.target(Zone::Allowed), PORT));
    let mut command = Command::new(probe_path());
    command
        .args(["repeat", "udp-send"])
        .args(peers.map(|peer| peer.to_string()));
    let child = scene.sandbox.agent(&scene.cgroup).spawn(command);
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(daemon.limit("bot", "concurrent")["refused"], 0);
    assert_eq!(daemon.open_flows("bot"), 0);
}

/// Flows that others open count as well, and the handshake of one too many is not answered.
#[test]
fn accepted_flows_count_and_wait_for_room() {
    let scene = Scene::new();
    let daemon = Daemon::start(&scene.sandbox, &policy::identity("bot", "concurrent = 2"));
    let mut command = Command::new(probe_path());
    command.args(["serve", "7000"]);
    let mut server = scene.sandbox.agent(&scene.cgroup).spawn(command);
    let connect = || -> Option<TcpStream> {
        scene.sandbox.network.server.enter(|| {
            let to = SocketAddr::new(CLIENT_V4.into(), 7_000);
            TcpStream::connect_timeout(&to, Duration::from_secs(1)).ok()
        })
    };
    let deadline = Instant::now() + SETTLE;
    let first = loop {
        if let Some(stream) = connect() {
            break stream;
        }
        assert!(Instant::now() < deadline, "nobody listens");
    };
    let second = connect().expect("there is room for two");
    let wait_for = |count: u64| {
        let deadline = Instant::now() + SETTLE;
        while daemon.open_flows("bot") != count {
            assert!(
                Instant::now() < deadline,
                "{} are open",
                daemon.open_flows("bot")
            );
            thread::sleep(Duration::from_millis(20));
        }
    };
    wait_for(2);
    assert!(connect().is_none(), "a third one");
    assert!(daemon.limit("bot", "concurrent")["refused"].as_u64() > Some(0));
    drop(first);
    wait_for(1);
    let third = connect().expect("there is room again");
    wait_for(2);
    drop((second, third));
    wait_for(0);
    server.kill().expect("end the server");
    server.wait().expect("it ended");
}
