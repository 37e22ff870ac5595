//! The settings file: where things are, and what may be missing.
#![forbid(unsafe_code)]

pub mod audit;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Deserializer, de::Error as _};

use self::audit::{HistorySettings, Sinks};
use crate::policy::{Diagnostic, Diagnostics, Source, source::Place};

/// Where the settings file is unless the command line says otherwise.
pub const DEFAULT_PATH: &str = "/etc/agentguard/agentguard.toml";

/// The settings of a daemon and of the commands that speak to it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Settings {
    /// The cgroup that everything judged lives below; `None` is the cgroup v2 mount.
    pub cgroup_root: Option<PathBuf>,
    /// Drop-in directories of policy, in rising precedence.
    pub policy_dirs: Vec<PathBuf>,
    /// Where maps and links are pinned.
    pub bpffs: PathBuf,
    /// What must survive a restart.
    pub state_dir: PathBuf,
    /// Where the daemon listens for commands.
    pub control_socket: PathBuf,
    /// Whether to go on where the kernel lacks something that enforcement needs.
    pub allow_degraded: bool,
    /// What is kept of events on this host.
    pub history: HistorySettings,
    /// Where events go besides, by the names of the sinks.
    pub sinks: Sinks,
    /// Where metrics are served, if they are.
    pub metrics: Option<Endpoint>,
}

/// Where metrics are served.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "EndpointTable")]
pub enum Endpoint {
    /// On a loopback address, for everybody on this host.
    Listen(SocketAddr),
    /// On a unix socket, for root and the readers' group.
    Socket(PathBuf),
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct EndpointTable {
    #[serde(default, deserialize_with = "loopback")]
    listen: Option<SocketAddr>,
    socket: Option<PathBuf>,
}

impl TryFrom<EndpointTable> for Endpoint {
    type Error = &'static str;

    // What follows "expected" becomes the mend, see `diagnose`.
    fn try_from(table: EndpointTable) -> Result<Self, Self::Error> {
        match (table.listen, table.socket) {
            (Some(address), None) => Ok(Self::Listen(address)),
            (None, Some(path)) => Ok(Self::Socket(path)),
            (None, None) => Err("neither `listen` nor `socket` is given, expected one of them"),
            (Some(_), Some(_)) => Err("both `listen` and `socket` are given, expected one of them"),
        }
    }
}

fn loopback<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let refuse = |what| {
        let examples = "`127.0.0.1:9464` or `[::1]:9464`";
        D::Error::custom(format!("`{text}` {what}, expected {examples}"))
    };
    let Ok(address) = text.parse::<SocketAddr>() else {
        return Err(refuse("is not an address with a port"));
    };
    if !address.ip().is_loopback() {
        return Err(refuse("is not a loopback address"));
    }
    if address.port() == 0 {
        return Err(refuse("names no port"));
    }
    Ok(Some(address))
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cgroup_root: None,
            policy_dirs: ["/usr/lib", "/run", "/etc"]
                .map(|prefix| Path::new(prefix).join("agentguard/policy.d"))
                .to_vec(),
            bpffs: "/run/agentguard/bpf".into(),
            state_dir: "/var/lib/agentguard".into(),
            control_socket: "/run/agentguard/control.sock".into(),
            allow_degraded: false,
            history: HistorySettings::default(),
            sinks: Sinks::default(),
            metrics: None,
        }
    }
}

/// Reads the text of a settings file that is at `path`.
///
/// # Errors
///
/// What is wrong with it: where, and how to mend it.
pub fn parse(path: &Path, text: &str) -> Result<Settings, Diagnostics> {
    let source = Source::new(path, text);
    let settings: Settings = toml::from_str(text).map_err(|error| {
        let mut diagnostics = Diagnostics::default();
        diagnostics.push(diagnose(&source, &error));
        diagnostics
    })?;
    let mut diagnostics = Diagnostics::default();
    diagnostics.extend(settings.relative_paths().into_iter().map(|(key, path)| {
        let quoted = path.display().to_string();
        Diagnostic::error(format!("`{key}` is not an absolute path"))
            .at(place_of(&source, &quoted))
            .help(format!("write the whole path, as in `/{quoted}`"))
    }));
    if let Some(Endpoint::Socket(path)) = &settings.metrics
        && *path == settings.control_socket
    {
        let error = Diagnostic::error("`metrics.socket` is the control socket, too")
            .at(place_of(&source, &path.display().to_string()))
            .help("write another path");
        diagnostics.push(error);
    }
    if diagnostics.errors() == 0 {
        Ok(settings)
    } else {
        Err(diagnostics)
    }
}

impl Settings {
    fn relative_paths(&self) -> Vec<(String, &Path)> {
        let mut paths = vec![
            ("bpffs".to_owned(), self.bpffs.as_path()),
            ("state-dir".to_owned(), self.state_dir.as_path()),
            ("control-socket".to_owned(), self.control_socket.as_path()),
        ];
        paths.extend(
            self.cgroup_root
                .iter()
                .map(|path| ("cgroup-root".to_owned(), path.as_path())),
        );
        paths.extend(
            self.policy_dirs
                .iter()
                .map(|path| ("policy-dirs".to_owned(), path.as_path())),
        );
        for (name, sink) in &self.sinks {
            let of_sink = sink.paths().into_iter();
            paths.extend(of_sink.map(|(key, path)| (format!("sinks.{name}.{key}"), path)));
        }
        if let Some(Endpoint::Socket(path)) = &self.metrics {
            paths.push(("metrics.socket".to_owned(), path.as_path()));
        }
        paths.retain(|(_, path)| !path.is_absolute());
        paths
    }
}

/// Where the value `quoted` stands; serde does not tell.
fn place_of(source: &Arc<Source>, quoted: &str) -> Place {
    let start = ['"', '\'']
        .iter()
        .find_map(|quote| source.text().find(&format!("{quote}{quoted}{quote}")))
        .unwrap_or(0);
    Place::new(source, start..start + quoted.len() + 2)
}

fn diagnose(source: &Arc<Source>, error: &toml::de::Error) -> Diagnostic {
    // "unknown field `x`, expected one of …": the second half is the mend.
    let message = error.message();
    let (what, mend) = match message.split_once(", expected ") {
        Some((what, expected)) => (what, format!("write {expected}")),
        None => (message, "correct it as TOML wants it".to_owned()),
    };
    let what = what
        .replace("unknown field", "unknown key")
        .replace("missing field", "missing key");
    let diagnostic = Diagnostic::error(what).help(mend);
    match error.span() {
        Some(span) => diagnostic.at(Place::new(source, span)),
        None => diagnostic,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(text: &str) -> String {
        parse(Path::new("agentguard.toml"), text)
            .unwrap_err()
            .render(false)
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        assert_eq!(parse(Path::new("x"), "").unwrap(), Settings::default());
    }

    #[test]
    fn the_example_is_valid() {
        let text = include_str!("../agentguard.example.toml");
        parse(Path::new("agentguard.example.toml"), text).unwrap();
        // Every line that is commented out is a setting at its default, or one that may be added.
        let all: String = text
            .lines()
            .filter_map(|line| line.strip_prefix('#'))
            .filter(|line| !line.starts_with(' '))
            .map(|line| format!("{line}\n"))
            .collect();
        let settings = parse(Path::new("agentguard.example.toml"), &all).unwrap();
        let targets: Vec<(&str, String)> = settings
            .sinks
            .iter()
            .map(|(name, sink)| (name.as_str(), sink.transport.target()))
            .collect();
        let target = |name, target: &str| (name, target.to_owned());
        assert_eq!(
            targets,
            [
                target("denials", "file /var/log/agentguard/denials.jsonl"),
                target("journal", "stdout"),
                target("log", "file /var/log/agentguard/events.jsonl"),
                target("siem", "syslog siem.example.com:6514 (TLS)"),
            ]
        );
        let denials = &settings.sinks["denials"].filter;
        assert_eq!(denials.verdicts, ["deny", "would-deny"]);
        assert_eq!(denials.min_severity, 3);
        let expected = Settings {
            cgroup_root: Some("/sys/fs/cgroup".into()),
            sinks: settings.sinks.clone(),
            metrics: Some(Endpoint::Listen("127.0.0.1:9464".parse().unwrap())),
            ..Settings::default()
        };
        assert_eq!(settings, expected);
    }

    #[test]
    fn errors_say_where_and_how_to_mend() {
        for (text, line, wanted) in [
            ("state_dir = \"/x\"\n", 1, "state-dir"),
            ("allow-degraded = \"yes\"\n", 1, "error"),
            ("[sinks.log.file]\n", 1, "path"),
            ("[sinks.log]\n", 1, "goes nowhere"),
            ("[sinks.log.pigeon]\n", 1, "pigeon"),
            (
                "[sinks.log]\nstdout = {}\nfile = { path = \"/x\" }\n",
                1,
                "two places",
            ),
            ("[sinks.log.stdout]\ncolour = true\n", 2, "colour"),
            (
                "[sinks.log]\nstdout = {}\nmin-severity = \"loud\"\n",
                3,
                "loud",
            ),
            (
                "[sinks.log.file]\npath = \"/x\"\nrotate.size = \"5 mb\"\n",
                3,
                "as in `2GiB`",
            ),
            ("[history]\nmax-size = \"1KiB\"\n", 2, "1MiB"),
            ("[history]\nmax-days = 0\n", 2, "1 or more"),
            ("[history]\non-full = \"panic\"\n", 2, "refuse-new-flows"),
            ("bpffs = \n", 1, "error"),
            ("bpffs = \"/a\"\nbpffs = \"/b\"\n", 2, "error"),
            (
                "policy-dirs = [\"/a\", \"b/c\"]\nstate-dir = 'd'\n",
                2,
                "absolute",
            ),
        ] {
            let said = rendered(text);
            assert!(
                said.contains(&format!(":{line}:")),
                "line {line} of {text:?}: {said}"
            );
            assert!(said.contains(wanted), "{wanted} for {text:?}: {said}");
        }
    }

    #[test]
    fn metrics_are_served_in_one_place_on_this_host() {
        let metrics = |text: &str| parse(Path::new("x"), text).unwrap().metrics;
        assert_eq!(metrics(""), None);
        for address in ["127.0.0.1:9464", "127.9.9.9:1", "[::1]:9464"] {
            assert_eq!(
                metrics(&format!("[metrics]\nlisten = \"{address}\"\n")),
                Some(Endpoint::Listen(address.parse().unwrap()))
            );
        }
        assert_eq!(
            metrics("metrics.socket = \"/run/m.sock\""),
            Some(Endpoint::Socket("/run/m.sock".into()))
        );

        for (text, place, wanted) in [
            ("[metrics]\n", "1:1", "neither `listen` nor `socket`"),
            (
                "[metrics]\nlisten = \"127.0.0.1:1\"\nsocket = \"/x\"\n",
                "1:1",
                "both `listen` and `socket`",
            ),
            ("[metrics]\nport = 9464\n", "2:1", "unknown key `port`"),
            ("[metrics]\nlisten = 9464\n", "2:10", "a string"),
            (
                "[metrics]\nlisten = \"0.0.0.0:9464\"\n",
                "2:10",
                "`0.0.0.0:9464` is not a loopback address",
            ),
            ("metrics.listen = \"[::]:9464\"\n", "1:18", "loopback"),
            (
                "[metrics]\nlisten = \"[::ffff:127.0.0.1]:9464\"\n",
                "2:10",
                "loopback",
            ),
            (
                "[metrics]\nlisten = \"localhost:9464\"\n",
                "2:10",
                "not an address with a port",
            ),
            (
                "[metrics]\nlisten = \"127.0.0.1:0\"\n",
                "2:10",
                "names no port",
            ),
            (
                "[metrics]\nsocket = \"m.sock\"\n",
                "2:10",
                "`metrics.socket` is not an absolute path",
            ),
            (
                "[metrics]\nsocket = '/run/agentguard/control.sock'\n",
                "2:10",
                "is the control socket",
            ),
        ] {
            let said = rendered(text);
            assert!(
                said.contains(&format!("agentguard.toml:{place}\n")),
                "{place} of {text:?}: {said}"
            );
            assert!(said.contains(wanted), "{wanted} for {text:?}: {said}");
            assert!(
                said.contains("help: write "),
                "no mend for {text:?}: {said}"
            );
        }
    }
}
