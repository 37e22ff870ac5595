//! The policy of a host in the user's words, and its compiled form.

pub mod compiled;
