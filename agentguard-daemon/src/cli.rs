//! The command line: nouns read, verbs change.
#![forbid(unsafe_code)]
#![expect(clippy::print_stderr, reason = "a command talks to people")]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "an answer to another question is an error, whichever it is"
)]

/// Prints a line to standard output, like `println!`, but ends quietly when the reader has gone.
macro_rules! say {
    ($($text:tt)*) => { $crate::cli::write_line(format_args!($($text)*)) };
}

mod audit;
mod daemon;
mod detach;
mod doctor;
mod events;
mod explain;
mod format;
mod limits;
mod policy;
mod ps;
mod query;
mod reload;
mod routes;
mod run;
mod since;
mod sinks;
mod stats;
mod status;

use std::{io, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

use crate::{
    audit::escape::escape,
    config::{self, Settings},
    control::{
        ErrorKind, Request, Response, access,
        client::{ClientError, ask},
    },
    daemon::{host, start::history_directory},
    history::HistoryError,
    policy::Diagnostics,
};

const EXIT_CODES: &str = "\
Exit codes:
  0   it is done, or the answer is yes
  1   the answer is no: a policy with errors, a denied connection, a host that cannot enforce
  64  the command line is wrong
  69  no daemon answers
  70  something that should work did not
  77  not permitted
  78  the settings are wrong

`run` ends as its command does, or with
  77  policy does not let you run as this identity
  126 the command cannot be run
  127 there is no such command";

/// Why a command did not do its work; the number is its exit code.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The answer is no, and was said already.
    #[error("")]
    No,
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Unavailable(String),
    #[error("{0}")]
    Internal(String),
    #[error("{0}")]
    NotPermitted(String),
    #[error("{0}")]
    Settings(String),
    #[error("{0}")]
    CannotRun(String),
    #[error("{0}")]
    NoCommand(String),
}

#[derive(Parser)]
#[command(name = "agentguard", version, about, after_help = EXIT_CODES)]
struct Arguments {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    command: Command,
}

/// Where the daemon of this call is.
#[derive(Args, Clone)]
struct Place {
    /// The settings file.
    #[arg(long, global = true, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
    /// The control socket, instead of the one in the settings.
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Run the daemon in the foreground.
    Daemon,
    /// Look at policy files.
    #[command(subcommand)]
    Policy(policy::Policy),
    /// Say what policy says of one connection, and by which rule.
    Explain(explain::Explain),
    /// Show how the daemon is, and what each identity did.
    Status(Output),
    /// Show which cgroups belong to whom, and why.
    Ps(Output),
    /// Show the limits in force: what is configured, used, left and refused.
    Limits(limits::Limits),
    /// Show what happened, and what comes.
    Events(events::Events),
    /// Ask the history in SQL.
    Query(query::Query),
    /// Show who did most, to whom, and by which rules.
    Stats(stats::Stats),
    /// Show how the sinks are, test one, or send records again.
    Sinks(sinks::Sinks),
    /// Check that the records are all there, and as they were written.
    #[command(subcommand)]
    Audit(audit::Audit),
    /// Load the policy anew.
    Reload(reload::Reload),
    /// Run a command as an identity, in a cgroup of its own.
    Run(run::Run),
    /// Check whether this host can enforce, route by route.
    Doctor(Output),
    /// End enforcement: remove what outlives the daemon.
    Detach(detach::Detach),
}

/// How to print.
#[derive(Args, Clone, Copy)]
struct Output {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command line.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are answers, not errors.
            let code = if error.use_stderr() { 64 } else { 0 };
            return match error.print() {
                Ok(()) => ExitCode::from(code),
                Err(_) => ExitCode::from(70),
            };
        }
    };
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !matches!(failure, Failure::No) {
                eprintln!("agentguard: {failure}");
            }
            ExitCode::from(failure.code())
        }
    }
}

fn run(arguments: Arguments) -> Result<(), Failure> {
    let place = arguments.place;
    match arguments.command {
        Command::Daemon => daemon::run(&place),
        Command::Policy(policy) => policy.run(&place),
        Command::Explain(explain) => explain.run(&place),
        Command::Status(output) => status::run(&place, output),
        Command::Ps(output) => ps::run(&place, output),
        Command::Limits(limits) => limits.run(&place),
        Command::Events(events) => events.run(&place),
        Command::Query(query) => query.run(&place),
        Command::Stats(stats) => stats.run(&place),
        Command::Sinks(sinks) => sinks.run(&place),
        Command::Audit(audit) => audit.run(&place),
        Command::Reload(reload) => reload.run(&place),
        Command::Run(run) => run.run(&place),
        Command::Doctor(output) => doctor::run(&place, output),
        Command::Detach(detach) => detach.run(&place),
    }
}

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Self::No => 1,
            Self::Usage(_) => 64,
            Self::Unavailable(_) => 69,
            Self::Internal(_) => 70,
            Self::NotPermitted(_) => 77,
            Self::Settings(_) => 78,
            Self::CannotRun(_) => 126,
            Self::NoCommand(_) => 127,
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let is_refused = matches!(
            &error,
            ClientError::Connect { source, .. } if source.kind() == io::ErrorKind::PermissionDenied
        );
        match error {
            ClientError::Connect { .. } if is_refused => Self::NotPermitted(error.to_string()),
            ClientError::Connect { .. } | ClientError::Broken(_) => {
                Self::Unavailable(error.to_string())
            }
            ClientError::Answer(_) => Self::Internal(error.to_string()),
        }
    }
}

impl From<HistoryError> for Failure {
    fn from(error: HistoryError) -> Self {
        Self::Internal(error.to_string())
    }
}

impl Place {
    fn settings(&self) -> Result<Settings, Failure> {
        host::read_settings(&self.config)
            .map_err(|diagnostics| Failure::Settings(render(&diagnostics)))
    }

    /// Where the history is, which must be there and readable.
    fn history(&self) -> Result<PathBuf, Failure> {
        let directory = history_directory(&self.settings()?);
        match std::fs::read_dir(&directory) {
            Ok(_) => Ok(directory),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Err(Failure::NotPermitted(format!(
                    "cannot read {}: needs root, or membership in the group `{}`",
                    directory.display(),
                    access::GROUP
                )))
            }
            Err(error) => Err(Failure::Unavailable(format!(
                "no history at {}: {error}; has the daemon ever run?",
                directory.display()
            ))),
        }
    }

    /// Asks the daemon; a request that it refuses is a failure of this command.
    fn ask(
        &self,
        request: &Request,
    ) -> Result<impl Iterator<Item = Result<Response, Failure>>, Failure> {
        let socket = match &self.socket {
            Some(socket) => socket.clone(),
            None => self.settings()?.control_socket,
        };
        Ok(ask(&socket, request)?.map(|answer| match answer? {
            Response::Error { kind, message } => Err(match kind {
                ErrorKind::NotPermitted => Failure::NotPermitted(message),
                ErrorKind::BadArgument => Failure::Usage(message),
                ErrorKind::Unavailable | ErrorKind::TooSlow => Failure::Unavailable(message),
                ErrorKind::BadRequest | ErrorKind::Failed => Failure::Internal(message),
            }),
            response => Ok(response),
        }))
    }

    /// The one answer to `request`.
    fn ask_once(&self, request: &Request) -> Result<Response, Failure> {
        self.ask(request)?
            .next()
            .unwrap_or_else(|| Err(Failure::Unavailable("the daemon gave no answer".into())))
    }
}

/// An answer to another question.
fn unexpected(response: &Response) -> Failure {
    Failure::Internal(format!("the daemon answered {response:?}"))
}

fn write_line(text: std::fmt::Arguments<'_>) {
    use std::io::Write as _;
    if let Err(error) = writeln!(io::stdout(), "{text}") {
        let is_gone = error.kind() == io::ErrorKind::BrokenPipe;
        std::process::exit(if is_gone { 0 } else { 70 });
    }
}

fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::Internal(error.to_string()))?;
    say!("{text}");
    Ok(())
}

/// Findings for standard error.
fn render(diagnostics: &Diagnostics) -> String {
    diagnostics.render(wants_colour(&io::stderr()))
}

/// Whether what is written there may have colours: it is a terminal, and nobody objects
/// (<https://no-color.org>).
fn wants_colour(to: &impl io::IsTerminal) -> bool {
    to.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Text of a policy or path, safe to print on a terminal.
fn printable(text: &str) -> String {
    escape(text.as_bytes(), usize::MAX).text
}

/// Rows below headings, each column as wide as its widest cell.
fn print_table<const N: usize>(headings: [&str; N], rows: &[[String; N]]) {
    let widths: [usize; N] = std::array::from_fn(|column| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .chain([headings[column].len()])
            .max()
            .unwrap_or(0)
    });
    let print = |row: [&str; N]| {
        let cells: Vec<String> = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        say!("{}", cells.join("  ").trim_end());
    };
    print(headings);
    for row in rows {
        print(std::array::from_fn(|column| row[column].as_str()));
    }
}
