//! FindCoordinator: who leads the partition of an internal topic that a key belongs to. The first
//! that looks for the coordinator of a group makes `__consumer_offsets`, of a transaction
//! `__transaction_state`, of a share-partition `__share_group_state`.

use std::rc::Rc;

use streamd_io::Part;
use streamd_model::ErrorCode;
use streamd_wire::kafka::ResponseHeader;
use streamd_wire::kafka::generated::find_coordinator_request::FindCoordinatorRequest;
use streamd_wire::kafka::generated::find_coordinator_response::{
    Coordinator, FindCoordinatorResponse,
};

use super::super::encode;
use super::super::internal::{self, Internal};
use super::super::places::View;
use super::check_items;
use crate::broker::Broker;

/// Kinds of keys.
const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;
const SHARE: i8 = 2;

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
        found.push((key, find(broker, request.key_type, key).await));
    }
    let view = View::of(broker);
    let found = found.iter();
    let mut found: Vec<_> = found.map(|(key, f)| coordinator(&view, key, *f)).collect();
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

/// The internal topic that a key belongs to; it is there.
async fn find(
    broker: &Rc<Broker>,
    kind: i8,
    key: &str,
) -> Result<Internal, (ErrorCode, &'static str)> {
    let which = match kind {
        GROUP => Internal::Offsets,
        TRANSACTION => Internal::Txns,
        SHARE if !is_share_key(key) => {
            let text = "the key of a share-partition is GROUP:TOPIC-ID:PARTITION";
            return Err((ErrorCode::InvalidRequest, text));
        }
        SHARE => Internal::Shares,
        _ => {
            let text = "this kind of key has no coordinator here";
            return Err((ErrorCode::InvalidRequest, text));
        }
    };
    let unmade = |_| {
        let text = "its internal topic cannot be made now";
        (ErrorCode::CoordinatorNotAvailable, text)
    };
    let made = internal::make(broker, which).await;
    made.map(|()| which).map_err(unmade)
}

fn coordinator<'a>(
    view: &'a View,
    key: &'a str,
    found: Result<Internal, (ErrorCode, &'static str)>,
) -> Coordinator<'a> {
    let leader = found.and_then(|which| {
        let partition = which.partition(&view.image, key);
        let leader = partition.and_then(|p| view.broker(view.partition(p.topic, p.index).leader));
        let text = "nobody leads its partition of the internal topic now";
        leader.ok_or((ErrorCode::CoordinatorNotAvailable, text))
    });
    match leader {
        Ok(broker) => Coordinator {
            key,
            node_id: broker.node,
            host: broker.host,
            port: i32::from(broker.port),
            error_code: 0,
            error_message: None,
        },
        Err((code, text)) => Coordinator {
            key,
            node_id: -1,
            host: "",
            port: -1,
            error_code: code.code(),
            error_message: Some(text),
        },
    }
}

/// Whether it is `group:topicId:partition`.
fn is_share_key(key: &str) -> bool {
    let mut parts = key.rsplitn(3, ':');
    let partition = parts.next().and_then(|p| p.parse::<u32>().ok());
    let topic = parts.next().is_some_and(|id| id.len() == 22);
    partition.is_some() && topic && parts.next().is_some_and(|group| !group.is_empty())
}
