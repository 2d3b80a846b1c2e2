//! Kafka Connect moves the lines of a file through a topic into another file.
//!
//! Standalone, it goes on where it was after a stop, and nothing gets lost while the broker is
//! killed. Distributed, its state is in compacted topics: a worker that was killed finds its
//! connectors there and goes on; with `exactly.once.source.support` the topic has each line once.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use streamd_tests::broker::{Broker, free_port};
use streamd_tests::child::Child;
use streamd_tests::install;
use streamd_tests::run::output;
use streamd_tests::wire::Connection;

const PATIENCE: Duration = Duration::from_secs(120);
const TOPIC: &str = "file-lines";
const ROUND: usize = 200;

/// A folder with the files that the connectors read and write, and the workers' settings.
struct Files {
    dir: tempfile::TempDir,
    lines: usize,
}

impl Files {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        File::create(dir.path().join("in.txt")).expect("a file");
        File::create(dir.path().join("out.txt")).expect("a file");
        Self { dir, lines: 0 }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn properties(&self, name: &str, settings: &[(&str, &str)]) -> PathBuf {
        let lines = settings.iter().map(|(k, v)| format!("{k}={v}\n"));
        fs::write(self.path(name), lines.collect::<String>()).expect("a settings file");
        self.path(name)
    }

    /// Writes the next lines.
    fn append(&mut self) {
        let mut file = File::options()
            .append(true)
            .open(self.path("in.txt"))
            .expect("in.txt");
        let lines = (self.lines..self.lines + ROUND).map(|i| format!("line {i}\n"));
        self.lines += ROUND;
        file.write_all(lines.collect::<String>().as_bytes())
            .expect("in.txt");
    }

    fn written(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("out.txt")).expect("out.txt");
        text.lines().map(str::to_owned).collect()
    }

    fn want(&self) -> Vec<String> {
        (0..self.lines).map(|i| format!("line {i}")).collect()
    }

    /// Waits until the sink has written as many different lines as there are.
    fn arrive(&self, worker: &mut Child) {
        let deadline = Instant::now() + PATIENCE;
        while once(&self.written()).len() < self.lines {
            let count = self.written().len();
            let late = Instant::now() > deadline;
            assert!(!late, "{count} lines: {}", worker.printed());
            assert!(worker.runs(), "{}", worker.printed());
            sleep(Duration::from_millis(50));
        }
    }
}

/// The lines without those that came before.
fn once(lines: &[String]) -> Vec<String> {
    let mut seen = std::collections::BTreeSet::new();
    let fresh = lines.iter().filter(|l| seen.insert(l.as_str()));
    fresh.cloned().collect()
}

const SOURCE: &str = "org.apache.kafka.connect.file.FileStreamSourceConnector";
const SINK: &str = "org.apache.kafka.connect.file.FileStreamSinkConnector";

fn worker<'a>(
    boot: &'a str,
    rest: &'a str,
    more: &[(&'a str, &'a str)],
) -> Vec<(&'a str, &'a str)> {
    let string = "org.apache.kafka.connect.storage.StringConverter";
    let mut settings = vec![
        ("bootstrap.servers", boot),
        ("listeners", rest),
        ("key.converter", string),
        ("value.converter", string),
        ("plugin.discovery", "service_load"),
        ("offset.flush.interval.ms", "500"),
        ("consumer.session.timeout.ms", "6000"),
        ("consumer.heartbeat.interval.ms", "1000"),
        ("consumer.auto.offset.reset", "earliest"),
    ];
    settings.extend_from_slice(more);
    settings
}

fn broker() -> Broker {
    Broker::start(&["--set", "group.initial.rebalance.delay.ms=0"])
}

#[test]
fn standalone_goes_on_where_it_was() {
    let _turn = crate::turn();
    let mut broker = broker();
    let boot = broker.addr();
    Connection::open(&boot).create_topic(TOPIC, 1, &[]);
    let mut files = Files::new();
    let rest = format!("http://127.0.0.1:{}", free_port());
    let offsets = files.text("offsets");
    let settings = worker(&boot, &rest, &[("offset.storage.file.filename", &offsets)]);
    let settings = files.properties("worker.properties", &settings);
    let (input, output) = (files.text("in.txt"), files.text("out.txt"));
    let source = [
        ("name", "source"),
        ("connector.class", SOURCE),
        ("file", &input),
        ("topic", TOPIC),
    ];
    let source = files.properties("source.properties", &source);
    let sink = [
        ("name", "sink"),
        ("connector.class", SINK),
        ("file", &output),
        ("topics", TOPIC),
    ];
    let sink = files.properties("sink.properties", &sink);
    let start = || {
        let mut command = install::connect("ConnectStandalone");
        Child::start("worker", command.args([&settings, &source, &sink]))
    };

    files.append();
    let mut worker = start();
    files.arrive(&mut worker);
    worker.stop(PATIENCE);
    assert_eq!(files.written(), files.want(), "a first run");

    files.append();
    let mut worker = start();
    files.arrive(&mut worker);
    assert_eq!(files.written(), files.want(), "after a stop, each once");

    broker.kill();
    files.append();
    broker.start_again();
    files.arrive(&mut worker);
    worker.stop(PATIENCE);
    // Here the source may write again what it has no answer for.
    assert_eq!(once(&files.written()), files.want(), "after a kill");
}

/// What the worker answers to a request, unless it isn't there.
fn http(port: u16, method: &str, path: &str, body: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + body).as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// Asks until the answer has all of `parts`.
fn await_answer(worker: &mut Child, parts: &[&str], mut ask: impl FnMut() -> Option<String>) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = ask().unwrap_or_default();
        if parts.iter().all(|p| answer.contains(p)) {
            return;
        }
        let late = Instant::now() > deadline;
        assert!(!late && worker.runs(), "{answer}\n{}", worker.printed());
        sleep(Duration::from_millis(200));
    }
}

fn await_running(worker: &mut Child, port: u16, connector: &str) {
    let path = format!("/connectors/{connector}/status");
    let up = r#""tasks":[{"id":0,"state":"RUNNING""#;
    await_answer(worker, &[up], || http(port, "GET", &path, ""));
}

fn distributed(files: &Files, boot: &str, port: u16) -> PathBuf {
    let rest = format!("http://127.0.0.1:{port}");
    let more = [
        ("group.id", "workers"),
        ("config.storage.topic", "connect-configs"),
        ("offset.storage.topic", "connect-offsets"),
        ("status.storage.topic", "connect-status"),
        ("config.storage.replication.factor", "1"),
        ("offset.storage.replication.factor", "1"),
        ("status.storage.replication.factor", "1"),
        ("session.timeout.ms", "6000"),
        ("heartbeat.interval.ms", "1000"),
        ("scheduled.rebalance.max.delay.ms", "0"),
        ("exactly.once.source.support", "enabled"),
        ("consumer.isolation.level", "read_committed"),
    ];
    files.properties("worker.properties", &worker(boot, &rest, &more))
}

fn create(worker: &mut Child, port: u16, name: &str, class: &str, settings: &[(&str, &str)]) {
    let more = settings.iter().map(|(k, v)| format!(r#","{k}":"{v}""#));
    let more = more.collect::<String>();
    let body = format!(
        r#"{{"name":"{name}","config":{{"connector.class":"{class}","tasks.max":"1"{more}}}}}"#
    );
    // 409 means that the worker is in a rebalance: it is asked again.
    await_answer(worker, &["HTTP/1.1 201"], || {
        http(port, "POST", "/connectors", &body)
    });
    await_running(worker, port, name);
}

fn ask(args: &[&str]) -> String {
    output(install::word_count().args(args))
}

fn check_topics(boot: &str) {
    let listed = ask(&["topics", boot]);
    for name in ["connect-configs", "connect-offsets", "connect-status"] {
        let line = listed.lines().find(|l| l.starts_with(name));
        let fields: Vec<&str> = line
            .unwrap_or_else(|| panic!("no {name} in:\n{listed}"))
            .split('\t')
            .collect();
        assert_eq!(fields[1], "compact", "{name}");
        let end: usize = fields[4].parse().expect("an offset");
        assert!(end > 0, "{name} is empty");
    }
}

#[test]
fn distributed_finds_its_state_again() {
    let _turn = crate::turn();
    let mut broker = broker();
    let boot = broker.addr();
    Connection::open(&boot).create_topic(TOPIC, 1, &[]);
    let mut files = Files::new();
    let port = free_port();
    let settings = distributed(&files, &boot, port);
    let start = |settings: &Path| {
        let mut command = install::connect("ConnectDistributed");
        Child::start("worker", command.arg(settings))
    };
    let mut worker = start(&settings);
    await_answer(&mut worker, &["HTTP/1.1 200"], || {
        http(port, "GET", "/connectors", "")
    });
    let (input, output) = (files.text("in.txt"), files.text("out.txt"));
    let source = [("file", input.as_str()), ("topic", TOPIC)];
    create(&mut worker, port, "source", SOURCE, &source);
    let sink = [("file", output.as_str()), ("topics", TOPIC)];
    create(&mut worker, port, "sink", SINK, &sink);
    files.append();
    files.arrive(&mut worker);

    worker.kill();
    files.append();
    let mut worker = start(&settings);
    files.arrive(&mut worker);

    broker.kill();
    files.append();
    broker.start_again();
    files.arrive(&mut worker);
    // The sink, which has no transactions, may have written lines again; the source has not.
    assert_eq!(once(&files.written()), files.want());
    let listed = ask(&["texts", &boot, TOPIC]);
    let lines = listed.lines().filter_map(|l| l.rsplit('\t').next());
    let lines: Vec<&str> = lines.collect();
    assert_eq!(lines, files.want(), "the topic has each line once");
    check_topics(&boot);
    worker.stop(PATIENCE);
}
