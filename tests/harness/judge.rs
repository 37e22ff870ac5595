//! A process of an identity that asks the kernel for many verdicts and says what it answered.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr},
    process::{Child, Command},
};

use crate::agent::{Agent, probe_path};

/// The process. Dropping it kills it.
#[derive(Debug)]
pub struct Judge(Child);

impl From<Child> for Judge {
    /// Of a probe that was told to judge.
    fn from(child: Child) -> Self {
        Self(child)
    }
}

impl Judge {
    /// Starts it.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    #[must_use]
    pub fn start(agent: &Agent<'_>) -> Self {
        let mut command = Command::new(probe_path());
        command.arg("judge");
        Self::from(agent.spawn(command))
    }

    /// Whether the kernel refuses a UDP `connect` to each of `targets`, for policy.
    ///
    /// # Panics
    ///
    /// If the process is dead.
    pub fn ask(&mut self, targets: impl IntoIterator<Item = SocketAddr>) -> Vec<bool> {
        let mut questions = Vec::new();
        let mut count: u32 = 0;
        for target in targets {
            let address = match target.ip() {
                IpAddr::V4(address) => address.to_ipv6_mapped(),
                IpAddr::V6(address) => address,
            };
            questions.extend(address.octets());
            questions.extend(target.port().to_be_bytes());
            count += 1;
        }
        let stdin = self.0.stdin.as_mut().expect("stdin is piped");
        stdin
            .write_all(&count.to_ne_bytes())
            .expect("the judge reads");
        stdin.write_all(&questions).expect("the judge reads");
        stdin.flush().expect("the judge reads");
        let mut answers = vec![0; count as usize];
        let stdout = self.0.stdout.as_mut().expect("stdout is piped");
        stdout.read_exact(&mut answers).expect("the judge answers");
        answers.into_iter().map(|answer| answer == 1).collect()
    }
}

impl Drop for Judge {
    fn drop(&mut self) {
        // Both fail only for a process that has ended already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
