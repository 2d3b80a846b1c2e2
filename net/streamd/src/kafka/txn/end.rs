//! InitProducerId with a transactional id, and EndTxn.

use std::rc::Rc;

use streamd_core::txn::{End, Init, Reply, Request};
use streamd_io::Part;
use streamd_model::ErrorCode;
use streamd_wire::kafka::ResponseHeader;
use streamd_wire::kafka::generated::end_txn_request::EndTxnRequest;
use streamd_wire::kafka::generated::end_txn_response::EndTxnResponse;
use streamd_wire::kafka::generated::init_producer_id_request::InitProducerIdRequest;

use super::super::encode;
use super::super::internal::{self, Internal};
use super::{ask_with_id, code_of, fenced};
use crate::broker::Broker;

/// Does InitProducerId for a transactional id: who the producer is from now on.
pub async fn init(
    broker: &Rc<Broker>,
    id: &str,
    request: &InitProducerIdRequest<'_>,
    version: i16,
) -> Result<(i64, i16), ErrorCode> {
    let expected = match (request.producer_id, request.producer_epoch) {
        (-1, -1) => None,
        (producer, epoch) if producer >= 0 && epoch >= 0 => Some((producer, epoch)),
        _ => return Err(ErrorCode::InvalidRequest),
    };
    if request.enable2_pc || request.keep_prepared_txn {
        // Two-phase commit needs a right that nobody has here, as with Kafka by default.
        return Err(ErrorCode::TransactionalIdAuthorizationFailed);
    }
    internal::make(broker, Internal::Txns)
        .await
        .map_err(|_| ErrorCode::CoordinatorNotAvailable)?;
    let with = |fresh| {
        Request::Init(Init {
            timeout_ms: request.transaction_timeout_ms,
            expected,
            fresh,
        })
    };
    let done = ask_with_id(broker, id, with).await;
    match done {
        Ok(Reply::Producer { producer, epoch }) => Ok((producer, epoch)),
        other => Err(fenced(code_of(&other), version >= 4)),
    }
}

/// Answers EndTxn, versions 0 to 5.
pub async fn end(
    broker: &Rc<Broker>,
    header: ResponseHeader,
    request: &EndTxnRequest<'_>,
) -> Result<Vec<Part>, String> {
    let version = if header.version >= 5 { 2 } else { 1 };
    let with = |fresh| {
        Request::End(End {
            producer: request.producer_id,
            epoch: request.producer_epoch,
            commit: request.committed,
            version,
            fresh,
        })
    };
    let done = match request.transactional_id {
        "" => Err(ErrorCode::InvalidRequest),
        id => ask_with_id(broker, id, with).await,
    };
    let (producer_id, producer_epoch) = match done {
        Ok(Reply::Producer { producer, epoch }) if version >= 2 => (producer, epoch),
        _ => (-1, -1),
    };
    let response = EndTxnResponse {
        error_code: fenced(code_of(&done), header.version >= 2).code(),
        producer_id,
        producer_epoch,
        ..EndTxnResponse::default()
    };
    encode(header, &response)
}
