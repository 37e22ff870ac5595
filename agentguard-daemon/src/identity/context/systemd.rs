//! What systemd knows of a unit, asked over D-Bus.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{sync::Mutex, time::timeout};
use zbus::{Connection, OwnedObjectPath, OwnedVariant, connection};

use super::ownership;

/// Time for all questions about one unit.
const PATIENCE: Duration = Duration::from_secs(2);

const NAME: &str = "org.freedesktop.systemd1";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// The field of `LogExtraFields=` by which a unit claims an identity.
const CLAIM: &str = "AGENTGUARD_IDENTITY=";

/// What systemd knows of one unit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) claim: Option<String>,
    pub(super) timer: bool,
    pub(super) run_id: Option<String>,
}

/// The system bus.
#[derive(Debug)]
pub(super) struct Bus {
    socket: PathBuf,
    connection: Mutex<Option<Connection>>,
}

impl Bus {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self {
            socket,
            connection: Mutex::default(),
        }
    }

    /// What systemd knows of the unit `name` whose cgroup is at `path`; `None` if it knows no such
    /// unit there.
    pub(super) async fn unit(&self, name: &str, path: &str) -> zbus::Result<Option<Unit>> {
        let answer = timeout(PATIENCE, async {
            let connection = self.connect().await?;
            ask(&connection, name, path).await
        })
        .await
        .unwrap_or_else(|_elapsed| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()));
        if answer.is_err() {
            // The next question gets a fresh connection.
            self.connection.lock().await.take();
        }
        answer
    }

    async fn connect(&self) -> zbus::Result<Connection> {
        let mut kept = self.connection.lock().await;
        if let Some(connection) = &*kept {
            return Ok(connection.clone());
        }
        let address = format!("unix:path={}", self.socket.display());
        let connection = connection::Builder::address(address.as_str())
            .method_timeout(PATIENCE)
            .build()
            .await?;
        *kept = Some(connection.clone());
        Ok(connection)
    }
}

async fn ask(connection: &Connection, name: &str, path: &str) -> zbus::Result<Option<Unit>> {
    let Some(kind) = interface(name) else {
        return Ok(None);
    };
    let found = connection
        .call_method(
            Some(NAME),
            "/org/freedesktop/systemd1",
            Some("org.freedesktop.systemd1.Manager"),
            "GetUnit",
            &(name,),
        )
        .await;
    let object: OwnedObjectPath = match found {
        Ok(found) => found.body().deserialize()?,
        Err(zbus::Error::MethodError(error, ..)) if error.ends_with(".NoSuchUnit") => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let control_group: Option<String> = get(connection, &object, kind, "ControlGroup").await?;
    if control_group.as_deref() != Some(path) {
        // It is another cgroup with the name of the unit.
        return Ok(None);
    }
    let properties: HashMap<String, OwnedVariant> = connection
        .call_method(Some(NAME), &object, Some(PROPERTIES), "GetAll", &(UNIT,))
        .await?
        .body()
        .deserialize()?;
    // Scopes have none.
    let fields: Vec<Vec<u8>> = get(connection, &object, kind, "LogExtraFields")
        .await?
        .unwrap_or_default();
    let claim = claim(&fields).filter(|_| {
        is_of_root(&files(&properties))
            .inspect_err(
                |error| tracing::warn!(%error, unit = name, "the claim of a unit is not believed"),
            )
            .unwrap_or(false)
    });
    Ok(Some(Unit {
        claim,
        timer: list(&properties, "TriggeredBy")
            .iter()
            .any(|unit| unit.ends_with(".timer")),
        run_id: take(&properties, "InvocationID").and_then(|bytes: Vec<u8>| run_id(&bytes)),
    }))
}

fn interface(unit: &str) -> Option<&'static str> {
    Some(match unit.rsplit_once('.')?.1 {
        "service" => "org.freedesktop.systemd1.Service",
        "scope" => "org.freedesktop.systemd1.Scope",
        "socket" => "org.freedesktop.systemd1.Socket",
        "mount" => "org.freedesktop.systemd1.Mount",
        "swap" => "org.freedesktop.systemd1.Swap",
        _ => return None,
    })
}

/// A property that the interface may lack.
async fn get<T: TryFrom<OwnedVariant>>(
    connection: &Connection,
    object: &OwnedObjectPath,
    interface: &str,
    property: &str,
) -> zbus::Result<Option<T>> {
    let answer = connection
        .call_method(
            Some(NAME),
            object,
            Some(PROPERTIES),
            "Get",
            &(interface, property),
        )
        .await;
    match answer {
        Ok(answer) => Ok(answer.body().deserialize::<OwnedVariant>()?.try_into().ok()),
        Err(zbus::Error::MethodError(..)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn take<T: TryFrom<OwnedVariant>>(
    properties: &HashMap<String, OwnedVariant>,
    key: &str,
) -> Option<T> {
    properties.get(key)?.try_clone().ok()?.try_into().ok()
}

fn list(properties: &HashMap<String, OwnedVariant>, key: &str) -> Vec<String> {
    take(properties, key).unwrap_or_default()
}

/// Every file that the unit was read from.
fn files(properties: &HashMap<String, OwnedVariant>) -> Vec<PathBuf> {
    ["FragmentPath", "SourcePath"]
        .into_iter()
        .filter_map(|key| take::<String>(properties, key))
        .chain(list(properties, "DropInPaths"))
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
        .collect()
}

/// Whether only root wrote `files`, and there are some.
///
/// A transient unit has its file in `/run/systemd/transient`, written by systemd for whoever asked.
/// That is root, or somebody whom the host lets start services as root, which is as much.
fn is_of_root(files: &[PathBuf]) -> std::io::Result<bool> {
    for file in files {
        if !ownership::is_of(0, Path::new(file))? {
            tracing::warn!(file = %file.display(), "a unit claims an identity in a file that others than root can change");
            return Ok(false);
        }
    }
    Ok(!files.is_empty())
}

/// The identity that the fields claim; of several the last, as for other settings of a unit.
fn claim(fields: &[Vec<u8>]) -> Option<String> {
    let value = fields
        .iter()
        .filter_map(|field| field.strip_prefix(CLAIM.as_bytes()))
        .next_back()?;
    super::bounded(std::str::from_utf8(value).ok()?)
}

/// 128 bits as systemd writes them.
pub(super) fn run_id(bytes: &[u8]) -> Option<String> {
    let id = uuid::Uuid::from_slice(bytes).ok()?;
    (!id.is_nil()).then(|| id.simple().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_claim_counts() {
        let fields = |texts: &[&str]| -> Vec<Vec<u8>> {
            texts.iter().map(|text| text.as_bytes().to_vec()).collect()
        };
        for (texts, expected) in [
            (&["AGENTGUARD_IDENTITY=sync"][..], Some("sync")),
            (
                &["A=b", "AGENTGUARD_IDENTITY=a", "AGENTGUARD_IDENTITY=b"],
                Some("b"),
            ),
            (&["AGENTGUARD_IDENTITY="], None),
            (&["AGENTGUARD_IDENTITY=a\u{1b}b"], None),
            (&["XAGENTGUARD_IDENTITY=a", "AGENTGUARD_IDENTITYX=a"], None),
            (&[], None),
        ] {
            assert_eq!(claim(&fields(texts)).as_deref(), expected, "{texts:?}");
        }
    }

    #[test]
    fn a_claim_needs_files_and_all_of_root() {
        let root = PathBuf::from("/etc/passwd");
        let others = tempfile::NamedTempFile::new().unwrap();
        assert!(is_of_root(std::slice::from_ref(&root)).unwrap());
        assert!(!is_of_root(&[]).unwrap());
        assert!(!is_of_root(&[root, others.path().to_owned()]).unwrap());
        assert!(is_of_root(&["/nonexistent.service".into()]).is_err());
    }

    #[test]
    fn a_run_id_is_not_nil() {
        assert_eq!(
            run_id(&[0xab; 16]).as_deref(),
            Some("abababababababababababababababab")
        );
        assert_eq!(run_id(&[0; 16]), None);
        assert_eq!(run_id(&[1; 15]), None);
    }

    #[tokio::test]
    async fn without_a_bus_there_is_an_error_and_no_wait() {
        let bus = Bus::new("/nonexistent/bus".into());
        assert!(bus.unit("a.service", "/a.service").await.is_err());
    }
}
