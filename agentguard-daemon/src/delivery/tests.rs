use std::{fs, time::Duration};

use jiff::Timestamp;

use super::*;
use crate::{
    audit::{AuditRecord, Encoder, Host},
    history::{History, OnFull, Retention},
};

fn settings(text: &str) -> Sinks {
    toml::from_str(text).unwrap()
}

struct Scene {
    directory: tempfile::TempDir,
    history: History,
    delivery: Delivery,
}

impl Scene {
    fn start(directory: tempfile::TempDir, sinks: &str) -> Self {
        let sinks = settings(&sinks.replace("DIR", directory.path().to_str().unwrap()));
        let host = Host {
            version: "0.1.0".into(),
            hostname: "host".into(),
            boot_id: "boot".into(),
        };
        let place = directory.path().join("history");
        let retention = Retention {
            max_bytes: 1 << 30,
            max_days: 30,
            on_full: OnFull::DropOldest,
        };
        let history = History::open(
            &place,
            Encoder::new(host, uuid::Uuid::now_v7()),
            retention,
            sinks
                .iter()
                .map(|(name, sink)| (name.clone(), sink.filter.clone())),
        )
        .unwrap();
        let delivery =
            Delivery::start(&sinks, &place, history.cursors(), history.committed()).unwrap();
        Self {
            directory,
            history,
            delivery,
        }
    }

    fn add(&self, from: usize, to: usize) {
        for number in from..to {
            self.history.append(AuditRecord::SinkTest {
                time: Timestamp::now(),
                sink: format!("record {number};"),
            });
        }
    }

    fn status(&self, name: &str) -> SinkStatus {
        let all = self.delivery.statuses();
        all.into_iter().find(|it| it.name == name).unwrap()
    }

    fn wait(&self, name: &str, is_wanted: impl Fn(&SinkStatus) -> bool) {
        let begun = std::time::Instant::now();
        loop {
            let status = self.status(name);
            if is_wanted(&status) {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "{status:?}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// The numbers in a file, in their order.
    fn numbers(&self, file: &str) -> Vec<usize> {
        let text = fs::read_to_string(self.directory.path().join(file)).unwrap_or_default();
        text.lines()
            .filter_map(|line| {
                let rest = line.split_once("sink record ")?.1;
                rest.split_once(';')?.0.parse().ok()
            })
            .collect()
    }

    fn stop(self) -> tempfile::TempDir {
        self.history.close();
        self.delivery.stop();
        self.directory
    }
}

const TWO: &str = "[good.file]\npath = \"DIR/good\"\n[bad.file]\npath = \"DIR/bad/events\"\n";

#[test]
fn each_sink_gets_all_once_and_one_that_fails_holds_up_nobody() {
    let directory = tempfile::tempdir().unwrap();
    // A file where a directory should be.
    fs::write(directory.path().join("bad"), "").unwrap();
    let scene = Scene::start(directory, TWO);
    scene.add(0, 3_000);
    scene.wait("good", |status| status.delivered >= 3_000);
    scene.wait("bad", |status| status.retries > 0);
    let bad = scene.status("bad");
    assert_eq!((bad.delivered, bad.waiting >= 3_000), (0, true));
    assert!(bad.last_error.unwrap().contains("make the directory"));
    assert_eq!(scene.numbers("good"), (0..3_000).collect::<Vec<_>>());

    fs::remove_file(scene.directory.path().join("bad")).unwrap();
    scene.wait("bad", |status| {
        status.waiting == 0 && status.last_error.is_none()
    });
    assert_eq!(scene.numbers("bad/events"), (0..3_000).collect::<Vec<_>>());

    // Over a restart, each goes on where it was.
    let directory = scene.stop();
    let scene = Scene::start(directory, TWO);
    scene.add(3_000, 4_000);
    for sink in ["good", "bad"] {
        scene.wait(sink, |status| {
            status.waiting == 0 && status.delivered >= 1_000
        });
    }
    assert_eq!(scene.numbers("good"), (0..4_000).collect::<Vec<_>>());
    assert_eq!(scene.numbers("bad/events"), (0..4_000).collect::<Vec<_>>());
    drop(scene.stop());
}

#[test]
fn the_end_waits_for_what_is_under_way() {
    let scene = Scene::start(tempfile::tempdir().unwrap(), TWO);
    scene.add(0, 5_000);
    let Scene {
        directory,
        history,
        delivery,
    } = scene;
    history.close();
    delivery.stop();
    let text = fs::read_to_string(directory.path().join("good")).unwrap();
    assert_eq!(text.matches("sink record").count(), 5_000);
}

#[test]
fn a_replay_gives_again_what_was_given() {
    let scene = Scene::start(tempfile::tempdir().unwrap(), TWO);
    scene.add(0, 100);
    scene.wait("good", |status| status.delivered == 100);
    assert!(scene.delivery.replay("good", 90));
    assert!(!scene.delivery.replay("nobody", 90));
    scene.wait("good", |status| {
        status.delivered == 110 && status.waiting == 0
    });
    let wanted: Vec<usize> = (0..100).chain(90..100).collect();
    assert_eq!(scene.numbers("good"), wanted);
    assert_eq!(scene.numbers("bad/events").len(), 100);
    drop(scene.stop());
}

#[test]
fn a_file_that_was_moved_away_is_left_at_a_nudge() {
    let scene = Scene::start(tempfile::tempdir().unwrap(), TWO);
    scene.add(0, 10);
    scene.wait("good", |status| status.delivered == 10);
    let path = scene.directory.path().join("good");
    fs::rename(&path, path.with_extension("old")).unwrap();
    scene.delivery.nudge();
    // The nudge is taken up before what comes next, or that goes to the old file.
    thread::sleep(Duration::from_millis(200));
    scene.add(10, 20);
    scene.wait("good", |status| status.delivered == 20);
    assert_eq!(scene.numbers("good.old"), (0..10).collect::<Vec<_>>());
    assert_eq!(scene.numbers("good"), (10..20).collect::<Vec<_>>());
    drop(scene.stop());
}

#[test]
fn a_filter_leaves_out_and_goes_on() {
    let sinks = "[some]\nidentities = [\"bot\"]\nfile = { path = \"DIR/some\" }\n";
    let scene = Scene::start(tempfile::tempdir().unwrap(), sinks);
    for _ in 0..50 {
        let time = Timestamp::now();
        scene.history.append(AuditRecord::DaemonStarted { time });
    }
    scene.add(0, 1);
    scene.wait("some", |status| {
        status.waiting == 0 && status.delivered == 1
    });
    assert_eq!(scene.numbers("some"), [0], "a test passes all filters");
    drop(scene.stop());
}
