//! Three nodes on one simulated machine, their packets lost and late as it happens: they come
//! together by joining, any of them changes the metadata, who leads it is replaced when it is cut
//! off, who was away gets what it lacks, and what was answered is there after all were killed.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use streamd_core::config::Configs;
use streamd_core::meta::{ClusterImage, Command, ConfigChange, Local, Registration};
use streamd_io::local::{Budget, Notify, Permit};
use streamd_io::sim::{Sim, SimOptions};
use streamd_io::{Class, Env, mailbox};
use streamd_log::journal::JournalOptions;
use streamd_model::{ErrorCode, NodeId, ShardId, TopicId};
use streamd_shard::{Packet, Peers, Refusal, Settings, Shard};

const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];
/// By then anything that can happen has.
const LONG: Duration = Duration::from_secs(30);

/// What is between the nodes.
struct Net {
    env: Env,
    nodes: RefCell<BTreeMap<NodeId, Rc<Shard>>>,
    /// Who hears nothing and is not heard.
    cut: RefCell<BTreeSet<NodeId>>,
    /// Of a hundred packets so many are lost.
    loss: Cell<u64>,
    lost: Cell<u64>,
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
    fn new(env: &Env, loss: u64) -> Rc<Net> {
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
                there.arrived(from, vec![packet]).await;
            }
        }
    }

    fn shard(&self, node: NodeId) -> Rc<Shard> {
        self.nodes.borrow()[&node].clone()
    }

    fn image(&self, node: NodeId) -> Arc<ClusterImage> {
        self.shard(node).image()
    }

    /// Waits until `done`.
    async fn until(&self, what: &str, done: impl Fn() -> bool) {
        let begun = self.env.now();
        while !done() {
            assert!(self.env.now() - begun < LONG, "{what}: not within {LONG:?}");
            self.env.sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until all nodes have the same image.
    async fn agree(&self) {
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

fn data(node: NodeId) -> PathBuf {
    format!("/data/{}", node.0).into()
}

/// Starts a node, of two shards, and waits until it serves.
async fn start(net: &Rc<Net>, node: NodeId) {
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
async fn stop(net: &Rc<Net>, node: NodeId) {
    let shard = net.shard(node);
    shard.leave().await;
    let other = streamd_shard::Request::Close;
    shard.begin(1, other).await.await;
    shard.close().await;
    net.nodes.borrow_mut().remove(&node);
}

fn create(n: u64) -> Command {
    create_as(n, n)
}

fn create_as(id: u64, n: u64) -> Command {
    Command::CreateTopic {
        name: format!("t{n}"),
        id: TopicId::from_random(id, id),
        partitions: 3,
        configs: Configs::new(),
        created_ms: 5,
    }
}

fn has(image: &ClusterImage, n: u64) -> bool {
    image.topic(&format!("t{n}")).is_some()
}

/// Changes the metadata by way of a node; what it gives, and then has itself, has the change.
async fn change(net: &Net, node: NodeId, n: u64) -> Result<(), Refusal> {
    let image = net.shard(node).propose(create(n)).await?;
    assert!(has(&image, n));
    Ok(())
}

/// Starts three nodes, and waits until all of them vote.
async fn three(env: &Env, loss: u64) -> Rc<Net> {
    let net = Net::new(env, loss);
    for node in NODES {
        start(&net, node).await;
    }
    all_vote(&net).await;
    net
}

async fn all_vote(net: &Net) {
    net.until("three voters", || {
        let voters = |node: &NodeId| net.shard(*node).metadata_voters();
        NODES.iter().all(|node| voters(node) == NODES)
    })
    .await;
}

fn controller(net: &Net) -> Option<NodeId> {
    let cut = net.cut.borrow();
    let mut free = NODES.iter().filter(|node| !cut.contains(node));
    free.find_map(|node| {
        let leader = net.shard(*node).controller();
        leader.filter(|leader| !cut.contains(leader))
    })
}

#[test]
fn nodes_come_together_and_any_of_them_changes_the_metadata() {
    let mut lost = 0;
    for seed in 0..10 {
        lost += Sim::new(seed, SimOptions::default()).run(move |env| async move {
            let net = three(&env, seed % 3 * 5).await;
            for n in 0..12 {
                let node = NODES[n as usize % 3];
                change(&net, node, n).await.unwrap();
                let again = create_as(n + 1_000, n);
                let refused = net.shard(node).propose(again).await.unwrap_err();
                assert_eq!(refused.code, ErrorCode::TopicAlreadyExists);
            }
            net.loss.set(0);
            net.agree().await;
            assert!((0..12).all(|n| has(&net.image(NODES[2]), n)));
            net.lost.get()
        });
    }
    assert!(lost > 50, "only {lost} packets were lost");
}

#[test]
fn a_controller_that_is_cut_off_is_replaced_and_decides_nothing() {
    for seed in 0..10 {
        Sim::new(seed, SimOptions::default()).run(|env| async move {
            let net = three(&env, 2).await;
            change(&net, NODES[1], 1).await.unwrap();
            net.until("a controller", || controller(&net).is_some())
                .await;
            let old = controller(&net).unwrap();
            net.cut.borrow_mut().insert(old);
            let begun = env.now();
            let alone = {
                let net = net.clone();
                let ask = async move { change(&net, old, 100).await };
                env.spawn(Class::Latency, ask)
            };
            let others: Vec<NodeId> = NODES.into_iter().filter(|n| *n != old).collect();
            for (n, node) in [(2, others[0]), (3, others[1])] {
                change(&net, node, n).await.unwrap();
            }
            let took = env.now() - begun;
            assert!(took < Duration::from_secs(5), "it took {took:?}");
            assert_ne!(controller(&net), Some(old));
            let refused = alone.await.unwrap_err();
            let code = refused.code;
            let unsure = [ErrorCode::NotController, ErrorCode::RequestTimedOut];
            assert!(unsure.contains(&code), "{refused}");
            net.cut.borrow_mut().clear();
            net.agree().await;
            change(&net, old, 4).await.unwrap();
            assert!(!has(&net.image(old), 100), "what was refused is not there");
        });
    }
}

#[test]
fn who_was_away_gets_what_it_lacks_in_one_piece_if_it_is_much() {
    for (seed, much) in [(1, false), (2, true)] {
        Sim::new(seed, SimOptions::default()).run(move |env| async move {
            let net = three(&env, 0).await;
            stop(&net, NODES[2]).await;
            let long = |n: u64| Command::AlterGroup {
                group: "g".to_owned(),
                changes: vec![ConfigChange {
                    name: "x".to_owned(),
                    value: Some(format!("{n}{}", "x".repeat(10_000))),
                }],
            };
            // The quorum begins its log anew after 4 MiB, and keeps 1,000 entries.
            let count = if much { 1_600 } else { 20 };
            for n in 0..count {
                net.shard(NODES[0]).propose(long(n)).await.unwrap();
            }
            start(&net, NODES[2]).await;
            net.agree().await;
            let image = net.image(NODES[2]);
            let value = image.group_configs("g").and_then(|c| c.get("x")).unwrap();
            assert_eq!(value.trim_end_matches('x'), (count - 1).to_string());
            change(&net, NODES[2], 7).await.unwrap();
        });
    }
}

#[test]
fn what_was_answered_is_there_after_all_were_killed() {
    for seed in 0..8 {
        let mut sim = Sim::new(seed, SimOptions::default());
        let answered = Rc::new(RefCell::new(BTreeSet::new()));
        for life in 0..4u64 {
            let answered = answered.clone();
            let work = move |env: Env| async move {
                let net = Net::new(&env, 0);
                let mut starts = Vec::new();
                for node in NODES {
                    let net = net.clone();
                    let start = async move { start(&net, node).await };
                    starts.push(env.spawn(Class::Latency, start));
                }
                for start in starts {
                    start.await;
                }
                net.agree().await;
                let image = net.image(NODES[0]);
                assert!(answered.borrow().iter().all(|n| has(&image, *n)));
                for n in life * 1_000.. {
                    let node = NODES[(n % 3) as usize];
                    match change(&net, node, n).await {
                        Ok(()) => answered.borrow_mut().insert(n),
                        Err(refused) => panic!("{refused}"),
                    };
                    if life == 3 {
                        return;
                    }
                }
            };
            match life {
                3 => sim.run(work),
                _ => drop(sim.run_turns(20_000 + 3_000 * seed, work)),
            }
            if seed % 2 == 0 {
                sim.power_cut();
            }
        }
        assert!(answered.borrow().len() > 5, "{:?}", answered.borrow());
    }
}
