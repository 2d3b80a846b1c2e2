//! A cluster of three brokers on this machine, whose nodes are killed and started again: streamd's
//! or Kafka's.
//!
//! Invariant: a node has its ports and its data for as long as the cluster; its process may change.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use super::quorum;
use crate::admin::{Admin, Seen};
use crate::brokers::KAFKA_SCRIPT;
use crate::failure::{Context, Failure, Result};
use crate::server::{Server, TempDir};
use crate::workload::Target;

/// How many nodes a cluster has.
pub const NODES: usize = 3;
/// What a node may have: Kafka as its heap, streamd for its buffers.
const MEMORY_MB: usize = 512;
/// How long nodes may take to find each other, or to catch up.
const SOON: Duration = Duration::from_secs(120);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);
/// The native ports of streamd lie so far behind the others.
const NATIVE: u16 = 10;

/// Whose nodes.
#[derive(Debug)]
pub enum Kind {
    /// This program's.
    Streamd(PathBuf),
    /// Those of the script, in the directory where it has Kafka.
    Kafka(PathBuf),
}

/// The nodes of a cluster. Dropped, they are killed, and then their data removed.
#[derive(Debug)]
pub struct Nodes {
    kind: Kind,
    port: u16,
    /// In the order of their numbers, from 1 on.
    servers: Vec<Option<Server>>,
    /// Who was killed and not yet started again.
    dead: Option<usize>,
    dirs: Vec<TempDir>,
}

impl Nodes {
    /// Starts three nodes with ports from `port` on, and waits until each knows all.
    ///
    /// # Errors
    /// One does not start, or is not there in two minutes.
    pub fn start(kind: Kind, work: &Path, port: u16) -> Result<Nodes> {
        let mut nodes = Nodes {
            kind,
            port,
            servers: Vec::new(),
            dead: None,
            dirs: Vec::new(),
        };
        for node in 1..=NODES {
            let name = match nodes.kind {
                Kind::Streamd(_) => format!("streamd-{node}"),
                // Where the script puts it.
                Kind::Kafka(_) => format!("data-{node}"),
            };
            nodes.dirs.push(TempDir::anew(work.join(name))?);
            nodes.servers.push(None);
            nodes.begin(node)?;
            if node == 1 && matches!(nodes.kind, Kind::Streamd(_)) {
                // The others join it.
                nodes.until("node 1 serves", |nodes| nodes.seen(1, "").is_ok())?;
            }
        }
        nodes.until("all nodes are there", |nodes| {
            let knows = |node| nodes.seen(node, "").is_ok_and(|s| s.nodes.len() == NODES);
            (1..=NODES).all(knows)
        })?;
        Ok(nodes)
    }

    /// What it is called.
    pub fn name(&self) -> &'static str {
        match self.kind {
            Kind::Streamd(_) => "streamd",
            Kind::Kafka(_) => "Kafka",
        }
    }

    /// Where a node listens.
    pub fn address(&self, node: usize) -> SocketAddr {
        let step = match self.kind {
            Kind::Streamd(_) => 1,
            Kind::Kafka(_) => 2,
        };
        let port = self.port + step * (node as u16 - 1);
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    /// All of them, for clients.
    pub fn bootstrap(&self) -> String {
        let all = (1..=NODES).map(|node| self.address(node).to_string());
        all.collect::<Vec<_>>().join(",")
    }

    /// The cluster as a target; topics have three replicas, two of which have to be in sync.
    pub fn target(&self) -> Target {
        Target {
            name: self.name().into(),
            address: self.address(1),
            pids: self.servers.iter().flatten().map(Server::id).collect(),
            replicas: NODES as i16,
            configs: vec![("min.insync.replicas".into(), "2".into())],
        }
    }

    /// What a node says of the cluster and of a topic.
    ///
    /// # Errors
    /// It does not answer.
    pub fn seen(&self, node: usize, topic: &str) -> Result<Seen> {
        Admin::connect(self.address(node))?.seen(topic)
    }

    /// The nodes that run.
    pub fn alive(&self) -> impl Iterator<Item = usize> {
        (1..=self.servers.len()).filter(|node| self.dead != Some(*node))
    }

    /// The node that is the controller.
    ///
    /// # Errors
    /// There is none, or nobody tells.
    pub fn controller(&self) -> Result<usize> {
        let node = self.alive().next().unwrap_or(1);
        let mut admin = Admin::connect(self.address(node))?;
        let leader = match self.kind {
            Kind::Streamd(_) => admin.seen("")?.controller,
            // Its brokers name any of themselves.
            Kind::Kafka(_) => quorum::leader(&mut admin)?,
        };
        let leader = usize::try_from(leader).ok();
        let leader = leader.filter(|node| (1..=NODES).contains(node));
        leader.ok_or_else(|| Failure::new(format!("{} has no controller", self.name())))
    }

    /// SIGKILL to a node: when that was.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self, node: usize) -> Result<Instant> {
        let server = self.servers[node - 1].as_mut();
        let server = server.ok_or_else(|| Failure::new(format!("node {node} does not run")))?;
        let at = Instant::now();
        server.kill_now()?;
        self.dead = Some(node);
        Ok(at)
    }

    /// Starts a node that was killed.
    ///
    /// # Errors
    /// It does not start.
    pub fn start_again(&mut self, node: usize) -> Result<()> {
        // Waits for the end of the one before, so that its ports are free.
        self.servers[node - 1] = None;
        self.begin(node)?;
        self.dead = None;
        Ok(())
    }

    /// Waits until all replicas of a topic are in sync, as every node knows, and every partition is
    /// led by a node.
    ///
    /// # Errors
    /// They are not in two minutes.
    pub fn in_sync(&mut self, topic: &str) -> Result<()> {
        let whole = |seen: &Seen| {
            let mut places = seen.places.values();
            !seen.places.is_empty() && places.all(|p| p.in_sync == NODES && p.leader > 0)
        };
        self.until("all replicas are in sync", |nodes| {
            (1..=NODES).all(|node| nodes.seen(node, topic).is_ok_and(|seen| whole(&seen)))
        })
    }

    /// Has every partition led by its first replica: then every node leads something.
    ///
    /// # Errors
    /// Nobody can be asked.
    pub fn balance(&self) -> Result<()> {
        Admin::connect(self.address(self.controller()?))?.elect_preferred()
    }

    fn begin(&mut self, node: usize) -> Result<()> {
        let address = self.address(node);
        let command = match &self.kind {
            Kind::Streamd(program) => self.streamd(program, node),
            Kind::Kafka(work) => {
                let mut command = script(work, "run");
                command.env("KPORT", self.port.to_string());
                command.env("KNODES", NODES.to_string());
                command.env("KNODE", node.to_string());
                command.env("KHEAP", format!("{MEMORY_MB}m"));
                command
            }
        };
        let name = format!("{} {node}", self.name());
        self.servers[node - 1] = Some(Server::launch(command, &name, address)?);
        Ok(())
    }

    fn streamd(&self, program: &Path, node: usize) -> Command {
        let native = |node| {
            let address = self.address(node);
            SocketAddr::new(address.ip(), address.port() + NATIVE)
        };
        let mut command = Command::new(program);
        command
            .arg(format!("--node-id={node}"))
            .arg(format!("--listen={}", self.address(node)))
            .arg(format!("--native-listen={}", native(node)))
            .arg(format!("--memory={MEMORY_MB}MiB"))
            .arg("--data-dir")
            .arg(self.dirs[node - 1].path());
        if node > 1 {
            command.arg(format!("--join={}", native(1)));
        }
        command
    }

    fn until(&mut self, what: &str, mut done: impl FnMut(&Nodes) -> bool) -> Result<()> {
        let deadline = Instant::now() + SOON;
        while !done(self) {
            for server in self.servers.iter_mut().flatten() {
                server.still_runs()?;
            }
            if Instant::now() > deadline {
                let name = self.name();
                return Err(Failure::new(format!("{name}: {what}: not in {SOON:?}")));
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        // The last of them could not stop well without the others, and nobody needs their data.
        for server in self.servers.iter_mut().flatten() {
            // An error means that it is gone already.
            let _ = server.kill_now();
        }
    }
}

fn script(work: &Path, what: &str) -> Command {
    let mut command = Command::new("bash");
    command.arg(work.join("kafka.sh")).arg(what);
    command.env("WORK", work);
    command
}

/// Writes the script that runs Kafka into a directory, and has it install Kafka there if need be.
///
/// # Errors
/// It cannot be written, or fails.
pub fn install_kafka(work: &Path) -> Result<()> {
    let path = work.join("kafka.sh");
    std::fs::write(&path, KAFKA_SCRIPT).context(|| format!("cannot write {}", path.display()))?;
    let status = script(work, "install").status();
    let status = status.context(|| format!("cannot run {}", path.display()))?;
    match status.success() {
        true => Ok(()),
        false => Err(Failure::new(format!(
            "{} install failed ({status})",
            path.display()
        ))),
    }
}
