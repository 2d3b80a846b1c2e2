//! JoinGroup, SyncGroup, Heartbeat, LeaveGroup.

use std::rc::Rc;

use streamd_core::group::{Join, Joined, Leaver, Reply, Request, Sync, Synced, Who};
use streamd_io::Part;
use streamd_model::{ErrorCode, TopicId};
use streamd_wire::kafka::generated::heartbeat_request::HeartbeatRequest;
use streamd_wire::kafka::generated::heartbeat_response::HeartbeatResponse;
use streamd_wire::kafka::generated::join_group_request::JoinGroupRequest;
use streamd_wire::kafka::generated::join_group_response::{
    JoinGroupResponse, JoinGroupResponseMember,
};
use streamd_wire::kafka::generated::leave_group_request::LeaveGroupRequest;
use streamd_wire::kafka::generated::leave_group_response::{LeaveGroupResponse, MemberResponse};
use streamd_wire::kafka::generated::sync_group_request::SyncGroupRequest;
use streamd_wire::kafka::generated::sync_group_response::SyncGroupResponse;
use streamd_wire::kafka::{RequestHeader, ResponseHeader};

use super::super::encode;
use super::{Done, ask, check_items, code_of};
use crate::broker::Broker;

fn who(id: &str, instance: Option<&str>) -> Who {
    Who {
        id: id.to_owned(),
        instance: instance.map(str::to_owned),
    }
}

/// A new member's id: its client's name, or its instance's, and something that nobody has.
fn new_id(broker: &Broker, name: &str) -> String {
    let env = &broker.shard.env;
    let id = TopicId::from_random(env.random_u64(), env.random_u64());
    let hex: String = id.0.iter().map(|b| format!("{b:02x}")).collect();
    let parts = [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ];
    format!("{name}-{}", parts.join("-"))
}

/// Answers JoinGroup, versions 0 to 9, which may be a rebalance later. `host` is the client's.
pub async fn join(
    broker: &Rc<Broker>,
    asked: &RequestHeader<'_>,
    host: &str,
    request: &JoinGroupRequest<'_>,
) -> Result<Vec<Part>, String> {
    check_items("protocols", request.protocols.len())?;
    let version = asked.version;
    let client_id = asked.client_id.unwrap_or_default();
    let join = Join {
        who: who(request.member_id, request.group_instance_id),
        new_id: new_id(broker, request.group_instance_id.unwrap_or(client_id)),
        client_id: client_id.to_owned(),
        client_host: host.to_owned(),
        session_ms: request.session_timeout_ms,
        rebalance_ms: match version {
            0 => request.session_timeout_ms,
            _ => request.rebalance_timeout_ms,
        },
        protocol_type: request.protocol_type.to_owned(),
        protocols: request
            .protocols
            .iter()
            .map(|p| (p.name.to_owned(), p.metadata.into()))
            .collect(),
        id_required: version >= 4,
        can_skip: version >= 9,
    };
    let done = ask(broker, request.group_id, Request::Join(Box::new(join))).await;
    let joined = match done {
        Ok(Reply::Join(joined)) => *joined,
        other => Joined {
            error: Some(code_of(&other)),
            generation: -1,
            id: request.member_id.to_owned(),
            ..Joined::default()
        },
    };
    encode_joined(ResponseHeader::from(asked), &joined)
}

fn encode_joined(header: ResponseHeader, joined: &Joined) -> Result<Vec<Part>, String> {
    let v = header.version;
    let members = joined
        .members
        .iter()
        .map(|(who, metadata)| JoinGroupResponseMember {
            member_id: &who.id,
            group_instance_id: who.instance.as_deref().filter(|_| v >= 5),
            metadata,
        });
    let response = JoinGroupResponse {
        throttle_time_ms: 0,
        error_code: joined.error.map_or(0, ErrorCode::code),
        generation_id: joined.generation,
        protocol_type: joined.protocol_type.as_deref().filter(|_| v >= 7),
        // Null only since version 7.
        protocol_name: match joined.protocol.as_deref() {
            None if v < 7 => Some(""),
            name => name,
        },
        leader: &joined.leader,
        skip_assignment: joined.skip_assignment && v >= 9,
        member_id: &joined.id,
        members: members.collect(),
    };
    encode(header, &response)
}

/// Answers SyncGroup, versions 0 to 5, which may be when the leader has assigned.
pub async fn sync(
    broker: &Rc<Broker>,
    header: ResponseHeader,
    request: &SyncGroupRequest<'_>,
) -> Result<Vec<Part>, String> {
    check_items("assignments", request.assignments.len())?;
    let v = header.version;
    let done = if v >= 5 && (request.protocol_type.is_none() || request.protocol_name.is_none()) {
        Err(ErrorCode::InconsistentGroupProtocol)
    } else {
        let sync = Sync {
            who: who(request.member_id, request.group_instance_id),
            generation: request.generation_id,
            protocol_type: request.protocol_type.map(str::to_owned),
            protocol: request.protocol_name.map(str::to_owned),
            assignments: request
                .assignments
                .iter()
                .map(|a| (a.member_id.to_owned(), a.assignment.into()))
                .collect(),
        };
        ask(broker, request.group_id, Request::Sync(sync)).await
    };
    let synced = match done {
        Ok(Reply::Sync(synced)) => synced,
        other => Synced {
            error: code_of(&other),
            protocol_type: None,
            protocol: None,
            assignment: [].into(),
        },
    };
    let response = SyncGroupResponse {
        throttle_time_ms: 0,
        error_code: synced.error.code(),
        protocol_type: synced.protocol_type.as_deref().filter(|_| v >= 5),
        protocol_name: synced.protocol.as_deref().filter(|_| v >= 5),
        assignment: &synced.assignment,
    };
    encode(header, &response)
}

/// Answers Heartbeat, versions 0 to 4.
pub async fn heartbeat(
    broker: &Rc<Broker>,
    header: ResponseHeader,
    request: &HeartbeatRequest<'_>,
) -> Result<Vec<Part>, String> {
    let heartbeat = Request::Heartbeat {
        who: who(request.member_id, request.group_instance_id),
        generation: request.generation_id,
    };
    let done = ask(broker, request.group_id, heartbeat).await;
    let response = HeartbeatResponse {
        throttle_time_ms: 0,
        error_code: code_of(&done).code(),
    };
    encode(header, &response)
}

/// Answers LeaveGroup, versions 0 to 5: one member up to version 2, then as many as are named.
pub async fn leave(
    broker: &Rc<Broker>,
    header: ResponseHeader,
    request: &LeaveGroupRequest<'_>,
) -> Result<Vec<Part>, String> {
    check_items("members", request.members.len())?;
    let single = header.version <= 2;
    let leavers: Vec<Leaver> = match single {
        true => vec![Leaver {
            who: who(request.member_id, None),
        }],
        false => {
            let members = request.members.iter();
            let leaver = |m: streamd_wire::kafka::leave_group_request::MemberIdentity<'_>| Leaver {
                who: who(m.member_id, m.group_instance_id),
            };
            members.map(leaver).collect()
        }
    };
    let done = ask(broker, request.group_id, Request::Leave(leavers)).await;
    encode_left(header, single, &done)
}

fn encode_left(header: ResponseHeader, single: bool, done: &Done) -> Result<Vec<Part>, String> {
    let codes = match done {
        Ok(Reply::Leave(codes)) => codes.as_slice(),
        _ => &[],
    };
    let mut error = code_of(done);
    if single && let Some((_, code)) = codes.first() {
        error = *code;
    }
    let members = codes
        .iter()
        .filter(|_| !single)
        .map(|(who, code)| MemberResponse {
            member_id: &who.id,
            group_instance_id: who.instance.as_deref(),
            error_code: code.code(),
        });
    let response = LeaveGroupResponse {
        throttle_time_ms: 0,
        error_code: error.code(),
        members: members.collect(),
    };
    encode(header, &response)
}
