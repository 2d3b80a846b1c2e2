//! From the build before this one to this one: three nodes under load get it one after another and
//! lose nothing, with the old and the new in both roles; and a directory of before is opened.
//!
//! Which build was before is in `previous.txt`.

use std::io::{Seek as _, Write as _};
use std::path::Path;
use std::process::{Command, Output};
use std::thread::sleep;
use std::time::{Duration, Instant};

use streamd_tests::broker::{Broker, Site, free_port, streamctl, streamd};
use streamd_tests::child::Child;
use streamd_tests::install;
use streamd_tests::nodes::{Node, flags, three};
use streamd_tests::previous::previous;
use streamd_tests::run::source_dir;

const SOON: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(200);
const PARTITIONS: &str = "6";

fn ctl(boot: &str, args: &[&str]) -> Output {
    let mut command = Command::new(streamctl());
    // The machine may have much else to do.
    command.args(["--bootstrap", boot, "--timeout", "15s"]);
    command.args(args).output().expect("streamctl runs")
}

fn text(out: &Output) -> String {
    let (said, told) = (&out.stdout, &out.stderr);
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}", text(said), text(told))
}

#[track_caller]
fn must(boot: &str, args: &[&str]) -> String {
    let out = ctl(boot, args);
    assert!(out.status.success(), "{args:?}: {}", text(&out));
    text(&out)
}

#[track_caller]
fn must_fail(boot: &str, args: &[&str], words: &[&str]) {
    let out = ctl(boot, args);
    let said = text(&out);
    assert!(!out.status.success(), "{args:?}: {said}");
    for word in words {
        assert!(said.contains(word), "{args:?}, {word:?}: {said}");
    }
}

#[track_caller]
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !done() {
        assert!(Instant::now() < deadline, "{what}: not within {SOON:?}");
        sleep(Duration::from_millis(100));
    }
}

/// Where a broker of this program runs.
fn of(program: &Path) -> Site {
    Site {
        program: Some(program.to_owned()),
        ..Site::default()
    }
}

struct Cluster(Vec<Node>);

impl Cluster {
    fn start(program: &Path) -> Cluster {
        let more = [
            "--cores=1",
            "--memory=64MiB",
            "--set=offsets.topic.num.partitions=4",
            "--set=group.initial.rebalance.delay.ms=0",
        ];
        Cluster(three(|id, contact| {
            Node::start(of(program), (id, contact), &more)
        }))
    }

    fn boot(&self) -> String {
        let all: Vec<String> = self.0.iter().map(|n| n.broker.addr()).collect();
        all.join(",")
    }

    /// Waits until nothing lacks anything; gives who the controller is, from 0.
    fn well(&self) -> usize {
        let mut controller = String::new();
        until("all is well", || {
            let out = ctl(&self.boot(), &["cluster", "status", "--json"]);
            let said = text(&out).replace(' ', "");
            let gone = said.contains("\"fenced\":true");
            controller = after(&said, "\"controller\":");
            out.status.success() && said.contains("Alliswell") && !gone && controller != "-1"
        });
        controller.parse::<usize>().expect("a node") - 1
    }

    /// Each node has the controller, wherever that is, make a topic.
    fn decides(&self, round: &str) {
        for (n, node) in self.0.iter().enumerate() {
            let topic = format!("{round}-{n}");
            let listed = || text(&ctl(&node.broker.addr(), &["topic", "list"]));
            // An answer that got lost is no failure.
            until(&topic, || {
                let out = ctl(&node.broker.addr(), &["topic", "create", &topic]);
                out.status.success() || listed().contains(&topic)
            });
        }
    }

    /// A node stops as an operator has it stop, and comes back as this build.
    fn replace(&mut self, node: usize, program: &Path) {
        let broker = &mut self.0[node].broker;
        broker.stop();
        broker.become_of(program);
        broker.start_again();
        self.well();
    }
}

/// What stands behind `name` up to the next comma.
fn after(json: &str, name: &str) -> String {
    let value = json.split(name).nth(1).unwrap_or("");
    let end = value.find([',', '}', '\n']).unwrap_or(value.len());
    value[..end].to_owned()
}

fn load(boot: &str) -> Child {
    let mut python = Command::new(install::python());
    python.env("PYTHONDONTWRITEBYTECODE", "1");
    let script = source_dir().join("upgrade/load.py");
    python.arg(script).args([boot, "t", PARTITIONS]);
    let mut load = Child::start("load", &mut python);
    load.expect("writes", SOON);
    load
}

const RAISE: &[&str] = &["cluster", "upgrade", "--to", "2", "--yes"];

#[test]
fn three_nodes_get_a_new_build_under_load_and_lose_nothing() {
    let Some(old) = previous() else { return };
    let mut cluster = Cluster::start(&old);
    let boot = cluster.boot();
    must(&boot, &["topic", "create", "t", "-p", PARTITIONS]);
    must_fail(
        &boot,
        RAISE,
        &["no node that answers knows of feature levels"],
    );
    let mut load = load(&boot);
    // A new node under an old controller.
    let controller = cluster.well();
    let (first, second) = ((controller + 1) % 3, (controller + 2) % 3);
    cluster.replace(first, streamd());
    cluster.decides("one");
    let lacks = |n: usize| format!("node {} knows level 1", n + 1);
    must_fail(
        &boot,
        RAISE,
        &["code 95", &lacks(controller), &lacks(second)],
    );
    // It can be taken back, and tried again.
    cluster.replace(first, &old);
    cluster.replace(first, streamd());
    // The controller is new, and one node is old.
    cluster.replace(controller, streamd());
    for _ in 0..5 {
        if cluster.well() != second {
            break;
        }
        cluster.replace(second, &old);
    }
    assert_ne!(cluster.well(), second, "a node of the new build decides");
    cluster.decides("two");
    must_fail(&boot, RAISE, &["code 95", &lacks(second)]);
    cluster.replace(second, streamd());
    cluster.decides("three");
    let dry = must(&boot, &["cluster", "upgrade"]);
    assert!(dry.contains("is at feature level 1"), "{dry}");
    assert!(dry.contains("All nodes know level 2"), "{dry}");
    let raised = must(&boot, RAISE);
    assert!(raised.contains("Raised from level 1"), "{raised}");
    refused(&mut cluster, first, &old);
    load.close_input();
    let whole = load.expect("records", PATIENCE);
    assert!(whole.contains("whole"), "{}", load.all());
    assert!(load.wait(SOON).success());
    eprintln!("{whole}");
}

/// At level 2 a build of before is no part of the cluster any more.
fn refused(cluster: &mut Cluster, node: usize, old: &Path) {
    let boot = cluster.boot();
    let id = node + 1;
    let broker = &mut cluster.0[node].broker;
    broker.stop();
    broker.become_of(old);
    let said = broker.start_refused();
    let words = "the cluster is at feature level 2, and ";
    assert!(said.contains(words), "node {id}: {said}");
    broker.become_of(streamd());
    broker.start_again();
    cluster.well();
    let status = must(&boot, &["cluster", "status"]);
    assert!(status.contains("feature level 2"), "{status}");
    // Nor does one come in anew: it has nothing yet, so the controller says it.
    let native = format!("127.0.0.1:{}", free_port());
    let flags = flags(4, &native, Some(&cluster.0[node].native));
    let mut flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    flags.extend(["--cores=1", "--memory=64MiB"]);
    let mut late = Broker::idle(of(old), &flags);
    let said = late.start_refused();
    let words = format!("{words}the build of node 4 knows level 1: start a newer build there");
    assert!(said.contains(&words), "{said}");
    let down = ["cluster", "upgrade", "--to", "1", "--yes"];
    must_fail(&boot, &down, &["code 95", "does not fall"]);
}

#[test]
fn a_directory_of_before_opens() {
    let Some(old) = previous() else { return };
    let mut broker = Broker::start_on(of(&old), &["--cores=1", "--memory=64MiB"]);
    let boot = broker.addr();
    must(&boot, &["topic", "create", "t"]);
    let mut lines = String::new();
    for n in 0..1000 {
        lines.push_str(&format!("record {n}\n"));
    }
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(lines.as_bytes()).expect("a file");
    file.rewind().expect("a file");
    let mut produce = Command::new(streamctl());
    produce.args(["--bootstrap", &boot, "produce", "t"]);
    assert!(produce.stdin(file).status().expect("streamctl").success());
    let all = |boot: &str| must(boot, &["consume", "t", "-n", "1000"]);
    let before = all(&boot);
    assert!(before.contains("record 999"), "{before}");
    broker.stop();
    broker.become_of(streamd());
    broker.start_again();
    assert_eq!(all(&boot), before);
    let dry = must(&boot, &["cluster", "upgrade"]);
    assert!(dry.contains("is at feature level 1"), "{dry}");
    // Back, and on again.
    broker.stop();
    broker.become_of(&old);
    broker.start_again();
    assert_eq!(all(&boot), before);
    broker.stop();
    broker.become_of(streamd());
    broker.start_again();
    must(&boot, RAISE);
    broker.stop();
    broker.become_of(&old);
    let said = broker.start_refused();
    assert!(said.contains("the cluster is at feature level 2"), "{said}");
    broker.become_of(streamd());
    broker.start_again();
    assert_eq!(all(&boot), before);
}

#[test]
fn a_new_cluster_begins_at_the_highest_level() {
    let broker = Broker::start(&["--cores=1", "--memory=64MiB"]);
    let said = must(&broker.addr(), &["cluster", "upgrade"]);
    assert!(said.contains("is at feature level 2"), "{said}");
    assert!(said.contains("Nothing to do"), "{said}");
    must_fail(
        &broker.addr(),
        &["cluster", "upgrade", "--to", "3"],
        &["code 95", "node 1 knows levels 1 to 2"],
    );
}
