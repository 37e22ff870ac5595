//! Kafka: librdkafka's mock brokers, and its consumer.
//!
//! Those brokers keep in memory what they acknowledged, so that one that is killed says nothing about the
//! producer. Instead all brokers break their connections and accept none for some seconds, as they do
//! when they are killed and begun anew, and keep what they have, as a broker with a disk does. The process
//! as a whole is stalled like the other receivers.

use std::time::Duration;

use agentguard_daemon::sink::{
    Record,
    kafka::{Kafka, KafkaSettings},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{sync::watch, time::sleep};

use crate::{
    driver::{assert_all_arrived, drive, drive_in_peace, failure, records},
    receiver::{Receiver, make_certificates},
};

fn kafka(receiver: &Receiver, more: Value) -> Kafka {
    let brokers: Vec<&str> = receiver.ready.split(',').collect();
    let mut settings = json!({"brokers": brokers, "topic": "agentguard"});
    let table = settings.as_object_mut().unwrap();
    table.extend(more.as_object().unwrap().clone());
    let settings: KafkaSettings = serde_json::from_value(settings).unwrap();
    Kafka::new(settings)
}

/// What the consumer got once it has `wanted` records, and what more it got right after.
async fn consumed(receiver: &Receiver, wanted: usize) -> Vec<Value> {
    for _ in 0..100 {
        if receiver.received().len() >= wanted {
            break;
        }
        sleep(Duration::from_millis(100)).await;
    }
    sleep(Duration::from_millis(500)).await;
    receiver.received()
}

#[tokio::test]
#[ignore = "needs receivers: cargo xtask test runs it"]
async fn a_partition_gets_every_record_once_in_peace() {
    let receiver = Receiver::start("kafka.py", json!({}));
    let records = records(10_000);
    drive_in_peace(&mut kafka(&receiver, json!({"partition": 0})), &records).await;
    let received = consumed(&receiver, records.len()).await;
    assert_eq!(assert_all_arrived(&records, &received), 0);
}

#[tokio::test]
#[ignore = "needs receivers: cargo xtask test runs it"]
async fn partitions_get_records_in_turn() {
    let receiver = Receiver::start("kafka.py", json!({"partitions": 3}));
    let records = records(10_000);
    drive_in_peace(&mut kafka(&receiver, json!({})), &records).await;
    let received = consumed(&receiver, records.len()).await;
    // Within a partition they are in order.
    let partition = |number: u64| number / 256 % 3;
    for one in 0..3 {
        let records: Vec<Record> = records
            .iter()
            .filter(|it| partition(it.sequence) == one)
            .cloned()
            .collect();
        let received: Vec<Value> = received
            .iter()
            .filter(|it| partition(it["number"].as_u64().unwrap()) == one)
            .cloned()
            .collect();
        assert!(records.len() > 3_000);
        assert_eq!(assert_all_arrived(&records, &received), 0);
    }
}

#[tokio::test]
#[ignore = "needs receivers: cargo xtask test runs it"]
async fn brokers_lose_nothing_in_trouble() {
    let mut receiver = Receiver::start("kafka.py", json!({"delay_ms": 50}));
    let records = records(10_000);
    let mut kafka = kafka(&receiver, json!({"partition": 0}));
    let (sender, mut done) = watch::channel(0);
    let trouble = async {
        done.wait_for(|&at| at >= 1_000).await.unwrap();
        receiver.tell("fail 2");
        done.wait_for(|&at| at >= 2_500).await.unwrap();
        sleep(Duration::from_millis(30)).await;
        for broker in 1..=3 {
            receiver.tell(&format!("down {broker}"));
        }
        sleep(Duration::from_secs(3)).await;
        for broker in 1..=3 {
            receiver.tell(&format!("up {broker}"));
        }
        done.wait_for(|&at| at >= 5_000).await.unwrap();
        sleep(Duration::from_millis(30)).await;
        receiver.stall();
        sleep(Duration::from_secs(6)).await;
        receiver.resume();
    };
    let (outcome, ()) = tokio::join!(drive(&mut kafka, &records, &sender), trouble);
    println!("{outcome:?}");
    assert!(outcome.given_up > 0, "the stall went by unnoticed");
    for wanted in ["answered NotEnoughReplicas", "Connection refused"] {
        let said = outcome.errors.iter().any(|it| it.contains(wanted));
        assert!(said, "{wanted}: {outcome:?}");
    }
    let received = consumed(&receiver, records.len()).await;
    assert_all_arrived(&records, &received);
}

#[tokio::test]
#[ignore = "needs receivers: cargo xtask test runs it"]
async fn what_is_wrong_with_kafka_is_said() {
    let receiver = Receiver::start("kafka.py", json!({}));
    for (more, wanted) in [
        (json!({"partition": 7}), "partition 7"),
        (json!({"topic": "other", "partition": 7}), "partition 7"),
        (json!({"topic": "another"}), "there is no topic `another`"),
        (json!({"brokers": ["127.0.0.1:1"]}), "Connection refused"),
        (
            json!({"tls": {"server-name": "x"}}),
            "`tls.server-name` is not for Kafka",
        ),
    ] {
        let said = failure(&mut kafka(&receiver, more)).await;
        println!("{said}");
        assert!(said.contains(wanted), "{said}");
    }
}

#[tokio::test]
#[ignore = "needs receivers: cargo xtask test runs it"]
async fn brokers_are_trusted_by_their_certificates_and_trust_ours() {
    let directory = TempDir::new().unwrap();
    make_certificates(directory.path());
    let file = |name: &str| directory.path().join(name);
    let options = json!({
        "certificate": file("server.pem"),
        "client_ca": file("ca.pem"),
        "consumer": {
            "security.protocol": "ssl",
            "ssl.ca.location": file("ca.pem"),
            "ssl.certificate.location": file("client.pem"),
            "ssl.key.location": file("client.key"),
        },
    });
    let receiver = Receiver::start("kafka.py", options);
    let kafka = |ca: &str, certificate: Option<&str>| {
        let tls = json!({
            "ca": file(ca),
            "certificate": certificate.map(|it| file(&format!("{it}.pem"))),
            "key": certificate.map(|it| file(&format!("{it}.key"))),
        });
        kafka(&receiver, json!({"tls": tls}))
    };
    for (ca, certificate, wanted) in [
        ("other-ca.pem", Some("client"), "UnknownIssuer"),
        ("ca.pem", None, "CertificateRequired"),
        ("ca.pem", Some("other-client"), "UnknownCA"),
    ] {
        let said = failure(&mut kafka(ca, certificate)).await;
        println!("{said}");
        assert!(said.contains(wanted), "{said}");
    }
    let records = records(2_000);
    drive_in_peace(&mut kafka("ca.pem", Some("client")), &records).await;
    let received = consumed(&receiver, records.len()).await;
    assert_eq!(assert_all_arrived(&records, &received), 0);
}
