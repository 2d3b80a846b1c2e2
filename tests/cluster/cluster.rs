//! Three brokers on this machine that make one cluster: they join, each is killed and paused in
//! turn while the others go on, and what has no place in the cluster is told so.

mod clocks;
mod coordinators;
mod ctl;
mod failover;
mod moves;
mod native;
mod nearest;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use streamd_tests::broker::{Broker, Site, end_within, free_port, streamctl, streamd};
use streamd_tests::nodes::{Node, flags, three};
use streamd_tests::noise::Noise;

/// By then whatever is waited for has happened, also on a machine that has much else to do.
const SOON: Duration = Duration::from_secs(30);

struct Cluster(Vec<Node>);

/// The flags of node `id`, but for who it is. One has a shard more than the others.
fn small(id: usize) -> [&'static str; 2] {
    let cores = if id == 2 { "--cores=2" } else { "--cores=1" };
    [cores, "--memory=64MiB"]
}

/// All the flags of a node.
fn flags_of(id: usize, native: &str, contact: Option<&str>) -> Vec<String> {
    let mut flags = flags(id, native, contact);
    flags.extend(small(id).map(str::to_owned));
    flags
}

/// What a node is asked by an operator.
trait Asked {
    fn ctl(&self, args: &[&str]) -> Output;

    /// The topics that it knows.
    fn topics(&self) -> Vec<String>;
}

impl Asked for Node {
    fn ctl(&self, args: &[&str]) -> Output {
        let addr = self.broker.addr();
        let mut command = Command::new(streamctl());
        // Who was the controller a moment ago may be asleep.
        command.args(["--bootstrap", &addr, "--timeout", "2s"]);
        command.args(args);
        command.output().expect("streamctl runs")
    }

    fn topics(&self) -> Vec<String> {
        let out = self.ctl(&["topic", "list"]);
        let text = String::from_utf8_lossy(&out.stdout);
        let names = text
            .lines()
            .skip(1)
            .filter_map(|l| l.split_whitespace().next());
        names.map(str::to_owned).collect()
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !done() {
        assert!(Instant::now() < deadline, "{what}: not within {SOON:?}");
        sleep(Duration::from_millis(50));
    }
}

impl Cluster {
    fn start() -> Cluster {
        Cluster::with(&[])
    }

    /// Of nodes with more flags.
    fn with(more: &[&str]) -> Cluster {
        let more: Vec<String> = more.iter().map(|&flag| flag.to_owned()).collect();
        Cluster::of(|_| (Site::default(), more.clone()))
    }

    /// Of nodes that are each at its place and have more flags of their own.
    fn of(mut which: impl FnMut(usize) -> (Site, Vec<String>)) -> Cluster {
        Cluster(three(|id, contact| {
            let (site, more) = which(id);
            let more = more.iter().map(String::as_str);
            let flags: Vec<&str> = small(id).into_iter().chain(more).collect();
            Node::start(site, (id, contact), &flags)
        }))
    }

    /// Has a node make a topic, by any way it finds; gives how long that took.
    fn create(&self, by: usize, topic: &str) -> Duration {
        let begun = Instant::now();
        until(topic, || {
            let out = self.0[by].ctl(&["topic", "create", topic]);
            out.status.success() || self.0[by].topics().iter().any(|t| t == topic)
        });
        begun.elapsed()
    }

    /// Waits until these nodes know a topic.
    fn know(&self, nodes: &[usize], topic: &str) {
        for &node in nodes {
            until(topic, || self.0[node].topics().iter().any(|t| t == topic));
        }
    }
}

#[test]
fn nodes_are_killed_and_paused_in_turn_and_the_others_decide() {
    let mut cluster = Cluster::start();
    cluster.create(1, "first");
    cluster.know(&[0, 1, 2], "first");
    for gone in 0..3 {
        let others: Vec<usize> = (0..3).filter(|n| *n != gone).collect();
        cluster.0[gone].broker.kill();
        let topic = format!("without-{gone}");
        let took = cluster.create(others[0], &topic);
        eprintln!("node {} killed: a topic after {took:?}", gone + 1);
        cluster.know(&others, &topic);
        cluster.0[gone].broker.start_again();
        cluster.know(&[gone], &topic);
    }
    for gone in 0..3 {
        let others: Vec<usize> = (0..3).filter(|n| *n != gone).collect();
        cluster.0[gone].broker.signal(Signal::STOP);
        let topic = format!("asleep-{gone}");
        let took = cluster.create(others[1], &topic);
        eprintln!("node {} paused: a topic after {took:?}", gone + 1);
        cluster.know(&others, &topic);
        cluster.0[gone].broker.signal(Signal::CONT);
        cluster.know(&[gone], &topic);
    }
    // All of them at once.
    for node in &mut cluster.0 {
        node.broker.kill();
    }
    std::thread::scope(|scope| {
        for node in &mut cluster.0 {
            scope.spawn(|| node.broker.start_again());
        }
    });
    cluster.create(2, "last");
    cluster.know(&[0, 1, 2], "asleep-2");
}

/// What a start says that is to fail.
fn refused(flags: &[String], data: &Path) -> String {
    let listen = format!("127.0.0.1:{}", free_port());
    let mut child = Command::new(streamd())
        .args(["--listen", &listen, "--data-dir"])
        .arg(data)
        .args(flags)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("streamd starts");
    let status = end_within(&mut child, SOON);
    let mut text = String::new();
    let pipe = child.stderr.as_mut().expect("a pipe");
    pipe.read_to_string(&mut text).expect("what it says");
    assert_eq!(status.and_then(|s| s.code()), Some(1), "{text}");
    text
}

#[test]
fn who_has_no_place_in_the_cluster_is_told_so() {
    let mut cluster = Cluster::start();
    let contact = cluster.0[0].native.clone();
    let native = cluster.0[2].native.clone();
    let flags_of_3 = flags_of(3, &native, None);
    // Its id is another node's.
    let empty = tempfile::tempdir().expect("a folder");
    let other = format!("127.0.0.1:{}", free_port());
    let said = refused(&flags_of(2, &other, Some(&contact)), empty.path());
    assert!(
        said.contains("node 2 of this cluster has another data directory"),
        "{said}"
    );
    // It belongs to another cluster.
    let strange = tempfile::tempdir().expect("a folder");
    drop(Broker::start_in(
        strange.path(),
        &["--node-id=4", "--cores=1", "--memory=64MiB"],
    ));
    let said = refused(&flags_of(4, &other, Some(&contact)), strange.path());
    assert!(
        said.contains("to join another one, start with an empty --data-dir"),
        "{said}"
    );
    // Its directory was wiped, but for who it is.
    cluster.0[2].broker.stop();
    let data = cluster.0[2].broker.data_dir();
    let wiped = tempfile::tempdir().expect("a folder");
    let properties = fs::read_to_string(data.join("meta.properties")).expect("a file");
    let lines = properties
        .lines()
        .filter(|l| !l.starts_with("directory.id"));
    let text = lines.map(|l| format!("{l}\n")).collect::<String>();
    fs::write(wiped.path().join("meta.properties"), text).expect("a file");
    let said = refused(&flags_of_3, wiped.path());
    assert!(said.contains("this one was wiped"), "{said}");
    // It had begun to join when it died, and is not told to join again.
    let begun = tempfile::tempdir().expect("a folder");
    let cluster_id = properties.lines().find(|l| l.starts_with("cluster.id"));
    let cluster_id = cluster_id.expect("an id");
    let text = format!("version=1\n{cluster_id}\nnode.id=4\njoined=1@{contact}\n");
    fs::write(begun.path().join("meta.properties"), text).expect("a file");
    let flags_of_4 = flags_of(4, &other, None);
    let flags_of_4: Vec<&str> = flags_of_4.iter().map(String::as_str).collect();
    let late = Broker::start_in(begun.path(), &flags_of_4);
    assert!(late.log().contains("learn: 4"), "{}", late.log());
    drop(late);
    // With its own directory it is welcome.
    cluster.0[2].broker.start_again();
    cluster.create(2, "t");
    cluster.know(&[0, 1], "t");
}

#[test]
fn nonsense_on_the_native_port_changes_nothing() {
    let cluster = Cluster::start();
    let mut noise = Noise::new(7);
    let mut open = Vec::new();
    for round in 0..60u32 {
        let node = &cluster.0[round as usize % 3];
        let mut stream = TcpStream::connect(&node.native).expect("a connection");
        stream.set_read_timeout(Some(SOON)).expect("a timeout");
        let length = 1 + round * 37;
        let mut bytes: Vec<u8> = (0..length).map(|_| noise.below(256) as u8).collect();
        if round % 3 == 0 {
            bytes.splice(0..0, *b"STRM\x01\x0a");
        }
        // The other side may end it before all is said.
        let _ = stream.write_all(&bytes);
        match round % 2 {
            0 => drop(stream),
            _ => open.push(stream),
        }
    }
    cluster.create(1, "t");
    cluster.know(&[0, 1, 2], "t");
    for node in &cluster.0 {
        assert!(
            !node.broker.log().contains("panicked"),
            "{}",
            node.broker.log()
        );
    }
}
