//! Share groups over the wire: membership, sessions and their errors, records, acknowledgements,
//! offsets as operators see and set them.

use std::rc::Rc;

use streamd_log::batch::{NewRecord, Writer as By, build};
use streamd_log::validate::Facts;
use streamd_log::{BatchHeader, NewBatch};
use streamd_model::{ErrorCode, PartitionId, TopicId};
use streamd_shard::{AppendItem, Reply, Request};
use streamd_wire::kafka::generated::*;

use super::groups::find;
use super::{ask, code, create, with_broker};
use crate::broker::Broker;

const EARLIEST: [(&str, &str); 2] = [
    ("share.auto.offset.reset", "earliest"),
    ("share.delivery.count.limit", "3"),
];

/// What a member got of a partition: offsets, and how often they were delivered.
pub(super) type Got = Vec<(i64, i64, i16)>;

pub(super) fn topic(broker: &Broker) -> TopicId {
    broker.shard.image().topic("t").expect("topic t").id
}

/// Appends a batch of records to partition 0; gives the first offset.
pub(super) async fn produce(broker: &Rc<Broker>, count: usize) -> i64 {
    let record = NewRecord {
        timestamp: broker.shard.env.wall_ms(),
        key: None,
        value: Some(b"v"),
    };
    let bytes = build(&vec![record; count], By::default());
    let header = BatchHeader::parse(&bytes).expect("a batch");
    let partition = PartitionId {
        topic: topic(broker),
        index: 0,
    };
    let item = AppendItem {
        partition,
        batch: NewBatch {
            bytes: bytes.into(),
            facts: Facts {
                header,
                max_timestamp: 0,
                log_append_time: false,
                restamp: false,
            },
        },
        guard: None,
        acks: streamd_core::repl::Acks::All,
    };
    let owner = broker.shard.owner(partition);
    match broker.shard.ask(owner, Request::Append(vec![item])).await {
        Some(Reply::Append(mut done)) => done.pop().expect("one").expect("it is placed").base,
        _ => panic!("the shard has stopped"),
    }
}

pub(super) async fn configure(broker: &Rc<Broker>, group: &str, settings: &[(&str, &str)]) {
    use incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
    let configs = settings.iter().map(|(name, value)| AlterableConfig {
        name,
        config_operation: 0,
        value: Some(value),
    });
    let resource = AlterConfigsResource {
        resource_type: 32,
        resource_name: group,
        configs: configs.collect(),
    };
    let request = IncrementalAlterConfigsRequest {
        resources: vec![resource].into(),
        validate_only: false,
    };
    let answer = ask(broker, 1, &request).await;
    let r: IncrementalAlterConfigsResponse<'_> = answer.decode();
    assert_eq!(r.responses.iter().next().expect("one").error_code, 0);
}

/// The code and the member's epoch.
pub(super) async fn beat(broker: &Rc<Broker>, member: &str, epoch: i32) -> (ErrorCode, i32) {
    let request = ShareGroupHeartbeatRequest {
        group_id: "g",
        member_id: member,
        member_epoch: epoch,
        subscribed_topic_names: (epoch == 0).then(|| vec!["t"].into()),
        ..ShareGroupHeartbeatRequest::default()
    };
    let answer = ask(broker, 1, &request).await;
    let r: ShareGroupHeartbeatResponse<'_> = answer.decode();
    (code(r.error_code), r.member_epoch)
}

/// A request that fetches from partition 0.
pub(super) fn fetches<'a>(member: &'a str, epoch: i32, id: TopicId) -> ShareFetchRequest<'a> {
    let partition = share_fetch_request::FetchPartition::default();
    let topic = share_fetch_request::FetchTopic {
        topic_id: id,
        partitions: vec![partition].into(),
    };
    ShareFetchRequest {
        group_id: Some("g"),
        member_id: Some(member),
        share_session_epoch: epoch,
        max_wait_ms: 100,
        min_bytes: 1,
        max_bytes: 1 << 20,
        max_records: 100,
        batch_size: 100,
        topics: vec![topic].into(),
        ..ShareFetchRequest::default()
    }
}

/// What came of a fetch: or the code, of the whole or of the partition.
pub(super) async fn fetch(
    broker: &Rc<Broker>,
    request: &ShareFetchRequest<'_>,
) -> Result<Got, ErrorCode> {
    let answer = ask(broker, 2, request).await;
    let r: ShareFetchResponse<'_> = answer.decode();
    if r.error_code != 0 {
        return Err(code(r.error_code));
    }
    let mut got = Got::new();
    for p in r.responses.iter().flat_map(|t| t.partitions.to_vec()) {
        if p.error_code != 0 {
            return Err(code(p.error_code));
        }
        let acquired = p.acquired_records.iter();
        got.extend(acquired.map(|a| (a.first_offset, a.last_offset, a.delivery_count)));
        assert_eq!(
            p.records.is_empty(),
            got.is_empty(),
            "records for what was acquired"
        );
    }
    Ok(got)
}

/// An acknowledgement of one kind for some offsets of partition 0.
pub(super) async fn acknowledge(
    broker: &Rc<Broker>,
    (member, epoch): (&str, i32),
    (first, last): (i64, i64),
    kind: i8,
) -> ErrorCode {
    use share_acknowledge_request::{AcknowledgePartition, AcknowledgeTopic, AcknowledgementBatch};
    let batch = AcknowledgementBatch {
        first_offset: first,
        last_offset: last,
        acknowledge_types: vec![kind].into(),
    };
    let partition = AcknowledgePartition {
        partition_index: 0,
        acknowledgement_batches: vec![batch].into(),
    };
    let topic = AcknowledgeTopic {
        topic_id: topic(broker),
        partitions: vec![partition].into(),
    };
    let request = ShareAcknowledgeRequest {
        group_id: Some("g"),
        member_id: Some(member),
        share_session_epoch: epoch,
        is_renew_ack: kind == 4,
        topics: vec![topic].into(),
    };
    let answer = ask(broker, 2, &request).await;
    let r: ShareAcknowledgeResponse<'_> = answer.decode();
    if r.error_code != 0 {
        return code(r.error_code);
    }
    let mut partitions = r.responses.iter().flat_map(|t| t.partitions.to_vec());
    code(partitions.next().expect("a partition").error_code)
}

async fn prepare(broker: &Rc<Broker>, records: usize) -> TopicId {
    create(broker, "t", 1).await;
    find(broker).await;
    configure(broker, "g", &EARLIEST).await;
    produce(broker, records).await;
    topic(broker)
}

#[test]
fn records_go_to_one_member_at_a_time() {
    with_broker(&[], |broker| async move {
        let t = prepare(&broker, 10).await;
        let got = fetch(&broker, &fetches("m", 0, t)).await;
        assert_eq!(got, Err(ErrorCode::GroupIdNotFound), "it is no member");
        assert_eq!(beat(&broker, "m", 0).await.0, ErrorCode::None);
        assert_eq!(beat(&broker, "n", 0).await.0, ErrorCode::None);
        let got = fetch(&broker, &fetches("m", 0, t)).await;
        assert_eq!(got, Ok(vec![(0, 9, 1)]));
        let got = fetch(&broker, &fetches("n", 0, t)).await;
        assert_eq!(got, Ok(vec![]), "the other has them");
        let refused = acknowledge(&broker, ("n", 1), (0, 1), 1).await;
        assert_eq!(refused, ErrorCode::InvalidRecordState);
        assert_eq!(
            acknowledge(&broker, ("m", 1), (0, 3), 1).await,
            ErrorCode::None
        );
        assert_eq!(
            acknowledge(&broker, ("m", 2), (4, 6), 2).await,
            ErrorCode::None
        );
        assert_eq!(
            acknowledge(&broker, ("m", 3), (7, 7), 3).await,
            ErrorCode::None
        );
        let got = fetch(&broker, &fetches("n", 2, t)).await;
        assert_eq!(got, Ok(vec![(4, 6, 2)]));
        // The session of m ends with its connection, and what it has left is free.
        crate::kafka::share::disconnected(&broker, 0);
        broker
            .shard
            .env
            .sleep(std::time::Duration::from_millis(10))
            .await;
        assert_eq!(beat(&broker, "o", 0).await.0, ErrorCode::None);
        let got = fetch(&broker, &fetches("o", 0, t)).await;
        assert_eq!(got, Ok(vec![(4, 6, 3), (8, 9, 2)]));
    });
}

#[test]
fn sessions_have_epochs_and_errors() {
    with_broker(
        &[("group.share.max.share.sessions", "1")],
        |broker| async move {
            let t = prepare(&broker, 1).await;
            beat(&broker, "m", 0).await;
            let refused = [
                (fetches("m", 1, t), ErrorCode::ShareSessionNotFound),
                (fetches("m", -1, t), ErrorCode::ShareSessionNotFound),
                (fetches("", 0, t), ErrorCode::InvalidRequest),
                (
                    ShareFetchRequest {
                        share_acquire_mode: 7,
                        ..fetches("m", 0, t)
                    },
                    ErrorCode::InvalidRequest,
                ),
                (
                    ShareFetchRequest {
                        is_renew_ack: true,
                        ..fetches("m", 0, t)
                    },
                    ErrorCode::InvalidRequest,
                ),
            ];
            for (request, code) in refused {
                assert_eq!(fetch(&broker, &request).await, Err(code));
            }
            let ack = acknowledge(&broker, ("m", 0), (0, 0), 1).await;
            assert_eq!(ack, ErrorCode::InvalidShareSessionEpoch);
            let ack = acknowledge(&broker, ("m", 1), (0, 0), 1).await;
            assert_eq!(ack, ErrorCode::ShareSessionNotFound);
            assert_eq!(
                fetch(&broker, &fetches("m", 0, t)).await,
                Ok(vec![(0, 0, 1)])
            );
            let full = fetch(&broker, &fetches("n", 0, t)).await;
            assert_eq!(full, Err(ErrorCode::ShareSessionLimitReached));
            let stale = fetch(&broker, &fetches("m", 2, t)).await;
            assert_eq!(stale, Err(ErrorCode::InvalidShareSessionEpoch));
            let unknown = acknowledge(&broker, ("m", 1), (0, 0), 9).await;
            assert_eq!(unknown, ErrorCode::InvalidRequest);
            assert_eq!(
                acknowledge(&broker, ("m", 1), (0, 0), 4).await,
                ErrorCode::None
            );
            // A clean end takes the delivery back.
            assert_eq!(fetch(&broker, &fetches("m", -1, t)).await, Ok(vec![]));
            assert_eq!(
                fetch(&broker, &fetches("m", 0, t)).await,
                Ok(vec![(0, 0, 1)])
            );
            let strange = fetches("m", 1, TopicId([9; 16]));
            let strange = fetch(&broker, &strange).await;
            assert_eq!(strange, Err(ErrorCode::UnknownTopicOrPartition));
        },
    );
}

async fn start_of(broker: &Rc<Broker>, version: i16) -> Result<(i64, i64), ErrorCode> {
    use describe_share_group_offsets_request::DescribeShareGroupOffsetsRequestGroup as Group;
    let request = DescribeShareGroupOffsetsRequest {
        groups: vec![Group {
            group_id: "g",
            topics: None,
        }]
        .into(),
    };
    let answer = ask(broker, version, &request).await;
    let r: DescribeShareGroupOffsetsResponse<'_> = answer.decode();
    let group = r.groups.iter().next().expect("a group");
    if group.error_code != 0 {
        return Err(code(group.error_code));
    }
    let topic = group.topics.iter().next();
    let partition = topic.and_then(|t| t.partitions.iter().next());
    Ok(partition.map_or((-2, -2), |p| (p.start_offset, p.lag)))
}

async fn alter(broker: &Rc<Broker>, start_offset: i64) -> ErrorCode {
    use alter_share_group_offsets_request::{
        AlterShareGroupOffsetsRequestPartition, AlterShareGroupOffsetsRequestTopic,
    };
    let partition = AlterShareGroupOffsetsRequestPartition {
        partition_index: 0,
        start_offset,
    };
    let request = AlterShareGroupOffsetsRequest {
        group_id: "g",
        topics: vec![AlterShareGroupOffsetsRequestTopic {
            topic_name: "t",
            partitions: vec![partition].into(),
        }]
        .into(),
    };
    let answer = ask(broker, 0, &request).await;
    let r: AlterShareGroupOffsetsResponse<'_> = answer.decode();
    if r.error_code != 0 {
        return code(r.error_code);
    }
    let topic = r.responses.iter().next().expect("a topic");
    code(
        topic
            .partitions
            .iter()
            .next()
            .expect("a partition")
            .error_code,
    )
}

async fn delete_group(broker: &Rc<Broker>) -> ErrorCode {
    let request = DeleteGroupsRequest {
        groups_names: vec!["g"].into(),
    };
    let answer = ask(broker, 2, &request).await;
    let r: DeleteGroupsResponse<'_> = answer.decode();
    code(r.results.iter().next().expect("a result").error_code)
}

#[test]
fn operators_see_and_set_where_a_group_stands() {
    with_broker(&[], |broker| async move {
        let t = prepare(&broker, 10).await;
        assert_eq!(start_of(&broker, 1).await, Err(ErrorCode::GroupIdNotFound));
        assert_eq!(alter(&broker, 1).await, ErrorCode::GroupIdNotFound);
        beat(&broker, "m", 0).await;
        assert_eq!(start_of(&broker, 1).await, Ok((-1, -1)), "nothing was read");
        fetch(&broker, &fetches("m", 0, t)).await.expect("records");
        acknowledge(&broker, ("m", 1), (0, 1), 1).await;
        acknowledge(&broker, ("m", 2), (4, 5), 1).await;
        assert_eq!(start_of(&broker, 1).await, Ok((2, 6)));
        assert_eq!(start_of(&broker, 0).await, Ok((2, -1)), "without the lag");
        assert_eq!(alter(&broker, 1).await, ErrorCode::NonEmptyGroup);
        assert_eq!(delete_group(&broker).await, ErrorCode::NonEmptyGroup);
        assert_eq!(
            start_of(&broker, 1).await,
            Ok((2, 6)),
            "nothing is lost by that"
        );
        assert_eq!(beat(&broker, "m", -1).await, (ErrorCode::None, -1));
        assert_eq!(alter(&broker, 7).await, ErrorCode::None);
        assert_eq!(start_of(&broker, 1).await, Ok((7, 3)));
        let request = DeleteShareGroupOffsetsRequest {
            group_id: "g",
            topics: vec![
                delete_share_group_offsets_request::DeleteShareGroupOffsetsRequestTopic {
                    topic_name: "t",
                },
            ]
            .into(),
        };
        let answer = ask(&broker, 0, &request).await;
        let r: DeleteShareGroupOffsetsResponse<'_> = answer.decode();
        assert_eq!(r.responses.iter().next().expect("a topic").error_code, 0);
        assert_eq!(start_of(&broker, 1).await, Ok((-2, -2)), "no topics");
        assert_eq!(delete_group(&broker).await, ErrorCode::None);
        assert_eq!(delete_group(&broker).await, ErrorCode::GroupIdNotFound);
    });
}

#[test]
fn who_waits_is_woken() {
    with_broker(&[], |broker| async move {
        let t = prepare(&broker, 1).await;
        beat(&broker, "m", 0).await;
        beat(&broker, "n", 0).await;
        fetch(&broker, &fetches("m", 0, t)).await.expect("a record");
        let env = broker.shard.env.clone();
        let (other, begun) = (broker.clone(), env.now());
        env.spawn(streamd_io::Class::Latency, async move {
            other
                .shard
                .env
                .sleep(std::time::Duration::from_secs(2))
                .await;
            acknowledge(&other, ("m", 1), (0, 0), 2).await;
        })
        .detach();
        let patient = ShareFetchRequest {
            max_wait_ms: 20_000,
            ..fetches("n", 0, t)
        };
        assert_eq!(fetch(&broker, &patient).await, Ok(vec![(0, 0, 2)]));
        let waited = env.now() - begun;
        assert!((2..4).contains(&waited.as_secs()), "{waited:?}");
        let (other, begun) = (broker.clone(), env.now());
        env.spawn(streamd_io::Class::Latency, async move {
            other
                .shard
                .env
                .sleep(std::time::Duration::from_secs(2))
                .await;
            produce(&other, 3).await;
        })
        .detach();
        let patient = ShareFetchRequest {
            max_wait_ms: 20_000,
            ..fetches("m", 2, t)
        };
        assert_eq!(fetch(&broker, &patient).await, Ok(vec![(1, 3, 1)]));
        let waited = env.now() - begun;
        assert!((2..4).contains(&waited.as_secs()), "{waited:?}");
    });
}
