//! Groups on the shard that owns their partition of `__consumer_offsets`: a step of the
//! coordinator goes to the log, and its replies go out when the log is durable that far.
//!
//! Steps are synchronous, so records lie in the log in the order of the steps, and a checkpoint
//! that is planned before a step holds exactly what the log holds up to there.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use futures_lite::future;
use streamd_core::group::{
    Batch, Coordinator, Effects, Listed, Now, Reply, Request, Token, TxnCommit,
};
use streamd_core::meta::ClusterImage;
use streamd_core::producer::ProducerState;
use streamd_io::local::{Notify, OneReceiver, OneSender, oneshot};
use streamd_io::{Class, Env};
use streamd_model::{ErrorCode, Map, Mono, Offset, PartitionId};

use crate::Refusal;
use crate::flusher::Flusher;
use crate::internal::Internal;
use crate::keeper::join_state;
use crate::partition::Partition;
use crate::shard::Shard;

/// A request to the coordinator of a group.
pub struct GroupAsk {
    /// The partition of `__consumer_offsets` that the group belongs to.
    pub partition: PartitionId,
    /// The group.
    pub group: Arc<str>,
    /// What a withdrawal names; never used twice.
    pub token: Token,
    /// What is asked.
    pub request: Request,
}

/// What became of it.
pub type GroupDone = Result<Reply, Refusal>;

/// The coordinator of one partition, and who waits for it.
pub struct GroupHost {
    coordinator: RefCell<Coordinator>,
    waiting: RefCell<Map<Token, OneSender<Reply>>>,
    /// Ends of batches in the log, and the coordinator's numbers for them.
    in_flight: RefCell<VecDeque<(Offset, u64)>>,
    alarm: Notify,
    alarm_at: Cell<Option<Mono>>,
    /// The log rolled, or recovery has much to read: a checkpoint comes before the next step.
    wants_checkpoint: Cell<bool>,
    stopped: Cell<bool>,
}

fn now(env: &Env) -> Now {
    Now {
        mono: env.now(),
        wall_ms: env.wall_ms(),
    }
}

impl GroupHost {
    /// Makes the host of a coordinator that has replayed its log.
    pub(crate) fn start(mut coordinator: Coordinator, env: &Env) -> Rc<GroupHost> {
        coordinator.start(now(env));
        Rc::new(GroupHost {
            coordinator: RefCell::new(coordinator),
            waiting: RefCell::default(),
            in_flight: RefCell::default(),
            alarm: Notify::new(),
            alarm_at: Cell::new(None),
            wants_checkpoint: Cell::new(false),
            stopped: Cell::new(false),
        })
    }

    fn send(&self, replies: Vec<(Token, Reply)>) {
        for (token, reply) in replies {
            if let Some(sender) = self.waiting.borrow_mut().remove(&token) {
                // Whoever asked may have gone: then nobody needs the answer.
                let _ = sender.send(reply);
            }
        }
    }

    /// The log is durable up to `next`.
    pub(crate) fn flushed(&self, next: Offset) {
        loop {
            let front = self.in_flight.borrow().front().copied();
            let Some((end, seq)) = front.filter(|f| f.0 <= next) else {
                break;
            };
            self.in_flight.borrow_mut().pop_front();
            let effects = self.coordinator.borrow_mut().persisted(seq);
            assert!(
                end <= next && effects.persist.is_none(),
                "a write that begets a write"
            );
            self.send(effects.replies);
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
    /// The state that a checkpoint keeps.
    pub(crate) fn state(&self, producers: &ProducerState) -> Vec<u8> {
        match &*self.groups.borrow() {
            Some(host) => join_state(producers, &host.coordinator.borrow().encode()),
            None => match &*self.txns.borrow() {
                Some(host) => join_state(producers, &host.encode()),
                None => producers.encode(),
            },
        }
    }

    /// Hosts a coordinator here from now on.
    pub(crate) fn host(
        self: &Rc<Self>,
        coordinator: Coordinator,
        env: &Env,
        flusher: &Rc<Flusher>,
    ) {
        let host = GroupHost::start(coordinator, env);
        *self.groups.borrow_mut() = Some(host.clone());
        let alarm = alarm(Rc::downgrade(self), host, env.clone(), flusher.clone());
        env.spawn(Class::Latency, alarm).detach();
    }

    /// One step of the coordinator, with all that it brings about.
    fn group_step<F>(self: &Rc<Self>, env: &Env, flusher: &Rc<Flusher>, step: F)
    where
        F: FnOnce(&mut Coordinator, Now) -> Effects,
    {
        let Some(host) = self.groups.borrow().clone() else {
            return;
        };
        if host.wants_checkpoint.get() || self.log.borrow().wants_checkpoint() {
            host.wants_checkpoint.set(false);
            let state = self.state(&self.producers.borrow());
            self.log.borrow_mut().plan_checkpoint(state);
        }
        let effects = step(&mut host.coordinator.borrow_mut(), now(env));
        host.send(effects.replies);
        if let Some(batch) = effects.persist {
            match self.append_groups(&host, batch, env) {
                Ok(()) => flusher.kick(self.clone()),
                Err(refusal) => {
                    eprintln!("error: groups of {}: {refusal}", self.name);
                    host.stop();
                }
            }
        }
        host.wake_alarm();
    }

    fn append_groups(&self, host: &GroupHost, batch: Batch, env: &Env) -> Result<(), Refusal> {
        let records = batch.records.iter().map(|r| (r.key(), r.value()));
        let internal = Internal {
            records: records.collect(),
            txn: batch.txn,
        };
        let next = self.append_internal(internal, env.wall_ms(), &host.wants_checkpoint)?;
        host.in_flight.borrow_mut().push_back((next, batch.seq));
        Ok(())
    }

    /// A marker was appended that ends at `next`: offsets that were pending are committed or not.
    pub(crate) fn group_marker(&self, producer: i64, commit: bool, next: Offset) {
        if let Some(host) = &*self.groups.borrow() {
            let seq = host.coordinator.borrow_mut().marker(producer, commit);
            host.in_flight.borrow_mut().push_back((next, seq));
        }
    }

    /// Whether offsets may be committed in this transaction.
    fn admit_txn_commit(&self, txn: &TxnCommit) -> Result<(), Refusal> {
        self.admit_txn((txn.producer, txn.epoch), txn.guard)
    }
}

/// Lets the coordinator know when the time has come for something.
async fn alarm(partition: Weak<Partition>, host: Rc<GroupHost>, env: Env, flusher: Rc<Flusher>) {
    while !host.stopped.get() {
        let next = host.coordinator.borrow().next_tick();
        let now = env.now();
        match next {
            Some(at) if at <= now => {
                let Some(partition) = partition.upgrade() else {
                    return;
                };
                partition.group_step(&env, &flusher, |c, now| c.tick(now));
                drop(partition);
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

impl Shard {
    /// Begins a request. The answer comes when it is known, which may be a rebalance later.
    pub(crate) async fn begin_group(
        self: &Rc<Self>,
        ask: GroupAsk,
    ) -> Result<OneReceiver<Reply>, Refusal> {
        let partition = self.open_partition(ask.partition).await.map_err(moved)?;
        partition.usable().map_err(moved)?;
        let Some(host) = partition.groups.borrow().clone() else {
            let text = format!("{} keeps no groups", partition.name);
            return Err(Refusal::new(ErrorCode::NotCoordinator, text));
        };
        if let Request::TxnCommit(txn) = &ask.request {
            partition.admit_txn_commit(txn)?;
        }
        let (sender, receiver) = oneshot();
        host.waiting.borrow_mut().insert(ask.token, sender);
        partition.group_step(&self.env, &self.flusher, |c, now| {
            c.handle(now, &ask.group, ask.token, ask.request)
        });
        Ok(receiver)
    }

    /// Does what is asked of groups of this shard; answers when all is known.
    pub(crate) async fn groups(self: &Rc<Self>, asks: Vec<GroupAsk>) -> Vec<GroupDone> {
        let mut begun = Vec::with_capacity(asks.len());
        for ask in asks {
            begun.push(self.begin_group(ask).await);
        }
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

    /// Whoever asked under this token is gone.
    pub(crate) fn group_gone(self: &Rc<Self>, id: PartitionId, token: Token) {
        let Ok(partition) = self.partition(id) else {
            return;
        };
        partition.group_step(&self.env, &self.flusher, |c, now| c.gone(now, token));
        if let Some(host) = &*partition.groups.borrow() {
            host.waiting.borrow_mut().remove(&token);
        }
    }

    /// The groups of this shard.
    pub(crate) fn group_list(&self) -> Vec<Listed> {
        let mut all = Vec::new();
        for partition in self.mine() {
            if let Some(host) = &*partition.groups.borrow() {
                all.extend(host.coordinator.borrow().list());
            }
        }
        all
    }

    /// Tells coordinators what the topics and the settings of groups are.
    pub(crate) async fn tell_groups(&self, image: &Arc<ClusterImage>) {
        for partition in self.mine() {
            if partition.groups.borrow().is_some() && partition.usable().is_ok() {
                let image = image.clone();
                partition.group_step(&self.env, &self.flusher, |c, now| c.follow(now, image));
                self.env.yield_if_needed().await;
            }
        }
    }

    /// Forgets offsets of topics that `image` does not have.
    pub(crate) async fn drop_group_topics(&self, image: &ClusterImage) {
        for partition in self.mine() {
            if partition.groups.borrow().is_some() && partition.usable().is_ok() {
                partition.group_step(&self.env, &self.flusher, |c, _| {
                    c.drop_topics(&|name| image.topic(name).map(|t| t.id))
                });
                self.env.yield_if_needed().await;
            }
        }
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
