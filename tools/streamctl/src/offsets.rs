//! Where partitions begin and end: ListOffsets, asked of each partition's leader.

use std::collections::BTreeMap;
use std::thread;
use std::time::Instant;

use streamd_wire::kafka::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use streamd_wire::kafka::{ListOffsetsRequest, ListOffsetsResponse};

use crate::client::{Client, Partition, RETRY_PAUSE, Which};
use crate::failure::{Failure, Result, is_passing};

/// The position after the last record.
pub const LATEST: i64 = -1;
/// The position of the first record.
pub const EARLIEST: i64 = -2;

/// What a leader says that cannot tell yet: the code, and the sentence.
type Refused = (i16, Failure);

/// The offset that `what` ([`LATEST`] or [`EARLIEST`]) stands for, by partition. Partitions without
/// a leader are left out; one that has just got another leader is asked again.
///
/// # Errors
/// A leader cannot be asked, or answers with an error.
pub fn list(
    client: &mut Client,
    topic: &str,
    partitions: &[Partition],
    what: i64,
) -> Result<BTreeMap<i32, i64>> {
    let until = Instant::now() + client.timeout;
    let mut partitions = partitions.to_vec();
    loop {
        match ask(client, topic, &partitions, what)? {
            Ok(offsets) => return Ok(offsets),
            Err((code, _)) if is_passing(code) && Instant::now() < until => {}
            Err((_, failure)) => return Err(failure),
        }
        thread::sleep(RETRY_PAUSE);
        let mut known = client.metadata(Which::These(&[topic]))?.topics;
        if let Some(now) = known.pop() {
            let asked = |p: &Partition| partitions.iter().any(|a| a.index == p.index);
            partitions = now.partitions.into_iter().filter(asked).collect();
        }
    }
}

fn ask(
    client: &mut Client,
    topic: &str,
    partitions: &[Partition],
    what: i64,
) -> Result<std::result::Result<BTreeMap<i32, i64>, Refused>> {
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
        let taken = take(&conn.call(&request, i16::MAX)?, topic, &mut offsets);
        if let Err(refused) = taken {
            return Ok(Err(refused));
        }
    }
    Ok(Ok(offsets))
}

fn take(
    answer: &ListOffsetsResponse<'_>,
    topic: &str,
    offsets: &mut BTreeMap<i32, i64>,
) -> std::result::Result<(), Refused> {
    for partition in answer.topics.iter().flat_map(|t| t.partitions.to_vec()) {
        let (code, index) = (partition.error_code, partition.partition_index);
        if code != 0 {
            let what = format!("the offsets of {topic} partition {index}");
            return Err((code, Failure::code(&what, code, None)));
        }
        offsets.insert(index, partition.offset);
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
