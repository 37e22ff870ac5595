//! OpenTelemetry: its own messages and its own gRPC at the other end.

use std::path::Path;

use agentguard_daemon::sink::otlp::{Otlp, OtlpSettings};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    driver::{
        assert_all_arrived, assert_arrived, drive, drive_in_peace, drive_through_trouble, failure,
        records,
    },
    receiver::{Receiver, make_certificates, write_secret},
};

const PROTOCOLS: [&str; 2] = ["http", "grpc"];

/// Options of a collector that speaks this.
fn options(protocol: &str, more: Value) -> Value {
    let mut options = more;
    options["grpc"] = json!(protocol == "grpc");
    options
}

fn otlp(receiver: &Receiver, protocol: &str, more: Value) -> Otlp {
    let mut settings = json!({
        "url": receiver.url("http", "127.0.0.1", "/"),
        "protocol": protocol,
    });
    let table = settings.as_object_mut().unwrap();
    table.extend(more.as_object().unwrap().clone());
    let settings: OtlpSettings = serde_json::from_value(settings).unwrap();
    Otlp::new(settings)
}

fn token(directory: &Path) -> Value {
    json!({"token": {"file": write_secret(directory, "token", "t0ken")}})
}

#[tokio::test]
#[ignore = "needs receivers: cargo xtask test runs it"]
async fn a_collector_gets_every_record_once_in_peace() {
    let directory = TempDir::new().unwrap();
    let records = records(10_000);
    for protocol in PROTOCOLS {
        let options = options(protocol, json!({"token": "t0ken", "warn": true}));
        let receiver = Receiver::start("otlp.py", options);
        let mut otlp = otlp(&receiver, protocol, token(directory.path()));
        drive_in_peace(&mut otlp, &records).await;
        assert_eq!(assert_all_arrived(&records, &receiver.received()), 0);
    }
}

#[tokio::test]
#[ignore = "needs receivers: cargo xtask test runs it"]
async fn a_collector_loses_nothing_in_trouble_over_http() {
    let inject = json!({"every": 7, "status": 429, "body": "try later"});
    trouble("http", inject, "429 Too Many Requests: try later").await;
}

#[tokio::test]
#[ignore = "needs receivers: cargo xtask test runs it"]
async fn a_collector_loses_nothing_in_trouble_over_grpc() {
    let inject = json!({"every": 7, "code": "UNAVAILABLE"});
    trouble("grpc", inject, r"UNAVAILABLE: try \x1b[2Jlater").await;
}

async fn trouble(protocol: &str, inject: Value, wanted: &str) {
    let options = options(protocol, json!({"delay": 0.1, "inject": inject}));
    let mut receiver = Receiver::start("otlp.py", options);
    let records = records(10_000);
    let mut otlp = otlp(&receiver, protocol, json!({}));
    let outcome = drive_through_trouble(&mut otlp, &records, &mut receiver).await;
    assert!(
        outcome.errors.iter().any(|it| it.contains(wanted)),
        "{outcome:?}"
    );
    assert_all_arrived(&records, &receiver.received());
}

#[tokio::test]
#[ignore = "needs receivers: cargo xtask test runs it"]
async fn what_a_collector_rejects_is_refused_and_told() {
    let rejected = [1, 2, 700, 1_999];
    let records = records(2_000);
    for protocol in PROTOCOLS {
        let receiver = Receiver::start("otlp.py", options(protocol, json!({"reject": rejected})));
        let mut otlp = otlp(&receiver, protocol, json!({}));
        let outcome = drive(&mut otlp, &records, &tokio::sync::watch::channel(0).0).await;
        println!("{outcome:?}");
        assert_eq!((outcome.refused, outcome.calls), (rejected.len(), 4));
        assert_eq!(outcome.errors.len(), 3);
        let wanted = r"answered that it rejected 2 of 512 records: not \x1b[2Jthese";
        assert!(outcome.errors[0].ends_with(wanted), "{outcome:?}");
        let again = assert_arrived(&records, &receiver.received(), |record| {
            !rejected.contains(&record.sequence)
        });
        assert_eq!(again, 0);
    }
}

#[tokio::test]
#[ignore = "needs receivers: cargo xtask test runs it"]
async fn a_collector_that_does_not_know_us_is_an_error() {
    for (protocol, wanted) in [
        ("http", "401 Unauthorized: who are you?"),
        ("grpc", "UNAUTHENTICATED: who are you, caf\u{e9}?"),
    ] {
        let receiver = Receiver::start("otlp.py", options(protocol, json!({"token": "t0ken"})));
        let said = failure(&mut otlp(&receiver, protocol, json!({}))).await;
        assert!(said.ends_with(wanted), "{said}");
        assert_eq!(receiver.received(), Vec::<Value>::new());
    }
    // The one protocol spoken to the other.
    for (protocol, other, wanted) in [
        ("http", "grpc", "cannot send to"),
        ("grpc", "http", "cannot send to"),
    ] {
        let receiver = Receiver::start("otlp.py", options(other, json!({})));
        let said = failure(&mut otlp(&receiver, protocol, json!({}))).await;
        println!("{said}");
        assert!(said.contains(wanted), "{said}");
    }
}

#[tokio::test]
#[ignore = "needs receivers: cargo xtask test runs it"]
async fn grpc_goes_over_tls() {
    let directory = TempDir::new().unwrap();
    make_certificates(directory.path());
    let file = |name: &str| directory.path().join(name);
    let tls = json!({"certificate": file("server.pem"), "client_ca": file("ca.pem")});
    let receiver = Receiver::start("otlp.py", options("grpc", tls));
    let otlp = |ca: &str, certificate: &str| {
        let more = json!({
            "url": receiver.url("https", "localhost", ""),
            "tls": {
                "ca": file(ca),
                "certificate": file(&format!("{certificate}.pem")),
                "key": file(&format!("{certificate}.key")),
            },
        });
        otlp(&receiver, "grpc", more)
    };
    for (ca, certificate, wanted) in [
        ("other-ca.pem", "client", "UnknownIssuer"),
        // The server of gRPC hangs up without saying why, at one point or another.
        ("ca.pem", "other-client", "cannot send to localhost:"),
    ] {
        let said = failure(&mut otlp(ca, certificate)).await;
        println!("{said}");
        assert!(said.contains(wanted), "{said}");
    }
    assert_eq!(receiver.received(), Vec::<Value>::new());
    let records = records(2_000);
    drive_in_peace(&mut otlp("ca.pem", "client"), &records).await;
    assert_eq!(assert_all_arrived(&records, &receiver.received()), 0);
}
