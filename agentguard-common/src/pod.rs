//! Every promise to aya that a type may be copied to and from kernel maps as bytes.

use crate::{
    audit::Counters,
    cgroup::{Label, LabelKey},
    connection::Address,
    executable::{FileKey, HashedFile},
    fact::{Choice, ExecutableSet, UserKey},
    identity::{AgentId, IdentityRecord},
    limit::{Bucket, BucketKey, LimitState, Limits, RuleLimiterKey},
    policy::RuleKey,
    process::ProcessLabel,
};

// SAFETY: transparent over `[u8; 16]`.
unsafe impl aya::Pod for Address {}
// SAFETY: transparent over `u32`.
unsafe impl aya::Pod for AgentId {}
// SAFETY: `repr(C)` of u64s; `IntoBytes` proves that it has no padding.
unsafe impl aya::Pod for Counters {}
// SAFETY: `repr(C)`; `IntoBytes` proves that it has no padding and `FromBytes` that all bits are valid.
unsafe impl aya::Pod for IdentityRecord {}
// SAFETY: as for `IdentityRecord`.
unsafe impl aya::Pod for Bucket {}
// SAFETY: as for `IdentityRecord`.
unsafe impl aya::Pod for BucketKey {}
// SAFETY: as for `IdentityRecord`.
unsafe impl aya::Pod for LimitState {}
// SAFETY: as for `IdentityRecord`.
unsafe impl aya::Pod for Limits {}
// SAFETY: as for `IdentityRecord`.
unsafe impl aya::Pod for RuleLimiterKey {}
// SAFETY: as for `IdentityRecord`.
unsafe impl aya::Pod for Label {}
// SAFETY: as for `IdentityRecord`.
unsafe impl aya::Pod for LabelKey {}
// SAFETY: as for `IdentityRecord`.
unsafe impl aya::Pod for RuleKey {}
// SAFETY: as for `IdentityRecord`.
unsafe impl aya::Pod for Choice {}
// SAFETY: as for `IdentityRecord`.
unsafe impl aya::Pod for ExecutableSet {}
// SAFETY: as for `IdentityRecord`.
unsafe impl aya::Pod for FileKey {}
// SAFETY: as for `IdentityRecord`.
unsafe impl aya::Pod for HashedFile {}
// SAFETY: as for `IdentityRecord`.
unsafe impl aya::Pod for ProcessLabel {}
// SAFETY: as for `IdentityRecord`.
unsafe impl aya::Pod for UserKey {}
