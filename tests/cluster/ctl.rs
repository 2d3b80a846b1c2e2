//! `streamctl cluster`: three nodes come up by one command, lose one and get it back, have their
//! partitions moved by hand, by Kafka's tool and by themselves, and one is taken out again.

use std::fs;
use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use streamd_tests::broker::{streamctl, streamd};
use streamd_tests::install::kafka_tool;

use crate::until;

/// A cluster that `streamctl cluster up` has started; it is stopped at the end.
struct Local {
    dir: tempfile::TempDir,
    port: u16,
}

impl Drop for Local {
    fn drop(&mut self) {
        let _ = self.ctl(&["cluster", "down"]);
    }
}

/// A port that has free ones behind it where nodes would want them. No other test takes them while
/// a node is down.
fn port() -> u16 {
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let wanted = |base: u16| (0..4).chain(100..104).all(|n| free(base + n));
    let first = u16::try_from(std::process::id() % 400).expect("below 400");
    let mut bases = (0..400).map(|n| 24_000 + (first + n) % 400 * 4);
    bases.find(|base| wanted(*base)).expect("free ports")
}

fn text(out: &Output) -> String {
    let (said, told) = (&out.stdout, &out.stderr);
    format!(
        "{}{}",
        String::from_utf8_lossy(said),
        String::from_utf8_lossy(told)
    )
}

impl Local {
    fn command(&self, args: &[&str]) -> Command {
        let boot: Vec<String> = (0..3)
            .map(|n| format!("127.0.0.1:{}", self.port + n))
            .collect();
        let mut command = Command::new(streamctl());
        command
            .args(["--bootstrap", &boot.join(",")])
            .args(args)
            .env("STREAMD_BIN", streamd());
        let dir = self.dir.path().display().to_string();
        let port = self.port.to_string();
        match args {
            ["cluster", "up", ..] => {
                let more = ["--dir", &dir, "--port", &port];
                command.args(more).args(["--", "--cores=1"]);
            }
            ["cluster", "down", ..] => {
                command.args(["--dir", &dir]);
            }
            _ => {}
        }
        command
    }

    fn ctl(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("streamctl runs")
    }

    #[track_caller]
    fn must(&self, args: &[&str]) -> String {
        let out = self.ctl(args);
        assert!(out.status.success(), "{args:?}: {}", text(&out));
        text(&out)
    }

    fn status(&self) -> String {
        self.must(&["cluster", "status"])
    }

    fn produce(&self, topic: &str, lines: &str) {
        let mut child = self
            .command(&["produce", topic])
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("streamctl runs");
        let mut stdin = child.stdin.take().expect("its input");
        std::io::Write::write_all(&mut stdin, lines.as_bytes()).expect("it reads");
        drop(stdin);
        assert!(child.wait().expect("it ends").success());
    }

    fn signal(&self, node: u16, signal: Signal) {
        let path = self.dir.path().join(format!("node-{node}/pid"));
        let pid = fs::read_to_string(path).expect("its process");
        let pid = pid.trim().parse().expect("a number");
        kill_process(Pid::from_raw(pid).expect("a process"), signal).expect("a signal");
    }

    /// How many replicas a node has, as `status` shows it.
    fn replicas(&self, node: u16) -> Option<usize> {
        let status = self.status();
        let id = node.to_string();
        let mut rows = status
            .lines()
            .map(|l| l.split_whitespace().collect::<Vec<_>>());
        let row = rows.find(|row| row.len() == 6 && row[0] == id)?;
        row[5].parse().ok()
    }

    fn all_is_well(&self) {
        until("all is well", || self.status().contains("All is well"));
    }
}

/// Kafka's tool moves partitions, and sees that they were moved.
fn move_with_kafkas_tool(cluster: &Local) {
    let plan = cluster.dir.path().join("plan.json");
    let text_ = r#"{"version":1,"partitions":[
        {"topic":"t","partition":0,"replicas":[3,1,2]},
        {"topic":"t","partition":1,"replicas":[2,3]}]}"#;
    fs::write(&plan, text_).expect("a file");
    let boot = format!("127.0.0.1:{}", cluster.port);
    let plan = plan.display().to_string();
    let call = |verb: &str| {
        let mut tool = kafka_tool("org.apache.kafka.tools.reassign.ReassignPartitionsCommand");
        tool.args(["--bootstrap-server", &boot, verb])
            .args(["--reassignment-json-file", &plan]);
        text(&tool.output().expect("the tool runs"))
    };
    let begun = call("--execute");
    assert!(
        begun.contains("Successfully started partition reassignments for t-0,t-1"),
        "{begun}"
    );
    until("Kafka's tool sees that both were moved", || {
        let seen = call("--verify");
        let done = |p: u8| seen.contains(&format!("partition t-{p} is completed"));
        done(0) && done(1)
    });
}

/// Waits for a process, which is to succeed.
fn ends(mut child: Child) {
    until("it ends", || {
        child.try_wait().expect("it can be asked").is_some()
    });
    let out = child.wait_with_output().expect("its output");
    assert!(out.status.success(), "{}", text(&out));
}

#[test]
fn a_cluster_on_one_machine_by_one_command() {
    let cluster = Local {
        dir: tempfile::tempdir().expect("a directory"),
        port: port(),
    };
    // They are built first, if they have to be.
    let _built = (streamd(), streamctl());
    let begun = Instant::now();
    cluster.must(&["cluster", "up", "-n", "3"]);
    cluster.must(&["topic", "create", "t", "-p", "12"]);
    cluster.produce("t", "first\n");
    let took = begun.elapsed();
    eprintln!("up, and a record on three nodes acknowledged, after {took:?}");
    assert!(took < Duration::from_secs(20), "{took:?}");
    cluster.all_is_well();
    assert_eq!(cluster.replicas(3), Some(12));

    // One is gone, and comes back.
    cluster.signal(3, Signal::KILL);
    until("what lacks is shown", || {
        cluster.status().contains("not in sync: 3")
    });
    cluster.produce("t", "second\nthird\n");
    let again = cluster.must(&["cluster", "up", "-n", "3"]);
    assert!(again.contains("node 1 runs already"), "{again}");
    cluster.all_is_well();
    cluster.must(&["cluster", "elect"]);

    // By hand, and with Kafka's tool.
    cluster.must(&["cluster", "reassign", "t:0,1", "--to", "1,2", "--wait"]);
    assert_eq!(cluster.replicas(3), Some(10));
    let refused = cluster.ctl(&["cluster", "reassign", "t:0", "--to", "1,9"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        text(&refused).contains("there is no broker 9"),
        "{}",
        text(&refused)
    );
    move_with_kafkas_tool(&cluster);
    assert_eq!(cluster.replicas(3), Some(12));

    // A new one takes its part; then it goes again.
    cluster.must(&["cluster", "up", "-n", "4"]);
    until("the new one has something", || {
        cluster.replicas(4) >= Some(6)
    });
    cluster.all_is_well();
    let mut removal = cluster.command(&["cluster", "remove", "4"]);
    let removal = removal.stdout(Stdio::piped()).stderr(Stdio::piped());
    let removal = removal.spawn().expect("streamctl runs");
    until("it has nothing any more", || cluster.replicas(4) == Some(0));
    // It shall see the node empty and running.
    sleep(Duration::from_secs(1));
    cluster.signal(4, Signal::TERM);
    ends(removal);
    assert_eq!(cluster.replicas(4), None, "it is not known any more");

    cluster.must(&["cluster", "down"]);
    cluster.must(&["cluster", "up", "-n", "3"]);
    cluster.all_is_well();
    let read = cluster.ctl(&["consume", "t", "--until-end"]);
    assert!(read.status.success(), "{}", text(&read));
    let read = String::from_utf8_lossy(&read.stdout);
    let mut lines: Vec<&str> = read.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["first", "second", "third"]);
}
