//! Cgroups that come and go by the hundred thousand: nobody inherits from them, and nothing is left.

use std::{
    collections::{BTreeSet, VecDeque},
    fs,
    net::SocketAddr,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use agentguard_tests::{
    cgroup::Cgroup, daemon::Daemon, judge::Judge, network::Zone, pinned::PinnedMap, world::PORT,
};
use nix::sys::signal::Signal;

use crate::scene::{ENFORCED, Scene, policy};

/// Nobody in particular: what no selector matches may do everything.
const FREE: [bool; 2] = [false, false];

/// Names of the identity's cgroups that come and go.
const AGENTS: &str = "agent-*";

/// Longest that the daemon may take to have looked at all that happened.
const SETTLED_TIMEOUT: Duration = Duration::from_secs(60);

/// The identity is that of cgroups with these names, too.
fn policy_with(glob: &str) -> String {
    let also = format!("cgroup = \"/bot\" }}, {{ cgroup = \"/churn/{glob}\" }}");
    policy("").replace("cgroup = \"/bot\" }", &also)
}

/// Labels of the kernel: cgroup, slot.
struct Labels(PinnedMap<16>);

impl Labels {
    fn of(daemon: &Daemon) -> Self {
        Self(PinnedMap::open(daemon, "CGROUPS"))
    }

    fn read(&self) -> BTreeSet<(u64, u64)> {
        let number = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().expect("eight bytes"));
        let keys = self.0.keys().into_iter();
        keys.map(|key| (number(&key[..8]), number(&key[8..])))
            .collect()
    }

    /// Waits until they are these.
    fn wait_for(&self, expected: &BTreeSet<(u64, u64)>, daemon: &Daemon) {
        wait_for(|| {
            let found = self.read();
            if found == *expected {
                return Ok(());
            }
            let left: Vec<_> = found.difference(expected).take(8).collect();
            let gone: Vec<_> = expected.difference(&found).collect();
            Err(format!(
                "of {} labels {left:?} and so on are left, {gone:?} are missing; {}",
                found.len(),
                daemon.log()
            ))
        });
    }
}

fn wait_for(mut holds: impl FnMut() -> Result<(), String>) {
    let deadline = Instant::now() + SETTLED_TIMEOUT;
    while let Err(what) = holds() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Paths of the cgroups that the daemon knows to be somebody's.
fn owned(daemon: &Daemon) -> BTreeSet<String> {
    let cgroups = daemon.json(&["ps", "--json"]);
    let cgroups = cgroups.as_array().expect("ps is a list");
    cgroups
        .iter()
        .map(|cgroup| cgroup["path"].to_string())
        .collect()
}

/// A cgroup without anybody to keep it.
#[derive(Debug)]
struct Bare {
    path: PathBuf,
    id: u64,
}

impl Bare {
    fn make(path: PathBuf) -> Self {
        fs::create_dir(&path).unwrap_or_else(|error| panic!("make {path:?}: {error}"));
        let id = fs::metadata(&path).expect("it was made").ino();
        Self { path, id }
    }

    fn remove(self) {
        fs::remove_dir(&self.path).unwrap_or_else(|error| panic!("{:?}: {error}", self.path));
    }
}

fn adopt(cgroup: &Path, pid: u32) {
    fs::write(cgroup.join("cgroup.procs"), pid.to_string()).expect("move a process");
}

/// A scene with a daemon whose both slots are written, and one who goes from cgroup to cgroup.
struct Stage {
    daemon: Daemon,
    parent: Cgroup,
    home: Cgroup,
    _scene: Scene,
    labels: Labels,
    first: BTreeSet<(u64, u64)>,
    guest: Judge,
    targets: [SocketAddr; 2],
}

impl Stage {
    fn new() -> Self {
        let scene = Scene::new();
        let [parent, home] = ["churn", "home"].map(|name| scene.sandbox.cgroup(name));
        let daemon = Daemon::start(&scene.sandbox, &policy_with(AGENTS));
        daemon.swap(&policy_with(AGENTS));
        let labels = Labels::of(&daemon);
        let guest = Judge::start(&scene.sandbox.agent(&home));
        let targets =
            [Zone::Denied, Zone::Allowed].map(|zone| SocketAddr::new(scene.target(zone), PORT));
        Self {
            daemon,
            parent,
            home,
            _scene: scene,
            first: labels.read(),
            labels,
            guest,
            targets,
        }
    }

    /// Waits until the labels are those that were there at first.
    fn settle(&self) {
        self.labels.wait_for(&self.first, &self.daemon);
    }

    /// Waits until these cgroups have a label in the generation in force.
    fn wait_for_labels(&self, cgroups: &[&Bare]) {
        let generation = self.daemon.status()["generation"].as_u64();
        let slot = generation.expect("generations have numbers") & 1;
        wait_for(|| {
            let labels = self.labels.read();
            let missing = cgroups
                .iter()
                .find(|cgroup| !labels.contains(&(cgroup.id, slot)));
            missing.map_or(Ok(()), |cgroup| Err(format!("{cgroup:?} has no label")))
        });
    }

    fn make(&self, name: &str) -> Bare {
        Bare::make(self.parent.path().join(name))
    }

    /// What the guest is refused in that cgroup.
    fn refusals_in(&mut self, cgroup: &Bare) -> [bool; 2] {
        visit(&mut self.guest, &self.targets, self.home.path(), cgroup)
    }
}

/// What `guest` is refused in a cgroup. It goes home then.
fn visit(guest: &mut Judge, targets: &[SocketAddr; 2], home: &Path, cgroup: &Bare) -> [bool; 2] {
    adopt(&cgroup.path, guest.pid());
    let answers = guest.ask(*targets);
    adopt(home, guest.pid());
    [answers[0], answers[1]]
}

/// Cgroups side by side.
const ALIVE: usize = 64;

/// Makes that many cgroups and removes them, some alive at a time, the same names again and again.
fn churn(parent: &Path, count: usize, mut visit: impl FnMut(usize, &str, &Bare)) {
    let mut alive = VecDeque::new();
    let remove = |(cgroup, child): (Bare, Option<Bare>)| {
        child.into_iter().for_each(Bare::remove);
        cgroup.remove();
    };
    // Every fifth has another below it.
    for number in 0..count * 5 / 6 {
        let kind = ["agent", "other"][number % 2];
        let cgroup = Bare::make(parent.join(format!("{kind}-{}", number % (2 * ALIVE))));
        visit(number, kind, &cgroup);
        let child = (number % 5 == 0).then(|| Bare::make(cgroup.path.join("below")));
        alive.push_back((cgroup, child));
        if alive.len() > ALIVE {
            alive.drain(..1).for_each(remove);
        }
    }
    alive.into_iter().for_each(remove);
}

#[test]
fn a_hundred_thousand_cgroups_leave_nothing_behind() {
    const CGROUPS: usize = 100_000;
    let mut stage = Stage::new();
    let policy = policy_with(AGENTS);
    let owners = owned(&stage.daemon);
    let is_over = AtomicBool::new(false);
    let reloads = thread::scope(|scope| {
        let daemon = &stage.daemon;
        let reloading = scope.spawn(|| {
            let mut reloads = 0;
            while !is_over.load(Ordering::Relaxed) {
                daemon.swap(&policy);
                reloads += 1;
                // An answer, and some time without a reload.
                drop(owned(daemon));
            }
            reloads
        });
        let (guest, home) = (&mut stage.guest, stage.home.path());
        churn(stage.parent.path(), CGROUPS / 2, |number, kind, cgroup| {
            if number % 100 < 2 {
                let refusals = visit(guest, &stage.targets, home, cgroup);
                // Until it has its label, one that was made a moment ago is what is above it.
                let is_new = kind == "agent" && refusals == ENFORCED;
                assert!(is_new || refusals == FREE, "{kind}: {refusals:?}");
            }
        });
        is_over.store(true, Ordering::Relaxed);
        reloading.join().expect("policies are loaded")
    });
    assert!(reloads > 10, "{reloads} reloads meanwhile");
    stage.settle();

    // What is allocated once is allocated by now, and no reload tidies up after this.
    let resident = stage.daemon.resident_kib();
    churn(stage.parent.path(), CGROUPS / 2, |_, _, _| {});
    stage.settle();
    assert_eq!(owned(&stage.daemon), owners, "only live cgroups are listed");
    let grown = stage.daemon.resident_kib().saturating_sub(resident);
    assert!(grown < 4 << 10, "the daemon grew by {grown} KiB");
}

#[test]
fn a_cgroup_made_anew_under_its_old_path_is_judged_as_policy_says_now() {
    const ROUNDS: usize = 20;
    let mut stage = Stage::new();
    for round in 0..ROUNDS {
        let old = stage.make("agent-1");
        stage.wait_for_labels(&[&old]);
        assert_eq!(stage.refusals_in(&old), ENFORCED, "round {round}");
        old.remove();
        let new = stage.make("agent-1");
        stage.wait_for_labels(&[&new]);
        assert_eq!(stage.refusals_in(&new), ENFORCED, "round {round}");
        new.remove();
        stage.daemon.swap(&policy_with("robot-*"));
        let stranger = stage.make("agent-1");
        assert_eq!(stage.refusals_in(&stranger), FREE, "round {round}");
        stage.daemon.swap(&policy_with(AGENTS));
        stage.wait_for_labels(&[&stranger]);
        assert_eq!(stage.refusals_in(&stranger), ENFORCED, "round {round}");
        stage.daemon.swap(&policy_with("robot-*"));
        assert_eq!(stage.refusals_in(&stranger), FREE, "round {round}");
        stranger.remove();
        stage.daemon.swap(&policy_with(AGENTS));
    }
    stage.settle();
}

#[test]
fn cgroups_that_ended_unseen_leave_no_label() {
    /// Makes more reports than the daemon's ring holds.
    const UNSEEN: usize = 2_000;
    let mut stage = Stage::new();
    for is_killed in [true, false] {
        let agents: Vec<Bare> = (0..ALIVE)
            .map(|number| stage.make(&format!("agent-{}", 1_000 + number)))
            .collect();
        stage.wait_for_labels(&agents.iter().collect::<Vec<_>>());
        // Now they are labelled in both slots.
        stage.daemon.swap(&policy_with(AGENTS));
        if is_killed {
            stage.daemon.kill();
        } else {
            stage.daemon.signal(Signal::SIGSTOP);
        }
        churn(stage.parent.path(), UNSEEN, |_, _, _| {});
        agents.into_iter().for_each(Bare::remove);
        let late = stage.make("agent-1");
        if is_killed {
            stage.daemon.restart();
        } else {
            stage.daemon.signal(Signal::SIGCONT);
        }
        stage.wait_for_labels(&[&late]);
        assert_eq!(stage.refusals_in(&late), ENFORCED);
        late.remove();
        stage.settle();
    }
}
