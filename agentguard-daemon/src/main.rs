//! The `agentguard` command: the daemon and its CLI.

fn main() -> std::process::ExitCode {
    agentguard_daemon::cli::main()
}
