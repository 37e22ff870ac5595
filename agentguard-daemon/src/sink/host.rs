//! The host that records come from.

/// Its name, as far as it has one.
pub(super) fn name() -> String {
    nix::unistd::gethostname().map_or_else(
        |_unnamed| String::new(),
        |name| name.to_string_lossy().into_owned(),
    )
}
