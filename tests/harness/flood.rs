//! Floods of new flows, and what they were told.

use std::{
    net::{IpAddr, SocketAddr},
    process::{Child, Command},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    agent::{Agent, probe_path},
    world::PORT,
};

/// Waits until no other test floods, and keeps others from it. Dozens of threads that ask for all that
/// the machine can do leave each other too little to press on a limit.
pub fn take_turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    // A test that failed has ended its floods.
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts to ask for so many flows a second, with UDP connects, for a time of whole seconds.
pub fn start(agent: &Agent, threads: u32, per_second: u32, time: Duration, to: IpAddr) -> Child {
    let mut command = Command::new(probe_path());
    command
        .arg("flood")
        .arg(time.as_secs().to_string())
        .args([threads, per_second].map(|number| number.to_string()))
        .arg(SocketAddr::new(to, PORT).to_string());
    agent.spawn(command)
}

/// Waits for the end of a flood.
///
/// # Panics
///
/// When it does not say what became of it.
#[must_use]
pub fn end(flood: Child) -> Flood {
    let output = flood.wait_with_output().expect("a flood ends");
    serde_json::from_slice(&output.stdout).expect("a flood says what became of it")
}

/// Flows that were asked for, and what became of them.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Flood {
    /// How many.
    pub asked: u64,
    /// Those that were opened.
    pub passed: u64,
    /// Those that were over a limit.
    pub limited: u64,
    /// Those that were refused.
    pub denied: u64,
    /// From before the first to after the last, on the boot clock.
    pub time_ns: u64,
    /// How many were asked for in each millisecond since the start. A machine that is slow, or that
    /// stalls, asks less: no limit is to blame for that.
    pub asked_in: Vec<u32>,
}

impl Flood {
    /// Counts a flow that is asked for now.
    pub fn note_ask(&mut self, age: Duration) {
        let millisecond = usize::try_from(age.as_millis()).expect("a short flood");
        if self.asked_in.len() <= millisecond {
            self.asked_in.resize(millisecond + 1, 0);
        }
        self.asked_in[millisecond] += 1;
        self.asked += 1;
    }

    /// What two did at the same time.
    #[must_use]
    pub fn joined_with(mut self, other: &Self) -> Self {
        if self.asked_in.len() < other.asked_in.len() {
            self.asked_in.resize(other.asked_in.len(), 0);
        }
        for (sum, one) in self.asked_in.iter_mut().zip(&other.asked_in) {
            *sum += one;
        }
        self.asked += other.asked;
        self.passed += other.passed;
        self.limited += other.limited;
        self.denied += other.denied;
        self
    }

    /// How many of these an exact token bucket of `burst` tokens, `rate` of which come back each
    /// second, lets pass.
    #[must_use]
    pub fn passed_by_exact(&self, rate: u32, burst: u32) -> u64 {
        const MILLISECONDS: u64 = 1_000;
        // Of a token, a thousandth: what comes back in a millisecond is a whole number of them.
        let full = u64::from(burst) * MILLISECONDS;
        let mut left = full;
        let mut passed = 0;
        for asked in &self.asked_in {
            let passing = u64::from(*asked).min(left / MILLISECONDS);
            passed += passing;
            left = full.min(left - passing * MILLISECONDS + u64::from(rate));
        }
        passed
    }
}
