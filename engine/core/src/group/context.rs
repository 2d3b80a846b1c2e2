//! What the groups of a coordinator share: its clock work, what goes out, its limits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use streamd_model::{ErrorCode, Mono};

use super::consumer::{Assignor, Watch};
use super::record::GroupRecord;
use super::request::{Reply, Token};
use super::txn::Pending;
use crate::config::GroupConfig;
use crate::meta::ClusterImage;

/// The most groups of one coordinator.
pub(super) const GROUPS_MAX: usize = 100_000;
/// The most committed offsets of one coordinator.
pub(super) const OFFSETS_MAX: usize = 500_000;
/// The most members of a group that were given an id and did not come back yet.
pub(super) const PENDING_MAX: usize = 10_000;
/// The most that the members of one coordinator take with metadata and assignments, bytes.
pub(super) const MEMBER_BYTES_MAX: usize = 256 << 20;
/// The most that the members of one group take, bytes: it goes into one record.
pub(super) const GROUP_BYTES_MAX: usize = 32 << 20;

/// The settings that a coordinator goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long the first rebalance of an empty group waits for more members.
    pub initial_delay: Duration,
    /// The most members of a group.
    pub members_max: usize,
    /// The shortest session timeout, ms.
    pub session_min_ms: i32,
    /// The longest session timeout, ms.
    pub session_max_ms: i32,
    /// The most that a client may write beside an offset, characters as Java counts them.
    pub metadata_max: usize,
    /// How long the offsets of a group outlive it, ms.
    pub retention_ms: i64,
    /// How often that is looked after.
    pub retention_check: Duration,
    /// What groups of the `consumer` protocol go by.
    pub consumer: ConsumerLimits,
}

/// The settings of groups of the `consumer` protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerLimits {
    /// Whether there are such groups (`group.coordinator.rebalance.protocols`).
    pub enabled: bool,
    /// How long a member may be silent, ms, if the group has no setting of its own.
    pub session_ms: i32,
    /// The shortest and longest that a group may set, ms.
    pub session_range_ms: (i32, i32),
    /// How often a member is to be heard of, ms, if the group has no setting of its own.
    pub heartbeat_ms: i32,
    /// The shortest and longest that a group may set, ms.
    pub heartbeat_range_ms: (i32, i32),
    /// The most members.
    pub size_max: usize,
    /// The assignors that there are; the first is taken if no member wants another.
    pub assignors: Vec<Assignor>,
    /// Whether a classic group can become such a group while it lives.
    pub upgrade: bool,
    /// Whether such a group can become a classic one.
    pub downgrade: bool,
}

impl ConsumerLimits {
    fn of(config: &GroupConfig) -> ConsumerLimits {
        let policy = config.consumer.migration_policy.to_ascii_lowercase();
        let known = config
            .consumer
            .assignors
            .iter()
            .filter_map(|name| Assignor::named(name));
        ConsumerLimits {
            enabled: config
                .protocols
                .iter()
                .any(|p| p.eq_ignore_ascii_case("consumer")),
            session_ms: config.consumer.session_ms,
            session_range_ms: config.consumer.session_range_ms,
            heartbeat_ms: config.consumer.heartbeat_ms,
            heartbeat_range_ms: config.consumer.heartbeat_range_ms,
            size_max: config.consumer.max_size,
            assignors: known.collect(),
            upgrade: policy == "upgrade" || policy == "bidirectional",
            downgrade: policy == "downgrade" || policy == "bidirectional",
        }
    }
}

impl Limits {
    /// What the broker's settings say.
    pub fn of(config: &GroupConfig) -> Limits {
        Limits {
            initial_delay: Duration::from_millis(config.initial_delay_ms),
            members_max: config.max_size,
            session_min_ms: config.min_session_ms,
            session_max_ms: config.max_session_ms,
            metadata_max: config.offset_metadata_max_bytes,
            retention_ms: config.offsets_retention_ms,
            retention_check: Duration::from_millis(config.offsets_retention_check_ms),
            consumer: ConsumerLimits::of(config),
        }
    }
}

/// Records to append, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// What [`super::Coordinator::persisted`] is told when they are on stable storage.
    pub seq: u64,
    /// The transaction that they are part of: producer id and epoch.
    pub txn: Option<(i64, i16)>,
    /// The records.
    pub records: Vec<GroupRecord>,
}

/// What the driver has to do.
#[must_use]
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// To be made durable. Batches go to the log in the order in which they come out.
    pub persist: Option<Batch>,
    /// To be sent at once: nothing in them waits for a write.
    pub replies: Vec<(Token, Reply)>,
}

/// What a timer is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Timer {
    /// A member, or one that is to come back with its id, was silent.
    Session(Arc<str>, String),
    /// A rebalance has waited long enough for members to join.
    Join(Arc<str>),
    /// ... for members to sync.
    Sync(Arc<str>),
    /// A member of a group of the `consumer` protocol took too long.
    Mate(Arc<str>, Arc<str>, Watch),
    /// Time to look for offsets that nobody wants; from this group on.
    Expire(Option<Arc<str>>),
}

/// A timer that can be taken back.
pub(super) type TimerKey = (Mono, u64);

/// See the module.
pub(super) struct Context {
    pub limits: Limits,
    pub timers: BTreeMap<TimerKey, Timer>,
    timer_count: u64,
    records: Vec<GroupRecord>,
    txn: Option<(i64, i16)>,
    /// Offsets of transactions that have not ended.
    pub pending: Pending,
    replies: Vec<(Token, Reply)>,
    held: BTreeMap<(u64, Token), Reply>,
    /// Where a token waits: for the end of a rebalance, or for a write.
    pub parked: BTreeMap<Token, (Arc<str>, String)>,
    written: u64,
    durable: u64,
    /// What members hold, bytes.
    pub member_bytes: usize,
    /// Committed offsets.
    pub offsets: usize,
    /// Groups that went away lately: until this write is durable their absence is no news.
    pub removed_at: u64,
    failed: Option<ErrorCode>,
    /// The topics, and the settings of groups; none before the driver has told.
    pub image: Option<Arc<ClusterImage>>,
}

impl Context {
    pub fn new(limits: Limits) -> Context {
        Context {
            limits,
            timers: BTreeMap::new(),
            timer_count: 0,
            records: Vec::new(),
            txn: None,
            pending: Pending::default(),
            replies: Vec::new(),
            held: BTreeMap::new(),
            parked: BTreeMap::new(),
            written: 0,
            durable: 0,
            member_bytes: 0,
            offsets: 0,
            removed_at: 0,
            failed: None,
            image: None,
        }
    }

    /// A number that a group has set for itself, or the broker's for all of them.
    fn of_group(&self, group: &str, key: &str, (default, range): (i32, (i32, i32))) -> i32 {
        let configs = self
            .image
            .as_ref()
            .and_then(|image| image.group_configs(group));
        let own = configs.and_then(|c| c.get(key)?.parse::<i32>().ok());
        own.map_or(default, |ms| ms.max(range.0).min(range.1))
    }

    /// How long a member of a `consumer` group may be silent, ms.
    pub fn session_ms(&self, group: &str) -> i32 {
        let limits = &self.limits.consumer;
        let bounds = (limits.session_ms, limits.session_range_ms);
        self.of_group(group, "consumer.session.timeout.ms", bounds)
    }

    /// How often a member of a `consumer` group is to be heard of, ms.
    pub fn heartbeat_ms(&self, group: &str) -> i32 {
        let limits = &self.limits.consumer;
        let bounds = (limits.heartbeat_ms, limits.heartbeat_range_ms);
        self.of_group(group, "consumer.heartbeat.interval.ms", bounds)
    }

    /// The sequence number of the batch that this step writes, if it writes.
    pub fn next_seq(&self) -> u64 {
        self.written + 1
    }

    /// Queues a record. Only `Group::store` calls it, which replays the record as well.
    pub fn push_record(&mut self, record: GroupRecord) {
        self.records.push(record);
    }

    /// Queues a record of a transaction. A step queues such ones or others, not both.
    pub fn push_txn_record(&mut self, writer: (i64, i16), record: GroupRecord) {
        assert!(
            self.txn.is_some() || self.records.is_empty(),
            "a mixed step"
        );
        self.txn = Some(writer);
        self.records.push(record);
    }

    /// Takes a number as for a batch, for something that the driver wrote by itself.
    pub fn skip_seq(&mut self) -> u64 {
        self.written += 1;
        self.written
    }

    /// Whether a text that is to stand beside an offset is short enough.
    pub fn check_metadata(&self, text: &str) -> ErrorCode {
        // Java counts UTF-16 units; no text has more of them than bytes.
        let max = self.limits.metadata_max;
        match text.len() > max && text.encode_utf16().count() > max {
            true => ErrorCode::OffsetMetadataTooLarge,
            false => ErrorCode::None,
        }
    }

    /// Answers now.
    pub fn reply(&mut self, token: Token, reply: Reply) {
        self.parked.remove(&token);
        self.replies.push((token, reply));
    }

    /// Answers when batch `seq` is durable.
    pub fn reply_after(&mut self, seq: u64, token: Token, reply: Reply) {
        if seq <= self.durable {
            return self.reply(token, reply);
        }
        self.parked.remove(&token);
        self.held.insert((seq, token), reply);
    }

    /// Takes note of which member waits under a token.
    pub fn park(&mut self, token: Token, group: &Arc<str>, member: &str) {
        self.parked
            .insert(token, (group.clone(), member.to_owned()));
    }

    /// Forgets a token; says which member waited under it.
    pub fn unpark(&mut self, token: Token) -> Option<(Arc<str>, String)> {
        self.held.retain(|(_, t), _| *t != token);
        self.parked.remove(&token)
    }

    /// Ends a step.
    pub fn take_effects(&mut self) -> Effects {
        let records = std::mem::take(&mut self.records);
        let persist = (!records.is_empty()).then(|| {
            self.written += 1;
            let seq = self.written;
            let txn = self.txn.take();
            Batch { seq, txn, records }
        });
        Effects {
            persist,
            replies: std::mem::take(&mut self.replies),
        }
    }

    /// Batches up to `seq` are durable.
    pub fn persisted(&mut self, seq: u64) {
        assert!(
            self.durable <= seq && seq <= self.written,
            "batch {seq} of {} is durable after {}",
            self.written,
            self.durable
        );
        self.durable = seq;
        while let Some(entry) = self.held.first_entry() {
            if entry.key().0 > seq {
                break;
            }
            let ((_, token), reply) = entry.remove_entry();
            self.replies.push((token, reply));
        }
    }

    /// Nothing will be durable any more: everybody who waits is told so.
    pub fn fail(&mut self, code: ErrorCode) {
        self.failed = Some(code);
        self.records.clear();
        self.timers.clear();
        let waiting: BTreeSet<Token> = std::mem::take(&mut self.held)
            .into_keys()
            .map(|(_, token)| token)
            .chain(std::mem::take(&mut self.parked).into_keys())
            .collect();
        self.replies
            .extend(waiting.into_iter().map(|t| (t, Reply::Code(code))));
    }

    /// Why nothing is done any more, if so.
    pub fn failed(&self) -> Option<ErrorCode> {
        self.failed
    }

    /// Sets a timer.
    pub fn arm(&mut self, at: Mono, timer: Timer) -> TimerKey {
        self.timer_count += 1;
        let key = (at, self.timer_count);
        self.timers.insert(key, timer);
        key
    }

    /// Takes a timer back, if it is still there.
    pub fn disarm(&mut self, key: Option<TimerKey>) {
        if let Some(key) = key {
            self.timers.remove(&key);
        }
    }

    /// When the next timer goes off.
    pub fn next_timer(&self) -> Option<Mono> {
        self.timers.keys().next().map(|key| key.0)
    }

    /// A timer that has gone off.
    pub fn due(&mut self, now: Mono) -> Option<Timer> {
        let entry = self.timers.first_entry()?;
        (entry.key().0 <= now).then(|| entry.remove())
    }
}
