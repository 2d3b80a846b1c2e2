//! Share groups of stock clients: Java's, a call at a time; two workers on one partition while the
//! broker is killed; Kafka's console share consumer and its tool for share groups, and ours.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use streamd_tests::batch::Batch;
use streamd_tests::broker::{Broker, streamctl};
use streamd_tests::client::Client;
use streamd_tests::install::kafka_tool;
use streamd_tests::run::{command, output};
use streamd_tests::wire::Connection;

const PATIENCE: Duration = Duration::from_secs(90);

fn broker() -> Broker {
    Broker::start(&[
        "--set",
        "group.share.heartbeat.interval.ms=500",
        "--set",
        "group.share.min.record.lock.duration.ms=1000",
    ])
}

fn ours(boot: &str, args: &[&str]) -> String {
    output(command(streamctl()).args(["--bootstrap", boot]).args(args))
}

/// A group that begins at the first record there is.
fn from_the_beginning(boot: &str, group: &str) {
    let mut configs = kafka_tool("kafka.admin.ConfigCommand");
    configs.args([
        "--bootstrap-server",
        boot,
        "--alter",
        "--entity-type",
        "groups",
    ]);
    configs.args([
        "--entity-name",
        group,
        "--add-config",
        "share.auto.offset.reset=earliest",
    ]);
    let _ = output(&mut configs);
}

fn produce(boot: &str, topic: &str, count: u64) {
    let values: Vec<String> = (0..count).map(|i| format!("value {i}")).collect();
    // Several batches: a member gets whole ones.
    for some in values.chunks(7) {
        let batch = Batch::of(some).encode();
        let done = Connection::open(boot).produce(topic, 0, &batch);
        assert_eq!(done.expect("an answer to Produce").error, 0);
    }
}

#[test]
fn java() {
    let broker = broker();
    let _ = Client::Java.call("share", &broker.addr(), &["checks", "share"]);
}

/// A worker beside the test, and the lines that it prints.
fn worker(boot: &str) -> (Child, Receiver<String>) {
    let mut driver: Command = Client::Java.driver();
    driver.args(["share", boot, "work", "jobs", "workers"]);
    let mut child = driver
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a driver");
    let output = child.stdout.take().expect("a pipe");
    let (say, said) = channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            // The test may be over.
            let _ = say.send(line);
        }
    });
    (child, said)
}

#[test]
fn two_workers_on_one_partition_while_the_broker_is_killed() {
    let mut broker = broker();
    let boot = broker.addr();
    Connection::open(&boot).create_topic("jobs", 1, &[]);
    from_the_beginning(&boot, "workers");
    produce(&boot, "jobs", 100);
    let mut workers = [worker(&boot), worker(&boot)];
    let (mut seen, mut accepted) = (BTreeSet::new(), BTreeSet::new());
    let mut of_worker = [0; 2];
    let (begun, mut produced, mut kills) = (Instant::now(), 100, 0);
    while seen.len() < 400 {
        assert!(
            begun.elapsed() < PATIENCE,
            "seen {} of {produced}",
            seen.len()
        );
        for (at, (_, said)) in workers.iter().enumerate() {
            while let Ok(line) = said.recv_timeout(Duration::from_millis(100)) {
                let mut words = line.split(' ');
                let (what, offset) = (words.next(), words.nth(1));
                let offset: u64 = offset.and_then(|o| o.parse().ok()).expect("an offset");
                match what {
                    Some("seen") => {
                        assert!(!accepted.contains(&offset), "{offset} was accepted");
                        seen.insert(offset);
                    }
                    Some("accepted") => {
                        of_worker[at] += 1;
                        accepted.insert(offset);
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        if produced < 400 && seen.len() as u64 + 60 > produced {
            if kills < 3 {
                broker.kill();
                broker.start_again();
                kills += 1;
            }
            produce(&boot, "jobs", 100);
            produced += 100;
        }
    }
    assert_eq!((kills, seen.len()), (3, 400));
    assert!(of_worker.iter().all(|n| *n > 20), "shared as {of_worker:?}");
    for (child, _) in &mut workers {
        drop(child.stdin.take());
        assert!(child.wait().expect("the driver").success());
    }
}

#[test]
fn kafkas_tools_and_ours() {
    let broker = broker();
    let boot = broker.addr();
    Connection::open(&boot).create_topic("lines", 1, &[]);
    from_the_beginning(&boot, "readers");
    produce(&boot, "lines", 70);
    let read = |count: &str| {
        let mut tool = kafka_tool("org.apache.kafka.tools.consumer.ConsoleShareConsumer");
        tool.args([
            "--bootstrap-server",
            &boot,
            "--topic",
            "lines",
            "--group",
            "readers",
        ]);
        tool.args(["--max-messages", count, "--timeout-ms", "20000"]);
        output(&mut tool)
            .lines()
            .filter(|l| l.starts_with("value"))
            .count()
    };
    assert_eq!(read("70"), 70);
    let groups = |args: &[&str]| {
        let mut tool = kafka_tool("org.apache.kafka.tools.consumer.group.ShareGroupCommand");
        let text = output(tool.args(["--bootstrap-server", &boot]).args(args));
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let has = |text: &str, part: &str| assert!(text.contains(part), "{part:?} is not in:\n{text}");
    has(&groups(&["--list"]), "readers");
    has(
        &groups(&["--describe", "--group", "readers", "--state"]),
        "Empty",
    );
    has(
        &groups(&["--describe", "--group", "readers"]),
        "readers lines 0 70",
    );
    let reset = ["--reset-offsets", "--group", "readers", "--topic", "lines"];
    let done = groups(&[&reset[..], &["--to-earliest", "--execute"]].concat());
    has(&done, "readers lines 0 0");
    has(&ours(&boot, &["queue", "list"]), "readers");
    let shown = ours(&boot, &["queue", "describe", "readers"]);
    has(&shown, "Share group readers: Empty, 0 members, lag 70");
    assert_eq!(read("70"), 70, "everything again");
    let to = ["queue", "reset-offsets", "readers", "--topic", "lines"];
    let words = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let tried = words(ours(&boot, &[&to[..], &["--to-offset", "60"]].concat()));
    has(&tried, "lines 0 70 60");
    let done = words(ours(
        &boot,
        &[&to[..], &["--to-offset", "60", "--execute"]].concat(),
    ));
    has(&done, "lines 0 70 60");
    assert_eq!(read("10"), 10, "the last ones again");
    let mut member = Client::Java
        .driver()
        .args(["share", &boot, "work", "lines", "readers"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("a driver");
    let begun = Instant::now();
    while !groups(&["--describe", "--group", "readers", "--state"]).contains("Stable") {
        assert!(begun.elapsed() < PATIENCE, "no member came");
        sleep(Duration::from_millis(300));
    }
    has(
        &groups(&["--describe", "--group", "readers", "--members"]),
        "lines:0",
    );
    member
        .stdin
        .take()
        .expect("a pipe")
        .write_all(b"\n")
        .expect("it listens");
    assert!(member.wait().expect("the driver").success());
    has(
        &groups(&["--delete-offsets", "--group", "readers", "--topic", "lines"]),
        "Successful",
    );
    ours(&boot, &["queue", "delete", "readers"]);
    assert!(!groups(&["--list"]).contains("readers"));
}
