//! Dead letters: a record that a share group gives up goes to the group's dead-letter topic, with
//! headers that say where it was and why it is there, under the names that Kafka gives them
//! (KIP-1191).
//!
//! It is archived when it is there; a crash before that has it written again. If it cannot be
//! written after some tries it is archived all the same, as in Kafka, so that nothing waits for a
//! topic that nobody makes.

use std::rc::{Rc, Weak};
use std::time::Duration;

use streamd_core::machine::Token;
use streamd_core::meta::validate::{NewTopic, create_topic};
use streamd_core::repl::Acks;
use streamd_core::share::{Ask, Bury, Cause, Coordinator, Request};
use streamd_log::batch::{NewHeader, NewRecord, Writer, build_headed};
use streamd_log::record_view::BatchView;
use streamd_log::validate::Facts;
use streamd_log::{BatchHeader, NewBatch};
use streamd_model::{ErrorCode, Offset, PartitionId, TopicId};

use crate::append::AppendItem;
use crate::partition::Partition;
use crate::read::ReadItem;
use crate::shard::Shard;
use crate::{Refusal, mesh};

/// How often it is tried.
const TRIES: u32 = 5;
/// How long before the second try; twice as long before each further one.
const REST: Duration = Duration::from_millis(200);
/// The most that is read to find one record, bytes.
const READ_BYTES: usize = 1 << 20;
/// The most that a batch may inflate to, bytes.
const INFLATED_MAX: u64 = 64 << 20;

/// A record as it was.
#[derive(Default)]
struct Letter {
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Vec<u8>)>,
}

/// Writes records to the dead-letter topic, and tells the coordinator.
pub(crate) async fn bury(shard: Weak<Shard>, partition: Weak<Partition>, order: Bury) {
    for offset in order.first..=order.last {
        let Some(shard) = shard.upgrade() else {
            return;
        };
        if let Err(refusal) = try_often(&shard, &order, offset).await {
            eprintln!(
                "warning: offset {offset} of partition {} of topic {}, which group {} gave up, is \
                 not in the dead-letter topic: {refusal}",
                order.key.partition, order.key.topic, order.key.group
            );
        }
        let Some(partition) = partition.upgrade() else {
            return;
        };
        if let Some(host) = partition.hosted::<Coordinator>() {
            let request = Request {
                key: order.key.clone(),
                ask: Ask::Buried(offset, offset),
            };
            // Nobody waits for the answer.
            host.step(|c, now| {
                use streamd_core::machine::Machine;
                c.handle(now, "", Token(u64::MAX), request)
            });
        }
    }
}

async fn try_often(shard: &Rc<Shard>, order: &Bury, offset: Offset) -> Result<(), Refusal> {
    let mut rest = REST;
    for _ in 1..TRIES {
        match write(shard, order, offset).await {
            Err(r) if r.code != ErrorCode::InvalidTopicException => {}
            done => return done,
        }
        shard.env.sleep(rest).await;
        rest *= 2;
    }
    write(shard, order, offset).await
}

async fn write(shard: &Rc<Shard>, order: &Bury, offset: Offset) -> Result<(), Refusal> {
    let image = shard.image();
    let own = image.group_configs(&order.key.group);
    let queue = image.broker().groups.share.queue_of(own);
    let Some(name) = queue.dead_topic else {
        return Ok(());
    };
    let to = target(shard, &name, order.key.partition).await?;
    let letter = match queue.dead_copy {
        true => fetch(shard, order, offset).await?.unwrap_or_default(),
        false => Letter::default(),
    };
    let topic = image.topic_by_id(order.key.topic);
    let topic = topic.map_or_else(|| order.key.topic.to_string(), |t| t.name.clone());
    let batch = batch(shard, order, (offset, &topic), letter)?;
    let item = AppendItem {
        partition: to,
        batch,
        guard: None,
        acks: Acks::All,
    };
    match shard
        .ask_leader(to, mesh::Request::Append(vec![item]))
        .await
    {
        Some(mesh::Reply::Append(mut done)) => match done.pop() {
            Some(placed) => placed.map(drop),
            None => Err(gone()),
        },
        _ => Err(gone()),
    }
}

fn gone() -> Refusal {
    Refusal::new(
        ErrorCode::NotLeaderOrFollower,
        "the owning core has stopped",
    )
}

/// The partition of the dead-letter topic; the topic is made if it is not there.
async fn target(shard: &Rc<Shard>, name: &str, from: i32) -> Result<PartitionId, Refusal> {
    if name.starts_with("__") {
        let text = format!("{name} cannot be a dead-letter topic: it begins with __");
        return Err(Refusal::new(ErrorCode::InvalidTopicException, text));
    }
    let mut image = shard.image();
    if image.topic(name).is_none() {
        if !image.broker().auto_create_topics {
            let text = format!("{name} does not exist, and auto.create.topics.enable is false");
            return Err(Refusal::new(ErrorCode::UnknownTopicOrPartition, text));
        }
        let env = &shard.env;
        let wanted = NewTopic {
            name,
            id: TopicId::from_random(env.random_u64(), env.random_u64()),
            partitions: -1,
            replication: -1,
            assignments: &[],
            configs: &[],
            now_ms: env.wall_ms(),
        };
        let wanted =
            create_topic(&image, &wanted).map_err(|(code, text)| Refusal::new(code, text))?;
        image = shard.want(wanted).await?;
    }
    let topic = image.topic(name).ok_or_else(|| {
        Refusal::new(
            ErrorCode::UnknownTopicOrPartition,
            format!("{name} does not exist"),
        )
    })?;
    Ok(PartitionId {
        topic: topic.id,
        index: from.rem_euclid(topic.partitions.max(1)),
    })
}

/// The record; none if it is not there any more.
async fn fetch(shard: &Rc<Shard>, order: &Bury, offset: Offset) -> Result<Option<Letter>, Refusal> {
    let partition = PartitionId {
        topic: order.key.topic,
        index: order.key.partition,
    };
    let item = ReadItem {
        partition,
        offset,
        bytes_max: READ_BYTES,
        leader_epoch: -1,
        last_fetched_epoch: -1,
        committed: false,
        follower_too: false,
    };
    let request = mesh::Request::ReadBytes(vec![item]);
    let read = match shard.ask_leader(partition, request).await {
        Some(mesh::Reply::ReadBytes(mut done)) => done.pop().ok_or_else(gone)?,
        _ => return Err(gone()),
    };
    let bytes = match read.bytes {
        Ok(bytes) => bytes,
        Err(r)
            if matches!(
                r.code,
                ErrorCode::OffsetOutOfRange | ErrorCode::UnknownTopicOrPartition
            ) =>
        {
            return Ok(None);
        }
        Err(refusal) => return Err(refusal),
    };
    let mut rest = &bytes[..];
    while let Ok(header) = BatchHeader::parse(rest) {
        let Some((batch, after)) = rest.split_at_checked(header.size) else {
            break;
        };
        rest = after;
        if header.next_offset() <= offset {
            continue;
        }
        let view = BatchView::new(batch, INFLATED_MAX)?;
        let mut records = view.records().filter_map(Result::ok);
        let found = records.find(|r| r.offset == offset);
        return Ok(found.map(|r| Letter {
            key: r.key.map(<[u8]>::to_vec),
            value: r.value.map(<[u8]>::to_vec),
            headers: r
                .headers()
                .map(|(k, v)| {
                    let key = String::from_utf8_lossy(k).into_owned();
                    (key, v.unwrap_or_default().to_vec())
                })
                .collect(),
        }));
    }
    Ok(None)
}

/// The record as it goes into the dead-letter topic.
fn batch(
    shard: &Shard,
    order: &Bury,
    (offset, topic): (Offset, &str),
    letter: Letter,
) -> Result<NewBatch, Refusal> {
    let now_ms = shard.env.wall_ms();
    let cause = match order.cause {
        Cause::TooOften => "The delivery count limit was reached.",
        Cause::Rejected => "The record was rejected by a member.",
    };
    let texts = [
        ("__dlq.errors.topic", topic.to_owned()),
        ("__dlq.errors.partition", order.key.partition.to_string()),
        ("__dlq.errors.offset", offset.to_string()),
        ("__dlq.errors.group", order.key.group.to_string()),
        ("__dlq.errors.delivery.count", order.count.to_string()),
        ("__dlq.errors.message", cause.to_owned()),
    ];
    let own = letter.headers.iter().map(|(k, v)| (k.as_str(), &v[..]));
    let more = texts.iter().map(|(k, v)| (*k, v.as_bytes()));
    let headers: Vec<NewHeader<'_>> = own.chain(more).collect();
    let record = NewRecord {
        timestamp: now_ms,
        key: letter.key.as_deref(),
        value: letter.value.as_deref(),
    };
    let bytes = build_headed(&[record], &[headers], Writer::default());
    let header = BatchHeader::parse(&bytes)?;
    let facts = Facts {
        header,
        max_timestamp: now_ms,
        log_append_time: false,
        restamp: false,
    };
    Ok(NewBatch {
        bytes: bytes.into(),
        facts,
    })
}
