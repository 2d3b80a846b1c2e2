//! The handlers of metadata, topics and settings, asked as clients ask them: a frame in, a frame
//! out, on a broker of two shards in the simulator. Nothing leaves the process.

mod cleaning;
mod cluster;
mod configs;
mod consumer_groups;
mod crashes;
mod features;
mod group_crashes;
mod groups;
mod hostile;
mod metadata;
mod reads;
mod sessions;
mod share_crashes;
mod shares;
mod topics;
mod txn_client;
mod txn_crashes;
mod txns;

use std::future::Future;
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use streamd_core::config::Configs;
use streamd_core::meta::{Local, Registration};
use streamd_io::sim::{Sim, SimOptions};
use streamd_io::{Class, Env, Part, mailbox};
use streamd_log::journal::JournalOptions;
use streamd_model::{ErrorCode, NodeId, ShardId, TopicId};
use streamd_shard::{Settings, Shard};
use streamd_wire::kafka::generated::create_topics_request::{CreatableTopic, CreateTopicsRequest};
use streamd_wire::kafka::generated::create_topics_response::CreateTopicsResponse;
use streamd_wire::kafka::generated::delete_topics_request::DeleteTopicsRequest;
use streamd_wire::kafka::generated::delete_topics_response::DeleteTopicsResponse;
use streamd_wire::kafka::versions::served;
use streamd_wire::kafka::{
    ApiKey, Decode, Frame, Message, Request, ResponseHeader, Writer, frame::encode_request,
};

use crate::broker::{Broker, Identity, Limits};

const NODE: i32 = 1;
const CORRELATION: i32 = 77;

/// Runs `test` on a fresh broker that was started with these of Kafka's settings.
pub fn with_broker<F, Fut>(configs: &[(&str, &str)], test: F)
where
    F: FnOnce(Rc<Broker>) -> Fut + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let configs: Configs = configs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    Sim::new(1, SimOptions::default()).run(|env| async move {
        let broker = start(&env, configs).await;
        test(broker).await;
    });
}

pub async fn start(env: &Env, configs: Configs) -> Rc<Broker> {
    let settings = Settings {
        data_dir: "/data".into(),
        tail_bytes: 1 << 20,
        local: Local {
            node: NodeId(NODE),
            configs,
        },
        told: Registration {
            node: NodeId(NODE),
            incarnation: TopicId::from_random(env.random_u64(), env.random_u64()).0,
            directory: [7; 16],
            rack: None,
            endpoints: Vec::new(),
            features: (0, 1),
        },
        joins: false,
        journal: JournalOptions {
            file_bytes: 1 << 20,
            files_max: 4,
            durable: true,
        },
        retention_check: Duration::from_secs(5),
        brakes: Default::default(),
    };
    env.create_dir_all(&settings.data_dir).await.unwrap();
    let mut shards = Vec::new();
    for (index, endpoint) in mailbox::mesh(2, 64).into_iter().enumerate() {
        let id = ShardId(index as u16);
        let shard = Shard::new(env.clone(), id, 2, endpoint, settings.clone());
        env.spawn(Class::Latency, shard.clone().run()).detach();
        shards.push(shard);
    }
    shards[0].lead().await.unwrap();
    for shard in &shards {
        shard.opened().await;
        crate::boot::work_behind(env, shard);
    }
    let identity = Identity {
        cluster_id: "c".repeat(22),
        node_id: NODE,
        host: "broker.example".to_owned(),
        port: 9092,
        native: None,
        rack: None,
        directory: TopicId::ZERO,
        incarnation: TopicId::ZERO,
    };
    let limits = Limits {
        request_memory: 1 << 20,
        request_bytes_max: 1 << 20,
        fetch_bytes_max: 1 << 20,
        sessions: 10,
    };
    // The shard that does not keep the metadata: so a change takes the longer way.
    Broker::new(shards.remove(1), Arc::new(identity), limits)
}

/// A response as it goes out.
struct Answer {
    frame: Vec<u8>,
    header: ResponseHeader,
}

impl Answer {
    fn decode<'a, M: Message + Decode<'a>>(&'a self) -> M {
        let length = u32::from_be_bytes(self.frame[..4].try_into().unwrap());
        assert_eq!(length as usize, self.frame.len() - 4, "the frame's length");
        let (correlation, body) = self.header.parse(&self.frame[4..]).unwrap();
        assert_eq!(correlation, CORRELATION);
        M::decode_body(body, self.header.version).unwrap()
    }
}

async fn ask<R: Request>(broker: &Rc<Broker>, version: i16, request: &R) -> Answer {
    let mut w = Writer::append_to(Vec::new());
    encode_request(request, version, CORRELATION, Some("test"), &mut w).unwrap();
    let bytes = w.into_parts().0;
    let frame = Frame::parse(&bytes[4..]).unwrap();
    let header = ResponseHeader::from(&frame.header);
    let parts = super::answer(broker, ("/127.0.0.1", 0), &frame).await;
    let parts = parts.unwrap_or_else(|e| panic!("{} {version}: {e}", R::API.name()));
    let frame = parts.into_iter().flat_map(|part| match part {
        Part::Bytes(bytes) => bytes,
        _ => panic!("a part of a file in {}", R::API.name()),
    });
    Answer {
        frame: frame.collect(),
        header,
    }
}

/// The versions of an API that are accepted.
fn versions(api: ApiKey) -> RangeInclusive<i16> {
    let range = served(api).expect("it is served");
    range.accept_min..=range.max
}

/// Creates a topic that must not exist yet.
pub async fn create(broker: &Rc<Broker>, name: &str, num_partitions: i32) {
    let topic = CreatableTopic {
        name,
        num_partitions,
        replication_factor: 1,
        ..CreatableTopic::default()
    };
    let request = CreateTopicsRequest {
        topics: vec![topic].into(),
        ..CreateTopicsRequest::default()
    };
    let answer = ask(broker, 7, &request).await;
    let response: CreateTopicsResponse<'_> = answer.decode();
    let codes: Vec<_> = response.topics.iter().map(|t| t.error_code).collect();
    assert_eq!(codes, [0], "{name}");
}

/// Deletes a topic that is there.
pub async fn delete(broker: &Rc<Broker>, name: &str) {
    let request = DeleteTopicsRequest {
        topic_names: vec![name].into(),
        ..DeleteTopicsRequest::default()
    };
    let answer = ask(broker, 5, &request).await;
    let response: DeleteTopicsResponse<'_> = answer.decode();
    let codes: Vec<_> = response.responses.iter().map(|t| t.error_code).collect();
    assert_eq!(codes, [0], "{name}");
}

fn code(number: i16) -> ErrorCode {
    ErrorCode::from_code(number).expect("a code of Kafka's")
}
