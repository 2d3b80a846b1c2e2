//! FindCoordinator: one node coordinates everything. The first that looks for the coordinator of a
//! group makes `__consumer_offsets`, of a transaction `__transaction_state`.

use std::rc::Rc;

use streamd_core::group::OFFSETS_TOPIC;
use streamd_core::meta::validate::{NewTopic, create_topic};
use streamd_io::Part;
use streamd_model::{ErrorCode, TopicId};
use streamd_wire::kafka::ResponseHeader;
use streamd_wire::kafka::generated::find_coordinator_request::FindCoordinatorRequest;
use streamd_wire::kafka::generated::find_coordinator_response::{
    Coordinator, FindCoordinatorResponse,
};

use super::super::{encode, topics, txn};
use super::check_items;
use crate::broker::Broker;

/// Kinds of keys.
const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;

/// Answers FindCoordinator, versions 0 to 6.
pub async fn handle(
    broker: &Rc<Broker>,
    header: ResponseHeader,
    request: &FindCoordinatorRequest<'_>,
) -> Result<Vec<Part>, String> {
    check_items("keys", request.coordinator_keys.len())?;
    let keys: Vec<&str> = match header.version {
        ..=3 => vec![request.key],
        _ => request.coordinator_keys.to_vec(),
    };
    let mut found = Vec::with_capacity(keys.len());
    for key in keys {
        found.push(find(broker, request.key_type, key).await);
    }
    if header.version <= 3 {
        let Some(one) = found.pop() else {
            return Err("no key".to_owned());
        };
        let response = FindCoordinatorResponse {
            error_code: one.error_code,
            error_message: one.error_message,
            node_id: one.node_id,
            host: one.host,
            port: one.port,
            ..FindCoordinatorResponse::default()
        };
        return encode(header, &response);
    }
    let response = FindCoordinatorResponse {
        coordinators: found.into(),
        ..FindCoordinatorResponse::default()
    };
    encode(header, &response)
}

async fn find<'a>(broker: &'a Rc<Broker>, kind: i8, key: &'a str) -> Coordinator<'a> {
    let failed = |code: ErrorCode, text: &'static str| Coordinator {
        key,
        node_id: -1,
        host: "",
        port: -1,
        error_code: code.code(),
        error_message: Some(text),
    };
    let made = match kind {
        GROUP => make_topic(broker).await,
        TRANSACTION => txn::make_topic(broker).await,
        _ => {
            return failed(
                ErrorCode::InvalidRequest,
                "this kind of key has no coordinator here",
            );
        }
    };
    match made {
        Ok(()) => Coordinator {
            key,
            node_id: broker.identity.node_id,
            host: &broker.identity.host,
            port: i32::from(broker.identity.port),
            error_code: 0,
            error_message: None,
        },
        Err(_) => failed(
            ErrorCode::CoordinatorNotAvailable,
            "its internal topic cannot be made now",
        ),
    }
}

/// Sees to it that `__consumer_offsets` is there.
pub async fn make_topic(broker: &Rc<Broker>) -> Result<(), ErrorCode> {
    let image = broker.shard.image();
    if image.topic(OFFSETS_TOPIC).is_some() {
        return Ok(());
    }
    let env = &broker.shard.env;
    let segment_bytes = image.broker().groups.offsets_segment_bytes.to_string();
    let configs = [
        ("cleanup.policy", Some("compact")),
        ("compression.type", Some("producer")),
        ("segment.bytes", Some(segment_bytes.as_str())),
    ];
    let wanted = NewTopic {
        name: OFFSETS_TOPIC,
        id: TopicId::from_random(env.random_u64(), env.random_u64()),
        partitions: image.broker().groups.offsets_partitions,
        replication: -1,
        assignments: &[],
        configs: &configs,
        now_ms: env.wall_ms(),
    };
    let command = create_topic(&image, &wanted).map_err(|(code, _)| code)?;
    match topics::propose(broker, command).await {
        Ok(_) => Ok(()),
        // Another was faster.
        Err(refusal) if refusal.code == ErrorCode::TopicAlreadyExists => Ok(()),
        Err(refusal) => {
            eprintln!("warning: cannot make {OFFSETS_TOPIC}: {refusal}");
            Err(refusal.code)
        }
    }
}
