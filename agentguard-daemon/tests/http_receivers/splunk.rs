//! Splunk's HEC: what it answered with success and has not indexed is lost when it is killed.

use std::path::Path;

use agentguard_daemon::sink::splunk::{Splunk, SplunkSettings};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    driver::{
        assert_all_arrived, assert_arrived, drive, drive_in_peace, drive_through_trouble, failure,
        records,
    },
    receiver::{Receiver, write_secret},
};

fn splunk(directory: &Path, receiver: &Receiver, more: Value) -> Splunk {
    let mut settings = json!({
        "url": receiver.url("http", "127.0.0.1", ""),
        "token": {"file": write_secret(directory, "token", "t0ken")},
    });
    let table = settings.as_object_mut().unwrap();
    table.extend(more.as_object().unwrap().clone());
    let settings: SplunkSettings = serde_json::from_value(settings).unwrap();
    Splunk::new(settings)
}

#[tokio::test]
#[ignore = "needs receivers: cargo xtask test runs it"]
async fn splunk_indexes_every_record_once_in_peace() {
    let directory = TempDir::new().unwrap();
    let records = records(10_000);
    for (options, more) in [
        (
            json!({"token": "t0ken", "index": "main"}),
            json!({"index": "main"}),
        ),
        (
            json!({"token": "t0ken", "acknowledge": false}),
            json!({"acknowledge": false}),
        ),
    ] {
        let receiver = Receiver::start("splunk.py", options);
        let mut splunk = splunk(directory.path(), &receiver, more);
        drive_in_peace(&mut splunk, &records).await;
        assert_eq!(assert_all_arrived(&records, &receiver.received()), 0);
    }
}

#[tokio::test]
#[ignore = "needs receivers: cargo xtask test runs it"]
async fn splunk_loses_nothing_in_trouble() {
    let directory = TempDir::new().unwrap();
    let options = json!({
        "token": "t0ken",
        "delay": 0.02,
        "index_delay": 0.15,
        "inject": {"every": 17, "status": 503, "body": r#"{"text":"Server is busy","code":9}"#},
    });
    let mut receiver = Receiver::start("splunk.py", options);
    let records = records(10_000);
    let mut splunk = splunk(directory.path(), &receiver, json!({}));
    let outcome = drive_through_trouble(&mut splunk, &records, &mut receiver).await;
    assert_all_arrived(&records, &receiver.received());
    assert!(
        outcome
            .errors
            .iter()
            .any(|it| it.contains("Server is busy")),
        "{outcome:?}"
    );
}

#[tokio::test]
#[ignore = "needs receivers: cargo xtask test runs it"]
async fn what_splunk_calls_invalid_is_refused_alone() {
    let directory = TempDir::new().unwrap();
    let poison = [1, 2, 700, 1_024, 1_025, 1_999];
    let options = json!({"token": "t0ken", "poison": poison});
    let receiver = Receiver::start("splunk.py", options);
    let records = records(2_000);
    let mut splunk = splunk(directory.path(), &receiver, json!({}));
    let outcome = drive(&mut splunk, &records, &tokio::sync::watch::channel(0).0).await;
    assert_eq!(outcome.refused, poison.len(), "{outcome:?}");
    // One error a batch that had such records, and no more calls than there are batches.
    assert_eq!((outcome.errors.len(), outcome.calls), (4, 4), "{outcome:?}");
    assert!(
        outcome.errors[0].contains("Invalid data format"),
        "{outcome:?}"
    );
    let again = assert_arrived(&records, &receiver.received(), |record| {
        !poison.contains(&record.sequence)
    });
    assert_eq!(again, 0);
}

#[tokio::test]
#[ignore = "needs receivers: cargo xtask test runs it"]
async fn what_splunk_does_not_index_is_sent_again() {
    let directory = TempDir::new().unwrap();
    let options = json!({"token": "t0ken", "lose_batch": 2});
    let receiver = Receiver::start("splunk.py", options);
    let records = records(2_000);
    let mut splunk = splunk(directory.path(), &receiver, json!({}));
    let outcome = drive(&mut splunk, &records, &tokio::sync::watch::channel(0).0).await;
    println!("{outcome:?}");
    assert!(
        outcome.errors.len() == 1
            && outcome.errors[0].contains("not indexed records 513 to 1024 within 30 s"),
        "{outcome:?}"
    );
    // It was waited for over several calls, not sent anew by each.
    assert!(outcome.given_up >= 5, "{outcome:?}");
    assert_eq!(assert_all_arrived(&records, &receiver.received()), 0);
}

#[tokio::test]
#[ignore = "needs receivers: cargo xtask test runs it"]
async fn an_indexer_slower_than_a_call_gets_nothing_twice() {
    let directory = TempDir::new().unwrap();
    let options = json!({"token": "t0ken", "index_delay": 7});
    let receiver = Receiver::start("splunk.py", options);
    let records = records(600);
    let mut splunk = splunk(directory.path(), &receiver, json!({}));
    let outcome = drive(&mut splunk, &records, &tokio::sync::watch::channel(0).0).await;
    assert!(
        outcome.given_up >= 2 && outcome.errors.is_empty(),
        "{outcome:?}"
    );
    assert_eq!(assert_all_arrived(&records, &receiver.received()), 0);
}

#[tokio::test]
#[ignore = "needs receivers: cargo xtask test runs it"]
async fn what_is_wrong_with_splunk_is_said() {
    let directory = TempDir::new().unwrap();
    for (options, wanted) in [
        (
            json!({"token": "another"}),
            "403 Forbidden: {\"text\": \"Invalid token\"",
        ),
        // It is about an event, says HEC; but all of them would be refused.
        (
            json!({"token": "t0ken", "index": "main"}),
            "Incorrect index",
        ),
        (
            json!({"token": "t0ken", "acknowledge": false}),
            "write `acknowledge = false`",
        ),
    ] {
        let receiver = Receiver::start("splunk.py", options);
        let said = failure(&mut splunk(directory.path(), &receiver, json!({}))).await;
        assert!(said.contains(wanted), "{said}");
        if wanted != "write `acknowledge = false`" {
            assert_eq!(receiver.received(), Vec::<Value>::new());
        }
    }
}
