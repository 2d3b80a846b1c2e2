//! What the groups of a coordinator share: its clock work, what goes out, its limits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use streamd_model::ErrorCode;

use super::consumer::{Assignor, Watch};
use super::coordinator::Coordinator;
use super::record::GroupRecord;
use super::request::Reply;
use super::txn::Pending;
use crate::config::GroupConfig;
use crate::machine::{self, Token};
use crate::meta::ClusterImage;
use crate::outbox::Outbox;
use crate::timers::Timers;

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
pub type Batch = machine::Batch<GroupRecord>;

/// What the driver has to do.
pub type Effects = machine::Effects<Coordinator>;

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
    /// A member of a share group was silent.
    Hand(Arc<str>, Arc<str>),
    /// Time to look for offsets that nobody wants; from this group on.
    Expire(Option<Arc<str>>),
}

/// See the module.
pub(super) struct Context {
    pub limits: Limits,
    pub timers: Timers<Timer>,
    pub out: Outbox<Coordinator>,
    /// Offsets of transactions that have not ended.
    pub pending: Pending,
    /// Where a token waits: for the end of a rebalance, or for a write.
    pub parked: BTreeMap<Token, (Arc<str>, String)>,
    /// What members hold, bytes.
    pub member_bytes: usize,
    /// Committed offsets.
    pub offsets: usize,
    /// Groups that went away lately: until this write is durable their absence is no news.
    pub removed_at: u64,
    /// The topics, and the settings of groups; none before the driver has told.
    pub image: Option<Arc<ClusterImage>>,
}

impl Context {
    pub fn new(limits: Limits) -> Context {
        Context {
            limits,
            timers: Timers::default(),
            out: Outbox::default(),
            pending: Pending::default(),
            parked: BTreeMap::new(),
            member_bytes: 0,
            offsets: 0,
            removed_at: 0,
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

    /// How long a member of a share group may be silent, ms.
    pub fn share_session_ms(&self, group: &str) -> i32 {
        let Some(image) = &self.image else { return 0 };
        let share = &image.broker().groups.share;
        let bounds = (share.session_ms, share.session_range_ms);
        self.of_group(group, "share.session.timeout.ms", bounds)
    }

    /// How often a member of a share group is to be heard of, ms.
    pub fn share_heartbeat_ms(&self, group: &str) -> i32 {
        let Some(image) = &self.image else { return 0 };
        let share = &image.broker().groups.share;
        let bounds = (share.heartbeat_ms, share.heartbeat_range_ms);
        self.of_group(group, "share.heartbeat.interval.ms", bounds)
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
        self.out.reply(token, reply);
    }

    /// Answers when batch `seq` is durable.
    pub fn reply_after(&mut self, seq: u64, token: Token, reply: Reply) {
        self.parked.remove(&token);
        self.out.reply_after(seq, token, reply);
    }

    /// Takes note of which member waits under a token.
    pub fn park(&mut self, token: Token, group: &Arc<str>, member: &str) {
        self.parked
            .insert(token, (group.clone(), member.to_owned()));
    }

    /// Forgets a token; says which member waited under it.
    pub fn unpark(&mut self, token: Token) -> Option<(Arc<str>, String)> {
        self.out.withdraw(token);
        self.parked.remove(&token)
    }

    /// Nothing will be durable any more: everybody who waits is told so.
    pub fn fail(&mut self, code: ErrorCode) {
        self.timers.clear();
        let parked = std::mem::take(&mut self.parked);
        self.out.fail(code, parked.into_keys());
    }
}
