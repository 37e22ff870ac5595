//! Programs that tests send to.

pub(crate) mod python;
pub(crate) mod syslog;
