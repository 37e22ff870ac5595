//! What an end-to-end test stands on: its own cgroup, network namespaces, daemon and probes.
