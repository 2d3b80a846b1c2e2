//! The table of settings. Every key of Kafka 4's topics is here, and the broker's keys that mean
//! something to streamd or that people carry over from a `server.properties`.
//!
//! A broker key that is the default of a topic key (`log.retention.ms`) is not written down twice:
//! it is the [`Synonym`] of that topic key.

use super::value::{self, Allowed, Kind, Value};
use super::{VALUE_BYTES_MAX, nearest};
use crate::Refused;
use streamd_model::ErrorCode;

/// Whether a setting does something here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It does what it does in Kafka.
    Honoured,
    /// It is taken, kept and reported, and changes nothing: the text says why.
    None(&'static str),
}

/// A broker key that gives a topic key its default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Synonym {
    /// The name of the broker key.
    pub name: &'static str,
    /// What its value is multiplied with to have the topic key's unit.
    pub scale: i64,
}

/// A setting of topics.
#[derive(Clone, Copy, Debug)]
pub struct TopicKey {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Its default.
    pub default: &'static str,
    /// Which values it takes.
    pub allowed: Allowed,
    /// The broker keys behind it, the one that wins first.
    pub synonyms: &'static [Synonym],
    /// Whether it does something.
    pub effect: Effect,
    /// What it means.
    pub doc: &'static str,
}

/// A setting of brokers.
#[derive(Clone, Copy, Debug)]
pub struct BrokerKey {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Its default; `None` if another key gives it.
    pub default: Option<&'static str>,
    /// Which values it takes; for a key with a scale: which values it takes when multiplied.
    pub allowed: Allowed,
    /// What a positive value is multiplied with.
    pub scale: i64,
    /// Whether it can be changed while the broker runs.
    pub dynamic: bool,
    /// Whether it does something.
    pub effect: Effect,
    /// What it means.
    pub doc: &'static str,
}

impl TopicKey {
    /// Reads a value of this key.
    ///
    /// # Errors
    /// INVALID_CONFIG, with the key, what was read and what is allowed.
    pub fn parse(&self, text: &str) -> Result<Value, Refused> {
        parse(self.name, (self.kind, self.allowed, 1), text)
    }
}

impl BrokerKey {
    /// Reads a value of this key, multiplied with its scale.
    ///
    /// # Errors
    /// As [`TopicKey::parse`].
    pub fn parse(&self, text: &str) -> Result<Value, Refused> {
        parse(self.name, (self.kind, self.allowed, self.scale), text)
    }

    /// What values are right, for help and messages.
    pub fn expected(&self) -> String {
        value::expected(self.kind, self.allowed)
    }
}

fn parse(name: &str, how: (Kind, Allowed, i64), text: &str) -> Result<Value, Refused> {
    if text.len() > VALUE_BYTES_MAX {
        let text = format!(
            "Invalid value for configuration {name}: it has {} bytes, {VALUE_BYTES_MAX} are \
             allowed",
            text.len()
        );
        return Err((ErrorCode::InvalidConfig, text));
    }
    let (kind, allowed, scale) = how;
    value::parse(kind, allowed, scale, text).ok_or_else(|| {
        let shown: String = text.chars().take(80).collect();
        let expected = value::expected(kind, allowed);
        let unit = match scale {
            1 => "",
            60_000 => " (minutes; limits are in milliseconds)",
            _ => " (hours; limits are in milliseconds)",
        };
        let text =
            format!("Invalid value {shown} for configuration {name}: expected {expected}{unit}");
        (ErrorCode::InvalidConfig, text)
    })
}

/// The topic key with this name.
///
/// # Errors
/// INVALID_CONFIG with the nearest name.
pub fn topic_key(name: &str) -> Result<&'static TopicKey, Refused> {
    let found = TOPIC_KEYS.iter().find(|k| k.name == name);
    found.ok_or_else(|| unknown("topic", name, TOPIC_KEYS.iter().map(|k| k.name)))
}

/// The broker key with this name.
///
/// # Errors
/// INVALID_CONFIG with the nearest name, or with the option that says the same here.
pub fn broker_key(name: &str) -> Result<BrokerKey, Refused> {
    if let Some(key) = BROKER_KEYS.iter().find(|k| k.name == name) {
        return Ok(*key);
    }
    for key in TOPIC_KEYS {
        if let Some(at) = key.synonyms.iter().position(|s| s.name == name) {
            return Ok(synonym_key(key, at));
        }
    }
    if let Some(instead) = elsewhere(name) {
        let text = format!("{name} is not set this way: {instead}");
        return Err((ErrorCode::InvalidConfig, text));
    }
    Err(unknown("broker", name, broker_key_names()))
}

/// The names of all broker keys.
pub fn broker_key_names() -> impl Iterator<Item = &'static str> {
    let synonyms = TOPIC_KEYS
        .iter()
        .flat_map(|k| k.synonyms.iter().map(|s| s.name));
    BROKER_KEYS.iter().map(|k| k.name).chain(synonyms)
}

/// What to use instead of one of Kafka's keys that are options of their own here.
pub fn elsewhere(name: &str) -> Option<&'static str> {
    ELSEWHERE.iter().find(|e| e.0 == name).map(|e| e.1)
}

fn synonym_key(key: &TopicKey, at: usize) -> BrokerKey {
    let Synonym { name, scale } = key.synonyms[at];
    let last = at + 1 == key.synonyms.len();
    let default = match scale {
        1 => key.default,
        _ if key.default == "0" => "0",
        _ => "168",
    };
    BrokerKey {
        name,
        kind: if scale == 1 { key.kind } else { Kind::Int },
        default: last.then_some(default),
        allowed: key.allowed,
        scale,
        dynamic: scale == 1,
        effect: key.effect,
        doc: key.doc,
    }
}

fn unknown(of: &str, name: &str, known: impl Iterator<Item = &'static str>) -> Refused {
    let shown: String = name.chars().take(80).collect();
    let hint = match nearest(name, known) {
        Some(near) => format!(". Did you mean {near}?"),
        None => String::new(),
    };
    (
        ErrorCode::InvalidConfig,
        format!("Unknown {of} config name: {shown}{hint}"),
    )
}

const MAX: &str = "9223372036854775807";
const HOUR: i64 = 3_600_000;
const POLICIES: Allowed = Allowed::OneOf(&["compact", "delete"]);
const CODECS: Allowed = Allowed::OneOf(&[
    "producer",
    "uncompressed",
    "none",
    "gzip",
    "snappy",
    "lz4",
    "zstd",
]);
const SELECTORS: Allowed = Allowed::OneOf(&[
    "",
    "org.apache.kafka.common.replica.LeaderSelector",
    "org.apache.kafka.common.replica.RackAwareReplicaSelector",
]);
const BOOL: (Kind, Allowed) = (Kind::Boolean, Allowed::Any);
const LONG: Kind = Kind::Long;
const INT: Kind = Kind::Int;

const NOT_RECODED: Effect =
    Effect::None("batches are stored exactly as the producer compressed them");
const NO_TIMED_FLUSH: Effect =
    Effect::None("what is acknowledged is on stable storage already (see log.flush)");
const NO_TIERS: Effect = Effect::None("there is no remote storage");
const RECYCLED: Effect = Effect::None("segments are laid out ahead of writing in any case");

macro_rules! topic_keys {
    ($($name:literal, $how:expr, $default:expr, [$($synonym:literal $(* $scale:expr)?),*],
       $effect:expr, $doc:literal;)*) => {
        /// All settings of topics, by name.
        pub const TOPIC_KEYS: &[TopicKey] = &[$(TopicKey {
            name: $name,
            kind: $how.0,
            default: $default,
            allowed: $how.1,
            synonyms: &[$(Synonym { name: $synonym, scale: 1 $(* $scale)? }),*],
            effect: $effect,
            doc: $doc,
        }),*];
    };
}

topic_keys! {
    "cleanup.policy", (Kind::List, POLICIES), "delete", ["log.cleanup.policy"], Effect::Honoured,
    "What happens to old segments: delete removes them by retention, compact keeps the last \
     record of each key, and both together do both.";
    "compression.gzip.level", (INT, Allowed::MinusOneOr(1, 9)), "-1", ["compression.gzip.level"],
    NOT_RECODED, "The level of gzip when the broker compresses.";
    "compression.lz4.level", (INT, Allowed::Between(1, 17)), "9", ["compression.lz4.level"],
    NOT_RECODED, "The level of lz4 when the broker compresses.";
    "compression.type", (Kind::String, CODECS), "producer", ["compression.type"],
    NOT_RECODED, "The codec of stored batches; producer means: as the producer sent them.";
    "compression.zstd.level", (INT, Allowed::Between(-131_072, 22)), "3",
    ["compression.zstd.level"], NOT_RECODED, "The level of zstd when the broker compresses.";
    "delete.retention.ms", (LONG, Allowed::AtLeast(0)), "86400000",
    ["log.cleaner.delete.retention.ms"], Effect::Honoured,
    "How long a compacted topic keeps tombstones, in milliseconds.";
    "file.delete.delay.ms", (LONG, Allowed::AtLeast(0)), "60000", ["log.segment.delete.delay.ms"],
    Effect::None("a reader keeps its segment alive by itself"),
    "How long a deleted segment's file stays, in milliseconds.";
    "flush.messages", (LONG, Allowed::AtLeast(1)), MAX, ["log.flush.interval.messages"],
    NO_TIMED_FLUSH, "After how many records a sync is forced.";
    "flush.ms", (LONG, Allowed::AtLeast(0)), MAX,
    ["log.flush.interval.ms", "log.flush.scheduler.interval.ms"],
    NO_TIMED_FLUSH, "After how many milliseconds a sync is forced.";
    "follower.replication.throttled.replicas", (Kind::List, Allowed::Replicas), "", [],
    Effect::Honoured, "Replicas whose replication is throttled on the follower's side.";
    "index.interval.bytes", (INT, Allowed::AtLeast(0)), "4096", ["log.index.interval.bytes"],
    Effect::Honoured, "How many bytes of the log lie between two entries of the offset index.";
    "leader.replication.throttled.replicas", (Kind::List, Allowed::Replicas), "", [],
    Effect::Honoured, "Replicas whose replication is throttled on the leader's side.";
    "local.retention.bytes", (LONG, Allowed::AtLeast(-2)), "-2", ["log.local.retention.bytes"],
    NO_TIERS, "How many bytes stay local when segments are tiered; -2 means retention.bytes.";
    "local.retention.ms", (LONG, Allowed::AtLeast(-2)), "-2", ["log.local.retention.ms"],
    NO_TIERS, "How long segments stay local when they are tiered; -2 means retention.ms.";
    "max.compaction.lag.ms", (LONG, Allowed::AtLeast(1)), MAX,
    ["log.cleaner.max.compaction.lag.ms"], Effect::Honoured,
    "The longest time that a record may stay uncompacted, in milliseconds.";
    "max.message.bytes", (INT, Allowed::AtLeast(0)), "1048588", ["message.max.bytes"],
    Effect::Honoured, "The largest record batch that is taken, in bytes, after compression.";
    "message.timestamp.after.max.ms", (LONG, Allowed::AtLeast(0)), "3600000",
    ["log.message.timestamp.after.max.ms"], Effect::Honoured,
    "How far a record's time may lie ahead of the broker's, in milliseconds.";
    "message.timestamp.before.max.ms", (LONG, Allowed::AtLeast(0)), MAX,
    ["log.message.timestamp.before.max.ms"], Effect::Honoured,
    "How far a record's time may lie behind the broker's, in milliseconds.";
    "message.timestamp.type",
    (Kind::String, Allowed::OneOf(&["CreateTime", "LogAppendTime"])), "CreateTime",
    ["log.message.timestamp.type"], Effect::Honoured,
    "Whose time a record carries: the producer's (CreateTime) or the broker's (LogAppendTime).";
    "min.cleanable.dirty.ratio", (Kind::Double, Allowed::Between(0, 1)), "0.5",
    ["log.cleaner.min.cleanable.ratio"], Effect::Honoured,
    "Which part of the log must be uncompacted before it is compacted.";
    "min.compaction.lag.ms", (LONG, Allowed::AtLeast(0)), "0",
    ["log.cleaner.min.compaction.lag.ms"], Effect::Honoured,
    "How long a record stays uncompacted at least, in milliseconds.";
    "min.insync.replicas", (INT, Allowed::AtLeast(1)), "2", ["min.insync.replicas"],
    Effect::Honoured, "How many replicas must have a record before acks=all is answered; all of \
     them where there are fewer.";
    "preallocate", BOOL, "false", ["log.preallocate"], RECYCLED,
    "Whether a segment's file gets its full size when it is made.";
    "remote.log.copy.disable", BOOL, "false", [], NO_TIERS,
    "Whether tiered data is read-only.";
    "remote.log.delete.on.disable", BOOL, "false", [], NO_TIERS,
    "Whether tiered data is deleted when tiering ends.";
    "remote.storage.enable", (Kind::Boolean, Allowed::Any), "false", [], NO_TIERS,
    "Whether segments are tiered to remote storage.";
    "retention.bytes", (LONG, Allowed::AtLeast(-1)), "-1", ["log.retention.bytes"],
    Effect::Honoured, "How large a partition may grow before its oldest segments go; -1 is no \
     limit.";
    "retention.ms", (LONG, Allowed::AtLeast(-1)), "604800000",
    ["log.retention.ms", "log.retention.minutes" * 60_000, "log.retention.hours" * HOUR],
    Effect::Honoured, "How long records are kept, in milliseconds; -1 is for ever.";
    "retention.on.full",
    (Kind::String, Allowed::OneOf(&["delete-oldest", "refuse"])), "delete-oldest",
    ["log.retention.on.full"], Effect::Honoured,
    "What happens when the disk is nearly full (disk.free.high.bytes): delete-oldest deletes \
     oldest closed segments, whatever their age, if cleanup.policy has delete; refuse keeps them, \
     so that producers are refused. (streamd's own.)";
    "segment.bytes", (INT, Allowed::AtLeast(1_048_576)), "1073741824", ["log.segment.bytes"],
    Effect::Honoured, "The size at which a new segment begins, in bytes.";
    "segment.index.bytes", (INT, Allowed::AtLeast(4)), "10485760", ["log.index.size.max.bytes"],
    Effect::Honoured, "The largest size of an index file, in bytes: then a new segment begins.";
    "segment.jitter.ms", (LONG, Allowed::AtLeast(0)), "0",
    ["log.roll.jitter.ms", "log.roll.jitter.hours" * HOUR],
    Effect::Honoured,
    "A random time that is taken off segment.ms, in milliseconds.";
    "segment.ms", (LONG, Allowed::AtLeast(1)), "604800000",
    ["log.roll.ms", "log.roll.hours" * HOUR], Effect::Honoured,
    "The age at which a new segment begins, in milliseconds: from the time of a segment's first \
     batch to that of the one to append, as in Kafka.";
    "unclean.leader.election.enable", BOOL, "false", ["unclean.leader.election.enable"],
    Effect::Honoured, "Whether a replica that is not in sync may become leader when none that is \
     in sync is there: acknowledged records may be lost.";
}

macro_rules! broker_keys {
    ($(
        $name:literal, $how:expr, $default:literal, $dynamic:literal, $effect:expr, $doc:literal;
    )*) => {
        /// The settings of brokers that are not the default of a topic's.
        pub const BROKER_KEYS: &[BrokerKey] = &[$(BrokerKey {
            name: $name,
            kind: $how.0,
            default: Some($default),
            allowed: $how.1,
            scale: 1,
            dynamic: $dynamic,
            effect: $effect,
            doc: $doc,
        }),*];
    };
}

const FROM_1: Allowed = Allowed::AtLeast(1);
const FROM_0: Allowed = Allowed::AtLeast(0);
const BY_CORES: Effect = Effect::None("one thread per core does everything: see --cores");

broker_keys! {
    "auto.create.topics.enable", BOOL, "true", false, Effect::Honoured,
    "Whether a topic is created when a client asks for its metadata.";
    "auto.replica.rebalance.enable", BOOL, "true", true, Effect::Honoured,
    "Whether a broker with much less load than the others, such as a new one, gets some of their \
     partitions. (streamd's own.)";
    "broker.drain", BOOL, "false", true, Effect::Honoured,
    "Set on one broker: its partitions move to the others, and it gets no new ones. (streamd's \
     own.)";
    "connections.max.idle.ms", (LONG, Allowed::AtLeast(-1)), "600000", false, Effect::Honoured,
    "After how many idle milliseconds a connection is closed; -1 is never.";
    "default.replication.factor", (INT, Allowed::Between(-1, 64)), "-1", false, Effect::Honoured,
    "The replication factor of topics that do not name one; -1 is 3, or as many brokers as there \
     are.";
    "delete.topic.enable", BOOL, "true", false, Effect::Honoured,
    "Whether topics can be deleted.";
    "disk.free.high.bytes", (LONG, Allowed::AtLeast(-1)), "-1", true, Effect::Honoured,
    "Below so many free bytes of the data directory's file system oldest closed segments are \
     deleted, of topics with retention.on.full=delete-oldest; then producers are throttled. -1 is \
     3% of the file system above disk.free.low.bytes, at least 64 MiB. (streamd's own.)";
    "disk.free.low.bytes", (LONG, Allowed::AtLeast(-1)), "-1", true, Effect::Honoured,
    "Below so many free bytes producers are refused until there is room; what is left is for \
     committed offsets, metadata and what the journals hold. -1 is 1% of the file system, at least \
     160 MiB a core, at most 2 GiB or a quarter of it. (streamd's own.)";
    "fetch.max.bytes", (INT, Allowed::AtLeast(1024)), "57671680", false, Effect::Honoured,
    "The largest answer to one fetch, in bytes; a first batch that is larger still goes out.";
    "leader.replication.throttled.rate", (LONG, FROM_0), "9223372036854775807", true,
    Effect::Honoured,
    "How fast throttled replicas that are not in sync are copied from leaders here, in bytes a \
     second, all cores together.";
    "replica.alter.log.dirs.io.max.bytes.per.second", (LONG, FROM_0), "9223372036854775807", true,
    Effect::None("there is one directory"),
    "How fast replicas are moved between directories, in bytes a second.";
    "replica.catch.up.bytes.per.second", (LONG, FROM_0), "268435456", true, Effect::Honoured,
    "How fast replicas that are not in sync are copied from leaders here, throttled or not, in \
     bytes a second, all cores together; to get in sync they need more than producers write. \
     (streamd's own.)";
    "replica.selector.class", (Kind::String, SELECTORS), "", false, Effect::Honoured,
    "Who serves consumers that name their rack (client.rack): the leader, or with \
     org.apache.kafka.common.replica.RackAwareReplicaSelector a replica in sync in that rack.";
    "log.flush", (Kind::String, Allowed::OneOf(&["durable", "written"])), "durable", false,
    Effect::Honoured, "When records are acknowledged: durable is on stable storage, written is \
     when the operating system has them, so that a power cut can lose them. (streamd's own.)";
    "log.retention.check.interval.ms", (LONG, FROM_1), "300000", false, Effect::Honoured,
    "How often old segments are looked for, in milliseconds.";
    "log.scrub.bytes.per.second", (LONG, FROM_0), "2097152", true, Effect::Honoured,
    "How fast closed segments are read in the background, again and again, to find damage, in \
     bytes a second of all cores; 0 is not at all. (streamd's own.)";
    "max.connections", (INT, FROM_0), "2147483647", true, Effect::Honoured,
    "How many connections are open at most.";
    "max.incremental.fetch.session.cache.slots", (INT, FROM_0), "1000", false, Effect::Honoured,
    "How many fetch sessions are kept.";
    "num.partitions", (INT, FROM_1), "1", false, Effect::Honoured,
    "The number of partitions of topics that do not name one.";
    "producer.id.expiration.ms", (INT, FROM_1), "86400000", true, Effect::Honoured,
    "How long a partition remembers an idle idempotent producer, in milliseconds.";
    "queued.max.request.bytes", (LONG, Allowed::AtLeast(-1)), "-1", false, Effect::Honoured,
    "How many bytes of requests are held at once; -1 takes a part of --memory.";
    "socket.send.buffer.bytes", (INT, Allowed::AtLeast(-1)), "102400", false, Effect::Honoured,
    "The send buffer of sockets, in bytes; -1 leaves it to the system.";
    "socket.request.max.bytes", (INT, FROM_1), "104857600", false, Effect::Honoured,
    "The largest request that is taken, in bytes.";
    "background.threads", (INT, FROM_1), "10", false, BY_CORES,
    "Threads for background work.";
    "log.cleaner.backoff.ms", (LONG, FROM_0), "15000", false, Effect::Honoured,
    "How long the compactor rests when no log has enough to compact, in milliseconds.";
    "log.cleaner.dedupe.buffer.size", (LONG, FROM_1), "134217728", false, Effect::Honoured,
    "Memory for the keys of the logs that are being compacted, in bytes, all cores together.";
    "log.cleaner.enable", BOOL, "true", false, Effect::Honoured, "Whether the compactor runs.";
    "log.cleaner.io.max.bytes.per.second", (Kind::Double, FROM_1), "67108864", false,
    Effect::Honoured, "How many bytes a second compaction reads and writes at most, all cores \
     together. (Kafka sets no limit unless told to.)";
    "num.io.threads", (INT, FROM_1), "8", false, BY_CORES, "Threads that process requests.";
    "num.network.threads", (INT, FROM_1), "3", false, BY_CORES, "Threads that serve sockets.";
    "num.recovery.threads.per.data.dir", (INT, FROM_1), "2", false, BY_CORES,
    "Threads for recovery at start.";
    "queued.max.requests", (INT, FROM_1), "500", false,
    Effect::None("bytes are limited, not requests: see queued.max.request.bytes"),
    "How many requests may wait.";
    "socket.receive.buffer.bytes", (INT, Allowed::AtLeast(-1)), "102400", false,
    Effect::None("the kernel sizes socket buffers"), "The receive buffer of sockets, in bytes.";
    "follower.replication.throttled.rate", (LONG, FROM_0), "9223372036854775807", true,
    Effect::Honoured, "How fast throttled replicas here that are not in sync are copied, in \
     bytes a second, all cores together.";
    "group.consumer.assignors", (Kind::List, Allowed::OneOf(&["range", "uniform"])),
    "uniform,range", false, Effect::Honoured,
    "The assignors of the consumer protocol; the first serves groups that ask for none.";
    "group.consumer.heartbeat.interval.ms", (INT, FROM_1), "5000", false, Effect::Honoured,
    "How often members of the consumer protocol are to be heard of, in milliseconds.";
    "group.consumer.max.heartbeat.interval.ms", (INT, FROM_1), "15000", false, Effect::Honoured,
    "The longest heartbeat interval that a group may set, in milliseconds.";
    "group.consumer.max.session.timeout.ms", (INT, FROM_1), "60000", false, Effect::Honoured,
    "The longest session timeout that a group of the consumer protocol may set, in milliseconds.";
    "group.consumer.max.size", (INT, FROM_1), "2147483647", false, Effect::Honoured,
    "How many members a group of the consumer protocol may have.";
    "group.consumer.migration.policy",
    (Kind::String, Allowed::OneOf(&["bidirectional", "disabled", "downgrade", "upgrade"])),
    "bidirectional", false, Effect::Honoured,
    "Which way live groups may move between the classic and the consumer protocol.";
    "group.consumer.min.heartbeat.interval.ms", (INT, FROM_1), "5000", false, Effect::Honoured,
    "The shortest heartbeat interval that a group may set, in milliseconds.";
    "group.consumer.min.session.timeout.ms", (INT, FROM_1), "45000", false, Effect::Honoured,
    "The shortest session timeout that a group of the consumer protocol may set, in milliseconds.";
    "group.consumer.session.timeout.ms", (INT, FROM_1), "45000", false, Effect::Honoured,
    "How long members of the consumer protocol may be silent, in milliseconds.";
    "group.coordinator.rebalance.protocols",
    (Kind::List, Allowed::OneOf(&["classic", "consumer", "share", "streams"])),
    "classic,consumer,share", false, Effect::Honoured,
    "The protocols that groups may use.";
    "group.initial.rebalance.delay.ms", (INT, FROM_0), "3000", false, Effect::Honoured,
    "How long the first rebalance of a group waits for more members, in milliseconds.";
    "group.max.session.timeout.ms", (INT, FROM_1), "1800000", false, Effect::Honoured,
    "The longest session timeout that a group's member may ask for, in milliseconds.";
    "group.max.size", (INT, FROM_1), "2147483647", false, Effect::Honoured,
    "How many members a group may have.";
    "group.min.session.timeout.ms", (INT, FROM_1), "6000", false, Effect::Honoured,
    "The shortest session timeout that a group's member may ask for, in milliseconds.";
    "group.share.delivery.count.limit", (INT, Allowed::Between(2, 10_000)), "5", false,
    Effect::Honoured, "How often a record is delivered to a share group at most.";
    "group.share.heartbeat.interval.ms", (INT, FROM_1), "5000", false, Effect::Honoured,
    "How often members of share groups are to be heard of, in milliseconds.";
    "group.share.max.delivery.count.limit", (INT, Allowed::Between(2, 10_000)), "10", false,
    Effect::Honoured, "The largest limit of deliveries that a group may set.";
    "group.share.max.heartbeat.interval.ms", (INT, FROM_1), "15000", false, Effect::Honoured,
    "The longest heartbeat interval that a share group may set, in milliseconds.";
    "group.share.max.partition.max.record.locks", (INT, FROM_1), "4000", false, Effect::Honoured,
    "The largest number of records under way in a partition that a group may set.";
    "group.share.max.record.lock.duration.ms", (INT, FROM_1), "60000", false, Effect::Honoured,
    "The longest lock of a record that a group may set, in milliseconds.";
    "group.share.max.session.timeout.ms", (INT, FROM_1), "60000", false, Effect::Honoured,
    "The longest session timeout that a share group may set, in milliseconds.";
    "group.share.max.share.sessions", (INT, FROM_1), "2000", false, Effect::Honoured,
    "How many share sessions a core keeps.";
    "group.share.max.size", (INT, FROM_1), "200", false, Effect::Honoured,
    "How many members a share group may have.";
    "group.share.min.delivery.count.limit", (INT, Allowed::Between(1, 10_000)), "2", false,
    Effect::Honoured, "The smallest limit of deliveries that a group may set.";
    "group.share.min.heartbeat.interval.ms", (INT, FROM_1), "5000", false, Effect::Honoured,
    "The shortest heartbeat interval that a share group may set, in milliseconds.";
    "group.share.min.partition.max.record.locks", (INT, FROM_1), "100", false, Effect::Honoured,
    "The smallest number of records under way in a partition that a group may set.";
    "group.share.min.record.lock.duration.ms", (INT, FROM_1), "15000", false, Effect::Honoured,
    "The shortest lock of a record that a group may set, in milliseconds.";
    "group.share.min.session.timeout.ms", (INT, FROM_1), "45000", false, Effect::Honoured,
    "The shortest session timeout that a share group may set, in milliseconds.";
    "group.share.partition.max.record.locks", (INT, FROM_1), "2000", false, Effect::Honoured,
    "How many records of a partition may be under way in a share group.";
    "group.share.record.lock.duration.ms", (INT, FROM_1), "30000", false, Effect::Honoured,
    "How long a record is locked for the member that got it, in milliseconds.";
    "group.share.session.timeout.ms", (INT, FROM_1), "45000", false, Effect::Honoured,
    "How long members of share groups may be silent, in milliseconds.";
    "offset.metadata.max.bytes", (INT, FROM_0), "4096", false, Effect::Honoured,
    "The longest text that may be committed beside an offset.";
    "offsets.retention.check.interval.ms", (LONG, FROM_1), "600000", false, Effect::Honoured,
    "How often offsets are looked for whose retention is over, in milliseconds.";
    "offsets.retention.minutes", (INT, FROM_1), "10080", false, Effect::Honoured,
    "How long committed offsets outlive their group, in minutes.";
    "offsets.topic.num.partitions", (INT, FROM_1), "50", false, Effect::Honoured,
    "Partitions of __consumer_offsets; counts when the first group makes the topic.";
    "offsets.topic.segment.bytes", (INT, Allowed::AtLeast(1_048_576)), "104857600", false,
    Effect::Honoured, "The size of the segments of __consumer_offsets, in bytes.";
    "offsets.topic.replication.factor", (INT, FROM_1), "3", false, Effect::Honoured,
    "The replication factor of __consumer_offsets, or as many brokers as there are.";
    "share.coordinator.snapshot.update.records.per.snapshot", (INT, FROM_0), "500", false,
    Effect::Honoured, "How many updates of a share-partition are written between two snapshots.";
    "share.coordinator.state.topic.num.partitions", (INT, FROM_1), "50", false, Effect::Honoured,
    "Partitions of __share_group_state; counts when the first share group makes the topic.";
    "share.coordinator.state.topic.replication.factor", (INT, FROM_1), "3", false, Effect::Honoured,
    "The replication factor of __share_group_state, or as many brokers as there are.";
    "share.coordinator.state.topic.segment.bytes", (INT, Allowed::AtLeast(1_048_576)),
    "104857600", false, Effect::Honoured,
    "The size of the segments of __share_group_state, in bytes.";
    "transaction.max.timeout.ms", (INT, FROM_1), "900000", false, Effect::Honoured,
    "The longest timeout that a transactional producer may ask for, in milliseconds.";
    "transaction.remove.expired.transaction.cleanup.interval.ms", (INT, FROM_1), "3600000", false,
    Effect::Honoured, "How often idle transactional ids are looked for, in milliseconds.";
    "transaction.state.log.num.partitions", (INT, FROM_1), "50", false, Effect::Honoured,
    "Partitions of __transaction_state; counts when the first transaction makes the topic.";
    "transaction.state.log.segment.bytes", (INT, Allowed::AtLeast(1_048_576)), "104857600", false,
    Effect::Honoured, "The size of the segments of __transaction_state, in bytes.";
    "transactional.id.expiration.ms", (INT, FROM_1), "604800000", false, Effect::Honoured,
    "How long an idle transactional id is kept, in milliseconds.";
    "transaction.state.log.min.isr", (INT, FROM_1), "2", false, Effect::Honoured,
    "min.insync.replicas of __transaction_state.";
    "transaction.state.log.replication.factor", (INT, FROM_1), "3", false, Effect::Honoured,
    "The replication factor of __transaction_state, or as many brokers as there are.";
}

const ELSEWHERE: &[(&str, &str)] = &[
    (
        "advertised.listeners",
        "use --advertise HOST:PORT, or advertise in the file",
    ),
    ("broker.id", "use --node-id N, or node-id in the file"),
    ("broker.rack", "use --rack NAME, or rack in the file"),
    (
        "controller.listener.names",
        "there is no separate controller",
    ),
    (
        "controller.quorum.bootstrap.servers",
        "there is no separate controller",
    ),
    (
        "controller.quorum.voters",
        "there is no separate controller",
    ),
    ("listeners", "use --listen HOST:PORT, or listen in the file"),
    ("log.dir", "use --data-dir DIR, or data-dir in the file"),
    ("log.dirs", "use --data-dir DIR, or data-dir in the file"),
    ("node.id", "use --node-id N, or node-id in the file"),
    ("process.roles", "a node does everything"),
    ("zookeeper.connect", "there is no ZooKeeper"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_a_value_that_is_allowed() {
        for key in TOPIC_KEYS {
            assert!(key.parse(key.default).is_ok(), "{}", key.name);
        }
        for name in broker_key_names() {
            let key = broker_key(name).unwrap();
            if let Some(default) = key.default {
                assert!(key.parse(default).is_ok(), "{name}");
            }
        }
    }

    #[test]
    fn the_last_synonym_has_the_default_of_the_topic_key() {
        for key in TOPIC_KEYS {
            if let Some(last) = key.synonyms.last() {
                let broker = broker_key(last.name).unwrap();
                let default = broker.parse(broker.default.unwrap()).unwrap();
                assert_eq!(default, key.parse(key.default).unwrap(), "{}", key.name);
            }
        }
    }

    #[test]
    fn names_are_unique_and_sorted() {
        assert!(TOPIC_KEYS.is_sorted_by(|a, b| a.name < b.name));
        let mut names: Vec<_> = broker_key_names().collect();
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn messages_say_what_was_read_and_what_is_allowed() {
        let (code, text) = topic_key("retention.ms").unwrap().parse("7d").unwrap_err();
        assert_eq!(code, ErrorCode::InvalidConfig);
        assert_eq!(
            text,
            "Invalid value 7d for configuration retention.ms: expected a whole number of 64 \
             bits, at least -1"
        );
        let (_, text) = topic_key("retension.ms").unwrap_err();
        assert_eq!(
            text,
            "Unknown topic config name: retension.ms. Did you mean retention.ms?"
        );
        let (_, text) = broker_key("log.dirs").unwrap_err();
        assert!(text.contains("--data-dir"), "{text}");
        let (_, text) = broker_key("log.roll.hours")
            .unwrap()
            .parse("0")
            .unwrap_err();
        assert!(
            text.contains("log.roll.hours") && text.contains("hours"),
            "{text}"
        );
        let long = "x".repeat(VALUE_BYTES_MAX + 1);
        let (_, text) = topic_key("compression.type")
            .unwrap()
            .parse(&long)
            .unwrap_err();
        assert!(text.len() < 200, "{text}");
    }
}
