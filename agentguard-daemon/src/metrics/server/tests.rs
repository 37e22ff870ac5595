use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    sync::mpsc,
};

use super::*;

const GET: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";

/// A scraper of a daemon whose loop refuses and counts what it is asked.
fn scraper() -> (Arc<Scraper>, Arc<AtomicUsize>) {
    let (calls, mut loop_side) = mpsc::channel::<control::server::Call>(1);
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Some(call) = loop_side.recv().await {
            count.fetch_add(1, Ordering::Relaxed);
            let answer = control::Response::Error {
                kind: control::ErrorKind::Failed,
                message: "the counters are gone".to_owned(),
            };
            drop(call.reply.send(Answer::Response(answer)));
        }
    });
    let scraper = Scraper {
        daemon: Daemon { calls },
        last: Mutex::new(None),
    };
    (Arc::new(scraper), asked)
}

/// A client of a connection that is attended to.
async fn connect(scraper: &Arc<Scraper>) -> DuplexStream {
    let (here, there) = tokio::io::duplex(64 << 10);
    let seats = Arc::new(Semaphore::new(1));
    let seat = seats.acquire_owned().await.unwrap();
    tokio::spawn(attend(there, seat, Arc::clone(scraper)));
    here
}

async fn answer_to(scraper: &Arc<Scraper>, request: &[u8]) -> String {
    let mut client = connect(scraper).await;
    // It may be answered, and closed, before all is written.
    drop(client.write_all(request).await);
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test(start_paused = true)]
async fn nothing_but_get_metrics_is_served() {
    let (scraper, asked) = scraper();
    let long = [
        b"GET /metrics HTTP/1.1\r\nX: ".to_vec(),
        vec![b'x'; MAX_HEAD_BYTES],
    ]
    .concat();
    let many = [
        b"GET /metrics HTTP/1.1\r\n".to_vec(),
        b"X: y\r\n".repeat(101),
        b"\r\n".to_vec(),
    ]
    .concat();
    for (request, status) in [
        (&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], "404"),
        (b"GET /metrics/ HTTP/1.1\r\nHost: x\r\n\r\n", "404"),
        (b"GET /../metrics HTTP/1.1\r\nHost: x\r\n\r\n", "404"),
        (b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "405"),
        (
            b"POST /metrics HTTP/1.1\r\nContent-Length: 9000000\r\n\r\nx",
            "405",
        ),
        (b"{\"request\":\"status\"}\n\n", "400"),
        (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
            "400",
        ),
        (&long, "431"),
        (&many, "431"),
    ] {
        let answer = answer_to(&scraper, request).await;
        let text = String::from_utf8_lossy(request);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{status} to {text:.60?}: {answer:?}"
        );
    }
    assert_eq!(asked.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_failure_of_the_daemon_is_told() {
    let (scraper, asked) = scraper();
    let answer = answer_to(&scraper, GET).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer:?}");
    assert!(answer.ends_with("the counters are gone\n"), "{answer:?}");
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_good_for_a_second() {
    let (scraper, asked) = scraper();
    *scraper.last.lock().await = Some((Instant::now(), Bytes::from_static(b"text")));
    let two = [GET, GET].concat();
    for request in [GET, &two] {
        let answer = answer_to(&scraper, request).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
        assert!(answer.contains(OPEN_METRICS), "{answer:?}");
        assert!(answer.ends_with("\r\n\r\ntext"), "{answer:?}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer:?}");
    }
    assert_eq!(asked.load(Ordering::Relaxed), 0);
    sleep(FRESH).await;
    let answer = answer_to(&scraper, GET).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer:?}");
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_slow_client_is_sent_away() {
    let (scraper, asked) = scraper();
    let mut client = connect(&scraper).await;
    let start = Instant::now();
    let mut written = 0;
    for byte in GET.iter().cycle() {
        sleep(PATIENCE / 10).await;
        if client.write_all(&[*byte]).await.is_err() {
            break;
        }
        written += 1;
        assert!(written < 20, "it is still listened to");
    }
    assert!(start.elapsed() >= PATIENCE);
    assert_eq!(asked.load(Ordering::Relaxed), 0);
}
