//! The settings file: where things are, and what may be missing.
#![forbid(unsafe_code)]

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Deserialize;

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
    /// Where events go.
    pub sinks: Sinks,
}

/// Where events go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Sinks {
    /// To standard output.
    pub stdout: Option<StdoutSink>,
    /// To a file.
    pub file: Option<FileSink>,
}

/// Standard output: it has nothing to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StdoutSink {}

/// A file of JSON lines.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct FileSink {
    /// The file; it is opened anew at a reload, so that it can be rotated.
    pub path: PathBuf,
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
            sinks: Sinks::default(),
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
    let relative = settings.relative_paths();
    if relative.is_empty() {
        return Ok(settings);
    }
    let mut diagnostics = Diagnostics::default();
    diagnostics.extend(relative.into_iter().map(|(key, path)| {
        let quoted = path.display().to_string();
        Diagnostic::error(format!("`{key}` is not an absolute path"))
            .at(place_of(&source, &quoted))
            .help(format!("write the whole path, as in `/{quoted}`"))
    }));
    Err(diagnostics)
}

impl Settings {
    fn relative_paths(&self) -> Vec<(&'static str, &Path)> {
        let mut paths = vec![
            ("bpffs", self.bpffs.as_path()),
            ("state-dir", self.state_dir.as_path()),
            ("control-socket", self.control_socket.as_path()),
        ];
        paths.extend(
            self.cgroup_root
                .iter()
                .map(|path| ("cgroup-root", path.as_path())),
        );
        paths.extend(
            self.policy_dirs
                .iter()
                .map(|path| ("policy-dirs", path.as_path())),
        );
        paths.extend(
            self.sinks
                .file
                .iter()
                .map(|file| ("sinks.file.path", file.path.as_path())),
        );
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
        let expected = Settings {
            cgroup_root: Some("/sys/fs/cgroup".into()),
            sinks: Sinks {
                stdout: Some(StdoutSink {}),
                file: Some(FileSink {
                    path: "/var/log/agentguard/events.jsonl".into(),
                }),
            },
            ..Settings::default()
        };
        assert_eq!(settings, expected);
    }

    #[test]
    fn errors_say_where_and_how_to_mend() {
        for (text, line, wanted) in [
            ("state_dir = \"/x\"\n", 1, "state-dir"),
            ("allow-degraded = \"yes\"\n", 1, "error"),
            ("[sinks.file]\n", 1, "path"),
            ("[sinks.syslog]\n", 1, "error"),
            ("[sinks.stdout]\ncolour = true\n", 2, "colour"),
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
}
