//! The Kafka protocol: which handler answers which API, one file per family.

pub mod cluster;
pub mod configs;
mod features;
pub mod fetch;
pub mod group;
pub mod internal;
mod leaders;
pub mod metadata;
mod nearest;
pub mod offsets;
pub mod places;
pub mod produce;
pub mod replicas;
pub mod session;
pub mod share;
pub mod topics;
pub mod txn;

#[cfg(test)]
pub mod tests;

use std::rc::Rc;

use bytes::Bytes;
use streamd_io::Part;
use streamd_model::ErrorCode;
use streamd_wire::kafka::generated::api_versions_response::ApiVersionsResponse;
use streamd_wire::kafka::versions::SERVED;
use streamd_wire::kafka::{ApiKey, Frame, FrameError, Message, ResponseHeader, Writer};

use crate::broker::Broker;

/// Encodes a whole response frame.
fn encode<M: Message>(header: ResponseHeader, body: &M) -> Result<Vec<Part>, String> {
    let mut writer = Writer::append_to(Vec::with_capacity(512));
    header
        .encode(body, &mut writer)
        .map_err(|e| format!("cannot encode a response: {e}"))?;
    Ok(vec![Part::Bytes(Bytes::from(writer.into_parts().0))])
}

/// Puts what follows one another under the same key together, as answers have the partitions of a
/// topic. A key that comes again later has another run.
fn runs<K: PartialEq, T>(items: impl IntoIterator<Item = (K, T)>) -> Vec<(K, Vec<T>)> {
    let mut runs: Vec<(K, Vec<T>)> = Vec::new();
    for (key, item) in items {
        match runs.last_mut().filter(|run| run.0 == key) {
            Some(run) => run.1.push(item),
            None => runs.push((key, vec![item])),
        }
    }
    runs
}

/// Refuses a request that names too much; the connection is closed.
fn check_items(what: &str, count: usize, max: usize) -> Result<(), String> {
    if count <= max {
        return Ok(());
    }
    Err(format!("a request with {count} {what}; {max} are allowed"))
}

/// The answer to a frame whose header is not served, where Kafka has one: ApiVersions of an
/// unknown version is answered in version 0 (KIP-511). Else the connection is closed.
pub fn refuse(error: &FrameError) -> Option<Vec<Part>> {
    match *error {
        FrameError::Version {
            api: ApiKey::ApiVersions,
            correlation_id,
            ..
        } => {
            let header = ResponseHeader {
                api: ApiKey::ApiVersions,
                version: 0,
                correlation_id,
            };
            let response = ApiVersionsResponse {
                error_code: ErrorCode::UnsupportedVersion.code(),
                api_keys: SERVED
                    .iter()
                    .filter(|s| s.api == ApiKey::ApiVersions)
                    .map(features::api_version)
                    .collect(),
                ..ApiVersionsResponse::default()
            };
            encode(header, &response).ok()
        }
        _ => None,
    }
}

/// Whether the answer may wait for others: then it is looked whether the client stays.
pub fn waits_for_others(api: ApiKey) -> bool {
    matches!(
        api,
        ApiKey::JoinGroup | ApiKey::SyncGroup | ApiKey::ShareFetch
    )
}

/// Answers any request but Produce. An error closes the connection. `host` is the client's, `key`
/// the connection's.
pub async fn answer(
    broker: &Rc<Broker>,
    (host, key): (&str, u64),
    frame: &Frame<'_>,
) -> Result<Vec<Part>, String> {
    let header = ResponseHeader::from(&frame.header);
    let api = frame.header.api;
    macro_rules! decoded {
        () => {
            &frame
                .decode()
                .map_err(|e| format!("{} version {}: {e}", api.name(), header.version))?
        };
    }
    match api {
        ApiKey::ApiVersions => features::versions(broker, header),
        ApiKey::UpdateFeatures => features::update(broker, header, decoded!()).await,
        ApiKey::Fetch => fetch::handle(broker, &frame.header, decoded!()).await,
        ApiKey::ListOffsets => encode(
            header,
            &offsets::list_offsets(broker, header.version, decoded!()).await,
        ),
        ApiKey::OffsetForLeaderEpoch => {
            encode(header, &offsets::epoch_ends(broker, decoded!()).await)
        }
        ApiKey::Metadata => metadata::metadata(broker, header, decoded!()).await,
        ApiKey::DescribeCluster => metadata::cluster(broker, header, decoded!()),
        ApiKey::DescribeTopicPartitions => metadata::topic_partitions(broker, header, decoded!()),
        ApiKey::CreateTopics => topics::create(broker, header, decoded!()).await,
        ApiKey::DeleteTopics => topics::delete(broker, header, decoded!()).await,
        ApiKey::CreatePartitions => topics::create_partitions(broker, header, decoded!()).await,
        _ if replicas::SERVED.contains(&api) => replicas::answer(broker, frame).await,
        ApiKey::DescribeConfigs => configs::describe(broker, header, decoded!()),
        ApiKey::AlterConfigs => configs::replace(broker, header, decoded!()).await,
        ApiKey::IncrementalAlterConfigs => configs::alter(broker, header, decoded!()).await,
        ApiKey::DescribeLogDirs => cluster::log_dirs(broker, header, decoded!()).await,
        ApiKey::InitProducerId => cluster::init_producer_id(broker, header, decoded!()).await,
        ApiKey::AddPartitionsToTxn => txn::add::partitions(broker, header, decoded!()).await,
        ApiKey::AddOffsetsToTxn => txn::add::offsets(broker, header, decoded!()).await,
        ApiKey::EndTxn => txn::end::end(broker, header, decoded!()).await,
        ApiKey::WriteTxnMarkers => txn::admin::write_markers(broker, header, decoded!()).await,
        ApiKey::TxnOffsetCommit => txn::commit::handle(broker, header, decoded!()).await,
        ApiKey::DescribeProducers => {
            txn::admin::describe_producers(broker, header, decoded!()).await
        }
        ApiKey::DescribeTransactions => txn::admin::describe(broker, header, decoded!()).await,
        ApiKey::ListTransactions => txn::admin::list(broker, header, decoded!()).await,
        ApiKey::DeleteRecords => encode(header, &offsets::delete_records(broker, decoded!()).await),
        ApiKey::FindCoordinator => group::find::handle(broker, header, decoded!()).await,
        ApiKey::JoinGroup => group::member::join(broker, &frame.header, host, decoded!()).await,
        ApiKey::SyncGroup => group::member::sync(broker, header, decoded!()).await,
        ApiKey::Heartbeat => group::member::heartbeat(broker, header, decoded!()).await,
        ApiKey::LeaveGroup => group::member::leave(broker, header, decoded!()).await,
        ApiKey::OffsetCommit => group::offsets::commit(broker, header, decoded!()).await,
        ApiKey::OffsetFetch => group::offsets::fetch(broker, header, decoded!()).await,
        ApiKey::OffsetDelete => group::offsets::delete(broker, header, decoded!()).await,
        ApiKey::DescribeGroups => group::admin::describe(broker, header, decoded!()).await,
        ApiKey::ListGroups => group::admin::list(broker, header, decoded!()).await,
        ApiKey::ConsumerGroupHeartbeat => {
            group::consumer::heartbeat(broker, &frame.header, host, decoded!()).await
        }
        ApiKey::ConsumerGroupDescribe => {
            group::consumer::describe(broker, header, decoded!()).await
        }
        ApiKey::ListConfigResources => configs::list(broker, header, decoded!()),
        ApiKey::DeleteGroups => group::admin::delete(broker, header, decoded!()).await,
        _ => share::answer(broker, (host, key), frame).await,
    }
}
