//! ShareFetch: acknowledgements that come along, then records that nobody else has, waiting for
//! some if there are none.
//!
//! In a round each partition's coordinator says from where to read; the owners read; and the
//! coordinators lock what of it may be delivered.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_lite::future;
use streamd_core::config::StartAt;
use streamd_core::share::{Acquire, Acquired, Ask, Key, Next, Reply, Request};
use streamd_io::Part;
use streamd_model::{ErrorCode, Mono, Offset, PartitionId, TopicId};
use streamd_shard::{
    Answering, OffsetQuery, ReadBytes, ReadItem, Reply as ShardReply, Request as ShardRequest,
    WatchRequest,
};
use streamd_wire::kafka::generated::share_fetch_request::ShareFetchRequest;
use streamd_wire::kafka::{RequestHeader, ResponseHeader};

use super::records::ReadBatches;
use super::session::Place;
use super::{ACKS_MAX, Said, Waiting, ask, ask_all, release, said, settle};
use crate::broker::Broker;
use crate::kafka::internal::Internal;

mod reply;

/// The longest poll: a client that went away meanwhile is found out then.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// The least that is read of a partition, bytes; the first batch comes whole anyhow.
const PARTITION_BYTES_MIN: usize = 64 << 10;
/// The most that is read of a partition at once, bytes.
const PARTITION_BYTES_MAX: usize = 1 << 20;
/// How long until a coordinator that was not there is asked again.
const NOBODY_PAUSE: Duration = Duration::from_millis(100);
/// The most records that a member gets at once, whatever it asks for.
const RECORDS_MAX: i64 = 1_000_000;

type Why = (ErrorCode, String);
/// A member: its group and its id.
type Who = (Arc<str>, Arc<str>);

/// Who asks.
///
/// # Errors
/// INVALID_REQUEST if the request does not say so.
pub(super) fn who(group: Option<&str>, member: Option<&str>) -> Result<Who, Why> {
    match (group, member) {
        (Some(group), Some(member)) if !group.is_empty() && !member.is_empty() => {
            Ok((group.into(), member.into()))
        }
        _ => {
            let text = "GroupId and MemberId must be set.".to_owned();
            Err((ErrorCode::InvalidRequest, text))
        }
    }
}

/// What came of a partition.
#[derive(Default)]
struct Got {
    place: Place,
    error: Option<Why>,
    acknowledged: Option<Result<(), Why>>,
    records: Bytes,
    acquired: Vec<Acquired>,
}

/// What a member wants.
struct Wish {
    who: Who,
    deadline: Mono,
    bytes_max: usize,
    records_max: i64,
    strict: bool,
}

/// Answers ShareFetch, versions 1 and 2. `connection` is the client's.
pub async fn handle(
    broker: &Rc<Broker>,
    header: &RequestHeader<'_>,
    connection: u64,
    request: &ShareFetchRequest<'_>,
) -> Result<Vec<Part>, String> {
    let done = fetch(broker, connection, request).await;
    let image = broker.shard.image();
    let own = image.group_configs(request.group_id.unwrap_or_default());
    let lock_ms = image.broker().groups.share.queue_of(own).lock_ms;
    reply::encode(ResponseHeader::from(header), done, lock_ms)
}

async fn fetch(
    broker: &Rc<Broker>,
    connection: u64,
    request: &ShareFetchRequest<'_>,
) -> Result<Vec<Got>, Why> {
    let who = who(request.group_id, request.member_id)?;
    let (asked, all) = read(request)?;
    check(request, &all)?;
    let epoch = request.share_session_epoch;
    session(broker, connection, &who, request, &asked).await?;
    let settled = settle(broker, (&who.0, &who.1), all).await;
    let mut got: Vec<Got> = settled
        .into_iter()
        .map(|(place, result)| Got {
            place,
            acknowledged: Some(result),
            ..Got::default()
        })
        .collect();
    if epoch == -1 {
        let ended = broker.shares.borrow_mut().end(&who);
        if let Some(ended) = ended {
            release(broker.clone(), ended, true).await;
        }
        return Ok(got);
    }
    if request.is_renew_ack {
        return Ok(got);
    }
    let wait = Duration::from_millis(request.max_wait_ms.max(0) as u64).min(WAIT_MAX);
    let wish = Wish {
        deadline: broker.shard.env.now() + wait,
        bytes_max: (request.max_bytes.max(0) as usize).min(broker.fetch_bytes_max),
        records_max: i64::from(request.max_records).clamp(0, RECORDS_MAX),
        strict: request.share_acquire_mode == 1,
        who,
    };
    // Who acknowledges something is told so before it waits for more.
    let patient = got.is_empty();
    for one in wish.run(broker, patient).await {
        match got.iter_mut().find(|g| g.place == one.place) {
            Some(g) => (g.error, g.records, g.acquired) = (one.error, one.records, one.acquired),
            None => got.push(one),
        }
    }
    got.sort_by_key(|g| g.place);
    Ok(got)
}

/// The partitions that a request names, and what it acknowledges.
fn read(request: &ShareFetchRequest<'_>) -> Result<(Vec<Place>, Vec<Said>), Why> {
    let (mut left, mut asked, mut all) = (ACKS_MAX, Vec::new(), Vec::new());
    for topic in &request.topics {
        for p in &topic.partitions {
            asked.push((topic.topic_id, p.partition_index));
            let batches = p.acknowledgement_batches.iter();
            let batches =
                batches.map(|b| (b.first_offset, b.last_offset, b.acknowledge_types.to_vec()));
            all.extend(said(topic.topic_id, p.partition_index, batches, &mut left)?);
        }
    }
    Ok((asked, all))
}

/// What can be said against a request by itself.
fn check(request: &ShareFetchRequest<'_>, all: &[Said]) -> Result<(), Why> {
    let invalid = |text: &str| Err((ErrorCode::InvalidRequest, text.to_owned()));
    if request.share_session_epoch == 0 && !all.is_empty() {
        return invalid("A request that opens a share session acknowledges nothing.");
    }
    let wants = [
        request.max_bytes,
        request.min_bytes,
        request.max_records,
        request.max_wait_ms,
    ];
    if request.is_renew_ack && wants != [0; 4] {
        return invalid(
            "A request with renewals fetches nothing: MaxBytes, MinBytes, MaxRecords and \
             MaxWaitMs must be 0.",
        );
    }
    if !request.is_renew_ack && all.iter().any(Said::renews) {
        return invalid("Renewals need IsRenewAck.");
    }
    if !(0..=1).contains(&request.share_acquire_mode) {
        return invalid("ShareAcquireMode is 0 or 1.");
    }
    Ok(())
}

/// Takes the request into its session.
async fn session(
    broker: &Rc<Broker>,
    connection: u64,
    who: &Who,
    request: &ShareFetchRequest<'_>,
    asked: &[Place],
) -> Result<(), Why> {
    let refuse = |code: ErrorCode| (code, code.message().to_owned());
    let epoch = request.share_session_epoch;
    match epoch {
        0 => {
            let max = broker.shard.image().broker().groups.share.sessions_max;
            let opened = broker.shares.borrow_mut().open(who, connection, max);
            if let Some(before) = opened.map_err(refuse)? {
                release(broker.clone(), before, false).await;
            }
        }
        -1 if broker.shares.borrow().has(who) => {}
        -1 => return Err(refuse(ErrorCode::ShareSessionNotFound)),
        epoch => broker
            .shares
            .borrow_mut()
            .next(who, epoch)
            .map_err(refuse)?,
    }
    let mut fewer = Vec::new();
    for topic in &request.forgotten_topics_data {
        fewer.extend(topic.partitions.iter().map(|p| (topic.topic_id, p)));
    }
    let changed = broker.shares.borrow_mut().change(who, asked, &fewer);
    changed.map_err(refuse)
}

impl Wish {
    fn key(&self, (topic, partition): Place) -> Key {
        Key {
            group: self.who.0.clone(),
            topic,
            partition,
        }
    }

    /// Rounds, until there is something or the time is over.
    async fn run(&self, broker: &Rc<Broker>, patient: bool) -> Vec<Got> {
        loop {
            let places = broker.shares.borrow_mut().turn(&self.who);
            let mut round = Round {
                wish: self,
                broker,
                got: Vec::new(),
                full: Vec::new(),
                idle: Vec::new(),
                again: false,
                nobody: false,
            };
            round.run(&places).await;
            let left = self.deadline - broker.shard.env.now();
            if !round.got.is_empty() || left.is_zero() || !patient || places.is_empty() {
                // Who waits for nothing would ask again at once.
                if round.got.is_empty() && places.is_empty() && patient {
                    broker.shard.env.sleep(left).await;
                }
                return round.got;
            }
            if round.nobody {
                // Its coordinator is about to be elsewhere.
                broker.shard.env.sleep(NOBODY_PAUSE.min(left)).await;
            } else if !round.again {
                let (full, idle) = (round.full, round.idle);
                self.wait(broker, full, idle, left).await;
            }
        }
    }

    /// Waits until there may be something.
    async fn wait(
        &self,
        broker: &Rc<Broker>,
        full: Vec<Place>,
        idle: Vec<(PartitionId, Offset)>,
        left: Duration,
    ) {
        let mut waiting = Waiting::new(broker);
        let of = |place: Place, full: bool| Request {
            key: self.key(place),
            ask: Ask::Wait(full),
        };
        let no_room = full.into_iter().map(|place| of(place, true));
        let none_left = idle.iter().map(|(id, _)| of((id.topic, id.index), false));
        let requests: Vec<_> = no_room.chain(none_left).collect();
        let mut all: Vec<Answering> = Vec::new();
        for request in requests {
            // Each by itself: the first answer of any ends the wait.
            let begun = waiting.begin(vec![request]).await;
            all.extend(begun.into_iter().map(|(_, answer)| answer));
        }
        let mut by_owner: Vec<Vec<(PartitionId, Offset)>> =
            vec![Vec::new(); broker.shard.mesh.shards()];
        for (id, seen) in idle {
            by_owner[usize::from(broker.shard.owner(id).0)].push((id, seen));
        }
        for (owner, items) in by_owner
            .into_iter()
            .enumerate()
            .filter(|(_, i)| !i.is_empty())
        {
            let watch = WatchRequest {
                items,
                bytes: 1,
                wait: left,
            };
            all.push(broker.begin(owner, ShardRequest::Watch(watch)).await);
        }
        let first = poll_fn(|cx| {
            let ready = all.iter_mut().any(|f| f.as_mut().poll(cx).is_ready());
            if ready {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        });
        future::or(first, broker.shard.env.sleep(left)).await;
    }
}

/// Whether a coordinator was not there, so that asking again will help.
fn is_away(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::NotCoordinator
            | ErrorCode::CoordinatorNotAvailable
            | ErrorCode::CoordinatorLoadInProgress
    )
}

/// One look at all partitions of a session.
struct Round<'a> {
    wish: &'a Wish,
    broker: &'a Rc<Broker>,
    got: Vec<Got>,
    /// Where as much is under way as may be.
    full: Vec<Place>,
    /// Where there is nothing to read, and up to where that was looked at.
    idle: Vec<(PartitionId, Offset)>,
    /// Something is settled now that was not before.
    again: bool,
    /// A coordinator was not there.
    nobody: bool,
}

impl Round<'_> {
    fn fail(&mut self, place: Place, error: Why) {
        // Clients expect no such thing: they are told when another leads.
        if is_away(error.0) {
            self.nobody = true;
            return;
        }
        self.got.push(Got {
            place,
            error: Some(error),
            ..Got::default()
        });
    }

    async fn run(&mut self, places: &[Place]) {
        let image = self.broker.shard.image();
        let mut known = Vec::new();
        for &place in places {
            let topic = image.topic_by_id(place.0);
            match topic.filter(|t| (0..t.partitions).contains(&place.1)) {
                Some(_) => known.push(place),
                None => {
                    let code = ErrorCode::UnknownTopicOrPartition;
                    self.fail(place, (code, code.message().to_owned()));
                }
            }
        }
        let nexts = known.iter().map(|place| Request {
            key: self.wish.key(*place),
            ask: Ask::Next,
        });
        let nexts = ask_all(self.broker, nexts.collect()).await;
        let mut reads = Vec::new();
        for (place, next) in known.into_iter().zip(nexts) {
            match next {
                Ok(Reply::Next(Next::Unset(start))) => self.begin(place, start).await,
                Ok(Reply::Next(Next::Full)) => self.full.push(place),
                Ok(Reply::Next(Next::At { offset, committed })) => {
                    reads.push((place, offset, committed));
                }
                Ok(_) => {}
                Err(error) => self.fail(place, error),
            }
        }
        self.read(reads).await;
    }

    /// Finds where the group is to begin in a partition.
    async fn begin(&mut self, place: Place, start: StartAt) {
        match self.try_begin(place, start).await {
            Ok(()) => self.again = true,
            Err(error) => self.fail(place, error),
        }
    }

    async fn try_begin(&self, place: Place, start: StartAt) -> Result<(), Why> {
        let (broker, wish) = (self.broker, self.wish);
        // Only members bring share-partitions into being.
        if !is_member(broker, &wish.who).await? {
            let text = format!(
                "{} is not a member of share group {}.",
                wish.who.1, wish.who.0
            );
            return Err((ErrorCode::GroupIdNotFound, text));
        }
        let timestamp = match start {
            StartAt::Latest => -1,
            StartAt::Earliest => -2,
            StartAt::Ago(ms) => broker.shard.env.wall_ms().saturating_sub(ms).max(0),
        };
        let mut offset = offset_at(broker, place, timestamp).await?;
        if offset < 0 {
            // Nothing is as new as that.
            offset = offset_at(broker, place, -1).await?;
        }
        ask(broker, wish.key(place), Ask::Begin(offset))
            .await
            .map(drop)
    }

    async fn read(&mut self, reads: Vec<(Place, Offset, bool)>) {
        let share = self.wish.bytes_max / reads.len().max(1);
        let bytes_max = share.clamp(PARTITION_BYTES_MIN, PARTITION_BYTES_MAX);
        let mut by_owner: Vec<(Vec<usize>, Vec<ReadItem>)> = Vec::new();
        by_owner.resize_with(self.broker.shard.mesh.shards(), Default::default);
        for (at, (place, offset, committed)) in reads.iter().enumerate() {
            let partition = partition(*place);
            let (ats, items) = &mut by_owner[usize::from(self.broker.shard.owner(partition).0)];
            ats.push(at);
            items.push(ReadItem {
                partition,
                offset: *offset,
                bytes_max,
                leader_epoch: -1,
                last_fetched_epoch: -1,
                committed: *committed,
                follower_too: false,
            });
        }
        let mut begun = Vec::new();
        for (owner, (ats, items)) in by_owner.into_iter().enumerate() {
            if !items.is_empty() {
                let answer = self
                    .broker
                    .begin(owner, ShardRequest::ReadBytes(items))
                    .await;
                begun.push((ats, answer));
            }
        }
        let mut found: Vec<Option<ReadBytes>> = reads.iter().map(|_| None).collect();
        for (ats, answer) in begun {
            if let Some(ShardReply::ReadBytes(done)) = answer.await {
                for (at, one) in ats.into_iter().zip(done) {
                    found[at] = Some(one);
                }
            }
        }
        let (mut records, mut bytes) = (self.wish.records_max, self.wish.bytes_max);
        for ((place, offset, committed), one) in reads.into_iter().zip(found) {
            let Some(one) = one else {
                let code = ErrorCode::NotLeaderOrFollower;
                self.fail(place, (code, code.message().to_owned()));
                continue;
            };
            if records <= 0 || bytes == 0 {
                break;
            }
            self.acquire((place, offset, committed), one, &mut records)
                .await;
            let taken = self.got.last().filter(|g| g.place == place);
            bytes = bytes.saturating_sub(taken.map_or(0, |g| g.records.len()));
        }
    }

    /// Has what was read of a partition locked, as far as it may be delivered.
    async fn acquire(
        &mut self,
        (place, offset, committed): (Place, Offset, bool),
        read: ReadBytes,
        left: &mut i64,
    ) {
        let start = read.marks.start;
        let batches = match read.bytes {
            Ok(bytes) => ReadBatches::new(bytes, offset, committed, &read.aborted),
            Err(refusal) if refusal.code == ErrorCode::OffsetOutOfRange => {
                if offset >= start {
                    // An operator set it beyond the end.
                    self.idle.push((partition(place), read.marks.flushed));
                    return;
                }
                ReadBatches::new(Bytes::new(), offset, committed, &[])
            }
            Err(refusal) => return self.fail(place, (refusal.code, refusal.text)),
        };
        let all = batches.batches();
        let (is_empty, skipped) = (all.is_empty(), all.iter().any(|b| b.skip));
        if is_empty && offset >= start {
            self.idle.push((partition(place), read.marks.flushed));
            return;
        }
        let wanted = Acquire {
            member: self.wish.who.1.clone(),
            read: all,
            records_max: *left,
            strict: self.wish.strict,
            log_start: start,
        };
        let key = self.wish.key(place);
        match ask(self.broker, key, Ask::Acquire(wanted)).await {
            Ok(Reply::Acquired(acquired)) if acquired.is_empty() => {
                // Somebody else was faster, or there are only markers: look again.
                self.again = true;
                if !skipped && !is_empty {
                    self.broker.shard.env.yield_if_needed().await;
                }
            }
            Ok(Reply::Acquired(acquired)) => {
                *left -= acquired.iter().map(|a| a.last - a.first + 1).sum::<i64>();
                self.got.push(Got {
                    place,
                    records: batches.of(&acquired),
                    acquired,
                    ..Got::default()
                });
            }
            Ok(_) => self.again = true,
            Err(error) => self.fail(place, error),
        }
    }
}

fn partition((topic, index): Place) -> PartitionId {
    PartitionId { topic, index }
}

/// Whether the group has such a member; its coordinator may be on another node.
async fn is_member(broker: &Rc<Broker>, (group, member): &Who) -> Result<bool, Why> {
    let lost = ErrorCode::CoordinatorNotAvailable;
    let Some(partition) = Internal::Offsets.partition(&broker.shard.image(), group) else {
        return Ok(false);
    };
    let request = ShardRequest::ShareMember(partition, group.clone(), member.clone());
    match broker.shard.ask_leader(partition, request).await {
        Some(ShardReply::ShareMember(done)) => done.map_err(|r| (r.code, r.text)),
        _ => Err((lost, lost.message().to_owned())),
    }
}

/// The offset of a time, or of one of Kafka's special ones; -1: there is none.
pub(super) async fn offset_at(
    broker: &Rc<Broker>,
    place: (TopicId, i32),
    timestamp: i64,
) -> Result<Offset, Why> {
    let query = OffsetQuery {
        partition: partition(place),
        leader_epoch: -1,
        timestamp,
        committed: false,
    };
    let lost = ErrorCode::NotLeaderOrFollower;
    match broker
        .shard
        .ask_leader(query.partition, ShardRequest::Offsets(vec![query]))
        .await
    {
        Some(ShardReply::Offsets(mut found)) => match found.pop() {
            Some(Ok(found)) => Ok(found.offset),
            Some(Err(refusal)) => Err((refusal.code, refusal.text)),
            None => Err((lost, lost.message().to_owned())),
        },
        _ => Err((lost, lost.message().to_owned())),
    }
}
