//! What coordinators are asked: groups, members, committed offsets.

use std::collections::BTreeMap;
use std::thread;
use std::time::Instant;

use streamd_model::ErrorCode;
use streamd_wire::kafka::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use streamd_wire::kafka::{
    ApiKey, ConsumerGroupDescribeRequest, DeleteGroupsRequest, DescribeGroupsRequest,
    FindCoordinatorRequest, ListGroupsRequest, OffsetCommitRequest, OffsetFetchRequest, Request,
};

use crate::client::{Client, RETRY_PAUSE, Which};
use crate::conn::Conn;
use crate::failure::{Failure, Result};

/// A group in the list.
pub struct Listed {
    pub name: String,
    pub state: String,
    pub kind: String,
    pub protocol_type: String,
}

/// A group, looked at closely.
pub struct Described {
    pub state: String,
    pub protocol_type: String,
    pub protocol: String,
    pub members: Vec<Member>,
}

/// One of its members.
pub struct Member {
    pub id: String,
    pub instance: Option<String>,
    pub client: String,
    pub host: String,
    /// Topics and partitions, if it is a consumer that has some.
    pub owns: BTreeMap<String, Vec<i32>>,
}

/// Topics, partitions, committed offsets.
pub type Offsets = BTreeMap<String, BTreeMap<i32, i64>>;

/// The groups of all brokers, by name.
pub fn list(client: &mut Client) -> Result<Vec<Listed>> {
    let brokers = client.metadata(Which::None)?.brokers;
    let mut all = Vec::new();
    for broker in brokers {
        let conn = client.broker(broker.id)?;
        let answer = conn.call(&ListGroupsRequest::default(), i16::MAX)?;
        if answer.error_code != 0 {
            return Err(Failure::code("the list of groups", answer.error_code, None));
        }
        all.extend(answer.groups.iter().map(|g| Listed {
            name: g.group_id.to_owned(),
            state: g.group_state.to_owned(),
            kind: g.group_type.to_owned(),
            protocol_type: g.protocol_type.to_owned(),
        }));
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

fn is_passing(code: i16) -> bool {
    use ErrorCode as E;
    matches!(
        ErrorCode::from_code(code),
        Some(E::CoordinatorLoadInProgress | E::CoordinatorNotAvailable | E::NotCoordinator)
    )
}

/// Asks a group's coordinator, and again while it is being moved or made. `take` gives the answer,
/// or the code that came instead.
pub fn coordinator<M: Request, T>(
    client: &mut Client,
    group: &str,
    (request, max): (&M, i16),
    take: impl Fn(&M::Response<'_>) -> std::result::Result<T, i16>,
) -> Result<T> {
    let deadline = Instant::now() + client.timeout;
    loop {
        let conn = client.any()?;
        let code = match find(conn, group)? {
            Err(code) => code,
            Ok(node) => {
                client.metadata(Which::None)?;
                let answer = client.broker(node)?.call(request, max)?;
                match take(&answer) {
                    Ok(found) => return Ok(found),
                    Err(code) => code,
                }
            }
        };
        if !is_passing(code) || Instant::now() > deadline {
            return Err(Failure::code(&format!("group `{group}`"), code, None));
        }
        thread::sleep(RETRY_PAUSE);
    }
}

fn find(conn: &mut Conn, group: &str) -> Result<std::result::Result<i32, i16>> {
    let request = FindCoordinatorRequest {
        key: group,
        ..FindCoordinatorRequest::default()
    };
    // From version 4 on the answer is a list.
    let answer = conn.call(&request, 3)?;
    Ok(match answer.error_code {
        0 => Ok(answer.node_id),
        code => Err(code),
    })
}

/// The group, of whichever protocol; `None` if there is none.
pub fn describe(client: &mut Client, group: &str) -> Result<Option<Described>> {
    if let Some(found) = describe_classic(client, group)? {
        return Ok(Some(found));
    }
    match client
        .any()?
        .version(ApiKey::ConsumerGroupDescribe, i16::MAX)
    {
        Some(_) => describe_consumer(client, group),
        None => Ok(None),
    }
}

/// A group of the newer `consumer` protocol.
fn describe_consumer(client: &mut Client, group: &str) -> Result<Option<Described>> {
    let request = ConsumerGroupDescribeRequest {
        group_ids: vec![group].into(),
        include_authorized_operations: false,
    };
    coordinator(client, group, (&request, i16::MAX), |answer| {
        let Some(found) = answer.groups.iter().next() else {
            return Ok(None);
        };
        match found.error_code {
            0 => {}
            code if code == ErrorCode::GroupIdNotFound.code() => return Ok(None),
            code => return Err(code),
        }
        let members = found.members.iter().map(|m| Member {
            id: m.member_id.to_owned(),
            instance: m.instance_id.map(str::to_owned),
            client: m.client_id.to_owned(),
            host: m.client_host.trim_start_matches('/').to_owned(),
            owns: m
                .assignment
                .topic_partitions
                .iter()
                .map(|t| (t.topic_name.to_owned(), t.partitions.iter().collect()))
                .collect(),
        });
        Ok(Some(Described {
            state: found.group_state.to_owned(),
            protocol_type: "consumer".to_owned(),
            protocol: found.assignor_name.to_owned(),
            members: members.collect(),
        }))
    })
}

/// A classic group.
fn describe_classic(client: &mut Client, group: &str) -> Result<Option<Described>> {
    let request = DescribeGroupsRequest {
        groups: vec![group].into(),
        include_authorized_operations: false,
    };
    coordinator(client, group, (&request, i16::MAX), |answer| {
        let Some(found) = answer.groups.iter().next() else {
            return Ok(None);
        };
        let missing = found.error_code == ErrorCode::GroupIdNotFound.code();
        if missing || (found.error_code == 0 && found.group_state == "Dead") {
            return Ok(None);
        }
        if found.error_code != 0 {
            return Err(found.error_code);
        }
        let members = found.members.iter().map(|m| Member {
            id: m.member_id.to_owned(),
            instance: m.group_instance_id.map(str::to_owned),
            client: m.client_id.to_owned(),
            host: m.client_host.trim_start_matches('/').to_owned(),
            owns: assignment(m.member_assignment).unwrap_or_default(),
        });
        Ok(Some(Described {
            state: found.group_state.to_owned(),
            protocol_type: found.protocol_type.to_owned(),
            protocol: found.protocol_data.to_owned(),
            members: members.collect(),
        }))
    })
}

/// A consumer's assignment: version, then topics with partitions. `None` for what is not such.
fn assignment(bytes: &[u8]) -> Option<BTreeMap<String, Vec<i32>>> {
    let mut rest = bytes.get(2..)?;
    let number = |rest: &mut &[u8]| {
        let (head, tail) = rest.split_first_chunk::<4>()?;
        *rest = tail;
        Some(i32::from_be_bytes(*head))
    };
    let mut owns = BTreeMap::new();
    for _ in 0..number(&mut rest)? {
        let (length, tail) = rest.split_first_chunk::<2>()?;
        let length = usize::try_from(i16::from_be_bytes(*length)).ok()?;
        let name = std::str::from_utf8(tail.get(..length)?).ok()?;
        rest = &tail[length..];
        let mut partitions = Vec::new();
        for _ in 0..number(&mut rest)? {
            partitions.push(number(&mut rest)?);
        }
        partitions.sort_unstable();
        owns.insert(name.to_owned(), partitions);
    }
    Some(owns)
}

/// Everything that the group has committed.
pub fn offsets(client: &mut Client, group: &str) -> Result<Offsets> {
    let request = OffsetFetchRequest {
        group_id: group,
        topics: None,
        ..OffsetFetchRequest::default()
    };
    // From version 8 on many groups can be asked about, in another form.
    coordinator(client, group, (&request, 7), |answer| {
        if answer.error_code != 0 {
            return Err(answer.error_code);
        }
        let mut found = Offsets::new();
        for topic in &answer.topics {
            let offsets = found.entry(topic.name.to_owned()).or_default();
            for p in topic.partitions.iter().filter(|p| p.committed_offset >= 0) {
                offsets.insert(p.partition_index, p.committed_offset);
            }
        }
        Ok(found)
    })
}

/// Commits offsets for a group without members.
pub fn commit(client: &mut Client, group: &str, offsets: &Offsets) -> Result<()> {
    let topics = offsets
        .iter()
        .map(|(name, offsets)| OffsetCommitRequestTopic {
            name,
            partitions: offsets
                .iter()
                .map(|(index, offset)| OffsetCommitRequestPartition {
                    partition_index: *index,
                    committed_offset: *offset,
                    ..OffsetCommitRequestPartition::default()
                })
                .collect(),
            ..OffsetCommitRequestTopic::default()
        });
    let request = OffsetCommitRequest {
        group_id: group,
        topics: topics.collect(),
        ..OffsetCommitRequest::default()
    };
    // From version 10 on topics are named by their ids.
    coordinator(client, group, (&request, 9), |answer| {
        let partitions = answer.topics.iter().flat_map(|t| t.partitions.to_vec());
        let mut codes = partitions.map(|p| p.error_code);
        codes.find(|code| *code != 0).map_or(Ok(()), Err)
    })
}

/// Deletes a group that has no members.
pub fn delete(client: &mut Client, group: &str) -> Result<()> {
    let request = DeleteGroupsRequest {
        groups_names: vec![group].into(),
    };
    client.any()?.need(ApiKey::DeleteGroups, i16::MAX)?;
    coordinator(client, group, (&request, i16::MAX), |answer| {
        match answer.results.iter().next().map(|g| g.error_code) {
            None | Some(0) => Ok(()),
            Some(code) => Err(code),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignments_are_read_and_nonsense_is_not() {
        let bytes = [
            0, 1, 0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 2, 0, 0, 0, 5, 0, 0, 0, 3, 255, 255, 255, 255,
        ];
        let owns = assignment(&bytes).unwrap();
        assert_eq!(owns, BTreeMap::from([("t".to_owned(), vec![3, 5])]));
        for end in 0..21 {
            assert!(assignment(&bytes[..end]).is_none(), "{end}");
        }
        assert!(assignment(b"connect, say").is_none());
    }
}
