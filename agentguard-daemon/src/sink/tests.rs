use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::Command,
};

use super::{
    file::{FileSettings, FileSink},
    rotate::Rotation,
    *,
};
use crate::size::Size;

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

fn sink(path: &Path) -> FileSink {
    FileSink::new(FileSettings {
        path: path.to_owned(),
        rotate: None,
    })
}

fn records(lines: &[&str]) -> Vec<Record> {
    (1..)
        .zip(lines)
        .map(|(sequence, line)| Record {
            sequence,
            time_ms: 0,
            severity: 1,
            line: (*line).to_owned(),
        })
        .collect()
}

fn deliver(sink: &mut FileSink, lines: &[&str]) -> (usize, Result<(), SinkError>) {
    let mut progress = Progress::default();
    let result = sink.deliver(&records(lines), &mut progress);
    (progress.done, result)
}

#[test]
fn lines_are_appended_with_tight_modes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log/audit.jsonl");
    for line in ["one", "two"] {
        let (done, result) = deliver(&mut sink(&path), &[line]);
        result.unwrap();
        assert_eq!(done, 1);
    }
    assert_eq!(read(&path), "one\ntwo\n");
    // The umask may take more away, never less.
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o137, 0);
    let parent = path.parent().unwrap();
    assert_eq!(
        fs::metadata(parent).unwrap().permissions().mode() & 0o027,
        0
    );
}

#[test]
fn targets_that_are_not_ours_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let real = dir.path().join("real");
    fs::write(&real, "").unwrap();
    let link = dir.path().join("link");
    symlink(&real, &link).unwrap();
    let fifo = dir.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for (path, why) in [
        (link.as_path(), "it is a symbolic link"),
        (&fifo, "it is not a regular file"),
        (Path::new("/dev/full"), "it is not a regular file"),
    ] {
        let error = sink(path).check().unwrap_err().to_string();
        assert!(error.ends_with(why), "{error}");
    }
}

#[test]
fn a_line_torn_by_a_crash_is_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    fs::write(&path, "whole\nha").unwrap();
    deliver(&mut sink(&path), &["next"]).1.unwrap();
    assert_eq!(read(&path), "whole\nnext\n");
    fs::write(&path, "x".repeat(10_000)).unwrap();
    deliver(&mut sink(&path), &["first"]).1.unwrap();
    assert_eq!(read(&path), "first\n");
}

#[test]
fn a_file_that_was_moved_away_is_left_for_a_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let old = dir.path().join("audit.jsonl.1");
    let mut sink = sink(&path);
    deliver(&mut sink, &["one"]).1.unwrap();
    fs::rename(&path, &old).unwrap();
    sink.close();
    deliver(&mut sink, &["two"]).1.unwrap();
    assert_eq!(
        (read(&old).as_str(), read(&path).as_str()),
        ("one\n", "two\n")
    );
}

#[test]
fn a_large_file_is_rotated_and_the_oldest_goes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let mut sink = FileSink::new(FileSettings {
        path: path.clone(),
        rotate: Some(Rotation {
            size: Size(10),
            hours: 24,
            keep: 2,
        }),
    });
    for number in 1..=5 {
        deliver(&mut sink, &[&format!("line number {number}")])
            .1
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    assert_eq!(read(&path), "line number 5\n");
    let mut old: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|it| *it != path)
        .collect();
    old.sort();
    let texts: Vec<String> = old
        .iter()
        .map(|path| {
            let bytes = zstd::decode_all(fs::File::open(path).unwrap()).unwrap();
            String::from_utf8(bytes).unwrap()
        })
        .collect();
    assert_eq!(texts, ["line number 3\n", "line number 4\n"]);
}

#[test]
fn filters_choose() {
    let none = Filter {
        classes: Vec::new(),
        verdicts: Vec::new(),
        identities: Vec::new(),
        min_severity: 1,
    };
    assert!(none.matches(4001, 1, None, None));
    let some = Filter {
        classes: vec![4001],
        verdicts: vec!["deny".into(), "would-deny".into()],
        identities: vec!["bot".into()],
        min_severity: 2,
    };
    let bot = Some("bot");
    assert!(some.matches(4001, 3, Some("deny"), bot));
    for (class, severity, verdict, identity) in [
        (4002, 3, Some("deny"), bot),
        (4001, 1, Some("deny"), bot),
        (4001, 3, Some("allow"), bot),
        (4001, 3, None, bot),
        (4001, 3, Some("deny"), Some("other")),
        (4001, 3, Some("deny"), None),
    ] {
        assert!(!some.matches(class, severity, verdict, identity));
    }
}

/// Runs itself below a shell that limits the size of files to 4,096 bytes, which makes the kernel
/// write short, and then fail.
#[test]
fn a_short_write_leaves_whole_lines() {
    const DIRECTORY: &str = "AGENTGUARD_SHORT_WRITE_DIRECTORY";
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        let dir = tempfile::tempdir().unwrap();
        let status = Command::new("sh")
            .args([
                "-c",
                "trap '' XFSZ; ulimit -f 8; exec \"$0\" --exact \"$1\"",
            ])
            .arg(std::env::current_exe().unwrap())
            .arg("sink::tests::a_short_write_leaves_whole_lines")
            .env(DIRECTORY, dir.path())
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap();
        assert!(status.success());
        let line = format!("{}\n", "x".repeat(999));
        assert_eq!(read(&dir.path().join("audit.jsonl.1")), line.repeat(4));
        assert_eq!(read(&dir.path().join("audit.jsonl")), line.repeat(2));
        return;
    };
    let path = Path::new(&directory).join("audit.jsonl");
    let mut sink = sink(&path);
    let line = "x".repeat(999);
    let (done, result) = deliver(&mut sink, &[line.as_str(); 6]);
    let error = result.unwrap_err().to_string();
    assert!(error.contains("write to"), "{error}");
    assert_eq!(done, 4);
    assert_eq!(fs::metadata(&path).unwrap().len(), 4_000);
    // A full disk takes nothing, and leaves no half line.
    assert_eq!(deliver(&mut sink, &[line.as_str(); 2]).0, 0);
    assert_eq!(fs::metadata(&path).unwrap().len(), 4_000);
    fs::rename(&path, path.with_extension("jsonl.1")).unwrap();
    sink.close();
    deliver(&mut sink, &[line.as_str(); 2]).1.unwrap();
}
