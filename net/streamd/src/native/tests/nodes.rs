//! What other nodes say to a broker and hear from it, good ones and such that should not.

use std::time::Duration;

use streamd_core::control::{Answer, Ask};
use streamd_core::meta::{Endpoint, Local, Registration};
use streamd_core::repl::{Head, Message};
use streamd_io::{Env, Listener, Stream as Socket};
use streamd_model::PartitionId;
use streamd_shard::{Packet, Peers, Records};

use super::*;
use crate::broker::NATIVE;
use crate::native::peers::book::Book;
use crate::native::peers::{Links, decode, frame};

const OTHER: NodeId = NodeId(3);
const PLACE: &str = "10.0.0.3:9193";

/// A broker that listens for nodes.
fn with_nodes<F, Fut>(test: F)
where
    F: FnOnce(Rc<Broker>, Rc<Links>) -> Fut + 'static,
    Fut: Future<Output = ()> + 'static,
{
    with_broker(&[], |broker| async move {
        let local = Local {
            node: NodeId(broker.identity.node_id),
            configs: Default::default(),
        };
        let book = Book::new(broker.identity.clone(), local, Vec::new());
        let links = Links::new(&broker.shard, book);
        assert!(broker.links.set(links.clone()).is_ok());
        test(broker, links).await;
    });
}

fn node(broker: &Broker) -> Hello<'_> {
    Hello {
        node: OTHER,
        directory: [3; 16],
        cluster: &broker.identity.cluster_id,
        name: PLACE,
        ..hello()
    }
}

async fn says(broker: &Rc<Broker>, hello: Hello<'_>) -> (Peer, Came) {
    let mut peer = Peer::dial(broker).await;
    let came = peer.ask(0, &Body::Hello(hello)).await;
    (peer, came)
}

async fn register(broker: &Rc<Broker>, links: &Rc<Links>) -> i64 {
    let told = Registration {
        node: OTHER,
        incarnation: [1; 16],
        directory: [3; 16],
        rack: None,
        endpoints: vec![Endpoint {
            name: NATIVE.to_owned(),
            host: "10.0.0.3".to_owned(),
            port: 9193,
        }],
        features: (0, 1),
    };
    let (answer, image) = broker.shard.decide(Ask::Register(told)).await.unwrap();
    links.learn(&image, true);
    match answer {
        Answer::Registered { epoch } => epoch,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_node_is_who_it_says() {
    with_nodes(|broker, links| async move {
        let good = node(&broker);
        let me = Hello {
            node: NodeId(broker.identity.node_id),
            ..good
        };
        assert_eq!(says(&broker, me).await.1.code(), 119);
        let elsewhere = Hello {
            cluster: "another",
            ..good
        };
        assert_eq!(says(&broker, elsewhere).await.1.code(), 104);
        // Nobody knows it yet, and it knows no cluster yet: it may join.
        for cluster in ["", good.cluster] {
            let came = says(&broker, Hello { cluster, ..good }).await.1;
            assert!(matches!(came.body(), Body::Welcome(_)));
        }
        register(&broker, &links).await;
        let wiped = Hello {
            directory: [4; 16],
            ..good
        };
        let came = says(&broker, wiped).await.1;
        let Body::Error(failure) = came.body() else {
            panic!("{:?}", came.body())
        };
        assert_eq!(failure.code, 119);
        assert!(failure.text.contains("was wiped"), "{}", failure.text);
        let (mut peer, came) = says(&broker, good).await;
        assert!(matches!(came.body(), Body::Welcome(_)));
        assert_eq!(peer.ask(0, &Body::Ping).await.body(), Body::Ping);
        // What clients say is not for a node.
        peer.send(0, &Body::TopicOf("t")).await;
        assert_eq!(peer.next().await.unwrap().code(), 42);
        assert!(peer.next().await.is_none());
    });
}

#[test]
fn nonsense_of_a_node_ends_its_connection_and_nothing_else() {
    with_nodes(|broker, _| async move {
        let env = broker.shard.env.clone();
        let id = PartitionId {
            topic: TopicId([9; 16]),
            index: 1,
        };
        let head = Head {
            epoch: 3,
            session: (4, 5),
            base: 6,
            high: 7,
            start: 1,
        };
        let (mut refused, mut taken) = (0, 0);
        for round in 0..400u64 {
            let (mut peer, _) = says(&broker, node(&broker)).await;
            let packet = match round % 4 {
                0 => Packet::Raft(vec![7; 40]),
                1 => Packet::Ask {
                    token: 1,
                    hops: 0,
                    ask: Ask::Unregister(NodeId(77)),
                },
                2 => Packet::Replica(id, Message::Data(head)),
                _ => Packet::Data(Records {
                    partition: id,
                    head,
                    parts: vec![Part::Bytes(batch(&broker, 2, 30).into())],
                }),
            };
            let mut bytes = frame(packet).to_vec();
            for _ in 0..env.random_u64() % 3 {
                let at = env.random_u64() as usize % bytes.len();
                bytes[at] = env.random_u64() as u8;
            }
            if env.random_u64() % 4 > 0 {
                // What is behind a header that is right.
                bytes[..5].copy_from_slice(b"STRM\x01");
                let length = (bytes.len() - HEADER_BYTES) as u32;
                bytes[20..24].copy_from_slice(&length.to_le_bytes());
                let crc = hostile::crc(&bytes[..28]);
                bytes[28..32].copy_from_slice(&crc.to_le_bytes());
            }
            peer.send_raw(bytes).await;
            peer.send(0, &Body::Ping).await;
            let late = async {
                env.sleep(Duration::from_secs(20)).await;
                None
            };
            match futures_lite::future::or(peer.next(), late).await {
                Some(came) if matches!(came.body(), Body::Ping) => taken += 1,
                _ => refused += 1,
            }
        }
        assert!(taken > 50 && refused > 50, "{taken} taken, {refused} not");
        assert_eq!(broker.requests.used(), 0);
        Peer::connect(&broker).await;
    });
}

/// The other node, to which the broker connects.
async fn accept(env: &Env, listener: &Listener) -> Peer {
    let socket: Socket = env.adopt(listener.accept().await.unwrap()).unwrap();
    let (read, write) = socket.split();
    Peer {
        read,
        write,
        got: Vec::new(),
        last: 0,
    }
}

async fn welcome(env: &Env, listener: &Listener, cluster: &str) -> Peer {
    let mut peer = accept(env, listener).await;
    let came = peer.next().await.unwrap();
    assert!(matches!(came.body(), Body::Hello(h) if h.node == NodeId(1) && h.cluster == cluster));
    let welcome = Welcome {
        version: VERSION,
        node: OTHER,
        payload_bytes_max: 1 << 20,
        cluster,
        mechanisms: "",
    };
    let mut out = Vec::new();
    Body::Welcome(welcome).encode((0, 1, FLAG_ANSWER), &mut out);
    peer.send_raw(out).await;
    peer
}

/// The next packet, answering pings while they are wanted.
async fn packet(peer: &mut Peer, pongs: impl Fn() -> bool) -> Option<Packet> {
    loop {
        let came = peer.next().await?;
        let mut frame = came.header.encode().to_vec();
        frame.extend_from_slice(&came.payload);
        match decode(&frame.into(), &came.header, &came.body()).unwrap() {
            Some(packet) => return Some(packet),
            None if pongs() => {
                let mut out = Vec::new();
                Body::Ping.encode((0, 1, FLAG_ANSWER), &mut out);
                peer.send_raw(out).await;
            }
            None => {}
        }
    }
}

#[test]
fn what_is_said_to_a_node_comes_in_order_and_a_silent_node_is_given_up() {
    with_nodes(|broker, links| async move {
        let env = broker.shard.env.clone();
        let cluster = broker.identity.cluster_id.clone();
        let listener = env.listen(PLACE.parse().unwrap()).await.unwrap();
        register(&broker, &links).await;
        let say = |n: u32| links.send(OTHER, Packet::Raft(n.to_le_bytes().to_vec()), None);
        (0..100).for_each(say);
        let mut peer = welcome(&env, &listener, &cluster).await;
        for n in 0..100u32 {
            match packet(&mut peer, || true).await {
                Some(Packet::Raft(bytes)) => assert_eq!(bytes, n.to_le_bytes()),
                _ => panic!("packet {n} is missing"),
            }
        }
        // One that answers pings stays, and one that does not is given up.
        let room = links.room(OTHER, 1 << 20).await;
        assert!(room.is_some());
        let begun = env.now();
        let pongs = || env.now() - begun < Duration::from_secs(10);
        assert!(packet(&mut peer, pongs).await.is_none());
        let took = env.now() - begun;
        assert!(took > Duration::from_secs(10), "{took:?}");
        assert!(took < Duration::from_secs(18), "{took:?}");
        drop(peer);
        // It comes back, and what is said then arrives, nothing of before.
        (200..210).for_each(say);
        let mut peer = welcome(&env, &listener, &cluster).await;
        match packet(&mut peer, || true).await {
            Some(Packet::Raft(bytes)) => assert_eq!(bytes, 200u32.to_le_bytes()),
            _ => panic!("nothing came"),
        }
        // It takes no more, and what waits is bounded: nobody waits to say something.
        for _ in 0..4_000 {
            links.send(OTHER, Packet::Raft(vec![1; 10_000]), None);
        }
        drop(room);
        drop(listener);
        env.sleep(Duration::from_secs(10)).await;
        assert!(links.room(OTHER, 10).await.is_none(), "it is gone");
    });
}
