//! Who is who: which cgroup belongs to which identity, and which number the kernel knows it by.

pub mod cgroups;
pub mod context;
pub mod launch;
pub mod registry;
pub mod select;
