//! The offsets of groups, by the coordinator that Kafka's clients use: kept as those of a simple
//! consumer, which is no member of its group.

use std::rc::Rc;

use streamd_core::group::{Commit, CommitPartition, CommitTopic, FetchTopic, Reply, Request, Who};
use streamd_core::meta::ClusterImage;
use streamd_model::{ErrorCode, TopicId};
use streamd_shard::Refusal;
use streamd_wire::native::{Body, Committed, Kept, List, OfGroup, Partition, ToCommit};

use super::Conn;
use super::outbox::Ids;
use crate::kafka::group;
use crate::kafka::internal::{self, Internal};

/// The most partitions in a frame.
const ITEMS_MAX: usize = 100_000;

/// Refuses a frame that names too much. The first that asks makes the topic where offsets are.
async fn begin(conn: &Conn, ids: Ids, items: usize) -> bool {
    let refusal = if items > ITEMS_MAX {
        let text = format!("{items} partitions in a frame; {ITEMS_MAX} are allowed");
        Refusal::new(ErrorCode::InvalidRequest, text)
    } else {
        match internal::make(&conn.broker, Internal::Offsets).await {
            Ok(()) => return true,
            Err(code) => Refusal::new(code, "the topic of offsets cannot be made now"),
        }
    };
    conn.out.refuse(ids, &refusal);
    false
}

/// What is wrong with a partition.
fn check(image: &ClusterImage, partition: &Partition) -> ErrorCode {
    match image.topic_by_id(partition.topic) {
        None => ErrorCode::UnknownTopicId,
        Some(topic) if partition.index >= topic.partitions => ErrorCode::UnknownTopicOrPartition,
        Some(_) => ErrorCode::None,
    }
}

fn name(image: &ClusterImage, id: TopicId) -> Rc<str> {
    image
        .topic_by_id(id)
        .map_or_else(|| "".into(), |topic| topic.name.as_str().into())
}

/// Keeps offsets; answered when they are durable.
pub async fn commit(conn: &Rc<Conn>, ids: Ids, ask: &OfGroup<'_, ToCommit<'_>>) {
    if !begin(conn, ids, ask.items.iter().count()).await {
        return;
    }
    let image = conn.broker.shard.image();
    let mut topics: Vec<CommitTopic> = Vec::new();
    let mut codes: Vec<Vec<(i32, ErrorCode)>> = Vec::new();
    for item in ask.items.iter() {
        let Partition {
            topic,
            index,
            epoch,
        } = item.partition;
        if topics.last().is_none_or(|t| t.id != topic) {
            topics.push(CommitTopic {
                name: (&*name(&image, topic)).into(),
                id: topic,
                partitions: Vec::new(),
            });
            codes.push(Vec::new());
        }
        let code = check(&image, &item.partition);
        if let Some(codes) = codes.last_mut() {
            codes.push((index, code));
        }
        if let Some(topic) = topics.last_mut().filter(|_| code == ErrorCode::None) {
            topic.partitions.push(CommitPartition {
                index,
                offset: item.offset,
                leader_epoch: epoch,
                metadata: item.metadata.into(),
            });
        }
    }
    let commit = Commit {
        who: Who {
            id: String::new(),
            instance: None,
        },
        generation: -1,
        retention_ms: None,
        knows_not_found: true,
        topics,
    };
    let done = group::ask(&conn.broker, ask.group, Request::Commit(commit)).await;
    group::offsets::fill_in_codes(codes.iter_mut(), done);
    let kept = List::encode(
        codes
            .iter()
            .flatten()
            .map(|(_, code)| Kept { code: code.code() }),
    );
    if let Ok(kept) = List::decode(&kept) {
        conn.out.say(ids, &Body::Kept(kept));
    }
}

/// Tells where a group is.
pub async fn offsets(conn: &Rc<Conn>, ids: Ids, ask: &OfGroup<'_, Partition>) {
    if !begin(conn, ids, ask.items.iter().count()).await {
        return;
    }
    let image = conn.broker.shard.image();
    let known = |p: &Partition| check(&image, p) == ErrorCode::None;
    let mut topics: Vec<FetchTopic> = Vec::new();
    for p in ask.items.iter().filter(known) {
        if topics.last().is_none_or(|t| t.id != p.topic) {
            topics.push(FetchTopic {
                name: (&*name(&image, p.topic)).into(),
                id: p.topic,
                partitions: Vec::new(),
            });
        }
        if let Some(topic) = topics.last_mut() {
            topic.partitions.push(p.index);
        }
    }
    let done = group::ask(&conn.broker, ask.group, Request::Fetch(Some(topics))).await;
    let whole = group::code_of(&done);
    let found = match done {
        Ok(Reply::Fetch(found)) => found,
        _ => Vec::new(),
    };
    let mut found = found.into_iter().flat_map(|topic| topic.partitions);
    let all: Vec<_> = ask
        .items
        .iter()
        .map(|p| match check(&image, &p) {
            ErrorCode::None => match found.next() {
                Some((_, committed)) => (ErrorCode::None, committed),
                None => (whole, None),
            },
            code => (code, None),
        })
        .collect();
    let list = List::encode(all.iter().map(|(code, committed)| Committed {
        code: code.code(),
        offset: committed.as_ref().map_or(-1, |c| c.offset),
        epoch: committed.as_ref().map_or(-1, |c| c.leader_epoch),
        metadata: committed.as_ref().map_or("", |c| &c.metadata),
    }));
    if let Ok(list) = List::decode(&list) {
        conn.out.say(ids, &Body::Offsets(list));
    }
}
