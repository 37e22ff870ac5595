//! Set-up, build, demo, test and bench of agentguard.

fn main() {}
