//! `streamctl cluster up | down`: nodes on this machine, each a process of its own with its data
//! in a directory of its own. They go on when this command ends.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::cli::Up;
use super::status;
use crate::cli::{Bootstrap, Global};
use crate::client::Client;
use crate::conn::reason;
use crate::failure::{Failure, Result};
use crate::out;

/// The native listeners' ports lie so far behind the others.
const NATIVE: u16 = 100;
/// Between two looks whether the nodes are there.
const LOOK: Duration = Duration::from_millis(20);
/// So long a node may take to stop.
const STOP_MAX: Duration = Duration::from_secs(30);
/// Lines of its log that are shown of a node that does not start.
const LINES: usize = 15;

/// A node of a cluster on this machine.
struct Node {
    id: u16,
    dir: PathBuf,
}

impl Node {
    fn new(dir: &Path, id: u16) -> Node {
        let dir = dir.join(format!("node-{id}"));
        Node { id, dir }
    }

    fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// The process, if it runs.
    fn running(&self) -> Option<Pid> {
        let pid = fs::read_to_string(self.dir.join("pid")).ok()?;
        let pid: i32 = pid.trim().parse().ok()?;
        // The number may be that of another process by now.
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let dir = self.data().ok()?;
        let dir = dir.as_os_str().as_encoded_bytes();
        let is_it = line.windows(dir.len()).any(|w| w == dir);
        is_it.then(|| Pid::from_raw(pid)).flatten()
    }

    fn data(&self) -> io::Result<PathBuf> {
        Ok(fs::canonicalize(&self.dir)?.join("data"))
    }

    /// The last lines of its log.
    fn last_words(&self) -> String {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n  ")
    }

    fn start(&self, program: &Path, command: &Up) -> Result<Child> {
        let cannot = |e: io::Error| {
            let shown = program.display();
            Failure::failed(format!(
                "cannot start node {} with {shown}: {}. Name streamd's program with STREAMD_BIN",
                self.id,
                reason(&e)
            ))
        };
        fs::create_dir_all(&self.dir).map_err(cannot)?;
        let log = File::options().create(true).append(true).open(self.log());
        let log = log.map_err(cannot)?;
        let native = |id: u16| format!("127.0.0.1:{}", port(command, id) + NATIVE);
        let mut process = Command::new(program);
        process
            .arg(format!("--node-id={}", self.id))
            .arg(format!("--listen=127.0.0.1:{}", port(command, self.id)))
            .arg(format!("--native-listen={}", native(self.id)))
            .arg("--data-dir")
            .arg(self.data().map_err(cannot)?);
        if self.id > 1 {
            process.arg(format!("--join={}", native(1)));
        }
        let memory = memory(command.nodes);
        let own = |name: &str| command.more.iter().any(|a| a.starts_with(name));
        if let Some(memory) = memory.filter(|_| !own("--memory")) {
            process.arg(format!("--memory={memory}MiB"));
        }
        process
            .args(&command.more)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(cannot)?)
            .stderr(log)
            // What interrupts this command does not stop the node.
            .process_group(0);
        let child = process.spawn().map_err(cannot)?;
        fs::write(self.dir.join("pid"), format!("{}\n", child.id())).map_err(cannot)?;
        Ok(child)
    }
}

/// Where clients reach a node; they are numbered from 1.
fn port(command: &Up, id: u16) -> u16 {
    command.port + id - 1
}

/// Memory for a node's buffers, MiB: all nodes together take a quarter of the machine's.
fn memory(nodes: u16) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some((kib / 1024 / 4 / u64::from(nodes.max(1))).max(64))
}

/// The program of a node.
fn program() -> PathBuf {
    if let Some(named) = std::env::var_os("STREAMD_BIN").filter(|n| !n.is_empty()) {
        return named.into();
    }
    let beside = std::env::current_exe()
        .ok()
        .map(|me| me.with_file_name("streamd"));
    let beside = beside.filter(|path| path.is_file());
    beside.unwrap_or_else(|| PathBuf::from(OsString::from("streamd")))
}

/// Starts the nodes that do not run, and waits until all are in the cluster.
///
/// # Errors
/// A node does not start, or is not there in time.
pub fn up(global: &Global, command: &Up) -> Result<()> {
    let begun = Instant::now();
    if u32::from(command.port) + u32::from(command.nodes) + u32::from(NATIVE) > 65_535 {
        let text = format!("--port {} is too high for so many nodes", command.port);
        return Err(Failure::Usage(text));
    }
    let program = program();
    let mut started: Vec<(Node, Child)> = Vec::new();
    for id in 1..=command.nodes {
        let node = Node::new(&command.dir, id);
        let shown = node.dir.display().to_string();
        if let Some(pid) = node.running() {
            let pid = pid.as_raw_nonzero();
            out::say(format_args!(
                "node {id} runs already (process {pid}, {shown})"
            ));
            continue;
        }
        let child = node.start(&program, command)?;
        let (pid, port) = (child.id(), port(command, id));
        out::say(format_args!(
            "node {id} starts on port {port} (process {pid}, {shown})"
        ));
        started.push((node, child));
    }
    let addresses = (1..=command.nodes).map(|id| format!("127.0.0.1:{}", port(command, id)));
    let addresses: Vec<String> = addresses.collect();
    wait_for(global, command, &mut started, &addresses)?;
    let took = begun.elapsed().as_millis();
    let bootstrap = addresses.join(",");
    out::say(format_args!("the cluster is there after {took} ms"));
    out::say(format_args!(
        "  try: streamctl --bootstrap {bootstrap} cluster status"
    ));
    let dir = command.dir.display();
    out::say(format_args!(
        "  stop it with: streamctl cluster down --dir {dir}"
    ));
    match global.json {
        true => out::json(&json!({"bootstrap": bootstrap, "nodes": command.nodes})),
        false => out::line(bootstrap),
    }
}

fn wait_for(
    global: &Global,
    command: &Up,
    started: &mut [(Node, Child)],
    addresses: &[String],
) -> Result<()> {
    let until = Instant::now() + global.timeout;
    let all = Global {
        bootstrap: Bootstrap(addresses.to_vec()),
        ..global.clone()
    };
    loop {
        for (node, child) in started.iter_mut() {
            if let Ok(Some(status)) = child.try_wait() {
                return Err(Failure::failed(format!(
                    "node {} has ended ({status}):\n  {}",
                    node.id,
                    node.last_words()
                )));
            }
        }
        let there = there(&all);
        if there >= usize::from(command.nodes) {
            return Ok(());
        }
        if Instant::now() >= until {
            let dir = command.dir.display();
            return Err(Failure::failed(format!(
                "{there} of {} nodes are in the cluster after {:?}: {dir}/node-*/log says more",
                command.nodes, global.timeout
            )));
        }
        thread::sleep(LOOK);
    }
}

/// How many nodes each of the addresses knows to be there, at least.
fn there(all: &Global) -> usize {
    let each = all.bootstrap.0.iter().map(|address| {
        let one = Global {
            bootstrap: Bootstrap(vec![address.clone()]),
            ..all.clone()
        };
        let nodes = status::nodes(&mut Client::new(&one));
        nodes.map_or(0, |all| all.nodes.iter().filter(|n| !n.fenced).count())
    });
    each.min().unwrap_or(0)
}

/// Stops the nodes that run.
///
/// # Errors
/// There are none, or one does not stop.
pub fn down(global: &Global, dir: &Path) -> Result<()> {
    let nodes = (1..=u16::from(u8::MAX)).map(|id| Node::new(dir, id));
    let nodes: Vec<Node> = nodes.filter(|n| n.dir.is_dir()).collect();
    if nodes.is_empty() {
        let shown = dir.display();
        return Err(Failure::failed(format!(
            "there is no cluster in {shown}: name its directory with --dir"
        )));
    }
    let running: Vec<(&Node, Pid)> = nodes
        .iter()
        .filter_map(|node| node.running().map(|pid| (node, pid)))
        .collect();
    for (node, pid) in &running {
        out::say(format_args!("node {} stops", node.id));
        // Who has ended meanwhile need not be told.
        let _ = kill_process(*pid, Signal::TERM);
    }
    let until = Instant::now() + STOP_MAX.max(global.timeout);
    for (node, pid) in &running {
        while node.running().is_some() {
            if Instant::now() >= until {
                let pid = pid.as_raw_nonzero();
                return Err(Failure::failed(format!(
                    "node {} (process {pid}) does not stop: its last words are\n  {}",
                    node.id,
                    node.last_words()
                )));
            }
            thread::sleep(LOOK);
        }
    }
    let stopped = out::plural(running.len() as u64, "node");
    out::say(format_args!(
        "{stopped} stopped; the data stays in {}",
        dir.display()
    ));
    match global.json {
        true => out::json(&json!({"stopped": running.len()})),
        false => Ok(()),
    }
}
