//! The kernel answers every probe as an independent linear scan over the policy does.

#[path = "../../agentguard-daemon/tests/oracle/oracle.rs"]
mod oracle;

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{SystemTime, UNIX_EPOCH},
};

use agentguard_tests::{
    cgroup::Cgroup,
    daemon::Daemon,
    judge::{Call, Judge, Question, is_refusal},
    sandbox::Sandbox,
    sniffer::Packet,
};
use oracle::{Dice, Direction, Identity, Policy, Probe, Protocol};

const SEED: u64 = 0x6167_656e_7467_7561;
const POLICIES: u64 = 200;
/// UDP `connect` probes of each policy, over all its identities.
const CONNECTS: usize = 5_000;
/// Probes of each policy by one of its identities.
const TCP: usize = 20;
const BINDS: usize = 20;
const PACKETS: usize = 20;
/// Packets over sockets that are older than the policy; each such round takes one more reload.
const KEPT: usize = 40;
const KEEP_EVERY: u64 = 4;

const LOOPBACK_BROADCAST: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 255, 255, 255));
const TCP_NUMBER: u8 = 6;

/// Identities that generated policies have.
const NAMES: [&str; 8] = [
    "unknown",
    "unknown-agent",
    "i0",
    "i1",
    "i2",
    "i3",
    "i4",
    "i5",
];

#[test]
fn the_kernel_judges_as_the_oracle_does() {
    let sandbox = Sandbox::new();
    // The world answers for all addresses that are not its neighbours'.
    sandbox.network.server.configure(
        "route add local 0.0.0.0/0 dev lo table main\n\
         route add local ::/0 dev lo table main\n",
    );
    let cgroups: Vec<Cgroup> = NAMES.map(|name| sandbox.cgroup(place_of(name))).into();
    let mut dice = Dice::new(SEED);
    let first = oracle::generate::policy(&mut dice);
    let daemon = Daemon::start(&sandbox, &open_to_all(&first));
    let mut judges: HashMap<&str, Judge> = NAMES
        .into_iter()
        .zip(&cgroups)
        .map(|(name, cgroup)| (name, Judge::start(&sandbox.agent(cgroup))))
        .collect();
    let mut tally = Tally::default();
    for round in 0..POLICIES {
        let policy = oracle::generate::policy(&mut dice);
        let now = now();
        let mut asker = Asker {
            dice: &mut dice,
            policy: &policy,
            next_serial: u32::try_from(round).expect("few") * 1_000,
        };
        let chosen = &policy.identities[asker.dice.below(policy.identities.len())];
        let judge = judges.get_mut(chosen.name.as_str()).expect("all are there");

        // Sockets that are connected while everything is allowed, for packets under the policy.
        let mut keep = Vec::new();
        if round % KEEP_EVERY == 0 {
            daemon.reload(&open_to_all(&policy));
            keep = asker.some(KEPT, &[Call::UdpKeep]);
            assert!(judge.put(&keep).iter().all(|errno| *errno == 0), "{keep:?}");
        }
        daemon.reload(&policy.text);

        let send = keep.into_iter().map(|question| Question {
            call: Call::UdpSendKept,
            ..question
        });
        let mut questions: Vec<Question> = send.collect();
        questions.extend(asker.some(TCP, &[Call::TcpConnect]));
        questions.extend(asker.some(BINDS, &[Call::TcpBind, Call::UdpBind]));
        questions.extend(asker.some(PACKETS, &PACKET_CALLS));
        drop(sandbox.sniffer.take());
        let answers = judge.put(&questions);
        sandbox.sniffer.settle(&sandbox.network);
        let wire = sandbox.sniffer.take();
        for (question, errno) in questions.iter().zip(answers) {
            let said = Said {
                errno,
                on_wire: arrived(&wire, question),
            };
            tally.check(&policy, chosen, question, now, said);
        }

        for identity in &policy.identities {
            let judge = judges
                .get_mut(identity.name.as_str())
                .expect("all are there");
            let share = CONNECTS.div_ceil(policy.identities.len());
            let questions = asker.some(share, &[Call::UdpConnect]);
            for (question, errno) in questions.iter().zip(judge.put(&questions)) {
                let said = Said {
                    errno,
                    on_wire: false,
                };
                tally.check(&policy, identity, question, now, said);
            }
        }
    }
    tally.conclude();
}

const PACKET_CALLS: [Call; 6] = [
    Call::Ping,
    Call::Ping,
    Call::RawIcmp,
    Call::RawUdp,
    Call::RawTcp,
    Call::RawOther,
];

/// The cgroup that makes a process this identity.
fn place_of(name: &str) -> &str {
    match name {
        "unknown" => "elsewhere",
        "unknown-agent" => "agents.slice",
        name => name,
    }
}

/// A policy with the same identities, under which everything is allowed.
fn open_to_all(policy: &Policy) -> String {
    let mut text = "[defaults]\nunknown = \"allow\"\nunknown-agent = \"allow\"\n".to_owned();
    for name in policy.identities.iter().map(|identity| &identity.name) {
        if !name.starts_with("unknown") {
            text.push_str(&format!(
                "[identities.{name}]\nclass = \"human\"\nmatch = [{{ cgroup = \"/{name}\" }}]\n"
            ));
        }
    }
    text
}

fn now() -> i64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("it is after 1970");
    i64::try_from(now.as_secs()).expect("it is before the end of time")
}

/// Makes up questions about one policy.
struct Asker<'a> {
    dice: &'a mut Dice,
    policy: &'a Policy,
    next_serial: u32,
}

impl Asker<'_> {
    /// `count` questions, each with one of `calls`.
    fn some(&mut self, count: usize, calls: &[Call]) -> Vec<Question> {
        (0..count).map(|_| self.one(calls)).collect()
    }

    fn one(&mut self, calls: &[Call]) -> Question {
        let call = self.dice.pick(calls);
        self.next_serial += 1;
        loop {
            let probe = oracle::generate::probe(self.dice, self.policy);
            let (remote, local_port) = if sends_nothing(call) || call == Call::TcpConnect {
                (probe.remote, probe.local_port)
            } else {
                // Raw and ping sockets do not take mapped addresses. A kept socket needs a port
                // that is known, so not port 0.
                (probe.remote.to_canonical(), probe.local_port.max(1))
            };
            let question = Question {
                call,
                serial: self.next_serial,
                remote: SocketAddr::new(remote, probe.remote_port),
                local_port,
            };
            // What is sent must have a way to go; calls that send nothing are asked of everything.
            if sends_nothing(call) || reach(&question) != Reach::Nowhere {
                return question;
            }
        }
    }
}

fn sends_nothing(call: Call) -> bool {
    matches!(call, Call::UdpConnect | Call::TcpBind | Call::UdpBind)
}

/// How far a packet to an address gets in the sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    Loopback,
    Wire,
    Nowhere,
}

fn reach(question: &Question) -> Reach {
    match question.remote.ip().to_canonical() {
        _ if sends_to_unspecified(question) => Reach::Wire,
        // Neither `errno` nor the wire would tell.
        to if is_silent(question) && to.is_loopback() => Reach::Nowhere,
        to if to == LOOPBACK_BROADCAST => Reach::Nowhere,
        to if to.is_loopback() || to.is_unspecified() => Reach::Loopback,
        to if to.is_multicast() => Reach::Nowhere,
        IpAddr::V4(to) if to.is_broadcast() => Reach::Nowhere,
        IpAddr::V6(to) if to.is_unicast_link_local() => Reach::Nowhere,
        IpAddr::V4(_) | IpAddr::V6(_) => Reach::Wire,
    }
}

/// Whether what the question sends came over the wire.
fn arrived(wire: &[Packet], question: &Question) -> bool {
    let marker = question.marker();
    let to = question.remote;
    let opens_connection = |packet: &Packet| {
        packet
            .transport()
            .is_some_and(|(protocol, _, port)| protocol == TCP_NUMBER && port == to.port())
            // Those with a marker are another question's.
            && !packet.carries("agentguard-judge")
    };
    wire.iter()
        .filter(|packet| packet.destination == to.ip().to_canonical())
        .any(|packet| {
            if question.call == Call::TcpConnect {
                opens_connection(packet)
            } else {
                packet.carries(&marker)
            }
        })
}

/// How a question ended.
#[derive(Clone, Copy, Debug)]
struct Said {
    errno: i32,
    on_wire: bool,
}

/// Questions and refusals, by call.
#[derive(Default)]
struct Tally(HashMap<u8, (Call, [u64; 2])>);

impl Tally {
    fn check(
        &mut self,
        policy: &Policy,
        identity: &Identity,
        question: &Question,
        now: i64,
        said: Said,
    ) {
        let is_refused = expected(identity, question, now);
        let is_on_wire =
            !sends_nothing(question.call) && !is_refused && reach(question) == Reach::Wire;
        let gets_on = match question.call {
            // The kernel has more to say of addresses that are no one's and of ports in use.
            Call::UdpConnect | Call::TcpBind | Call::UdpBind | Call::UdpKeep => true,
            // Where nobody listens there is an answer, too, which `send` may have waited for.
            Call::TcpConnect | Call::TcpKeep | Call::UdpSendKept => {
                matches!(said.errno, 0 | libc::ECONNREFUSED)
            }
            Call::Ping | Call::RawIcmp | Call::RawUdp | Call::RawTcp | Call::RawOther => {
                said.errno == 0
            }
        };
        assert!(
            (is_refusal(said.errno) == is_refused || is_silent(question))
                && said.on_wire == is_on_wire
                && (is_refused || gets_on),
            "{} {question:?} said {said:?}; the oracle: refused {is_refused}, on the wire \
             {is_on_wire}\n{}",
            identity.name,
            policy.text
        );
        let (_, counts) = self
            .0
            .entry(question.call as u8)
            .or_insert((question.call, [0; 2]));
        counts[usize::from(is_refused)] += 1;
    }

    /// A kernel that refuses nothing, or everything, would agree with a broken oracle too easily.
    fn conclude(self) {
        let mut connects = 0;
        for (call, [passed, refused]) in self.0.into_values() {
            let asked = passed + refused;
            assert!(
                passed > asked / 20 && refused > asked / 20,
                "{call:?}: {refused} of {asked} refused"
            );
            #[expect(clippy::print_stdout, reason = "it is shown by `--nocapture`")]
            {
                println!("{call:?}: {asked} asked, {refused} refused");
            }
            if call == Call::UdpConnect {
                connects = asked;
            }
        }
        assert!(
            connects >= POLICIES * CONNECTS as u64,
            "only {connects} asked"
        );
    }
}

/// Whether the packet has the unspecified address as its destination: every other socket replaces it
/// by the host's own, and a ping socket of IPv6 sends by the default route.
fn sends_to_unspecified(question: &Question) -> bool {
    question.call == Call::Ping && question.remote.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
}

/// Whether the kernel keeps to itself that a packet was refused: a ping socket of IPv6 drops what
/// became of the packet (`icmpv6_push_pending_frames`).
fn is_silent(question: &Question) -> bool {
    question.call == Call::Ping && question.remote.is_ipv6()
}

/// Whether the oracle has the kernel refuse it.
fn expected(identity: &Identity, question: &Question, now: i64) -> bool {
    let (direction, protocol) = match question.call {
        Call::UdpConnect | Call::UdpKeep | Call::UdpSendKept | Call::RawUdp => {
            (Direction::Egress, Protocol::Udp)
        }
        Call::TcpConnect | Call::TcpKeep | Call::RawTcp => (Direction::Egress, Protocol::Tcp),
        Call::TcpBind => (Direction::Bind, Protocol::Tcp),
        Call::UdpBind => (Direction::Bind, Protocol::Udp),
        Call::Ping | Call::RawIcmp => (Direction::Egress, Protocol::Icmp),
        Call::RawOther => (Direction::Egress, Protocol::Other),
    };
    let is_raw = matches!(
        question.call,
        Call::RawIcmp | Call::RawUdp | Call::RawTcp | Call::RawOther
    );
    if is_raw && oracle::refuses_raw_sockets(identity) {
        return true;
    }
    // The kernel picks a port itself where port 0 is asked for, as it does for every client.
    if direction == Direction::Bind && question.local_port == 0 {
        return false;
    }
    // A socket that is not bound yet has no port that a peer could have asked.
    let local_port = if matches!(question.call, Call::UdpConnect | Call::TcpConnect) {
        0
    } else {
        question.local_port
    };
    let probe = Probe {
        direction,
        protocol,
        remote: question.remote.ip(),
        is_named: !sends_to_unspecified(question),
        remote_port: question.remote.port(),
        local_port,
        now,
    };
    oracle::judge(identity, &probe).verdict == "deny"
}
