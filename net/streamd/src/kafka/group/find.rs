//! FindCoordinator: one node coordinates everything. The first that looks for the coordinator of a
//! group makes `__consumer_offsets`, of a transaction `__transaction_state`, of a share-partition
//! `__share_group_state`.

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
        GROUP => internal::make(broker, Internal::Offsets).await,
        TRANSACTION => internal::make(broker, Internal::Txns).await,
        SHARE if !is_share_key(key) => {
            return failed(
                ErrorCode::InvalidRequest,
                "the key of a share-partition is GROUP:TOPIC-ID:PARTITION",
            );
        }
        SHARE => internal::make(broker, Internal::Shares).await,
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

/// Whether it is `group:topicId:partition`.
fn is_share_key(key: &str) -> bool {
    let mut parts = key.rsplitn(3, ':');
    let partition = parts.next().and_then(|p| p.parse::<u32>().ok());
    let topic = parts.next().is_some_and(|id| id.len() == 22);
    partition.is_some() && topic && parts.next().is_some_and(|group| !group.is_empty())
}
