//! Fetch, versions 4 to 18: sessions, the long poll, and the reply whose records are sent from
//! where they lie. The owner of a partition plans; this connection's shard moves the bytes.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use streamd_io::Part;
use streamd_log::ReadPlan;
use streamd_model::{ErrorCode, Map, Mono, NodeId, Offset, PartitionId, TopicId};
use streamd_shard::{ReadDone, ReadItem, ReadRequest, Refusal, Reply, Request, WatchRequest};
use streamd_wire::kafka::generated::fetch_request::FetchRequest;
use streamd_wire::kafka::generated::fetch_response::{
    AbortedTransaction, EpochEndOffset, FetchResponse, FetchableTopicResponse, LeaderIdAndEpoch,
    NodeEndpoint, PartitionData,
};
use streamd_wire::kafka::{Records, RequestHeader, ResponseHeader, Writer};

use super::leaders::Leaders;
use super::nearest::Nearest;
use super::places::Seen;
use super::runs;
use super::session::{Mode, Session, SessionAsk, TopicKey, Wanted};
use crate::broker::Broker;

/// Parts of up to so many bytes are copied beside the header: cheaper than a call of their own.
const COPY_MAX: usize = 4096;

/// The longest poll: a client that went away meanwhile is found out then.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// From this version on a client is told who leads instead.
const LEADERS_FROM: i16 = 16;

/// From this version on a client may read from a replica that follows (KIP-392).
const FOLLOWER_FROM: i16 = 11;

struct LongPoll {
    wanted: Vec<Wanted>,
    mode: Mode,
    deadline: Mono,
    bytes_min: usize,
    bytes_max: usize,
    read_committed: bool,
    follower_too: bool,
    nearest: Option<Nearest>,
}

/// Answers a fetch request.
pub async fn handle(
    broker: &Rc<Broker>,
    header: &RequestHeader<'_>,
    request: &FetchRequest<'_>,
) -> Result<Vec<Part>, String> {
    let header = ResponseHeader::from(header);
    let (mut wanted, forgotten) = read_request(request, header.version);
    let ask = SessionAsk {
        id: request.session_id,
        epoch: request.session_epoch,
        by_id: header.version >= 13,
    };
    let env = &broker.shard.env;
    let entropy = (env.now(), env.random_u64());
    let taken = broker
        .sessions
        .borrow_mut()
        .take(ask, &mut wanted, &forgotten, entropy);
    let mode = match taken {
        Ok(mode) => mode,
        Err(code) => {
            let response = FetchResponse {
                error_code: code.code(),
                ..FetchResponse::default()
            };
            return encode(header, &response, Vec::new());
        }
    };
    if let Mode::Incremental(id) = mode
        && let Some(session) = broker.sessions.borrow_mut().get_mut(id)
    {
        wanted = session.partitions().to_vec();
    }
    let wait = Duration::from_millis(request.max_wait_ms.max(0) as u64).min(WAIT_MAX);
    let poll = LongPoll {
        wanted,
        mode,
        deadline: env.now() + wait,
        bytes_min: request.min_bytes.max(0) as usize,
        bytes_max: (request.max_bytes.max(0) as usize).min(broker.fetch_bytes_max),
        read_committed: request.isolation_level == 1,
        follower_too: header.version >= FOLLOWER_FROM,
        nearest: Nearest::of(broker, request.rack_id),
    };
    let done = poll.run(broker).await;
    poll.reply(broker, header, done)
}

fn read_request(request: &FetchRequest<'_>, version: i16) -> (Vec<Wanted>, Vec<(TopicKey, i32)>) {
    let key = |name: &str, id: TopicId| TopicKey {
        name: if version < 13 {
            name.to_owned()
        } else {
            String::new()
        },
        id: if version < 13 { TopicId::ZERO } else { id },
    };
    let mut wanted = Vec::new();
    for topic in &request.topics {
        let topic_key = key(topic.topic, topic.topic_id);
        for p in &topic.partitions {
            wanted.push(Wanted {
                topic: topic_key.clone(),
                index: p.partition,
                offset: p.fetch_offset,
                bytes_max: p.partition_max_bytes,
                leader_epoch: p.current_leader_epoch,
                last_fetched_epoch: p.last_fetched_epoch,
                told: (-1, -1, -1),
            });
        }
    }
    let mut forgotten = Vec::new();
    for topic in &request.forgotten_topics_data {
        for index in &topic.partitions {
            forgotten.push((key(topic.topic, topic.topic_id), index));
        }
    }
    (wanted, forgotten)
}

impl LongPoll {
    /// Reads, and waits while there is too little.
    async fn run(&self, broker: &Rc<Broker>) -> Vec<ReadDone> {
        loop {
            let (done, ids) = self.read(broker).await;
            let bytes: usize = done
                .iter()
                .filter_map(|d| d.result.as_ref().ok())
                .map(|p| p.bytes)
                .sum();
            let news = (done.iter().enumerate()).any(|(at, d)| {
                let gone = d.result.is_err() || d.diverging.is_some();
                gone || self.instead(broker, at, d).is_some()
            });
            let left = self.deadline - broker.shard.env.now();
            if news || bytes >= self.bytes_min || self.wanted.is_empty() || left.is_zero() {
                return done;
            }
            self.wait(broker, &done, &ids, (self.bytes_min - bytes, left))
                .await;
        }
    }

    /// Who is to be asked instead for what is wanted at this place.
    fn instead(&self, broker: &Broker, at: usize, done: &ReadDone) -> Option<NodeId> {
        let nearest = self.nearest.as_ref()?;
        let (image, w) = (broker.shard.image(), &self.wanted[at]);
        let topic = match w.topic.id {
            TopicId::ZERO => image.topic(&w.topic.name)?.id,
            id => id,
        };
        let index = w.index;
        nearest.instead(&image, (PartitionId { topic, index }, w.offset), done)
    }

    fn resolve(&self, broker: &Broker) -> Vec<Result<PartitionId, Refusal>> {
        let image = broker.shard.image();
        let by_name = |name: &str| {
            image
                .topic(name)
                .map(|t| t.id)
                .ok_or(ErrorCode::UnknownTopicOrPartition)
        };
        self.wanted
            .iter()
            .map(|w| {
                let topic = if w.topic.id != TopicId::ZERO {
                    image
                        .topic_by_id(w.topic.id)
                        .map(|t| t.id)
                        .ok_or(ErrorCode::UnknownTopicId)
                } else {
                    by_name(&w.topic.name)
                };
                topic
                    .map(|topic| PartitionId {
                        topic,
                        index: w.index,
                    })
                    .map_err(|code| Refusal::new(code, code.message()))
            })
            .collect()
    }

    /// One round of reads on all shards that are concerned.
    async fn read(&self, broker: &Rc<Broker>) -> (Vec<ReadDone>, Vec<Option<PartitionId>>) {
        let shards = broker.shard.mesh.shards();
        let mut places: Vec<Vec<usize>> = vec![Vec::new(); shards];
        let mut items: Vec<Vec<ReadItem>> = vec![Vec::new(); shards];
        let mut done: Vec<Option<ReadDone>> = Vec::with_capacity(self.wanted.len());
        let mut ids = Vec::with_capacity(self.wanted.len());
        for (at, resolved) in self.resolve(broker).into_iter().enumerate() {
            let w = &self.wanted[at];
            match resolved {
                Err(refusal) => {
                    done.push(Some(ReadDone::refused(refusal)));
                    ids.push(None);
                }
                Ok(partition) => {
                    let owner = usize::from(broker.shard.owner(partition).0);
                    places[owner].push(at);
                    items[owner].push(ReadItem {
                        partition,
                        offset: w.offset,
                        bytes_max: w.bytes_max.max(0) as usize,
                        leader_epoch: w.leader_epoch,
                        last_fetched_epoch: w.last_fetched_epoch,
                        committed: self.read_committed,
                        follower_too: self.follower_too,
                    });
                    done.push(None);
                    ids.push(Some(partition));
                }
            }
        }
        let mut answers: Vec<Pin<Box<dyn Future<Output = Option<Reply>>>>> = Vec::new();
        let mut owners = Vec::new();
        for (owner, items) in items.into_iter().enumerate().filter(|(_, i)| !i.is_empty()) {
            let request = ReadRequest {
                items,
                bytes_max: self.bytes_max,
            };
            owners.push(owner);
            answers.push(broker.begin(owner, Request::Read(request)).await);
        }
        for (owner, answer) in owners.into_iter().zip(answers) {
            if let Some(Reply::Read(reads)) = answer.await {
                for (&at, read) in places[owner].iter().zip(reads) {
                    done[at] = Some(read);
                }
            }
        }
        let stopped = || {
            let code = ErrorCode::NotLeaderOrFollower;
            ReadDone::refused(Refusal::new(code, "the owning core has stopped"))
        };
        (
            done.into_iter()
                .map(|d| d.unwrap_or_else(stopped))
                .collect(),
            ids,
        )
    }

    /// Waits for `bytes` more, or until `left` is over.
    async fn wait(
        &self,
        broker: &Rc<Broker>,
        done: &[ReadDone],
        ids: &[Option<PartitionId>],
        (bytes, left): (usize, Duration),
    ) {
        let mut groups: Map<usize, Vec<(PartitionId, i64)>> = Map::default();
        for (id, d) in ids.iter().zip(done) {
            if let Some(id) = id {
                let owner = usize::from(broker.shard.owner(*id).0);
                groups.entry(owner).or_default().push((*id, d.marks.high));
            }
        }
        // What is missing may come to several shards in parts that none of them sees in sum.
        let bytes = if groups.len() > 1 { 1 } else { bytes };
        let mut watches = Vec::with_capacity(groups.len());
        for (owner, items) in groups {
            let request = Request::Watch(WatchRequest {
                items,
                bytes,
                wait: left,
            });
            watches.push(broker.begin(owner, request).await);
        }
        first(watches).await;
    }

    fn reply(
        self,
        broker: &Broker,
        header: ResponseHeader,
        done: Vec<ReadDone>,
    ) -> Result<Vec<Part>, String> {
        let mut left = self.bytes_max;
        let mut leaders = Leaders::new(broker);
        let tells = header.version >= LEADERS_FROM;
        let mut plans = Vec::new();
        let mut answers = Vec::new();
        let mut sessions = broker.sessions.borrow_mut();
        let id = match self.mode {
            Mode::Full => 0,
            Mode::Began(id) | Mode::Incremental(id) => id,
        };
        let incremental = matches!(self.mode, Mode::Incremental(_));
        let mut session = sessions.get_mut(id);
        let (mut turn, mut served) = (0, false);
        for (at, (w, mut d)) in self.wanted.iter().zip(done).enumerate() {
            let instead = self.instead(broker, at, &d);
            if instead.is_some() {
                d.result = Ok(ReadPlan::default());
                d.aborted.clear();
            }
            trim(&mut d, &mut left);
            let (mut data, plan) = partition_data(w, d, self.read_committed);
            data.preferred_read_replica = instead.map_or(-1, |node| node.0);
            if tells && data.error_code != 0 {
                data.current_leader = leader(&mut leaders, w, data.error_code);
            }
            let same = data.error_code == 0 && plan.bytes == 0 && told(&data) == w.told;
            if let Some(session) = session.as_mut() {
                self.note(session, at, &data);
            }
            if plan.bytes > 0 && !served {
                (turn, served) = (at + 1, true);
            }
            if incremental && same && data.diverging_epoch.epoch < 0 && instead.is_none() {
                continue;
            }
            plans.push(plan);
            answers.push((&w.topic, data));
        }
        if let Some(session) = session {
            session.rotate(turn);
        }
        let nodes = leaders.nodes();
        let response = FetchResponse {
            session_id: id,
            responses: runs(answers).into_iter().map(topic).collect(),
            node_endpoints: nodes.iter().map(endpoint).collect(),
            ..FetchResponse::default()
        };
        encode(header, &response, plans)
    }

    /// What goes into the session of what is answered for its partition at this place.
    fn note(&self, session: &mut Session, at: usize, data: &PartitionData<'_>) {
        let w = &self.wanted[at];
        let place = session.partitions_mut().get_mut(at);
        if let Some(place) = place.filter(|p| p.index == w.index && p.topic == w.topic) {
            place.told = match data.error_code {
                0 => told(data),
                _ => (-1, -1, -1),
            };
        }
    }
}

/// What a client knows of a partition from an answer: high watermark, last stable offset, start.
fn told(data: &PartitionData<'_>) -> (Offset, Offset, Offset) {
    let (high, stable) = (data.high_watermark, data.last_stable_offset);
    (high, stable, data.log_start_offset)
}

fn leader(leaders: &mut Leaders<'_>, w: &Wanted, code: i16) -> LeaderIdAndEpoch {
    let topic = (w.topic.name.as_str(), w.topic.id);
    let (leader_id, leader_epoch) = leaders.of(code, topic, w.index);
    LeaderIdAndEpoch {
        leader_id,
        leader_epoch,
    }
}

fn endpoint<'a>(node: &Seen<'a>) -> NodeEndpoint<'a> {
    NodeEndpoint {
        node_id: node.node,
        host: node.host,
        port: i32::from(node.port),
        rack: node.rack,
    }
}

fn topic<'a>((of, run): (&'a TopicKey, Vec<PartitionData<'a>>)) -> FetchableTopicResponse<'a> {
    FetchableTopicResponse {
        topic: &of.name,
        topic_id: of.id,
        partitions: run.into(),
    }
}

/// Takes away what the whole reply has no room for; shards plan apart from each other.
fn trim(done: &mut ReadDone, left: &mut usize) {
    if let Ok(plan) = &mut done.result {
        if *left == 0 {
            *plan = ReadPlan::default();
            done.aborted.clear();
        }
        *left = left.saturating_sub(plan.bytes);
    }
}

fn partition_data(
    w: &Wanted,
    done: ReadDone,
    read_committed: bool,
) -> (PartitionData<'static>, ReadPlan) {
    let (error, plan) = match done.result {
        Ok(plan) => (ErrorCode::None, plan),
        Err(refusal) => (refusal.code, ReadPlan::default()),
    };
    let aborted = done.aborted.iter().map(|a| AbortedTransaction {
        producer_id: a.producer,
        first_offset: a.first,
    });
    let (epoch, end_offset) = done.diverging.unwrap_or((-1, -1));
    let data = PartitionData {
        partition_index: w.index,
        error_code: error.code(),
        high_watermark: done.marks.high,
        last_stable_offset: done.marks.stable,
        log_start_offset: done.marks.start,
        diverging_epoch: EpochEndOffset { epoch, end_offset },
        aborted_transactions: read_committed.then(|| aborted.collect()),
        preferred_read_replica: -1,
        records: Some(match plan.bytes {
            0 => Records::Bytes(&[]),
            n => Records::Hole(n),
        }),
        ..PartitionData::default()
    };
    (data, plan)
}

/// Encodes the reply and puts the records' parts into its holes.
fn encode(
    header: ResponseHeader,
    response: &FetchResponse<'_>,
    plans: Vec<ReadPlan>,
) -> Result<Vec<Part>, String> {
    let mut writer = Writer::append_to(Vec::with_capacity(256));
    header
        .encode(response, &mut writer)
        .map_err(|e| format!("cannot encode a Fetch: {e}"))?;
    let (head, holes) = writer.into_parts();
    let mut out = Vec::with_capacity(holes.len() * 2 + 1);
    let mut text: Vec<u8> = Vec::new();
    let mut from = 0;
    let mut plans = plans.into_iter().filter(|p| p.bytes > 0);
    for hole in holes {
        text.extend_from_slice(&head[from..hole.at]);
        from = hole.at;
        let plan = plans.next().filter(|p| p.bytes == hole.len);
        for part in plan.ok_or("a hole without its records")?.parts {
            match part {
                Part::Bytes(b) if b.len() <= COPY_MAX => text.extend_from_slice(&b),
                part => {
                    if !text.is_empty() {
                        out.push(Part::Bytes(Bytes::from(std::mem::take(&mut text))));
                    }
                    out.push(part);
                }
            }
        }
    }
    text.extend_from_slice(&head[from..]);
    if !text.is_empty() {
        out.push(Part::Bytes(Bytes::from(text)));
    }
    Ok(out)
}

/// Waits for the first of several answers.
async fn first(mut all: Vec<Pin<Box<dyn Future<Output = Option<Reply>>>>>) {
    poll_fn(|cx| {
        let ready = all.iter_mut().any(|f| f.as_mut().poll(cx).is_ready());
        if ready {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}
