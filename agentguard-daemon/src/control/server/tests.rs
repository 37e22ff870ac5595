use super::*;

async fn exchange(bytes: &[u8]) -> String {
    let (mut here, mut there) = UnixStream::pair().unwrap();
    let (calls, mut loop_side) = mpsc::channel(1);
    let daemon = Daemon { calls };
    let bytes = bytes.to_vec();
    let client = tokio::spawn(async move {
        // The server may answer and close before it has read all.
        drop(here.write_all(&bytes).await);
        drop(here.shutdown().await);
        let mut answer = Vec::new();
        drop(here.read_to_end(&mut answer).await);
        String::from_utf8(answer).unwrap()
    });
    let answerer = tokio::spawn(async move {
        while let Some(call) = loop_side.recv().await {
            let answer = match call.query {
                Query::Reload { .. } => Answer::Response(Response::Accepted {}),
                Query::Status
                | Query::Ps
                | Query::Launch(_)
                | Query::TestSink(_)
                | Query::ReplaySink(..) => Answer::Work(Work(Box::new(|| Response::Accepted {}))),
            };
            drop(call.reply.send(answer));
        }
    });
    let peer = Peer::of(&there).unwrap();
    attend(&mut there, &peer, &daemon).await.unwrap();
    drop((there, daemon));
    answerer.await.unwrap();
    client.await.unwrap()
}

fn kind(line: &[u8]) -> ErrorKind {
    match parse_request(line) {
        Err(Response::Error { kind, .. }) => kind,
        other => panic!("{other:?}"),
    }
}

#[test]
fn requests_are_one_known_object_on_one_line() {
    assert_eq!(
        parse_request(b"{\"request\":\"reload\",\"wait\":true}\n").unwrap(),
        Request::Reload { wait: true }
    );
    assert_eq!(
        parse_request(b"{\"request\":\"status\"}\n").unwrap(),
        Request::Status {}
    );
    for line in [
        &b""[..],
        b"\n",
        b"{\"request\":\"status\"}",
        b"{\"request\":\"format-disk\"}\n",
        b"{\"request\":\"status\",\"extra\":1}\n",
        b"{\"request\":\"replay-sink\",\"sink\":\"x\",\"after\":-1}\n",
        b"\xff\xfe\n",
        b"[]\n",
    ] {
        assert_eq!(kind(line), ErrorKind::BadRequest, "{line:?}");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_long_request_is_refused_and_not_kept() {
    let answer = exchange(&vec![b'x'; MAX_REQUEST_BYTES + 1]).await;
    assert!(answer.contains("longer than 65536 bytes"), "{answer}");
}

#[tokio::test(flavor = "current_thread")]
async fn a_client_of_another_user_group_is_asked_for_by_its_own() {
    // The test may run as anybody: what is answered depends on who that is.
    let answer = exchange(b"{\"request\":\"reload\"}\n").await;
    let expected = if nix::unistd::getuid().is_root() {
        "accepted"
    } else {
        "not-permitted"
    };
    assert!(answer.contains(expected), "{answer}");
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_silent_client_is_sent_away() {
    let (mut here, mut there) = UnixStream::pair().unwrap();
    let (calls, _loop_side) = mpsc::channel(1);
    let daemon = Daemon { calls };
    let peer = Peer::of(&there).unwrap();
    attend(&mut there, &peer, &daemon).await.unwrap();
    drop(there);
    let mut answer = String::new();
    here.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("too-slow"), "{answer}");
}
