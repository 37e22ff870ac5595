use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    process::Command,
};

use super::*;

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn lines_are_appended_with_tight_modes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log/audit.jsonl");
    for line in ["one", "two"] {
        let mut sink = Sink::file(&path).unwrap();
        sink.deliver(line);
        sink.flush().unwrap();
        assert_eq!(sink.status().delivered_lines, 1);
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
        let error = Sink::file(path).unwrap_err().to_string();
        assert!(error.ends_with(why), "{error}");
    }
}

#[test]
fn a_line_torn_by_a_crash_is_ended_first() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    fs::write(&path, "whole\nha").unwrap();
    let mut sink = Sink::file(&path).unwrap();
    sink.deliver("next");
    sink.flush().unwrap();
    assert_eq!(read(&path), "whole\nha\nnext\n");
}

#[test]
fn a_rotated_file_is_left_for_a_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let old = dir.path().join("audit.jsonl.1");
    let mut sink = Sink::file(&path).unwrap();
    sink.deliver("one");
    sink.flush().unwrap();
    fs::rename(&path, &old).unwrap();
    sink.reopen().unwrap();
    sink.deliver("two");
    sink.flush().unwrap();
    assert_eq!(
        (read(&old).as_str(), read(&path).as_str()),
        ("one\n", "two\n")
    );
}

#[test]
fn a_full_disk_keeps_lines_queued_and_then_counts_what_is_lost() {
    let file = fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let output = Output::File {
        file,
        path: "/dev/full".into(),
        is_torn: false,
    };
    let mut sink = Sink::new("full".into(), output);
    sink.deliver("one");
    let error = sink.flush().unwrap_err().to_string();
    assert!(error.contains("No space left"), "{error}");
    assert_eq!((sink.status().queued_lines, sink.status().errors), (1, 1));
    assert_eq!(sink.status().last_error, Some(error));

    let line = "x".repeat(1 << 20);
    for _ in 0..5 {
        sink.deliver(&line);
    }
    assert_eq!(
        (sink.status().queued_lines, sink.status().lost_lines),
        (4, 2)
    );
    assert!(sink.queue.len() <= QUEUE_BYTES);
}

#[test]
fn a_pipe_that_nobody_reads_does_not_block() {
    let (reader, writer) = nix::unistd::pipe().unwrap();
    let mut sink = Sink::new("pipe".into(), Output::Stdout(writer.into()));
    let line = "x".repeat(999);
    for _ in 0..200 {
        sink.deliver(&line);
    }
    let mut received = Vec::new();
    while sink.flush().is_err() {
        let mut buffer = [0; 10_000];
        let count = nix::unistd::read(&reader, &mut buffer).unwrap();
        received.extend_from_slice(&buffer[..count]);
    }
    drop(sink);
    io::Read::read_to_end(&mut fs::File::from(reader), &mut received).unwrap();
    assert_eq!(received, format!("{line}\n").repeat(200).into_bytes());
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
    let mut sink = Sink::file(&path).unwrap();
    for _ in 0..6 {
        sink.deliver(&"x".repeat(999));
    }
    for _ in 0..2 {
        sink.flush().unwrap_err();
        assert_eq!(fs::metadata(&path).unwrap().len(), 4_000);
    }
    assert_eq!(
        (sink.status().delivered_lines, sink.status().queued_lines),
        (4, 2)
    );
    fs::rename(&path, path.with_extension("jsonl.1")).unwrap();
    sink.reopen().unwrap();
    sink.flush().unwrap();
}
