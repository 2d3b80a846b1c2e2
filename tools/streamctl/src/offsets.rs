//! Where partitions begin and end: ListOffsets, asked of each partition's leader.

use std::collections::BTreeMap;

use streamd_wire::kafka::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use streamd_wire::kafka::{ListOffsetsRequest, ListOffsetsResponse};

use crate::client::{Client, Partition};
use crate::failure::{Failure, Result};

/// The position after the last record.
pub const LATEST: i64 = -1;
/// The position of the first record.
pub const EARLIEST: i64 = -2;

/// The offset that `what` ([`LATEST`] or [`EARLIEST`]) stands for, by partition. Partitions without
/// a leader are left out.
///
/// # Errors
/// A leader cannot be asked, or answers with an error.
pub fn list(
    client: &mut Client,
    topic: &str,
    partitions: &[Partition],
    what: i64,
) -> Result<BTreeMap<i32, i64>> {
    let mut offsets = BTreeMap::new();
    for (leader, indexes) in by_leader(partitions) {
        let wanted = indexes.iter().map(|&partition_index| ListOffsetsPartition {
            partition_index,
            timestamp: what,
            ..ListOffsetsPartition::default()
        });
        let asked = ListOffsetsTopic {
            name: topic,
            partitions: wanted.collect(),
        };
        let timeout_ms = client.timeout.as_millis() as i32;
        let request = ListOffsetsRequest {
            replica_id: -1,
            topics: vec![asked].into(),
            ..Default::default()
        };
        let conn = client.broker(leader)?;
        let version = conn.need(streamd_wire::kafka::ApiKey::ListOffsets, i16::MAX)?;
        let timeout_ms = if version >= 10 { timeout_ms } else { 0 };
        let request = ListOffsetsRequest {
            timeout_ms,
            ..request
        };
        take(&conn.call(&request, i16::MAX)?, topic, &mut offsets)?;
    }
    Ok(offsets)
}

fn take(
    answer: &ListOffsetsResponse<'_>,
    topic: &str,
    offsets: &mut BTreeMap<i32, i64>,
) -> Result<()> {
    for partition in answer.topics.iter().flat_map(|t| t.partitions.to_vec()) {
        if partition.error_code != 0 {
            let what = format!(
                "the offsets of {topic} partition {}",
                partition.partition_index
            );
            return Err(Failure::code(&what, partition.error_code, None));
        }
        offsets.insert(partition.partition_index, partition.offset);
    }
    Ok(())
}

/// The indexes of partitions that have a leader, by leader.
pub fn by_leader(partitions: &[Partition]) -> BTreeMap<i32, Vec<i32>> {
    let mut leaders: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for partition in partitions.iter().filter(|p| p.leader >= 0) {
        leaders
            .entry(partition.leader)
            .or_default()
            .push(partition.index);
    }
    leaders
}
