//! The native protocol as clients speak it: frames over a connection of the simulator, to a broker
//! of two shards.

mod appends;
mod handshake;
mod hostile;
mod nodes;
mod streams;

use std::rc::Rc;

use bytes::Bytes;
use streamd_io::{Class, Part, ReadHalf, WriteHalf};
use streamd_log::BatchHeader;
use streamd_log::batch::{NewRecord, Writer, build};
use streamd_model::{NodeId, Offset, TopicId};
use streamd_wire::native::*;

use super::serve;
use crate::broker::Broker;
use crate::kafka::tests::{create, with_broker};

const NOBODY: Writer = Writer {
    id: -1,
    epoch: -1,
    sequence: -1,
};

/// A client's connection.
struct Peer {
    read: ReadHalf,
    write: WriteHalf,
    got: Vec<u8>,
    last: u64,
}

/// A frame that came.
struct Came {
    header: Header,
    payload: Vec<u8>,
}

impl Came {
    fn body(&self) -> Body<'_> {
        Body::decode(&self.header, &self.payload).expect("a body that can be read")
    }

    fn code(&self) -> i16 {
        match self.body() {
            Body::Error(failure) => failure.code,
            other => panic!("no error: {other:?}"),
        }
    }
}

fn hello() -> Hello<'static> {
    Hello {
        versions: (1, 1),
        node: NodeId(-1),
        incarnation: [0; 16],
        directory: [0; 16],
        cluster: "",
        name: "test",
    }
}

impl Peer {
    /// Connects, and says nothing yet.
    async fn dial(broker: &Rc<Broker>) -> Peer {
        let env = broker.shard.env.clone();
        let listener = env.listen("10.0.0.1:0".parse().unwrap()).await.unwrap();
        let socket = env.connect(listener.local_addr().unwrap()).await.unwrap();
        let stream = env.adopt(listener.accept().await.unwrap()).unwrap();
        env.spawn(Class::Latency, serve(broker.clone(), stream))
            .detach();
        let (read, write) = socket.split();
        Peer {
            read,
            write,
            got: Vec::new(),
            last: 0,
        }
    }

    /// Connects and is welcome.
    async fn connect(broker: &Rc<Broker>) -> Peer {
        let mut peer = Peer::dial(broker).await;
        let came = peer.ask(0, &Body::Hello(hello())).await;
        assert!(matches!(came.body(), Body::Welcome(_)), "{:?}", came.body());
        peer
    }

    async fn send_raw(&mut self, bytes: Vec<u8>) {
        let _ = self.write.send(vec![Part::Bytes(Bytes::from(bytes))]).await;
    }

    async fn send(&mut self, stream: u32, body: &Body<'_>) -> u64 {
        self.last += 1;
        let mut out = Vec::new();
        let tail = body.encode((stream, self.last, 0), &mut out);
        out.extend_from_slice(tail);
        self.send_raw(out).await;
        self.last
    }

    /// The next frame; `None` at the end.
    async fn next(&mut self) -> Option<Came> {
        loop {
            if let Some(head) = self.got.first_chunk::<HEADER_BYTES>() {
                let header = Header::decode(head, u32::MAX).expect("a header");
                let end = HEADER_BYTES + header.length as usize;
                if self.got.len() >= end {
                    let payload = self.got[HEADER_BYTES..end].to_vec();
                    self.got.drain(..end);
                    return Some(Came { header, payload });
                }
            }
            let mut buf = vec![0; 64 << 10];
            match self.read.read(&mut buf).await {
                Ok(n) if n > 0 => self.got.extend_from_slice(&buf[..n]),
                _ => return None,
            }
        }
    }

    /// The answer to what is asked; nothing else may come before it.
    async fn ask(&mut self, stream: u32, body: &Body<'_>) -> Came {
        let id = self.send(stream, body).await;
        let came = self.next().await.expect("an answer");
        assert_eq!(came.header.correlation, id, "{:?}", came.body());
        assert!(came.header.is_answer());
        came
    }

    async fn topic(&mut self, name: &str) -> TopicId {
        match self.ask(0, &Body::TopicOf(name)).await.body() {
            Body::Topic(topic) => topic.id,
            other => panic!("{other:?}"),
        }
    }

    async fn append(&mut self, batches: &[(Partition, Vec<u8>)]) -> Vec<(i16, Offset)> {
        let list = batches_of(batches);
        let append = Append {
            acks: -1,
            batches: List::decode(&list).unwrap(),
        };
        match self.ask(0, &Body::Append(append)).await.body() {
            Body::Appended(list) => list.iter().map(|a| (a.code, a.base)).collect(),
            other => panic!("{other:?}"),
        }
    }

    async fn subscribe(&mut self, stream: u32, ask: Subscribe) -> Subscribed {
        match self.ask(stream, &Body::Subscribe(ask)).await.body() {
            Body::Subscribed(subscribed) => subscribed,
            other => panic!("{other:?}"),
        }
    }

    /// The next frame of records: its stream, where it begins, the bytes of its records.
    async fn data(&mut self) -> (u32, Offset, Vec<u8>) {
        let came = self.next().await.expect("records");
        match came.body() {
            Body::Data(data) => (came.header.stream, data.base, data.records.to_vec()),
            other => panic!("{other:?}"),
        }
    }
}

fn batches_of(batches: &[(Partition, Vec<u8>)]) -> Vec<u8> {
    List::encode(batches.iter().map(|(partition, records)| Batch {
        partition: *partition,
        records,
    }))
}

fn partition(topic: TopicId, index: i32) -> Partition {
    Partition {
        topic,
        index,
        epoch: -1,
    }
}

fn from(partition: Partition, from: Offset, credit: u64) -> Subscribe {
    Subscribe {
        partition,
        session: (0, 0),
        from,
        last_epoch: -1,
        durable: -1,
        credit,
        committed: false,
    }
}

/// A batch of `count` records of now, each of so many bytes.
fn batch(broker: &Broker, count: usize, bytes: usize) -> Vec<u8> {
    let value = vec![7; bytes];
    let record = NewRecord {
        timestamp: broker.shard.env.wall_ms(),
        key: None,
        value: Some(&value),
    };
    build(&vec![record; count], NOBODY)
}

/// First and next offset of each batch of these, which must be whole.
fn walk(mut records: &[u8]) -> Vec<(Offset, Offset)> {
    let mut out = Vec::new();
    while !records.is_empty() {
        let header = BatchHeader::parse(records).expect("a batch");
        out.push((header.base_offset, header.next_offset()));
        records = records.get(header.size..).expect("a whole batch");
    }
    out
}
