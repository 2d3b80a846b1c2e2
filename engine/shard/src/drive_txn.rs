//! Transactional ids on the shard that owns their partition of `__transaction_state`: a step of the
//! coordinator goes to the log, its replies go out when the log is durable that far, and so do the
//! markers, to the owners of the partitions.
//!
//! Steps are synchronous, so records lie in the log in the order of the steps, and a checkpoint
//! that is planned before a step holds exactly what the log holds up to there.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use futures_lite::future;
use streamd_core::meta::ClusterImage;
use streamd_core::txn::{
    Batch, Coordinator, Effects, Listed, Markers, Now, Partitions, Reply, Request, Token,
};
use streamd_io::local::{Notify, OneReceiver, OneSender, oneshot};
use streamd_io::{Class, Env};
use streamd_model::{ErrorCode, Map, Mono, Offset, PartitionId};

use crate::Refusal;
use crate::internal::Internal;
use crate::mesh;
use crate::partition::Partition;
use crate::shard::Shard;
use crate::txn::Marker;

/// A request to the coordinator of a transactional id.
pub struct TxnAsk {
    /// The partition of `__transaction_state` that the id belongs to.
    pub partition: PartitionId,
    /// The transactional id.
    pub id: Arc<str>,
    /// What the answer is found by; never used twice.
    pub token: Token,
    /// What is asked.
    pub request: Request,
}

/// What became of it.
pub type TxnDone = Result<Reply, Refusal>;

/// The coordinator of one partition, and who waits for it.
pub struct TxnHost {
    shard: Weak<Shard>,
    coordinator: RefCell<Coordinator>,
    waiting: RefCell<Map<Token, OneSender<Reply>>>,
    /// Ends of batches in the log, and the coordinator's numbers for them.
    in_flight: RefCell<VecDeque<(Offset, u64)>>,
    alarm: Notify,
    alarm_at: Cell<Option<Mono>>,
    /// The log rolled: a checkpoint comes before the next step.
    wants_checkpoint: Cell<bool>,
    stopped: Cell<bool>,
}

fn now(env: &Env) -> Now {
    Now {
        mono: env.now(),
        wall_ms: env.wall_ms(),
    }
}

impl TxnHost {
    pub(crate) fn encode(&self) -> Vec<u8> {
        self.coordinator.borrow().encode()
    }

    fn send(&self, replies: Vec<(Token, Reply)>) {
        for (token, reply) in replies {
            if let Some(sender) = self.waiting.borrow_mut().remove(&token) {
                // Whoever asked may have gone: then nobody needs the answer.
                let _ = sender.send(reply);
            }
        }
    }

    /// Everybody who waits is told that the coordinator is not to be had here.
    pub(crate) fn stop(&self) {
        if self.stopped.replace(true) {
            return;
        }
        let code = ErrorCode::CoordinatorNotAvailable;
        let effects = self.coordinator.borrow_mut().fail(code);
        self.send(effects.replies);
        self.alarm.notify_all();
    }

    fn wake_alarm(&self) {
        let next = self.coordinator.borrow().next_tick();
        if let Some(at) = next
            && self.alarm_at.get().is_none_or(|set| at < set)
        {
            self.alarm.notify_all();
        }
    }
}

impl Partition {
    /// Hosts a coordinator here from now on. What it finds decided is carried out when the shard
    /// has opened all its partitions.
    pub(crate) fn host_txns(self: &Rc<Self>, coordinator: Coordinator, shard: &Shard) {
        let host = Rc::new(TxnHost {
            shard: shard.weak(),
            coordinator: RefCell::new(coordinator),
            waiting: RefCell::default(),
            in_flight: RefCell::default(),
            alarm: Notify::new(),
            alarm_at: Cell::new(None),
            wants_checkpoint: Cell::new(false),
            stopped: Cell::new(false),
        });
        *self.txns.borrow_mut() = Some(host.clone());
        let run = run(Rc::downgrade(self), host, shard.weak());
        shard.env.spawn(Class::Latency, run).detach();
    }

    /// One step of the coordinator, with all that it brings about.
    fn txn_step<F>(self: &Rc<Self>, shard: &Rc<Shard>, step: F)
    where
        F: FnOnce(&mut Coordinator, Now) -> Effects,
    {
        let Some(host) = self.txns.borrow().clone() else {
            return;
        };
        if host.wants_checkpoint.get() || self.log.borrow().wants_checkpoint() {
            host.wants_checkpoint.set(false);
            let state = self.state(&self.producers.borrow());
            self.log.borrow_mut().plan_checkpoint(state);
        }
        let effects = step(&mut host.coordinator.borrow_mut(), now(&shard.env));
        self.carry_txns(shard, &host, effects);
    }

    fn carry_txns(self: &Rc<Self>, shard: &Rc<Shard>, host: &TxnHost, effects: Effects) {
        host.send(effects.replies);
        if let Some(batch) = effects.persist {
            match self.append_txns(host, &batch, &shard.env) {
                Ok(()) => shard.flusher.kick(self.clone()),
                Err(refusal) => {
                    eprintln!("error: transactions of {}: {refusal}", self.name);
                    host.stop();
                }
            }
        }
        for markers in effects.markers {
            let send = send_markers(Rc::downgrade(shard), Rc::downgrade(self), markers);
            shard.env.spawn(Class::Latency, send).detach();
        }
        host.wake_alarm();
    }

    fn append_txns(&self, host: &TxnHost, batch: &Batch, env: &Env) -> Result<(), Refusal> {
        let records = batch.records.iter().map(|r| (r.key(), r.value()));
        let internal = Internal {
            records: records.collect(),
            txn: None,
        };
        let next = self.append_internal(internal, env.wall_ms(), &host.wants_checkpoint)?;
        host.in_flight.borrow_mut().push_back((next, batch.seq));
        Ok(())
    }

    /// The log is durable up to `next`.
    pub(crate) fn txns_flushed(self: &Rc<Self>, next: Offset) {
        let Some(host) = self.txns.borrow().clone() else {
            return;
        };
        let Some(shard) = host.shard.upgrade() else {
            return;
        };
        loop {
            let front = host.in_flight.borrow().front().copied();
            let Some((_, seq)) = front.filter(|f| f.0 <= next) else {
                break;
            };
            host.in_flight.borrow_mut().pop_front();
            let effects = host.coordinator.borrow_mut().persisted(seq);
            assert!(effects.persist.is_none(), "a write that begets a write");
            self.carry_txns(&shard, &host, effects);
        }
    }
}

/// Starts the coordinator when the shard's partitions are open, and lets it know when the time has
/// come for something.
async fn run(partition: Weak<Partition>, host: Rc<TxnHost>, shard: Weak<Shard>) {
    let step = |step: &mut dyn FnMut(&mut Coordinator, Now) -> Effects| {
        let (Some(partition), Some(shard)) = (partition.upgrade(), shard.upgrade()) else {
            return false;
        };
        partition.txn_step(&shard, step);
        true
    };
    if let Some(shard) = shard.upgrade() {
        shard.opened().await;
    }
    step(&mut |c, now| c.start(now));
    while !host.stopped.get() {
        let Some(env) = shard.upgrade().map(|s| s.env.clone()) else {
            return;
        };
        let next = host.coordinator.borrow().next_tick();
        let now = env.now();
        match next {
            Some(at) if at <= now => {
                if !step(&mut |c, now| c.tick(now)) {
                    return;
                }
                env.yield_if_needed().await;
            }
            _ => {
                host.alarm_at.set(next);
                let woken = host.alarm.wait();
                match next {
                    Some(at) => future::or(env.sleep(at - now), woken).await,
                    None => woken.await,
                }
                host.alarm_at.set(None);
            }
        }
    }
}

/// Markers for the partitions that exist, by owner; topics that are gone have nothing to end.
fn by_owner(shard: &Shard, image: &ClusterImage, markers: &Markers) -> Vec<Vec<Marker>> {
    let mut groups = vec![Vec::new(); shard.mesh.shards()];
    for (topic, indexes) in &markers.partitions {
        let Some(meta) = image.topic(topic) else {
            continue;
        };
        for index in indexes.iter().filter(|i| (0..meta.partitions).contains(i)) {
            let partition = PartitionId {
                topic: meta.id,
                index: *index,
            };
            groups[usize::from(shard.owner(partition).0)].push(Marker {
                partition,
                producer: markers.producer,
                epoch: markers.epoch,
                commit: markers.commit,
                // One coordinator for ever, until there are replicas that take over.
                coordinator_epoch: 0,
            });
        }
    }
    groups
}

/// Writes the markers of a decision and tells the coordinator where it could not be done.
async fn send_markers(shard: Weak<Shard>, partition: Weak<Partition>, markers: Markers) {
    let Some(shard) = shard.upgrade() else {
        return;
    };
    let image = shard.image();
    let mut left = Partitions::new();
    let mut waits = Vec::new();
    for (owner, items) in by_owner(&shard, &image, &markers).into_iter().enumerate() {
        let ids: Vec<PartitionId> = items.iter().map(|m| m.partition).collect();
        if !items.is_empty() {
            let answer = shard.begin(owner, mesh::Request::Markers(items)).await;
            waits.push((ids, answer));
        }
    }
    for (ids, answer) in waits {
        let mut done = match answer.await {
            Some(mesh::Reply::Markers(done)) => done.into_iter(),
            _ => Vec::new().into_iter(),
        };
        for id in ids {
            if done
                .next()
                .is_none_or(|d| d.is_err_and(|r| may_be_later(&r)))
                && let Some(topic) = image.topic_by_id(id.topic)
            {
                let name = topic.name.as_str().into();
                left.entry(name).or_default().insert(id.index);
            }
        }
    }
    if let Some(partition) = partition.upgrade() {
        partition.txn_step(&shard, |c, now| {
            c.marked(now, &markers.id, markers.round, left)
        });
    }
}

/// Whether a marker that was refused so is to be tried again.
fn may_be_later(refusal: &Refusal) -> bool {
    match refusal.code {
        // The topic is gone, and with it whatever the transaction wrote there.
        ErrorCode::UnknownTopicOrPartition => false,
        // A newer epoch has written there: its marker has ended this transaction already.
        ErrorCode::InvalidProducerEpoch => {
            eprintln!("warning: {refusal}");
            false
        }
        _ => true,
    }
}

impl Shard {
    /// Begins a request; the answer comes when it is known.
    fn begin_txn(self: &Rc<Self>, ask: TxnAsk) -> Result<OneReceiver<Reply>, Refusal> {
        let partition = self.partition(ask.partition).map_err(moved)?;
        partition.usable().map_err(moved)?;
        let Some(host) = partition.txns.borrow().clone() else {
            let text = format!("{} keeps no transactions", partition.name);
            return Err(Refusal::new(ErrorCode::NotCoordinator, text));
        };
        let (sender, receiver) = oneshot();
        host.waiting.borrow_mut().insert(ask.token, sender);
        partition.txn_step(self, |c, now| {
            c.handle(now, &ask.id, ask.token, ask.request)
        });
        Ok(receiver)
    }

    /// Does what is asked of transactional ids of this shard; answers when all is known.
    pub(crate) async fn txns(self: &Rc<Self>, asks: Vec<TxnAsk>) -> Vec<TxnDone> {
        let begun: Vec<_> = asks.into_iter().map(|ask| self.begin_txn(ask)).collect();
        let mut done = Vec::with_capacity(begun.len());
        for receiver in begun {
            done.push(match receiver {
                Ok(receiver) => receiver.await.map_err(|_| {
                    Refusal::new(ErrorCode::CoordinatorNotAvailable, "nobody waits any more")
                }),
                Err(refusal) => Err(refusal),
            });
        }
        done
    }

    /// The transactional ids of this shard.
    pub(crate) fn txn_list(&self) -> Vec<Listed> {
        let mut all = Vec::new();
        for partition in self.mine() {
            if let Some(host) = &*partition.txns.borrow() {
                all.extend(host.coordinator.borrow().list(now(&self.env)));
            }
        }
        all
    }
}

/// A coordinator that is not here: clients look for it again.
fn moved(refusal: Refusal) -> Refusal {
    let code = match refusal.code {
        ErrorCode::KafkaStorageError => ErrorCode::CoordinatorNotAvailable,
        _ => ErrorCode::NotCoordinator,
    };
    Refusal { code, ..refusal }
}
