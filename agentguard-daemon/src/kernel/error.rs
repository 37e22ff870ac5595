//! What can go wrong between the daemon and the kernel.

use std::{io, path::PathBuf};

/// An error of the kernel side.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The running kernel lacks something that agentguard needs.
    #[error("this kernel does not support {what}")]
    Unsupported {
        /// What it lacks.
        what: String,
    },
    /// The binary was built without its kernel programs.
    #[error("built without its kernel programs: run `cargo xtask build`")]
    NoObject,
    /// A file or directory could not be used.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The object as a whole did not load.
    #[error("loading the kernel programs")]
    Load(#[from] aya::EbpfError),
    /// One program did not load or attach.
    #[error("program `{name}`")]
    Program {
        /// Its name.
        name: String,
        /// Why.
        source: aya::programs::ProgramError,
    },
    /// One program cannot be attached beside what is there.
    #[error(
        "program `{name}`: somebody else's program has this hook for itself, on the cgroup root or \
         above it; `bpftool cgroup tree` shows whose: let it be attached with the flag `multi`, or \
         remove it"
    )]
    Occupied {
        /// Its name.
        name: String,
    },
    /// A map is missing in the object.
    #[error("map `{name}` not found")]
    NoMap {
        /// Its name.
        name: &'static str,
    },
    /// A map could not be used.
    #[error("map `{name}`")]
    Map {
        /// Its name.
        name: &'static str,
        /// Why.
        source: aya::maps::MapError,
    },
    /// A link could not be pinned or replaced.
    #[error("link `{name}`: {what}")]
    Link {
        /// Name of its program.
        name: String,
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// A record of a ring buffer that is none of ours.
    #[error("a record of {length} bytes in `{ring}` does not decode")]
    Record {
        /// The ring.
        ring: &'static str,
        /// Length of the record.
        length: usize,
    },
}
