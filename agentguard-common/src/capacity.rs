//! Map capacities. What is larger than a map is refused when policy is compiled, never at run time.

/// Identities that can exist in one boot, the built-in ones included. Ids are not reused within a
/// boot, so that a socket tagged long ago never becomes somebody else's.
pub const MAX_IDENTITIES: u32 = 8_192;

/// Address prefixes in one policy generation.
pub const MAX_ADDRESSES: u32 = 1_000_000;

/// Cells `(profile, direction, protocol, address class, port class)` in one policy generation.
pub const MAX_RULES: u32 = 1_000_000;

/// Labelled cgroups over both generation slots.
pub const MAX_CGROUPS: u32 = 131_072;

/// Bytes in the ring of audit events: about 22,000 events.
pub const AUDIT_RING_BYTES: u32 = 1 << 22;

/// What each identity may write into the ring while more than half of it is taken: so many events at
/// once, and so many a second. What is over it is counted and not written, so that nobody's flood takes
/// the room of the others.
pub const EVENT_BUDGET_BURST: u32 = 512;
/// As [`EVENT_BUDGET_BURST`].
pub const EVENT_BUDGET_RATE: u32 = 2_000;

/// Bytes in the ring of cgroup events.
pub const CGROUP_RING_BYTES: u32 = 1 << 18;

/// Ancestors of a cgroup that the kernel programs look at. A cgroup nested deeper is judged as its
/// nearest labelled ancestor within this many levels from the root.
pub const MAX_CGROUP_DEPTH: u32 = 32;

/// Processes that carry a label. A process forked when the map is full is judged by its cgroup alone,
/// and counted.
pub const MAX_PROCESSES: u32 = 131_072;

/// Choices in one policy generation.
pub const MAX_CHOICES: u32 = 16_384;

/// Sets of executable globs that one path can match, in one policy generation.
pub const MAX_EXECUTABLE_SETS: u32 = 8_192;

/// Transitions of the automaton over executable paths in one policy generation.
pub const MAX_TRANSITIONS: u32 = 4_000_000;

/// Users and groups that the selectors of one policy generation name, over both slots.
pub const MAX_USERS: u32 = 131_072;

/// Files that are known by their hash, over both slots.
pub const MAX_HASHED_FILES: u32 = 16_384;

/// Bytes in the ring of execs: about 900 execs.
pub const PROCESS_RING_BYTES: u32 = 1 << 20;

/// Limiters: one for each identity of a boot, the others for rules and for what is counted apart by
/// process, cgroup or destination.
pub const MAX_LIMITERS: u32 = 16_384;

/// Processes, cgroups and destinations that are counted apart, over all limiters.
pub const MAX_BUCKETS: u32 = 262_144;

/// The most of them that one limiter may have.
pub const MAX_BUCKETS_OF_ONE: u32 = 8_192;

/// Limits of rules, over both slots.
pub const MAX_RULE_LIMITERS: u32 = 16_384;
