//! OffsetCommit, OffsetFetch, OffsetDelete. Topics come by name, or since version 10 by id; what
//! does not exist is answered here and does not reach the coordinator.

use std::rc::Rc;
use std::sync::Arc;

use streamd_core::group::{
    Commit, CommitPartition, CommitTopic, FetchTopic, Fetched, Reply, Request, Who,
};
use streamd_core::meta::{ClusterImage, TopicMeta};
use streamd_io::Part;
use streamd_model::{ErrorCode, TopicId};
use streamd_wire::kafka::ResponseHeader;
use streamd_wire::kafka::generated::offset_commit_request::{
    OffsetCommitRequest, OffsetCommitRequestTopic,
};
use streamd_wire::kafka::generated::offset_commit_response::{
    OffsetCommitResponse, OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use streamd_wire::kafka::generated::offset_delete_request::OffsetDeleteRequest;
use streamd_wire::kafka::generated::offset_delete_response::{
    OffsetDeleteResponse, OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use streamd_wire::kafka::generated::offset_fetch_request::OffsetFetchRequest;
use streamd_wire::kafka::generated::offset_fetch_response::{
    OffsetFetchResponse, OffsetFetchResponseGroup, OffsetFetchResponsePartition,
    OffsetFetchResponsePartitions, OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};

use super::super::encode;
use super::{Done, ask, ask_all, check_items, code_of};
use crate::broker::Broker;

/// The first version of OffsetCommit and OffsetFetch that names topics by id.
const BY_ID: i16 = 10;

fn find<'i>(image: &'i ClusterImage, name: &str, id: TopicId, v: i16) -> Option<&'i TopicMeta> {
    let found = match v >= BY_ID {
        true => image.topic_by_id(id),
        false => image.topic(name),
    };
    found.map(|topic| &**topic)
}

/// Codes of the partitions of a topic, as they are answered.
struct TopicCodes {
    name: String,
    id: TopicId,
    codes: Vec<(i32, ErrorCode)>,
}

/// Answers OffsetCommit, versions 2 to 10.
pub async fn commit(
    broker: &Rc<Broker>,
    header: ResponseHeader,
    request: &OffsetCommitRequest<'_>,
) -> Result<Vec<Part>, String> {
    check_items("topics", request.topics.len())?;
    let image = broker.shard.image();
    let v = header.version;
    let mut answers = Vec::with_capacity(request.topics.len());
    let mut topics = Vec::new();
    for topic in &request.topics {
        check_items("partitions", topic.partitions.len())?;
        let (answer, wanted) = sort_out(&image, &topic, v);
        answers.push(answer);
        topics.push(wanted);
    }
    let commit = Commit {
        who: Who {
            id: request.member_id.to_owned(),
            instance: request.group_instance_id.map(str::to_owned),
        },
        generation: request.generation_id_or_member_epoch,
        retention_ms: Some(request.retention_time_ms).filter(|ms| *ms >= 0),
        knows_not_found: v >= 9,
        topics,
    };
    let done = ask(broker, request.group_id, Request::Commit(commit)).await;
    fill_in(&mut answers, done);
    let topics = answers.iter().map(|t| OffsetCommitResponseTopic {
        name: if v >= BY_ID { "" } else { &t.name },
        topic_id: if v >= BY_ID { t.id } else { TopicId::ZERO },
        partitions: t
            .codes
            .iter()
            .map(|(p, code)| OffsetCommitResponsePartition {
                partition_index: *p,
                error_code: code.code(),
            })
            .collect(),
    });
    let response = OffsetCommitResponse {
        throttle_time_ms: 0,
        topics: topics.collect(),
    };
    encode(header, &response)
}

/// Parts what can be committed from what does not exist.
fn sort_out(
    image: &ClusterImage,
    topic: &OffsetCommitRequestTopic<'_>,
    v: i16,
) -> (TopicCodes, CommitTopic) {
    let found = find(image, topic.name, topic.topic_id, v);
    let (name, id) = match found {
        Some(meta) => (meta.name.clone(), meta.id),
        None => (topic.name.to_owned(), topic.topic_id),
    };
    let mut wanted = Vec::new();
    let mut codes = Vec::with_capacity(topic.partitions.len());
    for p in &topic.partitions {
        let code = match found {
            Some(meta) if (0..meta.partitions).contains(&p.partition_index) => ErrorCode::None,
            None if v >= BY_ID => ErrorCode::UnknownTopicId,
            _ => ErrorCode::UnknownTopicOrPartition,
        };
        if code == ErrorCode::None {
            wanted.push(CommitPartition {
                index: p.partition_index,
                offset: p.committed_offset,
                leader_epoch: p.committed_leader_epoch,
                metadata: p.committed_metadata.unwrap_or_default().into(),
            });
        }
        codes.push((p.partition_index, code));
    }
    let commit = CommitTopic {
        name: name.as_str().into(),
        id,
        partitions: wanted,
    };
    (TopicCodes { name, id, codes }, commit)
}

fn fill_in(answers: &mut [TopicCodes], done: Done) {
    fill_in_codes(answers.iter_mut().map(|t| &mut t.codes), done);
}

/// Puts the coordinator's codes where nothing was wrong so far. It answers in the order of the
/// request.
pub fn fill_in_codes<'c>(answers: impl Iterator<Item = &'c mut Vec<(i32, ErrorCode)>>, done: Done) {
    let whole = code_of(&done);
    let mut found = match done {
        Ok(Reply::Partitions(topics)) => topics,
        _ => Vec::new(),
    }
    .into_iter();
    for known in answers {
        let mut codes = found.next().map_or(Vec::new(), |t| t.1).into_iter();
        let open = known.iter_mut().filter(|c| c.1 == ErrorCode::None);
        for (_, code) in open {
            *code = codes.next().map_or(whole, |c| c.1);
        }
    }
}

/// One group of an OffsetFetch: what is asked of the coordinator, and what is answered here.
struct Asked {
    group: String,
    /// The member that asks and its epoch, if it says so.
    member: Option<(String, i32)>,
    /// Topics by name or by id, in the order of the request; all of them with `None`.
    topics: Option<Vec<AskedTopic>>,
}

struct AskedTopic {
    name: String,
    id: TopicId,
    partitions: Vec<i32>,
    known: bool,
}

/// Answers OffsetFetch, versions 1 to 10: one group up to version 7, then as many as are named.
pub async fn fetch(
    broker: &Rc<Broker>,
    header: ResponseHeader,
    request: &OffsetFetchRequest<'_>,
) -> Result<Vec<Part>, String> {
    check_items("groups", request.groups.len())?;
    check_items("topics", request.topics.as_ref().map_or(0, |t| t.len()))?;
    let image = broker.shard.image();
    let v = header.version;
    let asked = asked(&image, request, v);
    let requests = asked.iter().map(|one| {
        let topics = one.topics.as_ref().map(|topics| {
            let known = topics.iter().filter(|t| t.known);
            known.map(|t| wanted(&image, t)).collect()
        });
        let request = match &one.member {
            Some((id, epoch)) => Request::FetchAs(id.clone(), *epoch, topics),
            None => Request::Fetch(topics),
        };
        (Arc::from(one.group.as_str()), request)
    });
    let done = ask_all(broker, requests.collect()).await;
    let answers: Vec<GroupOffsets> = asked
        .into_iter()
        .zip(done)
        .map(|(asked, done)| GroupOffsets::new(&image, asked, done, (v, request.require_stable)))
        .collect();
    if v >= 8 {
        let response = OffsetFetchResponse {
            groups: answers.iter().map(|a| a.encode(v)).collect(),
            ..OffsetFetchResponse::default()
        };
        return encode(header, &response);
    }
    let Some(one) = answers.first() else {
        return Err("no group".to_owned());
    };
    let response = OffsetFetchResponse {
        error_code: if v >= 2 { one.error.code() } else { 0 },
        topics: one.topics.iter().map(|t| t.encode_single(v)).collect(),
        ..OffsetFetchResponse::default()
    };
    encode(header, &response)
}

/// What a topic's offsets must belong to: a topic of that name that was there before had another.
fn wanted(image: &ClusterImage, topic: &AskedTopic) -> FetchTopic {
    FetchTopic {
        name: topic.name.as_str().into(),
        id: image.topic(&topic.name).map_or(TopicId::ZERO, |t| t.id),
        partitions: topic.partitions.clone(),
    }
}

fn asked(image: &ClusterImage, request: &OffsetFetchRequest<'_>, v: i16) -> Vec<Asked> {
    if v < 8 {
        let topics = request.topics.as_ref().map(|topics| {
            let topic = |t: streamd_wire::kafka::offset_fetch_request::OffsetFetchRequestTopic<
                '_,
            >| AskedTopic {
                name: t.name.to_owned(),
                id: TopicId::ZERO,
                partitions: t.partition_indexes.iter().collect(),
                known: true,
            };
            topics.iter().map(topic).collect()
        });
        return vec![Asked {
            group: request.group_id.to_owned(),
            member: None,
            topics,
        }];
    }
    let groups = request.groups.iter().map(|group| {
        let topics = group.topics.as_ref().map(|topics| {
            let topics = topics.iter().map(|t| {
                let found = find(image, t.name, t.topic_id, v);
                AskedTopic {
                    name: found.map_or(t.name.to_owned(), |m| m.name.clone()),
                    id: t.topic_id,
                    partitions: t.partition_indexes.iter().collect(),
                    // Offsets of a topic that is gone can be asked for by its name.
                    known: found.is_some() || v < BY_ID,
                }
            });
            topics.collect()
        });
        Asked {
            group: group.group_id.to_owned(),
            member: group
                .member_id
                .filter(|_| group.member_epoch >= 0)
                .map(|id| (id.to_owned(), group.member_epoch)),
            topics,
        }
    });
    groups.collect()
}

/// The offsets of a group as they are answered.
struct GroupOffsets {
    group: String,
    error: ErrorCode,
    topics: Vec<TopicOffsets>,
}

struct TopicOffsets {
    fetched: Fetched,
    id: TopicId,
    error: ErrorCode,
}

impl GroupOffsets {
    fn new(
        image: &ClusterImage,
        asked: Asked,
        done: Done,
        (v, stable): (i16, bool),
    ) -> GroupOffsets {
        let error = code_of(&done);
        let mut found = match done {
            Ok(Reply::Fetch(found)) => found,
            _ => Vec::new(),
        };
        if !stable {
            // Who does not ask for it sees what is committed, whatever else is pending.
            found.iter_mut().for_each(|f| f.unstable.clear());
        }
        let mut found = found.into_iter();
        let id_of = |name: &str| image.topic(name).map_or(TopicId::ZERO, |t| t.id);
        let topics = match asked.topics {
            None => {
                let all = found.map(|fetched| TopicOffsets {
                    id: id_of(&fetched.name),
                    error: ErrorCode::None,
                    fetched,
                });
                // What has no id cannot be told by id.
                all.filter(|t| v < BY_ID || t.id != TopicId::ZERO).collect()
            }
            Some(topics) => topics
                .into_iter()
                .map(|topic| topic.answer(&mut found, error))
                .collect(),
        };
        GroupOffsets {
            group: asked.group,
            error,
            topics,
        }
    }

    fn encode(&self, v: i16) -> OffsetFetchResponseGroup<'_> {
        // Kafka names no topics when the whole group failed.
        let topics = match self.error {
            ErrorCode::None => self.topics.as_slice(),
            _ => &[],
        };
        OffsetFetchResponseGroup {
            group_id: &self.group,
            error_code: self.error.code(),
            topics: topics.iter().map(|t| t.encode(v)).collect(),
        }
    }
}

impl AskedTopic {
    /// The coordinator's answer if the topic was asked for, else why it was not.
    fn answer(self, found: &mut impl Iterator<Item = Fetched>, whole: ErrorCode) -> TopicOffsets {
        let none = || Fetched {
            name: self.name.as_str().into(),
            partitions: self.partitions.iter().map(|p| (*p, None)).collect(),
            unstable: Vec::new(),
        };
        let (fetched, error) = match self.known {
            true => (found.next().unwrap_or_else(none), whole),
            false => (none(), ErrorCode::UnknownTopicId),
        };
        TopicOffsets {
            fetched,
            id: self.id,
            error,
        }
    }
}

impl TopicOffsets {
    fn encode(&self, v: i16) -> OffsetFetchResponseTopics<'_> {
        let partitions = self.fetched.partitions.iter().map(|(p, found)| {
            let unstable = self.fetched.unstable.contains(p);
            let found = found.as_ref().filter(|_| !unstable);
            OffsetFetchResponsePartitions {
                partition_index: *p,
                committed_offset: found.map_or(-1, |c| c.offset),
                committed_leader_epoch: found.map_or(-1, |c| c.leader_epoch),
                metadata: Some(found.map_or("", |c| &*c.metadata)),
                error_code: match unstable {
                    true => ErrorCode::UnstableOffsetCommit.code(),
                    false => self.error.code(),
                },
            }
        });
        OffsetFetchResponseTopics {
            name: if v >= BY_ID { "" } else { &self.fetched.name },
            topic_id: if v >= BY_ID { self.id } else { TopicId::ZERO },
            partitions: partitions.collect(),
        }
    }

    fn encode_single(&self, v: i16) -> OffsetFetchResponseTopic<'_> {
        let partitions = self.fetched.partitions.iter().map(|(p, found)| {
            let unstable = self.fetched.unstable.contains(p);
            let found = found.as_ref().filter(|_| !unstable);
            OffsetFetchResponsePartition {
                partition_index: *p,
                committed_offset: found.map_or(-1, |c| c.offset),
                committed_leader_epoch: match v >= 5 {
                    true => found.map_or(-1, |c| c.leader_epoch),
                    false => -1,
                },
                metadata: Some(found.map_or("", |c| &*c.metadata)),
                error_code: match unstable {
                    true => ErrorCode::UnstableOffsetCommit.code(),
                    false => self.error.code(),
                },
            }
        });
        OffsetFetchResponseTopic {
            name: &self.fetched.name,
            partitions: partitions.collect(),
        }
    }
}

/// Answers OffsetDelete, version 0.
pub async fn delete(
    broker: &Rc<Broker>,
    header: ResponseHeader,
    request: &OffsetDeleteRequest<'_>,
) -> Result<Vec<Part>, String> {
    check_items("topics", request.topics.len())?;
    let image = broker.shard.image();
    let mut answers = Vec::with_capacity(request.topics.len());
    let mut topics = Vec::new();
    for topic in &request.topics {
        let count = image.topic(topic.name).map_or(0, |t| t.partitions);
        let codes = topic.partitions.iter().map(|p| {
            let index = p.partition_index;
            match (0..count).contains(&index) {
                true => (index, ErrorCode::None),
                false => (index, ErrorCode::UnknownTopicOrPartition),
            }
        });
        let codes: Vec<_> = codes.collect();
        let known = codes.iter().filter(|c| c.1 == ErrorCode::None);
        topics.push((topic.name.into(), known.map(|c| c.0).collect()));
        answers.push(TopicCodes {
            name: topic.name.to_owned(),
            id: TopicId::ZERO,
            codes,
        });
    }
    let done = ask(broker, request.group_id, Request::DeleteOffsets(topics)).await;
    let error = code_of(&done);
    fill_in(&mut answers, done);
    if error.is_err() {
        answers.clear();
    }
    let topics = answers.iter().map(|t| OffsetDeleteResponseTopic {
        name: &t.name,
        partitions: t
            .codes
            .iter()
            .map(|(p, code)| OffsetDeleteResponsePartition {
                partition_index: *p,
                error_code: code.code(),
            })
            .collect(),
    });
    let response = OffsetDeleteResponse {
        error_code: error.code(),
        throttle_time_ms: 0,
        topics: topics.collect(),
    };
    encode(header, &response)
}
