//! Three nodes on one simulated machine, with what is between them.

#![allow(dead_code, reason = "not every test needs all of it")]

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use streamd_core::config::Configs;
use streamd_core::meta::{ClusterImage, Local, Registration};
use streamd_io::local::{Budget, Notify, Permit};
use streamd_io::sim::sent;
use streamd_io::{Class, Env, Part, mailbox};
use streamd_log::journal::JournalOptions;
use streamd_model::{NodeId, ShardId, TopicId};
use streamd_shard::{Packet, Peers, Settings, Shard};

pub const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];
/// By then anything that can happen has.
pub const LONG: Duration = Duration::from_secs(30);

/// What is between the nodes.
pub struct Net {
    pub env: Env,
    pub nodes: RefCell<BTreeMap<NodeId, Rc<Shard>>>,
    /// Who hears nothing and is not heard.
    pub cut: RefCell<BTreeSet<NodeId>>,
    /// Of a hundred packets so many are lost.
    pub loss: Cell<u64>,
    pub lost: Cell<u64>,
}

/// A packet as it arrives: records are in one piece of memory.
async fn in_memory(env: &Env, packet: Packet) -> Packet {
    let Packet::Data(mut records) = packet else {
        return packet;
    };
    let parts = std::mem::take(&mut records.parts);
    let bytes = sent(env, parts).await.expect("no log is cut that is read");
    records.parts = vec![Part::Bytes(bytes)];
    Packet::Data(records)
}

/// The way of a node to the others.
struct Way {
    net: Rc<Net>,
    from: NodeId,
    room: Budget,
    pipes: RefCell<BTreeMap<NodeId, Rc<Pipe>>>,
}

#[derive(Default)]
struct Pipe {
    waiting: RefCell<VecDeque<Packet>>,
    wake: Notify,
}

impl Net {
    pub fn new(env: &Env, loss: u64) -> Rc<Net> {
        Rc::new(Net {
            env: env.clone(),
            nodes: RefCell::default(),
            cut: RefCell::default(),
            loss: Cell::new(loss),
            lost: Cell::new(0),
        })
    }

    fn loses(&self, from: NodeId, to: NodeId) -> bool {
        let cut = self.cut.borrow();
        let lost = cut.contains(&from)
            || cut.contains(&to)
            || self.env.random_u64() % 100 < self.loss.get();
        self.lost.set(self.lost.get() + u64::from(lost));
        lost
    }

    /// Delivers, in order, what goes from one node to another.
    async fn deliver(self: Rc<Self>, from: NodeId, to: NodeId, pipe: Rc<Pipe>) {
        loop {
            let next = pipe.waiting.borrow_mut().pop_front();
            let Some(packet) = next else {
                pipe.wake.wait().await;
                continue;
            };
            let late = Duration::from_micros(self.env.random_u64() % 3_000);
            self.env.sleep(late).await;
            let there = self.nodes.borrow().get(&to).cloned();
            if let Some(there) = there.filter(|_| !self.loses(from, to)) {
                let packet = in_memory(&self.env, packet).await;
                there.arrived(from, packet).await;
            }
        }
    }

    pub fn shard(&self, node: NodeId) -> Rc<Shard> {
        self.nodes.borrow()[&node].clone()
    }

    pub fn image(&self, node: NodeId) -> Arc<ClusterImage> {
        self.shard(node).image()
    }

    /// Waits until `done`.
    pub async fn until(&self, what: &str, done: impl Fn() -> bool) {
        let begun = self.env.now();
        while !done() {
            assert!(self.env.now() - begun < LONG, "{what}: not within {LONG:?}");
            self.env.sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until all nodes have the same image.
    pub async fn agree(&self) {
        self.until("the same image everywhere", || {
            let nodes = self.nodes.borrow();
            let mut images = nodes.values().map(|shard| shard.image().encode());
            let first = images.next();
            images.all(|image| Some(image) == first)
        })
        .await;
    }
}

impl Peers for Way {
    fn send(&self, to: NodeId, packet: Packet, _: Option<Permit>) {
        let pipe = {
            let mut pipes = self.pipes.borrow_mut();
            let begin = || {
                let pipe = Rc::new(Pipe::default());
                let deliver = self.net.clone().deliver(self.from, to, pipe.clone());
                self.net.env.spawn(Class::Latency, deliver).detach();
                pipe
            };
            pipes.entry(to).or_insert_with(begin).clone()
        };
        pipe.waiting.borrow_mut().push_back(packet);
        pipe.wake.notify_all();
    }

    fn contacts(&self) -> Vec<NodeId> {
        vec![NodeId(2), NodeId(1)]
    }

    fn learn(&self, _: &Arc<ClusterImage>, _: bool) {}

    fn room(&self, _: NodeId, bytes: usize) -> Pin<Box<dyn Future<Output = Option<Permit>>>> {
        let acquire = self.room.acquire(bytes);
        Box::pin(async move { Some(acquire.await) })
    }
}

pub fn data(node: NodeId) -> PathBuf {
    format!("/data/{}", node.0).into()
}

/// Starts a node, of two shards, and waits until it serves.
pub async fn start(net: &Rc<Net>, node: NodeId) {
    let env = &net.env;
    let settings = Settings {
        data_dir: data(node),
        tail_bytes: 1 << 20,
        local: Local {
            node,
            configs: Configs::new(),
        },
        told: Registration {
            node,
            incarnation: TopicId::from_random(env.random_u64(), env.random_u64()).0,
            directory: [node.0 as u8; 16],
            rack: None,
            endpoints: Vec::new(),
            features: (0, 1),
        },
        joins: node != NODES[0],
        journal: JournalOptions {
            file_bytes: 1 << 20,
            files_max: 4,
            durable: true,
        },
        retention_check: LONG,
        brakes: Default::default(),
    };
    env.create_dir_all(&settings.data_dir).await.unwrap();
    let mut shards = Vec::new();
    for (index, endpoint) in mailbox::mesh(2, 64).into_iter().enumerate() {
        let id = ShardId(index as u16);
        let shard = Shard::new(env.clone(), id, 2, endpoint, settings.clone());
        shard.set_peers(Rc::new(Way {
            net: net.clone(),
            from: node,
            room: Budget::new(1 << 20),
            pipes: RefCell::default(),
        }));
        env.spawn(Class::Latency, shard.clone().run()).detach();
        shards.push(shard);
    }
    net.nodes.borrow_mut().insert(node, shards[0].clone());
    shards[0].lead().await.unwrap();
    for shard in &shards {
        shard.opened().await;
    }
}

/// Stops a node as one that is told to.
pub async fn stop(net: &Rc<Net>, node: NodeId) {
    let shard = net.shard(node);
    shard.leave().await;
    let other = streamd_shard::Request::Close;
    shard.begin(1, other).await.await;
    shard.close().await;
    net.nodes.borrow_mut().remove(&node);
}

/// Starts three nodes, and waits until all of them vote.
pub async fn three(env: &Env, loss: u64) -> Rc<Net> {
    let net = Net::new(env, loss);
    for node in NODES {
        start(&net, node).await;
    }
    all_vote(&net).await;
    net
}

pub async fn all_vote(net: &Net) {
    net.until("three voters", || {
        let voters = |node: &NodeId| net.shard(*node).metadata_voters();
        NODES.iter().all(|node| voters(node) == NODES)
    })
    .await;
}
