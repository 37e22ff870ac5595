//! Metrics: they say what `status` says, and whoever asks for them harms nobody.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    iter,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use agentguard_tests::{daemon::Daemon, network::Zone, probe::Report, world::PORT};
use serde_json::Value;

use crate::{
    control::{MAX_RESIDENT_KIB, PATIENCE, READERS, count_descriptors, wait_for},
    scene::{ENFORCED, Scene, policy, spec},
};

/// Connections that are served at a time.
const SEATS: usize = 16;
const GET: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: agentguard\r\n\r\n";

/// Where a daemon serves them.
enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// What is read and written in tests.
trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

impl Place {
    /// A loopback port that nobody has.
    fn free_port() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        Self::Tcp(listener.local_addr().expect("it has an address"))
    }

    fn settings(&self) -> String {
        match self {
            Self::Tcp(address) => format!("[metrics]\nlisten = \"{address}\"\n"),
            Self::Unix(path) => format!("[metrics]\nsocket = {path:?}\n"),
        }
    }

    fn connect(&self) -> Option<Box<dyn Stream>> {
        match self {
            Self::Tcp(address) => {
                let stream = TcpStream::connect(address).ok()?;
                stream.set_read_timeout(Some(PATIENCE)).ok()?;
                Some(Box::new(stream))
            }
            Self::Unix(path) => {
                let stream = UnixStream::connect(path).ok()?;
                stream.set_read_timeout(Some(PATIENCE)).ok()?;
                Some(Box::new(stream))
            }
        }
    }

    /// All that comes back for these bytes; `None` if nobody listens.
    fn answer_to(&self, bytes: &[u8]) -> Option<String> {
        let mut stream = self.connect()?;
        // It may be answered, and closed, before all is read.
        drop(stream.write_all(bytes));
        let mut answer = Vec::new();
        drop(stream.read_to_end(&mut answer));
        Some(String::from_utf8_lossy(&answer).into_owned())
    }

    fn scrape(&self) -> Option<Scrape> {
        let answer = self.answer_to(GET)?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.contains("application/openmetrics-text"), "{head}");
        assert!(body.ends_with("\n# EOF\n"), "{body}");
        let series = body
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| {
                let (series, value) = line.rsplit_once(' ').expect("a series and its value");
                (series.to_owned(), value.parse().expect("a number"))
            })
            .collect();
        Some(Scrape(series))
    }
}

/// Series as they are written, and their values.
struct Scrape(BTreeMap<String, u64>);

impl Scrape {
    /// Takes out a series that must be there.
    fn take(&mut self, series: &str) -> u64 {
        let value = self.0.remove(series);
        value.unwrap_or_else(|| panic!("no {series} in {:?}", self.0))
    }
}

/// They are told of, and refuse nothing.
const LIMITS: &str = "[roles.r.limits]\nconnections = \"100/s\"\nconcurrent = 90\n";

fn start(scene: &Scene, place: &Place) -> Daemon {
    let mut daemon = Daemon::prepare(&scene.sandbox, &(policy("") + LIMITS));
    daemon.set_group("agentguard", READERS, "nobody");
    daemon.add_settings(&place.settings());
    daemon.restart();
    daemon
}

/// Where a scrape departs from the status; a series that the status does not know is one, too.
fn differences(status: &Value, mut scrape: Scrape) -> Vec<String> {
    let mut found = Vec::new();
    let mut compare = |series: String, wanted: &Value| {
        let value = scrape.take(&series);
        if wanted.as_u64() != Some(value) {
            found.push(format!("{series}: {value}, and {wanted} in the status"));
        }
    };
    for identity in status["identities"].as_array().into_iter().flatten() {
        let (name, class) = (&identity["name"], &identity["class"]);
        let labels = format!("identity={name},class={class}");
        let (counters, events) = (&identity["counters"], &identity["events"]);
        compare_totals(&mut compare, "agentguard", &labels, counters);
        let open = format!("agentguard_flows_open{{{labels}}}");
        compare(open, &identity["open"]);
        let closed = format!("agentguard_flows_closed_total{{{labels}}}");
        compare(closed, &counters["closed"]);
        for fate in ["delivered", "folded", "dropped"] {
            let series = format!("agentguard_events_total{{{labels},fate=\"{fate}\"}}");
            compare(series, &events[fate]);
        }
        for state in ["held", "unread"] {
            let series = format!("agentguard_events_pending{{{labels},state=\"{state}\"}}");
            compare(series, &events[state]);
        }
        let produced = events["produced"]
            .as_u64()
            .zip(events["inherited"].as_u64());
        let produced = produced.map(|(own, inherited)| own + inherited).into();
        let series = format!("agentguard_events_produced_total{{{labels}}}");
        compare(series, &produced);
    }
    for total in status["totals"].as_array().into_iter().flatten() {
        let labels = format!("class={}", total["class"]);
        let counters = &total["counters"];
        compare_totals(&mut compare, "agentguard_class", &labels, counters);
    }
    for limit in status["limits"].as_array().into_iter().flatten() {
        let rule = limit["rule"].as_str().unwrap_or_default();
        let labels = format!(
            "identity={},limit={},rule=\"{rule}\",per={}",
            limit["identity"], limit["limit"], limit["per"]
        );
        for (name, key) in [
            ("used", "used"),
            ("most", "most"),
            ("refused_total", "refused"),
        ] {
            compare(format!("agentguard_limit_{name}{{{labels}}}"), &limit[key]);
        }
    }
    for sink in status["sinks"].as_array().into_iter().flatten() {
        let name = &sink["name"];
        for (fate, key) in [
            ("delivered", "delivered"),
            ("refused", "refused"),
            ("retried", "retries"),
        ] {
            let series = format!("agentguard_sink_records_total{{sink={name},fate=\"{fate}\"}}");
            compare(series, &sink[key]);
        }
        let series = format!("agentguard_sink_records_waiting{{sink={name}}}");
        compare(series, &sink["waiting"]);
    }
    let history = &status["history"];
    for (series, key) in [
        ("agentguard_history_records_total", "last"),
        ("agentguard_history_bytes", "bytes"),
        ("agentguard_history_max_bytes", "max-bytes"),
        ("agentguard_history_undelivered_bytes", "undelivered-bytes"),
        ("agentguard_history_records_unwritten", "waiting"),
    ] {
        compare(series.to_owned(), &history[key]);
    }
    for (series, value) in [
        ("agentguard_history_broken", &history["last-error"]),
        (
            "agentguard_history_refuses_flows",
            &history["refuses-flows"],
        ),
    ] {
        let is_so = !value.is_null() && *value != false;
        compare(series.to_owned(), &u64::from(is_so).into());
    }
    for (series, key) in [
        ("agentguard_generation", "generation"),
        ("agentguard_policy_rejected_total", "policies-rejected"),
        ("agentguard_events_undecodable_total", "events-undecodable"),
        ("agentguard_cgroup_events_lost_total", "cgroup-events-lost"),
        (
            "agentguard_process_labels_lost_total",
            "process-labels-lost",
        ),
        (
            "agentguard_process_events_lost_total",
            "process-events-lost",
        ),
    ] {
        compare(series.to_owned(), &status[key]);
    }
    for (series, key) in [
        ("agentguard_programs_attached", "programs"),
        ("agentguard_policy_identities", "identities"),
        ("agentguard_degraded", "degraded"),
    ] {
        let count = status[key].as_array().map(Vec::len).into();
        compare(series.to_owned(), &count);
    }
    let build = format!("agentguard_build_info{{version={}}}", status["version"]);
    compare(build, &1.into());
    let started = scrape.take("agentguard_start_time_seconds");
    assert!(started > 1_700_000_000, "it started at {started}");
    found.extend(scrape.0.keys().map(|series| format!("{series}: unknown")));
    found
}

fn compare_totals(
    compare: &mut impl FnMut(String, &Value),
    prefix: &str,
    labels: &str,
    totals: &Value,
) {
    for (verdict, key) in [
        ("allow", "allowed"),
        ("deny", "denied"),
        ("would-deny", "would-deny"),
    ] {
        let series = format!("{prefix}_flows_total{{{labels},verdict=\"{verdict}\"}}");
        compare(series, &totals[key]);
    }
    for direction in ["out", "in"] {
        let series = format!("{prefix}_bytes_total{{{labels},direction=\"{direction}\"}}");
        compare(series, &totals[format!("bytes-{direction}")]);
    }
}

fn say_what_status_says(scene: &Scene, place: &Place) {
    let daemon = start(scene, place);
    let mut judge = scene.judge();
    let denied = (0..40).map(|_| scene.target(Zone::Denied));
    let allowed = (0..30).map(|_| scene.target(Zone::Allowed));
    let targets: Vec<_> = denied
        .chain(allowed)
        .map(|to| SocketAddr::new(to, PORT))
        .collect();
    let refused = judge.ask(targets).into_iter().filter(|&refused| refused);
    assert_eq!(refused.count(), 40);
    let spec = spec(scene.target(Zone::Allowed), false);
    let report = scene.sandbox.agent(&scene.cgroup).run(&spec);
    assert_eq!(report, Report::Done);
    wait_for("a flow with bytes", || {
        daemon.counter("bot", "counters", "bytes-out") > 0
    });
    daemon.write_policy("[roles.r");
    let rejected = daemon.cli(&["reload", "--wait"]);
    assert!(!rejected.status.success());

    // Flows close and windows end meanwhile, and a scrape may be a second old.
    wait_for("metrics", || place.scrape().is_some());
    let deadline = Instant::now() + PATIENCE;
    loop {
        let scrape = place.scrape().expect("it answered before");
        let found = differences(&daemon.status(), scrape);
        if found.is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "{found:#?}");
        thread::sleep(Duration::from_millis(100));
    }
    let mut scrape = place.scrape().expect("it answered before");
    let bot = "identity=\"bot\",class=\"agent\"";
    let flows = format!("agentguard_flows_total{{{bot},verdict");
    assert_eq!(scrape.take(&format!("{flows}=\"deny\"}}")), 40);
    assert_eq!(scrape.take(&format!("{flows}=\"allow\"}}")), 31);
    assert_eq!(scrape.take("agentguard_policy_rejected_total"), 1);
    assert_eq!(scrape.take("agentguard_generation"), 1);
    let mut settled = |series: &str| scrape.take(&format!("agentguard_events_{series}"));
    let produced = settled(&format!("produced_total{{{bot}}}"));
    let rest: u64 = [
        "total,fate=\"delivered\"",
        "total,fate=\"folded\"",
        "total,fate=\"dropped\"",
        "pending,state=\"held\"",
        "pending,state=\"unread\"",
    ]
    .iter()
    .filter_map(|words| words.split_once(','))
    .map(|(name, label)| settled(&format!("{name}{{{bot},{label}}}")))
    .sum();
    assert!(produced >= 71, "{produced} events of 71 judgements");
    assert_eq!(produced, rest, "no event is without a fate");

    let status = daemon.status();
    assert_eq!(status["automation"]["denied"], 40, "{status}");
    assert_eq!(status["automation"]["allowed"], 31, "{status}");
    assert_eq!(status["people"]["denied"], 0, "{status}");
    let said = daemon.cli(&["status"]).stdout;
    let said = String::from_utf8_lossy(&said);
    let line = "automation: 31 flows allowed, 40 denied, 0 would be denied, ";
    assert!(said.contains(line), "{said}");
}

#[test]
fn on_loopback_they_say_what_status_says() {
    say_what_status_says(&Scene::new(), &Place::free_port());
}

#[test]
fn on_a_unix_socket_they_say_what_status_says_and_are_for_readers() {
    let scene = Scene::new();
    let path = scene.sandbox.files().join("metrics.sock");
    say_what_status_says(&scene, &Place::Unix(path.clone()));
    assert_private(&path);
}

fn assert_private(path: &Path) {
    let metadata = fs::metadata(path).expect("the socket stays");
    assert_eq!(metadata.permissions().mode() & 0o777, 0o660);
    assert_eq!((metadata.uid(), metadata.gid()), (0, READERS));
}

#[test]
fn whoever_asks_badly_disturbs_nobody() {
    const QUICK: usize = 1_000;
    let scene = Scene::new();
    let place = Place::free_port();
    let mut daemon = start(&scene, &place);
    let mut judge = scene.judge();
    wait_for("metrics", || place.scrape().is_some());
    let descriptors = count_descriptors(&mut daemon);

    for (request, status) in [
        (&b"\xff\x00\x1b[2J\xfe\r\n\r\n"[..], "400"),
        (b"{\"request\":\"reload\"}\n\n", "400"),
        (b"DELETE /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "405"),
        (b"GET /etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", "404"),
    ] {
        let answer = place.answer_to(request).expect("it listens");
        let line = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(&line), "{line}for {request:?}: {answer}");
    }
    for attempt in 0..QUICK {
        let mut client = place.connect().expect("it listens");
        if attempt % 2 == 0 {
            // It may have been sent away already.
            drop(client.write_all(GET));
        }
    }
    assert_eq!(scene.refusals(&mut judge), ENFORCED);
    assert!(place.scrape().is_some());

    // Twice as many as are served at a time stay with half a request.
    let slow: Vec<_> = iter::repeat_with(|| {
        let mut client = place.connect().expect("it listens");
        client.write_all(b"GET /metr").expect("send half");
        client
    })
    .take(2 * SEATS)
    .collect();
    assert_eq!(scene.refusals(&mut judge), ENFORCED);
    daemon.reload(&policy(""));
    assert_eq!(daemon.status()["generation"], 2);
    wait_for("the slow sent away", || {
        place
            .scrape()
            .is_some_and(|mut scrape| scrape.take("agentguard_generation") == 2)
    });
    wait_for("no connection left", || {
        count_descriptors(&mut daemon) <= descriptors
    });
    drop(slow);
    let resident = daemon.resident_kib();
    assert!(resident < MAX_RESIDENT_KIB, "the daemon has {resident} KiB");
}

#[test]
fn a_port_that_somebody_has_does_not_stop_enforcement() {
    let scene = Scene::new();
    let squatter = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    let place = Place::Tcp(squatter.local_addr().expect("it has an address"));
    let daemon = start(&scene, &place);
    assert_eq!(scene.refusals(&mut scene.judge()), ENFORCED);
    assert!(
        daemon.log().contains("no metrics for now"),
        "{}",
        daemon.log()
    );
    drop(squatter);
    wait_for("metrics", || place.scrape().is_some());
}
