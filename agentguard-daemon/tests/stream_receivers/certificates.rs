//! An authority, a server and a client, and another authority that neither comes from.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The name in the certificate of the server, beside its address.
pub(crate) const SERVER: &str = "siem.example";
/// The name in the certificate of the client.
pub(crate) const CLIENT: &str = "agent.example";

const REQUEST: &str = "[req]\ndistinguished_name = dn\nx509_extensions = ca\n[dn]\n[ca]\n\
    basicConstraints = critical, CA:TRUE\nkeyUsage = critical, keyCertSign\n\
    subjectKeyIdentifier = hash\n";

/// Makes `ca`, `server`, `client` and `other-ca` in a directory: `X.pem` and `X.key`.
pub(crate) fn make(directory: &Path) {
    fs::write(directory.join("request.cnf"), REQUEST).unwrap();
    for authority in ["ca", "other-ca"] {
        let subject = format!("/CN={authority}");
        request(directory, authority, &subject)
            .args(["-x509", "-days", "2", "-out", &format!("{authority}.pem")])
            .run();
    }
    for (who, name) in [("server", SERVER), ("client", CLIENT)] {
        let subject = format!("/CN={name}");
        let signing = format!("{who}.csr");
        request(directory, who, &subject)
            .args(["-out", &signing])
            .run();
        let extensions = format!("subjectAltName = DNS:{name}, IP:127.0.0.1\n");
        fs::write(directory.join("extensions.cnf"), extensions).unwrap();
        openssl(directory, "x509")
            .args(["-req", "-in", &signing, "-CA", "ca.pem", "-CAkey", "ca.key"])
            .args([
                "-CAcreateserial",
                "-days",
                "2",
                "-extfile",
                "extensions.cnf",
            ])
            .args(["-out", &format!("{who}.pem")])
            .run();
    }
}

/// Settings of TLS, as they are written, for a client that does everything right.
pub(crate) fn settings(directory: &Path) -> String {
    format!("ca = {:?}\n{}", path(directory, "ca.pem"), own(directory))
}

/// The part of them that says who the client is.
pub(crate) fn own(directory: &Path) -> String {
    format!(
        "certificate = {:?}\nkey = {:?}\n",
        path(directory, "client.pem"),
        path(directory, "client.key")
    )
}

pub(crate) fn path(directory: &Path, name: &str) -> PathBuf {
    directory.join(name)
}

fn request(directory: &Path, who: &str, subject: &str) -> Command {
    let mut command = openssl(directory, "req");
    command
        .args(["-config", "request.cnf", "-subj", subject, "-nodes"])
        .args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
        .args(["-keyout", &format!("{who}.key")]);
    command
}

fn openssl(directory: &Path, command: &str) -> Command {
    let mut openssl = Command::new("openssl");
    openssl.arg(command).current_dir(directory);
    openssl
}

trait Run {
    fn run(&mut self);
}

impl Run for Command {
    fn run(&mut self) {
        let output = self.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{self:?}: {said}");
    }
}
