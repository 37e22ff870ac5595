use super::*;

fn assign(registry: &mut Registry, named: &[&str]) -> Vec<u32> {
    let names = ["unknown", "unknown-agent"].iter().chain(named).copied();
    let ids = registry.assign(names).unwrap();
    ids.into_iter().map(|id| id.0).collect()
}

fn file() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("identities.json");
    (directory, path)
}

#[test]
fn a_name_keeps_its_number_and_no_number_is_given_twice() {
    let (_directory, path) = file();
    let mut registry = Registry::open(&path, "boot-1").unwrap();
    assert_eq!(assign(&mut registry, &["a", "b"]), [1, 2, 3, 4]);
    assert_eq!(assign(&mut registry, &["c"]), [1, 2, 5]);
    assert_eq!(assign(&mut registry, &["b", "d"]), [1, 2, 4, 6]);
}

#[test]
fn the_next_daemon_of_the_boot_goes_on() {
    let (_directory, path) = file();
    assign(&mut Registry::open(&path, "boot-1").unwrap(), &["a", "b"]);
    let mut registry = Registry::open(&path, "boot-1").unwrap();
    assert!(registry.is_continued());
    assert_eq!(assign(&mut registry, &["b", "c"]), [1, 2, 4, 5]);
}

#[test]
fn another_boot_starts_anew() {
    let (_directory, path) = file();
    assign(&mut Registry::open(&path, "boot-1").unwrap(), &["a", "b"]);
    let mut registry = Registry::open(&path, "boot-2").unwrap();
    assert!(!registry.is_continued());
    assert_eq!(assign(&mut registry, &["b"]), [1, 2, 3]);
}

#[test]
fn a_damaged_file_is_an_error() {
    for text in [
        "",
        "{",
        r#"{"boot-id":"boot-1","next":3,"ids":{"a":3}}"#,
        r#"{"boot-id":"boot-1","next":5,"ids":{"a":3,"b":3}}"#,
        r#"{"boot-id":"boot-1","next":5,"ids":{"a":2}}"#,
    ] {
        let (_directory, path) = file();
        fs::write(&path, text).unwrap();
        let error = Registry::open(&path, "boot-1").unwrap_err();
        assert!(matches!(error, RegistryError::Damaged { .. }), "{text}");
    }
}

#[test]
fn numbers_run_out_rather_than_repeat() {
    let (_directory, path) = file();
    let text = format!(r#"{{"boot-id":"b","next":{MAX_IDENTITIES},"ids":{{}}}}"#);
    fs::write(&path, text).unwrap();
    let mut registry = Registry::open(&path, "b").unwrap();
    let names = ["unknown", "unknown-agent", "a"].into_iter();
    assert!(matches!(registry.assign(names), Err(RegistryError::Full)));
}

#[test]
fn no_number_is_given_that_is_not_on_disk() {
    let (directory, path) = file();
    let mut registry = Registry::open(&path, "b").unwrap();
    drop(directory);
    let names = || ["unknown", "unknown-agent", "a"].into_iter();
    assert!(matches!(
        registry.assign(names()),
        Err(RegistryError::Io { .. })
    ));
    assert_eq!(registry.ids().count(), 2);
}
