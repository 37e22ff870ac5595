//! Process ids that are used again: nobody is taken for the one who had his id before.

use std::{
    fs,
    io::{Read, Write},
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use agentguard_tests::{
    agent::probe_path, audit, cgroup::Cgroup, daemon::Daemon, network::Zone, pinned::PinnedMap,
    world::PORT,
};

use crate::scene::{Scene, policy};

/// Longest that ended processes may be found in the kernel's labels.
const SETTLED_TIMEOUT: Duration = Duration::from_secs(60);

/// A cgroup that is nobody's, and an executable that is the agent.
struct Bench {
    // The daemon and the cgroup end before the tree that holds it.
    daemon: Daemon,
    elsewhere: Cgroup,
    agent: PathBuf,
    scene: Scene,
}

impl Bench {
    fn new() -> Self {
        let scene = Scene::new();
        let elsewhere = scene.sandbox.cgroup("elsewhere");
        let files = scene.sandbox.files();
        fs::set_permissions(files, fs::Permissions::from_mode(0o755)).expect("open the directory");
        let agent = files.join("agent-probe");
        fs::copy(probe_path(), &agent).expect("copy an executable");
        let daemon = Daemon::start(&scene.sandbox, &policy_of(&agent));
        Self {
            daemon,
            elsewhere,
            agent,
            scene,
        }
    }

    fn denied(&self) -> SocketAddr {
        SocketAddr::new(self.scene.target(Zone::Denied), PORT)
    }
}

fn policy_of(executable: &Path) -> String {
    policy("").replace("cgroup = \"/bot\"", &format!("executable = {executable:?}"))
}

/// The end of the numbers for processes, which the kernel gives to nobody for a while.
fn last_pid() -> i32 {
    let limit = fs::read_to_string("/proc/sys/kernel/pid_max").expect("there is a limit");
    limit.trim().parse::<i32>().expect("it is a number") - 1
}

#[test]
fn a_stranger_with_the_process_id_of_an_agent_is_a_stranger() {
    const CHILDREN: u32 = 10_000;
    let mut bench = Bench::new();
    let ledger = bench.scene.sandbox.files().join("ledger");
    fs::write(&ledger, [0; 8]).expect("write a ledger");
    let place = bench.scene.sandbox.agent(&bench.elsewhere);
    let first = last_pid() - 100;
    let fighters = [(&bench.agent, 1), (&probe_path(), 2)].map(|(program, mark)| {
        let mut command = Command::new(program);
        command
            .args(["fight", &CHILDREN.to_string(), &first.to_string()])
            .arg(&ledger)
            .args([mark.to_string(), bench.denied().to_string()]);
        place.spawn(command)
    });
    let [agent, stranger] = fighters.map(|fighter| {
        let output = fighter.wait_with_output().expect("a fight ends");
        let text = String::from_utf8(output.stdout).expect("it prints numbers");
        let numbers = text.split_whitespace().map(str::parse);
        let numbers: Vec<u32> = numbers.map(|number| number.expect("a number")).collect();
        <[u32; 2]>::try_from(numbers).expect("it prints two numbers")
    });
    assert_eq!([agent[0], stranger[0]], [CHILDREN, 0]);
    let [by_agent, by_stranger] = [agent[1], stranger[1]];
    assert!(by_agent > 1_000 && by_stranger > 1_000, "ids changed hands");
    let denied = bench.daemon.counter("bot", "counters", "denied");
    assert_eq!(denied, u64::from(CHILDREN));

    // Who has ended has no label.
    let labels = PinnedMap::<4>::open(&bench.daemon, "PROCESSES");
    let deadline = Instant::now() + SETTLED_TIMEOUT;
    loop {
        let labelled = labels.keys().into_iter().map(u32::from_ne_bytes);
        let ended: Vec<u32> = labelled
            .filter(|pid| !Path::new(&format!("/proc/{pid}")).exists())
            .collect();
        if ended.is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "labelled, and ended: {ended:?}");
        thread::sleep(Duration::from_millis(20));
    }

    bench.daemon.stop();
    let events = bench.daemon.events().read();
    let counts = |wanted: &dyn Fn(&serde_json::Value) -> bool| -> u64 {
        let events = events.iter().filter(|event| wanted(event));
        let counts = events.map(|event| event["count"].as_u64());
        counts.map(|count| count.expect("it has a count")).sum()
    };
    let told = counts(&|event| {
        let is_refusal = audit::own(event, "verdict") == "deny";
        assert!(!is_refusal || audit::identity(event) == "bot", "{event}");
        is_refusal
    });
    let lost = counts(&|event| event["class_uid"] == 6008);
    assert_eq!(told + lost, u64::from(CHILDREN));
}

/// Reloads while the agent goes on as `arguments` say, and asks after each whether it is who it is now.
fn assert_no_slip(bench: &Bench, arguments: &[String]) {
    const RELOADS: u32 = 60;
    let mut command = Command::new(&bench.agent);
    command.args(arguments).arg(bench.denied().to_string());
    let mut chain = bench.scene.sandbox.agent(&bench.elsewhere).spawn(command);
    let mut questions = chain.stdin.take().expect("stdin is piped");
    let mut answers = chain.stdout.take().expect("stdout is piped");
    let mut is_refused = || {
        let mut answer = [0];
        questions.write_all(b"?").expect("the chain goes on");
        answers.read_exact(&mut answer).expect("the chain goes on");
        answer == [1]
    };
    assert!(is_refused(), "it is the agent");
    let mut slipped = [0; 2];
    for _ in 0..RELOADS {
        bench.daemon.swap(&policy_of(Path::new("/nowhere")));
        slipped[0] += u32::from(is_refused());
        bench.daemon.swap(&policy_of(&bench.agent));
        slipped[1] += u32::from(!is_refused());
    }
    drop(questions);
    chain.wait().expect("the chain ends");
    assert_eq!(slipped, [0, 0], "of {RELOADS} reloads to nobody and back");
}

#[test]
fn a_chain_of_forks_cannot_slip_through_a_reload() {
    /// They make each walk over all tasks take as long as many forks do.
    const BYSTANDERS: usize = 1_000;
    let bench = Bench::new();
    let bystanders: Vec<_> = (0..BYSTANDERS)
        .map(|_| thread::spawn(thread::park))
        .collect();
    let high = last_pid() - 200;
    assert_no_slip(&bench, &["chain".into(), "400".into(), high.to_string()]);
    for bystander in bystanders {
        bystander.thread().unpark();
        bystander.join().expect("a thread ends");
    }
}

#[test]
fn a_chain_of_programs_cannot_slip_through_a_reload() {
    let bench = Bench::new();
    let program = probe_path().display().to_string();
    assert_no_slip(&bench, &["relay".into(), program]);
}
