//! Subscriptions: one task each, which waits for what is new in its partition, for credit and for
//! room in the connection, in this order, and pushes whole batches.
//!
//! Invariants: what is under way on a stream is never more than its credit, but for a batch that is
//! larger than all of it, which comes when nothing else is under way. An idle subscription waits;
//! nothing looks after it.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use streamd_io::local::{Notify, Permit};
use streamd_io::{Class, Part, Task};
use streamd_model::{Epoch, ErrorCode, Offset, PartitionId, ShardId};
use streamd_shard::{NewsAsk, OffsetQuery, ReadDone, ReadItem, Refusal, Reply, Request};
use streamd_wire::native::{
    Aborted, Body, Data, EARLIEST, FLAG_ANSWER, FLAG_LAST, Failure, List, Subscribe, Subscribed,
};

use super::Conn;
use super::outbox::frame;
use crate::broker::Broker;

/// The most bytes of records in a frame, unless one batch is larger.
const DATA_MAX: u64 = 256 << 10;
/// Parts of up to so many bytes are copied beside the header: cheaper than a call of their own.
const COPY_MAX: usize = 4096;
/// What is reserved for a subscription that waits, bytes; about what it takes.
const IDLE_BYTES: usize = 4 << 10;
/// How long a subscription rests that was told of records and found none.
const REST: Duration = Duration::from_millis(5);
/// How often the log's start is looked for while it moves.
const START_TRIES: usize = 10;

/// A stream as its connection sees it.
pub struct Stream {
    credit: Rc<Account>,
    /// It ends when this is dropped.
    _task: Task<()>,
    _idle: Permit,
}

/// Bytes of a stream.
struct Account {
    /// How many may be under way.
    window: u64,
    sent: Cell<u64>,
    taken: Cell<u64>,
    changed: Notify,
}

impl Account {
    fn under_way(&self) -> u64 {
        self.sent.get() - self.taken.get()
    }

    fn left(&self) -> u64 {
        self.window.saturating_sub(self.under_way())
    }

    /// Waits until `bytes` may be sent.
    async fn room_for(&self, bytes: u64) {
        while self.left() < bytes && self.under_way() > 0 {
            self.changed.wait().await;
        }
    }
}

/// What a subscription reads.
#[derive(Clone, Copy)]
struct Source {
    stream: u32,
    partition: PartitionId,
    epoch: Epoch,
    session: (i64, u64),
    committed: bool,
}

/// Begins a subscription, or refuses it.
pub fn begin(conn: &Rc<Conn>, (stream, correlation): (u32, u64), ask: &Subscribe) {
    let idle = match admit(conn, stream, ask) {
        Ok(idle) => idle,
        Err(refusal) => return conn.out.refuse((stream, correlation, FLAG_LAST), &refusal),
    };
    let credit = Rc::new(Account {
        window: ask.credit,
        sent: Cell::new(0),
        taken: Cell::new(0),
        changed: Notify::new(),
    });
    let source = Source {
        stream,
        partition: PartitionId {
            topic: ask.partition.topic,
            index: ask.partition.index,
        },
        epoch: ask.partition.epoch,
        session: ask.session,
        committed: ask.committed,
    };
    let from = ask.from;
    let run = {
        let (conn, credit) = (conn.clone(), credit.clone());
        async move {
            // Boxed here and below: what is only needed at times is not held while it waits.
            let begun = Box::pin(start(&conn, source, (correlation, from))).await;
            match begun {
                Ok((source, from)) => {
                    let refusal = push_on(&conn, &credit, source, from).await;
                    end(&conn, stream, &refusal);
                }
                Err(refusal) => conn.out.refuse((stream, correlation, FLAG_LAST), &refusal),
            }
            conn.streams.borrow_mut().remove(&stream);
        }
    };
    let task = conn.broker.shard.env.spawn(Class::Latency, run);
    let stream_ = Stream {
        credit,
        _task: task,
        _idle: idle,
    };
    conn.streams.borrow_mut().insert(stream, stream_);
}

fn admit(conn: &Conn, stream: u32, ask: &Subscribe) -> Result<Permit, Refusal> {
    let wrong = |text: String| Err(Refusal::new(ErrorCode::InvalidRequest, text));
    if stream == 0 {
        return wrong("a subscription needs the number of a stream, from 1 up".to_owned());
    }
    if conn.streams.borrow().contains_key(&stream) {
        return wrong(format!("stream {stream} is open already"));
    }
    if ask.credit == 0 {
        return wrong("a subscription without credit would never get anything".to_owned());
    }
    if ask.durable != -1 {
        return wrong("followers do not subscribe here".to_owned());
    }
    conn.broker.streams.try_acquire(IDLE_BYTES).ok_or_else(|| {
        let text = "there is no memory for another subscription on this core: give the broker more \
                    with --memory, or subscribe elsewhere";
        Refusal::new(ErrorCode::ThrottlingQuotaExceeded, text)
    })
}

/// Says why a stream ends.
fn end(conn: &Conn, stream: u32, why: &Refusal) {
    let failure = Failure::new(why.code, &why.text);
    let end = frame((stream, 0, FLAG_LAST), &Body::Error(failure));
    conn.out.push(end, Vec::new());
}

/// The receiver has taken so many bytes in all.
pub fn credit(conn: &Conn, stream: u32, taken: u64) {
    let streams = conn.streams.borrow();
    // It may have ended just now.
    let Some(open) = streams.get(&stream) else {
        return;
    };
    let account = &open.credit;
    let sent = account.sent.get();
    if taken > sent {
        drop(streams);
        conn.streams.borrow_mut().remove(&stream);
        let text = format!("{taken} bytes of stream {stream} were taken, but {sent} were sent");
        return end(conn, stream, &Refusal::new(ErrorCode::InvalidRequest, text));
    }
    if taken > account.taken.get() {
        account.taken.set(taken);
        account.changed.notify_all();
    }
}

/// Looks where the stream begins, and says so.
async fn start(
    conn: &Conn,
    mut source: Source,
    (correlation, wanted): (u64, Offset),
) -> Result<(Source, Offset), Refusal> {
    let broker = &conn.broker;
    for tries in 0..START_TRIES {
        let query = OffsetQuery {
            partition: source.partition,
            leader_epoch: source.epoch,
            timestamp: wanted.clamp(EARLIEST, -1),
            committed: source.committed,
        };
        let owner = broker.shard.owner(source.partition);
        let found = match broker.shard.ask(owner, Request::Offsets(vec![query])).await {
            Some(Reply::Offsets(mut found)) => found.pop().ok_or_else(stopped)??,
            _ => return Err(stopped()),
        };
        source.epoch = found.epoch;
        let from = if wanted < 0 { found.offset } else { wanted };
        let looked = read(broker, source, (from, 0)).await;
        match looked.result {
            Ok(_) => {
                let answer = Subscribed {
                    epoch: found.epoch,
                    start: looked.marks.start,
                    high: looked.marks.high,
                    from,
                };
                let ids = (source.stream, correlation, FLAG_ANSWER);
                conn.out.say(ids, &Body::Subscribed(answer));
                return Ok((source, from));
            }
            // The log's start moved on meanwhile.
            Err(refusal)
                if refusal.code == ErrorCode::OffsetOutOfRange
                    && wanted == EARLIEST
                    && tries + 1 < START_TRIES => {}
            Err(refusal) => return Err(refusal),
        }
    }
    Err(stopped())
}

/// Pushes what there is and what comes, until something is wrong.
async fn push_on(conn: &Conn, credit: &Account, source: Source, mut at: Offset) -> Refusal {
    let broker = &conn.broker;
    let mut needed = 1;
    loop {
        news(broker, source, at).await;
        credit.room_for(needed).await;
        let max = credit.left().clamp(1, DATA_MAX);
        let mut permit = conn.pushes.acquire(max as usize).await;
        let done = Box::pin(read(broker, source, (at, max as usize))).await;
        let plan = match &done.result {
            Ok(plan) => plan,
            Err(refusal) => return refusal.clone(),
        };
        let bytes = plan.bytes as u64;
        if bytes == 0 {
            drop(permit);
            broker.shard.env.sleep(REST).await;
            continue;
        }
        if bytes > credit.left() && credit.under_way() > 0 {
            needed = bytes;
            continue;
        }
        if plan.bytes < permit.bytes() {
            permit.shrink(plan.bytes);
        }
        credit.sent.set(credit.sent.get() + bytes);
        let next = plan.next;
        conn.out.push(data(source, at, done), vec![permit]);
        assert!(next > at, "a push moves the stream on: {at} to {next}");
        (at, needed) = (next, 1);
        broker.shard.env.yield_if_needed().await;
    }
}

/// The frame of what was read from `base` on.
fn data(source: Source, base: Offset, done: ReadDone) -> Vec<Part> {
    let plan = done.result.unwrap_or_default();
    let aborted = List::encode(done.aborted.iter().map(|a| Aborted {
        producer: a.producer,
        first: a.first,
    }));
    let mut head = Vec::with_capacity(256);
    if let Ok(aborted) = List::decode(&aborted) {
        let data = Data {
            epoch: source.epoch,
            session: source.session,
            base,
            high: done.marks.high,
            start: done.marks.start,
            aborted,
            records: &[],
        };
        Body::Data(data).encode_before((source.stream, 0, 0), plan.bytes, &mut head);
    }
    let mut out = Vec::with_capacity(plan.parts.len() + 1);
    for part in plan.parts {
        match part {
            Part::Bytes(b) if b.len() <= COPY_MAX => head.extend_from_slice(&b),
            part => {
                if !head.is_empty() {
                    out.push(Part::Bytes(Bytes::from(std::mem::take(&mut head))));
                }
                out.push(part);
            }
        }
    }
    if !head.is_empty() {
        out.push(Part::Bytes(Bytes::from(head)));
    }
    out
}

fn stopped() -> Refusal {
    let text = "the owning core has stopped";
    Refusal::new(ErrorCode::NotLeaderOrFollower, text)
}

async fn read(broker: &Broker, source: Source, (offset, max): (Offset, usize)) -> ReadDone {
    let item = ReadItem {
        partition: source.partition,
        offset,
        bytes_max: max,
        leader_epoch: source.epoch,
        last_fetched_epoch: -1,
        committed: source.committed,
        follower_too: false,
    };
    let owner = broker.shard.owner(source.partition);
    if owner == broker.shard.mesh.id() {
        return broker.shard.read_whole(&item).await;
    }
    let answer = broker
        .shard
        .mesh
        .call(owner, Request::ReadWhole(item))
        .await;
    match answer.await {
        Some(Reply::Read(mut done)) => done.pop().unwrap_or_else(|| ReadDone::refused(stopped())),
        _ => ReadDone::refused(stopped()),
    }
}

/// Waits until there is something at `seen`, or the partition is not to be had.
async fn news(broker: &Rc<Broker>, source: Source, seen: Offset) {
    let owner = broker.shard.owner(source.partition);
    let ask = NewsAsk {
        partition: source.partition,
        seen,
        committed: source.committed,
        token: broker.new_token().0,
    };
    if owner == broker.shard.mesh.id() {
        return broker.shard.news(ask).await;
    }
    let mut wait = Wait {
        broker: broker.clone(),
        asked: Some((owner, ask.token)),
    };
    let answer = Box::pin(broker.shard.mesh.call(owner, Request::News(ask))).await;
    answer.await;
    wait.asked = None;
}

/// A wait on another core; withdrawn when this is dropped before the answer came.
struct Wait {
    broker: Rc<Broker>,
    asked: Option<(ShardId, u64)>,
}

impl Drop for Wait {
    fn drop(&mut self) {
        let Some((owner, token)) = self.asked else {
            return;
        };
        let shard = self.broker.shard.clone();
        let env = shard.env.clone();
        let withdraw = async move {
            // When the shard has stopped, so has the wait.
            let _ = shard.ask(owner, Request::NewsGone(token)).await;
        };
        env.spawn(Class::Latency, withdraw).detach();
    }
}
