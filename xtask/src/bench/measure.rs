//! What is measured, and what it is aimed at.

/// One kind of call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Measure {
    UdpConnect,
    UdpRepeat,
    UdpSend,
    UdpSendTo,
    TcpConnect,
    TcpStream,
}

/// The most that one call may cost with agentguard.
#[derive(Clone, Copy)]
pub(super) enum Aim {
    /// Nanoseconds above bare.
    Added(f64),
    /// Times bare.
    Ratio(f64),
}

impl Measure {
    pub(super) const ALL: [Self; 6] = [
        Self::UdpConnect,
        Self::UdpRepeat,
        Self::UdpSend,
        Self::UdpSendTo,
        Self::TcpConnect,
        Self::TcpStream,
    ];

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|measure| measure.name() == name)
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::UdpConnect => "udp-connect",
            Self::UdpRepeat => "udp-repeat",
            Self::UdpSend => "udp-send",
            Self::UdpSendTo => "udp-sendto",
            Self::TcpConnect => "tcp-connect",
            Self::TcpStream => "tcp-stream",
        }
    }

    pub(super) const fn describe(self) -> &'static str {
        match self {
            Self::UdpConnect => "UDP connect, a new peer each time, its event written",
            Self::UdpRepeat => "UDP connect, the same peer again",
            Self::UdpSend => "UDP send, 64 bytes, connected",
            Self::UdpSendTo => "UDP sendto, 64 bytes, one peer",
            Self::TcpConnect => "TCP connect + close, its events written",
            Self::TcpStream => "TCP stream, 64 KiB in a call, all that one flow can send",
        }
    }

    /// Calls in one round: about a millisecond, so that most rounds go undisturbed, and far fewer events
    /// than the ring holds.
    pub(super) const fn calls(self) -> u32 {
        match self {
            Self::TcpConnect => 40,
            Self::TcpStream => 200,
            Self::UdpSend | Self::UdpSendTo => 300,
            Self::UdpConnect | Self::UdpRepeat => 1_000,
        }
    }

    /// Whether agentguard writes events of it.
    pub(super) const fn has_events(self) -> bool {
        matches!(self, Self::UdpConnect | Self::TcpConnect)
    }

    pub(super) const fn aim(self) -> Aim {
        match self {
            Self::UdpConnect | Self::UdpRepeat => Aim::Added(250.0),
            Self::UdpSend | Self::UdpSendTo => Aim::Ratio(1.12),
            Self::TcpConnect => Aim::Ratio(1.07),
            // 0.95 of the throughput.
            Self::TcpStream => Aim::Ratio(1.053),
        }
    }
}
