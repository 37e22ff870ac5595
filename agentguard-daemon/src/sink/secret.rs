//! Secrets of sinks: in files of their own or systemd credentials, never in settings.

use std::{env, fmt, fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use serde::Deserialize;

use super::SinkError;

/// Where a secret is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SecretPlace {
    /// In a file that only its owner can read.
    File(PathBuf),
    /// In the systemd credential of this name: `LoadCredential=` of the unit.
    Credential(String),
}

/// A secret; it is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The secret itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("(secret)")
    }
}

impl SecretPlace {
    /// Reads it: at each use, so that it can be renewed under a running daemon. White space around it
    /// does not count.
    ///
    /// # Errors
    ///
    /// If it cannot be read, others than its owner can read it, or it is empty.
    pub fn read(&self) -> Result<Secret, SinkError> {
        let path = self.path()?;
        let failed = |why: &dyn fmt::Display| {
            SinkError::Settings(format!("cannot use the secret {}: {why}", path.display()))
        };
        let mode = fs::metadata(&path)
            .map_err(|error| failed(&error))?
            .permissions()
            .mode();
        // systemd gives credentials to the unit alone.
        if matches!(self, Self::File(_)) && mode & 0o077 != 0 {
            return Err(failed(&"others can read it: make its mode 0600"));
        }
        let text = fs::read_to_string(&path).map_err(|error| failed(&error))?;
        let secret = text.trim();
        if secret.is_empty() {
            return Err(failed(&"it is empty"));
        }
        // It goes into headers.
        if secret.chars().any(char::is_control) {
            return Err(failed(&"it has more than one line"));
        }
        Ok(Secret(secret.to_owned()))
    }

    fn path(&self) -> Result<PathBuf, SinkError> {
        match self {
            Self::File(path) => Ok(path.clone()),
            Self::Credential(name) => {
                let is_plain = !name.is_empty() && !name.starts_with('.') && !name.contains('/');
                if !is_plain {
                    return Err(SinkError::Settings(format!(
                        "`{name}` is no name of a credential"
                    )));
                }
                let directory = env::var_os("CREDENTIALS_DIRECTORY").ok_or_else(|| {
                    SinkError::Settings(format!(
                        "no credential `{name}`: add `LoadCredential={name}:PATH` to the unit"
                    ))
                })?;
                Ok(PathBuf::from(directory).join(name))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, mode: u32) -> Result<Secret, SinkError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        SecretPlace::File(path).read()
    }

    #[test]
    fn a_secret_is_one_line_of_a_private_file() {
        let secret = read(" s3cret\n", 0o600).unwrap();
        assert_eq!(secret.reveal(), "s3cret");
        assert_eq!(format!("{secret:?}"), "(secret)");
        for (text, mode, wanted) in [
            ("s3cret", 0o640, "0600"),
            ("\n", 0o600, "empty"),
            ("a\nb", 0o600, "line"),
        ] {
            let said = read(text, mode).unwrap_err().to_string();
            assert!(said.contains(wanted), "{said}");
        }
        let outside = SecretPlace::Credential("../x".to_owned());
        assert!(outside.read().is_err());
    }
}
