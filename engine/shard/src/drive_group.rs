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
    Batch, Coordinator, Effects, GroupRecord, Limits, Listed, Now, OFFSETS_TOPIC, Reply, Request,
    Token,
};
use streamd_core::meta::ClusterImage;
use streamd_core::producer::ProducerState;
use streamd_io::local::{Notify, OneReceiver, OneSender, oneshot};
use streamd_io::{Class, Env};
use streamd_log::batch::{NewRecord, Writer, build};
use streamd_log::record_view::BatchView;
use streamd_log::validate::Facts;
use streamd_log::{BatchHeader, NewBatch};
use streamd_model::{ErrorCode, Map, Mono, Offset, PartitionId};

use crate::Refusal;
use crate::flusher::Flusher;
use crate::partition::Partition;
use crate::shard::Shard;

/// A batch of group records gets no larger than this by another record, bytes.
const BATCH_BYTES: usize = 512 << 10;
/// The most that a batch of the log of groups may inflate to, bytes.
const INFLATED_MAX: u64 = 256 << 20;

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

/// The state of a partition of `__consumer_offsets` in a checkpoint: that of its producers behind
/// its length, then that of its groups.
fn join_state(producers: &ProducerState, groups: &Coordinator) -> Vec<u8> {
    let producers = producers.encode();
    let mut state = (producers.len() as u64).to_le_bytes().to_vec();
    state.extend_from_slice(&producers);
    state.extend_from_slice(&groups.encode());
    state
}

/// Takes apart what [`join_state`] made.
pub(crate) fn split_state(state: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = state.split_first_chunk::<8>()?;
    rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)
}

/// Reads the group records of a batch.
///
/// # Errors
/// A sentence that says what is wrong.
pub(crate) fn records_of(header: &BatchHeader, bytes: &[u8]) -> Result<Vec<GroupRecord>, String> {
    if header.is_control() {
        return Ok(Vec::new());
    }
    let batch = BatchView::new(bytes, INFLATED_MAX).map_err(|e| e.text)?;
    let mut found = Vec::new();
    for record in batch.records() {
        let record = record.map_err(|e| e.text)?;
        let Some(key) = record.key else { continue };
        if let Some(r) = GroupRecord::decode(key, record.value).map_err(|e| e.to_string())? {
            found.push(r);
        }
    }
    Ok(found)
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
            Some(host) => join_state(producers, &host.coordinator.borrow()),
            None => producers.encode(),
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
        let now_ms = env.wall_ms();
        let mut parts: Vec<(Vec<u8>, Option<Vec<u8>>)> = Vec::new();
        let mut bytes = 0;
        for record in &batch.records {
            let (key, value) = (record.key(), record.value());
            let size = key.len() + value.as_ref().map_or(0, Vec::len);
            if !parts.is_empty() && bytes + size > BATCH_BYTES {
                self.append_batch(host, &std::mem::take(&mut parts), now_ms)?;
                bytes = 0;
            }
            bytes += size;
            parts.push((key, value));
        }
        let next = self.append_batch(host, &parts, now_ms)?;
        host.in_flight.borrow_mut().push_back((next, batch.seq));
        Ok(())
    }

    fn append_batch(
        &self,
        host: &GroupHost,
        records: &[(Vec<u8>, Option<Vec<u8>>)],
        now_ms: i64,
    ) -> Result<Offset, Refusal> {
        let records: Vec<_> = records
            .iter()
            .map(|(key, value)| NewRecord {
                timestamp: now_ms,
                key: Some(key),
                value: value.as_deref(),
            })
            .collect();
        let bytes = build(&records, Writer::default());
        let header = BatchHeader::parse(&bytes)?;
        let facts = Facts {
            header,
            max_timestamp: now_ms,
            log_append_time: false,
            restamp: false,
        };
        let mut log = self.log.borrow_mut();
        if header.size as u64 > log.config().segment_bytes {
            let text = format!("a group record of {} bytes", header.size);
            return Err(Refusal::new(ErrorCode::RecordListTooLarge, text));
        }
        if log.will_roll(header.size, header.count, now_ms) {
            log.roll(now_ms);
            host.wants_checkpoint.set(true);
        }
        let bytes = bytes.into();
        Ok(log
            .append(NewBatch { bytes, facts }, self.epoch, now_ms)
            .next)
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
    /// The coordinator of a partition of `__consumer_offsets` before its log is folded, for a
    /// topic that has such.
    pub(crate) fn coordinator_for(&self, topic: &str, image: &ClusterImage) -> Option<Coordinator> {
        (topic == OFFSETS_TOPIC).then(|| Coordinator::new(Limits::of(&image.broker().groups)))
    }

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
