//! Append: batches for any number of partitions in one frame, checked as those of Produce, and
//! answered when all of them are durable.

use std::rc::Rc;

use bytes::Bytes;
use streamd_io::Class;
use streamd_io::local::Permit;
use streamd_model::ErrorCode;
use streamd_shard::{AppendDone, Refusal};
use streamd_wire::native::{Append, Appended, Body, FLAG_ANSWER, Failure, Header, List};

use super::Conn;
use super::outbox::frame;
use crate::kafka::produce;

/// The most batches in a frame: what is known of each takes memory.
const BATCHES_MAX: usize = 100_000;
/// What Produce calls its newest version: all codecs are known.
const VERSION: i16 = 13;

/// Accepts the batches of a frame, `bytes`, in order. The answer comes later.
pub async fn accept(
    conn: &Rc<Conn>,
    header: &Header,
    append: &Append<'_>,
    bytes: &Bytes,
    permits: Vec<Permit>,
) {
    let broker = &conn.broker;
    let (correlation, acks) = (header.correlation, append.acks);
    let count = append.batches.iter().count();
    if count > BATCHES_MAX {
        let text = format!("an append of {count} batches; {BATCHES_MAX} are allowed");
        let refusal = Refusal::new(ErrorCode::InvalidRequest, text);
        return conn.out.refuse((0, correlation, 0), &refusal);
    }
    produce::hold_back(broker).await;
    let mut checked = Vec::with_capacity(count);
    for batch in append.batches.iter() {
        let id = batch.partition.topic;
        let topic = broker.shard.image().topic_by_id(id).cloned();
        let records = Some(bytes.slice_ref(batch.records));
        checked.push(match topic {
            _ if !(-1..=1).contains(&acks) => Err(produce::wrong_acks(acks)),
            None => {
                let text = format!("no topic with id {id}");
                Err(Refusal::new(ErrorCode::UnknownTopicId, text))
            }
            Some(topic) => {
                let index = batch.partition.index;
                produce::check(broker, &topic, index, (records, VERSION, acks)).await
            }
        });
    }
    produce::confirm(broker, None, VERSION, &mut checked).await;
    let placing = produce::place(broker, checked).await;
    conn.out.promise();
    let answered = conn.clone();
    let settle = async move {
        let conn = answered;
        let done = placing.settled().await;
        match acks {
            0 => no_answer(&conn, &done, permits),
            _ => conn.out.answer(answer(correlation, &done), permits),
        }
    };
    broker.shard.env.spawn(Class::Latency, settle).detach();
}

/// With acks=0 nobody waits, but a failure ends the connection, as with Kafka.
fn no_answer(conn: &Conn, done: &[AppendDone], permits: Vec<Permit>) {
    let failed = done.iter().find_map(|one| one.as_ref().err());
    let Some(refusal) = failed else {
        return conn.out.answer(Vec::new(), permits);
    };
    let failure = Failure::new(refusal.code, &refusal.text);
    conn.out
        .answer(frame((0, 0, 0), &Body::Error(failure)), permits);
    conn.out.close();
}

fn answer(correlation: u64, done: &[AppendDone]) -> Vec<streamd_io::Part> {
    let list = List::encode(done.iter().map(|one| match one {
        Ok(placed) => Appended {
            code: 0,
            base: placed.base,
            epoch: placed.epoch,
            text: "",
        },
        Err(refusal) => Appended {
            code: refusal.code.code(),
            base: -1,
            epoch: -1,
            text: &refusal.text,
        },
    }));
    match List::decode(&list) {
        Ok(list) => frame((0, correlation, FLAG_ANSWER), &Body::Appended(list)),
        Err(_) => Vec::new(),
    }
}
