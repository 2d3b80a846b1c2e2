//! Find: which node to ask about a partition or a group, and where it listens.

use std::rc::Rc;

use streamd_model::{Epoch, ErrorCode, PartitionId};
use streamd_shard::Refusal;
use streamd_wire::native::{Body, Find, Partition, Place};

use super::Conn;
use super::outbox::Ids;
use crate::kafka::internal::{self, Internal};
use crate::kafka::places::View;

/// Says who leads a partition or coordinates a group.
pub async fn find(conn: &Rc<Conn>, ids: Ids, what: &Find<'_>) {
    let found = match what {
        Find::Leader(Partition { topic, index, .. }) => leader(
            &View::of(&conn.broker),
            PartitionId {
                topic: *topic,
                index: *index,
            },
        ),
        Find::Coordinator(group) => coordinator(conn, group).await,
    };
    match found {
        Ok((node, epoch, address)) => {
            let address = &address;
            let place = Place {
                node,
                epoch,
                address,
            };
            conn.out.say(ids, &Body::Place(place));
        }
        Err(refusal) => conn.out.refuse(ids, &refusal),
    }
}

type Found = Result<(i32, Epoch, String), Refusal>;

fn leader(view: &View, partition: PartitionId) -> Found {
    let (id, index) = (partition.topic, partition.index);
    let topic = view.image.topic_by_id(id).ok_or_else(|| {
        let text = format!("no topic with id {id}");
        Refusal::new(ErrorCode::UnknownTopicId, text)
    })?;
    if !(0..topic.partitions).contains(&index) {
        let text = format!("no partition {index} of {}", topic.name);
        return Err(Refusal::new(ErrorCode::UnknownTopicOrPartition, text));
    }
    let place = view.partition(id, index);
    let address = view.native(place.leader).ok_or_else(|| {
        let text = format!("nobody leads partition {index} of {} now", topic.name);
        Refusal::new(ErrorCode::LeaderNotAvailable, text)
    })?;
    Ok((place.leader, place.epoch, address))
}

async fn coordinator(conn: &Conn, group: &str) -> Found {
    let none = || {
        let text = format!("group {group:?} has no coordinator now");
        Refusal::new(ErrorCode::CoordinatorNotAvailable, text)
    };
    let made = internal::make(&conn.broker, Internal::Offsets).await;
    made.map_err(|_| none())?;
    let view = View::of(&conn.broker);
    let partition = Internal::Offsets.partition(&view.image, group);
    leader(&view, partition.ok_or_else(none)?).map_err(|_| none())
}
