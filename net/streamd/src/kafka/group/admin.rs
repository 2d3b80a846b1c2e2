//! DescribeGroups, ListGroups, DeleteGroups.

use std::rc::Rc;
use std::sync::Arc;

use streamd_core::group::{Description, GroupKind, Listed, Reply, Request};
use streamd_io::Part;
use streamd_model::ErrorCode;
use streamd_shard::{Reply as ShardReply, Request as ShardRequest};
use streamd_wire::kafka::ResponseHeader;
use streamd_wire::kafka::generated::delete_groups_request::DeleteGroupsRequest;
use streamd_wire::kafka::generated::delete_groups_response::{
    DeletableGroupResult, DeleteGroupsResponse,
};
use streamd_wire::kafka::generated::describe_groups_request::DescribeGroupsRequest;
use streamd_wire::kafka::generated::describe_groups_response::{
    DescribeGroupsResponse, DescribedGroup, DescribedGroupMember,
};
use streamd_wire::kafka::generated::list_groups_request::ListGroupsRequest;
use streamd_wire::kafka::generated::list_groups_response::{ListGroupsResponse, ListedGroup};

use super::super::{encode, share};
use super::{Done, ask_all, check_items, code_of};
use crate::broker::Broker;

/// Stands for "not asked for".
const NO_OPERATIONS: i32 = i32::MIN;
/// All operations on a group: read, delete, describe, describe and alter configs, by the numbers
/// of Kafka's AclOperation.
const GROUP_OPERATIONS: i32 = 1 << 3 | 1 << 6 | 1 << 8 | 1 << 10 | 1 << 11;
/// Kinds of groups.
const CLASSIC: &str = "classic";
const CONSUMER: &str = "consumer";
const SHARE: &str = "share";

fn kind(group: &Listed) -> &'static str {
    match group.kind {
        GroupKind::Consumer => CONSUMER,
        GroupKind::Classic => CLASSIC,
        GroupKind::Share => SHARE,
    }
}

/// What the client may do to a group, if it asks.
pub(in super::super) fn operations(wanted: bool) -> i32 {
    match wanted {
        true => GROUP_OPERATIONS,
        false => NO_OPERATIONS,
    }
}

/// Answers DescribeGroups, versions 0 to 6.
pub async fn describe(
    broker: &Rc<Broker>,
    header: ResponseHeader,
    request: &DescribeGroupsRequest<'_>,
) -> Result<Vec<Part>, String> {
    check_items("groups", request.groups.len())?;
    let names: Vec<&str> = request.groups.to_vec();
    let requests = names.iter().map(|n| (Arc::from(*n), Request::Describe));
    let done = ask_all(broker, requests.collect()).await;
    let operations = operations(request.include_authorized_operations);
    let missing: Vec<String> = names
        .iter()
        .map(|n| format!("Group {n} not found."))
        .collect();
    let groups = names.iter().zip(&done).zip(&missing);
    let groups = groups.map(|((name, done), missing)| DescribedGroup {
        authorized_operations: operations,
        ..described(header.version, name, done, missing)
    });
    let response = DescribeGroupsResponse {
        throttle_time_ms: 0,
        groups: groups.collect(),
    };
    encode(header, &response)
}

fn described<'a>(
    v: i16,
    group_id: &'a str,
    done: &'a Done,
    missing: &'a str,
) -> DescribedGroup<'a> {
    match done {
        Ok(Reply::Describe(found)) => DescribedGroup {
            group_id,
            members: members(v, found),
            group_state: found.state,
            protocol_type: &found.protocol_type,
            protocol_data: &found.protocol,
            ..DescribedGroup::default()
        },
        other => {
            let code = code_of(other);
            let is_missing = code == ErrorCode::GroupIdNotFound;
            DescribedGroup {
                // Before version 6 a group that is not there is dead, and that is no error.
                error_code: if is_missing && v < 6 { 0 } else { code.code() },
                error_message: Some(missing).filter(|_| is_missing && v >= 6),
                group_id,
                group_state: if is_missing { "Dead" } else { "" },
                ..DescribedGroup::default()
            }
        }
    }
}

fn members(
    v: i16,
    found: &Description,
) -> streamd_wire::kafka::Array<'_, DescribedGroupMember<'_>> {
    let members = found.members.iter().map(|m| DescribedGroupMember {
        member_id: &m.who.id,
        group_instance_id: m.who.instance.as_deref().filter(|_| v >= 4),
        client_id: &m.client_id,
        client_host: &m.client_host,
        member_metadata: &m.metadata,
        member_assignment: &m.assignment,
    });
    members.collect()
}

/// Answers ListGroups, versions 0 to 5: of every shard, filtered by state and kind.
pub async fn list(
    broker: &Rc<Broker>,
    header: ResponseHeader,
    request: &ListGroupsRequest<'_>,
) -> Result<Vec<Part>, String> {
    let mut waits = Vec::new();
    for shard in 0..broker.shard.mesh.shards() {
        waits.push(broker.begin(shard, ShardRequest::GroupList).await);
    }
    let mut all: Vec<Listed> = Vec::new();
    for wait in waits {
        if let Some(ShardReply::GroupList(some)) = wait.await {
            all.extend(some);
        }
    }
    all.sort_unstable_by(|a, b| a.group.cmp(&b.group));
    let has = |filter: &[&str], value: &str| {
        filter.is_empty() || filter.iter().any(|f| f.eq_ignore_ascii_case(value))
    };
    let states: Vec<&str> = request.states_filter.to_vec();
    let types: Vec<&str> = request.types_filter.to_vec();
    let v = header.version;
    let wanted = all
        .iter()
        .filter(|g| has(&states, g.state) && has(&types, kind(g)));
    let groups = wanted.map(|g| ListedGroup {
        group_id: &g.group,
        protocol_type: &g.protocol_type,
        group_state: if v >= 4 { g.state } else { "" },
        group_type: if v >= 5 { kind(g) } else { "" },
    });
    let response = ListGroupsResponse {
        throttle_time_ms: 0,
        error_code: 0,
        groups: groups.collect(),
    };
    encode(header, &response)
}

/// Answers DeleteGroups, versions 0 to 2.
pub async fn delete(
    broker: &Rc<Broker>,
    header: ResponseHeader,
    request: &DeleteGroupsRequest<'_>,
) -> Result<Vec<Part>, String> {
    check_items("groups", request.groups_names.len())?;
    let names: Vec<&str> = request.groups_names.to_vec();
    for name in &names {
        share::forget_group(broker, name).await;
    }
    let requests = names.iter().map(|n| (Arc::from(*n), Request::Delete));
    let done = ask_all(broker, requests.collect()).await;
    let results = names
        .iter()
        .zip(&done)
        .map(|(name, done)| DeletableGroupResult {
            group_id: name,
            error_code: code_of(done).code(),
            error_message: None,
        });
    let response = DeleteGroupsResponse {
        throttle_time_ms: 0,
        results: results.collect(),
    };
    encode(header, &response)
}
