//! A thousand policies, one after the other, under traffic of every kind.

use std::{
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use agentguard_tests::{
    agent::Probe,
    daemon::Daemon,
    judge::{Call, Judge, Question, is_refusal},
    network::{Family, Zone},
    probe::{Origin, Route, Spec, Talk, Transport},
    world::PORT,
};

use crate::scene::{Scene, policy};

const SWAPS: u32 = 1_000;
/// Swaps between two looks at the wire and at the flow.
const SWAPS_A_LOOK: u32 = 20;
/// How long the flow may take for one exchange, however slow the machine.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(20);
/// A pause between two batches or exchanges: daemon and sniffer, which look at each, need a CPU too.
const BREATH: Duration = Duration::from_millis(2);
/// Each flow echoes so many bytes at a time.
const BYTES: usize = 4_096;

#[test]
fn a_swap_lets_nothing_denied_out_and_cuts_nothing_allowed() {
    let scene = Scene::new();
    let network = &scene.sandbox.network;
    let agent = scene.sandbox.agent(&scene.cgroup);
    let fresh = |zone| [Family::V4, Family::V6].map(|family| network.fresh(family, zone));
    let (denied, allowed) = (fresh(Zone::Denied), fresh(Zone::Allowed));
    // A flow to where policy will not let it: TCP itself tries again and again to get this out.
    let old = fresh(Zone::Denied).map(|to| older_flow(&scene, to));
    let daemon = Daemon::start(&scene.sandbox, &policy(""));
    let mut old = old.map(|(mut probe, spec)| {
        probe.resume();
        probe.wait_ready();
        (probe, spec)
    });
    let flows = fresh(Zone::Allowed).map(|to| {
        let mut flow = agent.talk(&Talk {
            transport: Transport::TcpConnect,
            peer: SocketAddr::new(to, PORT),
            rounds: 1,
            send: BYTES,
            receive: BYTES,
        });
        flow.wait_ready();
        flow
    });
    let done = AtomicBool::new(false);
    let exchanges = [const { AtomicU64::new(0) }; 2];
    let asked = thread::scope(|scope| {
        // Also where a look fails: the scope waits for its threads.
        let _end = End(&done);
        let storm = scope.spawn(|| {
            let mut judge = Judge::start(&agent);
            let mut asked: u64 = 0;
            while !done.load(Ordering::Relaxed) {
                asked += storm_once(&mut judge, denied, allowed);
                thread::sleep(BREATH);
            }
            asked
        });
        let talks: Vec<_> = flows
            .into_iter()
            .zip(&exchanges)
            .map(|(flow, exchanges)| scope.spawn(|| talk(flow, exchanges, &done)))
            .collect();
        for swap in 0..SWAPS {
            daemon.swap(&(policy("") + varying(swap)));
            if swap % SWAPS_A_LOOK == 0 {
                let before = exchanges
                    .each_ref()
                    .map(|count| count.load(Ordering::Relaxed));
                assert_nothing_denied(&scene, denied, &old.each_ref().map(|(_, spec)| spec));
                for (count, before) in exchanges.iter().zip(before) {
                    wait_for_more(count, before);
                }
            }
            if storm.is_finished() {
                break;
            }
        }
        done.store(true, Ordering::Relaxed);
        for talk in talks {
            talk.join().expect("the allowed flows went on");
        }
        storm.join().expect("every answer was right")
    });
    assert_eq!(daemon.status()["generation"], SWAPS + 1);
    assert_nothing_denied(&scene, denied, &old.each_ref().map(|(_, spec)| spec));
    let exchanges = exchanges.map(AtomicU64::into_inner);
    assert!(
        asked > u64::from(SWAPS) && exchanges.iter().all(|count| *count > u64::from(SWAPS)),
        "only {asked} questions and {exchanges:?} exchanges in {SWAPS} swaps"
    );
    for (probe, _) in &mut old {
        probe.resume();
    }
}

/// Ends the traffic when it is dropped.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Another rule comes and goes, so that classes and cells move.
fn varying(swap: u32) -> &'static str {
    match swap % 3 {
        0 => "[[roles.r.egress]]\naddresses = [\"192.0.2.0/24\"]\nports = [\"1-9/udp\"]\n",
        1 => "[[roles.r.egress]]\naddresses = [\"10.0.0.0/15\"]\nports = [\"8001/tcp\"]\n",
        _ => "",
    }
}

/// A TCP flow to `to` that waits before it sends its marker.
fn older_flow(scene: &Scene, to: IpAddr) -> (Probe, Spec) {
    let spec = Spec {
        route: Route::Tcp,
        to: SocketAddr::new(to, PORT),
        decoy: SocketAddr::new(to, PORT),
        marker: format!("agentguard-swap-{to}."),
        uid: 0,
        origin: Origin::Own,
        cgroup: Default::default(),
        pause: true,
    };
    let mut probe = scene.sandbox.agent(&scene.cgroup).start(&spec);
    probe.wait_ready();
    (probe, spec)
}

/// Asks by the calls that the early hooks judge, and by those that only the packet hook does.
fn storm_once(judge: &mut Judge, denied: [IpAddr; 2], allowed: [IpAddr; 2]) -> u64 {
    let mut questions = Vec::new();
    for call in [Call::UdpConnect, Call::UdpConnect, Call::Ping] {
        for (is_denied, to) in [(true, denied), (false, allowed)] {
            for remote in to {
                let question = Question {
                    call,
                    ..Question::udp_connect(SocketAddr::new(remote, PORT))
                };
                questions.extend([(is_denied, question); 4]);
            }
        }
    }
    let batch: Vec<Question> = questions.iter().map(|(_, question)| *question).collect();
    for ((is_denied, question), errno) in questions.iter().zip(judge.put(&batch)) {
        // For a ping of IPv6 only the wire tells.
        let is_silent = question.call == Call::Ping && question.remote.is_ipv6();
        assert!(
            is_refusal(errno) == *is_denied || is_silent,
            "{question:?}: {errno}"
        );
    }
    batch.len() as u64
}

/// Has one exchange after the other.
fn talk(mut flow: Probe, exchanges: &AtomicU64, done: &AtomicBool) {
    while !done.load(Ordering::Relaxed) {
        flow.resume();
        flow.wait_ready();
        exchanges.fetch_add(1, Ordering::Relaxed);
        thread::sleep(BREATH);
    }
}

fn wait_for_more(count: &AtomicU64, before: u64) {
    let deadline = Instant::now() + EXCHANGE_TIMEOUT;
    while count.load(Ordering::Relaxed) <= before {
        assert!(Instant::now() < deadline, "the allowed flow was cut");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Looks at all that came over the wire since the last look.
fn assert_nothing_denied(scene: &Scene, denied: [IpAddr; 2], old: &[&Spec; 2]) {
    scene.sandbox.sniffer.settle(&scene.sandbox.network);
    for packet in scene.sandbox.sniffer.take() {
        assert!(
            !denied.contains(&packet.destination)
                && old.iter().all(|spec| !packet.carries(&spec.marker)),
            "{packet:?} got out"
        );
    }
}
