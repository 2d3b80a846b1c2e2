//! Fetch sessions over the wire: what is told of a partition is of that partition, once each.

use std::collections::BTreeMap;

use streamd_log::BatchHeader;
use streamd_log::record_view::BatchView;
use streamd_model::{PartitionId, TopicId};
use streamd_wire::kafka::fetch_request::{FetchPartition, FetchTopic};
use streamd_wire::kafka::{FetchRequest, FetchResponse, Records};

use super::reads::append_one;
use super::*;

const TOPICS: [&str; 3] = ["a", "b", "c"];
const PARTITIONS: i32 = 3;

/// A client that fetches all partitions of all topics in one session.
struct Client {
    broker: Rc<Broker>,
    version: i16,
    ids: [TopicId; 3],
    session: (i32, i32),
    /// Where it is, by topic and partition.
    at: BTreeMap<(usize, i32), i64>,
    /// What the broker does not know yet of that.
    news: Vec<(usize, i32)>,
}

impl Client {
    async fn fetch(&mut self, max_bytes: i32) {
        let topics: Vec<_> = std::mem::take(&mut self.news)
            .into_iter()
            .map(|(topic, partition)| FetchTopic {
                topic: TOPICS[topic],
                topic_id: self.ids[topic],
                partitions: vec![FetchPartition {
                    partition,
                    fetch_offset: self.at[&(topic, partition)],
                    partition_max_bytes: 1 << 20,
                    current_leader_epoch: -1,
                    last_fetched_epoch: -1,
                    ..FetchPartition::default()
                }]
                .into(),
            })
            .collect();
        let request = FetchRequest {
            max_wait_ms: 0,
            min_bytes: 0,
            max_bytes,
            session_id: self.session.0,
            session_epoch: self.session.1,
            topics: topics.into(),
            ..FetchRequest::default()
        };
        let answer = ask(&self.broker, self.version, &request).await;
        let response: FetchResponse<'_> = answer.decode();
        assert_eq!(response.error_code, 0);
        self.session = (response.session_id, self.session.1 + 1);
        for told in &response.responses {
            let topic = (0..3).find(|&t| match self.version {
                ..13 => told.topic == TOPICS[t],
                _ => told.topic_id == self.ids[t],
            });
            let topic = topic.expect("a topic that was asked for");
            for p in &told.partitions {
                assert_eq!(p.error_code, 0);
                if let Some(Records::Bytes(bytes)) = p.records {
                    self.take((topic, p.partition_index), bytes);
                }
            }
        }
    }

    fn take(&mut self, place: (usize, i32), mut bytes: &[u8]) {
        let at = self
            .at
            .get_mut(&place)
            .expect("a partition that was asked for");
        while let Ok(header) = BatchHeader::parse(bytes) {
            let Some(batch) = bytes.get(..header.size) else {
                break;
            };
            bytes = &bytes[header.size..];
            for record in BatchView::new(batch, 1 << 20).unwrap().records() {
                let record = record.unwrap();
                let value = record.value.map(String::from_utf8_lossy);
                let wanted = format!("{}-{} {at}", TOPICS[place.0], place.1);
                assert_eq!(value.as_deref(), Some(&wanted[..]), "in {place:?}");
                assert_eq!(record.offset, *at);
                *at += 1;
                self.news.push(place);
            }
        }
        self.news.dedup();
    }
}

#[test]
fn what_is_told_in_a_session_is_of_its_partition() {
    for version in [12, 13, 18] {
        with_broker(&[], move |broker| async move {
            let mut ids = [TopicId::ZERO; 3];
            for (id, name) in ids.iter_mut().zip(TOPICS) {
                create(&broker, name, PARTITIONS).await;
                *id = broker.shard.image().topic(name).unwrap().id;
            }
            let places = (0..3).flat_map(|t| (0..PARTITIONS).map(move |p| (t, p)));
            let mut ends: BTreeMap<(usize, i32), i64> = places.map(|p| (p, 0)).collect();
            let mut client = Client {
                broker: broker.clone(),
                version,
                ids,
                session: (0, 0),
                at: ends.clone(),
                news: ends.keys().copied().collect(),
            };
            let env = broker.shard.env.clone();
            for _ in 0..200 {
                for ((topic, index), end) in &mut ends {
                    if env.random_u64().is_multiple_of(4) {
                        let id = PartitionId {
                            topic: ids[*topic],
                            index: *index,
                        };
                        let value = format!("{}-{index} {end}", TOPICS[*topic]);
                        append_one(&broker, id, (None, value.as_bytes())).await;
                        *end += 1;
                    }
                }
                let max = [1 << 20, 100, 1][env.random_u64() as usize % 3];
                client.fetch(max).await;
                assert_ne!(client.session.0, 0, "a session");
            }
            // What is left, each in its turn.
            for _ in 0..2_000 {
                client.fetch(1 << 20).await;
            }
            assert_eq!(client.at, ends);
        });
    }
}
