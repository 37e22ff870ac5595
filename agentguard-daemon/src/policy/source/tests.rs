use std::os::unix::fs::symlink;

use super::*;

fn write(directory: &Path, name: &str, text: &str) {
    fs::create_dir_all(directory).unwrap();
    fs::write(directory.join(name), text).unwrap();
}

/// `name:text` of each file that was read.
fn read(directories: &[PathBuf]) -> Vec<String> {
    let sources = read_directories(directories);
    assert!(sources.diagnostics.is_empty(), "{}", sources.diagnostics);
    sources
        .files
        .iter()
        .map(|file| {
            let name = file.path().file_name().unwrap().to_string_lossy();
            format!("{name}:{}", file.text())
        })
        .collect()
}

#[test]
fn higher_directories_replace_and_mask_and_names_order() {
    let root = tempfile::tempdir().unwrap();
    let [low, high, missing] = ["low", "high", "missing"].map(|name| root.path().join(name));
    for name in [
        "10-a.toml",
        "20-b.toml",
        "30-c.toml",
        ".hidden.toml",
        "notes.md",
    ] {
        write(&low, name, "low");
    }
    write(&high, "30-c.toml", "high");
    write(&high, "15-d.toml", "high");
    symlink("/dev/null", high.join("20-b.toml")).unwrap();
    assert_eq!(
        read(&[low, missing, high]),
        ["10-a.toml:low", "15-d.toml:high", "30-c.toml:high"]
    );
}

#[test]
fn a_file_above_a_mask_counts_again() {
    let root = tempfile::tempdir().unwrap();
    let [low, high] = ["low", "high"].map(|name| root.path().join(name));
    fs::create_dir_all(&low).unwrap();
    symlink("/dev/null", low.join("a.toml")).unwrap();
    write(&high, "a.toml", "high");
    assert_eq!(read(&[low, high]), ["a.toml:high"]);
}

#[test]
fn what_is_no_regular_file_is_refused_and_never_waited_for() {
    let root = tempfile::tempdir().unwrap();
    let mode = nix::sys::stat::Mode::S_IRUSR;
    nix::unistd::mkfifo(&root.path().join("a.toml"), mode).unwrap();
    fs::create_dir(root.path().join("b.toml")).unwrap();
    symlink("/dev/zero", root.path().join("c.toml")).unwrap();
    symlink("nowhere", root.path().join("d.toml")).unwrap();
    let sources = read_directories(&[root.path().to_owned()]);
    let messages: Vec<&str> = sources
        .diagnostics
        .iter()
        .map(|diagnostic| diagnostic.message.as_str())
        .collect();
    assert!(sources.files.is_empty());
    assert_eq!(
        messages,
        [
            "this is a FIFO, not a regular file",
            "this is a directory, not a regular file",
            "this is a device, not a regular file",
            "the file cannot be read: No such file or directory (os error 2)",
        ]
    );
}

#[test]
fn a_file_beyond_the_limit_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("a.toml");
    fs::File::create(&path)
        .unwrap()
        .set_len(MAX_FILE_BYTES + 1)
        .unwrap();
    let sources = read_paths(&[path, root.path().join("missing.toml")]);
    assert!(sources.files.is_empty());
    assert_eq!(sources.diagnostics.errors(), 2, "{}", sources.diagnostics);
}

#[test]
fn places_count_lines_and_characters() {
    let source = Source::new("a.toml", "é = 1\nlänge = 2\n");
    let offset = source.text().find('2').unwrap();
    let place = Place::new(&source, offset..offset + 1);
    assert_eq!((place.line(), place.column()), (2, 9));
    assert_eq!(place.line_text(), ("länge = 2", 9..10));
    let end = Place::new(&source, 99..100);
    assert_eq!((end.line(), end.column()), (3, 1));
}
