//! TLS to a receiver: whom to trust, whom to expect, who we are.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use serde::Deserialize;

use super::SinkError;

/// The `tls` table of a sink.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct TlsSettings {
    /// Certificates of authorities, PEM: the receiver's must come from one of them. Without it, the
    /// host's own.
    pub ca: Option<PathBuf>,
    /// Our certificate and those that it comes from, PEM, for a receiver that asks for one.
    pub certificate: Option<PathBuf>,
    /// The key of that certificate, PEM.
    pub key: Option<PathBuf>,
    /// The name that the receiver's certificate must have, where it is not the one that is connected to.
    pub server_name: Option<String>,
}

impl TlsSettings {
    /// Reads the files: at each connection, so that certificates can be renewed under a running daemon.
    ///
    /// # Errors
    ///
    /// If a file cannot be read, or holds no such thing.
    pub fn client_config(&self) -> Result<ClientConfig, SinkError> {
        let mut roots = RootCertStore::empty();
        match &self.ca {
            Some(path) => {
                for certificate in certificates(path)? {
                    roots
                        .add(certificate)
                        .map_err(|error| unusable(path, &error))?;
                }
            }
            None => {
                // What cannot be parsed there is no reason to trust less of the rest.
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        if roots.is_empty() {
            return Err(SinkError::Settings(
                "no authority is trusted: name their certificates in `tls.ca`".to_owned(),
            ));
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| SinkError::Settings(error.to_string()))?
            .with_root_certificates(roots);
        match (&self.certificate, &self.key) {
            (None, None) => Ok(config.with_no_client_auth()),
            (Some(certificate), Some(key)) => {
                let own =
                    PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(key, &error))?;
                config
                    .with_client_auth_cert(certificates(certificate)?, own)
                    .map_err(|error| unusable(certificate, &error))
            }
            (Some(_), None) | (None, Some(_)) => Err(SinkError::Settings(
                "`tls.certificate` and `tls.key` go together: write both or neither".to_owned(),
            )),
        }
    }

    /// The name that the certificate of a receiver at `host` must have.
    ///
    /// # Errors
    ///
    /// If it is neither a DNS name nor an address.
    pub fn name_of(&self, host: &str) -> Result<ServerName<'static>, SinkError> {
        let name = self.server_name.as_deref().unwrap_or(host);
        ServerName::try_from(name.to_owned()).map_err(|_invalid| {
            SinkError::Settings(format!("`{name}` is neither a DNS name nor an address"))
        })
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, SinkError> {
    let all: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| unusable(path, &error))?;
    if all.is_empty() {
        return Err(unusable(path, &"it holds no certificate in PEM form"));
    }
    Ok(all)
}

fn unusable(path: &Path, why: &dyn std::fmt::Display) -> SinkError {
    SinkError::Settings(format!("cannot use {}: {why}", path.display()))
}
