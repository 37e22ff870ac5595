//! The control socket: who may ask what, and what those do who do not mean to ask.

use std::{
    fs,
    io::{self, Read, Write},
    iter,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use agentguard_tests::{daemon::Daemon, probe::NOBODY, user::User, world::PORT};

use crate::scene::{ENFORCED, Scene, policy};

/// The group of readers, in the daemon's mounts only.
pub(crate) const READERS: u32 = 64_123;
/// Somebody in no group.
const STRANGER: User = User {
    uid: NOBODY,
    group: None,
};
/// Somebody in the group of readers.
const READER: User = User {
    uid: NOBODY,
    group: Some(READERS),
};
/// Clients that a daemon serves at a time.
const SEATS: usize = 64;
/// More than a daemon lets a client wait that says nothing or reads nothing.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// What a daemon has, as built for tests, however it was abused.
pub(crate) const MAX_RESIDENT_KIB: u64 = 96 << 10;

/// A daemon whose socket anybody can find.
fn start(scene: &Scene) -> Daemon {
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(scene.sandbox.files(), open).expect("open the directory");
    let mut daemon = Daemon::prepare(&scene.sandbox, &policy(""));
    daemon.set_group("agentguard", READERS, "nobody");
    daemon.restart();
    daemon
}

#[test]
fn readers_may_read_and_only_root_may_change() {
    let scene = Scene::new();
    let daemon = start(&scene);
    let code = |user, arguments: &[&str]| {
        let output = daemon.cli_as(user, arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), said)
    };
    for arguments in [&["status"][..], &["ps"], &["events"]] {
        assert_eq!(code(READER, arguments), (Some(0), String::new()));
        let (code, said) = code(STRANGER, arguments);
        assert_eq!(code, Some(77), "{arguments:?} by a stranger: {said}");
    }
    for arguments in [&["reload"][..], &["reload", "--wait"]] {
        let (code, said) = code(READER, arguments);
        assert_eq!(code, Some(77), "{arguments:?} by a reader: {said}");
        assert!(said.contains("needs root"), "{said}");
    }
    assert_eq!(daemon.status()["generation"], 1, "nothing was loaded");

    // Whoever was put out of the group still has it until the next login.
    daemon.set_group("agentguard", READERS, "");
    let (code, said) = code(READER, &["status"]);
    assert_eq!(code, Some(77), "status by a former reader: {said}");
    assert!(said.contains("the group `agentguard`"), "{said}");
}

#[test]
fn readers_that_stay_keep_out_readers_and_not_root() {
    let scene = Scene::new();
    let daemon = start(&scene);
    let socket = daemon.socket();
    let stay = || {
        READER.become_it().expect("become a reader");
        iter::repeat_with(|| hesitate(&socket))
            .take(SEATS)
            .collect::<Vec<_>>()
    };
    let staying = thread::scope(|scope| scope.spawn(stay).join().expect("all connect"));
    let refused = daemon.cli_as(READER, &["status"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(69), "{said}");
    assert!(said.contains("too many clients"), "{said}");
    daemon.reload(&policy(""));
    assert_eq!(daemon.status()["generation"], 2);
    drop(staying);
    wait_for("a seat", || {
        daemon.cli_as(READER, &["status"]).status.success()
    });
}

#[test]
fn abuse_leaves_the_daemon_answering_enforcing_and_small() {
    const QUICK: usize = 10_000;
    let scene = Scene::new();
    let mut daemon = start(&scene);
    let socket = daemon.socket();
    let mut judge = scene.judge();
    make_events(&scene, &mut judge);
    let descriptors = count_descriptors(&mut daemon);

    for attempt in 0..QUICK {
        let mut client = connect(&socket);
        if attempt % 2 == 0 {
            // It may have been sent away already.
            drop(client.write_all(b"{\"request\":\"status\"}\n"));
        }
    }
    let answers = [
        answer_to(&socket, &[b'x'; 1 << 20]),
        answer_to(&socket, &[b"[".repeat(60_000), b"\n".to_vec()].concat()),
        answer_to(&socket, b"\xff\x00\x1b[2J\xfe\n"),
        answer_to(&socket, b"GET / HTTP/1.1\r\nHost: agentguard\r\n\r\n"),
        answer_to(&socket, b"{\"request\":\"reload\",\"wait\":1e999}\n"),
        answer_to(&socket, &4_000_000_000_u32.to_be_bytes()),
    ];
    for (index, answer) in answers.iter().enumerate() {
        assert!(answer.contains("bad-request"), "answer {index}: {answer:?}");
    }
    for _ in 0..200 {
        // Where too many wait, it may have been sent away before it asked.
        drop(connect(&socket).write_all(b"{\"request\":\"reload\"}\n"));
    }

    // They wait in line: whoever comes after them is served after them.
    wait_for("everybody served", || {
        daemon.cli(&["status"]).status.success() && count_descriptors(&mut daemon) <= descriptors
    });

    // All of these stay.
    let half: Vec<UnixStream> = iter::repeat_with(|| hesitate(&socket))
        .take(SEATS / 2)
        .collect();
    for _ in 0..20 {
        make_events(&scene, &mut judge);
        assert!(daemon.cli(&["status"]).status.success());
    }
    assert_eq!(scene.refusals(&mut judge), ENFORCED);
    for mut client in half {
        assert!(rest_of(&mut client).contains("too-slow"));
    }
    wait_for("all of them sent away", || {
        count_descriptors(&mut daemon) <= descriptors
    });
    assert_eq!(scene.refusals(&mut judge), ENFORCED);
    let generation = daemon.status()["generation"].clone();
    daemon.reload(&policy(""));
    assert_eq!(
        daemon.status()["generation"].as_u64(),
        generation.as_u64().map(|before| before + 1)
    );
    let resident = daemon.resident_kib();
    assert!(resident < MAX_RESIDENT_KIB, "the daemon has {resident} KiB");
}

/// Many records, each of its own.
fn make_events(scene: &Scene, judge: &mut agentguard_tests::judge::Judge) {
    let targets = (0..1_100_u16).map(|host| {
        let [high, low] = host.to_be_bytes();
        SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 2, 128 + high, low)), PORT)
    });
    assert!(judge.ask(targets).into_iter().all(|refused| refused));
    assert_eq!(scene.refusals(judge), ENFORCED);
}

/// A client; a refusal of the kernel because too many wait is no answer yet.
fn connect(socket: &Path) -> UnixStream {
    let client = UnixStream::connect(socket).expect("the daemon listens");
    client
        .set_read_timeout(Some(PATIENCE))
        .expect("set a timeout");
    client
}

/// A client that has sent half a request.
fn hesitate(socket: &Path) -> UnixStream {
    let mut client = connect(socket);
    client.write_all(b"{\"request\":\"sta").expect("send half");
    client
}

/// What the daemon says to these bytes and no more.
fn answer_to(socket: &Path, bytes: &[u8]) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut client = connect(socket);
        // It may answer, and close, before it has read all.
        drop(client.write_all(bytes));
        drop(client.shutdown(std::net::Shutdown::Write));
        let answer = rest_of(&mut client);
        if !answer.contains("too many clients") {
            return answer;
        }
        assert!(Instant::now() < deadline, "the seats stay taken");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Everything up to the end.
fn rest_of(client: &mut UnixStream) -> String {
    let mut bytes = Vec::new();
    match client.read_to_end(&mut bytes) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            panic!("the daemon keeps a client that says nothing or reads nothing")
        }
        // The end, or a reset because the daemon has not read all.
        Ok(_) | Err(_) => String::from_utf8_lossy(&bytes).into_owned(),
    }
}

/// Descriptors of the daemon but for its files: the history opens one each day, and sinks open theirs when
/// something comes.
pub(crate) fn count_descriptors(daemon: &mut Daemon) -> usize {
    let settings = daemon.settings_file();
    let files = settings.parent().expect("it is in a directory");
    let directory = format!("/proc/{}/fd", daemon.pid());
    fs::read_dir(directory)
        .expect("the daemon runs")
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .filter(|target| !target.starts_with(files))
        .count()
}

pub(crate) fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not in time");
        thread::sleep(Duration::from_millis(20));
    }
}
