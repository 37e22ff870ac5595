//! Webhook: signatures are verified by another implementation of HMAC.

use std::path::Path;

use agentguard_daemon::sink::{
    tls::TlsSettings,
    webhook::{Webhook, WebhookSettings},
};
use serde_json::json;
use tempfile::TempDir;

use crate::{
    driver::{assert_all_arrived, drive_in_peace, drive_through_trouble, failure, records},
    receiver::{Receiver, make_certificates, write_secret},
};

const PATH: &str = "/in?from=agentguard";

/// Settings of a webhook, with their secrets in files of `directory`.
fn settings(directory: &Path, url: &str) -> WebhookSettings {
    serde_json::from_value(json!({
        "url": url,
        "token": {"file": write_secret(directory, "token", "t0ken")},
        "signing-key": {"file": write_secret(directory, "key", "k\u{e9}y")},
    }))
    .unwrap()
}

fn options() -> serde_json::Value {
    json!({"token": "t0ken", "key": "k\u{e9}y"})
}

#[tokio::test]
#[ignore = "needs receivers: cargo xtask test runs it"]
async fn a_webhook_gets_every_record_once_in_peace() {
    let directory = TempDir::new().unwrap();
    let mut receiver_options = options();
    receiver_options["no_content"] = json!(true);
    let receiver = Receiver::start("webhook.py", receiver_options);
    let records = records(10_000);
    let url = receiver.url("http", "127.0.0.1", PATH);
    let mut webhook = Webhook::new(settings(directory.path(), &url));
    drive_in_peace(&mut webhook, &records).await;
    assert_eq!(assert_all_arrived(&records, &receiver.received()), 0);
}

#[tokio::test]
#[ignore = "needs receivers: cargo xtask test runs it"]
async fn a_webhook_loses_nothing_in_trouble() {
    let directory = TempDir::new().unwrap();
    let mut receiver_options = options();
    receiver_options["delay"] = json!(0.1);
    receiver_options["inject"] = json!({"every": 7, "status": 503, "body": "try \u{1b}[2Jlater"});
    let mut receiver = Receiver::start("webhook.py", receiver_options);
    let records = records(10_000);
    let url = receiver.url("http", "127.0.0.1", PATH);
    let mut webhook = Webhook::new(settings(directory.path(), &url));
    let outcome = drive_through_trouble(&mut webhook, &records, &mut receiver).await;
    let injected = r"503 Service Unavailable: try \x1b[2Jlater";
    assert!(
        outcome.errors.iter().any(|it| it.ends_with(injected)),
        "{outcome:?}"
    );
    assert_all_arrived(&records, &receiver.received());
}

#[tokio::test]
#[ignore = "needs receivers: cargo xtask test runs it"]
async fn a_webhook_that_does_not_know_us_is_an_error() {
    let directory = TempDir::new().unwrap();
    let receiver = Receiver::start("webhook.py", options());
    let url = receiver.url("http", "127.0.0.1", PATH);
    for (file, wanted) in [("token", "authorization"), ("key", "signature")] {
        let mut webhook = Webhook::new(settings(directory.path(), &url));
        write_secret(directory.path(), file, "another");
        let said = failure(&mut webhook).await;
        assert!(
            said.contains("answered 400 Bad Request") && said.contains(wanted),
            "{said}"
        );
    }
    assert_eq!(receiver.received(), Vec::<serde_json::Value>::new());
}

#[tokio::test]
#[ignore = "needs receivers: cargo xtask test runs it"]
async fn a_webhook_is_trusted_by_its_certificate_and_trusts_ours() {
    let directory = TempDir::new().unwrap();
    make_certificates(directory.path());
    let file = |name: &str| Some(directory.path().join(name));
    let mut receiver_options = options();
    receiver_options["certificate"] = json!(file("server.pem"));
    receiver_options["client_ca"] = json!(file("ca.pem"));
    let receiver = Receiver::start("webhook.py", receiver_options);
    let good = TlsSettings {
        ca: file("ca.pem"),
        certificate: file("client.pem"),
        key: file("client.key"),
        server_name: Some("localhost".to_owned()),
    };
    let webhook = |tls: TlsSettings| {
        let url = receiver.url("https", "127.0.0.1", PATH);
        let mut settings = settings(directory.path(), &url);
        settings.tls = Some(tls);
        Webhook::new(settings)
    };

    let wrong_ca = TlsSettings {
        ca: file("other-ca.pem"),
        ..good.clone()
    };
    let wrong_name = TlsSettings {
        server_name: None,
        ..good.clone()
    };
    let no_certificate = TlsSettings {
        certificate: None,
        key: None,
        ..good.clone()
    };
    let wrong_certificate = TlsSettings {
        certificate: file("other-client.pem"),
        key: file("other-client.key"),
        ..good.clone()
    };
    for (tls, wanted) in [
        (wrong_ca, "UnknownIssuer"),
        (wrong_name, "certificate not valid for name \"127.0.0.1\""),
        (no_certificate, "CertificateRequired"),
        (wrong_certificate, "UnknownCA"),
    ] {
        let said = failure(&mut webhook(tls)).await;
        println!("{said}");
        assert!(said.contains(wanted), "{said}");
    }
    assert_eq!(receiver.received(), Vec::<serde_json::Value>::new());

    let records = records(2_000);
    drive_in_peace(&mut webhook(good), &records).await;
    assert_eq!(assert_all_arrived(&records, &receiver.received()), 0);
}
