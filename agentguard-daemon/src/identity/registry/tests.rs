use super::*;

fn assign(registry: &mut Registry, named: &[&str]) -> Vec<u32> {
    let names = BUILT_IN.iter().chain(named).copied();
    let ids = registry.assign(names).unwrap();
    ids.into_iter()
        .map(|id| id.0)
        .filter(|&id| id >= AgentId::FIRST_NAMED.0)
        .collect()
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
    assert_eq!(assign(&mut registry, &["a", "b"]), [16, 17]);
    assert_eq!(assign(&mut registry, &["c"]), [18]);
    assert_eq!(assign(&mut registry, &["b", "d"]), [17, 19]);
}

#[test]
fn the_next_daemon_of_the_boot_goes_on() {
    let (_directory, path) = file();
    assign(&mut Registry::open(&path, "boot-1").unwrap(), &["a", "b"]);
    let mut registry = Registry::open(&path, "boot-1").unwrap();
    assert!(registry.is_continued());
    assert_eq!(assign(&mut registry, &["b", "c"]), [17, 18]);
}

#[test]
fn another_boot_starts_anew() {
    let (_directory, path) = file();
    assign(&mut Registry::open(&path, "boot-1").unwrap(), &["a", "b"]);
    let mut registry = Registry::open(&path, "boot-2").unwrap();
    assert!(!registry.is_continued());
    assert_eq!(assign(&mut registry, &["b"]), [16]);
}

#[test]
fn a_damaged_file_is_an_error() {
    for text in [
        "",
        "{",
        r#"{"boot-id":"boot-1","next":16,"ids":{"a":16}}"#,
        r#"{"boot-id":"boot-1","next":18,"ids":{"a":16,"b":16}}"#,
        r#"{"boot-id":"boot-1","next":18,"ids":{"a":15}}"#,
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
    let names = BUILT_IN.into_iter().chain(["a"]);
    assert!(matches!(registry.assign(names), Err(RegistryError::Full)));
}

#[test]
fn no_number_is_given_that_is_not_on_disk() {
    let (directory, path) = file();
    let mut registry = Registry::open(&path, "b").unwrap();
    drop(directory);
    let names = || BUILT_IN.into_iter().chain(["a"]);
    assert!(matches!(
        registry.assign(names()),
        Err(RegistryError::Io { .. })
    ));
    assert_eq!(registry.ids().count(), BUILT_IN.len());
}
