//! The bodies of frames, one type an operation. Records and opaque bytes come last, so that they
//! can be sent from where they are: `encode` writes what stands before them.

use streamd_model::{Epoch, ErrorCode, NodeId, Offset, TopicId};

use super::client::{
    Aborted, Append, Appended, Committed, Find, Kept, OfGroup, Place, Producer, ToCommit, Topic,
    find, put_find,
};
use super::header::{Header, Op};
use super::list::{Item, List};
use super::read::{In, put_str};
use super::{FLAG_ANSWER, Malformed};

/// Who connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello<'a> {
    /// The lowest and the highest version of the protocol that it speaks.
    pub versions: (u8, u8),
    /// The node; -1 for a client.
    pub node: NodeId,
    /// Of this run of the process.
    pub incarnation: [u8; 16],
    /// Of its data directory; zeros for a client.
    pub directory: [u8; 16],
    /// The cluster that it belongs to; empty if it has none yet.
    pub cluster: &'a str,
    /// Of a node: where it is reached, `HOST:PORT`. Of a client: a name for people.
    pub name: &'a str,
}

/// Who is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Welcome<'a> {
    /// The version that is spoken from now on.
    pub version: u8,
    /// The node.
    pub node: NodeId,
    /// The longest payload that it takes.
    pub payload_bytes_max: u32,
    /// The cluster.
    pub cluster: &'a str,
    /// The ways to authenticate, with commas; empty if none is wanted.
    pub mechanisms: &'a str,
}

/// A partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    /// The topic.
    pub topic: TopicId,
    /// The index.
    pub index: i32,
    /// The leader epoch that the sender knows; -1 if none.
    pub epoch: Epoch,
}

/// A stream is wanted. Its number is that of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscribe {
    /// Of what.
    pub partition: Partition,
    /// A number of the subscriber's choice, which [`Data`] repeats.
    pub session: (i64, u64),
    /// From which offset on; [`EARLIEST`] and [`LATEST`] are such too.
    pub from: Offset,
    /// -1.
    pub last_epoch: Epoch,
    /// -1.
    pub durable: Offset,
    /// Bytes that it takes before it gives more credit.
    pub credit: u64,
    /// Nothing of transactions that are open, and those that were aborted are named.
    pub committed: bool,
}

/// To subscribe from the log's start on.
pub const EARLIEST: Offset = -2;
/// To subscribe to what is written from now on.
pub const LATEST: Offset = -1;

/// The stream is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscribed {
    /// The leader epoch.
    pub epoch: Epoch,
    /// The first offset that there is.
    pub start: Offset,
    /// The high watermark.
    pub high: Offset,
    /// The offset that the stream begins with.
    pub from: Offset,
}

/// More bytes are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credit {
    /// All bytes that were ever taken from the stream: a lost frame costs nothing.
    pub taken: u64,
}

/// Records of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Data<'a> {
    /// The leader epoch.
    pub epoch: Epoch,
    /// The subscription.
    pub session: (i64, u64),
    /// The first offset. The first batch may begin before it: a client passes over those records.
    pub base: Offset,
    /// The leader's high watermark.
    pub high: Offset,
    /// The leader's log start.
    pub start: Offset,
    /// Aborted transactions with records in this frame.
    pub aborted: List<'a, Aborted>,
    /// Batches, back to back; empty in a pulse.
    pub records: &'a [u8],
}

/// Something for the replica of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replica<'a> {
    /// The topic.
    pub topic: TopicId,
    /// The index of the partition.
    pub index: i32,
    /// What a replica says to another; records are last.
    pub message: &'a [u8],
}

/// A question to the leader of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call<'a> {
    /// The topic.
    pub topic: TopicId,
    /// The index of the partition.
    pub index: i32,
    /// The question.
    pub question: &'a [u8],
}

/// A request or a stream failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure<'a> {
    /// Kafka's code.
    pub code: i16,
    /// The leader epoch there; -1 if that is not what failed.
    pub epoch: Epoch,
    /// A sentence.
    pub text: &'a str,
}

/// What a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// See there.
    Hello(Hello<'a>),
    /// See there.
    Welcome(Welcome<'a>),
    /// A step of authentication: of the client, or an answer.
    Auth(&'a [u8]),
    /// See there.
    Append(Append<'a>),
    /// See there.
    Appended(List<'a, Appended<'a>>),
    /// See there.
    Subscribe(Subscribe),
    /// See there.
    Subscribed(Subscribed),
    /// See there.
    Credit(Credit),
    /// See there.
    Data(Data<'a>),
    /// A message of the metadata quorum.
    Raft(&'a [u8]),
    /// A question to the controller, or its answer.
    Control(&'a [u8]),
    /// See there.
    Replica(Replica<'a>),
    /// See there.
    Call(Call<'a>),
    /// The answer to a call.
    Return(&'a [u8]),
    /// A ping, or its answer.
    Ping,
    /// See there.
    Error(Failure<'a>),
    /// The name of a topic.
    TopicOf(&'a str),
    /// See there.
    Topic(Topic<'a>),
    /// An id for a producer is wanted.
    NewProducer,
    /// See there.
    Producer(Producer),
    /// A stream is not wanted any more, or has ended.
    Unsubscribe,
    /// See there.
    Commit(OfGroup<'a, ToCommit<'a>>),
    /// To a commit.
    Kept(List<'a, Kept>),
    /// Which offsets are asked for.
    OffsetsOf(OfGroup<'a, Partition>),
    /// See there.
    Offsets(List<'a, Committed<'a>>),
    /// Which node to ask.
    Find(Find<'a>),
    /// See there.
    Place(Place<'a>),
}

impl<'a> Body<'a> {
    /// Reads a body of the length that its header says.
    ///
    /// # Errors
    /// [`Malformed::Body`].
    pub fn decode(header: &Header, payload: &'a [u8]) -> Result<Body<'a>, Malformed> {
        if payload.len() != header.length as usize {
            return Err(Malformed::Body("a payload of another length"));
        }
        let mut r = In(payload);
        let body = match (header.op, header.is_answer()) {
            (Op::Hello, false) => hello(&mut r)?,
            (Op::Hello, true) => welcome(&mut r)?,
            (Op::Auth, _) => Body::Auth(r.rest()),
            (Op::Subscribe, false) => subscribe(&mut r)?,
            (Op::Subscribe, true) => Body::Subscribed(Subscribed {
                epoch: r.i32("a leader epoch")?,
                start: r.i64("a log start")?,
                high: r.i64("a high watermark")?,
                from: r.i64("where a stream begins")?,
            }),
            (Op::Credit, _) => Body::Credit(Credit {
                taken: r.u64("a credit")?,
            }),
            (Op::Data, _) => Body::Data(Data {
                epoch: r.i32("a leader epoch")?,
                session: session(&mut r)?,
                base: offset(&mut r, "the offset of records")?,
                high: offset(&mut r, "a high watermark")?,
                start: offset(&mut r, "a log start")?,
                aborted: {
                    let bytes = r.u32("the length of aborted transactions")? as usize;
                    List::decode(r.take(bytes, "aborted transactions")?)?
                },
                records: r.rest(),
            }),
            (Op::Raft, _) => Body::Raft(r.rest()),
            (Op::Control, _) => Body::Control(r.rest()),
            (Op::Replica, _) => Body::Replica(Replica {
                topic: TopicId(r.array("a topic's id")?),
                index: index(&mut r)?,
                message: r.rest(),
            }),
            (Op::Call, false) => Body::Call(Call {
                topic: TopicId(r.array("a topic's id")?),
                index: index(&mut r)?,
                question: r.rest(),
            }),
            (Op::Call, true) => Body::Return(r.rest()),
            (Op::Ping, _) => Body::Ping,
            (Op::Error, _) => Body::Error(Failure {
                code: r.i16("an error's code")?,
                epoch: r.i32("an error's epoch")?,
                text: r.str("an error's text")?,
            }),
            (Op::Append | Op::Topic | Op::Producer, _)
            | (Op::Unsubscribe | Op::Commit | Op::Offsets | Op::Find, _) => {
                of_clients(header, &mut r)?
            }
        };
        r.end("what stands behind a body")?;
        Ok(body)
    }

    /// Its operation, and whether it is always an answer.
    fn op(&self) -> (Op, u16) {
        match self {
            Body::Hello(_) => (Op::Hello, 0),
            Body::Welcome(_) => (Op::Hello, FLAG_ANSWER),
            Body::Auth(_) => (Op::Auth, 0),
            Body::Append(_) => (Op::Append, 0),
            Body::Appended(_) => (Op::Append, FLAG_ANSWER),
            Body::Subscribe(_) => (Op::Subscribe, 0),
            Body::Subscribed(_) => (Op::Subscribe, FLAG_ANSWER),
            Body::Credit(_) => (Op::Credit, 0),
            Body::Data(_) => (Op::Data, 0),
            Body::Raft(_) => (Op::Raft, 0),
            Body::Control(_) => (Op::Control, 0),
            Body::Replica(_) => (Op::Replica, 0),
            Body::Call(_) => (Op::Call, 0),
            Body::Return(_) => (Op::Call, FLAG_ANSWER),
            Body::Ping => (Op::Ping, 0),
            Body::Error(_) => (Op::Error, 0),
            Body::TopicOf(_) => (Op::Topic, 0),
            Body::Topic(_) => (Op::Topic, FLAG_ANSWER),
            Body::NewProducer => (Op::Producer, 0),
            Body::Producer(_) => (Op::Producer, FLAG_ANSWER),
            Body::Unsubscribe => (Op::Unsubscribe, 0),
            Body::Commit(_) => (Op::Commit, 0),
            Body::Kept(_) => (Op::Commit, FLAG_ANSWER),
            Body::OffsetsOf(_) => (Op::Offsets, 0),
            Body::Offsets(_) => (Op::Offsets, FLAG_ANSWER),
            Body::Find(_) => (Op::Find, 0),
            Body::Place(_) => (Op::Find, FLAG_ANSWER),
        }
    }

    /// Appends the frame to `out`, but for the records or opaque bytes at its end, which are
    /// returned: they go out behind it, from where they are.
    ///
    /// # Panics
    /// If those are longer than 4 GiB.
    pub fn encode(&self, ids: (u32, u64, u16), out: &mut Vec<u8>) -> &'a [u8] {
        self.encode_before(ids, 0, out)
    }

    /// Like [`Body::encode`], for a frame that has so many bytes more behind that, which are not
    /// in memory.
    ///
    /// # Panics
    /// As [`Body::encode`].
    pub fn encode_before(
        &self,
        (stream, correlation, flags): (u32, u64, u16),
        more: usize,
        out: &mut Vec<u8>,
    ) -> &'a [u8] {
        let begin = out.len();
        out.extend_from_slice(&[0; super::HEADER_BYTES]);
        let tail = self.put(out);
        let length = out.len() - begin - super::HEADER_BYTES + tail.len() + more;
        let (op, own) = self.op();
        let header = Header {
            op,
            flags: own | flags,
            stream,
            correlation,
            length: u32::try_from(length).expect("a frame is shorter than 4 GiB"),
        };
        out[begin..begin + super::HEADER_BYTES].copy_from_slice(&header.encode());
        tail
    }

    fn put(&self, out: &mut Vec<u8>) -> &'a [u8] {
        match *self {
            Body::Hello(ref hello) => put_hello(out, hello),
            Body::Welcome(ref welcome) => put_welcome(out, welcome),
            Body::Subscribe(s) => {
                put_partition(out, s.partition);
                put_session(out, s.session);
                out.extend_from_slice(&s.from.to_le_bytes());
                out.extend_from_slice(&s.last_epoch.to_le_bytes());
                out.extend_from_slice(&s.durable.to_le_bytes());
                out.extend_from_slice(&s.credit.to_le_bytes());
                out.push(u8::from(s.committed));
            }
            Body::Subscribed(s) => {
                out.extend_from_slice(&s.epoch.to_le_bytes());
                out.extend_from_slice(&s.start.to_le_bytes());
                out.extend_from_slice(&s.high.to_le_bytes());
                out.extend_from_slice(&s.from.to_le_bytes());
            }
            Body::Credit(credit) => out.extend_from_slice(&credit.taken.to_le_bytes()),
            Body::Data(data) => {
                out.extend_from_slice(&data.epoch.to_le_bytes());
                put_session(out, data.session);
                for offset in [data.base, data.high, data.start] {
                    out.extend_from_slice(&offset.to_le_bytes());
                }
                let aborted = data.aborted.bytes();
                out.extend_from_slice(&(aborted.len() as u32).to_le_bytes());
                out.extend_from_slice(aborted);
                return data.records;
            }
            Body::Auth(bytes) | Body::Raft(bytes) => return bytes,
            Body::Control(bytes) | Body::Return(bytes) => return bytes,
            Body::Replica(replica) => {
                out.extend_from_slice(&replica.topic.0);
                out.extend_from_slice(&replica.index.to_le_bytes());
                return replica.message;
            }
            Body::Call(call) => {
                out.extend_from_slice(&call.topic.0);
                out.extend_from_slice(&call.index.to_le_bytes());
                return call.question;
            }
            Body::Ping => {}
            Body::Error(failure) => {
                out.extend_from_slice(&failure.code.to_le_bytes());
                out.extend_from_slice(&failure.epoch.to_le_bytes());
                put_str(out, failure.text);
            }
            Body::NewProducer | Body::Unsubscribe => {}
            Body::TopicOf(_)
            | Body::Topic(_)
            | Body::Producer(_)
            | Body::Commit(_)
            | Body::Kept(_)
            | Body::OffsetsOf(_)
            | Body::Offsets(_)
            | Body::Find(_)
            | Body::Place(_)
            | Body::Append(_)
            | Body::Appended(_) => return put_of_clients(self, out),
        }
        &[]
    }
}

/// The bodies that only clients ask for, and what answers them.
fn of_clients<'a>(header: &Header, r: &mut In<'a>) -> Result<Body<'a>, Malformed> {
    Ok(match (header.op, header.is_answer()) {
        (Op::Append, false) => Body::Append(Append {
            acks: r.i16("the acks of an append")?,
            batches: List::decode(r.rest())?,
        }),
        (Op::Append, true) => Body::Appended(List::decode(r.rest())?),
        (Op::Topic, false) => Body::TopicOf(r.str("a topic's name")?),
        (Op::Topic, true) => Body::Topic(Topic {
            id: TopicId(r.array("a topic's id")?),
            partitions: List::decode(r.rest())?,
        }),
        (Op::Producer, false) => Body::NewProducer,
        (Op::Producer, true) => Body::Producer(Producer {
            id: r.i64("a producer's id")?,
            epoch: r.i16("a producer's epoch")?,
        }),
        (Op::Unsubscribe, _) => Body::Unsubscribe,
        (Op::Commit, false) => Body::Commit(of_group(r)?),
        (Op::Commit, true) => Body::Kept(List::decode(r.rest())?),
        (Op::Offsets, false) => Body::OffsetsOf(of_group(r)?),
        (Op::Offsets, true) => Body::Offsets(List::decode(r.rest())?),
        (Op::Find, false) => Body::Find(find(r)?),
        (Op::Find, true) => Body::Place(Place {
            node: r.i32("a node")?,
            epoch: r.i32("a leader epoch")?,
            address: r.str("an address")?,
        }),
        _ => return Err(Malformed::Op(header.op as u8)),
    })
}

fn put_of_clients<'a>(body: &Body<'a>, out: &mut Vec<u8>) -> &'a [u8] {
    match *body {
        Body::Append(append) => {
            out.extend_from_slice(&append.acks.to_le_bytes());
            return append.batches.bytes();
        }
        Body::Appended(list) => return list.bytes(),
        Body::TopicOf(name) => put_str(out, name),
        Body::Topic(topic) => {
            out.extend_from_slice(&topic.id.0);
            return topic.partitions.bytes();
        }
        Body::Producer(producer) => {
            out.extend_from_slice(&producer.id.to_le_bytes());
            out.extend_from_slice(&producer.epoch.to_le_bytes());
        }
        Body::Commit(OfGroup { group, items }) => {
            put_str(out, group);
            return items.bytes();
        }
        Body::OffsetsOf(OfGroup { group, items }) => {
            put_str(out, group);
            return items.bytes();
        }
        Body::Kept(list) => return list.bytes(),
        Body::Offsets(list) => return list.bytes(),
        Body::Find(ref what) => put_find(out, what),
        Body::Place(place) => {
            out.extend_from_slice(&place.node.to_le_bytes());
            out.extend_from_slice(&place.epoch.to_le_bytes());
            put_str(out, place.address);
        }
        _ => {}
    }
    &[]
}

impl<'a> Failure<'a> {
    /// A failure with a code.
    pub fn new(code: ErrorCode, text: &'a str) -> Failure<'a> {
        Failure {
            code: code.code(),
            epoch: -1,
            text,
        }
    }
}

fn put_hello(out: &mut Vec<u8>, hello: &Hello<'_>) {
    out.extend_from_slice(&[hello.versions.0, hello.versions.1]);
    out.extend_from_slice(&hello.node.0.to_le_bytes());
    out.extend_from_slice(&hello.incarnation);
    out.extend_from_slice(&hello.directory);
    put_str(out, hello.cluster);
    put_str(out, hello.name);
}

fn hello<'a>(r: &mut In<'a>) -> Result<Body<'a>, Malformed> {
    let versions = (r.u8("a version")?, r.u8("a version")?);
    if versions.0 > versions.1 {
        return Err(Malformed::Body("a range of versions"));
    }
    Ok(Body::Hello(Hello {
        versions,
        node: node(r)?,
        incarnation: r.array("an incarnation")?,
        directory: r.array("a directory's id")?,
        cluster: r.str("a cluster's id")?,
        name: r.str("a name")?,
    }))
}

fn put_welcome(out: &mut Vec<u8>, welcome: &Welcome<'_>) {
    out.push(welcome.version);
    out.extend_from_slice(&welcome.node.0.to_le_bytes());
    out.extend_from_slice(&welcome.payload_bytes_max.to_le_bytes());
    put_str(out, welcome.cluster);
    put_str(out, welcome.mechanisms);
}

fn welcome<'a>(r: &mut In<'a>) -> Result<Body<'a>, Malformed> {
    Ok(Body::Welcome(Welcome {
        version: r.u8("a version")?,
        node: node(r)?,
        payload_bytes_max: r.u32("the longest payload")?,
        cluster: r.str("a cluster's id")?,
        mechanisms: r.str("ways to authenticate")?,
    }))
}

fn subscribe<'a>(r: &mut In<'a>) -> Result<Body<'a>, Malformed> {
    Ok(Body::Subscribe(Subscribe {
        partition: partition(r)?,
        session: session(r)?,
        from: match r.i64("where a subscription begins")? {
            from @ EARLIEST.. => from,
            _ => return Err(Malformed::Body("where a subscription begins")),
        },
        last_epoch: r.i32("a last epoch")?,
        durable: match r.i64("what is durable")? {
            durable @ -1.. => durable,
            _ => return Err(Malformed::Body("what is durable")),
        },
        credit: r.u64("a credit")?,
        committed: match r.u8("what a subscription is of")? {
            0 => false,
            1 => true,
            _ => return Err(Malformed::Body("what a subscription is of")),
        },
    }))
}

fn of_group<'a, T: Item<'a>>(r: &mut In<'a>) -> Result<OfGroup<'a, T>, Malformed> {
    Ok(OfGroup {
        group: r.str("a group's name")?,
        items: List::decode(r.rest())?,
    })
}

fn node(r: &mut In<'_>) -> Result<NodeId, Malformed> {
    match r.i32("a node's id")? {
        id @ -1.. => Ok(NodeId(id)),
        _ => Err(Malformed::Body("a node's id")),
    }
}

fn offset(r: &mut In<'_>, what: &'static str) -> Result<Offset, Malformed> {
    match r.i64(what)? {
        offset @ 0.. => Ok(offset),
        _ => Err(Malformed::Body(what)),
    }
}

fn session(r: &mut In<'_>) -> Result<(i64, u64), Malformed> {
    Ok((r.i64("a subscription")?, r.u64("a subscription")?))
}

fn put_session(out: &mut Vec<u8>, session: (i64, u64)) {
    out.extend_from_slice(&session.0.to_le_bytes());
    out.extend_from_slice(&session.1.to_le_bytes());
}

pub(super) fn partition(r: &mut In<'_>) -> Result<Partition, Malformed> {
    let topic = TopicId(r.array("a topic's id")?);
    let index = index(r)?;
    let epoch = r.i32("a leader epoch")?;
    Ok(Partition {
        topic,
        index,
        epoch,
    })
}

fn index(r: &mut In<'_>) -> Result<i32, Malformed> {
    match r.i32("a partition's index")? {
        index @ 0.. => Ok(index),
        _ => Err(Malformed::Body("a partition's index")),
    }
}

pub(super) fn put_partition(out: &mut Vec<u8>, partition: Partition) {
    out.extend_from_slice(&partition.topic.0);
    out.extend_from_slice(&partition.index.to_le_bytes());
    out.extend_from_slice(&partition.epoch.to_le_bytes());
}
