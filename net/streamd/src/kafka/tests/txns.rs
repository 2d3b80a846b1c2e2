//! Transactions over the wire: what needs no crash to be tried.

use std::rc::Rc;

use streamd_core::group::OFFSETS_TOPIC;
use streamd_core::producer::Sent;
use streamd_model::{ErrorCode, PartitionId, ProducerId};
use streamd_shard::{GuardAsk, Marker, Reply, Request};
use streamd_wire::kafka::generated::*;

use super::txn_client::{Client, committed_offset};
use super::{ask, code, create, groups, with_broker};
use crate::broker::Broker;

fn place(broker: &Broker, index: i32) -> PartitionId {
    let topic = broker.shard.image().topic("t").unwrap().id;
    PartitionId { topic, index }
}

async fn guard(
    broker: &Rc<Broker>,
    partition: PartitionId,
    client: &Client,
    base_seq: i32,
) -> Option<u64> {
    let sent = Sent {
        producer: ProducerId(client.producer),
        epoch: client.epoch,
        base_seq,
        records: 1,
    };
    let owner = usize::from(broker.shard.owner(partition).0);
    let asks = vec![GuardAsk { partition, sent }];
    match broker.begin(owner, Request::TxnGuards(asks)).await.await {
        Some(Reply::TxnGuards(mut done)) => done.pop().unwrap().unwrap(),
        _ => panic!("no answer"),
    }
}

#[test]
fn what_was_confirmed_before_an_end_is_not_written_after_it() {
    with_broker(&[], |broker| async move {
        create(&broker, "t", 1).await;
        let client = Client::begin(&broker, "p", 1).await;
        let partition = place(&broker, 0);
        let owner = usize::from(broker.shard.owner(partition).0);
        for ends in [false, true] {
            let held = guard(&broker, partition, &client, i32::from(ends)).await;
            assert!(held.is_some());
            if ends {
                let marker = Marker {
                    partition,
                    producer: client.producer,
                    epoch: client.epoch,
                    commit: false,
                    coordinator_epoch: 0,
                };
                broker
                    .begin(owner, Request::Markers(vec![marker]))
                    .await
                    .await;
            }
            let item = client.item(partition, i32::from(ends), held);
            let answer = broker.begin(owner, Request::Append(vec![item])).await.await;
            let Some(Reply::Append(mut done)) = answer else {
                panic!("no answer");
            };
            let code = done.pop().unwrap().map(|_| ()).map_err(|r| r.code);
            match ends {
                // It begins the transaction; then no guard is needed.
                false => assert_eq!(
                    (code, guard(&broker, partition, &client, 1).await),
                    (Ok(()), None)
                ),
                true => assert_eq!(code, Err(ErrorCode::InvalidTxnState)),
            }
            if !ends {
                let marker = Marker {
                    partition,
                    producer: client.producer,
                    epoch: client.epoch,
                    commit: true,
                    coordinator_epoch: 0,
                };
                broker
                    .begin(owner, Request::Markers(vec![marker]))
                    .await
                    .await;
            }
        }
    });
}

#[test]
fn every_version_begins_adds_commits_and_ends() {
    with_broker(&[], |broker| async move {
        create(&broker, "t", 3).await;
        groups::find(&broker).await;
        for version in [1, 2] {
            let mut client = Client::begin(&broker, &format!("p{version}"), version).await;
            for n in 0..3 {
                client.write(0, n, 2).await.unwrap();
                client.write(1, n, 1).await.unwrap();
                client.commit_offset(0, n).await.unwrap();
                client.end(n != 1).await.unwrap();
            }
            assert_eq!(committed_offset(&broker, 0).await, Some(2));
        }
        assert!(broker.shard.image().topic(OFFSETS_TOPIC).is_some());
    });
}

#[test]
fn nonsense_is_refused_with_kafkas_codes() {
    with_broker(&[], |broker| async move {
        create(&broker, "t", 1).await;
        groups::find(&broker).await;
        let client = Client::begin(&broker, "p", 1).await;
        let topic = |name| add_partitions_to_txn_request::AddPartitionsToTxnTopic {
            name,
            partitions: vec![0, 5].into(),
        };
        let request = AddPartitionsToTxnRequest {
            v3_and_below_transactional_id: "p",
            v3_and_below_producer_id: client.producer,
            v3_and_below_producer_epoch: client.epoch,
            v3_and_below_topics: vec![topic("t"), topic("none")].into(),
            ..AddPartitionsToTxnRequest::default()
        };
        let answer = ask(&broker, 3, &request).await;
        let r: AddPartitionsToTxnResponse<'_> = answer.decode();
        let codes: Vec<_> = r
            .results_by_topic_v3_and_below
            .iter()
            .flat_map(|t| t.results_by_partition.to_vec())
            .map(|p| code(p.partition_error_code))
            .collect();
        let unknown = ErrorCode::UnknownTopicOrPartition;
        let not = ErrorCode::OperationNotAttempted;
        assert_eq!(codes, [not, unknown, unknown, unknown]);

        let ends = [
            ("p", 0, 0, ErrorCode::InvalidTxnState),
            ("p", 0, 1, ErrorCode::ProducerFenced),
            ("p", 77, 0, ErrorCode::InvalidProducerIdMapping),
            ("nobody", 0, 0, ErrorCode::InvalidProducerIdMapping),
            ("", 0, 0, ErrorCode::InvalidRequest),
        ];
        for (transactional_id, more_id, more_epoch, want) in ends {
            let request = EndTxnRequest {
                transactional_id,
                producer_id: client.producer + more_id,
                producer_epoch: client.epoch + more_epoch,
                committed: true,
            };
            for version in 0..=5 {
                let r: EndTxnResponse = ask(&broker, version, &request).await.decode();
                let want = match (want, version) {
                    (ErrorCode::ProducerFenced, 0..=1) => ErrorCode::InvalidProducerEpoch,
                    _ => want,
                };
                assert_eq!(code(r.error_code), want, "{transactional_id} {version}");
            }
        }
        for (timeout, want) in [(0, 50), (900_001, 50), (900_000, 0)] {
            let request = InitProducerIdRequest {
                transactional_id: Some("q"),
                transaction_timeout_ms: timeout,
                producer_id: -1,
                producer_epoch: -1,
                ..InitProducerIdRequest::default()
            };
            let r: InitProducerIdResponse = ask(&broker, 2, &request).await.decode();
            assert_eq!(r.error_code, want, "{timeout}");
        }
        let request = DescribeTransactionsRequest {
            transactional_ids: vec!["p", "nobody"].into(),
        };
        let answer = ask(&broker, 0, &request).await;
        let r: DescribeTransactionsResponse<'_> = answer.decode();
        let found: Vec<_> = r
            .transaction_states
            .iter()
            .map(|t| (t.error_code, t.transaction_state))
            .collect();
        assert_eq!(found, [(0, "Empty"), (105, "")]);
    });
}
