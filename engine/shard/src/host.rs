//! Coordinators on the shard that owns their partitions of internal topics: a step of one goes to
//! the log, and what stands on it (replies, orders) goes out when the log is committed that far.
//!
//! Steps are synchronous, so records lie in the log in the order of the steps, and a checkpoint
//! that is planned before a step holds exactly what the log holds up to there.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use futures_lite::future;
use streamd_core::machine::{Batch, Effects, Machine, Now, Record, Token};
use streamd_core::{group, share, txn};
use streamd_io::local::{Notify, OneReceiver, OneSender, oneshot};
use streamd_io::{Class, Env};
use streamd_model::{ErrorCode, Map, Mono, Offset, PartitionId};

use crate::Refusal;
use crate::internal::Internal;
use crate::partition::Partition;
use crate::shard::Shard;

/// A request to a coordinator.
pub struct Ask<M: Machine> {
    /// The partition of the internal topic that the key belongs to.
    pub partition: PartitionId,
    /// What is asked about: a group, a transactional id.
    pub key: Arc<str>,
    /// What the answer is found by, and what a withdrawal names; never used twice.
    pub token: Token,
    /// What is asked.
    pub request: M::Request,
}

/// What became of it.
pub type Done<M> = Result<<M as Machine>::Reply, Refusal>;

/// A coordinator as its shard has it; what is different from one kind to the other.
pub(crate) trait Hosted: Machine + 'static {
    /// What it keeps, for messages.
    const WHAT: &'static str;
    /// Whether it begins when the shard has opened all its partitions, rather than at once.
    const AFTER_OPENING: bool;

    /// Where a partition has it.
    fn find(hosts: &Hosts) -> Option<&Rc<Host<Self>>>;

    /// The way back.
    fn put(host: Rc<Host<Self>>) -> Hosts;

    /// Whether a request may go to the coordinator.
    fn admit(_partition: &Partition, _request: &Self::Request) -> Result<(), Refusal> {
        Ok(())
    }

    /// It has begun to serve: what happened to topics while nobody did is caught up with.
    fn catch_up(_shard: &Rc<Shard>, _host: &Host<Self>) {}

    /// Sees to what the coordinator wants done.
    fn carry_out(shard: &Rc<Shard>, partition: &Rc<Partition>, order: Self::Order);
}

/// The coordinator that a partition has, if it has one.
#[derive(Default)]
pub(crate) enum Hosts {
    #[default]
    Nobody,
    /// Of groups, in `__consumer_offsets`.
    Groups(Rc<Host<group::Coordinator>>),
    /// Of transactional ids, in `__transaction_state`.
    Txns(Rc<Host<txn::Coordinator>>),
    /// Of share-partitions, in `__share_group_state`.
    Shares(Rc<Host<share::Coordinator>>),
}

impl Hosts {
    /// The host, whatever it hosts.
    pub fn any(&self) -> Option<Rc<dyn AnyHost>> {
        match self {
            Hosts::Nobody => None,
            Hosts::Groups(host) => Some(host.clone()),
            Hosts::Txns(host) => Some(host.clone()),
            Hosts::Shares(host) => Some(host.clone()),
        }
    }
}

/// What a partition does with its host, whatever it hosts.
pub(crate) trait AnyHost {
    /// The log is committed up to `high`.
    fn committed(&self, high: Offset);

    /// Everybody who waits is told this code: the coordinator is not to be had here.
    fn stop(&self, code: ErrorCode);

    /// The durable state, for a checkpoint.
    fn encode(&self) -> Vec<u8>;
}

/// The coordinator of one partition, and who waits for it.
pub(crate) struct Host<M: Machine> {
    shard: Weak<Shard>,
    partition: Weak<Partition>,
    machine: RefCell<M>,
    waiting: RefCell<Map<Token, OneSender<M::Reply>>>,
    /// Ends of batches in the log, and the coordinator's numbers for them.
    in_flight: RefCell<VecDeque<(Offset, u64)>>,
    alarm: Notify,
    alarm_at: Cell<Option<Mono>>,
    /// The log rolled, or recovery has much to read: a checkpoint comes before the next step.
    wants_checkpoint: Cell<bool>,
    stopped: Cell<bool>,
}

/// The moment on both clocks.
pub(crate) fn now(env: &Env) -> Now {
    Now {
        mono: env.now(),
        wall_ms: env.wall_ms(),
    }
}

impl<M: Hosted> Host<M> {
    /// What it belongs to; none when that is gone.
    fn home(&self) -> Option<(Rc<Shard>, Rc<Partition>)> {
        Some((self.shard.upgrade()?, self.partition.upgrade()?))
    }

    /// One step of the coordinator, with all that it brings about. False if there is nobody any
    /// more for whom to do it.
    pub fn step<F>(&self, step: F) -> bool
    where
        F: FnOnce(&mut M, Now) -> Effects<M>,
    {
        let Some((shard, partition)) = self.home() else {
            return false;
        };
        if self.wants_checkpoint.get() || partition.log.borrow().wants_checkpoint() {
            self.wants_checkpoint.set(false);
            let state = partition.state(&partition.producers.borrow());
            partition.log.borrow_mut().plan_checkpoint(state);
        }
        let effects = step(&mut self.machine.borrow_mut(), now(&shard.env));
        self.carry(&shard, &partition, effects);
        true
    }

    fn carry(&self, shard: &Rc<Shard>, partition: &Rc<Partition>, effects: Effects<M>) {
        self.send(effects.replies);
        if let Some(batch) = effects.persist {
            match self.append(partition, &batch, &shard.env) {
                Ok(()) => shard.flusher.kick(partition.clone()),
                Err(refusal) => {
                    // Another broker leads now, as happens.
                    if refusal.code != ErrorCode::NotLeaderOrFollower {
                        eprintln!("error: {} of {}: {refusal}", M::WHAT, partition.name);
                    }
                    self.stop(ErrorCode::NotCoordinator);
                }
            }
        }
        for order in effects.orders {
            M::carry_out(shard, partition, order);
        }
        self.wake_alarm();
    }

    fn append(
        &self,
        partition: &Partition,
        batch: &Batch<M::Record>,
        env: &Env,
    ) -> Result<(), Refusal> {
        let records = batch.records.iter().map(|r| (r.key(), r.value()));
        let internal = Internal {
            records: records.collect(),
            txn: batch.txn,
        };
        let next = partition.append_internal(internal, env.wall_ms(), &self.wants_checkpoint)?;
        self.in_flight.borrow_mut().push_back((next, batch.seq));
        Ok(())
    }

    /// Something was appended that ends at `next` and is no batch of the coordinator's; `step`
    /// tells it and gives its number for that.
    pub fn note(&self, next: Offset, step: impl FnOnce(&mut M) -> u64) {
        let seq = step(&mut self.machine.borrow_mut());
        self.in_flight.borrow_mut().push_back((next, seq));
    }

    /// Whether its log takes what it says.
    pub fn is_serving(&self) -> bool {
        !self.stopped.get()
    }

    /// Looks at the coordinator.
    pub fn look<T>(&self, look: impl FnOnce(&M) -> T) -> T {
        look(&self.machine.borrow())
    }

    /// Nobody waits under this token any more.
    pub fn forget(&self, token: Token) {
        self.waiting.borrow_mut().remove(&token);
    }

    fn send(&self, replies: Vec<(Token, M::Reply)>) {
        for (token, reply) in replies {
            if let Some(sender) = self.waiting.borrow_mut().remove(&token) {
                // Whoever asked may have gone: then nobody needs the answer.
                let _ = sender.send(reply);
            }
        }
    }

    fn wake_alarm(&self) {
        let next = self.machine.borrow().next_tick();
        if let Some(at) = next
            && self.alarm_at.get().is_none_or(|set| at < set)
        {
            self.alarm.notify_all();
        }
    }
}

impl<M: Hosted> AnyHost for Host<M> {
    fn committed(&self, high: Offset) {
        let Some((shard, partition)) = self.home() else {
            return;
        };
        loop {
            let front = self.in_flight.borrow().front().copied();
            let Some((_, seq)) = front.filter(|f| f.0 <= high) else {
                break;
            };
            self.in_flight.borrow_mut().pop_front();
            let effects = self.machine.borrow_mut().persisted(seq);
            assert!(effects.persist.is_none(), "a write that begets a write");
            self.carry(&shard, &partition, effects);
        }
    }

    fn stop(&self, code: ErrorCode) {
        if self.stopped.replace(true) {
            return;
        }
        let effects = self.machine.borrow_mut().fail(code);
        self.send(effects.replies);
        self.alarm.notify_all();
    }

    fn encode(&self) -> Vec<u8> {
        self.machine.borrow().encode()
    }
}

/// Lets a coordinator begin, and know when the time has come for something.
async fn run<M: Hosted>(host: Rc<Host<M>>, env: Env) {
    if M::AFTER_OPENING {
        let shard = host.shard.upgrade();
        if let Some(shard) = shard {
            shard.opened().await;
        }
        host.step(|m, now| m.start(now));
    }
    if let Some((shard, _)) = host.home().filter(|_| host.is_serving()) {
        M::catch_up(&shard, &host);
    }
    while !host.stopped.get() {
        let next = host.look(M::next_tick);
        let now = env.now();
        match next {
            Some(at) if at <= now => {
                if !host.step(|m, now| m.tick(now)) {
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

impl Partition {
    /// Hosts a coordinator here from now on, which has replayed its log.
    pub(crate) fn host<M: Hosted>(self: &Rc<Self>, mut machine: M, shard: &Shard) {
        if !M::AFTER_OPENING {
            let begun = machine.start(now(&shard.env));
            let quiet = begun.persist.is_none() && begun.replies.is_empty();
            assert!(
                quiet && begun.orders.is_empty(),
                "a start that does something"
            );
        }
        let host = Rc::new(Host {
            shard: shard.weak(),
            partition: Rc::downgrade(self),
            machine: RefCell::new(machine),
            waiting: RefCell::default(),
            in_flight: RefCell::default(),
            alarm: Notify::new(),
            alarm_at: Cell::new(None),
            wants_checkpoint: Cell::new(false),
            stopped: Cell::new(false),
        });
        *self.hosts.borrow_mut() = M::put(host.clone());
        let run = run(host, shard.env.clone());
        shard.env.spawn(Class::Latency, run).detach();
    }

    /// The host of such a coordinator.
    pub(crate) fn hosted<M: Hosted>(&self) -> Option<Rc<Host<M>>> {
        M::find(&self.hosts.borrow()).cloned()
    }
}

impl Shard {
    /// Begins a request. The answer comes when it is known, which may be a rebalance later.
    fn begin_ask<M: Hosted>(&self, ask: Ask<M>) -> Result<OneReceiver<M::Reply>, Refusal> {
        let partition = self.partition(ask.partition).map_err(moved)?;
        partition.usable().map_err(moved)?;
        let Some(host) = partition.hosted::<M>() else {
            let text = format!("{} keeps no {}", partition.name, M::WHAT);
            return Err(Refusal::new(ErrorCode::NotCoordinator, text));
        };
        M::admit(&partition, &ask.request)?;
        let (sender, receiver) = oneshot();
        host.waiting.borrow_mut().insert(ask.token, sender);
        host.step(|m, now| m.handle(now, &ask.key, ask.token, ask.request));
        Ok(receiver)
    }

    /// Does what is asked of coordinators of this shard; answers when all is known.
    pub(crate) async fn ask_hosts<M: Hosted>(&self, asks: Vec<Ask<M>>) -> Vec<Done<M>> {
        self.open_them(asks.iter().map(|ask| ask.partition)).await;
        let begun: Vec<_> = asks.into_iter().map(|ask| self.begin_ask(ask)).collect();
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

    /// The coordinators of a kind, with their partitions, in order.
    pub(crate) fn hosts<M: Hosted>(&self) -> impl Iterator<Item = (Rc<Partition>, Rc<Host<M>>)> {
        let with_host = |p: Rc<Partition>| p.hosted().map(|host| (p, host));
        self.mine().into_iter().filter_map(with_host)
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
