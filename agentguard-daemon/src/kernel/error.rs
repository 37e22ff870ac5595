//! What can go wrong between the daemon and the kernel.

/// An error of the kernel side.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The running kernel lacks something that agentguard needs.
    #[error("this kernel does not support {what}")]
    Unsupported {
        /// What it lacks.
        what: String,
    },
}
