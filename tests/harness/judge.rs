//! A process of an identity that asks the kernel for many verdicts and says what it answered.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    process::{Child, Command},
};

use crate::agent::{Agent, probe_path};

/// Bytes of a question on its way to the process.
pub const QUESTION_BYTES: usize = 26;

/// Bytes of an answer: `errno`, or 0.
pub const ANSWER_BYTES: usize = 4;

/// What the process tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Call {
    /// `connect` of a UDP socket: the whole hook runs, and nothing is sent.
    UdpConnect,
    /// The same, with the socket bound to the local port before, and kept under the serial.
    UdpKeep,
    /// `send` of the marker on the socket kept under the serial, which is then closed.
    UdpSendKept,
    /// `connect` of a TCP socket. All of a batch go on side by side until each has its end.
    TcpConnect,
    /// The same, waited for, and kept under the serial.
    TcpKeep,
    /// `bind` of a TCP socket to the local port, on all addresses.
    TcpBind,
    /// `bind` of a UDP socket to the local port, on all addresses.
    UdpBind,
    /// An echo request with the marker through an ICMP datagram socket.
    Ping,
    /// An echo request with the marker through a raw socket.
    RawIcmp,
    /// A UDP packet with the marker through a raw socket.
    RawUdp,
    /// A TCP segment with the marker through a raw socket.
    RawTcp,
    /// A packet of a protocol without ports with the marker through a raw socket.
    RawOther,
}

const CALLS: [Call; 12] = [
    Call::UdpConnect,
    Call::UdpKeep,
    Call::UdpSendKept,
    Call::TcpConnect,
    Call::TcpKeep,
    Call::TcpBind,
    Call::UdpBind,
    Call::Ping,
    Call::RawIcmp,
    Call::RawUdp,
    Call::RawTcp,
    Call::RawOther,
];

/// One question.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// What is tried.
    pub call: Call,
    /// Names the marker, and what is kept.
    pub serial: u32,
    /// The other end. An IPv4-mapped address is asked for over an IPv6 socket.
    pub remote: SocketAddr,
    /// The port at this end, for calls that name one.
    pub local_port: u16,
}

impl Question {
    /// Whether the kernel lets a UDP `connect` to `remote` pass.
    #[must_use]
    pub const fn udp_connect(remote: SocketAddr) -> Self {
        Self {
            call: Call::UdpConnect,
            serial: 0,
            remote,
            local_port: 0,
        }
    }

    /// What packets of this question carry.
    #[must_use]
    pub fn marker(&self) -> String {
        format!("agentguard-judge-{:08}", self.serial)
    }

    fn to_bytes(self) -> [u8; QUESTION_BYTES] {
        let mut bytes = [0; QUESTION_BYTES];
        let (family, address) = match self.remote.ip() {
            IpAddr::V4(address) => (4, address.to_ipv6_mapped()),
            IpAddr::V6(address) => (6, address),
        };
        bytes[0] = self.call as u8;
        bytes[1] = family;
        bytes[2..6].copy_from_slice(&self.serial.to_ne_bytes());
        bytes[6..22].copy_from_slice(&address.octets());
        bytes[22..24].copy_from_slice(&self.remote.port().to_ne_bytes());
        bytes[24..26].copy_from_slice(&self.local_port.to_ne_bytes());
        bytes
    }

    /// Reads what [`Judge::put`] wrote; `None` if it did not.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: [u8; QUESTION_BYTES] = bytes.try_into().ok()?;
        let [call, family, rest @ ..] = bytes;
        let (serial, rest) = rest.split_first_chunk()?;
        let (address, rest) = rest.split_first_chunk::<16>()?;
        let (port, rest) = rest.split_first_chunk()?;
        let (local_port, _) = rest.split_first_chunk()?;
        let address = Ipv6Addr::from(*address);
        let address = match family {
            4 => address.to_ipv4_mapped()?.into(),
            _ => address.into(),
        };
        Some(Self {
            call: *CALLS.get(usize::from(call))?,
            serial: u32::from_ne_bytes(*serial),
            remote: SocketAddr::new(address, u16::from_ne_bytes(*port)),
            local_port: u16::from_ne_bytes(*local_port),
        })
    }
}

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

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// What the kernel says to each question: `errno`, or 0.
    ///
    /// # Panics
    ///
    /// If the process is dead.
    pub fn put(&mut self, questions: &[Question]) -> Vec<i32> {
        let count = u32::try_from(questions.len()).expect("a batch is small");
        let mut batch = count.to_ne_bytes().to_vec();
        batch.extend(questions.iter().flat_map(|question| question.to_bytes()));
        let stdin = self.0.stdin.as_mut().expect("stdin is piped");
        stdin.write_all(&batch).expect("the judge reads");
        stdin.flush().expect("the judge reads");
        let mut answers = vec![0; questions.len() * ANSWER_BYTES];
        let stdout = self.0.stdout.as_mut().expect("stdout is piped");
        stdout.read_exact(&mut answers).expect("the judge answers");
        let (answers, _) = answers.as_chunks();
        answers.iter().copied().map(i32::from_ne_bytes).collect()
    }

    /// Whether the kernel refuses a UDP `connect` to each of `targets`, for policy.
    ///
    /// # Panics
    ///
    /// If the process is dead.
    pub fn ask(&mut self, targets: impl IntoIterator<Item = SocketAddr>) -> Vec<bool> {
        let questions: Vec<Question> = targets.into_iter().map(Question::udp_connect).collect();
        self.put(&questions).into_iter().map(is_refusal).collect()
    }
}

/// Whether `errno` is how policy refuses.
#[must_use]
pub const fn is_refusal(errno: i32) -> bool {
    errno == libc::EPERM
}

impl Drop for Judge {
    fn drop(&mut self) {
        // Both fail only for a process that has ended already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
