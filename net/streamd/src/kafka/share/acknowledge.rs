//! ShareAcknowledge: what became of records, without asking for more.

use std::rc::Rc;
use std::sync::Arc;

use streamd_io::Part;
use streamd_model::{ErrorCode, TopicId};
use streamd_wire::kafka::ResponseHeader;
use streamd_wire::kafka::generated::share_acknowledge_request::ShareAcknowledgeRequest;
use streamd_wire::kafka::generated::share_acknowledge_response::{
    PartitionData, ShareAcknowledgeResponse, ShareAcknowledgeTopicResponse,
};

use super::super::{encode, runs};
use super::{ACKS_MAX, Said, release, said, settle};
use crate::broker::Broker;

type Settled = Vec<((TopicId, i32), Result<(), (ErrorCode, String)>)>;

/// Answers ShareAcknowledge, versions 1 and 2.
pub async fn handle(
    broker: &Rc<Broker>,
    header: ResponseHeader,
    request: &ShareAcknowledgeRequest<'_>,
) -> Result<Vec<Part>, String> {
    let done = acknowledge(broker, request).await;
    let image = broker.shard.image();
    let own = image.group_configs(request.group_id.unwrap_or_default());
    let lock_ms = image.broker().groups.share.queue_of(own).lock_ms;
    let response = match &done {
        Err((code, text)) => ShareAcknowledgeResponse {
            error_code: code.code(),
            error_message: Some(text),
            ..ShareAcknowledgeResponse::default()
        },
        Ok(settled) => ShareAcknowledgeResponse {
            acquisition_lock_timeout_ms: lock_ms,
            responses: topics(settled).into(),
            ..ShareAcknowledgeResponse::default()
        },
    };
    encode(header, &response)
}

fn topics(settled: &Settled) -> Vec<ShareAcknowledgeTopicResponse<'_>> {
    let partitions = settled.iter().map(|((topic, partition), result)| {
        let refused = result.as_ref().err();
        let data = PartitionData {
            partition_index: *partition,
            error_code: refused.map_or(0, |e| e.0.code()),
            error_message: refused.map(|e| e.1.as_str()),
            ..PartitionData::default()
        };
        (*topic, data)
    });
    let topics = runs(partitions).into_iter();
    let topics = topics.map(|(topic_id, partitions)| ShareAcknowledgeTopicResponse {
        topic_id,
        partitions: partitions.into(),
    });
    topics.collect()
}

async fn acknowledge(
    broker: &Rc<Broker>,
    request: &ShareAcknowledgeRequest<'_>,
) -> Result<Settled, (ErrorCode, String)> {
    let who = super::fetch::who(request.group_id, request.member_id)?;
    let mut left = ACKS_MAX;
    let mut all: Vec<Said> = Vec::new();
    for topic in &request.topics {
        for p in &topic.partitions {
            let batches = p.acknowledgement_batches.iter();
            let batches =
                batches.map(|b| (b.first_offset, b.last_offset, b.acknowledge_types.to_vec()));
            all.extend(said(topic.topic_id, p.partition_index, batches, &mut left)?);
        }
    }
    if all.iter().any(Said::renews) && !request.is_renew_ack {
        let text = "Renewals need IsRenewAck.".to_owned();
        return Err((ErrorCode::InvalidRequest, text));
    }
    let epoch = request.share_session_epoch;
    let refuse = |code: ErrorCode| (code, code.message().to_owned());
    if epoch == 0 {
        return Err(refuse(ErrorCode::InvalidShareSessionEpoch));
    }
    if epoch == -1 {
        if !broker.shares.borrow().has(&who) {
            return Err(refuse(ErrorCode::ShareSessionNotFound));
        }
    } else {
        broker
            .shares
            .borrow_mut()
            .next(&who, epoch)
            .map_err(refuse)?;
    }
    let names: (&Arc<str>, &Arc<str>) = (&who.0, &who.1);
    let settled = settle(broker, names, all).await;
    if epoch == -1 {
        let ended = broker.shares.borrow_mut().end(&who);
        if let Some(ended) = ended {
            release(broker.clone(), ended, true).await;
        }
    }
    Ok(settled)
}
