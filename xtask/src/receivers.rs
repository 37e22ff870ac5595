//! Programs that tests send to.

pub(crate) mod syslog;
