//! `cargo xtask demo`, interrupted: what it made must go.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Command, Stdio},
};

use agentguard_tests::{agent::probe_path, requirements::cgroup2_mount};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

#[test]
fn an_interrupted_demo_leaves_nothing() {
    let xtask = probe_path().with_file_name("xtask");
    let mut demo = Command::new(xtask)
        .arg("demo")
        .stdout(Stdio::piped())
        .spawn()
        .expect("xtask is built beside the probe: run `cargo xtask test`");
    let pid = demo.id();
    let mut output = BufReader::new(demo.stdout.take().expect("stdout is piped"));
    let mut said = String::new();
    while !said.contains("an agent that strays") {
        let length = output.read_line(&mut said).expect("the demo speaks");
        assert!(length > 0, "the demo ended early:\n{said}");
    }
    let cgroup = cgroup2_mount().join(format!("agentguard-demo-{pid}"));
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
        .expect("the demo runs its programs");
    assert!(cgroup.exists(), "{cgroup:?} is where it plays");
    assert!(!children.is_empty(), "somebody plays");

    let target = Pid::from_raw(i32::try_from(pid).expect("pids are small"));
    kill(target, Signal::SIGINT).expect("the demo runs");
    output.read_to_string(&mut said).expect("the demo speaks");
    let status = demo.wait().expect("the demo ends");
    assert!(status.success(), "{status}:\n{said}");
    assert!(
        said.ends_with("demo: interrupted, and cleaned up\n"),
        "{said}"
    );
    assert!(!cgroup.exists(), "{cgroup:?} is left");
    for child in children.split_whitespace() {
        assert!(
            !Path::new("/proc").join(child).exists(),
            "process {child} is left"
        );
    }
    assert!(!said.contains('\u{1b}'), "colours in a pipe: {said:?}");
}
