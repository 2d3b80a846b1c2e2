//! What coordinators of share groups are asked.

use std::collections::BTreeMap;

use streamd_model::ErrorCode;
use streamd_wire::kafka::alter_share_group_offsets_request::{
    AlterShareGroupOffsetsRequestPartition, AlterShareGroupOffsetsRequestTopic,
};
use streamd_wire::kafka::describe_share_group_offsets_request as describe_request;
use streamd_wire::kafka::{
    AlterShareGroupOffsetsRequest, ApiKey, DescribeShareGroupOffsetsRequest,
    ShareGroupDescribeRequest,
};

use crate::client::Client;
use crate::failure::Result;
use crate::group::ask::{Member, Offsets, coordinator};

/// A share group, looked at closely.
pub struct Described {
    pub state: String,
    pub assignor: String,
    pub members: Vec<Member>,
}

/// Where a share group stands in a partition; -1 is not known.
pub struct Place {
    pub topic: String,
    pub partition: i32,
    pub start: i64,
    pub lag: i64,
}

/// The group; `None` if there is no such share group.
pub fn describe(client: &mut Client, group: &str) -> Result<Option<Described>> {
    client.any()?.need(ApiKey::ShareGroupDescribe, i16::MAX)?;
    let request = ShareGroupDescribeRequest {
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
            instance: None,
            client: m.client_id.to_owned(),
            host: m.client_host.trim_start_matches('/').to_owned(),
            owns: m
                .assignment
                .topic_partitions
                .iter()
                .map(|t| (t.topic_name.to_owned(), t.partitions.iter().collect()))
                .collect::<BTreeMap<_, _>>(),
        });
        Ok(Some(Described {
            state: found.group_state.to_owned(),
            assignor: found.assignor_name.to_owned(),
            members: members.collect(),
        }))
    })
}

/// Where it stands in all partitions that it reads or has read.
pub fn places(client: &mut Client, group: &str) -> Result<Vec<Place>> {
    let request = DescribeShareGroupOffsetsRequest {
        groups: vec![describe_request::DescribeShareGroupOffsetsRequestGroup {
            group_id: group,
            topics: None,
        }]
        .into(),
    };
    coordinator(client, group, (&request, i16::MAX), |answer| {
        let mut places = Vec::new();
        for found in &answer.groups {
            match found.error_code {
                0 => {}
                // Without the group there is nothing.
                code if code == ErrorCode::GroupIdNotFound.code() => continue,
                code => return Err(code),
            }
            for topic in &found.topics {
                places.extend(topic.partitions.iter().map(|p| Place {
                    topic: topic.topic_name.to_owned(),
                    partition: p.partition_index,
                    start: p.start_offset,
                    lag: p.lag,
                }));
            }
        }
        places.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
        Ok(places)
    })
}

/// Sets where a group without members goes on.
pub fn alter(client: &mut Client, group: &str, offsets: &Offsets) -> Result<()> {
    let topics = offsets.iter();
    let topics = topics.map(|(name, offsets)| AlterShareGroupOffsetsRequestTopic {
        topic_name: name,
        partitions: offsets
            .iter()
            .map(|(index, offset)| AlterShareGroupOffsetsRequestPartition {
                partition_index: *index,
                start_offset: *offset,
            })
            .collect(),
    });
    let request = AlterShareGroupOffsetsRequest {
        group_id: group,
        topics: topics.collect(),
    };
    coordinator(client, group, (&request, i16::MAX), |answer| {
        if answer.error_code != 0 {
            return Err(answer.error_code);
        }
        let partitions = answer.responses.iter().flat_map(|t| t.partitions.to_vec());
        let mut codes = partitions.map(|p| p.error_code);
        codes.find(|code| *code != 0).map_or(Ok(()), Err)
    })
}
