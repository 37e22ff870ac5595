use std::os::unix::fs::symlink;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixListener,
};

use super::*;

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// An engine at `socket` that answers every request with `status` and `body`.
pub(in super::super) fn engine(socket: &Path, status: &str, body: Vec<u8>) {
    let listener = UnixListener::bind(socket).unwrap();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 4_096];
            let length = stream.read(&mut request).await.unwrap();
            let request = String::from_utf8_lossy(&request[..length]).into_owned();
            assert!(request.starts_with("GET /containers/"), "{request}");
            stream.write_all(head.as_bytes()).await.unwrap();
            // The asking side may have seen enough.
            stream.write_all(&body).await.ok();
        }
    });
}

/// What Docker 28 answers, shortened.
pub(in super::super) fn answer(id: &str, pid: u32) -> String {
    serde_json::json!({
        "Id": id,
        "Created": "2026-01-02T03:04:05.678Z",
        "Path": "/bin/sh",
        "Args": [],
        "State": { "Status": "running", "Running": true, "Pid": pid, "ExitCode": 0 },
        "Image": "sha256:0123",
        "Name": "/web-1",
        "Config": {
            "Hostname": "0123",
            "Image": "docker.io/library/nginx:1.29",
            "Labels": { "team": "web", "empty": "", "bad": "\u{1b}[31m" },
        },
    })
    .to_string()
}

fn own_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

#[tokio::test]
async fn an_engine_tells_name_image_and_labels() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("engine.sock");
    engine(&socket, "200 OK", answer(ID, 7).into_bytes());
    let inspected = inspect(&socket, own_uid(), ID).await.unwrap().unwrap();
    assert_eq!(inspected.name.as_deref(), Some("web-1"));
    assert_eq!(
        inspected.image.as_deref(),
        Some("docker.io/library/nginx:1.29")
    );
    assert_eq!(inspected.pid, Some(7));
    let labels: Vec<_> = inspected.labels.into_iter().collect();
    assert_eq!(
        labels,
        [("empty", ""), ("team", "web")].map(|(key, value)| (key.to_owned(), value.to_owned()))
    );
}

#[tokio::test]
async fn an_unknown_container_and_a_broken_engine_differ() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    engine(&at("none"), "404 Not Found", b"{}".to_vec());
    assert_eq!(inspect(&at("none"), own_uid(), ID).await.unwrap(), None);
    engine(&at("broken"), "500 Internal Server Error", b"{}".to_vec());
    assert!(inspect(&at("broken"), own_uid(), ID).await.is_err());
    engine(
        &at("other"),
        "200 OK",
        answer(&ID.replace('0', "1"), 7).into_bytes(),
    );
    assert!(inspect(&at("other"), own_uid(), ID).await.is_err());
    engine(&at("long"), "200 OK", vec![b' '; MAX_BYTES + 1]);
    assert!(inspect(&at("long"), own_uid(), ID).await.is_err());
}

#[tokio::test]
async fn a_socket_of_others_is_not_asked() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("engine.sock");
    engine(&socket, "200 OK", answer(ID, 7).into_bytes());
    let link = directory.path().join("link.sock");
    symlink(&socket, &link).unwrap();
    let file = directory.path().join("file.sock");
    std::fs::write(&file, "").unwrap();
    for (socket, owner) in [
        (&socket, own_uid() + 1),
        (&link, own_uid()),
        (&file, own_uid()),
    ] {
        let error = inspect(socket, owner, ID).await.unwrap_err();
        assert_eq!(
            error.kind(),
            io::ErrorKind::PermissionDenied,
            "{}",
            socket.display()
        );
    }
    let missing = inspect(Path::new("/nonexistent.sock"), own_uid(), ID).await;
    assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn a_silent_engine_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("engine.sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    let asking = inspect(&socket, own_uid(), ID);
    let error = timeout(PATIENCE * 2, asking).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
}
