//! The native protocol, as clients speak it: one task reads frames, one sends, and each
//! subscription has one of its own. `net/wire/PROTOCOL.md` says what is spoken.
//!
//! Invariants: the memory of a frame is reserved before it is read, and so is that of what is
//! pushed; requests are taken in the order in which they come; what is not understood is told, and
//! ends the connection.

mod append;
mod find;
mod groups;
mod node;
mod outbox;
pub mod peers;
mod subscribe;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_lite::future;
use streamd_io::local::{Budget, Permit};
use streamd_io::{Class, Stream as Socket};
use streamd_model::{ErrorCode, Map, NodeId};
use streamd_shard::Refusal;
use streamd_wire::native::{
    Body, FLAG_ANSWER, Failure, HEADER_BYTES, HELLO_BYTES_MAX, Header, Hello, Leader, List,
    Malformed, Op, PAYLOAD_BYTES_MAX, Producer, Topic, VERSION, Welcome,
};

use crate::broker::Broker;
use crate::conn::{Hangup, Life};
use crate::frames::{Frames, Shape};
use crate::kafka::cluster::next_producer_id;
use crate::kafka::places::View;
use outbox::Outbox;
use peers::Links;

/// The beginning of a connection that says which shard it asks for, bytes.
pub const HELLO_HEAD: usize = HEADER_BYTES;
/// The node that clients say they are.
const CLIENT: NodeId = NodeId(-1);
/// Answers that may be owed on one connection; then no more is read from it.
const OWED_MAX: usize = 256;
/// Bytes of records that wait to be sent on one connection, unless one batch is larger.
const PUSHES_MAX: usize = 4 << 20;
/// How long a peer that is told why its connection ends may take to read that.
const FAREWELL: Duration = Duration::from_secs(5);

/// A connection.
pub struct Conn {
    broker: Rc<Broker>,
    out: Outbox,
    streams: RefCell<Map<u32, subscribe::Stream>>,
    pushes: Budget,
}

/// Serves a connection until either side ends it.
pub async fn serve(broker: Rc<Broker>, socket: Socket) {
    let (read, write) = socket.split();
    let env = broker.shard.env.clone();
    let life = Rc::new(Life::new(env.now()));
    let key = broker.register(life.clone());
    let conn = Rc::new(Conn {
        broker: broker.clone(),
        out: Outbox::default(),
        streams: RefCell::default(),
        pushes: Budget::new(PUSHES_MAX),
    });
    let sender = {
        let (conn, life, env_) = (conn.clone(), life.clone(), env.clone());
        let send = async move { conn.out.send_all(write, &life, &env_).await };
        env.spawn(Class::Latency, send)
    };
    let budget = (&broker.requests, HELLO_BYTES_MAX as usize);
    let mut frames = Frames::new(read, &env, Shape::Native, budget, &life);
    let served = async {
        let ended = async {
            conn.out.ended().await;
            Ok(())
        };
        let read = future::or(read_loop(&conn, &mut frames), ended).await;
        conn.streams.borrow_mut().clear();
        match read {
            Ok(()) | Err(Hangup::Gone) => {
                // What was accepted is still answered, unless the peer is gone.
                conn.out.at_most(0).await;
                conn.out.close();
                sender.await;
            }
            Err(why) => {
                broker.complain(&why);
                farewell(&conn, &why);
                conn.out.close();
                future::or(sender, env.sleep(FAREWELL)).await;
            }
        }
    };
    future::or(served, life.kill.wait()).await;
    // They hold the connection, and the connection them.
    conn.streams.borrow_mut().clear();
    conn.out.end();
    broker.lives.borrow_mut().remove(&key);
}

/// The number of the shard that a connection asks for, modulo those that there are. `head`: how it
/// begins, as far as that has come.
pub fn wanted_shard(head: &[u8]) -> Option<usize> {
    let header = Header::decode(head.first_chunk()?, HELLO_BYTES_MAX).ok()?;
    let shard = header.stream.checked_sub(1)?;
    (header.op == Op::Hello).then_some(shard as usize)
}

/// Tells a peer why its connection ends.
fn farewell(conn: &Conn, why: &Hangup) {
    let (code, text) = match why {
        Hangup::Gone => return,
        Hangup::Bad(text) => (ErrorCode::InvalidRequest, text.clone()),
        Hangup::Malformed(what @ Malformed::Version(_)) => {
            (ErrorCode::UnsupportedVersion, what.to_string())
        }
        Hangup::Malformed(what) => (ErrorCode::InvalidRequest, what.to_string()),
    };
    let failure = Body::Error(Failure::new(code, &text));
    conn.out
        .push(outbox::frame((0, 0, 0), &failure), Vec::new());
}

async fn read_loop(conn: &Rc<Conn>, frames: &mut Frames) -> Result<(), Hangup> {
    let Some((bytes, permits)) = frames.next().await? else {
        return Ok(());
    };
    drop(permits);
    let (header, body) = parse(&bytes)?;
    let Body::Hello(hello) = body else {
        return Err(Hangup::Bad("the first frame was not Hello".to_owned()));
    };
    let max = conn
        .broker
        .request_bytes_max
        .min(PAYLOAD_BYTES_MAX as usize);
    let links = conn.broker.links.get().filter(|_| hello.node != CLIENT);
    // A node has to get through whatever a client may ask for.
    let max = match links {
        Some(_) => PAYLOAD_BYTES_MAX as usize,
        None => max,
    };
    if let Err(refusal) = greet(conn, &hello, links) {
        conn.out.refuse((0, header.correlation, 0), &refusal);
        return Ok(());
    }
    if hello.node == CLIENT {
        conn.broker.shard.opened().await;
    }
    welcome(conn, header.correlation, max);
    frames.set_max(max);
    if let Some(links) = links {
        return node::hear(conn, links, frames, node::Who::says(&hello)).await;
    }
    while let Some((bytes, permits)) = frames.next().await? {
        if !conn.out.at_most(OWED_MAX).await {
            return Ok(());
        }
        take(conn, &bytes, permits).await?;
    }
    Ok(())
}

fn parse(bytes: &Bytes) -> Result<(Header, Body<'_>), Hangup> {
    let (head, payload) = bytes
        .split_first_chunk::<HEADER_BYTES>()
        .ok_or(Hangup::Gone)?;
    let header = Header::decode(head, u32::MAX).map_err(Hangup::Malformed)?;
    let body = Body::decode(&header, payload).map_err(Hangup::Malformed)?;
    Ok((header, body))
}

/// Whether who says this Hello is welcome. `links`: if it is a node, and nodes may be.
fn greet(conn: &Conn, hello: &Hello<'_>, links: Option<&Rc<Links>>) -> Result<(), Refusal> {
    let identity = &conn.broker.identity;
    let (lowest, highest) = hello.versions;
    if !(lowest..=highest).contains(&VERSION) {
        let text = format!("versions {lowest} to {highest} are offered; {VERSION} is spoken here");
        return Err(Refusal::new(ErrorCode::UnsupportedVersion, text));
    }
    if !hello.cluster.is_empty() && hello.cluster != identity.cluster_id {
        let text = format!(
            "cluster {:?} is asked for, but this is {:?}: is the address right?",
            hello.cluster, identity.cluster_id
        );
        return Err(Refusal::new(ErrorCode::InconsistentClusterId, text));
    }
    match links {
        _ if hello.node == CLIENT => Ok(()),
        Some(links) => links.book().greet(hello),
        None => {
            let text = format!("node {} is not known here: clients say -1", hello.node.0);
            Err(Refusal::new(ErrorCode::InvalidRequest, text))
        }
    }
}

/// Answers a Hello; `max` is the longest payload that is taken.
fn welcome(conn: &Conn, correlation: u64, max: usize) {
    let identity = &conn.broker.identity;
    let welcome = Welcome {
        version: VERSION,
        node: NodeId(identity.node_id),
        payload_bytes_max: max as u32,
        cluster: &identity.cluster_id,
        mechanisms: "",
    };
    let ids = (0, correlation, FLAG_ANSWER);
    conn.out.say(ids, &Body::Welcome(welcome));
}

/// Does what a frame asks.
async fn take(conn: &Rc<Conn>, bytes: &Bytes, permits: Vec<Permit>) -> Result<(), Hangup> {
    let (header, body) = parse(bytes)?;
    if header.is_answer() {
        return Err(unasked(header.op));
    }
    let (stream, correlation) = (header.stream, header.correlation);
    let ids = (stream, correlation, FLAG_ANSWER);
    match &body {
        Body::Append(ask) => append::accept(conn, &header, ask, bytes, permits).await,
        Body::Subscribe(ask) => subscribe::begin(conn, (stream, correlation), ask),
        Body::Credit(credit) => subscribe::credit(conn, stream, credit.taken),
        Body::Unsubscribe => {
            // What is on its way already comes before the answer.
            conn.streams.borrow_mut().remove(&stream);
            conn.out.say(ids, &Body::Unsubscribe);
        }
        Body::Ping => conn.out.say(ids, &Body::Ping),
        Body::TopicOf(name) => match topic(conn, name) {
            Ok((id, leaders)) => {
                let partitions = List::decode(&leaders).map_err(Hangup::Malformed)?;
                conn.out.say(ids, &Body::Topic(Topic { id, partitions }));
            }
            Err(refusal) => conn.out.refuse(ids, &refusal),
        },
        Body::NewProducer => match next_producer_id(&conn.broker).await {
            Ok(id) => conn
                .out
                .say(ids, &Body::Producer(Producer { id, epoch: 0 })),
            Err(code) => conn.out.refuse(ids, &Refusal::new(code, code.message())),
        },
        Body::Commit(ask) => groups::commit(conn, ids, ask).await,
        Body::OffsetsOf(ask) => groups::offsets(conn, ids, ask).await,
        Body::Find(what) => find::find(conn, ids, what).await,
        _ => return Err(unasked(header.op)),
    }
    Ok(())
}

/// What a client may not say.
fn unasked(op: Op) -> Hangup {
    Hangup::Bad(format!("{op:?} is not for a client to say here"))
}

/// A topic's id, and the list of who leads its partitions.
fn topic(conn: &Conn, name: &str) -> Result<(streamd_model::TopicId, Vec<u8>), Refusal> {
    let view = View::of(&conn.broker);
    let topic = view.image.topic(name).ok_or_else(|| {
        let text = format!("no topic named {name:?}");
        Refusal::new(ErrorCode::UnknownTopicOrPartition, text)
    })?;
    let leader = |index| {
        let place = view.partition(topic.id, index);
        Leader {
            node: place.leader,
            epoch: place.epoch,
        }
    };
    Ok((topic.id, List::encode((0..topic.partitions).map(leader))))
}
