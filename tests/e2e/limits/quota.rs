//! Quotas: bytes of an hour, a day or a month, over restarts.

use std::{
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    process::{Child, ChildStdin, ChildStdout, Command, Output},
};

use agentguard_tests::{
    agent::probe_path,
    audit,
    daemon::Daemon,
    judge::{Judge, Question},
    network::Zone,
    world::PORT,
};
use serde_json::Value;

use super::policy;
use crate::scene::Scene;

const QUOTA: u64 = 1 << 20;

/// Sends a datagram with so many bytes of IP to one peer, and asks for nothing back.
fn send(scene: &Scene, to: SocketAddr, datagrams: u32) -> Output {
    let mut command = Command::new(probe_path());
    command.args(["spend", &datagrams.to_string(), &to.to_string()]);
    let child = scene.sandbox.agent(&scene.cgroup).spawn(command);
    child.wait_with_output().expect("it ends")
}

pub(crate) fn used(daemon: &Daemon) -> u64 {
    daemon.limit("bot", "egress-quota")["used"]
        .as_u64()
        .expect("a number")
}

/// Of 1,024 bytes each, headers included.
pub(crate) fn spend(scene: &Scene, datagrams: u32) {
    let to = SocketAddr::new(scene.target(Zone::Allowed), PORT);
    let output = send(scene, to, datagrams);
    assert!(output.status.success(), "{output:?}");
}

/// A flow that stays open, and sends when it is told to.
pub(crate) struct Flow {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Flow {
    pub(crate) fn open(scene: &Scene) -> Self {
        let to = SocketAddr::new(scene.target(Zone::Allowed), PORT);
        let mut command = Command::new(probe_path());
        command.args(["spend-on", &to.to_string()]);
        let mut child = scene.sandbox.agent(&scene.cgroup).spawn(command);
        let mut flow = Self {
            stdin: child.stdin.take().expect("it is piped"),
            stdout: BufReader::new(child.stdout.take().expect("it is piped")),
            child,
        };
        flow.spend(0);
        flow
    }

    pub(crate) fn spend(&mut self, datagrams: u32) {
        writeln!(self.stdin, "{datagrams}").expect("it waits for a line");
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("it answers");
        assert_eq!(line, "sent\n");
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        // Both fail only for one that has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn may_open(scene: &Scene, judge: &mut Judge) -> i32 {
    let to = SocketAddr::new(scene.target(Zone::Allowed), PORT);
    judge.put(&[Question::udp_connect(to)])[0]
}

fn percents(daemon: &Daemon) -> Vec<Value> {
    let events = daemon.events().read();
    events
        .iter()
        .map(|event| audit::own(event, "used_percent").clone())
        .filter(|percent| !percent.is_null())
        .collect()
}

#[test]
fn a_quota_is_counted_told_of_and_ends_new_flows() {
    let scene = Scene::new();
    let daemon = Daemon::start(
        &scene.sandbox,
        &policy::identity("bot", "egress-quota = \"1MiB/month\""),
    );
    let mut judge = scene.judge();
    spend(&scene, 512);
    assert_eq!(used(&daemon), QUOTA / 2);
    assert_eq!(may_open(&scene, &mut judge), 0);
    spend(&scene, 330);
    let told = daemon.events().wait_for("80 percent", |event| {
        audit::own(event, "used_percent") == 80
    });
    assert_eq!(told["traffic"]["bytes_out"], 842 * 1_024);
    assert_eq!(may_open(&scene, &mut judge), 0);
    // A flow that is open goes on; the next one does not begin.
    spend(&scene, 200);
    daemon.events().wait_for("100 percent", |event| {
        audit::own(event, "used_percent") == 100
    });
    assert_eq!(used(&daemon), 1_042 * 1_024);
    assert_eq!(may_open(&scene, &mut judge), libc::EAGAIN);
    daemon.events().wait_for("the refusal", |event| {
        audit::own(event, "reason") == "quota"
    });
    assert_eq!(percents(&daemon), [80, 100], "each once");
}

#[test]
fn all_packets_end_where_that_is_configured() {
    let scene = Scene::new();
    let daemon = Daemon::start(
        &scene.sandbox,
        &policy::identity(
            "bot",
            "egress-quota = \"1MiB/month\"\non-quota = \"all-packets\"",
        ),
    );
    spend(&scene, 2_000);
    let limit = daemon.limit("bot", "egress-quota");
    assert_eq!(limit["used"], QUOTA);
    assert_eq!(limit["refused"], 2_000 - 1_024);
    assert_eq!(limit["refused-bytes"], (2_000 - 1_024) * 1_024);
}

/// What was used stays used: for another daemon, another policy, other pins and another boot.
#[test]
fn what_was_used_outlives_everything() {
    let scene = Scene::new();
    let text = policy::identity("bot", "egress-quota = \"1MiB/month\"");
    let mut daemon = Daemon::start(&scene.sandbox, &text);
    spend(&scene, 300);
    daemon.reload(&(text.clone() + "[zones.z]\naddresses = [\"192.0.2.1\"]\n"));
    assert_eq!(used(&daemon), 300 << 10);
    // Adopted by the next daemon: the kernel's count is the truth.
    daemon.kill();
    spend(&scene, 100);
    daemon.restart();
    assert_eq!(used(&daemon), 400 << 10);
    // Without pins there is only what is on disk, as after a boot.
    daemon.stop();
    let output = daemon.cli(&["detach"]);
    assert!(output.status.success(), "{output:?}");
    daemon.restart();
    assert_eq!(used(&daemon), 400 << 10);
    spend(&scene, 624);
    let mut judge = scene.judge();
    assert_eq!(may_open(&scene, &mut judge), libc::EAGAIN);
    // A larger one is larger at once.
    daemon.reload(&policy::identity("bot", "egress-quota = \"2MiB/month\""));
    assert_eq!(may_open(&scene, &mut judge), 0);
}
