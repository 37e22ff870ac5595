//! rsyslog and syslog-ng with the settings of the examples.

use std::{
    collections::HashSet,
    ffi::OsString,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use crate::{
    certificates,
    drive::{Arrival, arrival},
    program::{Program, root},
};
use agentguard_daemon::sink::Record;

/// A server that has started, and where it listens.
pub(crate) struct Server {
    pub(crate) program: Program,
    pub(crate) tcp: u16,
    pub(crate) tls: u16,
    pub(crate) relp: u16,
    pub(crate) relp_tls: u16,
    pub(crate) socket: PathBuf,
    file: PathBuf,
    directory: TempDir,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Rsyslog,
    SyslogNg,
}

impl Server {
    pub(crate) fn start(kind: Kind) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        certificates::make(directory.path());
        let [tcp, tls, relp, relp_tls] = free_ports();
        let (example, program) = match kind {
            Kind::Rsyslog => ("rsyslog.conf", "usr/sbin/rsyslogd"),
            Kind::SyslogNg => ("syslog-ng.conf", "usr/sbin/syslog-ng"),
        };
        let example = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("examples")
            .join(example);
        let mut text = fs::read_to_string(example).unwrap();
        for (place, value) in [
            ("TCP_PORT", tcp.to_string()),
            ("TLS_PORT", tls.to_string()),
            ("RELP_PORT", relp.to_string()),
            ("RELP_TLS_PORT", relp_tls.to_string()),
            ("DIRECTORY", directory.path().display().to_string()),
            ("SOCKET", at("log.sock").display().to_string()),
            ("FILE", at("events.jsonl").display().to_string()),
            ("CA", at("ca.pem").display().to_string()),
            ("CERTIFICATE", at("server.pem").display().to_string()),
            ("KEY", at("server.key").display().to_string()),
            ("CLIENT", certificates::CLIENT.to_owned()),
        ] {
            text = text.replace(&format!("@{place}@"), &value);
        }
        fs::write(at("conf"), text).unwrap();
        let path = |name: &str| at(name).into_os_string();
        let modules = |place: &str| root().join(place).into_os_string();
        let mut words: Vec<OsString> = vec![root().join(program).into()];
        words.extend(match kind {
            Kind::Rsyslog => [
                "-n".into(),
                "-i".into(),
                "NONE".into(),
                "-f".into(),
                path("conf"),
                "-M".into(),
                modules("usr/lib/x86_64-linux-gnu/rsyslog"),
            ]
            .to_vec(),
            Kind::SyslogNg => [
                "--foreground".into(),
                "--no-caps".into(),
                "--stderr".into(),
                "--cfgfile".into(),
                path("conf"),
                "--module-path".into(),
                modules("usr/lib/syslog-ng/3.38"),
                "--persist-file".into(),
                path("persist"),
                "--pidfile".into(),
                path("pid"),
                "--control".into(),
                path("control"),
            ]
            .to_vec(),
        });
        let ports = match kind {
            Kind::Rsyslog => vec![tcp, tls, relp, relp_tls],
            Kind::SyslogNg => vec![tcp, tls],
        };
        let socket = at("log.sock");
        let listens = move || {
            let listening = listening_ports();
            socket.exists() && ports.iter().all(|port| listening.contains(port))
        };
        Self {
            program: Program::start(words, &at("log"), listens),
            tcp,
            tls,
            relp,
            relp_tls,
            socket: at("log.sock"),
            file: at("events.jsonl"),
            directory,
        }
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// What of `records` is in its file; nothing else may be there.
    pub(crate) fn arrival(&self, records: &[Record]) -> Arrival {
        let arrival = arrival(records, || lines(&self.file));
        assert!(arrival.torn <= self.program.kills, "{arrival:?}");
        let rejected = self.file.with_extension("jsonl.rejected");
        assert_eq!(
            lines(&rejected),
            Vec::<String>::new(),
            "{}",
            self.program.log()
        );
        arrival
    }
}

/// The whole lines of a file.
fn lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let end = text.rfind('\n').map_or(0, |newline| newline + 1);
    text[..end].lines().map(str::to_owned).collect()
}

/// The TCP ports that somebody listens at, as the kernel tells. To ask by a connection that says nothing
/// now and then kills rsyslog 8.2302, in its RELP.
fn listening_ports() -> HashSet<u16> {
    const LISTEN: &str = "0A";
    ["/proc/self/net/tcp", "/proc/self/net/tcp6"]
        .into_iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .flat_map(|table| {
            table
                .lines()
                .filter_map(|line| {
                    let mut words = line.split_whitespace().skip(1);
                    let (_, port) = words.next()?.rsplit_once(':')?;
                    let is_listening = words.nth(1)? == LISTEN;
                    is_listening.then(|| u16::from_str_radix(port, 16).ok())?
                })
                .collect::<Vec<u16>>()
        })
        .collect()
}

fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}
