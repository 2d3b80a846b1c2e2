//! The answer to ShareFetch.

use streamd_io::Part;
use streamd_wire::kafka::generated::share_fetch_response::{
    AcquiredRecords, PartitionData, ShareFetchResponse, ShareFetchableTopicResponse,
};
use streamd_wire::kafka::{Records, ResponseHeader};

use super::{Got, Why};
use crate::kafka::runs;

/// Encodes the answer.
pub(super) fn encode(
    header: ResponseHeader,
    done: Result<Vec<Got>, Why>,
    lock_ms: i32,
) -> Result<Vec<Part>, String> {
    let response = match &done {
        Err((code, text)) => ShareFetchResponse {
            error_code: code.code(),
            error_message: Some(text),
            ..ShareFetchResponse::default()
        },
        Ok(got) => ShareFetchResponse {
            acquisition_lock_timeout_ms: lock_ms,
            responses: topics(got).into(),
            ..ShareFetchResponse::default()
        },
    };
    super::super::super::encode(header, &response)
}

fn topics(got: &[Got]) -> Vec<ShareFetchableTopicResponse<'_>> {
    let topics = runs(got.iter().map(|one| (one.place.0, data(one)))).into_iter();
    let topics = topics.map(|(topic_id, partitions)| ShareFetchableTopicResponse {
        topic_id,
        partitions: partitions.into(),
    });
    topics.collect()
}

fn data(got: &Got) -> PartitionData<'_> {
    let refused = got.acknowledged.as_ref().and_then(|a| a.as_ref().err());
    let acquired = got.acquired.iter().map(|a| AcquiredRecords {
        first_offset: a.first,
        last_offset: a.last,
        delivery_count: a.count,
    });
    PartitionData {
        partition_index: got.place.1,
        error_code: got.error.as_ref().map_or(0, |e| e.0.code()),
        error_message: got.error.as_ref().map(|e| e.1.as_str()),
        acknowledge_error_code: refused.map_or(0, |e| e.0.code()),
        acknowledge_error_message: refused.map(|e| e.1.as_str()),
        records: Records::Bytes(&got.records),
        acquired_records: acquired.collect(),
        ..PartitionData::default()
    }
}
