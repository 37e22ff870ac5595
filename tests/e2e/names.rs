//! Names that processes and cgroups choose to deceive those who read them.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::{ffi::OsStrExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use agentguard_tests::{agent::probe_path, audit, daemon::Daemon, judge::Judge, sandbox::Sandbox};
use serde_json::Value;

use crate::scene::{ENFORCED, Scene, policy};

/// Hostile names, and what the documentation of records promises that becomes of them.
const NAMES: [(&[u8], &str); 9] = [
    (b"\x1b]0;me\x07\x1b[2J", r"\x1b]0;me\x07\x1b[2J"),
    (b"tab\tcr\r\x7f", r"tab\x09cr\x0d\x7f"),
    (b"\xff\xfe\xc3(", r"\xff\xfe\xc3("),
    ("\u{202e}gpj.exe".as_bytes(), r"\u{202e}gpj.exe"),
    ("\u{2066}\u{200b}x".as_bytes(), r"\u{2066}\u{200b}x"),
    ("\u{9b}31mC1".as_bytes(), r"\u{9b}31mC1"),
    (br#"\x41"},{"#, r#"\\x41"},{"#),
    (b"$(id)`id`' --", "$(id)`id`' --"),
    ("caf\u{e9} \u{65e5}".as_bytes(), "caf\u{e9} \u{65e5}"),
];

/// Bytes of a task's name that the kernel keeps.
const COMM_BYTES: usize = 15;
/// Bytes of a name in a directory.
const NAME_MAX: usize = 255;

#[test]
fn programs_are_recorded_by_their_whole_names_on_one_line() {
    let scene = Scene::new();
    let daemon = Daemon::start(&scene.sandbox, &policy(""));
    let newline = (&b"two\nlines"[..], r"two\x0alines");

    for (index, (name, escaped)) in NAMES.iter().chain([&newline]).enumerate() {
        let directory = scene.sandbox.files().join(index.to_string());
        let file = copy_probe(&directory, name);
        let event = refused_by(&scene, &daemon, &file);
        let process = &event["actor"]["process"];
        assert_eq!(process["name"], *escaped);
        assert_eq!(process["file"]["name"], *escaped);
        let path = format!("{}/{escaped}", directory.display());
        assert_eq!(process["file"]["path"], path);
    }
    // Cut by the kernel within a character, and by the record.
    for name in [b"fourteen bytes\xc3\xa9".to_vec(), vec![b'\xff'; NAME_MAX]] {
        let file = copy_probe(&scene.sandbox.files().join("long"), &name);
        let event = refused_by(&scene, &daemon, &file);
        let process = &event["actor"]["process"];
        assert_tells(&process["name"], &name[..COMM_BYTES]);
        assert_tells(&process["file"]["path"], file.as_os_str().as_bytes());
    }
    assert_lines_are_whole(&daemon);
    assert_printable(&daemon, &["events"]);
    assert_printable(&daemon, &["events", "--json"]);
}

#[test]
fn units_are_told_escaped_and_bounded() {
    let scene = Scene::new();
    let text = policy("").replace("cgroup = \"/bot\"", "systemd-unit = \"bot@*.service\"");
    let daemon = Daemon::start(&scene.sandbox, &text);
    let long = vec![b'u'; NAME_MAX - b"bot@.service".len()];
    for (name, told) in NAMES
        .iter()
        .filter(|(name, _)| std::str::from_utf8(name).is_ok())
        .map(|(name, told)| (name.to_vec(), (*told).to_owned()))
        .chain([(long.clone(), String::from_utf8(long).expect("it is text"))])
    {
        let unit = [b"bot@", name.as_slice(), b".service"].concat();
        let path = [b"system.slice/", unit.as_slice()].concat();
        let cgroup = scene.sandbox.cgroup(Path::new(OsStr::from_bytes(&path)));
        let mut judge = Judge::start(&scene.sandbox.agent(&cgroup));
        wait_until_enforced(&scene, &mut judge, &path);
        let event = daemon.events().wait_for("the refusal", |event| {
            audit::own(event, "cgroup_id") == cgroup.id() && audit::own(event, "unit").is_string()
        });
        let text = audit::own(&event, "unit").as_str().expect("it is text");
        let whole = format!("bot@{told}.service");
        match text.split_once(r"\+") {
            Some((start, _)) => assert!(text.len() < 220 && whole.starts_with(start), "{text}"),
            None => assert_eq!(text, whole),
        }
    }
    assert_lines_are_whole(&daemon);
    assert_printable(&daemon, &["events"]);
}

#[test]
fn cgroups_are_judged_and_told_by_their_whole_names() {
    let sandbox = Sandbox::new();
    let text = policy("").replace(
        "match = [{ cgroup = \"/bot\" }]",
        "match = [{ cgroup = \"/bot-*\" }, { cgroup = \"/far/*/*/leaf\" }]",
    );
    let text = text.replace("o@example.com", r"o\u001b[31m\u202e@example.com");
    let mut cgroups = Vec::new();
    let (before, after) = NAMES.split_at(NAMES.len() / 2);
    let mut make = |name: Vec<u8>| {
        let cgroup = sandbox.cgroup(Path::new(OsStr::from_bytes(&name)));
        cgroups.push(([b"/", name.as_slice()].concat(), cgroup));
    };
    for (name, _) in before {
        make([b"bot-", *name].concat());
    }
    let daemon = Daemon::start(&sandbox, &text);
    for (name, _) in after {
        make([b"bot-", *name].concat());
    }
    make([b"bot-".to_vec(), vec![b'\xfe'; NAME_MAX - 4]].concat());
    // No ancestor of it belongs to anybody, and the kernel does not report all of its path.
    let part = "\u{202e}".repeat(NAME_MAX / 3);
    make(format!("far/{part}/{part}/leaf").into_bytes());

    let scene = Scene {
        cgroup: sandbox.cgroup("elsewhere"),
        sandbox,
    };
    for (path, cgroup) in &cgroups {
        let mut judge = Judge::start(&scene.sandbox.agent(cgroup));
        wait_until_enforced(&scene, &mut judge, path);
        let event =
            daemon
                .events()
                .wait_for(&format!("{:?}", path.escape_ascii().to_string()), |event| {
                    audit::own(event, "verdict") == "deny"
                        && tells(audit::own(event, "cgroup"), path)
                });
        assert_eq!(audit::identity(&event), "bot");
    }
    let told = daemon.json(&["ps", "--json"]);
    for (path, cgroup) in &cgroups {
        let owner = told
            .as_array()
            .into_iter()
            .flatten()
            .find(|owner| owner["id"] == cgroup.id())
            .unwrap_or_else(|| panic!("ps does not list {:?}", cgroup.path()));
        assert_eq!(owner["identity"], "bot");
        let text = owner["path"].as_str().expect("a path is text");
        assert_eq!(unescape(text), (path.clone(), 0), "ps tells it whole");
    }
    assert_eq!(scene.refusals(&mut scene.judge()), [false, false]);
    assert_lines_are_whole(&daemon);
    for arguments in [
        &["ps"][..],
        &["ps", "--json"],
        &["status"],
        &["events"],
        &["events", "--json"],
    ] {
        assert_printable(&daemon, arguments);
    }
}

#[test]
fn the_kernel_makes_no_cgroup_with_a_newline_in_its_name() {
    let sandbox = Sandbox::new();
    let path = sandbox.cgroups.top().path().join("two\nlines");
    let refused = fs::create_dir(path).map_err(|error| error.raw_os_error());
    assert_eq!(refused, Err(Some(libc::EINVAL)));
}

fn copy_probe(directory: &Path, name: &[u8]) -> PathBuf {
    fs::create_dir_all(directory).expect("make a directory");
    let file = directory.join(OsStr::from_bytes(name));
    let linked = fs::hard_link(probe_path(), &file);
    if linked.is_err_and(|error| error.kind() == io::ErrorKind::CrossesDevices) {
        fs::copy(probe_path(), &file).expect("copy the probe");
    }
    file
}

/// The record of a refusal of the program at `file`.
fn refused_by(scene: &Scene, daemon: &Daemon, file: &Path) -> Value {
    let mut command = Command::new(file);
    command.arg0("probe").arg("judge");
    let child = scene.sandbox.agent(&scene.cgroup).spawn(command);
    let pid = child.id();
    // It lives until it is looked at: of a process that is gone, nobody knows the executable.
    let mut judge = Judge::from(child);
    assert_eq!(scene.refusals(&mut judge), ENFORCED);
    daemon.events().wait_for(&format!("{file:?}"), |event| {
        event["actor"]["process"]["pid"] == pid && audit::own(event, "verdict") == "deny"
    })
}

fn wait_until_enforced(scene: &Scene, judge: &mut Judge, path: &[u8]) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while scene.refusals(judge) != ENFORCED {
        assert!(
            Instant::now() < deadline,
            "{} got no label",
            path.escape_ascii()
        );
        thread::sleep(Duration::from_millis(10));
    }
}

/// Each line of the file is one event, and none was split.
fn assert_lines_are_whole(daemon: &Daemon) {
    for event in daemon.events().read() {
        assert!(event["class_uid"].is_u64(), "{event}");
    }
}

/// What a command prints does nothing to a terminal but fill lines.
fn assert_printable(daemon: &Daemon, arguments: &[&str]) {
    let output = daemon.cli(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    let text = String::from_utf8(output.stdout).expect("it prints UTF-8");
    assert!(!text.is_empty(), "{arguments:?} prints something");
    if let Some(character) = text.chars().find(|&character| {
        (character.is_control() && character != '\n')
            || matches!(character, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    }) {
        panic!("{arguments:?} prints {character:?}:\n{text:?}");
    }
}

#[track_caller]
fn assert_tells(text: &Value, bytes: &[u8]) {
    assert!(
        tells(text, bytes),
        "{text} does not tell {}",
        bytes.escape_ascii()
    );
}

/// Whether `text` is what becomes of `bytes`: all of them, or the first and how many more.
fn tells(text: &Value, bytes: &[u8]) -> bool {
    let (told, more) = unescape(text.as_str().unwrap_or_default());
    bytes.starts_with(&told) && told.len() + more == bytes.len()
}

/// The bytes that an escaped text stands for, and how many more there were.
fn unescape(text: &str) -> (Vec<u8>, usize) {
    let (mut bytes, mut rest) = (Vec::new(), text);
    while let Some((plain, escape)) = rest.split_once('\\') {
        bytes.extend(plain.bytes());
        let (kind, after) = escape.split_at(1);
        rest = match kind {
            "\\" => {
                bytes.push(b'\\');
                after
            }
            "x" => {
                bytes.push(u8::from_str_radix(&after[..2], 16).expect("two hexadecimal digits"));
                &after[2..]
            }
            "u" => {
                let (code, after) = after[1..].split_once('}').expect("braces");
                let code = u32::from_str_radix(code, 16).expect("hexadecimal digits");
                let character = char::from_u32(code).expect("a character");
                bytes.extend(character.to_string().bytes());
                after
            }
            "+" => return (bytes, after.parse().expect("a number ends it")),
            other => panic!("unknown escape {other:?} in {text:?}"),
        };
    }
    bytes.extend(rest.bytes());
    (bytes, 0)
}
