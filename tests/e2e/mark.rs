//! Marks and traffic classes: what nftables sees of an identity.

use std::{
    io::Write,
    net::IpAddr,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use agentguard_tests::{
    daemon::Daemon,
    network::{Netns, Zone},
};

use crate::scene::{Scene, policy, spec};

/// Counts TCP packets by mark and by traffic class, in the agents' namespace.
const COUNTERS: &str = "table inet marks {
    counter identity { }
    counter class { }
    counter unmarked { }
    counter shaped { }
    chain out {
        type filter hook output priority 0;
        meta l4proto tcp meta mark and 0xff000000 == 0x02000000 counter name identity
        meta l4proto tcp meta mark and 0xff000000 == 0x01000000 counter name class
        meta l4proto tcp meta mark and 0xff000000 == 0 counter name unmarked
        meta l4proto tcp ip dscp cs1 counter name shaped
    }
}";

fn nft(netns: &Netns, arguments: &[&str], input: &str) -> String {
    netns.enter(|| {
        let mut child = Command::new("nft")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start nft");
        let mut stdin = child.stdin.take().expect("stdin is piped");
        stdin.write_all(input.as_bytes()).expect("nft reads");
        drop(stdin);
        let output = child.wait_with_output().expect("nft ends");
        assert!(output.status.success(), "nft {arguments:?}");
        String::from_utf8(output.stdout).expect("nft prints text")
    })
}

/// Packets that a counter has seen.
fn packets(netns: &Netns, counter: &str) -> u64 {
    let text = nft(netns, &["list", "counter", "inet", "marks", counter], "");
    let mut words = text.split_whitespace();
    words.find(|word| *word == "packets").expect("it counts");
    let number = words.next().expect("it says how many");
    number.parse().expect("a number")
}

/// A TCP connection from opening to end, its last packets included: those of one that was made before
/// must not be counted with the next.
fn tcp(scene: &Scene) {
    let to: IpAddr = scene.target(Zone::Allowed);
    drop(scene.sandbox.agent(&scene.cgroup).run(&spec(to, false)));
    let client = &scene.sandbox.network.client;
    let all = || ["identity", "class", "unmarked"].map(|counter| packets(client, counter));
    let mut before = all();
    loop {
        thread::sleep(Duration::from_millis(500));
        let now = all();
        if now == before {
            return;
        }
        before = now;
    }
}

#[test]
fn nftables_counts_an_identity_and_a_class() {
    let scene = Scene::new();
    let client = &scene.sandbox.network.client;
    nft(client, &["-f", "-"], COUNTERS);
    let count = |counter| packets(client, counter);

    tcp(&scene);
    assert!(count("unmarked") > 0, "the counters see the traffic");
    assert_eq!((count("identity"), count("class")), (0, 0));

    // By class.
    let class = "[classes.agent]\nmark = 0x01000000\ndscp = \"cs1\"\n";
    let daemon = Daemon::start(&scene.sandbox, &policy(class));
    tcp(&scene);
    let of_class = count("class");
    // The last acknowledgement is the kernel's own, for a socket in TIME-WAIT: marked, and not shaped.
    let shaped = count("shaped");
    assert!(
        of_class > 1 && shaped + 1 >= of_class,
        "{of_class} packets of the class, {shaped} shaped"
    );
    // The kernel resets what no socket owns any more without a mark; nothing is marked as another's.
    assert_eq!(count("identity"), 0);

    // The identity's own goes before its class's; the traffic class is still that of the class.
    daemon.reload(&(policy("mark = 0x02000000") + class));
    tcp(&scene);
    let of_identity = count("identity");
    assert!(of_identity > 0);
    assert_eq!(count("class"), of_class);
    assert!(count("shaped") + 2 >= of_class + of_identity);
}

#[test]
fn a_connection_that_was_open_before_is_marked_for_what_comes_after_us() {
    let scene = Scene::new();
    let client = &scene.sandbox.network.client;
    let (mut probe, _) = scene.connect();
    let egress = COUNTERS
        .replace("hook output", "hook egress device \"agents0\"")
        .replace("inet marks", "netdev marks");
    nft(client, &["-f", "-"], &egress);
    let _daemon = Daemon::start(&scene.sandbox, &policy("mark = 0x02000000"));
    probe.resume();
    probe.wait_ready();
    let text = nft(
        client,
        &["list", "counter", "netdev", "marks", "identity"],
        "",
    );
    assert!(!text.contains("packets 0 "), "{text}");
}
