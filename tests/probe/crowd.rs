//! Makes children in every way there is, each of which asks the kernel for two verdicts: together they
//! tell who it is taken for.

use std::{
    collections::BTreeMap,
    env,
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    net::SocketAddr,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

use agentguard_tests::crowd::Tally;
use nix::unistd::{ForkResult, Pid, fork};

use crate::children::{self, Program};
use crate::storm;

/// How children come about in one round. Starting a program takes as long as many forks.
const ROUND: [(&str, u32); 9] = [
    ("fork", 24),
    ("orphan", 8),
    ("thread", 8),
    ("headless", 4),
    ("clone into", 24),
    ("fork and exec", 1),
    ("exec by a thread", 1),
    ("spawn", 1),
    ("clone into and exec", 1),
];

/// Moves of one process from cgroup to cgroup and back in one round.
const MOVES: u32 = 2;

/// Makes `rounds` rounds of children here and in the cgroup `there`, and reports a list of tallies.
pub(crate) fn run(
    rounds: u32,
    here: &Path,
    there: &Path,
    targets: [SocketAddr; 2],
) -> io::Result<()> {
    let mut arguments = vec!["answer".to_owned()];
    arguments.extend(targets.iter().map(ToString::to_string));
    // Threads use it, and this process ends with it.
    let program: &Program = Box::leak(Box::new(Program::new(&env::current_exe()?, &arguments)?));
    let cgroup = File::open(there)?;
    let mut traveller = Traveller::start(targets)?;
    let mut tallies: BTreeMap<(&str, bool), [u32; 8]> = BTreeMap::new();
    let mut note = |way, is_there, answer: u8| {
        tallies.entry((way, is_there)).or_default()[usize::from(answer) & 7] += 1;
    };
    let ask = move || answer(targets);
    for _ in 0..rounds {
        for (way, count) in ROUND {
            for _ in 0..count {
                let answer = match way {
                    "fork" => children::fork_child(ask),
                    "orphan" => children::fork_orphan(ask),
                    "thread" => children::fork_thread(ask),
                    "headless" => children::fork_headless(ask),
                    "clone into" => children::clone_child(Some(&cgroup), None, ask),
                    "fork and exec" => children::fork_exec(program),
                    "exec by a thread" => children::fork_thread_exec(program),
                    "spawn" => children::spawn(program),
                    _ => children::clone_exec(&cgroup, program),
                }?;
                note(way, way.starts_with("clone into"), answer);
            }
        }
        for _ in 0..MOVES {
            for (is_there, directory) in [(true, there), (false, here)] {
                note("moved", is_there, traveller.ask_from(directory)?);
            }
        }
    }
    let tally = |((way, is_there), answers): ((&str, bool), [u32; 8])| Tally {
        way: way.to_owned(),
        is_there,
        answers,
    };
    let tallies: Vec<Tally> = tallies.into_iter().map(tally).collect();
    serde_json::to_writer(io::stdout(), &tallies)?;
    Ok(())
}

/// What the kernel says to both targets, as [`Tally::answers`] has it.
pub(crate) fn answer(targets: [SocketAddr; 2]) -> u8 {
    let bit_of = |(target, bit)| match storm::connect(target) {
        Ok(()) => 0,
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => bit,
        Err(_) => 4,
    };
    targets
        .into_iter()
        .zip([1, 2])
        .map(bit_of)
        .fold(0, |all, bit| all | bit)
}

/// A child that lives on and is moved by others. It ends when nobody can ask it any more.
struct Traveller {
    pid: Pid,
    wire: UnixStream,
    doors: Vec<(PathBuf, File)>,
}

impl Traveller {
    fn start(targets: [SocketAddr; 2]) -> io::Result<Self> {
        let (wire, mut other) = UnixStream::pair()?;
        // SAFETY: this process has one thread, and the child ends without returning.
        match unsafe { fork() }? {
            ForkResult::Child => {
                drop(wire);
                let mut byte = [0];
                while other.read_exact(&mut byte).is_ok()
                    && other.write_all(&[answer(targets)]).is_ok()
                {}
                children::end(0)
            }
            ForkResult::Parent { child } => Ok(Self {
                pid: child,
                wire,
                doors: Vec::new(),
            }),
        }
    }

    fn ask_from(&mut self, cgroup: &Path) -> io::Result<u8> {
        if !self.doors.iter().any(|(path, _)| path == cgroup) {
            let door = cgroup.join("cgroup.procs");
            let door = OpenOptions::new().write(true).open(door)?;
            self.doors.push((cgroup.to_owned(), door));
        }
        for (path, door) in &mut self.doors {
            if path == cgroup {
                door.write_all(self.pid.to_string().as_bytes())?;
            }
        }
        let mut byte = [0];
        self.wire.write_all(&byte)?;
        self.wire.read_exact(&mut byte)?;
        Ok(byte[0])
    }
}
