//! Who is who: which cgroup belongs to which identity, and which number the kernel knows it by.

mod built_in;
pub mod cgroups;
pub mod context;
pub mod execution;
pub mod launch;
pub mod registry;
pub mod resolve;
pub mod select;
