//! The ways out of a host, and what stands at each: what `doctor` tells.

/// Whether a way is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Coverage {
    /// What policy denies does not get out this way.
    Closed,
    /// Cgroup hooks do not see it.
    Open,
}

/// One way out.
#[derive(Clone, Debug, serde::Serialize)]
pub(super) struct Route {
    /// Stable name for scripts.
    pub(super) id: &'static str,
    /// Whether it is judged.
    pub(super) coverage: Coverage,
    /// By what, or why not.
    pub(super) why: &'static str,
    /// What to do about an open one.
    pub(super) advice: Option<&'static str>,
}

const fn closed(id: &'static str, why: &'static str) -> Route {
    Route {
        id,
        coverage: Coverage::Closed,
        why,
        advice: None,
    }
}

const fn open(id: &'static str, why: &'static str, advice: &'static str) -> Route {
    Route {
        id,
        coverage: Coverage::Open,
        why,
        advice: Some(advice),
    }
}

/// Every way that is known, closed ones first.
pub(super) const ROUTES: &[Route] = &[
    closed("tcp", "connect4, connect6; egress judges each packet"),
    closed(
        "tcp-fast-open",
        "connect4, connect6 run before the first data",
    ),
    closed(
        "v4-mapped",
        "connect6, sendmsg6 judge the IPv4 address inside",
    ),
    closed(
        "mptcp",
        "sock_create refuses it to restricted identities: applications fall back to TCP",
    ),
    closed(
        "udp",
        "connect, sendmsg; egress judges what they do not see",
    ),
    closed("io-uring", "the same hooks run"),
    closed("ping-socket", "egress"),
    closed(
        "raw-socket",
        "sock_create, unless a role grants raw-sockets; egress in any case",
    ),
    closed(
        "other-protocol",
        "sock_create refuses SCTP, DCCP, UDP-Lite to restricted identities",
    ),
    closed("ipv6-routing-header", "egress drops it"),
    closed("ipv4-options", "egress drops them"),
    closed(
        "established-flow",
        "egress judges each packet by the generation in force",
    ),
    closed(
        "older-socket",
        "enrolment tags it; the caller is judged besides the tag",
    ),
    closed(
        "passed-unconnected-descriptor",
        "the caller is judged besides the tag",
    ),
    closed("listen", "bind; ingress judges each opening"),
    open(
        "af-packet",
        "packet sockets write frames below the IP layer",
        "withhold CAP_NET_RAW from the identity",
    ),
    open(
        "tun",
        "packets written to a TUN device belong to no socket",
        "withhold CAP_NET_ADMIN and /dev/net/tun from the identity",
    ),
    open(
        "vsock",
        "AF_VSOCK has no cgroup hook",
        "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX in its unit",
    ),
    open(
        "unix-socket",
        "a proxy that listens on a unix socket acts in its own name",
        "give the proxy an identity of its own, and hide its socket from others",
    ),
    open(
        "passed-connected-descriptor",
        "a connected socket that another process hands over keeps its owner's tag until the next enrolment",
        "keep others from handing sockets to the identity",
    ),
    open(
        "leave-cgroup-as-root",
        "who may write cgroup.procs elsewhere leaves its identity",
        "do not run it as root; do not delegate cgroups to it",
    ),
];
